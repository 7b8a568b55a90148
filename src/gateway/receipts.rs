//! Vendors' receipts: what happened to a notification after the vendor had taken it, in one shape.
//! Shapes and codes: each vendor's receipt page, as cited at its arm.

use super::certificate::Certificate;
use crate::secret::hex;
use crate::vendor::Vendor;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::{Map, Value as Json};
use std::collections::HashMap;

/// What a receipt says of one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Arrived,
    Clicked,
    /// The token will never work again.
    Dead,
    /// The user switched notifications off, or the device was away too long: not now.
    Off,
    /// The device has had its share of today.
    Limited,
    /// It was not shown for another reason.
    Dropped,
}

impl Event {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Arrived => "arrived",
            Self::Clicked => "clicked",
            Self::Dead => "token_dead",
            Self::Off => "switched_off",
            Self::Limited => "limited",
            Self::Dropped => "dropped",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub token: String,
    pub event: Event,
    /// The vendor's word.
    pub code: String,
    /// Our own text, as it was sent.
    pub param: String,
}

/// What came in: the header with the proof, and the body as form or JSON.
#[derive(Debug)]
pub struct Incoming<'a> {
    pub callback_id: Option<&'a str>,
    pub form: HashMap<String, String>,
    pub body: Json,
}

/// Why a receipt is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the receipt is not signed as this certificate's callback_user and callback_secret ask")]
    Signature,
    #[error("the receipt's access_token is not this certificate's callback_token")]
    AccessToken,
    #[error("the receipt is not in {0}'s form")]
    Form(Vendor),
}

/// Reads a vendor's receipts.
///
/// # Errors
/// [`Refused`].
pub fn read(certificate: &Certificate, incoming: &Incoming<'_>) -> Result<Vec<Receipt>, Refused> {
    let vendor = certificate.vendor;
    let receipts = match vendor {
        Vendor::Xiaomi => xiaomi(incoming),
        Vendor::Huawei => {
            prove_huawei(certificate, incoming.callback_id)?;
            statuses(&incoming.body, huawei_event)
        }
        Vendor::Honor => statuses(&incoming.body, honor_event),
        Vendor::Oppo => oppo(&incoming.body),
        Vendor::Vivo => vivo(&incoming.body),
        Vendor::Meizu => {
            let wanted = certificate.field("callback_token");
            if wanted.is_some() && incoming.form.get("access_token") != wanted.as_ref() {
                return Err(Refused::AccessToken);
            }
            meizu(incoming)
        }
        // Apple sends none.
        Vendor::Apns => None,
    };
    receipts.ok_or(Refused::Form(vendor))
}

/// Header `timestamp=..; nonce=..; value=..`, value = Base64(HMAC-SHA256(secret, timestamp + nonce +
/// user)) (Huawei, https-send-receipt-api). Asked for where the certificate has a secret for it.
fn prove_huawei(certificate: &Certificate, header: Option<&str>) -> Result<(), Refused> {
    let Some(secret) = certificate.field("callback_secret") else { return Ok(()) };
    let parts: HashMap<&str, &str> =
        header.unwrap_or_default().split(';').filter_map(|part| part.trim().split_once('=')).collect();
    let part = |name: &str| parts.get(name).copied().unwrap_or_default();
    let user = certificate.field("callback_user").unwrap_or_default();
    let signed = format!("{}{}{user}", part("timestamp"), part("nonce"));
    let value = STANDARD.decode(part("value")).map_err(|_| Refused::Signature)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::verify(&key, signed.as_bytes(), &value).map_err(|_| Refused::Signature)
}

fn text<'a>(json: &'a Json, key: &str) -> &'a str {
    json[key].as_str().unwrap_or_default()
}

/// A number, or a text that holds one.
fn number(json: &Json) -> Option<i64> {
    json.as_i64().or_else(|| json.as_str()?.parse().ok())
}

/// The same receipt for each of these tokens.
fn each<'a>(
    tokens: impl Iterator<Item = &'a str>,
    event: Event,
    code: &str,
    said: &Json,
) -> impl Iterator<Item = Receipt> {
    let (code, param) = (code.to_owned(), text(said, "param").to_owned());
    tokens.map(move |token| Receipt { token: token.to_owned(), event, code: code.clone(), param: param.clone() })
}

fn listed(tokens: &str) -> impl Iterator<Item = &str> {
    tokens.split(',').map(str::trim).filter(|token| !token.is_empty())
}

/// Form field `data`: message id to {param, type, targets, barStatus, ...} (page 1558).
fn xiaomi(incoming: &Incoming<'_>) -> Option<Vec<Receipt>> {
    let data: Map<String, Json> = serde_json::from_str(incoming.form.get("data")?).ok()?;
    let mut receipts = Vec::new();
    for said in data.values() {
        let kind = number(&said["type"])?;
        let event = match kind {
            1 => Event::Arrived,
            2 => Event::Clicked,
            16 => Event::Dead,
            32 => Event::Off,
            128 => Event::Limited,
            _ => Event::Dropped,
        };
        receipts.extend(each(listed(text(said, "targets")), event, &kind.to_string(), said));
    }
    Some(receipts)
}

/// `{statuses: [{token, biTag, status | deliveryStatus.result}]}`: Huawei's two versions and Honor.
fn statuses(body: &Json, event: fn(i64) -> Event) -> Option<Vec<Receipt>> {
    let each = |said: &Json| {
        let status = number(&said["status"]).or_else(|| number(&said["deliveryStatus"]["result"]))?;
        Some(Receipt {
            token: said["token"].as_str()?.to_owned(),
            event: event(status),
            code: status.to_string(),
            param: text(said, "biTag").to_owned(),
        })
    };
    body["statuses"].as_array()?.iter().map(each).collect()
}

/// msg-receipt-guide-0000001050040176.
fn huawei_event(status: i64) -> Event {
    match status {
        0 => Event::Arrived,
        2 | 5 => Event::Dead,
        6 | 10 | 201 => Event::Off,
        102 | 256 => Event::Limited,
        _ => Event::Dropped,
    }
}

/// The codes a public client of 2026 lists.
fn honor_event(status: i64) -> Event {
    match status {
        40_000_001 | 40_000_002 => Event::Arrived,
        40_000_007 => Event::Clicked,
        40_000_003 | 40_000_004 => Event::Dead,
        40_000_005 | 40_000_006 => Event::Off,
        40_000_009 => Event::Limited,
        _ => Event::Dropped,
    }
}

/// An array of {registrationIds, eventType, param}.
fn oppo(body: &Json) -> Option<Vec<Receipt>> {
    let mut receipts = Vec::new();
    for said in body.as_array()? {
        let kind = text(said, "eventType");
        let event = match kind {
            "push_arrive" => Event::Arrived,
            "push_click" => Event::Clicked,
            "regid_invalid" => Event::Dead,
            "user_daily_limit" | "message_night_control" => Event::Limited,
            _ => Event::Dropped,
        };
        receipts.extend(each(listed(text(said, "registrationIds")), event, kind, said));
    }
    Some(receipts)
}

/// Task id to {targets, param, ackType, subAckType}.
fn vivo(body: &Json) -> Option<Vec<Receipt>> {
    let mut receipts = Vec::new();
    for said in body.as_object()?.values() {
        let (kind, sub) = (number(&said["ackType"]).unwrap_or(0), number(&said["subAckType"]).unwrap_or(0));
        let event = match (kind, sub) {
            (0, _) => Event::Arrived,
            (102, 20_002) | (104, 2183) => Event::Dead,
            (102, 20_001 | 20_006) => Event::Off,
            (100, 11_001 | 12_000) => Event::Limited,
            _ => Event::Dropped,
        };
        receipts.extend(each(listed(text(said, "targets")), event, &format!("{kind}/{sub}"), said));
    }
    Some(receipts)
}

/// Form field `cb`: `msgId-type` to {param, type, targets[]} (PushAPI README).
fn meizu(incoming: &Incoming<'_>) -> Option<Vec<Receipt>> {
    let data: Map<String, Json> = serde_json::from_str(incoming.form.get("cb")?).ok()?;
    let mut receipts = Vec::new();
    for said in data.values() {
        let kind = number(&said["type"])?;
        let event = match kind {
            1 => Event::Arrived,
            2 => Event::Clicked,
            _ => Event::Dropped,
        };
        let targets = said["targets"].as_array().into_iter().flatten().filter_map(Json::as_str);
        receipts.extend(each(targets, event, &kind.to_string(), said));
    }
    Some(receipts)
}

/// Makes and checks what cannot be guessed: the path of a certificate's receipts and the text that
/// comes back in each.
#[derive(Debug, Clone)]
pub struct Proof {
    key: hmac::Key,
}

impl Proof {
    pub fn new(secret: &crate::secret::Secret) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes()) }
    }

    /// The last part of the path to which a certificate's receipts are sent: 24 characters.
    pub fn path(&self, app: &str, name: &str) -> String {
        self.mac(&format!("path\n{app}\n{name}"), 12)
    }

    /// Comes back with each receipt of a message: at most 50 bytes, OPPO's limit.
    pub fn param(&self, message: &str) -> String {
        format!("{message}.{}", self.mac(&format!("message\n{message}"), 5))
    }

    /// The message a text names, if it is one of ours.
    pub fn message<'a>(&self, param: &'a str) -> Option<&'a str> {
        let (message, _) = param.rsplit_once('.')?;
        (self.param(message) == param).then_some(message)
    }

    fn mac(&self, text: &str, bytes: usize) -> String {
        hex(&hmac::sign(&self.key, text.as_bytes()).as_ref()[..bytes])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use serde_json::json;

    fn certificate(vendor: Vendor, fields: Json) -> Certificate {
        Certificate::new("o#a".into(), "1#k".into(), vendor, fields)
    }

    fn of(vendor: Vendor, form: &[(&str, Json)], body: Json) -> Result<Vec<(String, Event, String)>, Refused> {
        let form = form.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect();
        let incoming = Incoming { callback_id: None, form, body };
        let receipts = read(&certificate(vendor, json!({})), &incoming)?;
        Ok(receipts.into_iter().map(|r| (r.token, r.event, r.param)).collect())
    }

    #[test]
    fn each_vendors_shape_is_read() {
        let expected = |event| vec![("t1".to_owned(), event, "p".to_owned())];
        let xiaomi = json!({"m1": {"param": "p", "type": 16, "targets": "t1"}});
        assert_eq!(of(Vendor::Xiaomi, &[("data", xiaomi)], Json::Null), Ok(expected(Event::Dead)));
        let v1 = json!({"statuses": [{"token": "t1", "biTag": "p", "status": 0}]});
        assert_eq!(of(Vendor::Huawei, &[], v1), Ok(expected(Event::Arrived)));
        let v2 = json!({"statuses": [{"token": "t1", "biTag": "p", "deliveryStatus": {"result": 6}}]});
        assert_eq!(of(Vendor::Huawei, &[], v2), Ok(expected(Event::Off)));
        let honor = json!({"statuses": [{"token": "t1", "biTag": "p", "status": "40000007"}]});
        assert_eq!(of(Vendor::Honor, &[], honor), Ok(expected(Event::Clicked)));
        let oppo = json!([{"registrationIds": "t1,", "eventType": "user_daily_limit", "param": "p"}]);
        assert_eq!(of(Vendor::Oppo, &[], oppo), Ok(expected(Event::Limited)));
        let vivo = json!({"task": {"targets": "t1", "param": "p", "ackType": "104", "subAckType": "2183"}});
        assert_eq!(of(Vendor::Vivo, &[], vivo), Ok(expected(Event::Dead)));
        let meizu = json!({"m-1": {"param": "p", "type": 1, "targets": ["t1"]}});
        assert_eq!(of(Vendor::Meizu, &[("cb", meizu)], Json::Null), Ok(expected(Event::Arrived)));
    }

    #[test]
    fn what_is_not_in_the_vendors_form_is_refused() {
        for vendor in Vendor::ORDER {
            assert_eq!(of(vendor, &[], json!("text")), Err(Refused::Form(vendor)));
        }
        assert!(of(Vendor::Huawei, &[], json!({"statuses": [{"token": 7}]})).is_err());
    }

    #[test]
    fn a_receipt_of_huaweis_must_be_signed_where_a_secret_is_agreed() {
        let certificate = certificate(Vendor::Huawei, json!({"callback_user": "u", "callback_secret": "s"}));
        let signed = |secret: &str| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            let value = STANDARD.encode(hmac::sign(&key, b"17nu"));
            format!("timestamp=17; nonce=n; value={value}")
        };
        let read_with = |header: Option<&str>| {
            read(&certificate, &Incoming { callback_id: header, form: HashMap::new(), body: json!({"statuses": []}) })
        };
        assert_eq!(read_with(Some(&signed("s"))), Ok(Vec::new()));
        assert_eq!(read_with(Some(&signed("x"))), Err(Refused::Signature));
        assert_eq!(read_with(None), Err(Refused::Signature));
    }

    #[test]
    fn a_param_is_short_and_cannot_be_made_by_others() {
        let proof = Proof::new(&Secret::new("k"));
        let param = proof.param("0123456789abcdef0123");
        assert!(param.len() <= 50);
        assert_eq!(proof.message(&param), Some("0123456789abcdef0123"));
        assert_eq!(proof.message(&param.replace('3', "4")), None);
        assert_eq!(Proof::new(&Secret::new("other")).message(&param), None);
        assert_ne!(proof.path("a", "b"), proof.path("a", "c"));
    }
}
