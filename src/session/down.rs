//! What comes over the connection, and what follows.

use super::{Action, Kept, Kind, Now, Packet, Session, Timer, Write, token};
use crate::binding::Event as BindingEvent;
use crate::ids::{MessageId, Nonce};
use crate::protocol::{Down, Up, decode_down};
use crate::secret::Secret;
use std::time::Duration;
use tracing::{debug, info};

/// A renewal that was not answered is asked for again after this: a little above what a gateway allows.
const RENEWAL_AGAIN: Duration = Duration::from_secs(65);
/// The token's own time is looked at this often at least.
const RENEWAL_LOOK: Duration = Duration::from_secs(86_400);
/// A shorter heartbeat than this is not asked for by any gateway in earnest.
const LEAST_CEILING_S: u32 = 5;

impl Session {
    pub(super) fn on_packet(&mut self, now: Now, packet: Packet) {
        if self.online().is_none() {
            return;
        }
        match packet {
            Packet::Publish { payload, packet_id } => self.on_payload(now, &payload, packet_id),
            Packet::Published { refused } => {
                self.heard(now);
                self.act(Action::Write(Write::Queued));
                if let Some(why) = refused {
                    // Perhaps nobody heard the greeting.
                    self.greet_later(now);
                    self.count_refused("publish_refused", &why);
                }
            }
            Packet::Subscribed { refused } => {
                self.heard(now);
                self.subscribed = refused.is_none();
                if let Some(failure) = refused {
                    self.on_lost(now, failure);
                }
            }
            Packet::Pong => self.heard(now),
        }
    }

    /// After a message is on disk, or was refused for good, the broker need not send it again: a bad one must
    /// not come back for ever.
    fn acknowledge(&mut self, packet_id: Option<u16>) {
        if let Some(packet_id) = packet_id {
            self.act(Action::Write(Write::Acknowledge(packet_id)));
        }
    }

    fn on_payload(&mut self, now: Now, payload: &[u8], packet_id: Option<u16>) {
        match decode_down(payload) {
            Ok(Down::Message(message)) => {
                return self.act(Action::Keep { message: Box::new(message), packet_id });
            }
            Ok(Down::Bound { sequence, result, reason, expected }) => {
                self.acknowledge(packet_id);
                self.bind_event(now, BindingEvent::Answered { sequence, result, reason, expected });
                return self.on_bound(now);
            }
            Ok(Down::Kick { code, replaced_by }) => {
                self.acknowledge(packet_id);
                return self.on_kick(now, code, replaced_by);
            }
            Ok(Down::Settings { nonce, heartbeat_ceiling_s, bindings, token, ca }) => {
                ca.into_iter().for_each(|pem| self.act(Action::KeepAuthority { pem }));
                self.on_settings(now, nonce.as_ref(), heartbeat_ceiling_s);
                self.on_renewed(now, token);
                self.ask_renewal(now);
                if nonce.is_some() {
                    self.on_bindings(now, bindings);
                }
            }
            Err(error) => self.count_refused(error.as_str(), &error),
        }
        self.acknowledge(packet_id);
    }

    fn on_bound(&mut self, now: Now) {
        if self.timers.get(Timer::Linger).is_none() {
            self.linger(now);
        }
    }

    fn on_settings(&mut self, now: Now, nonce: Option<&Nonce>, ceiling_s: Option<u32>) {
        self.welcomed(now, nonce);
        if let (Some(seconds), Some(online)) = (ceiling_s.filter(|s| *s >= LEAST_CEILING_S), self.online_mut()) {
            let ceiling = Duration::from_secs(u64::from(seconds));
            online.server_limit = Some(online.server_limit.map_or(ceiling, |limit| limit.min(ceiling)));
            online.link.set_interval(online.link.interval().min(ceiling));
        }
    }

    /// When two thirds of the login's life are over, the gateway is asked for a new token: now, or when it is
    /// time while this connection stands.
    pub(super) fn ask_renewal(&mut self, now: Now) {
        let life = self.saved.login.as_ref().and_then(|login| token::Life::of(&login.password));
        let due = life.and_then(|life| life.renewal_in(self.time_ms(now))).map(Duration::from_secs);
        // A clock that is late never comes to the day. A new token each day also tells it how late it is.
        let late = self.stand_in_ms(now).is_some();
        let due = due.map(|due| {
            if late {
                due.min(self.renewal_asked.map_or(Duration::ZERO, |at| (at + RENEWAL_LOOK).saturating_sub(now.at)))
            } else {
                due
            }
        });
        if due == Some(Duration::ZERO) {
            self.send(&Up::Renew);
            self.renewal_asked = Some(now.at);
        }
        // The wall clock may be set meanwhile, and an answer may be lost.
        let again = due.map(|due| now.at + due.clamp(RENEWAL_AGAIN, RENEWAL_LOOK));
        self.timers.put(Timer::Renewal, again);
    }

    /// The gateway gave a new token. It is on disk before it is used, and the old one stays beside it until
    /// the new one has entered.
    pub(super) fn on_renewed(&mut self, now: Now, token: Option<Secret>) {
        if let Some(issued_s) = token.as_ref().and_then(token::Life::of).and_then(|life| life.issued_s()) {
            self.heard_time(now, issued_s);
        }
        let (Some(token), Some(login)) = (token, self.saved.login.as_mut()) else { return };
        if token.is_empty() || token == login.password {
            return;
        }
        let former = std::mem::replace(&mut login.password, token);
        login.former_password.get_or_insert(former);
        self.persist(Kind::Login);
        info!(event = "login.renewed", "the gateway renewed this login");
    }

    pub(super) fn on_kept(&mut self, now: Now, id: MessageId, from: &str, packet_id: Option<u16>, kept: Kept) {
        match kept {
            Kept::New => {
                self.counts.messages += 1;
                info!(event = "message.received", %id, "message is on disk");
                self.wake_apps(now, &id, from);
                self.say_kept(id);
            }
            Kept::Duplicate => {
                debug!(event = "message.duplicate", %id, "already in the inbox");
                self.say_kept(id);
            }
            Kept::Taken => {
                debug!(event = "message.duplicate", %id, "an app has taken it already");
                self.say_kept(id.clone());
                // The word of it was lost with its connection.
                self.send(&Up::Taken { ids: vec![id], woke: Vec::new() });
            }
            Kept::Full(why) => {
                self.starved = true;
                self.count_refused("inbox_full", &why);
            }
            Kept::Failed(why) => {
                // Not acknowledged to the gateway, which keeps it. A full disk passes.
                self.greet_later(now);
                self.count_refused("inbox_unwritable", &why);
            }
            Kept::Nobody => self.count_refused("logged_out", &"a message for a login that has ended"),
        }
        self.acknowledge(packet_id);
    }

    fn say_kept(&mut self, id: MessageId) {
        let attached = Some(self.attached() > 0);
        self.send(&Up::Ack { ids: vec![id], attached });
    }

    fn heard(&mut self, now: Now) {
        let Some(online) = self.online_mut() else { return };
        let moved = online.link.is_probed();
        online.moved |= moved;
        let idle = online.link.on_answer(now.at);
        if let Some(idle) = idle {
            self.search_answered(now, idle);
        }
        if moved {
            self.act(Action::LookAtNetwork);
        }
    }
}
