//! The daemon's state as `impush status` reports it.

use super::clock;
use super::state::Daemon;
use super::status::{CauseReport, NextAttempt, State, Status};

impl Daemon {
    /// One line for the service manager.
    pub fn headline(&self) -> String {
        match (self.state, &self.cause) {
            (State::Online, _) => format!(
                "online at {}, heartbeat {:.0} s, channel {}",
                self.endpoint(),
                self.online.as_ref().map_or(self.heartbeat.interval(), |online| online.link.interval()).as_secs_f64(),
                self.choice.active.map_or("none", |vendor| vendor.as_str())
            ),
            (State::LoggedOut, _) => "nobody is logged in".to_owned(),
            (State::Resting, _) => "the vendor's channel delivers; not connected on purpose".to_owned(),
            (State::Connecting, _) => format!("connecting to {}", self.endpoint()),
            (State::Waiting, Some(error)) => format!("waiting to try again: {}", error.cause.text()),
            (State::Stopped, Some(error)) => format!("stopped until somebody helps: {}", error.cause.text()),
            (state, None) => format!("{state:?}").to_lowercase(),
        }
    }

    pub fn status(&self) -> Status {
        let now = clock::now();
        Status {
            state: self.state,
            since_ms: self.since_ms,
            cause: self.cause.as_ref().map(|error| CauseReport {
                word: error.cause,
                number: error.cause.number(),
                text: error.cause.text().to_owned(),
                detail: error.detail.clone(),
            }),
            next_attempt: self.next_attempt.filter(|_| self.state == State::Waiting).map(|attempt| NextAttempt {
                at_ms: clock::wall_ms_of(attempt.at),
                in_s: attempt.at.saturating_sub(now).as_secs_f64(),
                base_s: attempt.base.as_secs_f64(),
                jitter_s: attempt.jitter.as_secs_f64(),
            }),
            server: self.endpoint().to_string(),
            app: self.ready.app.clone(),
            user: self.disk.store.login().map(|login| login.user.clone()),
            device_id: self.disk.store.device_id().to_owned(),
            model: self.profile.model.clone(),
            channel: self.choice.active.map_or("none", |v| v.as_str()).to_owned(),
            why_not: self.choice.why_not.iter().copied().collect(),
            token: self
                .choice
                .active
                .and_then(|v| self.disk.store.tokens().get(&v))
                .map(crate::secret::Secret::fingerprint),
            binding: self.binding.standing().clone(),
            logouts_owed: self.binding.ledger().owed.len(),
            inbox: self.disk.inbox.as_ref().map_or(0, crate::store::Inbox::depth),
            apps_attached: self.attached,
            heartbeat_s: self
                .online
                .as_ref()
                .map_or(self.heartbeat.interval(), |online| online.link.interval())
                .as_secs_f64(),
            heartbeat_settled: self.heartbeat.current().is_some_and(|record| record.settled_ms.is_some()),
            saving_power: self.saving,
            network: self.network.clone(),
            round_trip_ms: self
                .online
                .as_ref()
                .and_then(|online| online.link.round_trip())
                .map(|rtt| u64::try_from(rtt.as_millis()).unwrap_or(u64::MAX)),
            refused: self.refused.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
        }
    }
}
