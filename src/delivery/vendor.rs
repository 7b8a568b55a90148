//! What follows a vendor's answer.

use super::outcome::Outcome;

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
/// Most tries after a code no table knows.
const MAX_UNKNOWN: u32 = 3;
/// A certificate the vendor refuses may be mended by a person; the notification waits as long as it lives.
const CERTIFICATE_AGAIN_MS: u64 = 300_000;

/// `attempts` counts the send whose outcome this is.
pub fn after_vendor(outcome: &Outcome, attempts: u32, now_ms: u64) -> AfterVendor {
    let give_up = AfterVendor::GiveUp { dead_since_ms: None };
    let doubled = RETRY_BASE_MS.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(RETRY_CAP_MS);
    match outcome {
        Outcome::Delivered { .. } => AfterVendor::Pushed,
        Outcome::TokenDead { since_ms, .. } => AfterVendor::GiveUp { dead_since_ms: Some(*since_ms) },
        // What has a known end is waited for, however often; the notification's own life is the limit.
        Outcome::LimitedUntil { until_ms, .. } => {
            AfterVendor::Again { in_ms: until_ms.saturating_sub(now_ms).max(RETRY_BASE_MS) }
        }
        Outcome::Refused { certificate: true, .. } => AfterVendor::Again { in_ms: CERTIFICATE_AGAIN_MS },
        Outcome::RetryAfter { after_ms, .. } if attempts < MAX_ATTEMPTS => {
            AfterVendor::Again { in_ms: after_ms.unwrap_or(doubled).max(RETRY_BASE_MS) }
        }
        Outcome::Unknown { .. } if attempts < MAX_UNKNOWN => AfterVendor::Again { in_ms: doubled },
        Outcome::TokenSoftDead { .. }
        | Outcome::Refused { .. }
        | Outcome::RetryAfter { .. }
        | Outcome::Unknown { .. } => give_up,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::outcome::Limit;

    fn retry() -> Outcome {
        Outcome::RetryAfter { after_ms: None, code: "500".into(), reason: "server error".into() }
    }

    #[test]
    fn a_transient_failure_is_tried_again_ever_more_slowly_and_not_for_ever() {
        let pauses: Vec<_> = (1..=MAX_ATTEMPTS).map(|n| after_vendor(&retry(), n, 0)).collect();
        assert_eq!(pauses[0], AfterVendor::Again { in_ms: 1000 });
        assert_eq!(pauses[3], AfterVendor::Again { in_ms: 8000 });
        assert_eq!(pauses[7], AfterVendor::GiveUp { dead_since_ms: None });
    }

    #[test]
    fn only_a_dead_token_touches_the_binding() {
        let dead = Outcome::TokenDead { code: "80300007".into(), reason: "invalid".into(), since_ms: 9 };
        assert_eq!(after_vendor(&dead, 1, 0), AfterVendor::GiveUp { dead_since_ms: Some(9) });
        for outcome in [
            Outcome::TokenSoftDead { code: "x".into(), reason: "x".into() },
            Outcome::Refused { code: "x".into(), reason: "x".into(), certificate: false },
        ] {
            assert_eq!(after_vendor(&outcome, 1, 0), AfterVendor::GiveUp { dead_since_ms: None });
        }
    }

    #[test]
    fn a_refused_certificate_keeps_its_notifications_waiting() {
        let refused = Outcome::Refused { code: "x".into(), reason: "x".into(), certificate: true };
        assert!(matches!(after_vendor(&refused, MAX_ATTEMPTS + 1, 0), AfterVendor::Again { .. }));
    }

    #[test]
    fn an_unknown_code_is_tried_a_few_times() {
        let unknown = Outcome::Unknown { code: "x".into(), reason: "x".into() };
        assert!(matches!(after_vendor(&unknown, MAX_UNKNOWN - 1, 0), AfterVendor::Again { .. }));
        assert_eq!(after_vendor(&unknown, MAX_UNKNOWN, 0), AfterVendor::GiveUp { dead_since_ms: None });
    }

    #[test]
    fn a_quota_waits_for_its_end() {
        let limited =
            Outcome::LimitedUntil { limit: Limit::Device, until_ms: 90_000, code: "x".into(), reason: "x".into() };
        assert_eq!(after_vendor(&limited, MAX_ATTEMPTS, 30_000), AfterVendor::Again { in_ms: 60_000 });
    }
}
