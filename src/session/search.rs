//! The heartbeat's search: side connections that idle, and what the main link's own answers and losses
//! teach.

use super::event::SideKind;
use super::{Action, Now, Session, Side, SideOutcome, Timer};
use crate::keepalive::{Cause, Moment, ProbeOutcome};
use std::time::Duration;
use tracing::{debug, info, warn};

/// Pause before a probe that said nothing is tried again; it doubles up to the longest.
const PAUSE: Duration = Duration::from_secs(30);
const PAUSE_MOST: Duration = Duration::from_secs(3600);
/// A lost link is idle-expiry evidence only if a new one stands this soon after...
const SUCCEEDS_AT_ONCE: Duration = Duration::from_secs(15);
/// ... and answers so long after it came up: whatever the server had for this device is under way by then.
const ANSWERS_AFTER: Duration = Duration::from_secs(3);

/// What the search remembers between events.
#[derive(Debug, Default)]
pub(super) struct Search {
    probing: bool,
    pause: Duration,
    /// A probe was not answered: it counts once the main link has answered.
    doubted: Option<Duration>,
    suspect: Option<Suspect>,
}

/// A link that died in silence: the network forgot it while it idled, or swallows what the server sends.
#[derive(Debug)]
struct Suspect {
    /// How long the link had been idle; nothing where that was too short for any network's limit.
    idle: Option<Duration>,
    lost: Moment,
    network: Option<String>,
    /// When the next one came up.
    up: Option<Moment>,
}

impl Session {
    /// A connection stands: name the network, judge an earlier loss, set the interval.
    pub(super) fn search_up(&mut self, now: Now, network: Option<String>) {
        if let Some(key) = &network {
            self.heartbeat.on_network(key, now.wall_ms);
        }
        let suspect = self.search.suspect.take();
        self.search.suspect = suspect
            .filter(|loss| now.at.saturating_sub(loss.lost) <= SUCCEEDS_AT_ONCE && loss.network == network)
            .map(|loss| Suspect { up: Some(now.at), ..loss });
        if self.search.suspect.is_some()
            && let Some(online) = self.online_mut()
        {
            online.link.ping_at(now.at + ANSWERS_AFTER);
        }
        self.network = network;
        self.act(Action::LookAtBattery);
        self.set_heartbeat();
        self.search.pause = PAUSE;
        self.timers.set(Timer::Search, now.at + PAUSE);
    }

    /// The connection lives on, on another network.
    pub(super) fn search_moved(&mut self, now: Now, network: Option<String>) {
        if network == self.network {
            return;
        }
        if let Some(key) = &network {
            self.heartbeat.on_network(key, now.wall_ms);
        }
        self.network = network;
        self.set_heartbeat();
    }

    /// The main link was lost. Only a loss after idleness, without data under way, says anything about the network.
    pub(super) fn search_lost(&mut self, now: Now, cause: Cause, idle: Duration, large: bool) {
        self.cancel_probe();
        let silent = matches!(cause, Cause::PongLost | Cause::AckLost | Cause::WriteStalled);
        if silent && large {
            self.on_large_lost(now, self.network.clone());
        }
        // The next link died before it had been idle: what the server sends does not get through.
        let again = self.search.suspect.take().is_some_and(|loss| loss.up.is_some());
        // So short a silence is no network's limit: something else was under way.
        let idle = Some(idle).filter(|idle| *idle >= self.settings.bounds.floor);
        if silent && again && idle.is_none() {
            return self.on_large_lost(now, self.network.clone());
        }
        let suspicious = silent && !large && cause != Cause::WriteStalled;
        self.search.suspect =
            suspicious.then(|| Suspect { idle, lost: now.at, network: self.network.clone(), up: None });
    }

    /// The main link answered after `idle`.
    pub(super) fn search_answered(&mut self, now: Now, idle: Duration) {
        if let Some(tested) = self.search.doubted.take() {
            self.search_learnt(now, tested, ProbeOutcome::Lost);
        }
        self.judge_suspect(now);
        if self.heartbeat.on_answer_after(idle, now.wall_ms) {
            debug!(
                event = "link.idle_survived",
                idle_s = idle.as_secs(),
                "the network kept an idle connection this long"
            );
            self.save_heartbeat();
        }
        self.set_heartbeat();
    }

    /// The last link on this network died in silence, and none has come up since.
    pub(super) fn was_swallowed(&self, network: Option<&str>) -> bool {
        let suspect = self.search.suspect.as_ref();
        suspect.is_some_and(|loss| loss.up.is_none() && loss.network.as_deref() == network)
    }

    /// The link after the lost one answers: it was the idleness.
    fn judge_suspect(&mut self, now: Now) {
        let lasts = |up: Moment| now.at.saturating_sub(up) >= ANSWERS_AFTER;
        let Some(loss) = self.search.suspect.take_if(|loss| loss.up.is_some_and(lasts)) else { return };
        let Some(idle) = loss.idle else { return };
        self.heartbeat.on_lost_after(idle, now.wall_ms);
        info!(
            event = "heartbeat.lost",
            idle_s = idle.as_secs(),
            interval_s = self.heartbeat.interval().as_secs(),
            "this network cuts idle connections earlier than known"
        );
        self.save_heartbeat();
    }

    /// Starts a probe if one is wanted.
    pub(super) fn search_step(&mut self, now: Now) {
        if self.search.probing {
            return;
        }
        // A vendor channel that delivers needs no long heartbeat; the connection rests soon.
        let wanted = self.heartbeat.wanted_probe(now.wall_ms).filter(|_| self.choice.active.is_none());
        let (Some(idle), Some(address), Some(login)) = (wanted, self.address(), self.saved.login.clone()) else {
            self.timers.set(Timer::Search, now.at + PAUSE_MOST);
            return;
        };
        debug!(
            event = "heartbeat.probe",
            tested_s = idle.as_secs(),
            "a side connection tests how long this network keeps it"
        );
        self.search.probing = true;
        self.act(Action::StartSide(Box::new(Side::Probe { address, password: login.password, idle })));
    }

    pub(super) fn on_side_about_to_ping(&mut self) {
        if let Some(online) = self.online_mut() {
            online.link.ping_now();
        }
    }

    pub(super) fn on_side_ended(&mut self, now: Now, side: SideKind, outcome: SideOutcome) {
        match (side, outcome) {
            (SideKind::Probe, SideOutcome::Probed { idle, outcome }) => self.on_probe_ended(now, idle, outcome),
            (SideKind::Probe, _) => self.search.probing = false,
            (SideKind::Check, outcome) => self.on_check_ended(now, outcome),
            (SideKind::Unbind, outcome) => self.on_unbind_ended(now, outcome),
        }
    }

    /// A probe ended. A loss is believed only after the main link has answered a ping.
    fn on_probe_ended(&mut self, now: Now, tested: Duration, outcome: ProbeOutcome) {
        if !std::mem::take(&mut self.search.probing) || self.online().is_none() {
            return;
        }
        if outcome == ProbeOutcome::Lost {
            self.search.doubted = Some(tested);
            return self.on_side_about_to_ping();
        }
        self.search_learnt(now, tested, outcome);
    }

    fn search_learnt(&mut self, now: Now, tested: Duration, outcome: ProbeOutcome) {
        let refused_before = self.heartbeat.side_refused();
        self.heartbeat.on_probe(tested, outcome, now.wall_ms);
        self.timers.set(Timer::Search, now.at + self.search.pause);
        if outcome == ProbeOutcome::Inconclusive {
            self.search.pause = (self.search.pause * 2).clamp(PAUSE, PAUSE_MOST);
            return;
        }
        self.search.pause = Duration::ZERO;
        if outcome == ProbeOutcome::Refused && !refused_before {
            warn!(
                event = "heartbeat.side_refused",
                "the server allows no second connection; the main link is stretched in small steps instead"
            );
        }
        let record = self.heartbeat.current();
        let settled = record.is_some_and(|record| record.settled_ms.is_some());
        info!(
            event = if settled { "heartbeat.settled" } else { "heartbeat.probed" }, tested_s = tested.as_secs(), outcome = ?outcome,
            interval_s = self.heartbeat.interval().as_secs(), network = self.network, probes = record.map(|r| r.probes), "heartbeat search"
        );
        self.set_heartbeat();
        self.save_heartbeat();
    }

    pub(super) fn set_heartbeat(&mut self) {
        let interval = self.heartbeat.interval();
        if let Some(online) = self.online_mut() {
            online.link.set_interval(online.server_limit.map_or(interval, |limit| interval.min(limit)));
        }
    }

    pub(super) fn cancel_probe(&mut self) {
        self.search.doubted = None;
        if std::mem::take(&mut self.search.probing) {
            self.act(Action::CancelSide(SideKind::Probe));
        }
    }

    /// A probe's idleness was disturbed; what it would say counts no more.
    pub(super) fn disturb_search(&mut self, now: Now) {
        if self.search.probing {
            self.cancel_probe();
            if self.online().is_some() {
                self.timers.set(Timer::Search, now.at + PAUSE);
            }
        }
    }

    pub(super) fn forget_search(&mut self, now: Now) {
        self.cancel_probe();
        self.search.suspect = None;
        if self.online().is_some() {
            self.timers.set(Timer::Search, now.at + PAUSE);
        }
    }
}
