//! Logouts made without a network: told to the gateway on a short connection of their own. They go before
//! the next login's where that is quick, and never stand in its way.

use super::event::SideKind;
use super::{Action, Now, Phase, Session, Side, SideOutcome, Timer};
use crate::keepalive::{Attempt, Cause, Failure, Moment, Recovery};
use crate::protocol::{Address, BindResult};
use std::time::Duration;
use tracing::{debug, info, warn};

/// How long the next login waits for an old logout to be told.
const HEAD_START: Duration = Duration::from_secs(10);
/// Pause before a logout that could not be told is tried again; it doubles.
const AGAIN: Duration = Duration::from_secs(30);
const AGAIN_MOST: Duration = Duration::from_secs(3600);

/// Where the telling of old logouts stands.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// Whose is under way.
    running: Option<String>,
    pause: Duration,
    /// A try has failed: the login goes ahead, and the next tries go beside it.
    tried: bool,
    /// When the login that waits for it goes ahead all the same.
    head_start: Option<Moment>,
    /// The gateway has named its number once; a second time in a row the pause holds.
    caught_up: bool,
}

impl Session {
    /// Whether the next connection waits for an old logout.
    pub(super) fn owed_goes_first(&self) -> bool {
        self.binding.owed().is_some() && !self.owed.tried
    }

    pub(super) fn pay_owed_first(&mut self, now: Now) -> Attempt {
        self.pay_owed();
        // When it has been told, the attempt is made at once.
        self.owed.tried = true;
        self.owed.head_start = Some(now.at + HEAD_START);
        Attempt { at: now.at + HEAD_START, base: HEAD_START, jitter: Duration::ZERO, cause: Cause::Requested }
    }

    /// Starts telling the oldest logout that is owed.
    pub(super) fn pay_owed(&mut self) {
        if self.owed.running.is_some() {
            return;
        }
        let Some(tombstone) = self.binding.owed().cloned() else {
            self.owed = Owed::default();
            return self.timers.clear(Timer::Owed);
        };
        let app = tombstone.app.unwrap_or_else(|| self.settings.app.clone());
        let Ok(address) = Address::new(app.as_str(), &tombstone.user, &self.settings.device_id) else {
            // Login and configuration refuse such ids; one on disk is from another version.
            self.settle_owed(&tombstone.user);
            return self.pay_owed();
        };
        let Some((sequence, unbind)) = self.binding.pay() else { return };
        self.save_ledger();
        self.timers.clear(Timer::Owed);
        self.owed.running = Some(tombstone.user);
        self.act(Action::StartSide(Box::new(Side::Unbind { address, password: tombstone.password, sequence, unbind })));
    }

    pub(super) fn on_unbind_ended(&mut self, now: Now, outcome: SideOutcome) {
        let Some(user) = self.owed.running.take() else { return };
        let told = match outcome {
            SideOutcome::Unbound { result: BindResult::Later, expected: Some(newest) } if !self.owed.caught_up => {
                self.owed.caught_up = true;
                self.binding.catch_up(newest);
                return self.pay_owed();
            }
            SideOutcome::Unbound { result: BindResult::Later, .. } => false,
            SideOutcome::Unbound { .. } => true,
            // The old login is over, which is all that was wanted.
            SideOutcome::Kicked { .. } => true,
            SideOutcome::Failed(failure) => self.unpayable(&failure),
            SideOutcome::Probed { .. } | SideOutcome::Checked { .. } => false,
        };
        self.owed.caught_up = false;
        let head_start = self.owed.head_start;
        if told {
            info!(event = "logout.paid", "a logout made without a network has reached the gateway");
            self.settle_owed(&user);
            self.owed.pause = Duration::ZERO;
            self.finish_logout(now, super::login::Told::Yes);
            self.pay_owed();
        } else {
            self.owed.tried = true;
            self.owed.pause = (self.owed.pause * 2).clamp(AGAIN, AGAIN_MOST);
            self.timers.set(Timer::Owed, now.at + self.owed.pause);
            self.finish_logout(now, super::login::Told::No);
        }
        // The login that waited for it goes on.
        let waits = matches!(&self.phase, Phase::Waiting(attempt) if Some(attempt.at) == head_start);
        if self.owed.running.is_none() && waits {
            self.dial(now);
        }
    }

    /// Credentials that the server refuses cannot pay: the gateway has ended that login itself.
    fn unpayable(&self, failure: &Failure) -> bool {
        let hopeless = failure.cause.recovery() == Recovery::Stop || failure.end.is_some();
        if hopeless {
            warn!(
                event = "logout.unpayable",
                cause = failure.cause.as_str(),
                "the gateway refuses an old login; its logout needs no telling"
            );
        } else {
            debug!(event = "logout.untold", cause = failure.cause.as_str(), "an old logout could not be told yet");
        }
        hopeless
    }

    pub(super) fn settle_owed(&mut self, user: &str) {
        let before = self.binding.ledger().owed.len();
        self.binding.settle(user);
        if self.owed.running.as_deref() == Some(user) {
            self.owed.running = None;
            self.act(Action::CancelSide(SideKind::Unbind));
        }
        if self.binding.ledger().owed.len() != before {
            self.save_ledger();
        }
    }
}
