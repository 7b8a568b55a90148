//! One connection of the load: as an agent connects, greets and acknowledges; or, of mosquitto's, a subscriber.

use super::crowd::{Counts, Target};
use crate::ids::{MessageId, Nonce};
use crate::keepalive::{Cause, Reconnect, Verdict};
use crate::mqtt::{ConnectOptions, Connection, Incoming, MqttError, Will, handshake};
use crate::protocol::{Address, DEFAULT_PREFIX, Down, Hello, Leg, State, Topics, Up, decode_down};
use crate::secret::Secret;
use bytes::Bytes;
use rustls::HandshakeKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// TCP and TLS, and then CONNECT: an agent's own patience.
const PATIENCE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_S: u16 = 600;
/// A connection's first words: `state` and `hello`.
const GREETING: u64 = 2;
/// Messages that are acknowledged in one word, if so many have come already.
const AT_ONCE: usize = 16;

type Stream = TlsStream<TcpStream>;

/// Who connects.
#[derive(Debug, Clone)]
pub(super) enum Who {
    Device {
        address: Address,
        token: Secret,
    },
    /// Of a broker that knows no users.
    Subscriber {
        client_id: String,
        topic: String,
    },
}

/// What every client of a crowd is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Connected; a larger number: reset the connection first.
    Stay(u64),
    Leave,
}

/// Connects, stays, and comes back with an agent's own pauses, until it is to leave.
pub(super) async fn live(who: Who, target: Arc<Target>, counts: Arc<Counts>, mut wish: watch::Receiver<Wish>) {
    let born = Instant::now();
    let mut reconnect = Reconnect::new(number());
    loop {
        if *wish.borrow_and_update() == Wish::Leave {
            return;
        }
        let connected = async {
            let _turn = target.turns.acquire().await;
            enter(&who, &target, &counts).await
        };
        let cause = match connected.await {
            Ok(connection) => {
                counts.online.fetch_add(1, Ordering::Relaxed);
                reconnect.on_up(born.elapsed());
                let ended = stay(connection, &who, &counts, &mut wish).await;
                counts.online.fetch_sub(1, Ordering::Relaxed);
                ended
            }
            Err(error) => {
                counts.failed(&error);
                error.cause
            }
        };
        if *wish.borrow() == Wish::Leave {
            return;
        }
        let Verdict::Retry(attempt) = reconnect.on_down(born.elapsed(), cause) else { return };
        tokio::time::sleep_until(born + attempt.at).await;
    }
}

/// A number that no other connection of this run has.
fn number() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(1);
    LAST.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Until the gateway's welcome, which is when an agent says it is online.
async fn enter(who: &Who, target: &Target, counts: &Counts) -> Result<Connection<Stream>, MqttError> {
    let stream = tokio::time::timeout(PATIENCE, open(target))
        .await
        .map_err(|_| MqttError::new(Cause::ConnectTimeout, "no TLS in time"))??;
    if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
        counts.resumed.fetch_add(1, Ordering::Relaxed);
    }
    match who {
        Who::Subscriber { client_id, topic } => {
            let (mut connection, _) =
                handshake(stream, &options(client_id, "", Secret::new(""), None), PATIENCE).await?;
            connection.subscribed(topic).await?;
            Ok(connection)
        }
        Who::Device { address, token } => {
            let topics = topics()?;
            let nonce = Nonce::from_number(number());
            let will = Will {
                topic: topics.topic(address, Leg::State),
                payload: State { online: false, nonce: nonce.clone() }.encode(),
                retain: true,
                at_least_once: true,
            };
            let options = options(&address.client_id(), &address.user_name(), token.clone(), Some(will));
            let (mut connection, _) = handshake(stream, &options, PATIENCE).await?;
            connection.subscribed(&topics.topic(address, Leg::Down)).await?;
            let state = State { online: true, nonce: nonce.clone() };
            connection.publish(&topics.topic(address, Leg::State), state.encode(), true).await?;
            let hello = Up::Hello(Hello {
                nonce,
                agent: "lab".to_owned(),
                channel: "none".to_owned(),
                platform: "linux".to_owned(),
                model: None,
                login: Some(address.device.to_string()),
                check: false,
                instance: None,
                binding: None,
            });
            connection.publish(&topics.topic(address, Leg::Up), hello.encode(), false).await?;
            let welcome = async {
                loop {
                    let Incoming::Publish { payload, packet_id, .. } = connection.next().await? else { continue };
                    if let Some(id) = packet_id {
                        connection.ack(id).await?;
                    }
                    if matches!(decode_down(&payload), Ok(Down::Settings { .. })) {
                        return Ok(connection);
                    }
                }
            };
            tokio::time::timeout(PATIENCE, welcome)
                .await
                .map_err(|_| MqttError::new(Cause::ConnectTimeout, "no welcome in time"))?
        }
    }
}

pub(super) fn topics() -> Result<Topics, MqttError> {
    Topics::new(DEFAULT_PREFIX).map_err(|e| MqttError::new(Cause::Io, e.to_string()))
}

fn options(client_id: &str, user_name: &str, password: Secret, will: Option<Will>) -> ConnectOptions {
    ConnectOptions {
        client_id: client_id.to_owned(),
        user_name: user_name.to_owned(),
        password,
        keep_alive_s: KEEP_ALIVE_S,
        session_expiry_s: 0,
        clean_start: true,
        will,
    }
}

/// TCP from the next of the machine's own addresses, so that no limit of one address is met, and TLS.
pub(super) async fn open(target: &Target) -> Result<Stream, MqttError> {
    let fail = |e: std::io::Error| MqttError::new(Cause::Io, e.to_string());
    let tcp = dial(target.address).await.map_err(fail)?;
    tcp.set_nodelay(true).map_err(fail)?;
    let connector = TlsConnector::from(target.tls());
    connector.connect(target.name.clone(), tcp).await.map_err(fail)
}

pub(super) async fn dial(to: SocketAddr) -> std::io::Result<TcpStream> {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let last = LAST.fetch_add(1, Ordering::Relaxed) % 8;
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 10 + last as u8], 0)))?;
    socket.connect(to).await
}

async fn stay(
    mut connection: Connection<Stream>,
    who: &Who,
    counts: &Counts,
    wish: &mut watch::Receiver<Wish>,
) -> Cause {
    let up = match who {
        Who::Device { address, .. } => topics().ok().map(|topics| topics.topic(address, Leg::Up)),
        Who::Subscriber { .. } => None,
    };
    loop {
        let incoming = tokio::select! {
            incoming = connection.next() => incoming,
            _ = wish.changed() => {
                // As a network that is gone: neither a goodbye nor an end of the stream.
                let _ = socket2::SockRef::from(connection.stream().get_ref().0).set_linger(Some(Duration::ZERO));
                return Cause::Io;
            }
        };
        let heard = match incoming {
            Ok(incoming) => serve(&mut connection, up.as_deref(), incoming, counts).await,
            Err(error) => Err(error),
        };
        if let Err(error) = heard {
            counts.failed(&error);
            return error.cause;
        }
    }
}

/// Acknowledges a message, and with it those that have come meanwhile.
async fn serve(
    connection: &mut Connection<Stream>,
    up: Option<&str>,
    first: Incoming,
    counts: &Counts,
) -> Result<(), MqttError> {
    let (mut ids, mut next): (Vec<MessageId>, _) = (Vec::new(), Some(first));
    while let Some(incoming) = next.take() {
        match incoming {
            Incoming::Publish { payload, packet_id, .. } => {
                if let Some(id) = packet_id {
                    connection.ack(id).await?;
                }
                match up {
                    Some(_) => ids.extend(message(&payload, counts)),
                    None => {
                        counts.received.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            Incoming::Published { ordinal, .. } => {
                if ordinal > GREETING {
                    counts.answered.fetch_add(1, Ordering::Relaxed);
                }
                connection.send_queued().await?;
            }
            Incoming::Subscribed { .. } | Incoming::Pong => {}
        }
        if up.is_some() && ids.len() < AT_ONCE {
            next = match tokio::time::timeout(Duration::ZERO, connection.next()).await {
                Ok(incoming) => Some(incoming?),
                Err(_) => None,
            };
        }
    }
    if let (Some(up), false) = (up, ids.is_empty()) {
        counts.acked.fetch_add(ids.len() as u64, Ordering::Relaxed);
        counts.words.fetch_add(1, Ordering::Relaxed);
        connection.publish(up, Up::Ack { ids, attached: Some(true) }.encode(), false).await?;
    }
    Ok(())
}

/// The id of a message; its time on the way is kept.
fn message(payload: &Bytes, counts: &Counts) -> Option<MessageId> {
    let Ok(Down::Message(message)) = decode_down(payload) else { return None };
    counts.received.fetch_add(1, Ordering::Relaxed);
    if let Some(sent) = message.body["at_us"].as_u64() {
        counts.took(sent);
    }
    Some(message.id)
}
