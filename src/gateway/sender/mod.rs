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
#[cfg(test)]
mod tests;
mod troubled;

pub use circuit::{Open, Rejections};
pub use troubled::InTrouble;

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

    /// A person put the certificate in anew or switched it on: it is tried at once.
    pub fn anew(&self, certificate: &Certificate) {
        if let Some(route) = self.of(certificate) {
            route.anew(certificate);
        }
    }

    /// What a certificate's vendor refuses for good, again and again.
    pub fn rejecting(&self, certificate: &Certificate) -> Option<Rejections> {
        self.of(certificate)?.rejecting(certificate)
    }

    /// Why a certificate has not been usable for ten minutes or more.
    pub fn failing(&self, certificate: &Certificate, now_ms: u64) -> Option<Open> {
        self.of(certificate)?.failing(certificate, now_ms)
    }

    /// Certificates that are out of use or rejected now, by their vendor.
    pub fn in_trouble(&self) -> impl Iterator<Item = (Vendor, InTrouble)> {
        self.0.iter().flat_map(|(vendor, route)| route.in_trouble().into_iter().map(|one| (*vendor, one)))
    }

    /// This one was replaced or taken away.
    pub fn forget(&self, vendor: Vendor, identity: &str) {
        if let Some(route) = self.0.get(&vendor) {
            route.forget(identity);
        }
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
