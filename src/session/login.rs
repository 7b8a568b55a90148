//! Login, logout and kick: what each changes on disk, at the gateway and for local apps.

use super::request::Patience;
use super::{Action, Ended, Goodbye, Kind, Login, Now, Phase, Refusal, RequestId, Session, State, Timer};
use crate::binding::{Event as BindingEvent, Tombstone};
use crate::keepalive::{Cause, Failure};
use crate::protocol::KickCode;
use serde_json::json;
use std::time::Duration;
use tracing::{info, warn};

/// How long a logout waits for the gateway before it is owed instead.
const LOGOUT_WAIT: Duration = Duration::from_secs(5);
/// How long a login's caller waits for a server; the attempts go on after it.
const LOGIN_WAIT: Duration = Duration::from_secs(12);

/// Whether the gateway has heard of a logout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Yes,
    No,
}

impl Session {
    pub(super) fn on_started(&mut self, now: Now) {
        if !self.settings.device_id_is_stored {
            self.persist(Kind::Identity);
        }
        let login = self.saved.login.clone();
        if let Some(mut login) = login {
            if login.app.is_none() {
                // A file of an older version; it meant the configured app.
                login.app = Some(self.settings.app.clone());
                self.saved.login = Some(login.clone());
                self.persist(Kind::Login);
            }
            if login.app.as_ref() == Some(&self.settings.app) {
                self.act(Action::OpenInbox { user: login.user });
            } else {
                // Another IM app is configured now: that login is over, and the right app is told.
                warn!(event = "login.other_app", "the configured app changed; the old login is logged out");
                self.owe(&login);
                self.end_login(now, Cause::LoggedOut);
            }
        }
        self.choose_channel();
        self.bind_wanted(now);
        self.want_connection(now);
    }

    /// The disk has the login. `before`: what it replaced; nothing when it was the same again.
    pub(super) fn login_stored(&mut self, now: Now, id: RequestId, before: Option<Option<Login>>, patience: Patience) {
        let Some(login) = self.saved.login.clone() else { return };
        let renewed = before.as_ref().is_some_and(|before| before.as_ref().is_none_or(|old| old.id != login.id));
        if renewed {
            info!(event = "login.stored", "login stored");
            self.saved.ended = None;
            self.persist(Kind::Ended);
            self.cause = None;
            self.act(Action::OpenInbox { user: login.user.clone() });
            self.part(now, Cause::Requested, SessionAtBroker::Kept);
            self.enter(now, Phase::LoggedOut);
        }
        self.choose_channel();
        self.bind_wanted(now);
        self.want_connection(now);
        // At rest the gateway has confirmed the login already.
        let accepted = matches!(self.phase, Phase::Online(_) | Phase::Resting);
        if patience == Patience::UntilStored || accepted || self.login_waits.is_some() {
            return self.answer_login(id, &login.user, accepted);
        }
        self.login_waits = Some(id);
        self.timers.set(Timer::Login, now.at + LOGIN_WAIT);
    }

    /// A server has accepted the login.
    pub(super) fn login_accepted(&mut self) {
        self.timers.clear(Timer::Login);
        if let (Some(id), Some(login)) = (self.login_waits.take(), self.saved.login.clone()) {
            self.answer_login(id, &login.user, true);
        }
    }

    fn answer_login(&mut self, id: RequestId, user: &str, accepted: bool) {
        let answer = json!({ "user": user, "device_id": self.settings.device_id, "accepted": accepted });
        self.answer(id, Ok(answer));
    }

    /// The first attempt failed: who waits hears why. The login stays stored and is tried again, unless that
    /// cannot help.
    pub(super) fn login_refused(&mut self, failure: &Failure) {
        self.timers.clear(Timer::Login);
        let Some(id) = self.login_waits.take() else { return };
        let stopped = matches!(self.phase, Phase::Stopped(_));
        let after = if stopped { "the login is not tried again" } else { "the login is stored and is tried again" };
        let message = format!("{} ({}); {after}", failure.cause.text(), failure.detail);
        let status = if stopped { 401 } else { 502 };
        self.answer(id, Err(Refusal::new(status, failure.cause.as_str(), message)));
    }

    pub(super) fn login_unanswered(&mut self) {
        let Some(id) = self.login_waits.take() else { return };
        let message = "no server answered in time; the login is stored and is tried again";
        self.answer(id, Err(Refusal::new(504, "no_answer", message)));
    }

    fn login_moot(&mut self) {
        self.timers.clear(Timer::Login);
        if let Some(id) = self.login_waits.take() {
            self.answer(id, Err(Refusal::new(409, "logged_out", "the login ended before it was accepted")));
        }
    }

    pub(super) fn ask_logout(&mut self, now: Now, id: RequestId, keep_binding: bool) {
        let refusal = |code, message: &str| Err(Refusal::new(409, code, message));
        if self.saved.login.is_none() {
            return self.answer(id, refusal("logged_out", "nobody is logged in"));
        }
        if self.logout_waits.is_some() {
            return self.answer(id, refusal("logging_out", "a logout is under way"));
        }
        if self.storing.is_some() {
            return self.answer(id, Err(Refusal::new(503, "busy", "another change is being stored; try again")));
        }
        if keep_binding {
            self.end_login(now, Cause::LoggedOut);
            return self.answer(id, Ok(json!({ "unbound": false, "kept": true })));
        }
        self.logout_waits = Some(id);
        self.timers.set(Timer::Logout, now.at + LOGOUT_WAIT);
        match &self.phase {
            Phase::Online(_) => self.bind_event(now, BindingEvent::Unbind { logout: true }),
            // A short connection tells the gateway; the answer waits for it.
            Phase::Resting => {
                if let Some(login) = self.saved.login.clone() {
                    self.owe(&login);
                    self.pay_owed();
                }
            }
            _ => self.finish_logout(now, Told::No),
        }
    }

    /// The gateway confirmed the unbinding, or the time for it is up.
    pub(super) fn finish_logout(&mut self, now: Now, told: Told) {
        self.timers.clear(Timer::Logout);
        let Some(id) = self.logout_waits.take() else { return };
        if told == Told::No
            && let Some(login) = self.saved.login.clone()
        {
            warn!(
                event = "logout.owed",
                "the gateway could not be told of this logout; it will be, as soon as it can be reached"
            );
            self.owe(&login);
        }
        self.end_login(now, Cause::LoggedOut);
        let told = told == Told::Yes;
        self.answer(id, Ok(json!({ "unbound": told, "owed": !told })));
        self.pay_owed();
    }

    fn owe(&mut self, login: &Login) {
        let tombstone =
            Tombstone { app: login.app.clone(), user: login.user.clone(), password: login.password.clone() };
        self.binding.owe(tombstone);
        self.save_ledger();
    }

    pub(super) fn on_unbound(&mut self, now: Now) {
        info!(event = "binding.removed", "the gateway has forgotten this device's token");
        self.finish_logout(now, Told::Yes);
    }

    pub(super) fn on_kick(&mut self, now: Now, code: KickCode, replaced_by: Option<String>) {
        let number = u16::from(code);
        warn!(event = "login.kicked", code = number, replaced_by, "the gateway ended this login");
        self.bind_event(now, BindingEvent::Kicked);
        if self.saved.login.is_none() {
            return;
        }
        let detail = match replaced_by {
            Some(device) => format!("code {number} ({}), replaced by {device}", code.as_str()),
            None => format!("code {number} ({})", code.as_str()),
        };
        self.saved.ended = Some(Ended { cause: Cause::Kicked, detail: detail.clone(), at_ms: now.wall_ms });
        self.persist(Kind::Ended);
        self.end_login(now, Cause::Kicked);
        self.cause = Some(Failure::new(Cause::Kicked, detail));
    }

    /// The login is over: on disk, at the broker, and for the apps. Never refused for want of disk.
    pub(super) fn end_login(&mut self, now: Now, cause: Cause) {
        self.saved.login = None;
        self.persist(Kind::Login);
        if !self.saved.reports.is_empty() {
            self.saved.reports = super::Reports::default();
            self.persist(Kind::Reports);
        }
        let detail = self.saved.ended.as_ref().map_or_else(String::new, |ended| ended.detail.clone());
        self.act(Action::EndStreams { word: cause.as_str().to_owned(), detail });
        self.act(Action::UnlinkInbox);
        self.part(now, cause, SessionAtBroker::Ended);
        self.starved = false;
        self.inbox_lost = false;
        self.login_moot();
        drop(self.binding.on_event(now.at, BindingEvent::Want(None)));
        self.enter(now, Phase::LoggedOut);
        info!(event = "login.ended", cause = cause.as_str(), "logged out");
        if cause == Cause::LoggedOut {
            self.cause = Some(Failure::new(cause, cause.text()));
        }
    }

    /// Leaves whatever connection there is or is being made, with a goodbye where one can be said.
    pub(super) fn part(&mut self, now: Now, cause: Cause, session: SessionAtBroker) {
        self.cancel_sides();
        match State::from(&self.phase) {
            State::Online => {
                let offline = self.online().map(|online| self.offline_notice(online));
                drop(self.binding.on_event(now.at, BindingEvent::Disconnected));
                let end_session = session == SessionAtBroker::Ended;
                self.subscribed &= !end_session;
                self.act(Action::Close(Goodbye { cause, offline, end_session }));
                self.cause = Some(Failure::new(cause, cause.text()));
                self.greeting.reset();
            }
            State::Connecting => {
                // Its CONNECT may be out, and come to the broker after the next login's.
                self.gave_up = Some(now.at);
                self.act(Action::CancelDial);
            }
            _ => {}
        }
    }

    pub(super) fn on_shutdown(&mut self, now: Now) {
        self.part(now, Cause::Shutdown, SessionAtBroker::Kept);
        self.enter(now, Phase::Stopped(Cause::Shutdown));
    }
}

/// What the broker does with the session after the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionAtBroker {
    Kept,
    Ended,
}
