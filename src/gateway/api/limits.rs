//! How many requests an app may make: one bucket for its settings and users, one for its messages.

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};

/// Buckets by app; clones share them.
#[derive(Clone)]
pub struct Limits(Arc<RwLock<Buckets>>);

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
        Self(Arc::new(RwLock::new(Buckets::new(management, messages))))
    }

    /// Other limits from now on; every bucket is full again.
    pub fn change(&self, management: u32, messages: u32) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Buckets::new(management, messages);
    }

    /// # Errors
    /// The whole seconds to wait.
    pub fn admit(&self, app: &str, path: &str) -> Result<(), u64> {
        let is_message = path.split('/').nth(3) == Some("messages");
        let buckets = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let bucket = if is_message { buckets.messages.as_ref() } else { Some(&buckets.management) };
        let Some(bucket) = bucket else { return Ok(()) };
        bucket.check_key(&app.to_owned()).map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
        })
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
}
