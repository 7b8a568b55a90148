//! The main connection: when one is wanted, how an attempt is made, and what its end is followed by.

use super::endpoints::What;
use super::event::Standing;
use super::phase::Online;
use super::{Action, Dial, Kind, Now, Phase, Session, State, Timer, Write, token};
use crate::binding::Event as BindingEvent;
use crate::ids::Nonce;
use crate::keepalive::race::{Outcome, Step};
use crate::keepalive::{Attempt, Cause, Failure, Link, LinkAction, PowerMode, Recovery, Tried, Verdict};
use crate::protocol::{Address, Leg, Presence, State as Announced, Up};
use std::time::Duration;
use tracing::{debug, info, warn};

/// Bytes on their way for which large packets may be needed.
const LARGE: usize = 1000;
/// A CONNECT that was given up may take over the connection that came after it for so long.
const OWN_TAKEOVER: Duration = Duration::from_secs(30);

impl Session {
    /// Plans a connection if one is needed and none is there, under way or planned.
    pub(super) fn want_connection(&mut self, now: Now) {
        if self.saved.login.is_none() {
            if State::from(&self.phase) != State::Stopped {
                self.enter(now, Phase::LoggedOut);
            }
            return self.pay_owed();
        }
        let wanted = match State::from(&self.phase) {
            State::LoggedOut => true,
            State::Resting => self.attached() > 0 || !self.may_rest(),
            State::Waiting => self.attached() > 0 && self.timers.get(Timer::Owed).is_none(),
            State::Online | State::Connecting | State::Stopped => false,
        };
        if !wanted {
            return;
        }
        if self.owed_goes_first() {
            // The last user's logout is told before this login is: the token changes hands in order.
            let after_it = self.pay_owed_first(now);
            return self.plan(now, after_it);
        }
        self.dial(now);
    }

    pub(super) fn plan(&mut self, now: Now, attempt: Attempt) {
        self.enter(now, Phase::Waiting(attempt));
    }

    /// The address of the login; a login whose ids no address can hold is of another version.
    pub(super) fn address(&self) -> Option<Address> {
        let login = self.saved.login.as_ref()?;
        Address::new(self.settings.app.as_str(), &login.user, &self.settings.device_id).ok()
    }

    pub(super) fn dial(&mut self, now: Now) {
        let Some(login) = self.saved.login.clone() else { return };
        let Some(address) = self.address() else {
            return self.on_down(
                now,
                Failure::new(Cause::ClientIdRefused, "the stored login cannot be addressed"),
                What::Attempt,
            );
        };
        let nonce = self.random.nonce();
        self.enter(now, Phase::Connecting { nonce: nonce.clone() });
        self.act(Action::Dial(Box::new(Dial {
            nonce,
            address,
            password: login.password,
            servers: self.endpoints.order(),
            // Asking for the longest heartbeat leaves the search free.
            keep_alive_s: u16::try_from(self.longest_heartbeat().as_secs()).unwrap_or(u16::MAX),
            broker: self.broker,
            clean_start: self.poisoned,
            subscribed: self.subscribed,
        })));
    }

    /// In the place of the attempt that is under way. Whether that one's CONNECT is out is not known here: at
    /// worst one takeover by a stranger within [`OWN_TAKEOVER`] counts as this device's own.
    pub(super) fn dial_instead(&mut self, now: Now) {
        self.gave_up = Some(now.at);
        self.dial(now);
    }

    pub(super) fn on_dialled(&mut self, now: Now, nonce: &Nonce, standing: Standing) {
        if !matches!(&self.phase, Phase::Connecting { nonce: current } if current == nonce) {
            return;
        }
        let Some(address) = self.address() else { return };
        self.endpoints.prefer(&standing.server);
        // The server's word wins (MQTT 5, section 3.2.2.3.14); a little below it stays inside.
        let server_limit = standing
            .server_keep_alive_s
            .filter(|s| *s > 0)
            .map(|seconds| Duration::from_secs(u64::from(seconds)).mul_f64(0.9).max(Duration::from_secs(1)));
        self.reconnect.on_up(now.at);
        self.arrival.prove();
        if standing.verified {
            self.confirm_clock(now);
        } else {
            self.time_goes_on(now);
        }
        self.counts.connections += 1;
        self.poisoned = false;
        let after = self.cause.take();
        info!(
            event = "link.up",
            server = standing.server_name,
            session_present = standing.session_present,
            round_trip_ms = standing.round_trip.as_millis() as u64,
            after = after.map(|e| e.cause.as_str()),
            "connected"
        );
        if !standing.broker.at_least_once && !std::mem::replace(&mut self.at_most_once_told, true) {
            warn!(
                event = "link.at_most_once",
                server = standing.server_name,
                "this broker takes no QoS 1: messages may be lost on the way and come late; allow it in the broker"
            );
        }
        self.broker = standing.broker;
        self.subscribed = true;
        let state = self.settings.topics.topic(&address, Leg::State);
        let online = Online {
            link: Link::new(now.at, self.heartbeat.interval(), standing.round_trip),
            address,
            nonce: standing.nonce.clone(),
            ground: standing.ground.clone(),
            carrier: true,
            moved: false,
            server: standing.server_name,
            server_limit,
            told: Presence::Attached,
            unanswered_bytes: 0,
        };
        self.enter(now, Phase::Online(Box::new(online)));
        self.search_up(now, standing.ground.as_ref().map(|(network, _)| network.clone()));
        // The way to this very server: what a look without the connection asks about.
        self.tried = standing.ground;
        self.entered();
        let announced = Announced { online: true, nonce: standing.nonce }.encode();
        self.act(Action::Write(Write::Publish { topic: state, payload: announced, retain: true }));
        self.greeting.reset();
        self.greet(now);
        self.tell_reports();
        self.say_attached();
        self.bind_event(now, BindingEvent::Connected);
        self.linger(now);
        self.login_accepted();
    }

    /// The password was good: it has proven itself, and the one before it is needed no more.
    fn entered(&mut self) {
        let Some(login) = &mut self.saved.login else { return };
        if !login.welcomed || login.former_password.is_some() {
            login.welcomed = true;
            login.former_password = None;
            self.persist(Kind::Login);
        }
    }

    /// An attempt ended: what its ways did decides the order of the next.
    pub(super) fn on_tried(&mut self, now: Now, nonce: &Nonce, network: Option<&str>, tried: Vec<Tried>) {
        if !matches!(&self.phase, Phase::Connecting { nonce: current } if current == nonce) {
            return;
        }
        let stalled = |at: Step| tried.iter().any(|way| way.outcome == Outcome::Stalled && way.step == at);
        let worked = tried.iter().any(|way| way.outcome == Outcome::Worked);
        if stalled(Step::Connect) || stalled(Step::Subscribe) {
            self.gave_up = Some(now.at);
        }
        // What was swallowed may come in one packet with the server's next first word.
        let swallowed = (stalled(Step::Connect) || stalled(Step::Subscribe)) && self.was_swallowed(network);
        let large = !worked && (stalled(Step::Tls) || swallowed);
        self.ways.on_tried(now.at, network, tried);
        if large {
            // A server's certificates are the first large packets of a connection.
            self.on_large_lost(now, network.map(str::to_owned));
        }
    }

    /// Large packets seem to be lost on this network: the next connection asks for small ones.
    pub(super) fn on_large_lost(&mut self, now: Now, network: Option<String>) {
        if self.ways.on_large_lost(now.at, network.as_deref()) {
            info!(
                event = "link.small_segments",
                network, "this network may lose large packets; small segments are asked for"
            );
        }
    }

    pub(super) fn on_dial_failed(&mut self, now: Now, nonce: &Nonce, failure: Failure) {
        if matches!(&self.phase, Phase::Connecting { nonce: current } if current == nonce) {
            self.on_down(now, failure, What::Attempt);
        }
    }

    /// The link broke, or is declared dead.
    pub(super) fn on_lost(&mut self, now: Now, failure: Failure) {
        let Some(online) = self.online() else { return };
        let idle = online.link.idle(now.at);
        let large = online.unanswered_bytes > LARGE;
        self.search_lost(now, failure.cause, idle, large);
        // A disconnection neither sends nor persists anything.
        drop(self.binding.on_event(now.at, BindingEvent::Disconnected));
        self.act(Action::Abandon);
        if !failure.cause.is_the_networks() {
            // The kernel's word of a lost network may come after the connection's own error.
            self.act(Action::LookAtNetwork);
        }
        if self.logout_waits.is_some() {
            return self.finish_logout(now, super::login::Told::No);
        }
        self.on_down(now, failure, What::Link);
    }

    /// The link is gone, or an attempt failed: what now, and when.
    fn on_down(&mut self, now: Now, failure: Failure, what: What) {
        self.poisoned |= matches!(failure.cause, Cause::ProtocolError | Cause::GatewaySilent);
        self.choose_endpoint(&failure, what);
        let failure = self.judged(now, failure);
        let changed = self.cause.as_ref().is_none_or(|known| known.cause != failure.cause);
        *self.counts.lost.entry(failure.cause.as_str()).or_default() += 1;
        if let Some(code) = failure.end {
            // The gateway's own word, on its own endpoint.
            return self.on_kick(now, code.into(), None);
        }
        if self.do_without(failure.cause) {
            debug!(
                event = "link.without",
                cause = failure.cause.as_str(),
                "tried again at once without what the broker refused"
            );
            return self.dial(now);
        }
        if self.doubt_clock(now, failure.cause) {
            debug!(event = "clock.doubted", cause = failure.cause.as_str(), "tried again at once against another time");
            return self.dial(now);
        }
        if self.arrival.says_sign_in(failure.cause) {
            info!(
                event = "network.sign_in",
                cause = failure.cause.as_str(),
                "another than the server answers; the network may want a sign-in (captive portal)"
            );
        }
        match self.verdict(now, failure.cause) {
            Verdict::Retry(attempt) => {
                let (base, jitter) = (attempt.base.as_secs_f64(), attempt.jitter.as_secs_f64());
                // Each change once: a server that stays away must not fill the log.
                if changed {
                    warn!(event = "link.down", cause = failure.cause.as_str(), number = failure.cause.number(), detail = %failure.detail,
                        next_attempt_s = base + jitter, base_s = base, jitter_s = jitter, "{}", failure.cause.text());
                } else {
                    debug!(
                        event = "link.down",
                        cause = failure.cause.as_str(),
                        next_attempt_s = base + jitter,
                        "still {}",
                        failure.cause.text()
                    );
                }
                self.plan(now, attempt);
            }
            Verdict::Stop(cause) => {
                warn!(event = "link.stopped", cause = cause.as_str(), number = cause.number(), detail = %failure.detail, "{}", cause.text());
                self.enter(now, Phase::Stopped(cause));
            }
        }
        if what == What::Attempt {
            self.login_refused(&failure);
        }
        self.cause = Some(failure);
    }

    /// The broker refused something that the connection can be made without: `true` when that is news.
    fn do_without(&mut self, cause: Cause) -> bool {
        let wanted = match cause {
            Cause::RetainRefused => &mut self.broker.retain,
            Cause::QosRefused => &mut self.broker.at_least_once,
            _ => return false,
        };
        std::mem::replace(wanted, false)
    }

    /// A refusal in the light of what the login itself says: a password that has just been renewed is not
    /// trusted yet, and one whose time is over needs no other reason.
    fn judged(&mut self, now: Now, mut failure: Failure) -> Failure {
        if failure.cause == Cause::TakenOver
            && self.gave_up.take().is_some_and(|at| now.at.saturating_sub(at) <= OWN_TAKEOVER)
        {
            failure.cause = Cause::Superseded;
        }
        let refused = matches!(failure.cause, Cause::BadCredentials | Cause::NotAuthorized);
        let time_ms = self.time_ms(now);
        let Some(login) = self.saved.login.as_mut().filter(|_| refused) else { return failure };
        if let Some(former) = login.former_password.take() {
            warn!(event = "login.renewal_refused", "the renewed login was refused; the one before it is used again");
            login.password = former;
            self.persist(Kind::Login);
        } else if token::Life::of(&login.password).is_some_and(|life| life.ended(time_ms)) {
            failure.cause = Cause::LoginExpired;
        }
        failure
    }

    /// A broker's code alone never stops a login that has worked.
    fn verdict(&mut self, now: Now, cause: Cause) -> Verdict {
        let worked = self.saved.login.as_ref().is_some_and(|login| login.welcomed);
        if cause.recovery() == Recovery::Stop && worked {
            return Verdict::Retry(self.reconnect.on_doubtful(now.at, cause));
        }
        if self.arrival.may_open(now.at, cause) {
            return Verdict::Retry(self.reconnect.shortly(now.at, cause));
        }
        self.reconnect.on_down(now.at, cause)
    }

    /// A new connection now, whatever there is.
    pub(super) fn connect_anew(&mut self, now: Now, cause: Cause) {
        if State::from(&self.phase) == State::Connecting {
            return;
        }
        self.part(now, cause, super::login::SessionAtBroker::Kept);
        self.dial(now);
    }

    pub(super) fn on_written(&mut self, now: Now, unanswered: usize) {
        if let Some(online) = self.online_mut() {
            online.unanswered_bytes = unanswered;
        }
        if let Some(online) = self.online_mut().filter(|_| unanswered > 0) {
            online.link.on_written(now.at);
        }
    }

    pub(super) fn tick_link(&mut self, now: Now) {
        let Some(online) = self.online_mut() else { return };
        match online.link.on_tick(now.at) {
            LinkAction::Nothing => {}
            LinkAction::Ping => {
                online.link.on_ping_sent(now.at);
                // Looked at where the device is awake anyway, so that looking costs no wakeup.
                self.act(Action::LookAtBattery);
                self.time_goes_on(now);
                self.act(Action::Write(Write::Ping));
            }
            LinkAction::Dead(cause) => {
                let idle = online.link.idle(now.at).as_secs();
                self.on_lost(now, Failure::new(cause, format!("not answered after {idle} s of idleness")));
            }
        }
    }

    /// Publishes to the gateway; without a connection nothing is sent.
    pub(super) fn send(&mut self, up: &Up) {
        let Some(online) = self.online() else { return };
        let topic = self.settings.topics.topic(&online.address, Leg::Up);
        self.act(Action::Write(Write::Publish { topic, payload: up.encode(), retain: false }));
    }

    pub(super) fn offline_notice(&self, online: &Online) -> (String, Vec<u8>) {
        let topic = self.settings.topics.topic(&online.address, Leg::State);
        (topic, Announced { online: false, nonce: online.nonce.clone() }.encode())
    }

    /// The longest heartbeat this configuration can come to, which is what CONNECT asks for: the server waits
    /// 1.5 times as long.
    pub(super) fn longest_heartbeat(&self) -> Duration {
        let saves = self.saving || self.settings.low_power != PowerMode::Normal;
        let ceiling = self.settings.bounds.ceiling;
        if saves { self.settings.low_power_ceiling.max(ceiling) } else { ceiling }
    }
}
