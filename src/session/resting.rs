//! Resting: the vendor channel delivers, and a short look now and then makes sure that it still does.

use super::event::SideKind;
use super::login::SessionAtBroker;
use super::{Action, Now, Phase, Session, Side, SideOutcome, State, Timer};
use crate::binding::Standing;
use crate::keepalive::{Cause, Failure};
use crate::protocol::{BindingReport, BindingState};
use std::time::Duration;
use tracing::{debug, info, warn};

/// What is known of the channel that is rested on.
#[derive(Debug, Default)]
pub(super) struct Resting {
    /// What the gateway said last of the wanted binding.
    report: Option<BindingReport>,
    /// The gateway is of before and says nothing of bindings: a whole connection is the only look.
    silent_gateway: bool,
    /// Between this look and the next.
    interval: Duration,
    checking: bool,
}

impl Resting {
    pub fn forget_report(&mut self) {
        self.report = None;
        self.interval = Duration::ZERO;
    }

    pub fn report(&self) -> Option<&BindingReport> {
        self.report.as_ref()
    }
}

impl Session {
    /// Only a binding that the gateway confirmed and can use replaces the connection.
    pub(super) fn may_rest(&self) -> bool {
        let usable = self.resting.report.as_ref().is_none_or(|report| report.state.may_be_rested_on());
        self.choice.active.is_some() && self.confirmed() && usable
    }

    /// The gateway has confirmed the binding that is wanted: over this connection, or over the one before the
    /// rest.
    fn confirmed(&self) -> bool {
        match self.binding.standing() {
            Standing::Bound => true,
            Standing::Stale if matches!(self.phase, Phase::Resting) => {
                let wanted = self.binding.wanted().map(|wanted| wanted.token.fingerprint());
                wanted.is_some() && self.binding.ledger().confirmed == wanted
            }
            _ => false,
        }
    }

    /// Starts the linger time when the vendor channel could deliver and no app is attached.
    pub(super) fn linger(&mut self, now: Now) {
        let may = self.choice.active.is_some() && self.attached() == 0 && self.online().is_some();
        let linger = may.then(|| now.at + self.settings.linger);
        self.timers.put(Timer::Linger, linger);
    }

    /// The linger time is over.
    pub(super) fn rest(&mut self, now: Now) {
        if self.attached() > 0 || !self.may_rest() {
            // Something is still to come, or does not serve; the welcome and the answer to the bind try again.
            return self.recheck_later(now);
        }
        self.part(now, Cause::LingerOver, SessionAtBroker::Kept);
        self.enter(now, Phase::Resting);
        self.resting.interval = self.resting.interval.max(self.settings.check_first);
        self.plan_check(now);
    }

    /// The connection is held although there is a channel: the bindings are asked about again.
    fn recheck_later(&mut self, now: Now) {
        let interval = self.resting.interval.max(self.settings.check_first);
        self.timers.set(Timer::Recheck, now.at + interval);
        self.resting.interval = (interval * 2).min(self.settings.check_most);
    }

    fn plan_check(&mut self, now: Now) {
        // A tenth earlier at most, so that a fleet that rested together does not look together. The longest
        // pauses keep what the shorter ones have spread.
        let settled = self.resting.interval >= self.settings.check_most;
        let tenth = if settled { Duration::ZERO } else { self.resting.interval / 10 };
        let early = tenth.mul_f64((self.random.next() % 1000) as f64 / 1000.0);
        self.timers.set(Timer::Check, now.at + self.resting.interval - early);
    }

    /// Looks at once: the device woke, the network changed, or an app came.
    pub(super) fn check_soon(&mut self, now: Now) {
        if State::from(&self.phase) == State::Resting && !self.resting.checking {
            self.check(now);
        }
    }

    pub(super) fn check(&mut self, now: Now) {
        if State::from(&self.phase) != State::Resting {
            return;
        }
        if std::mem::take(&mut self.resting.checking) {
            self.act(Action::CancelSide(SideKind::Check));
            return self.leave_rest(now, "the last look did not end");
        }
        let (Some(login), Some(address)) = (self.saved.login.clone(), self.address()) else { return };
        if self.resting.silent_gateway {
            return self.leave_rest(now, "the gateway does not answer short looks");
        }
        self.resting.checking = true;
        // The look takes the broker's session with it.
        self.subscribed = false;
        self.counts.checks += 1;
        let nonce = self.random.nonce();
        let hello = self.hello(nonce.clone(), true);
        // Should the look never end, the next one is planned already.
        self.plan_check(now);
        self.act(Action::StartSide(Box::new(Side::Check { nonce, address, password: login.password, hello })));
    }

    pub(super) fn on_check_ended(&mut self, now: Now, outcome: SideOutcome) {
        self.resting.checking = false;
        match outcome {
            SideOutcome::Checked { bindings, token } => {
                self.on_renewed(now, token);
                self.on_bindings(now, bindings);
                if State::from(&self.phase) != State::Resting {
                    return;
                }
                if !self.may_rest() {
                    return self.leave_rest(now, "the channel does not serve");
                }
                debug!(
                    event = "rest.checked",
                    next_s = self.resting.interval.as_secs(),
                    "the channel that is rested on serves"
                );
                self.resting.interval = (self.resting.interval * 2).min(self.settings.check_most);
                self.plan_check(now);
            }
            SideOutcome::Kicked { code, replaced_by } => self.on_kick(now, code, replaced_by),
            SideOutcome::Failed(Failure { end: Some(code), .. }) => self.on_kick(now, code.into(), None),
            SideOutcome::Failed(failure) => {
                debug!(event = "rest.check_failed", cause = failure.cause.as_str(), detail = failure.detail);
                self.leave_rest(now, "the gateway could not be asked");
            }
            SideOutcome::Probed { .. } | SideOutcome::Unbound { .. } => {}
        }
    }

    /// The connection is wanted again.
    fn leave_rest(&mut self, now: Now, why: &str) {
        if State::from(&self.phase) != State::Resting {
            return;
        }
        info!(event = "rest.left", why, "the connection is made again");
        self.dial(now);
    }

    /// The gateway said how this device's bindings do; `None`: one of before, which does not say.
    pub(super) fn on_bindings(&mut self, now: Now, bindings: Option<Vec<BindingReport>>) {
        self.resting.silent_gateway = bindings.is_none();
        let Some(wanted) = self.binding.wanted().cloned() else { return };
        let Some(bindings) = bindings else {
            self.resting.report = None;
            return;
        };
        let token = wanted.token.fingerprint();
        let found = bindings.into_iter().find(|b| b.notifier == wanted.notifier && b.token == token);
        let before = self.resting.report.as_ref().map(|report| report.state);
        match found {
            Some(report) => {
                if before != Some(report.state) && !report.state.may_be_rested_on() {
                    warn!(
                        event = "channel.unusable",
                        channel = wanted.vendor.as_str(),
                        state = report.state.as_str(),
                        code = report.code,
                        "the push channel cannot deliver; the connection is held instead"
                    );
                }
                let dead = report.state == BindingState::Dead;
                self.resting.report = Some(report);
                if dead {
                    self.binding.bury(wanted.vendor, &wanted.token);
                    self.save_ledger();
                    self.on_channel_facts(now);
                }
            }
            // After a restore, or a removal over REST: it is bound again.
            // What it was refused for may be mended: the gateway asks for a hello then.
            None if matches!(self.binding.standing(), Standing::Refused { .. }) => {
                self.bind_event(now, crate::binding::Event::Lost);
            }
            None if self.confirmed() => {
                info!(event = "binding.unknown", "the gateway does not know this device's token; it is bound again");
                self.resting.report = None;
                self.bind_event(now, crate::binding::Event::Lost);
            }
            None => self.resting.report = None,
        }
        if self.online().is_some() && self.timers.get(Timer::Linger).is_none() && self.may_rest() {
            self.linger(now);
        }
    }

    pub(super) fn cancel_sides(&mut self) {
        if std::mem::take(&mut self.resting.checking) {
            self.act(Action::CancelSide(SideKind::Check));
        }
        self.cancel_probe();
    }
}
