//! Delivery through the vendors' clouds: what all their calls share.
//!
//! ```text
//! Senders --> Route of the vendor: circuit, credential, batches, one refresh
//!                 |  plain values: the vendor's Protocol
//!                 +--> Http
//! ```
//!
//! Every answer becomes one [`Outcome`] per token. Credential trouble stays inside a route: it refreshes
//! once and then reports the certificate, never the token.

mod circuit;
mod credential;
mod failed;
mod heard;
mod route;

pub use circuit::{Open, Rejections};

use crate::delivery::outcome::{Limit, Outcome};
use crate::http::Http;
use crate::vendors::call::{Meaning, Reading, TooLarge, Verdict};
use crate::vendors::certificate::Certificate;
use crate::vendors::notification::{Accepted, Notification};
use crate::vendors::{Hosts, Vendor};
use route::Route;
use std::collections::BTreeMap;

/// The senders, with their connections and credentials.
#[derive(Debug)]
pub struct Senders(BTreeMap<Vendor, Route>);

impl Senders {
    pub fn new(http: &Http, hosts: &Hosts) -> Self {
        let route = |vendor: Vendor| (vendor, Route::new(http, (vendor.cloud().protocol)(hosts)));
        Self(Vendor::ORDER.into_iter().map(route).collect())
    }

    fn of(&self, certificate: &Certificate) -> Option<&Route> {
        self.0.get(&certificate.vendor)
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
        match self.of(certificate) {
            Some(route) => route.send(certificate, tokens, notification, now_ms).await,
            None => Vec::new(),
        }
    }

    /// Whether the vendor would refuse a push for its size, its texts shortened as far as they can be.
    pub fn too_large(&self, certificate: &Certificate, notification: &Notification) -> Option<TooLarge> {
        self.of(certificate)?.too_large(certificate, notification)
    }

    /// Takes an accepted push back, where its vendor can and says how.
    pub async fn recall(&self, certificate: &Certificate, accepted: &Accepted<'_>, now_ms: u64) -> Option<Outcome> {
        self.of(certificate)?.recall(certificate, accepted, now_ms).await
    }

    /// Why a certificate is not used now, and until when.
    pub fn open(&self, certificate: &Certificate) -> Option<Open> {
        self.of(certificate)?.open(certificate)
    }

    /// What a certificate's vendor refuses for good, again and again.
    pub fn rejecting(&self, certificate: &Certificate) -> Option<Rejections> {
        self.of(certificate)?.rejecting(certificate)
    }

    /// Why a certificate has not been usable for ten minutes or more.
    pub fn failing(&self, certificate: &Certificate, now_ms: u64) -> Option<Open> {
        self.of(certificate)?.failing(certificate, now_ms)
    }

    /// Whether that is so of any.
    pub fn any_failing(&self, now_ms: u64) -> bool {
        self.0.values().any(|route| route.any_failing(now_ms))
    }
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
        Meaning::LimitedShort => match reading.after_ms {
            Some(after_ms) => limited(now_ms + after_ms, code, reason),
            None => Outcome::TooFast { code, reason },
        },
        Meaning::LimitedToday => limited(next_in_china(0, now_ms), code, reason),
        Meaning::LimitedMorning => limited(next_in_china(7, now_ms), code, reason),
        Meaning::Retry => Outcome::RetryAfter { after_ms: reading.after_ms, code, reason },
        Meaning::Unknown => Outcome::Unknown { code, reason },
        Meaning::Request => Outcome::Refused { code, reason, certificate: false },
        Meaning::Auth | Meaning::Certificate => Outcome::Refused { code, reason, certificate: true },
    }
}

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
