//! Delivery through the vendors' clouds: one file per vendor, and what they share.
//!
//! ```text
//! Senders --> Route<vendor>: circuit, credential, batches, one refresh
//!                 |  plain values: Protocol of the vendor
//!                 +--> Http
//! ```
//!
//! Every answer becomes one [`Outcome`] per token. Credential trouble stays inside a route: it refreshes
//! once and then reports the certificate, never the token.

mod apns;
mod circuit;
mod credential;
mod failed;
mod honor;
mod huawei;
mod jwt;
mod meizu;
mod oppo;
mod protocol;
mod route;
mod text;
mod vivo;
mod xiaomi;

pub use circuit::Open;

use crate::gateway::certificate::Certificate;
use crate::gateway::config::Vendors;
use crate::gateway::content::Content;
use crate::gateway::outcome::{Limit, Outcome};
use crate::http::Http;
use crate::vendor::Vendor;
use credential::Credential;
use protocol::{Reading, Verdict};
use route::Route;
use serde_json::Value as Json;
use std::time::Duration;

/// What a code of a vendor's table asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Ok,
    TokenDead,
    /// The token is dead, or the certificate is for the vendor's other environment.
    TokenDeadOrEnvironment,
    TokenSoftDead,
    Auth,
    LimitedShort,
    LimitedToday,
    /// Held over the night.
    LimitedMorning,
    Retry,
    Unknown,
    Request,
    Certificate,
}

/// One notification, the same for every device it goes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Notification {
    pub content: Content,
    /// Replaces an earlier one with the same id on the device, so that a repeat is not a second one.
    pub collapse_id: u32,
    pub time_to_live: Duration,
    /// The sender's `em_android_push_ext`, or `em_apns_ext` for Apple.
    pub vendor_ext: Json,
    /// Comes back in the vendor's receipts; at most 50 bytes, OPPO's limit.
    pub receipt_param: String,
    /// Where the vendor should send them.
    pub receipt_url: Option<String>,
    /// Messages that wait for the receiver, shown at the app's icon.
    pub badge: Option<u32>,
    /// A sound of the app's own.
    pub sound: Option<String>,
}

/// A push the vendor has.
#[derive(Debug, Clone, Copy)]
pub struct Accepted<'a> {
    pub token: &'a str,
    pub collapse_id: u32,
    pub vendor_id: &'a str,
}

/// The senders, with their connections and credentials.
#[derive(Debug)]
pub struct Senders {
    xiaomi: Route<xiaomi::Xiaomi>,
    huawei: Route<huawei::Huawei>,
    meizu: Route<meizu::Meizu>,
    oppo: Route<oppo::Oppo>,
    vivo: Route<vivo::Vivo>,
    honor: Route<honor::Honor>,
    apns: Route<apns::Apns>,
}

impl Senders {
    pub fn new(http: &Http, at: &Vendors) -> Self {
        Self {
            xiaomi: Route::new(http, xiaomi::Xiaomi::new(&at.xiaomi_url)),
            huawei: Route::new(http, huawei::Huawei::new(&at.huawei_oauth_url, &at.huawei_push_url)),
            meizu: Route::new(http, meizu::Meizu::new(&at.meizu_url)),
            oppo: Route::new(http, oppo::Oppo::new(&at.oppo_url)),
            vivo: Route::new(http, vivo::Vivo::new(&at.vivo_url)),
            honor: Route::new(http, honor::Honor::new(&at.honor_oauth_url, &at.honor_push_url)),
            apns: Route::new(http, apns::Apns::new(&at.apns_url, &at.apns_sandbox_url)),
        }
    }

    /// Sends to each token, in the vendor's batches; the outcomes are in the tokens' order. Never
    /// fails: whatever happens is an outcome.
    pub async fn send(
        &self,
        certificate: &Certificate,
        tokens: &[&str],
        notification: &Notification,
        now_ms: u64,
    ) -> Vec<Outcome> {
        match certificate.vendor {
            Vendor::Xiaomi => self.xiaomi.send(certificate, tokens, notification, now_ms).await,
            Vendor::Huawei => self.huawei.send(certificate, tokens, notification, now_ms).await,
            Vendor::Meizu => self.meizu.send(certificate, tokens, notification, now_ms).await,
            Vendor::Oppo => self.oppo.send(certificate, tokens, notification, now_ms).await,
            Vendor::Vivo => self.vivo.send(certificate, tokens, notification, now_ms).await,
            Vendor::Honor => self.honor.send(certificate, tokens, notification, now_ms).await,
            Vendor::Apns => self.apns.send(certificate, tokens, notification, now_ms).await,
        }
    }

    /// Takes an accepted push back, where its vendor can and says how: Xiaomi, and Huawei on HarmonyOS NEXT.
    /// The others' calls are not public, or take whole batches back.
    pub async fn recall(&self, certificate: &Certificate, accepted: &Accepted<'_>, now_ms: u64) -> Option<Outcome> {
        match certificate.vendor {
            Vendor::Xiaomi => self.xiaomi.recall(certificate, accepted, now_ms).await,
            Vendor::Huawei => self.huawei.recall(certificate, accepted, now_ms).await,
            _ => None,
        }
    }

    /// Why a certificate is not used now, and until when.
    pub fn open(&self, certificate: &Certificate) -> Option<Open> {
        match certificate.vendor {
            Vendor::Xiaomi => self.xiaomi.open(certificate),
            Vendor::Huawei => self.huawei.open(certificate),
            Vendor::Meizu => self.meizu.open(certificate),
            Vendor::Oppo => self.oppo.open(certificate),
            Vendor::Vivo => self.vivo.open(certificate),
            Vendor::Honor => self.honor.open(certificate),
            Vendor::Apns => self.apns.open(certificate),
        }
    }

    /// Why a certificate has not been usable for ten minutes or more.
    pub fn failing(&self, certificate: &Certificate, now_ms: u64) -> Option<Open> {
        match certificate.vendor {
            Vendor::Xiaomi => self.xiaomi.failing(certificate, now_ms),
            Vendor::Huawei => self.huawei.failing(certificate, now_ms),
            Vendor::Meizu => self.meizu.failing(certificate, now_ms),
            Vendor::Oppo => self.oppo.failing(certificate, now_ms),
            Vendor::Vivo => self.vivo.failing(certificate, now_ms),
            Vendor::Honor => self.honor.failing(certificate, now_ms),
            Vendor::Apns => self.apns.failing(certificate, now_ms),
        }
    }

    /// Whether that is so of any.
    pub fn any_failing(&self, now_ms: u64) -> bool {
        self.xiaomi.any_failing(now_ms)
            || self.huawei.any_failing(now_ms)
            || self.meizu.any_failing(now_ms)
            || self.oppo.any_failing(now_ms)
            || self.vivo.any_failing(now_ms)
            || self.honor.any_failing(now_ms)
            || self.apns.any_failing(now_ms)
    }
}

/// Whether a certificate's private key, where it has one, can sign what its vendor asks for.
///
/// # Errors
/// A sentence that names the field; never the key.
pub fn check_keys(certificate: &Certificate) -> Result<(), String> {
    let (field, algorithm) = match certificate.vendor {
        Vendor::Apns => ("key", jwt::Algorithm::Es256),
        Vendor::Huawei if certificate.field("private_key").is_some() => ("private_key", jwt::Algorithm::Ps256),
        _ => return Ok(()),
    };
    jwt::sign(algorithm, certificate.secret(field), certificate.secret("key_id"), &Json::Null)
        .map(drop)
        .map_err(|why| format!("the field `{field}`: {why}"))
}

/// Finds a code in a vendor's table; one that is not there is unknown.
fn meaning_of<C: PartialEq>(codes: &[(C, Meaning)], code: &C) -> Meaning {
    codes.iter().find(|(known, _)| known == code).map_or(Meaning::Unknown, |(_, meaning)| *meaning)
}

/// Turns a verdict into an outcome. `proven`: the certificate has carried a notification before, so
/// that it cannot be for the wrong environment.
fn outcome(reading: &Reading, verdict: &Verdict, proven: bool, now_ms: u64) -> Outcome {
    let Verdict { meaning, code, reason } = verdict.clone();
    // Said of the call as a whole, it holds for every device of the certificate.
    let limit = if std::ptr::eq(verdict, &raw const reading.rest) { Limit::Certificate } else { Limit::Device };
    let limited = |until_ms, code, reason| Outcome::LimitedUntil { limit, until_ms, code, reason };
    match meaning {
        Meaning::Ok => Outcome::Delivered { vendor_id: reading.vendor_id.clone() },
        Meaning::TokenDeadOrEnvironment if !proven => Outcome::TokenSoftDead { code, reason },
        Meaning::TokenDead | Meaning::TokenDeadOrEnvironment => {
            Outcome::TokenDead { code, reason, since_ms: reading.dead_since_ms.unwrap_or(now_ms) }
        }
        Meaning::TokenSoftDead => Outcome::TokenSoftDead { code, reason },
        Meaning::LimitedShort => limited(now_ms + reading.after_ms.unwrap_or(SHORT_LIMIT_MS), code, reason),
        Meaning::LimitedToday => limited(next_in_china(0, now_ms), code, reason),
        Meaning::LimitedMorning => limited(next_in_china(7, now_ms), code, reason),
        Meaning::Retry => Outcome::RetryAfter { after_ms: reading.after_ms, code, reason },
        Meaning::Unknown => Outcome::Unknown { code, reason },
        Meaning::Request => Outcome::Refused { code, reason, certificate: false },
        Meaning::Auth | Meaning::Certificate => Outcome::Refused { code, reason, certificate: true },
    }
}

/// A rate limit per second or so: long enough to leave its window.
const SHORT_LIMIT_MS: u64 = 5000;

/// The next time it is this hour in China (UTC+8, no daylight saving), where the vendors' days begin
/// and end.
fn next_in_china(hour: u64, now_ms: u64) -> u64 {
    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;
    let shift = 8 * HOUR;
    let since_midnight = (now_ms + shift) % DAY;
    let midnight = now_ms - since_midnight;
    let today = midnight + hour * HOUR;
    if today > now_ms { today } else { today + DAY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_ends_at_midnight_in_china_and_a_night_at_seven() {
        // 2026-11-22 15:59:59 UTC is 23:59:59 in China.
        assert_eq!(next_in_china(0, 1_795_363_199_000), 1_795_363_200_000);
        assert_eq!(next_in_china(0, 1_795_363_200_000), 1_795_363_200_000 + 86_400_000);
        assert_eq!(next_in_china(7, 1_795_363_200_000), 1_795_363_200_000 + 7 * 3_600_000);
    }

    #[test]
    fn a_quota_is_the_certificates_where_the_whole_call_was_refused_and_else_the_tokens() {
        let reading = Reading::all(Meaning::LimitedToday, "c", "").but(["t".into()], Meaning::LimitedToday, "d", "");
        for (token, expected) in [("t", Limit::Device), ("u", Limit::Certificate)] {
            let limited = outcome(&reading, reading.of(token), true, 1_795_363_199_000);
            assert!(matches!(limited, Outcome::LimitedUntil { limit, .. } if limit == expected));
        }
    }

    #[test]
    fn a_bad_token_is_dead_only_under_a_certificate_that_has_worked() {
        let reading = Reading::all(Meaning::TokenDeadOrEnvironment, "BadDeviceToken", "");
        assert!(matches!(outcome(&reading, &reading.rest, false, 5), Outcome::TokenSoftDead { .. }));
        assert!(matches!(outcome(&reading, &reading.rest, true, 5), Outcome::TokenDead { since_ms: 5, .. }));
    }
}
