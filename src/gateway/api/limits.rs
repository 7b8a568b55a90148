//! How many requests an app may make, one bucket for its settings and users, one for its messages; and how many
//! receipts one address may send.

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Callbacks that are looked at from one address in a second, each of which may hold a thousand receipts.
const CALLBACKS_PER_S: NonZeroU32 = NonZeroU32::new(200).unwrap();
/// Addresses that are remembered before the full buckets among them are forgotten.
const MOST_ADDRESSES: usize = 10_000;

/// Buckets by app, and by address; clones share them.
#[derive(Clone)]
pub struct Limits {
    apps: Arc<RwLock<Buckets>>,
    callers: Arc<DefaultKeyedRateLimiter<IpAddr>>,
}

struct Buckets {
    management: DefaultKeyedRateLimiter<String>,
    messages: Option<DefaultKeyedRateLimiter<String>>,
}

impl Buckets {
    fn new(management: u32, messages: u32) -> Self {
        let bucket = |most: NonZeroU32| RateLimiter::keyed(Quota::per_second(most));
        Self {
            management: bucket(NonZeroU32::new(management).unwrap_or(NonZeroU32::MIN)),
            messages: NonZeroU32::new(messages).map(bucket),
        }
    }
}

impl Limits {
    /// Requests a second; `messages` 0 is no limit.
    pub fn new(management: u32, messages: u32) -> Self {
        Self {
            apps: Arc::new(RwLock::new(Buckets::new(management, messages))),
            callers: Arc::new(RateLimiter::keyed(Quota::per_second(CALLBACKS_PER_S))),
        }
    }

    /// Other limits from now on; every bucket is full again.
    pub fn change(&self, management: u32, messages: u32) {
        *self.apps.write().unwrap_or_else(PoisonError::into_inner) = Buckets::new(management, messages);
    }

    /// # Errors
    /// The whole seconds to wait.
    pub fn admit(&self, app: &str, path: &str) -> Result<(), u64> {
        let is_message = path.split('/').nth(3) == Some("messages");
        let buckets = self.apps.read().unwrap_or_else(PoisonError::into_inner);
        let bucket = if is_message { buckets.messages.as_ref() } else { Some(&buckets.management) };
        let Some(bucket) = bucket else { return Ok(()) };
        let wait = |wait: Duration| wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        bucket
            .check_key(&app.to_owned())
            .map_err(|not_until| wait(not_until.wait_time_from(DefaultClock::default().now())))
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

    #[test]
    fn an_app_that_asks_too_much_is_told_when_to_come_back_and_others_are_not_held() {
        let limits = Limits::new(2, 0);
        let ask = |app: &str, path: &str| limits.admit(app, path);
        assert!(ask("a", "/o/a/users").is_ok() && ask("a", "/o/a/users").is_ok());
        assert_eq!(ask("a", "/o/a/users"), Err(1));
        assert!(ask("b", "/o/b/users").is_ok());
        assert!((0..100).all(|_| ask("a", "/o/a/messages/users").is_ok()));
        limits.change(3, 0);
        assert!(ask("a", "/o/a/users").is_ok());
    }

    #[test]
    fn an_address_that_calls_back_without_end_is_held_and_no_other() {
        let limits = Limits::new(1, 0);
        let from = |text: &str| limits.admits_from(Some(text.parse().expect("an address")));
        // Time goes on meanwhile; a bucket fills again far more slowly than this empties it.
        assert!((0..100).all(|_| from("192.0.2.1")));
        assert!((0..10_000).any(|_| !from("192.0.2.1")));
        assert!(from("192.0.2.2") && limits.admits_from(None));
        assert!((0..10_000).any(|n| !from(&format!("2001:db8::{n:x}"))), "a host has many addresses");
        assert!(from("2001:db8:0:1::1"));
    }
}
