//! Huawei's receipts, signed where a secret is agreed (developer.huawei.com, msg-receipt-guide and https-send-receipt-api).

use super::super::certificate::Certificate;
use super::super::receipt::{Event, Incoming, Receipt, Refused, statuses};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use std::collections::HashMap;

pub(super) fn read(incoming: &Incoming<'_>) -> Option<Vec<Receipt>> {
    statuses(&incoming.body, event)
}

/// How far a signed time may be from our clock, in milliseconds.
const SKEW_MS: u64 = 300_000;

/// Header `timestamp=..; nonce=..; value=..`, value = Base64(HMAC-SHA256(secret, timestamp + nonce +
/// user)) (Huawei, https-send-receipt-api): the body is not signed, so a value is for one body alone. Asked for
/// where the certificate has a secret for it.
pub(super) fn prove(certificate: &Certificate, incoming: &Incoming<'_>) -> Result<Option<String>, Refused> {
    let Some(secret) = certificate.field("callback_secret") else { return Ok(None) };
    let parts: HashMap<&str, &str> =
        incoming.proof.unwrap_or_default().split(';').filter_map(|part| part.trim().split_once('=')).collect();
    let part = |name: &str| parts.get(name).copied().unwrap_or_default();
    let user = certificate.field("callback_user").unwrap_or_default();
    let signed = format!("{}{}{user}", part("timestamp"), part("nonce"));
    let value = STANDARD.decode(part("value")).map_err(|_| Refused::Signature)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::verify(&key, signed.as_bytes(), &value).map_err(|_| Refused::Signature)?;
    // The page does not name the unit: no time of today in seconds is one in milliseconds.
    let at: u64 = part("timestamp").parse().map_err(|_| Refused::Time)?;
    let at_ms = if at < 100_000_000_000 { at * 1000 } else { at };
    if at_ms.abs_diff(incoming.now_ms) > SKEW_MS {
        return Err(Refused::Time);
    }
    // Timestamp and nonce may be split elsewhere and mean the same.
    Ok(Some(part("value").to_owned()))
}

/// msg-receipt-guide-0000001050040176.
fn event(status: i64) -> Event {
    match status {
        0 => Event::Arrived,
        2 | 5 => Event::Dead,
        6 | 10 | 201 => Event::Off,
        102 | 256 => Event::Limited,
        _ => Event::Dropped,
    }
}
