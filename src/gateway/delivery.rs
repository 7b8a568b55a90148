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
//! `waiting` and `pushed` are not ends: the message stays for the device to fetch until an app has taken it
//! or it expires. `ack` says that the device has it on its disk, `taken` that an app has it. For a device
//! whose vendor can be reached only `taken` proves the delivery; for any other, `ack` ends the live leg.

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
    /// An app has it, or nobody will.
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
    /// It is on the device's disk.
    Acked,
    /// A local app has it.
    Taken,
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
            Self::Taken => "taken",
            Self::Recalled => "recalled",
            Self::Receipt => "receipt",
            Self::Evicted => "evicted",
        }
    }
}

/// What a device says of a message that is durable on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Whether a local app is attached that will show it. `None`: an agent that does not know `taken`.
    pub attached: Option<bool>,
    /// The device has a binding that is not marked dead, with a certificate that is enabled.
    pub bound: bool,
}

/// What follows an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterAck {
    /// It proves the delivery.
    Done,
    /// The live leg is over; the message stands there until an app takes it.
    Keep { state: State, due_in_ms: Option<u64> },
}

/// `state`: where the delivery stood.
pub fn after_ack(ack: Ack, state: State, rules: &Rules) -> AfterAck {
    let keep = |state, due_in_ms| AfterAck::Keep { state, due_in_ms };
    match (ack.attached, ack.bound, state) {
        (None, ..) | (_, _, State::Done) => AfterAck::Done,
        // A notification stands until the message is taken, whatever else is acknowledged.
        (_, _, State::Pushed) => keep(State::Pushed, None),
        (Some(true), true, State::Live | State::Vendor) => keep(State::Live, Some(rules.ack_deadline_ms)),
        (Some(false), true, State::Live) => keep(State::Vendor, Some(0)),
        // It has its own time: a try under way, or a vendor's pause.
        (Some(false), true, State::Vendor) => keep(State::Vendor, None),
        (Some(_), false, _) | (_, _, State::Waiting) => keep(State::Waiting, None),
    }
}

/// A device as the rules about presence see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    pub connected: bool,
    /// By its last word.
    pub attached: bool,
    /// As in [`Ack`].
    pub bound: bool,
}

impl Presence {
    /// Whether its user sees what comes over the connection: a phone that lingers without an app does not
    /// show it, and its vendor would.
    pub const fn counts_as_online(self) -> bool {
        self.connected && (self.attached || !self.bound)
    }

    /// Whether a new message goes to the connection and to the vendor at once.
    pub const fn lingers(self) -> bool {
        self.connected && !self.attached && self.bound
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
    use crate::gateway::outcome::Limit;

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

    const RULES: Rules = Rules {
        ack_deadline_ms: 5000,
        push_life_s: 60,
        keep_s: 60,
        keep_most: 10,
        lease_ms: 1000,
        policy: MultiDevice::AnyOffline,
    };

    fn acked(attached: Option<bool>, bound: bool, state: State) -> AfterAck {
        after_ack(Ack { attached, bound }, state, &RULES)
    }

    #[test]
    fn an_agent_that_does_not_know_taken_proves_a_delivery_by_its_acknowledgement() {
        for state in [State::Live, State::Vendor, State::Pushed, State::Waiting] {
            for bound in [false, true] {
                assert_eq!(acked(None, bound, state), AfterAck::Done);
            }
        }
    }

    #[test]
    fn without_an_app_the_vendors_turn_comes_at_once_and_with_one_after_a_new_deadline() {
        let keep = |state, due_in_ms| AfterAck::Keep { state, due_in_ms };
        assert_eq!(acked(Some(false), true, State::Live), keep(State::Vendor, Some(0)));
        assert_eq!(acked(Some(true), true, State::Live), keep(State::Live, Some(5000)));
        assert_eq!(acked(Some(false), true, State::Vendor), keep(State::Vendor, None));
        assert_eq!(acked(Some(true), true, State::Vendor), keep(State::Live, Some(5000)));
    }

    #[test]
    fn without_a_usable_binding_the_live_leg_ends_and_the_message_is_kept() {
        for attached in [false, true] {
            for state in [State::Live, State::Vendor, State::Waiting] {
                let kept = AfterAck::Keep { state: State::Waiting, due_in_ms: None };
                assert_eq!(acked(Some(attached), false, state), kept);
            }
        }
    }

    #[test]
    fn what_the_vendor_has_stays_shown_until_it_is_taken() {
        for bound in [false, true] {
            let kept = AfterAck::Keep { state: State::Pushed, due_in_ms: None };
            assert_eq!(acked(Some(true), bound, State::Pushed), kept);
        }
    }

    #[test]
    fn a_phone_that_lingers_without_an_app_is_offline_to_its_user() {
        let phone = Presence { connected: true, attached: false, bound: true };
        assert!(!phone.counts_as_online() && phone.lingers());
        let unbound = Presence { bound: false, ..phone };
        assert!(unbound.counts_as_online() && !unbound.lingers());
        let open = Presence { attached: true, ..phone };
        assert!(open.counts_as_online() && !open.lingers());
        let away = Presence { connected: false, ..open };
        assert!(!away.counts_as_online() && !away.lingers());
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
        let limited =
            Outcome::LimitedUntil { limit: Limit::Device, until_ms: 90_000, code: "x".into(), reason: "x".into() };
        assert_eq!(after_vendor(&limited, MAX_ATTEMPTS, 30_000), AfterVendor::Again { in_ms: 60_000 });
    }
}
