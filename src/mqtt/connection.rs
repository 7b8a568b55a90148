//! One MQTT 5 session over one stream: packet ids, flow control, acknowledgements.

use super::{MqttError, codec};
use crate::keepalive::Cause;
use crate::keepalive::constants::WRITE_TIMEOUT;
use crate::protocol::{END_PROPERTY, MAX_PACKET};
use crate::secret::Secret;
use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectProperties, DisconnectReasonCode, Filter,
    LastWill, Login, Packet, PingReq, PubAck, Publish, Subscribe, SubscribeReasonCode,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Publishes that wait for the server's receive window; beyond it `publish` is refused.
const MAX_QUEUED: usize = 4096;
/// The server may have this many unacknowledged publishes on their way to us.
const RECEIVE_MAXIMUM: u16 = 64;
/// Packets that may come before SUBACK.
const MAX_HEARD: usize = 2 * RECEIVE_MAXIMUM as usize;
/// How long the server may take to close its side after a DISCONNECT.
const FAREWELL: Duration = Duration::from_millis(500);
/// A read buffer longer than this is given back when it is empty.
const KEEP_BUFFER: usize = 4096;

/// Published by the server when this connection dies without a DISCONNECT.
#[derive(Debug, Clone)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    /// Some brokers refuse one or the other.
    pub retain: bool,
    pub at_least_once: bool,
}

#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub client_id: String,
    pub user_name: String,
    pub password: Secret,
    /// Seconds; the server drops the session after 1.5 times this without a packet. 0 switches it off.
    pub keep_alive_s: u16,
    /// Seconds the server keeps the session after the connection ends.
    pub session_expiry_s: u32,
    pub clean_start: bool,
    pub will: Option<Will>,
}

/// What CONNACK said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    pub session_present: bool,
    /// Seconds, where the server set another one than asked.
    pub server_keep_alive_s: Option<u16>,
    /// The broker keeps retained messages.
    pub retain: bool,
    /// The broker takes QoS 1; without it messages may be lost on the way.
    pub at_least_once: bool,
}

/// What the server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    Publish {
        topic: String,
        payload: Bytes,
        /// Present with QoS 1: pass it to [`Connection::ack`] when the message is safe.
        packet_id: Option<u16>,
    },
    /// The server has a publish of ours, or refused it.
    Published {
        /// As [`Connection::publish`] gave it.
        ordinal: u64,
        refused: Option<MqttError>,
    },
    Subscribed {
        packet_id: u16,
        refused: Option<MqttError>,
    },
    Pong,
}

/// A publish that the server has not acknowledged.
#[derive(Debug)]
struct Sent {
    ordinal: u64,
    bytes: usize,
}

/// A session on a stream.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    incoming: BytesMut,
    outgoing: BytesMut,
    last_packet_id: u16,
    in_flight: BTreeMap<u16, Sent>,
    queued: VecDeque<(u64, Publish)>,
    /// Publishes of this connection so far.
    published: u64,
    /// What came before SUBACK, for [`Connection::next`] to give.
    heard: VecDeque<Incoming>,
    /// How many unacknowledged publishes the server takes.
    window: usize,
    server_max_packet: Option<u32>,
    /// What the broker has not, publishes go without.
    retain: bool,
    at_least_once: bool,
}

/// Sends CONNECT and waits for CONNACK.
///
/// # Errors
/// [`MqttError`] with the server's reason, or `connect_timeout`.
pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    options: &ConnectOptions,
    timeout: Duration,
) -> Result<(Connection<S>, Connected), MqttError> {
    let mut connection = Connection {
        stream,
        incoming: BytesMut::new(),
        outgoing: BytesMut::new(),
        last_packet_id: 0,
        in_flight: BTreeMap::new(),
        queued: VecDeque::new(),
        published: 0,
        heard: VecDeque::new(),
        window: usize::from(u16::MAX),
        server_max_packet: None,
        retain: true,
        at_least_once: true,
    };
    let answer = async {
        connection.write(&connect_packet(options)).await?;
        let sent = connection.outgoing.len();
        connection.read_packet().await.map_err(|error| unanswered(error, sent))
    };
    let packet = tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| {
        Err(MqttError::new(Cause::ConnectTimeout, format!("no CONNACK within {} s", timeout.as_secs())))
    })?;
    let Packet::ConnAck(connack) = packet else {
        return Err(match packet {
            Packet::Disconnect(disconnect) => parted(disconnect),
            other => MqttError::new(Cause::ProtocolError, format!("{other:?} instead of CONNACK")),
        });
    };
    let properties = connack.properties.unwrap_or_else(no_properties);
    if connack.code != ConnectReturnCode::Success {
        let detail = properties.reason_string.unwrap_or_else(|| format!("CONNACK {:?}", connack.code));
        let mut error = MqttError::new(codec::refusal(connack.code), detail);
        error.server_reference = properties.server_reference;
        error.end = end_of(&properties.user_properties);
        return Err(error);
    }
    connection.window = usize::from(properties.receive_max.unwrap_or(u16::MAX).max(1));
    connection.server_max_packet = properties.max_packet_size;
    connection.retain = properties.retain_available != Some(0);
    connection.at_least_once = properties.max_qos != Some(0);
    let connected = Connected {
        session_present: connack.session_present,
        server_keep_alive_s: properties.server_keep_alive,
        retain: connection.retain,
        at_least_once: connection.at_least_once,
    };
    Ok((connection, connected))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The next thing the server sent. Cancel-safe: a dropped call loses no byte.
    ///
    /// # Errors
    /// [`MqttError`]; the connection is over then.
    pub async fn next(&mut self) -> Result<Incoming, MqttError> {
        match self.heard.pop_front() {
            Some(incoming) => Ok(incoming),
            None => self.read().await,
        }
    }

    async fn read(&mut self) -> Result<Incoming, MqttError> {
        match self.read_packet().await? {
            Packet::Publish(publish) => {
                let topic = String::from_utf8(publish.topic.to_vec())
                    .map_err(|_| MqttError::new(Cause::ProtocolError, "a topic that is not UTF-8"))?;
                let packet_id = (publish.qos != QoS::AtMostOnce).then_some(publish.pkid);
                Ok(Incoming::Publish { topic, payload: publish.payload, packet_id })
            }
            Packet::PubAck(ack) => {
                // One that was never sent is nobody's.
                let ordinal = self.in_flight.remove(&ack.pkid).map_or(0, |sent| sent.ordinal);
                Ok(Incoming::Published { ordinal, refused: codec::unpublishable(&ack) })
            }
            Packet::SubAck(ack) => {
                let refused = ack.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)));
                let refused = refused.map(|code| {
                    MqttError::new(codec::unsubscribable(*code), format!("the subscription was refused: {code:?}"))
                });
                Ok(Incoming::Subscribed { packet_id: ack.pkid, refused })
            }
            Packet::PingResp(_) => Ok(Incoming::Pong),
            Packet::Disconnect(disconnect) => Err(parted(disconnect)),
            other => {
                let kind = std::mem::discriminant(&other);
                Err(MqttError::new(Cause::ProtocolError, format!("unexpected packet {kind:?}")))
            }
        }
    }

    /// Sends with QoS 1, or queues until the server's window opens. Returns its ordinal, from 1 on.
    ///
    /// # Errors
    /// [`MqttError`]; the connection lives on with `packet_too_large`, when the server takes no packet of this size, and
    /// with `quota_exceeded`, when the queue is full. Anything else ends it.
    pub async fn publish(&mut self, topic: &str, payload: impl Into<Bytes>, retain: bool) -> Result<u64, MqttError> {
        let qos = if self.at_least_once { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        let mut publish = Publish::new(topic, qos, payload, None);
        publish.retain = retain && self.retain;
        if let Some(most) = self.server_max_packet.filter(|most| publish.size() > *most as usize) {
            let detail = format!("a packet of {} bytes; the server takes {most}", publish.size());
            return Err(MqttError::new(Cause::PacketTooLarge, detail));
        }
        let ordinal = self.published + 1;
        if !self.at_least_once {
            self.write(&Packet::Publish(publish)).await?;
        } else if self.in_flight.len() < self.window && self.queued.is_empty() {
            self.send_publish(ordinal, publish).await?;
        } else if self.queued.len() < MAX_QUEUED {
            self.queued.push_back((ordinal, publish));
        } else {
            return Err(MqttError::new(Cause::QuotaExceeded, "too many publishes wait for the server"));
        }
        self.published = ordinal;
        Ok(ordinal)
    }

    /// Bytes of publishes sent or queued that the server has not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        let sent: usize = self.in_flight.values().map(|sent| sent.bytes).sum();
        sent + self.queued.iter().map(|(_, publish)| weight(publish)).sum::<usize>()
    }

    /// # Errors
    /// [`MqttError`]; the connection is over then.
    pub async fn subscribe(&mut self, filter: &str) -> Result<u16, MqttError> {
        let mut subscribe = Subscribe::new(Filter::new(filter, QoS::AtLeastOnce), None);
        subscribe.pkid = self.next_packet_id();
        let packet_id = subscribe.pkid;
        self.write(&Packet::Subscribe(subscribe)).await?;
        Ok(packet_id)
    }

    /// Subscribes and waits for SUBACK. A refusal, and what came before it, is for [`Self::next`] to give.
    ///
    /// # Errors
    /// [`MqttError`]; the connection is over then.
    pub async fn subscribed(&mut self, filter: &str) -> Result<(), MqttError> {
        let asked = self.subscribe(filter).await?;
        loop {
            match self.read().await? {
                Incoming::Subscribed { packet_id, refused: None } if packet_id == asked => return Ok(()),
                incoming => {
                    let answered = matches!(incoming, Incoming::Subscribed { .. });
                    self.heard.push_back(incoming);
                    if answered {
                        return Ok(());
                    }
                    if self.heard.len() > MAX_HEARD {
                        return Err(MqttError::new(Cause::ProtocolError, "messages without end instead of SUBACK"));
                    }
                }
            }
        }
    }

    /// Acknowledges a received publish. Call it only when the message is safe.
    ///
    /// # Errors
    /// [`MqttError`]; the connection is over then.
    pub async fn ack(&mut self, packet_id: u16) -> Result<(), MqttError> {
        self.write(&Packet::PubAck(PubAck::new(packet_id, None))).await
    }

    /// # Errors
    /// [`MqttError`]; the connection is over then.
    pub async fn ping(&mut self) -> Result<(), MqttError> {
        self.write(&Packet::PingReq(PingReq)).await
    }

    /// Ends the session on purpose: no will is published. With `end_session` the server forgets it.
    ///
    /// # Errors
    /// [`MqttError`]; the connection is over either way.
    pub async fn disconnect(mut self, end_session: bool) -> Result<(), MqttError> {
        let properties = end_session.then(|| DisconnectProperties {
            session_expiry_interval: Some(0),
            reason_string: None,
            user_properties: Vec::new(),
            server_reference: None,
        });
        let reason_code = DisconnectReasonCode::NormalDisconnection;
        self.write(&Packet::Disconnect(Disconnect { reason_code, properties })).await?;
        // Closing with unread bytes makes the kernel send RST, which throws the DISCONNECT away at the
        // far end and has the will published: half-close, then read until the server closes too.
        let farewell = async {
            self.stream.shutdown().await?;
            loop {
                self.incoming.clear();
                if self.stream.read_buf(&mut self.incoming).await? == 0 {
                    return Ok::<_, std::io::Error>(());
                }
            }
        };
        // A server that does not close in its turn is left; it has what it needs.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        Ok(())
    }

    /// Sends what waits for the server's window. Call it after [`Incoming::Published`]: `next` only
    /// reads, so that dropping it can never leave half a packet on the wire.
    ///
    /// # Errors
    /// [`MqttError`]; the connection is over then.
    pub async fn send_queued(&mut self) -> Result<(), MqttError> {
        while self.in_flight.len() < self.window {
            let Some((ordinal, publish)) = self.queued.pop_front() else { break };
            self.send_publish(ordinal, publish).await?;
        }
        Ok(())
    }

    async fn send_publish(&mut self, ordinal: u64, mut publish: Publish) -> Result<(), MqttError> {
        publish.pkid = self.next_packet_id();
        self.in_flight.insert(publish.pkid, Sent { ordinal, bytes: weight(&publish) });
        self.write(&Packet::Publish(publish)).await
    }

    fn next_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if !self.in_flight.contains_key(&self.last_packet_id) {
                return self.last_packet_id;
            }
        }
    }

    async fn read_packet(&mut self) -> Result<Packet, MqttError> {
        loop {
            if let Some(packet) = codec::decode(&mut self.incoming, MAX_PACKET)? {
                if self.incoming.is_empty() && self.incoming.capacity() > KEEP_BUFFER {
                    self.incoming = BytesMut::new();
                }
                return Ok(packet);
            }
            let read = self.stream.read_buf(&mut self.incoming).await.map_err(|e| broken(&e))?;
            if read == 0 {
                return Err(MqttError::new(Cause::PeerClosed, "end of stream"));
            }
        }
    }

    async fn write(&mut self, packet: &Packet) -> Result<(), MqttError> {
        self.outgoing.clear();
        codec::encode(packet, &mut self.outgoing, self.server_max_packet)?;
        let written = async {
            self.stream.write_all(&self.outgoing).await?;
            self.stream.flush().await
        };
        // Without this bound a peer that stops reading would hold the whole agent.
        match tokio::time::timeout(WRITE_TIMEOUT, written).await {
            Ok(result) => result.map_err(|e| broken(&e)),
            Err(_) => {
                Err(MqttError::new(Cause::WriteStalled, format!("not written within {} s", WRITE_TIMEOUT.as_secs())))
            }
        }
    }
}

fn weight(publish: &Publish) -> usize {
    publish.topic.len() + publish.payload.len()
}

/// A server that closes without a word before CONNACK leaves only a guess; the common reasons are these.
fn unanswered(error: MqttError, sent: usize) -> MqttError {
    if error.cause != Cause::PeerClosed {
        return error;
    }
    let detail = format!(
        "{}, before it answered a CONNECT of {sent} bytes; it may take no packet as large (a broker's max_packet_size), or not speak MQTT 5",
        error.detail
    );
    MqttError { detail, ..error }
}

fn connect_packet(options: &ConnectOptions) -> Packet {
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval = Some(options.session_expiry_s);
    properties.receive_maximum = Some(RECEIVE_MAXIMUM);
    properties.max_packet_size = Some(MAX_PACKET);
    let connect = Connect {
        keep_alive: options.keep_alive_s,
        client_id: options.client_id.clone(),
        clean_start: options.clean_start,
        properties: Some(properties),
    };
    let will = options.will.as_ref().map(|will| {
        let qos = if will.at_least_once { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        LastWill::new(will.topic.clone(), will.payload.clone(), qos, will.retain, None)
    });
    Packet::Connect(connect, will, Some(Login::new(options.user_name.clone(), options.password.expose())))
}

fn parted(disconnect: Disconnect) -> MqttError {
    let properties = disconnect.properties;
    let reason = properties.as_ref().and_then(|p| p.reason_string.clone());
    let mut error = MqttError::new(
        codec::parting(disconnect.reason_code),
        reason.unwrap_or_else(|| format!("DISCONNECT {:?}", disconnect.reason_code)),
    );
    error.end = properties.as_ref().and_then(|p| end_of(&p.user_properties));
    error.server_reference = properties.and_then(|p| p.server_reference);
    error
}

/// The gateway's own word, on its own endpoint, that a login has ended: a kick code.
fn end_of(properties: &[(String, String)]) -> Option<u16> {
    properties.iter().find(|(name, _)| name == END_PROPERTY)?.1.parse().ok()
}

fn broken(error: &std::io::Error) -> MqttError {
    if let Some(refused) = super::tls::about_own_certificate(error) {
        return refused;
    }
    let cause = match error.kind() {
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe => {
            Cause::PeerClosed
        }
        _ => Cause::Io,
    };
    MqttError::new(cause, error.to_string())
}

pub(super) const fn no_properties() -> rumqttc::v5::mqttbytes::v5::ConnAckProperties {
    rumqttc::v5::mqttbytes::v5::ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}
