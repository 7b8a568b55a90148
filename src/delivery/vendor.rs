//! What follows a vendor's answer.

use super::outcome::{Limit, Outcome};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// The next step of a send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AfterVendor {
    Pushed,
    /// Again, after so many milliseconds.
    Again {
        in_ms: u64,
    },
    /// No more tries; kept for the next connection. `dead_since_ms`: the token is dead, if it was bound
    /// before.
    GiveUp {
        dead_since_ms: Option<u64>,
    },
}

/// Most tries of one vendor send; after them the message waits for the device.
pub const MAX_ATTEMPTS: u32 = 8;
/// First pause after a transient failure, in milliseconds; it doubles up to the cap.
const RETRY_BASE_MS: u64 = 1000;
const RETRY_CAP_MS: u64 = 300_000;
/// First pause after the vendor called it too fast, in milliseconds: long enough to leave the window of a limit per
/// second; it doubles up to the same cap.
const RATE_BASE_MS: u64 = 5000;
/// What a pause with an end that the vendor names is made longer by at most, in milliseconds.
const SPREAD_MOST_MS: u64 = 30_000;
/// Most tries after a code no table knows.
const MAX_UNKNOWN: u32 = 3;
/// A certificate the vendor refuses may be mended by a person; the notification waits as long as it lives.
const CERTIFICATE_AGAIN_MS: u64 = 300_000;

/// Where in its range a pause ends, from 0 to 1: what failed together does not come again together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Luck(f64);

impl Luck {
    /// Another one for each message and try; the same for all devices of a message.
    pub fn of(message: &str, attempts: u32) -> Self {
        let mut hasher = DefaultHasher::new();
        (message, attempts).hash(&mut hasher);
        // Of 64 bits the upper 32 are enough, and exact as a float.
        Self(f64::from(u32::try_from(hasher.finish() >> 32).unwrap_or_default()) / f64::from(u32::MAX))
    }

    /// A pause, longer by up to `most_ms`.
    fn beyond(self, pause_ms: u64, most_ms: u64) -> u64 {
        pause_ms.saturating_add((most_ms as f64 * self.0) as u64)
    }
}

/// `attempts` counts the send whose outcome this is.
pub fn after_vendor(outcome: &Outcome, attempts: u32, now_ms: u64, luck: Luck) -> AfterVendor {
    let give_up = AfterVendor::GiveUp { dead_since_ms: None };
    let doubling = |base_ms: u64| {
        let pause_ms = base_ms.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(RETRY_CAP_MS);
        luck.beyond(pause_ms, pause_ms / 2)
    };
    let spread = |pause_ms: u64| luck.beyond(pause_ms.max(RETRY_BASE_MS), (pause_ms / 4).min(SPREAD_MOST_MS));
    match outcome {
        Outcome::Delivered { .. } => AfterVendor::Pushed,
        Outcome::TokenDead { since_ms, .. } => AfterVendor::GiveUp { dead_since_ms: Some(*since_ms) },
        // What has a known end is waited for, however often; the notification's own life is the limit.
        // Who waits for the circuit goes on when one call has found out, and finds its place by age.
        Outcome::LimitedUntil { limit: Limit::Circuit, until_ms, .. } => {
            AfterVendor::Again { in_ms: until_ms.saturating_sub(now_ms).max(RETRY_BASE_MS) }
        }
        Outcome::LimitedUntil { until_ms, .. } => AfterVendor::Again { in_ms: spread(until_ms.saturating_sub(now_ms)) },
        Outcome::TooFast { .. } => AfterVendor::Again { in_ms: doubling(RATE_BASE_MS) },
        Outcome::Refused { certificate: true, .. } => AfterVendor::Again { in_ms: CERTIFICATE_AGAIN_MS },
        Outcome::RetryAfter { after_ms, .. } if attempts < MAX_ATTEMPTS => {
            AfterVendor::Again { in_ms: after_ms.map_or_else(|| doubling(RETRY_BASE_MS), spread) }
        }
        Outcome::Unknown { .. } if attempts < MAX_UNKNOWN => AfterVendor::Again { in_ms: doubling(RETRY_BASE_MS) },
        Outcome::TokenSoftDead { .. }
        | Outcome::Refused { .. }
        | Outcome::RetryAfter { .. }
        | Outcome::Unknown { .. } => give_up,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOONEST: Luck = Luck(0.0);
    const LATEST: Luck = Luck(1.0);

    fn in_ms(outcome: &Outcome, attempts: u32, luck: Luck) -> u64 {
        match after_vendor(outcome, attempts, 0, luck) {
            AfterVendor::Again { in_ms } => in_ms,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_too_fast_comes_again_ever_more_slowly_for_as_long_as_it_lives() {
        let fast = Outcome::TooFast { code: "429".into(), reason: String::new() };
        let pauses: Vec<_> = [1, 2, 3, 4, 100].map(|n| in_ms(&fast, n, SOONEST)).to_vec();
        assert_eq!(pauses, [5000, 10_000, 20_000, 40_000, RETRY_CAP_MS]);
        assert_eq!((in_ms(&fast, 1, LATEST), in_ms(&fast, 2, LATEST)), (7500, 15_000));
    }

    #[test]
    fn what_failed_together_does_not_come_again_together() {
        let fast = Outcome::TooFast { code: "429".into(), reason: String::new() };
        let mut at: Vec<_> = (0..100).map(|n| in_ms(&fast, 1, Luck::of(&format!("m{n}"), 1))).collect();
        at.sort_unstable();
        at.dedup();
        assert!(at.len() > 80 && at[0] < 5300 && at[at.len() - 1] > 7200, "{at:?}");
        assert_eq!(Luck::of("m", 1), Luck::of("m", 1));
        assert_ne!(Luck::of("m", 1), Luck::of("m", 2));
    }

    #[test]
    fn a_pause_the_vendor_names_is_kept_and_a_little_more() {
        let (code, reason) = ("429".to_owned(), String::new());
        let named = Outcome::LimitedUntil { limit: Limit::Certificate, until_ms: 60_000, code, reason };
        assert_eq!((in_ms(&named, 1, SOONEST), in_ms(&named, 9, LATEST)), (60_000, 75_000));
        let named = Outcome::RetryAfter { after_ms: Some(8000), code: "503".into(), reason: String::new() };
        assert_eq!((in_ms(&named, 1, SOONEST), in_ms(&named, 2, LATEST)), (8000, 10_000));
    }

    fn retry() -> Outcome {
        Outcome::RetryAfter { after_ms: None, code: "500".into(), reason: "server error".into() }
    }

    #[test]
    fn a_transient_failure_is_tried_again_ever_more_slowly_and_not_for_ever() {
        let pauses: Vec<_> = (1..=MAX_ATTEMPTS).map(|n| after_vendor(&retry(), n, 0, SOONEST)).collect();
        assert_eq!(pauses[0], AfterVendor::Again { in_ms: 1000 });
        assert_eq!(pauses[3], AfterVendor::Again { in_ms: 8000 });
        assert_eq!(pauses[7], AfterVendor::GiveUp { dead_since_ms: None });
    }

    #[test]
    fn only_a_dead_token_touches_the_binding() {
        let dead = Outcome::TokenDead { code: "80300007".into(), reason: "invalid".into(), since_ms: 9 };
        assert_eq!(after_vendor(&dead, 1, 0, SOONEST), AfterVendor::GiveUp { dead_since_ms: Some(9) });
        for outcome in [
            Outcome::TokenSoftDead { code: "x".into(), reason: "x".into() },
            Outcome::Refused { code: "x".into(), reason: "x".into(), certificate: false },
        ] {
            assert_eq!(after_vendor(&outcome, 1, 0, SOONEST), AfterVendor::GiveUp { dead_since_ms: None });
        }
    }

    #[test]
    fn a_refused_certificate_keeps_its_notifications_waiting() {
        let refused = Outcome::Refused { code: "x".into(), reason: "x".into(), certificate: true };
        assert!(matches!(after_vendor(&refused, MAX_ATTEMPTS + 1, 0, SOONEST), AfterVendor::Again { .. }));
    }

    #[test]
    fn an_unknown_code_is_tried_a_few_times() {
        let unknown = Outcome::Unknown { code: "x".into(), reason: "x".into() };
        assert!(matches!(after_vendor(&unknown, MAX_UNKNOWN - 1, 0, SOONEST), AfterVendor::Again { .. }));
        assert_eq!(after_vendor(&unknown, MAX_UNKNOWN, 0, SOONEST), AfterVendor::GiveUp { dead_since_ms: None });
    }

    #[test]
    fn a_quota_waits_for_its_end() {
        let limited =
            Outcome::LimitedUntil { limit: Limit::Device, until_ms: 90_000, code: "x".into(), reason: "x".into() };
        assert_eq!(after_vendor(&limited, MAX_ATTEMPTS, 30_000, SOONEST), AfterVendor::Again { in_ms: 60_000 });
    }
}
