//! The server side of one MQTT 5 connection, as a value: what a client sent comes in, what it is sent and what is to
//! be carried out comes out. No socket, no clock.
//!
//! ```text
//! CONNECT --Ask--> whoever knows tokens --Entered--> CONNACK
//!                                                       |
//! SUBSCRIBE to the own `down`, PUBLISH to the own `up` and `state` (Heard), PINGREQ, DISCONNECT
//! ```
//!
//! There are no sessions, no retained messages, no QoS 2, no wildcards and no shared subscriptions: a device has three
//! topics, and its only partner is the gateway. What CONNACK says is so.

mod frames;
mod outbound;
mod strict;

pub use frames::{next_packet, write_packet};
pub use strict::Fault;

use self::outbound::Outbound;
use super::connection::no_properties;
use crate::protocol::MAX_PACKET;
use crate::secret::Secret;
use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, ConnectReturnCode, Disconnect, DisconnectProperties, DisconnectReasonCode, Filter,
    Packet, PingResp, PubAck, PubAckReason, Publish, SubAck, Subscribe, SubscribeReasonCode, UnsubAck, UnsubAckReason,
    Unsubscribe,
};
use std::sync::Arc;
use std::time::Duration;

/// A client has so long from the first byte to its CONNECT.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Publishes of a client that are not acknowledged; then nothing more of it is read.
pub const RECEIVE_MAXIMUM: u16 = 16;
/// Longest `state` in bytes, and longest will.
const LONGEST_STATE: usize = 1024;
/// The keep alive of a client that names none, in seconds: a connection that died is found at some time.
const KEEP_ALIVE_S: u16 = 3600;

/// A client's three topics. Those of a connection that only probes the network are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own {
    pub down: String,
    pub up: String,
    pub state: String,
}

/// What a client that wants to enter shows.
#[derive(Debug, Clone)]
pub struct Ask {
    pub client_id: String,
    pub user: Option<String>,
    pub password: Secret,
    /// The will's topic.
    pub will_topic: Option<String>,
    /// The most bytes of a packet that the client takes.
    pub max_packet: u32,
}

/// Why a client is not let in: an MQTT 5 reason code, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: ConnectReturnCode,
    pub why: String,
    /// The device's login has ended: a user property's name, and the code.
    pub end: Option<(&'static str, u16)>,
}

/// What happens to a connection.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one stands for a call, and most are packets")]
pub enum Event {
    Packet(Packet),
    /// What came is no packet of a client.
    Fault(Fault),
    /// The answer to [`Action::Ask`].
    Entered(Result<Own, Refusal>),
    /// To be sent on `down`. What bears the name of something that is on its way there already is not.
    Deliver(Bytes, Option<Arc<str>>),
    /// What was heard under this id is stored.
    Stored(Option<u16>),
    /// It said too much, or that is over.
    Paused(bool),
    /// The gateway ends it. `end`: of the device's login, with its code.
    End {
        code: DisconnectReasonCode,
        end: Option<(&'static str, u16)>,
    },
    /// The socket is closed.
    Closed,
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "one stands for a call, and most are packets")]
pub enum Action {
    Write(Packet),
    /// Bytes of another version of MQTT.
    WriteBytes(&'static [u8]),
    Ask,
    Heard {
        topic: Topic,
        payload: Bytes,
        packet_id: Option<u16>,
    },
    /// A publish to a topic that is not its own, or what did not fit.
    Refused(&'static str),
    /// Close the socket. `will`: publish the will's payload.
    Close {
        why: &'static str,
        will: Option<Bytes>,
    },
}

/// Which of its topics a client published to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    Up,
    State,
}

enum Phase {
    /// Since when it owes a CONNECT.
    Fresh(Duration),
    Asked,
    Up,
    Closed,
}

/// One connection.
pub struct Server {
    phase: Phase,
    /// In a box: the connection goes on long after it.
    ask: Option<Box<Ask>>,
    own: Own,
    will: Option<Bytes>,
    /// `None`: not subscribed.
    subscribed: Option<QoS>,
    keep_alive: Duration,
    /// The client named none.
    sets_keep_alive: bool,
    heard_at: Duration,
    /// The client's limits.
    max_packet: u32,
    outbound: Outbound,
    /// Words that were heard and are not stored.
    owed: usize,
    /// It said more than it may; nothing more of it is read for a while.
    paused: bool,
}

impl Server {
    pub fn new(now: Duration) -> Self {
        Self {
            phase: Phase::Fresh(now),
            ask: None,
            own: Own::default(),
            will: None,
            subscribed: None,
            keep_alive: Duration::ZERO,
            sets_keep_alive: false,
            heard_at: now,
            max_packet: u32::MAX,
            outbound: Outbound::default(),
            owed: 0,
            paused: false,
        }
    }

    /// What the client shows, once after [`Action::Ask`].
    pub fn ask(&mut self) -> Option<Box<Ask>> {
        self.ask.take()
    }

    /// Whether more of it is to be read: not while it has so much that is not stored.
    pub fn reads(&self) -> bool {
        match self.phase {
            Phase::Fresh(_) => true,
            Phase::Up => !self.paused && self.owed < usize::from(RECEIVE_MAXIMUM),
            Phase::Asked | Phase::Closed => false,
        }
    }

    /// When [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Fresh(since) => Some(since + CONNECT_WITHIN),
            // What is not read for its own sake is no silence of the client's.
            Phase::Up if self.reads() => Some(self.heard_at + self.keep_alive + self.keep_alive / 2),
            Phase::Asked | Phase::Up | Phase::Closed => None,
        }
    }

    /// The most bytes of the next packet.
    pub const fn longest(&self) -> u32 {
        if matches!(self.phase, Phase::Fresh(_)) { strict::LONGEST_CONNECT } else { MAX_PACKET }
    }

    /// It has subscribed, and was sent all that there is for it.
    pub fn is_told(&self) -> bool {
        matches!(self.phase, Phase::Up) && self.subscribed.is_some() && !self.outbound.waits()
    }

    pub const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Decides what an event leads to.
    pub fn on_event(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.decide(now, event, &mut actions);
        actions
    }

    fn decide(&mut self, now: Duration, event: Event, out: &mut Vec<Action>) {
        match event {
            _ if self.is_closed() => {}
            Event::Packet(packet) => {
                self.heard_at = now.max(self.heard_at);
                match self.phase {
                    Phase::Fresh(_) => self.first(packet, out),
                    Phase::Up => self.packet(packet, out),
                    Phase::Asked | Phase::Closed => {}
                }
            }
            Event::Fault(fault) => self.fault(fault, out),
            Event::Entered(answer) => self.entered(now, answer, out),
            Event::Deliver(payload, message) => self.deliver(payload, message, out),
            Event::Stored(packet_id) => {
                self.owed = self.owed.saturating_sub(1);
                // What was not read meanwhile is no silence.
                self.heard_at = now.max(self.heard_at);
                out.extend(packet_id.map(|id| Action::Write(Packet::PubAck(PubAck::new(id, None)))));
            }
            Event::Paused(paused) => {
                self.paused = paused;
                self.heard_at = now.max(self.heard_at);
            }
            Event::End { code, end } => {
                self.part(code, end, out);
                self.close("ended by the gateway", true, out);
            }
            Event::Closed => self.close("the client closed without a goodbye", true, out),
            Event::Tick => match self.phase {
                Phase::Fresh(since) if now >= since + CONNECT_WITHIN => self.close("no CONNECT in time", false, out),
                Phase::Up if self.deadline().is_some_and(|at| now >= at) => {
                    // [MQTT-3.1.2-22]
                    self.part(DisconnectReasonCode::KeepAliveTimeout, None, out);
                    self.close("silent for one and a half times its keep alive", true, out);
                }
                _ => {}
            },
        }
    }

    fn first(&mut self, packet: Packet, out: &mut Vec<Action>) {
        let Packet::Connect(connect, will, login) = packet else {
            // [MQTT-3.1.0-1]
            return self.close("something else before CONNECT", false, out);
        };
        let properties = connect.properties;
        self.outbound.set_window(properties.as_ref().and_then(|p| p.receive_maximum));
        self.max_packet = properties.as_ref().and_then(|p| p.max_packet_size).unwrap_or(u32::MAX);
        self.sets_keep_alive = connect.keep_alive == 0;
        let keep_alive_s = if self.sets_keep_alive { KEEP_ALIVE_S } else { connect.keep_alive };
        self.keep_alive = Duration::from_secs(keep_alive_s.into());
        let will_topic = will.as_ref().map(|will| String::from_utf8_lossy(&will.topic).into_owned());
        if will.as_ref().is_some_and(|will| will.qos == QoS::ExactlyOnce) {
            let why = "a will of QoS 2, which is not offered".to_owned();
            return self.refuse(Refusal { code: ConnectReturnCode::QoSNotSupported, why, end: None }, out);
        }
        if will.as_ref().is_some_and(|will| will.message.len() > LONGEST_STATE) {
            let why = format!("a will of more than {LONGEST_STATE} bytes");
            return self.refuse(Refusal { code: ConnectReturnCode::QuotaExceeded, why, end: None }, out);
        }
        // Of its own: the whole CONNECT, with the token in it, would be kept for as long as the client is connected.
        self.will = will.map(|will| Bytes::copy_from_slice(&will.message));
        let (user, password) = login.map_or((None, String::new()), |login| (Some(login.username), login.password));
        let no_id = connect.client_id.is_empty();
        let password = Secret::new(password);
        let max_packet = self.max_packet;
        self.ask = Some(Box::new(Ask { client_id: connect.client_id, user, password, will_topic, max_packet }));
        if no_id {
            let why = "a client id is needed: {user}:{device}@{app}".to_owned();
            return self.refuse(Refusal { code: ConnectReturnCode::ClientIdentifierNotValid, why, end: None }, out);
        }
        self.phase = Phase::Asked;
        out.push(Action::Ask);
    }

    fn entered(&mut self, now: Duration, answer: Result<Own, Refusal>, out: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Asked) {
            return;
        }
        match answer {
            Err(refusal) => self.refuse(refusal, out),
            Ok(own) => {
                self.own = own;
                self.phase = Phase::Up;
                self.heard_at = now;
                let server_keep_alive = self.sets_keep_alive.then_some(KEEP_ALIVE_S);
                let properties = ConnAckProperties {
                    session_expiry_interval: Some(0),
                    receive_max: Some(RECEIVE_MAXIMUM),
                    max_qos: Some(1),
                    // Taken on the own `state`, and nothing is kept.
                    retain_available: Some(1),
                    max_packet_size: Some(MAX_PACKET),
                    topic_alias_max: Some(0),
                    wildcard_subscription_available: Some(0),
                    subscription_identifiers_available: Some(0),
                    shared_subscription_available: Some(0),
                    server_keep_alive,
                    ..no_properties()
                };
                out.push(connack(ConnectReturnCode::Success, properties));
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal, out: &mut Vec<Action>) {
        let user_properties = refusal.end.map(|(name, code)| (name.to_owned(), code.to_string())).into_iter().collect();
        let properties = ConnAckProperties { reason_string: Some(refusal.why), user_properties, ..no_properties() };
        out.push(connack(refusal.code, properties));
        self.close("refused", false, out);
    }

    fn packet(&mut self, packet: Packet, out: &mut Vec<Action>) {
        match packet {
            Packet::Publish(publish) => self.publish(publish, out),
            Packet::PubAck(ack) => {
                self.outbound.acknowledged(ack.pkid);
                self.send_waiting(out);
            }
            Packet::Subscribe(subscribe) => self.subscribe(&subscribe, out),
            Packet::Unsubscribe(Unsubscribe { pkid, filters, .. }) => {
                let reasons = filters.iter().map(|filter| match self.subscribed {
                    Some(_) if *filter == self.own.down => UnsubAckReason::Success,
                    _ => UnsubAckReason::NoSubscriptionExisted,
                });
                let reasons: Vec<_> = reasons.collect();
                if reasons.contains(&UnsubAckReason::Success) {
                    self.subscribed = None;
                }
                out.push(Action::Write(Packet::UnsubAck(UnsubAck { pkid, reasons, properties: None })));
            }
            Packet::PingReq(_) => out.push(Action::Write(Packet::PingResp(PingResp))),
            Packet::Disconnect(Disconnect { reason_code, .. }) => {
                // [MQTT-3.14.4-3]: a normal goodbye throws the will away, and no other does.
                let will = reason_code != DisconnectReasonCode::NormalDisconnection;
                self.close("it said goodbye", will, out);
            }
            // [MQTT-3.1.0-2]
            Packet::Connect(..) => self.fault(Fault::protocol("a second CONNECT"), out),
            _ => self.fault(Fault::protocol("a packet that has no place here"), out),
        }
    }

    fn publish(&mut self, publish: Publish, out: &mut Vec<Action>) {
        let packet_id = (publish.qos != QoS::AtMostOnce).then_some(publish.pkid);
        let topic = match publish.topic {
            topic if topic.is_empty() => None,
            topic if topic == self.own.up.as_bytes() => Some(Topic::Up),
            topic if topic == self.own.state.as_bytes() => Some(Topic::State),
            _ => None,
        };
        let mut refuse = |why, reason| {
            out.push(Action::Refused(why));
            out.extend(packet_id.map(|pkid| Action::Write(Packet::PubAck(PubAck { pkid, reason, properties: None }))));
        };
        let Some(topic) = topic else {
            return refuse("a publish to a topic that is not its own", PubAckReason::NotAuthorized);
        };
        // It is a presence and nothing else.
        if topic == Topic::State && publish.payload.len() > LONGEST_STATE {
            return refuse("a state that is too large", PubAckReason::PayloadFormatInvalid);
        }
        self.owed += 1;
        // Reading stops at that; who sends more in one piece has not kept to CONNACK.
        if self.owed > 2 * usize::from(RECEIVE_MAXIMUM) {
            let fault = Fault { code: 0x93, why: "more unacknowledged publishes than agreed" };
            return self.fault(fault, out);
        }
        out.push(Action::Heard { topic, payload: publish.payload, packet_id });
    }

    fn subscribe(&mut self, subscribe: &Subscribe, out: &mut Vec<Action>) {
        let mut return_codes = Vec::with_capacity(subscribe.filters.len());
        for Filter { path, qos, .. } in &subscribe.filters {
            return_codes.push(match path.as_str() {
                path if !path.is_empty() && path == self.own.down => {
                    let granted = if *qos == QoS::AtMostOnce { QoS::AtMostOnce } else { QoS::AtLeastOnce };
                    self.subscribed = Some(granted);
                    SubscribeReasonCode::Success(granted)
                }
                path if path.starts_with("$share/") => SubscribeReasonCode::SharedSubscriptionsNotSupported,
                path if path.contains(['+', '#']) => SubscribeReasonCode::WildcardSubscriptionsNotSupported,
                _ => SubscribeReasonCode::NotAuthorized,
            });
        }
        let refused = return_codes.iter().any(|code| !matches!(code, SubscribeReasonCode::Success(_)));
        if refused {
            out.push(Action::Refused("a subscription to a topic that is not its own"));
        }
        out.push(Action::Write(Packet::SubAck(SubAck { pkid: subscribe.pkid, return_codes, properties: None })));
        self.send_waiting(out);
    }

    fn deliver(&mut self, payload: Bytes, name: Option<Arc<str>>, out: &mut Vec<Action>) {
        if self.outbound.wait(payload, name).is_err() {
            return out.push(Action::Refused("more for the device than may wait for it"));
        }
        self.send_waiting(out);
    }

    fn send_waiting(&mut self, out: &mut Vec<Action>) {
        let Some(qos) = self.subscribed else { return };
        let (topic, most) = (&self.own.down, self.max_packet);
        // [MQTT-3.1.2-24]: as if it had been sent.
        let fits = |payload: &Bytes| u32::try_from(payload.len() + topic.len() + 16).unwrap_or(u32::MAX) <= most;
        while let Some((payload, packet_id)) = self.outbound.next(qos == QoS::AtLeastOnce, fits) {
            let Some(packet_id) = packet_id else {
                out.push(Action::Refused("a message that is larger than the device takes"));
                continue;
            };
            let mut publish = Publish::new(topic.clone(), qos, payload, None);
            publish.pkid = packet_id;
            out.push(Action::Write(Packet::Publish(publish)));
        }
    }

    fn fault(&mut self, fault: Fault, out: &mut Vec<Action>) {
        match self.phase {
            // [MQTT-3.1.4-1]; an old client does not read a new one's refusal.
            Phase::Fresh(_) if fault.is_old() => out.push(Action::WriteBytes(&[0x20, 2, 0, 1])),
            Phase::Fresh(_) | Phase::Asked => {
                let code = match fault.code {
                    0x81 => ConnectReturnCode::MalformedPacket,
                    0x84 => ConnectReturnCode::UnsupportedProtocolVersion,
                    0x86 => ConnectReturnCode::BadUserNamePassword,
                    0x8c => ConnectReturnCode::BadAuthenticationMethod,
                    0x95 => ConnectReturnCode::PacketTooLarge,
                    _ => ConnectReturnCode::ProtocolError,
                };
                let reason_string = Some(fault.why.to_owned());
                out.push(connack(code, ConnAckProperties { reason_string, ..no_properties() }));
            }
            Phase::Up | Phase::Closed => {
                let code = DisconnectReasonCode::try_from(fault.code).unwrap_or(DisconnectReasonCode::ProtocolError);
                self.part(code, None, out);
            }
        }
        self.close(fault.why, true, out);
    }

    fn part(&self, reason_code: DisconnectReasonCode, end: Option<(&'static str, u16)>, out: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Up) {
            return;
        }
        let properties = end.map(|(name, code)| DisconnectProperties {
            session_expiry_interval: None,
            reason_string: None,
            user_properties: vec![(name.to_owned(), code.to_string())],
            server_reference: None,
        });
        out.push(Action::Write(Packet::Disconnect(Disconnect { reason_code, properties })));
    }

    fn close(&mut self, why: &'static str, will: bool, out: &mut Vec<Action>) {
        let will = self.will.take().filter(|_| will && matches!(self.phase, Phase::Up));
        self.phase = Phase::Closed;
        out.push(Action::Close { why, will });
    }
}

fn connack(code: ConnectReturnCode, properties: ConnAckProperties) -> Action {
    Action::Write(Packet::ConnAck(ConnAck { session_present: false, code, properties: Some(properties) }))
}

#[cfg(test)]
mod tests;
