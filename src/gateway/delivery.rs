//! One message's way to one device, as a table of moves.
//!
//! ```text
//!             online            no ack in time, or offline notice
//! accepted ----------> live -----------------------------------> vendor --accepted--> pushed
//!     |  offline        ^                                         ^  |                   |
//!     +-----------------+-----------------------------------------+  |                   |
//!                       |                                            |                   |
//!                       +--- no notification, but connected ---------+                   |
//!                                                                    | refused, no way   |
//!                                                                    v                   |
//!            hello: sent again, from every state but done         waiting                |
//!                                                                    |      ack          |
//!                                                                    +----> done <-------+
//! ```
//!
//! `waiting` and `pushed` are not ends: the message stays for the device to fetch until it
//! acknowledges or the message expires.

use crate::gateway::outcome::Outcome;
use crate::gateway::policy::MultiDevice;
use serde::{Deserialize, Serialize};

/// Settings the decisions need.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub ack_deadline_ms: u64,
    pub push_life_s: u64,
    /// Seconds a message waits for its devices.
    pub keep_s: u64,
    /// Messages kept for one device; more evict the oldest.
    pub keep_most: u32,
    /// A vendor send claimed by a gateway that then died is taken over after this: longer than any send
    /// can take.
    pub lease_ms: u64,
    pub policy: MultiDevice,
}

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
    /// The notification was taken back: the device has the message.
    Recalled,
    /// The receipt of a vendor or app.
    Receipt,
    /// More waited for the device than are kept; the oldest went.
    Evicted,
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
            Self::Recalled => "recalled",
            Self::Receipt => "receipt",
            Self::Evicted => "evicted",
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

/// How long a connected device is sent a message it does not acknowledge, in milliseconds since the message
/// or the device came. Long enough for a broker that loses a node; after it the device is hardly there.
const REPEAT_FOR_MS: u64 = 600_000;

/// A message for a connected device that no notification goes out for: its next step over the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeat {
    /// Sent again now, or only when that is over:
    pub now: bool,
    pub due_in_ms: u64,
}

/// `waited_ms`: since the message or the device came, whichever came last. `unanswered`: it was sent and not
/// acknowledged in time, or else it could not be sent. `None`: it waits for the device to come back.
pub fn over_the_connection(waited_ms: u64, unanswered: bool) -> Option<Repeat> {
    // A broker that lost it answers for it all the same; each repeat waits as long as all before.
    let due_in_ms = if unanswered { waited_ms.max(RETRY_BASE_MS) } else { RETRY_BASE_MS };
    (waited_ms <= REPEAT_FOR_MS).then_some(Repeat { now: unanswered, due_in_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connected_device_is_sent_a_message_again_ever_more_rarely_and_not_for_ever() {
        let mut waited_ms = 5000;
        let mut sent = Vec::new();
        while let Some(Repeat { now: true, due_in_ms }) = over_the_connection(waited_ms, true) {
            sent.push(waited_ms / 1000);
            waited_ms += due_in_ms;
        }
        assert_eq!(sent, [5, 10, 20, 40, 80, 160, 320]);
        assert_eq!(over_the_connection(20, false), Some(Repeat { now: false, due_in_ms: 1000 }), "no connection now");
    }

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
        let limited = Outcome::LimitedUntil { until_ms: 90_000, code: "x".into(), reason: "x".into() };
        assert_eq!(after_vendor(&limited, MAX_ATTEMPTS, 30_000), AfterVendor::Again { in_ms: 60_000 });
    }
}
