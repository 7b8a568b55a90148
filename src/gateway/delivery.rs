//! One message's way to one device, as a table of moves.
//!
//! ```text
//!             online            no ack in time, or offline notice
//! accepted ----------> live -----------------------------------> vendor --accepted--> pushed
//!     |  offline                                                  ^  |                   |
//!     +-----------------------------------------------------------+  | refused, no way   |
//!                                                                    v                   |
//!            hello: sent again, from every state but done         waiting                |
//!                                                                    |      ack          |
//!                                                                    +----> done <-------+
//! ```
//!
//! `waiting` and `pushed` are not ends: the message stays for the device to fetch until it
//! acknowledges or the message expires.

use crate::gateway::sender::Outcome;
use serde::{Deserialize, Serialize};

/// Where a (message, device) pair stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Published to a connection; the ack deadline runs.
    Live,
    /// A vendor send is due.
    Vendor,
    /// The vendor has it.
    Pushed,
    /// No notification goes out; kept for the device's next connection.
    Waiting,
    /// The device has it.
    Done,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Vendor => "vendor",
            Self::Pushed => "pushed",
            Self::Waiting => "waiting",
            Self::Done => "done",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Live, Self::Vendor, Self::Pushed, Self::Waiting, Self::Done].into_iter().find(|s| s.as_str() == text)
    }
}

/// The word in a trace for each hop of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hop {
    Accepted,
    Published,
    /// The connection did not acknowledge in time.
    NoAck,
    /// The device's connection ended before it acknowledged.
    WentOffline,
    /// Why no notification goes out.
    Stopped,
    VendorSent,
    VendorRetry,
    VendorRefused,
    /// Sent again after a hello.
    Synced,
    Acked,
    /// The receipt of a vendor or app.
    Receipt,
    Expired,
}

impl Hop {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Published => "published",
            Self::NoAck => "no_ack",
            Self::WentOffline => "went_offline",
            Self::Stopped => "stopped",
            Self::VendorSent => "vendor_sent",
            Self::VendorRetry => "vendor_retry",
            Self::VendorRefused => "vendor_refused",
            Self::Synced => "synced",
            Self::Acked => "acked",
            Self::Receipt => "receipt",
            Self::Expired => "expired",
        }
    }
}

/// What follows a vendor's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AfterVendor {
    Pushed,
    /// Again, after so many milliseconds.
    Again {
        in_ms: u64,
    },
    /// No more tries; kept for the next connection. `drop_binding`: the token is dead.
    GiveUp {
        drop_binding: bool,
    },
}

/// Most tries of one vendor send; after them the message waits for the device.
pub const MAX_ATTEMPTS: u32 = 8;
/// First pause after a transient failure, in milliseconds; it doubles up to the cap.
const RETRY_BASE_MS: u64 = 1000;
const RETRY_CAP_MS: u64 = 300_000;

/// `attempts` counts the send whose outcome this is.
pub fn after_vendor(outcome: &Outcome, attempts: u32, now_ms: u64) -> AfterVendor {
    let again = |in_ms: u64| {
        if attempts >= MAX_ATTEMPTS {
            AfterVendor::GiveUp { drop_binding: false }
        } else {
            AfterVendor::Again { in_ms }
        }
    };
    match outcome {
        Outcome::Delivered { .. } => AfterVendor::Pushed,
        Outcome::TokenDead { .. } => AfterVendor::GiveUp { drop_binding: true },
        Outcome::TokenSoftDead { .. } | Outcome::Refused { .. } => AfterVendor::GiveUp { drop_binding: false },
        Outcome::LimitedUntil { until_ms, .. } => again(until_ms.saturating_sub(now_ms).max(RETRY_BASE_MS)),
        Outcome::RetryAfter { after_ms, .. } => {
            let doubled = RETRY_BASE_MS.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(RETRY_CAP_MS);
            again(after_ms.unwrap_or(doubled).max(RETRY_BASE_MS))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry() -> Outcome {
        Outcome::RetryAfter { after_ms: None, code: "500".into(), reason: "server error".into() }
    }

    #[test]
    fn a_transient_failure_is_tried_again_ever_more_slowly_and_not_for_ever() {
        let pauses: Vec<_> = (1..=MAX_ATTEMPTS).map(|n| after_vendor(&retry(), n, 0)).collect();
        assert_eq!(pauses[0], AfterVendor::Again { in_ms: 1000 });
        assert_eq!(pauses[3], AfterVendor::Again { in_ms: 8000 });
        assert_eq!(pauses[7], AfterVendor::GiveUp { drop_binding: false });
    }

    #[test]
    fn only_a_dead_token_touches_the_binding() {
        let dead = Outcome::TokenDead { code: "80300007".into(), reason: "invalid".into() };
        assert_eq!(after_vendor(&dead, 1, 0), AfterVendor::GiveUp { drop_binding: true });
        for outcome in [
            Outcome::TokenSoftDead { code: "x".into(), reason: "x".into() },
            Outcome::Refused { code: "x".into(), reason: "x".into(), certificate: true },
        ] {
            assert_eq!(after_vendor(&outcome, 1, 0), AfterVendor::GiveUp { drop_binding: false });
        }
    }

    #[test]
    fn a_quota_waits_for_its_end() {
        let limited = Outcome::LimitedUntil { until_ms: 90_000, code: "x".into(), reason: "x".into() };
        assert_eq!(after_vendor(&limited, 1, 30_000), AfterVendor::Again { in_ms: 60_000 });
    }
}
