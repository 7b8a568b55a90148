//! How much an app may ask of this gateway, in requests about its settings and users, and in messages; and how many
//! receipts one address may send.

use super::super::config::Api;
use super::allowance::{Allowance, Limit, Over, Rates, Size};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

/// Callbacks that are looked at from one address in a second, each of which may hold a thousand receipts.
const CALLBACKS_PER_S: NonZeroU32 = NonZeroU32::MIN.saturating_add(199);
/// Addresses that are remembered before the full buckets among them are forgotten.
const MOST_ADDRESSES: usize = 10_000;
/// The same for apps.
const MOST_APPS: usize = 1000;

/// Buckets by app, and by address; clones share them.
#[derive(Clone)]
pub struct Limits {
    apps: Arc<RwLock<Buckets>>,
    callers: Arc<DefaultKeyedRateLimiter<IpAddr>>,
}

struct Buckets {
    management: DefaultKeyedRateLimiter<String>,
    rates: Rates,
    sent: Mutex<HashMap<String, Allowance>>,
    started: Instant,
}

impl Buckets {
    fn new(api: &Api) -> Self {
        let requests = NonZeroU32::new(api.requests_per_s).unwrap_or(NonZeroU32::MIN);
        Self {
            management: RateLimiter::keyed(Quota::per_second(requests)),
            rates: Rates { messages: api.messages_per_s, bytes: api.bytes_per_s },
            sent: Mutex::default(),
            started: Instant::now(),
        }
    }

    fn send(&self, app: &str, size: Size) -> Result<(), Over> {
        let rates = self.rates;
        if rates.messages == 0 && rates.bytes == 0 {
            return Ok(());
        }
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        // Else a call that waited for the lock would be counted at a moment before the last one's.
        let now = self.started.elapsed();
        if sent.len() > MOST_APPS {
            sent.retain(|_, allowance| !allowance.is_full(rates, now));
        }
        sent.entry(app.to_owned()).or_insert_with(|| Allowance::new(rates, now)).take(rates, size, now)
    }
}

impl Limits {
    pub fn new(api: &Api) -> Self {
        Self {
            apps: Arc::new(RwLock::new(Buckets::new(api))),
            callers: Arc::new(RateLimiter::keyed(Quota::per_second(CALLBACKS_PER_S))),
        }
    }

    /// Other limits from now on; every bucket is full again.
    pub fn change(&self, api: &Api) {
        *self.apps.write().unwrap_or_else(PoisonError::into_inner) = Buckets::new(api);
    }

    /// Whether a request is looked at; what it sends is counted by [`Self::admit_messages`].
    ///
    /// # Errors
    /// [`Over`].
    pub fn admit(&self, app: &str, path: &str) -> Result<(), Over> {
        if path.split('/').nth(3) == Some("messages") {
            return self.admit_messages(app, 0, 0);
        }
        let buckets = self.apps.read().unwrap_or_else(PoisonError::into_inner);
        let checked = buckets.management.check_key(&app.to_owned());
        checked.map_err(|until| Over::new(Limit::Requests, until.wait_time_from(DefaultClock::default().now())))
    }

    /// So many messages are to be sent, of so many bytes in all.
    ///
    /// # Errors
    /// [`Over`]: none of them may be.
    pub fn admit_messages(&self, app: &str, messages: usize, bytes: usize) -> Result<(), Over> {
        self.apps.read().unwrap_or_else(PoisonError::into_inner).send(app, Size { messages, bytes })
    }

    /// Whether a callback from this address is looked at. Those whose address is not known share one bucket.
    pub fn admits_from(&self, address: Option<IpAddr>) -> bool {
        let network = match address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) {
            // One host has a whole /64 (RFC 6177).
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
            address @ IpAddr::V4(_) => address,
        };
        if self.callers.len() > MOST_ADDRESSES {
            self.callers.retain_recent();
        }
        self.callers.check_key(&network).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(requests_per_s: u32, messages_per_s: u32) -> Api {
        Api { requests_per_s, messages_per_s, ..Api::default() }
    }

    #[test]
    fn an_app_that_asks_too_much_is_told_when_to_come_back_and_others_are_not_held() {
        let limits = Limits::new(&api(2, 0));
        let ask = |app: &str, path: &str| limits.admit(app, path);
        assert!(ask("a", "/o/a/users").is_ok() && ask("a", "/o/a/users").is_ok());
        assert_eq!(ask("a", "/o/a/users"), Err(Over { limit: Limit::Requests, wait_s: 1 }));
        assert!(ask("b", "/o/b/users").is_ok());
        assert!((0..100).all(|_| ask("a", "/o/a/messages/users").is_ok()));
        limits.change(&api(3, 0));
        assert!(ask("a", "/o/a/users").is_ok());
    }

    #[test]
    fn an_app_that_sent_too_much_is_not_even_listened_to_and_others_are() {
        let limits = Limits::new(&api(2, 10));
        assert_eq!(limits.admit_messages("a", 600, 1), Ok(()));
        assert_eq!(limits.admit("a", "/o/a/messages/users"), Err(Over { limit: Limit::Messages, wait_s: 59 }));
        assert!(limits.admit("a", "/o/a/users").is_ok() && limits.admit_messages("b", 600, 1).is_ok());
    }

    #[test]
    fn an_address_that_calls_back_without_end_is_held_and_no_other() {
        let limits = Limits::new(&Api::default());
        let from = |text: &str| limits.admits_from(Some(text.parse().expect("an address")));
        // Time goes on meanwhile; a bucket fills again far more slowly than this empties it.
        assert!((0..100).all(|_| from("192.0.2.1")));
        assert!((0..10_000).any(|_| !from("192.0.2.1")));
        assert!(from("192.0.2.2") && limits.admits_from(None));
        assert!((0..10_000).any(|n| !from(&format!("2001:db8::{n:x}"))), "a host has many addresses");
        assert!(from("2001:db8:0:1::1"));
    }
}
