//! What `impush status` says: the state, since when, why, and when something happens next.

use super::{Now, Phase, Session, token};
use crate::binding::Standing;
use crate::channel::WhyNot;
use crate::keepalive::{Cause, WayReport};
use crate::protocol::BindingState;
use crate::secret::Secret;
use crate::vendors::Vendor;
use crate::vendors::rom::Confidence;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No user is logged in.
    LoggedOut,
    Connecting,
    Online,
    /// Between two attempts; `next_attempt` says when.
    Waiting,
    /// The vendor channel delivers and no app is attached: not connected on purpose.
    Resting,
    /// Only a login or an operator can help; `cause` says why.
    Stopped,
}

impl From<&Phase> for State {
    fn from(phase: &Phase) -> Self {
        match phase {
            Phase::LoggedOut => Self::LoggedOut,
            Phase::Waiting(_) => Self::Waiting,
            Phase::Connecting { .. } => Self::Connecting,
            Phase::Online(_) => Self::Online,
            Phase::Resting => Self::Resting,
            Phase::Stopped(_) => Self::Stopped,
        }
    }
}

/// Why the last link ended or attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseReport {
    pub word: Cause,
    pub number: u16,
    pub text: String,
    pub detail: String,
}

/// A planned attempt and how its time came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NextAttempt {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub in_s: f64,
    pub base_s: f64,
    pub jitter_s: f64,
}

/// What the agent has read of whom it trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trusted {
    /// The file of the authorities, or `system`.
    pub source: String,
    /// How many there are.
    pub authorities: usize,
    /// SHA-256 of the authority's certificate in hexadecimal; of several, of their digests.
    pub fingerprint: String,
    /// The same of the agent's own certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
}

/// The whole status document. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub state: State,
    pub since_ms: u64,
    pub cause: Option<CauseReport>,
    pub next_attempt: Option<NextAttempt>,
    pub server: String,
    /// The configured servers, the fallbacks after the first.
    #[serde(default)]
    pub servers: Vec<String>,
    /// The configured proxy, without its login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Whom the agent trusts; the shell's to fill in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted: Option<Trusted>,
    pub app: String,
    pub user: Option<String>,
    pub device_id: String,
    pub model: Option<String>,
    /// The active channel, or `none`.
    pub channel: String,
    /// What makes that channel this device's; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
    pub why_not: BTreeMap<Vendor, WhyNot>,
    /// Fingerprint of the active channel's token.
    pub token: Option<String>,
    pub binding: Standing,
    /// What the gateway said last of the binding; absent while it has said nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_state: Option<BindingState>,
    /// Whether a gateway has answered this connection's hello; absent without a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_answers: Option<bool>,
    /// When the gateway is next asked how the channel that is rested on does; absent while not resting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_in_s: Option<f64>,
    /// Whole days until the login's token can only renew itself; absent where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_days_left: Option<u64>,
    /// Another than the server answers through a network that it was never reached through: there may be a captive
    /// portal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sign_in: bool,
    /// What the wall clock says.
    #[serde(default)]
    pub clock_ms: u64,
    /// The time certificates and tokens are judged by, where the clock is late by a day or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged_by_ms: Option<u64>,
    /// The state directory cannot be written now.
    #[serde(default)]
    pub store_failing: bool,
    /// Logouts the gateway has not heard of yet.
    pub logouts_owed: usize,
    /// Messages on disk that no app has taken; the shell's to fill in.
    pub inbox: usize,
    pub apps_attached: usize,
    /// How often each app was started for a message.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub app_wakes: BTreeMap<String, u64>,
    /// Each server's name and who resolved it last; the shell's to fill in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, String>,
    pub heartbeat_s: f64,
    /// The search on this network has ended.
    pub heartbeat_settled: bool,
    /// Power is saved: the heartbeat may be longer.
    pub saving_power: bool,
    /// The wake lock, where the system has one and lets the agent take it; the shell's to fill in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_lock: Option<WakeLockReport>,
    /// Kind and hashed gateway of the network the connection was made on.
    pub network: Option<String>,
    pub round_trip_ms: Option<u64>,
    /// What each address of each server did at the last attempts, the newest first.
    #[serde(default)]
    pub ways: Vec<WayReport>,
    /// Small segments are asked for: this network may lose large packets.
    #[serde(default)]
    pub small_segments: bool,
    /// Bad input that was refused, by kind.
    pub refused: BTreeMap<String, u64>,
    pub version: String,
    pub pid: u32,
}

/// How often the device was kept awake, and for how long in all, since the agent started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeLockReport {
    pub taken: u64,
    pub held_ms: u64,
}

/// A wall clock that moved this much against the other, in milliseconds, was set.
const STEP_MS: u64 = 1000;

impl Session {
    /// The state for people and programs.
    pub fn status(&self, now: Now) -> Status {
        let online = self.online();
        let active = self.choice.active;
        let interval = online.map_or(self.heartbeat.interval(), |online| online.link.interval());
        let wall_of = |at: crate::keepalive::Moment| {
            let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
            now.wall_ms.saturating_add(ms(at.saturating_sub(now.at))).saturating_sub(ms(now.at.saturating_sub(at)))
        };
        // Two clocks never tick together: what was told once stays so until the wall clock is set.
        let since_ms = Some(wall_of(self.since)).filter(|ms| ms.abs_diff(self.since_ms) >= STEP_MS);
        let check = self.timers.get(super::Timer::Check);
        Status {
            state: State::from(&self.phase),
            since_ms: since_ms.unwrap_or(self.since_ms),
            cause: self.cause.as_ref().map(|failure| CauseReport {
                word: failure.cause,
                number: failure.cause.number(),
                text: failure.cause.text().to_owned(),
                detail: failure.detail.clone(),
            }),
            next_attempt: match &self.phase {
                Phase::Waiting(attempt) => Some(NextAttempt {
                    at_ms: wall_of(attempt.at),
                    in_s: attempt.at.saturating_sub(now.at).as_secs_f64(),
                    base_s: attempt.base.as_secs_f64(),
                    jitter_s: attempt.jitter.as_secs_f64(),
                }),
                _ => None,
            },
            server: self.server_name(),
            servers: self.settings.endpoints.clone(),
            proxy: self.settings.proxy.clone(),
            trusted: None,
            app: self.settings.app.to_string(),
            user: self.saved.login.as_ref().map(|login| login.user.clone()),
            device_id: self.settings.device_id.clone(),
            model: self.settings.model.clone(),
            channel: active.map_or("none", |v| v.as_str()).to_owned(),
            confidence: self.choice.confidence,
            why_not: self.choice.why_not.iter().copied().collect(),
            token: active.and_then(|v| self.saved.tokens.get(&v)).map(Secret::fingerprint),
            binding: self.binding_standing(),
            channel_state: self.resting.report().map(|report| report.state),
            gateway_answers: online.map(|_| self.greeting.answered()),
            check_in_s: check.map(|at| at.saturating_sub(now.at).as_secs_f64()),
            login_days_left: self
                .saved
                .login
                .as_ref()
                .and_then(|login| token::Life::of(&login.password))
                .map(|life| life.days_left(self.time_ms(now))),
            sign_in: self.wants_sign_in(),
            clock_ms: now.wall_ms,
            judged_by_ms: self.stand_in_ms(now),
            store_failing: self.unsaved.failing(),
            logouts_owed: self.binding.ledger().owed.len(),
            inbox: 0,
            names: BTreeMap::new(),
            apps_attached: self.attached(),
            app_wakes: self.wakes.all_times().map(|(app, times)| (app.to_owned(), times)).collect(),
            heartbeat_s: interval.as_secs_f64(),
            heartbeat_settled: self.heartbeat.current().is_some_and(|record| record.settled_ms.is_some()),
            saving_power: self.saving,
            wake_lock: None,
            network: self.network.clone(),
            round_trip_ms: online
                .and_then(|online| online.link.round_trip())
                .map(|rtt| u64::try_from(rtt.as_millis()).unwrap_or(u64::MAX)),
            ways: self.ways.report(now.at),
            small_segments: self.ways.small_segments(now.at, self.network.as_deref()),
            refused: self.counts.refused.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
        }
    }

    fn wants_sign_in(&self) -> bool {
        let trying = matches!(self.phase, Phase::Waiting(_) | Phase::Connecting { .. });
        trying && self.cause.as_ref().is_some_and(|failure| self.arrival.wants_sign_in(failure.cause))
    }

    /// A phone that rests on its channel is bound, though no connection says so at this moment.
    fn binding_standing(&self) -> Standing {
        match (&self.phase, self.binding.standing()) {
            (Phase::Resting, Standing::Stale) => Standing::Bound,
            (_, standing) => standing.clone(),
        }
    }

    /// One line for the service manager.
    pub fn headline(&self) -> String {
        let why = |what: &str| match &self.cause {
            Some(failure) => format!("{what}: {}", failure.cause.text()),
            None => what.to_owned(),
        };
        match &self.phase {
            Phase::Online(online) if self.greeting.silent() => {
                format!("connected to {}, but no gateway answers there", online.server)
            }
            Phase::Online(online) => format!(
                "online at {}, heartbeat {:.0} s, channel {}",
                online.server,
                online.link.interval().as_secs_f64(),
                self.choice.active.map_or("none", |vendor| vendor.as_str())
            ),
            Phase::LoggedOut => "nobody is logged in".to_owned(),
            Phase::Resting => "the vendor's channel delivers; not connected on purpose".to_owned(),
            Phase::Connecting { .. } => format!("connecting to {}", self.server_name()),
            Phase::Waiting(_) => why("waiting to try again"),
            Phase::Stopped(_) => why("stopped until somebody helps"),
        }
    }
}

#[cfg(test)]
impl Status {
    /// A healthy board that is online.
    pub fn example() -> Self {
        let example = serde_json::json!({
            "state": "online", "since_ms": 1, "cause": null, "next_attempt": null, "server": "mqtts://localhost",
            "app": "org#app", "user": "ann", "device_id": "d1", "model": null, "channel": "none", "why_not": {},
            "token": null, "binding": { "state": "unbound" }, "logouts_owed": 0, "inbox": 0, "apps_attached": 1,
            "heartbeat_s": 240.0, "heartbeat_settled": true, "saving_power": false, "network": null,
            "round_trip_ms": null, "refused": {}, "version": "0", "pid": 1
        });
        serde_json::from_value(example).expect("a status")
    }
}
