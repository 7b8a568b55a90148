//! The agent's core: what it holds, and what follows each event. No I/O, no clock, no tokio.
//!
//! ```text
//!             shell                                   session
//!   sockets, disk, clock ---- Event ----> on_event(now, event) ---- Actions ----> carried out in order
//!                        <--- what came of each, as the next events ---
//! ```
//!
//! A login that has a way to its gateway is at every moment online, or resting on a channel that the gateway
//! confirmed within the check interval, or its next attempt stands in the table of timers; it stops only on
//! the gateway's own word or the operator's.

mod action;
mod apps;
mod arrival;
mod awake;
mod channel;
mod clock;
mod connection;
mod down;
mod endpoints;
mod event;
mod greeting;
mod local_apps;
mod login;
mod names;
mod network;
mod owed;
mod persist;
mod phase;
mod random;
mod reconfigured;
mod reports;
mod request;
mod resting;
mod saved;
mod search;
mod status;
mod tick;
mod timers;
mod token;
mod wakes;

pub use action::{Action, Actions, Broker, Dial, Goodbye, Side, Write};
pub use endpoints::Server;
pub use event::{Event, Ground, Kept, Now, Packet, SideKind, SideOutcome, Sight, Standing as LinkStanding};
pub use local_apps::{LocalApp, UnknownWake, Wake};
pub use persist::{Change, Kind};
pub use phase::Phase;
pub use reconfigured::Changeable;
pub use request::{Answer, Ask, Patience, Refusal, RequestId};
pub use saved::{Ended, Login, Reports, Saved};
pub use status::{CauseReport, NextAttempt, State, Status, Trusted, WakeLockReport};
pub use timers::{Timer, Timers};
pub use token::user_name;

use crate::binding::Binding;
use crate::channel::Choice;
use crate::ids::AppId;
use crate::keepalive::{Bounds, Failure, Heartbeat, Moment, PowerMode, Reconnect, Ways, next_wake};
use crate::protocol::Topics;
use crate::vendors::Vendor;
use crate::vendors::rom::Confidence;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What a session is made with: the configuration, and what the device is.
#[derive(Debug, Clone)]
pub struct Settings {
    pub app: AppId,
    pub topics: Topics,
    pub device_id: String,
    /// The disk has the device id; else it is owed to it.
    pub device_id_is_stored: bool,
    /// Fingerprint of the machine, so that two with one state directory are told apart.
    pub instance: Option<String>,
    /// The configured servers as people read them, the fallbacks after the first.
    pub endpoints: Vec<String>,
    /// The proxy that leads to them, as people read it.
    pub proxy: Option<String>,
    /// Vendors in the order in which they are tried.
    pub order: Vec<Vendor>,
    /// The configuration's certificate names.
    pub certificates: BTreeMap<Vendor, String>,
    /// The channel this device's ROM can carry, and how sure that is.
    pub candidate: Option<(Vendor, Confidence)>,
    /// The channel the operator named.
    pub forced: Option<Vendor>,
    pub platform: String,
    pub model: Option<String>,
    /// How long the connection is held after the last app went, when a vendor channel delivers.
    pub linger: Duration,
    /// First pause between two looks at a channel that is rested on; it doubles while all is well.
    pub check_first: Duration,
    /// ... up to this.
    pub check_most: Duration,
    pub bounds: Bounds,
    pub low_power: PowerMode,
    pub low_power_ceiling: Duration,
    /// When this program was built, in milliseconds since the Unix epoch: no right clock is earlier.
    pub built_ms: u64,
    /// Random from the system: connections and logins of two runs are not confused.
    pub entropy: u64,
}

/// What only grows, since the process began.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub connections: u64,
    pub messages: u64,
    /// Short looks at a channel that is rested on.
    pub checks: u64,
    /// Links lost and attempts failed, by their cause's word.
    pub lost: BTreeMap<&'static str, u64>,
    /// Bad input that was refused, by kind.
    pub refused: BTreeMap<String, u64>,
}

/// The agent's state, and the only thing that decides.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    saved: Saved,
    unsaved: persist::Unsaved,
    /// A request that is answered when the disk has it.
    storing: Option<request::Storing>,
    /// Requests that wait for the gateway.
    login_waits: Option<RequestId>,
    logout_waits: Option<RequestId>,
    binding: Binding,
    /// Why the gateway refused to bind, as it was logged.
    refusal: Option<String>,
    choice: Choice,
    reconnect: Reconnect,
    heartbeat: Heartbeat,
    clock: clock::Clock,
    arrival: arrival::Arrival,
    search: search::Search,
    endpoints: endpoints::Endpoints,
    ways: Ways,
    /// A CONNECT of this device was given up unanswered: it may yet take over the connection that came after.
    gave_up: Option<Moment>,
    greeting: greeting::Greeting,
    resting: resting::Resting,
    owed: owed::Owed,
    phase: Phase,
    /// When the phase began. Not by the wall clock, which may be set meanwhile.
    since: Moment,
    /// What the wall clock said then.
    since_ms: u64,
    /// Why the last link ended or attempt failed.
    cause: Option<Failure>,
    timers: Timers,
    /// Streams that are open, by the local app's name.
    apps: BTreeMap<String, usize>,
    wakes: wakes::Wakes,
    /// The network the connection was made on.
    network: Option<String>,
    /// What the last attempt was made on: without a change, a notice is no reason for another.
    tried: Option<Ground>,
    /// When the network was looked at last.
    looked: Option<Moment>,
    power_mode: PowerMode,
    saving: bool,
    /// The broker's session holds this process's subscription.
    subscribed: bool,
    /// The session at the broker holds something this agent cannot read: the next connection ends it, or it
    /// would come again for ever. The gateway's store has every message.
    poisoned: bool,
    /// What the broker is not known to refuse.
    broker: Broker,
    /// ... and that it takes no QoS 1 has been said.
    at_most_once_told: bool,
    /// When the gateway was last asked for a new token.
    renewal_asked: Option<Moment>,
    /// The inbox was full; the gateway is asked again when there is room.
    starved: bool,
    /// The disk lost messages: the gateway is to give again what it knows to be acknowledged and not taken.
    inbox_lost: bool,
    random: random::Random,
    counts: Counts,
    out: VecDeque<Action>,
}

impl Session {
    /// A session that has not begun; [`Event::Started`] begins it.
    pub fn new(settings: Settings, saved: Saved, now: Now) -> Self {
        let seed = u64::from_str_radix(settings.device_id.get(..15).unwrap_or("0"), 16).unwrap_or(0);
        Self {
            heartbeat: Heartbeat::new(settings.bounds, saved.heartbeat.clone(), now.wall_ms),
            binding: Binding::new(saved.ledger.clone()),
            // The device's own seed: a replayed device behaves the same, a fleet does not.
            reconnect: Reconnect::new(seed),
            random: random::Random::new(settings.entropy),
            clock: clock::Clock::new(settings.built_ms, now.at),
            arrival: arrival::Arrival::default(),
            power_mode: settings.low_power,
            endpoints: endpoints::Endpoints::new(settings.endpoints.len()),
            ways: Ways::default(),
            gave_up: None,
            cause: saved.ended.as_ref().map(Ended::failure),
            settings,
            saved,
            unsaved: persist::Unsaved::default(),
            storing: None,
            login_waits: None,
            logout_waits: None,
            refusal: None,
            choice: Choice::default(),
            search: search::Search::default(),
            greeting: greeting::Greeting::default(),
            resting: resting::Resting::default(),
            owed: owed::Owed::default(),
            phase: Phase::LoggedOut,
            since: now.at,
            since_ms: now.wall_ms,
            timers: Timers::default(),
            apps: BTreeMap::new(),
            wakes: wakes::Wakes::default(),
            network: None,
            tried: None,
            looked: None,
            saving: false,
            subscribed: false,
            poisoned: false,
            broker: Broker::default(),
            at_most_once_told: false,
            renewal_asked: None,
            starved: false,
            inbox_lost: false,
            counts: Counts::default(),
            out: VecDeque::new(),
        }
    }

    /// What follows an event. The actions are carried out in their order, and what comes of each is told as
    /// an event before anything else is.
    pub fn on_event(&mut self, now: Now, event: Event) -> Actions {
        match event {
            Event::Started => self.on_started(now),
            Event::Request { id, ask } => self.on_request(now, id, ask),
            Event::AppCame { app } => self.app_came(now, &app),
            Event::Taken { ids } => self.on_taken(now, ids),
            Event::DialStarted { ground } => {
                self.arrival.saw(now.at, ground.as_ref().map(|(network, _)| network.as_str()));
                self.tried = ground;
            }
            Event::Tried { nonce, network, ways } => self.on_tried(now, &nonce, network.as_deref(), ways),
            Event::Dialled { nonce, standing } => self.on_dialled(now, &nonce, *standing),
            Event::DialFailed { nonce, failure } => self.on_dial_failed(now, &nonce, failure),
            Event::Heard(packet) => self.on_packet(now, packet),
            Event::Lost(failure) => self.on_lost(now, failure),
            Event::Written { unanswered } => self.on_written(now, unanswered),
            Event::Kept { id, from, packet_id, kept } => self.on_kept(now, id, &from, packet_id, kept),
            Event::Tick => self.on_tick(now),
            Event::NetworkNotice => self.on_notice(now),
            Event::NameServersChanged => self.on_name_servers(now),
            Event::TrustChanged => self.on_trust_changed(now),
            Event::NetworkSeen(sight) => {
                self.arrival.saw(now.at, sight.ground.as_ref().map(|(network, _)| network.as_str()));
                self.on_sight(now, sight);
            }
            Event::Woke { gap } => self.on_wake(now, gap),
            Event::ClockStepped => self.on_clock_step(now),
            Event::Reconfigured { changeable, way_changed } => self.on_reconfigured(now, *changeable, way_changed),
            Event::BatterySeen(battery) => self.on_battery(battery),
            Event::SideAboutToPing => self.on_side_about_to_ping(),
            Event::SideEnded { side, outcome } => self.on_side_ended(now, side, outcome),
            Event::InboxLost => self.inbox_lost = true,
            Event::Persisted { kind, version } => self.on_persisted(now, kind, version),
            Event::PersistFailed { kind, version, why } => self.on_persist_failed(now, kind, version, &why),
            Event::Shutdown => self.on_shutdown(now),
        }
        self.settle_timers();
        Actions(std::mem::take(&mut self.out))
    }

    /// When [`Event::Tick`] is due; `None` when nothing is planned.
    pub fn next_wake(&self) -> Option<Moment> {
        let pulse = self.timers.get(Timer::Link);
        let urgent = self.logout_waits.is_some() || self.timers.get(Timer::NetworkLook).is_some();
        next_wake(pulse, self.timers.others(Timer::Link), self.saving && !urgent)
    }

    /// What is known of the ways to the servers.
    pub fn ways(&self) -> &Ways {
        &self.ways
    }

    /// The network that the connection is on, or was last.
    pub fn network(&self) -> Option<&str> {
        self.network.as_deref()
    }

    /// Servers in the order in which an attempt tries them.
    pub fn servers(&self) -> Vec<Server> {
        self.endpoints.order()
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    pub fn timers(&self) -> &Timers {
        &self.timers
    }

    /// What should stand on the disk.
    pub fn saved(&self) -> &Saved {
        &self.saved
    }

    /// What the disk has not taken yet.
    pub fn unsaved(&self) -> impl Iterator<Item = Kind> {
        self.unsaved.kinds()
    }

    fn act(&mut self, action: Action) {
        self.out.push_back(action);
    }

    fn enter(&mut self, now: Now, phase: Phase) {
        if State::from(&self.phase) != State::from(&phase) {
            (self.since, self.since_ms) = (now.at, now.wall_ms);
        }
        // A planned attempt belongs to the phase that waits for it.
        match &phase {
            Phase::Waiting(attempt) => self.timers.set(Timer::Attempt, attempt.at),
            _ => self.timers.clear(Timer::Attempt),
        }
        if !matches!(phase, Phase::Online(_)) {
            for timer in [Timer::Linger, Timer::Greeting, Timer::Search, Timer::Recheck, Timer::Renewal] {
                self.timers.clear(timer);
            }
        }
        if !matches!(phase, Phase::Resting) {
            self.timers.clear(Timer::Check);
        }
        self.phase = phase;
    }

    /// Two deadlines belong to values of their own.
    fn settle_timers(&mut self) {
        let link = self.online().map(|online| online.link.next_deadline());
        let binding = self.online().and_then(|_| self.binding.next_deadline());
        self.timers.put(Timer::Link, link);
        self.timers.put(Timer::Binding, binding);
    }

    fn online(&self) -> Option<&phase::Online> {
        match &self.phase {
            Phase::Online(online) => Some(online),
            _ => None,
        }
    }

    fn online_mut(&mut self) -> Option<&mut phase::Online> {
        match &mut self.phase {
            Phase::Online(online) => Some(online),
            _ => None,
        }
    }

    fn attached(&self) -> usize {
        self.apps.values().sum()
    }

    /// Counts bad input and logs its first time only.
    fn count_refused(&mut self, kind: &str, why: &dyn std::fmt::Display) {
        let count = self.counts.refused.entry(kind.to_owned()).or_default();
        *count += 1;
        if *count == 1 {
            tracing::warn!(event = "input.refused", kind, %why, "bad input refused; more of this kind are only counted");
        }
    }
}

#[cfg(test)]
mod tests;
