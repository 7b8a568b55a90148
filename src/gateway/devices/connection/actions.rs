//! What a connection does of what its server side has decided.

use super::super::entry::{Entry, Found, asked, enter};
use super::{Connection, ENROLS_WITHIN, Entered};
use crate::gateway::workers::Said;
use crate::mqtt::server::{Action, Ask, Event, Topic, write_packet};
use crate::protocol::{Up, decode_state, decode_up};
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, Packet};
use tokio::io::{AsyncRead, AsyncWrite};

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    pub(super) fn carry_out(&mut self, action: Action) {
        match action {
            Action::Write(packet) => {
                if let Packet::Publish(publish) = &packet
                    && publish.pkid != 0
                    && self.timed.is_none()
                {
                    self.timed = Some((publish.pkid, self.now()));
                }
                if let Packet::ConnAck(ack) = &packet
                    && ack.code != ConnectReturnCode::Success
                {
                    self.shared.metrics.connect_refused(&ack.code);
                }
                if let Err(error) = write_packet(&packet, &mut self.outgoing) {
                    self.shared.dispatch.on_refused(
                        "connection",
                        "a packet that cannot be written",
                        None,
                        &error.detail,
                    );
                }
            }
            Action::WriteBytes(bytes) => self.outgoing.extend_from_slice(bytes),
            Action::Ask => match self.server.ask() {
                Some(ask) => self.ask(ask),
                None => self.over = Some("nothing was shown"),
            },
            Action::Heard { topic, payload, packet_id } => {
                self.note(topic, &payload);
                let now = self.now();
                if let Some(pause) = self.rate.take(payload.len(), now) {
                    if self.paused_until.is_none() {
                        let who = self.entered.as_ref().and_then(|entered| entered.address.as_ref());
                        let why = "more words or bytes a second than a device may say";
                        self.shared.dispatch.on_refused("connection", "read more slowly", who, &why);
                    }
                    self.paused_until = Some(now + pause);
                    self.happens(Event::Paused(true));
                }
                let said = match topic {
                    Topic::Up => Said::Up(payload),
                    Topic::State => Said::State(payload),
                };
                self.words.push_back((said, packet_id));
            }
            Action::Refused(why) => {
                let who = self.entered.as_ref().and_then(|entered| entered.address.as_ref());
                self.shared.dispatch.on_refused("connection", why, who, &why);
            }
            Action::Close { why, will } => {
                self.over = Some(why);
                self.will = will;
            }
        }
    }

    /// Which connection this is, so that its end can be told from another's.
    fn note(&mut self, topic: Topic, payload: &[u8]) {
        match topic {
            Topic::State => {
                if let Ok(state) = decode_state(payload) {
                    self.goodbye = !state.online;
                    self.nonce = Some(state.nonce);
                }
            }
            // A client that says no state has at least greeted.
            Topic::Up if self.nonce.is_none() => {
                if let Ok(Up::Hello(hello)) = decode_up(payload)
                    && !hello.check
                {
                    self.nonce = Some(hello.nonce);
                }
            }
            Topic::Up => {}
        }
    }

    fn ask(&mut self, ask: Box<Ask>) {
        self.asking = Some(asked(ask, &self.shared, self.from));
    }

    pub(super) fn found(&mut self, found: Found) {
        self.asking = None;
        match found {
            Found::Login(ask, answer, ended) => match enter(&ask, answer, ended, &self.shared) {
                Entry::In { address, place, own } => {
                    self.shared.metrics.link_began();
                    self.entered = Some(Entered { client_id: ask.client_id, address, place });
                    self.happens(Event::Entered(Ok(own)));
                }
                Entry::Again => self.ask(ask),
                Entry::Out(refusal) => self.happens(Event::Entered(Err(refusal))),
            },
            // It hears of it when it has subscribed.
            Found::Code(answer, own) => {
                self.enrols_until = Some(self.now() + ENROLS_WITHIN);
                self.happens(Event::Entered(Ok(own)));
                self.happens(Event::Deliver(answer.encode().into(), None));
            }
            Found::Nobody(refusal) => self.happens(Event::Entered(Err(refusal))),
        }
    }
}
