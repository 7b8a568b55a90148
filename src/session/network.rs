//! The ground under a connection: network changes, sleep, a clock that was set, the battery.

use super::{Action, Now, Phase, Session, Sight, State, Timer};
use crate::keepalive::{Battery, Cause, Failure, is_low};
use std::time::Duration;
use tracing::{debug, info};

/// Notices of one change come in bursts; the look is taken when this is over since the first, however many
/// more come.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// Without a connection nothing is gained by waiting for a burst to end; but one without an end must not be
/// followed by as many looks.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

impl Session {
    pub(super) fn on_notice(&mut self, now: Now) {
        if self.timers.get(Timer::NetworkLook).is_some() && self.online().is_some() {
            return;
        }
        let at = match (self.online(), self.looked) {
            (Some(_), _) => now.at + LOOK_AFTER,
            (None, Some(looked)) => looked + LOOK_AGAIN_AFTER,
            (None, None) => now.at,
        };
        if at > now.at {
            return self.timers.set(Timer::NetworkLook, at);
        }
        self.look(now);
    }

    pub(super) fn look(&mut self, now: Now) {
        self.timers.clear(Timer::NetworkLook);
        self.looked = Some(now.at);
        self.act(Action::LookAtNetwork);
    }

    /// The network may have changed: is the connection's ground still there?
    pub(super) fn on_sight(&mut self, now: Now, sight: Sight) {
        let network = sight.ground.as_ref().map(|(network, _)| network.clone());
        if network != self.network {
            self.disturb_search(now);
            self.endpoints.start_over();
        }
        let Some(online) = self.online_mut() else { return self.on_ground_change(now, sight) };
        if sight.address_gone {
            // Whatever comes next is new ground, even if it is the same network again.
            self.tried = None;
            self.on_lost(now, Failure::new(Cause::AddressGone, "the network changed"));
        } else if std::mem::take(&mut online.moved) {
            // The server has just answered: whichever way this is, the connection lives with it, and the
            // next notice is compared with it.
            (online.ground, online.carrier) = (sight.ground.clone(), sight.carrier);
            self.tried = sight.ground;
            debug!(event = "network.settled", network, "the connection answered after the change");
            self.search_moved(now, network);
        } else if (&sight.ground, sight.carrier) == (&online.ground, online.carrier) {
            // Router advertisements and renewed leases ring the bell all day; a ping for each would cost more
            // than the heartbeat.
            debug!(event = "network.same", network, "a notice that changes nothing for the connection");
        } else {
            debug!(event = "network.changed", network, "the network changed; the connection is probed");
            online.link.probe_now();
        }
    }

    /// A notice came while there is no connection. Only ground that was not tried yet is worth an attempt:
    /// routers ring the bell all day, and a server that is down must not be tried each time.
    fn on_ground_change(&mut self, now: Now, sight: Sight) {
        let ground = sight.ground.filter(|_| sight.carrier);
        if ground.is_none() {
            self.tried = None;
        }
        if ground == self.tried {
            return;
        }
        self.reconnect.on_new_ground(now.at);
        self.retry_owed(now);
        match State::from(&self.phase) {
            State::Connecting => {
                debug!(event = "link.attempt_moved", "the attempt was made on a network that is gone");
                self.dial_instead(now);
            }
            State::Resting => {
                self.tried = ground;
                self.check_soon(now);
            }
            _ => self.try_again_at_once(now, Cause::NetworkChanged),
        }
    }

    pub(super) fn retry_owed(&mut self, now: Now) {
        if self.timers.get(Timer::Owed).is_some() {
            self.timers.set(Timer::Owed, now.at);
        }
    }

    /// Cuts a pause short: what it waited for may have come.
    pub(super) fn try_again_at_once(&mut self, now: Now, why: Cause) {
        let Phase::Waiting(planned) = &self.phase else { return };
        let planned = planned.at;
        let attempt = self.reconnect.at_once(now.at, why);
        if attempt.at < planned {
            info!(
                event = "link.retry_soon",
                why = why.as_str(),
                next_attempt_s = attempt.jitter.as_secs_f64(),
                "trying again without waiting for the pause to end"
            );
            self.plan(now, attempt);
        }
    }

    pub(super) fn on_wake(&mut self, now: Now, gap: Duration) {
        info!(event = "device.woke", slept_s = gap.as_secs(), "the device slept");
        self.forget_search(now);
        match State::from(&self.phase) {
            State::Online => {
                if let Some(online) = self.online_mut() {
                    online.link.probe_now();
                }
            }
            State::Resting => self.check_soon(now),
            _ => {
                // The connection's end may be found before the sleep is.
                self.reconnect.on_new_ground(now.at);
                self.try_again_at_once(now, Cause::Suspended);
            }
        }
    }

    /// Somebody set the wall clock: a certificate that was not valid yet may be now.
    pub(super) fn on_clock_step(&mut self, now: Now) {
        self.clock.start_over();
        let clock_was_why =
            self.cause.as_ref().is_some_and(|e| matches!(e.cause, Cause::TlsNotYetValid | Cause::TlsExpired));
        if clock_was_why {
            self.try_again_at_once(now, Cause::TlsNotYetValid);
        }
    }

    pub(super) fn on_battery(&mut self, battery: Option<Battery>) {
        let saving = is_low(self.power_mode, battery);
        if saving != self.saving {
            info!(event = "power.mode", saving, mode = ?self.power_mode, "power is {}", if saving { "saved" } else { "no longer saved" });
            self.saving = saving;
        }
        let ceiling = self.settings.bounds.ceiling;
        self.heartbeat.set_ceiling(if saving { self.settings.low_power_ceiling.max(ceiling) } else { ceiling });
        if let Some(online) = self.online_mut() {
            online.link.set_saving(saving);
        }
        self.set_heartbeat();
    }
}
