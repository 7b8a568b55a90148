//! The hello after each connect, said again until a gateway has answered it; a connection on which none does is given up.

use super::{Kind, Now, Session, Timer};
use crate::ids::Nonce;
use crate::input::as_word;
use crate::keepalive::{Cause, Failure};
use crate::protocol::{Held, Hello, Up};
use std::time::Duration;
use tracing::{info, warn};

/// First pause before the gateway is greeted again; it doubles.
const PAUSE: Duration = Duration::from_secs(15);
const PAUSE_MOST: Duration = Duration::from_secs(600);
/// When the gateway is greeted again after it refused, or the disk failed.
const AGAIN: Duration = Duration::from_secs(30);
/// ... and after the answer to an earlier connection's: what is under way settles first.
const OVERTAKEN: Duration = Duration::from_secs(1);
/// So many hellos of one connection without an answer mean that no gateway listens at this broker.
const SILENT_AFTER: u32 = 2;
/// After so many the connection is given up for another, to the next server: a node of a clustered broker may have lost what
/// was subscribed, and goes on answering pings. The first time that is after 105 s; each time in a row it takes twice as long, up
/// to half an hour, for it may as well be the gateway that is away.
const GIVEN_UP_AFTER: u32 = 3;

/// Where the greeting of this connection stands.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    said: u32,
    pause: Duration,
    /// A gateway has answered an earlier connection's since this one's was said.
    overtaken: bool,
    answered: bool,
    /// No gateway answers, and it has been said.
    silent: bool,
    /// Connections in a row that were given up.
    given_up: u32,
}

impl Greeting {
    /// A new connection.
    pub fn reset(&mut self) {
        let pause = PAUSE.saturating_mul(2_u32.saturating_pow(self.given_up)).min(PAUSE_MOST);
        *self = Self { pause, silent: self.silent, given_up: self.given_up, ..Self::default() };
    }

    pub fn answered(&self) -> bool {
        self.answered
    }

    pub fn silent(&self) -> bool {
        self.silent
    }
}

impl Session {
    /// Asks the gateway for what was missed; again, ever more rarely, until it has answered: the first may
    /// have come while no gateway listened.
    pub(super) fn greet(&mut self, now: Now) {
        let Some(online) = self.online() else { return };
        let hello = self.hello(online.nonce.clone(), false);
        self.greeting.overtaken = false;
        self.greeting.answered = false;
        if self.greeting.said >= SILENT_AFTER && !self.greeting.silent {
            self.greeting.silent = true;
            warn!(event = "gateway.silent", server = %self.server_name(), "the broker accepts this device, but no gateway answers it; is impush-gateway connected to this broker?");
        }
        self.greeting.said = self.greeting.said.saturating_add(1);
        self.timers.set(Timer::Greeting, now.at + self.greeting.pause);
        self.greeting.pause = (self.greeting.pause * 2).min(PAUSE_MOST);
        self.send(&hello);
    }

    /// It is time for the next hello, or for another connection.
    pub(super) fn greet_again(&mut self, now: Now) {
        if self.greeting.answered || self.greeting.said < GIVEN_UP_AFTER {
            return self.greet(now);
        }
        self.greeting.given_up = self.greeting.given_up.saturating_add(1);
        self.on_lost(now, Failure::new(Cause::GatewaySilent, self.server_name()));
    }

    /// To a login of another name the gateway gives what an earlier one acknowledged and no app took. It has
    /// welcomed the old name first: a kick that this device has not heard of is not passed by.
    fn ask_for_what_was_lost(&mut self, now: Now) {
        if !std::mem::take(&mut self.inbox_lost) {
            return;
        }
        let name = self.random.name();
        if let Some(login) = self.saved.login.as_mut() {
            info!(
                event = "inbox.asked_again",
                "the disk lost messages; the gateway is asked for those that no app has taken"
            );
            login.id = Some(name);
            self.persist(Kind::Login);
            self.greet_later(now);
        }
    }

    pub(super) fn greet_later(&mut self, now: Now) {
        self.timers.set(Timer::Greeting, now.at + AGAIN);
    }

    /// What the device says of itself. `check`: only the bindings are asked about.
    pub(super) fn hello(&self, nonce: Nonce, check: bool) -> Up {
        let held = match self.binding.wanted() {
            Some(wanted) => Held::Bound { notifier: wanted.notifier.clone(), token: wanted.token.fingerprint() },
            None => Held::None,
        };
        Up::Hello(Hello {
            nonce,
            agent: format!("impush/{}", env!("CARGO_PKG_VERSION")),
            channel: self.choice.active.map_or("none", |v| v.as_str()).to_owned(),
            platform: as_word(&self.settings.platform),
            model: self.settings.model.as_deref().map(as_word),
            login: self.saved.login.as_ref().and_then(|login| login.id.clone()),
            check,
            instance: self.settings.instance.clone(),
            binding: Some(held),
        })
    }

    /// A gateway has heard a `hello`. One of an earlier connection may have overtaken this one's, and then the
    /// gateway takes the end of that connection for the device's.
    pub(super) fn welcomed(&mut self, now: Now, nonce: Option<&Nonce>) {
        let own = self.online().map(|online| &online.nonce);
        if nonce.is_some() && nonce != own {
            self.greeting.overtaken = true;
            self.greeting.said = 0;
            self.timers.set(Timer::Greeting, now.at + OVERTAKEN);
            return;
        }
        if self.greeting.overtaken {
            return;
        }
        self.greeting.answered = true;
        self.greeting.said = 0;
        self.greeting.given_up = 0;
        self.timers.clear(Timer::Greeting);
        self.ask_for_what_was_lost(now);
        if std::mem::take(&mut self.greeting.silent) {
            info!(event = "gateway.heard", "a gateway answers this device again");
        }
    }
}
