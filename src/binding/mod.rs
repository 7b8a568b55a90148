//! Which token must be bound to whom, and what is still owed to the gateway.
//!
//! ```text
//! token arrives ----+
//! login -----------+--> wanted --bind(sequence)--> gateway --bound(sequence)--> bound
//! connected --------+                    ^ unanswered: again after 5 s, 15 s ... 10 min
//!
//! logout, connected:  unbind(sequence) --> gateway --bound--> nothing
//! logout, no network: tombstone on disk, replayed before any other login
//! ```
//!
//! The sequence number only grows, over restarts too, so that a late bind can never undo a newer
//! unbind: the gateway refuses a number below the last one it saw from this device.

use crate::ids::AppId;
use crate::keepalive::Moment;
use crate::protocol::{BindResult, Up};
use crate::secret::Secret;
use crate::vendors::Vendor;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Pause before each repeat of an unanswered request; the last one repeats.
const RETRY: [Duration; 5] = [
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(180),
    Duration::from_secs(600),
];
/// Where in it the repeats of a refused one begin.
const REFUSED: usize = 2;
/// Most unpaid logouts that are kept; beyond that the oldest goes, and the gateway's rule that the
/// newest login takes a token covers it.
pub const MAX_TOMBSTONES: usize = 32;

/// A token and the certificate it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    pub vendor: Vendor,
    pub notifier: String,
    pub token: Secret,
}

/// A logout the gateway has not heard of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The IM app; absent in a file of an older version, which meant the configured one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppId>,
    pub user: String,
    /// The login's own password: the unbind is sent in that user's name.
    pub password: Secret,
}

/// What survives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// The last sequence number used.
    pub sequence: u64,
    /// The fingerprint of the token the gateway last confirmed, for `status` before the next answer.
    pub confirmed: Option<String>,
    pub owed: Vec<Tombstone>,
    /// Tokens a vendor has called dead, as fingerprints: they are not bound again.
    pub dead: Vec<(Vendor, String)>,
}

impl Ledger {
    pub fn is_dead(&self, vendor: Vendor, token: &Secret) -> bool {
        let fingerprint = token.fingerprint();
        self.dead.iter().any(|(of, dead)| *of == vendor && *dead == fingerprint)
    }
}

/// Numbers above this are not believed: the gateway's databases store them as signed 64-bit integers.
const MAX_SEQUENCE: u64 = 1 << 62;
/// Most dead tokens that are remembered; each device has one living token a vendor.
const MAX_DEAD: usize = 16;

/// Where the binding stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Standing {
    /// Nothing to bind: no login, or no active channel.
    Unbound,
    /// Confirmed in an earlier run or connection; not yet again in this one.
    Stale,
    Binding {
        sequence: u64,
        attempts: u32,
    },
    Bound,
    Unbinding {
        sequence: u64,
    },
    Refused {
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The wanted binding changed: a token came, rotated or went, or the channel did.
    Want(Option<Wanted>),
    Connected,
    Disconnected,
    Answered {
        sequence: u64,
        result: BindResult,
        reason: Option<String>,
        /// The gateway has seen this number already: this device's own was restored from an older copy.
        expected: Option<u64>,
    },
    /// The gateway does not know a binding that it had confirmed.
    Lost,
    /// Ask the gateway to forget this device. `logout` ends the login itself.
    Unbind {
        logout: bool,
    },
    /// The gateway ended the login and has removed the bindings itself.
    Kicked,
    Tick,
}

#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "one or two of these live for a moment; a box each would cost more")]
pub enum Action {
    Send(Up),
    /// The ledger changed and must be on disk before anything else is sent.
    Persist,
    /// The gateway has forgotten this device.
    Unbound,
}

/// The machine. It holds no socket and no clock.
#[derive(Debug)]
pub struct Binding {
    ledger: Ledger,
    wanted: Option<Wanted>,
    standing: Standing,
    connected: bool,
    logout: bool,
    attempts: u32,
    retry_at: Option<Moment>,
}

impl Binding {
    pub fn new(ledger: Ledger) -> Self {
        let standing = if ledger.confirmed.is_some() { Standing::Stale } else { Standing::Unbound };
        Self { ledger, wanted: None, standing, connected: false, logout: false, attempts: 0, retry_at: None }
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    pub fn wanted(&self) -> Option<&Wanted> {
        self.wanted.as_ref()
    }

    /// When [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.retry_at
    }

    /// Notes a logout that could not be told to the gateway. The caller persists the ledger.
    pub fn owe(&mut self, tombstone: Tombstone) {
        self.ledger.owed.retain(|owed| owed.user != tombstone.user);
        if self.ledger.owed.len() >= MAX_TOMBSTONES {
            self.ledger.owed.remove(0);
        }
        self.ledger.owed.push(tombstone);
        self.forget();
    }

    /// The oldest logout still owed.
    pub fn owed(&self) -> Option<&Tombstone> {
        self.ledger.owed.first()
    }

    /// The request that pays the oldest logout owed, sent in that user's name. The caller persists the
    /// ledger first.
    pub fn pay(&mut self) -> Option<(u64, Up)> {
        self.ledger.owed.first()?;
        self.ledger.sequence += 1;
        let sequence = self.ledger.sequence;
        Some((sequence, Up::Unbind { sequence, notifier: None, logout: true }))
    }

    /// The gateway has seen numbers up to this one: the next request's is above it. The caller persists the
    /// ledger.
    pub fn catch_up(&mut self, newest: u64) {
        // A number no device comes to is a fault of the other side; taken over, it would leave no next one.
        if newest <= MAX_SEQUENCE {
            self.ledger.sequence = self.ledger.sequence.max(newest);
        }
    }

    /// A vendor called this token dead. The caller persists the ledger.
    pub fn bury(&mut self, vendor: Vendor, token: &Secret) {
        if !self.ledger.is_dead(vendor, token) {
            if self.ledger.dead.len() >= MAX_DEAD {
                self.ledger.dead.remove(0);
            }
            self.ledger.dead.push((vendor, token.fingerprint()));
        }
    }

    /// Strikes a logout off: it was delivered, or can never be. The caller persists the ledger.
    pub fn settle(&mut self, user: &str) {
        self.ledger.owed.retain(|owed| owed.user != user);
    }

    pub fn on_event(&mut self, now: Moment, event: Event) -> Vec<Action> {
        match event {
            Event::Want(wanted) => self.want(now, wanted),
            Event::Connected => {
                self.connected = true;
                self.attempts = 0;
                match self.standing {
                    // After every connect, restart included: the gateway may have dropped the binding
                    // meanwhile, and saying it again is harmless.
                    _ if self.wanted.is_some() && !self.logout => self.send_bind(now),
                    Standing::Unbinding { .. } => self.send_unbind(now),
                    // The token went while nobody could be told.
                    _ if self.wanted.is_none() && self.ledger.confirmed.is_some() => self.send_unbind(now),
                    _ => Vec::new(),
                }
            }
            Event::Disconnected => {
                self.connected = false;
                self.retry_at = None;
                if matches!(self.standing, Standing::Bound | Standing::Binding { .. }) {
                    self.standing = if self.ledger.confirmed.is_some() { Standing::Stale } else { Standing::Unbound };
                }
                Vec::new()
            }
            Event::Answered { sequence, result, reason, expected } => {
                self.answered(now, sequence, result, reason, expected)
            }
            Event::Lost => {
                self.ledger.confirmed = None;
                self.attempts = 0;
                if self.connected {
                    return self.send_bind(now);
                }
                self.standing = Standing::Unbound;
                vec![Action::Persist]
            }
            Event::Unbind { logout } => {
                self.logout |= logout;
                self.wanted = None;
                self.attempts = 0;
                self.send_unbind(now)
            }
            Event::Kicked => {
                self.forget();
                vec![Action::Persist, Action::Unbound]
            }
            Event::Tick => match self.retry_at {
                Some(at) if at <= now && self.connected => match self.standing {
                    Standing::Unbinding { .. } => self.send_unbind(now),
                    _ if self.wanted.is_some() => self.send_bind(now),
                    _ => {
                        self.retry_at = None;
                        Vec::new()
                    }
                },
                _ => Vec::new(),
            },
        }
    }

    fn want(&mut self, now: Moment, wanted: Option<Wanted>) -> Vec<Action> {
        if self.wanted == wanted {
            return Vec::new();
        }
        let had = self.wanted.is_some();
        self.wanted = wanted;
        self.attempts = 0;
        match (&self.wanted, self.connected) {
            (Some(_), true) => self.send_bind(now),
            // A channel that was lost must not be pushed through any more.
            (None, true) if had || self.ledger.confirmed.is_some() => self.send_unbind(now),
            _ => Vec::new(),
        }
    }

    fn send_bind(&mut self, now: Moment) -> Vec<Action> {
        let Some(wanted) = self.wanted.clone() else { return Vec::new() };
        let sequence = self.next_sequence(now);
        self.standing = Standing::Binding { sequence, attempts: self.attempts };
        vec![Action::Persist, Action::Send(Up::Bind { sequence, notifier: wanted.notifier, token: wanted.token })]
    }

    fn send_unbind(&mut self, now: Moment) -> Vec<Action> {
        let sequence = self.next_sequence(now);
        self.standing = Standing::Unbinding { sequence };
        if !self.connected {
            self.retry_at = None;
            return vec![Action::Persist];
        }
        vec![Action::Persist, Action::Send(Up::Unbind { sequence, notifier: None, logout: self.logout })]
    }

    fn next_sequence(&mut self, now: Moment) -> u64 {
        self.ledger.sequence += 1;
        let pause = RETRY[(self.attempts as usize).min(RETRY.len() - 1)];
        self.attempts += 1;
        self.retry_at = Some(now + pause);
        self.ledger.sequence
    }

    fn answered(
        &mut self,
        now: Moment,
        sequence: u64,
        result: BindResult,
        reason: Option<String>,
        expected: Option<u64>,
    ) -> Vec<Action> {
        let current = match self.standing {
            Standing::Binding { sequence, .. } | Standing::Unbinding { sequence } => sequence,
            _ => return Vec::new(),
        };
        // The answer to an earlier request says nothing about the newer one.
        if sequence != current {
            return Vec::new();
        }
        if let Some(expected) = expected.filter(|expected| *expected >= self.ledger.sequence) {
            // On from where the gateway is; the request is said again with the next number.
            self.catch_up(expected);
            self.retry_at = Some(now);
            return vec![Action::Persist];
        }
        match result {
            BindResult::Later => {
                let pause = RETRY[(self.attempts as usize).min(RETRY.len() - 1)];
                self.retry_at = Some(now + pause);
                Vec::new()
            }
            _ if matches!(self.standing, Standing::Unbinding { .. }) => {
                self.forget();
                vec![Action::Persist, Action::Unbound]
            }
            BindResult::Ok => {
                self.standing = Standing::Bound;
                self.retry_at = None;
                self.attempts = 0;
                self.ledger.confirmed = self.wanted.as_ref().map(|wanted| wanted.token.fingerprint());
                vec![Action::Persist]
            }
            BindResult::Refused => {
                self.standing = Standing::Refused { reason: reason.unwrap_or_else(|| "refused".to_owned()) };
                // What it lacks, a certificate above all, may be put in later.
                let pause = RETRY[(self.attempts as usize).clamp(REFUSED, RETRY.len() - 1)];
                self.retry_at = Some(now + pause);
                self.ledger.confirmed = None;
                vec![Action::Persist]
            }
        }
    }

    fn forget(&mut self) {
        self.standing = Standing::Unbound;
        self.ledger.confirmed = None;
        self.wanted = None;
        self.logout = false;
        self.retry_at = None;
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_secs(1000);

    fn wanted(token: &str) -> Wanted {
        Wanted { vendor: Vendor::Xiaomi, notifier: "n".into(), token: Secret::new(token) }
    }

    fn sent(actions: &[Action]) -> Vec<&Up> {
        actions.iter().filter_map(|a| if let Action::Send(up) = a { Some(up) } else { None }).collect()
    }

    fn ok(sequence: u64) -> Event {
        Event::Answered { sequence, result: BindResult::Ok, reason: None, expected: None }
    }

    fn bound(token: &str) -> Binding {
        let mut binding = Binding::new(Ledger::default());
        binding.on_event(NOW, Event::Want(Some(wanted(token))));
        binding.on_event(NOW, Event::Connected);
        binding.on_event(NOW, ok(1));
        assert_eq!(binding.standing(), &Standing::Bound);
        binding
    }

    #[test]
    fn a_token_that_came_before_the_connection_is_bound_on_connecting() {
        let mut binding = Binding::new(Ledger::default());
        assert!(sent(&binding.on_event(NOW, Event::Want(Some(wanted("a"))))).is_empty());
        let actions = binding.on_event(NOW, Event::Connected);
        assert_eq!(actions[0], Action::Persist, "the sequence number is on disk before it is used");
        assert!(matches!(sent(&actions)[..], [Up::Bind { sequence: 1, .. }]));
    }

    #[test]
    fn after_a_restart_the_binding_is_said_again_with_a_newer_number() {
        let ledger = bound("a").ledger().clone();
        let mut binding = Binding::new(ledger);
        assert_eq!(binding.standing(), &Standing::Stale);
        binding.on_event(NOW, Event::Want(Some(wanted("a"))));
        assert!(matches!(sent(&binding.on_event(NOW, Event::Connected))[..], [Up::Bind { sequence: 2, .. }]));
    }

    #[test]
    fn an_unanswered_bind_is_repeated_ever_more_slowly_and_never_faster() {
        let mut binding = Binding::new(Ledger::default());
        binding.on_event(NOW, Event::Want(Some(wanted("a"))));
        binding.on_event(NOW, Event::Connected);
        let mut now = NOW;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let at = binding.next_deadline().expect("a retry");
            assert!(sent(&binding.on_event(at - Duration::from_millis(1), Event::Tick)).is_empty());
            assert_eq!(sent(&binding.on_event(at, Event::Tick)).len(), 1);
            pauses.push((at - now).as_secs());
            now = at;
        }
        assert_eq!(pauses, [5, 15, 60, 180, 600, 600, 600]);
    }

    #[test]
    fn the_answer_to_an_older_request_changes_nothing() {
        let mut binding = bound("a");
        binding.on_event(NOW, Event::Want(Some(wanted("b"))));
        assert!(binding.on_event(NOW, ok(1)).is_empty());
        assert!(matches!(binding.standing(), Standing::Binding { sequence: 2, .. }));
        binding.on_event(NOW, ok(2));
        assert_eq!(binding.ledger().confirmed, Some(Secret::new("b").fingerprint()));
    }

    #[test]
    fn a_lost_token_is_unbound_at_the_gateway() {
        let mut binding = bound("a");
        assert!(matches!(sent(&binding.on_event(NOW, Event::Want(None)))[..], [Up::Unbind { logout: false, .. }]));
    }

    #[test]
    fn a_logout_is_over_when_the_gateway_says_so() {
        let mut binding = bound("a");
        assert!(matches!(
            sent(&binding.on_event(NOW, Event::Unbind { logout: true }))[..],
            [Up::Unbind { logout: true, sequence: 2, .. }]
        ));
        assert!(binding.on_event(NOW, ok(2)).contains(&Action::Unbound));
        assert_eq!(binding.standing(), &Standing::Unbound);
    }

    #[test]
    fn a_logout_without_network_is_owed_until_settled() {
        let mut binding = bound("a");
        binding.on_event(NOW, Event::Disconnected);
        binding.owe(Tombstone { app: None, user: "ann".into(), password: Secret::new("p") });
        let mut after = Binding::new(binding.ledger().clone());
        assert_eq!(after.owed().map(|t| t.user.as_str()), Some("ann"));
        after.settle("ann");
        assert!(after.owed().is_none());
    }

    #[test]
    fn a_refused_token_is_offered_again_after_a_while_and_another_one_at_once() {
        let mut binding = Binding::new(Ledger::default());
        binding.on_event(NOW, Event::Want(Some(wanted("a"))));
        binding.on_event(NOW, Event::Connected);
        binding.on_event(
            NOW,
            Event::Answered {
                sequence: 1,
                result: BindResult::Refused,
                reason: Some("no notifier".into()),
                expected: None,
            },
        );
        let again = binding.next_deadline().expect("it is asked again");
        assert_eq!(again, NOW + Duration::from_secs(60));
        assert_eq!(sent(&binding.on_event(again, Event::Tick)).len(), 1);
        assert_eq!(sent(&binding.on_event(again, Event::Want(Some(wanted("b"))))).len(), 1);
    }

    #[test]
    fn a_token_that_comes_while_an_unbind_is_unanswered_is_bound_on_connecting() {
        let mut binding = bound("a");
        binding.on_event(NOW, Event::Want(None));
        binding.on_event(NOW, Event::Disconnected);
        binding.on_event(NOW, Event::Want(Some(wanted("b"))));
        assert!(matches!(sent(&binding.on_event(NOW, Event::Connected))[..], [Up::Bind { .. }]));
    }

    #[test]
    fn a_token_that_went_while_offline_is_unbound_on_connecting() {
        let mut binding = bound("a");
        binding.on_event(NOW, Event::Disconnected);
        binding.on_event(NOW, Event::Want(None));
        assert!(matches!(sent(&binding.on_event(NOW, Event::Connected))[..], [Up::Unbind { logout: false, .. }]));
    }

    #[test]
    fn tombstones_are_bounded() {
        let mut binding = Binding::new(Ledger::default());
        for n in 0..100 {
            binding.owe(Tombstone { app: None, user: format!("u{n}"), password: Secret::new("p") });
        }
        assert_eq!(binding.ledger().owed.len(), MAX_TOMBSTONES);
        assert_eq!(binding.owed().map(|t| t.user.as_str()), Some("u68"));
    }
}
