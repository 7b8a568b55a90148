//! The gateway's own MQTT 5 endpoint: listeners that accept without waiting, and who is connected.
//!
//! ```text
//! accept -- TLS, side by side --+-- first byte of MQTT -----------------+-- connection -- answered() -- store
//!                               +-- GET /mqtt: WebSocket, then the same-+      |
//!                                                                            table <-- messages for devices
//! ```
//!
//! There is no broker: what a device says goes straight to the dispatch, what it is told comes from there, and the
//! store is the only queue.

mod authority;
mod connection;
mod entry;
mod handshake;
mod header;
mod identity;
mod joined;
mod link;
mod prefixed;
mod rate;
mod table;
mod tickets;

pub(super) use authority::Authority;
pub(super) use identity::Identity;
pub use link::{End, Holder};
pub use table::{Given, Table};

use super::broker::Reach;
use super::config::Broker as Settings;
use super::crowded::Crowded;
use super::error::ServeError;
use crate::mqtt::accept_websocket;
pub(super) use connection::Shared;
use connection::serve;
use handshake::{Handshake, Handshakes};
use header::{Begins, Wrong};
use ipnet::IpNet;
use prefixed::Prefixed;
use rumqttc::v5::mqttbytes::v5::DisconnectReasonCode;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use table::Order;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

/// A load balancer's header, TLS and the first byte have so long together, and so has a WebSocket's request.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often the certificate is looked at: two calls of the system, of which no device notices anything.
const LOOK: Duration = Duration::from_secs(10);
/// Where WebSockets speak MQTT.
const PATH: &str = "/mqtt";
/// How long the goodbyes take at the gateway's end, and how many go at once.
const DRAIN: Duration = Duration::from_secs(2);
const AT_ONCE: usize = 500;

/// The running endpoint.
pub(super) struct Devices {
    reach: Reach,
    table: Table,
    identity: Arc<Current>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The certificate in use, which may be replaced.
struct Current {
    tls: RwLock<Arc<rustls::ServerConfig>>,
    identity: Identity,
}

impl Current {
    fn reload(&self) {
        match self.identity.tls() {
            Ok(new) => {
                *self.tls.write().unwrap_or_else(PoisonError::into_inner) = new;
                info!(event = "endpoint.certificate_reloaded", "the endpoint's certificate and key were read again");
            }
            Err(error) => {
                tracing::error!(event = "endpoint.certificate_refused", %error, "the endpoint's certificate cannot be used; the one before stays in force");
            }
        }
    }
}

/// Takes a certificate over that was put in another's place, and renews one of the gateway's own in time.
async fn watch(current: Arc<Current>, stop: CancellationToken) {
    let mut turns = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = turns.tick() => {}
        }
        if current.identity.has_changed() {
            current.reload();
        }
    }
}

impl Devices {
    /// Listens; devices that come are served until [`Self::stop`].
    ///
    /// # Errors
    /// [`ServeError`]: the address is taken, or there is no certificate that can be used.
    pub async fn start(settings: &Settings, identity: Identity, shared: Shared) -> Result<Self, ServeError> {
        let tls = RwLock::new(identity.tls()?);
        let address = settings.listen;
        let failed = |source: std::io::Error| {
            ServeError::Broker(format!("cannot listen on {address} for devices (broker.listen): {source}"))
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let reach = Reach { address: listener.local_addr().map_err(failed)?, ca_file: identity.ca() };
        let (stop, tasks) = (shared.stop.clone(), TaskTracker::new());
        let identity = Arc::new(Current { tls, identity });
        let (table, shared) = (shared.table.clone(), Arc::new(shared));
        tasks.spawn(watch(identity.clone(), stop.clone()));
        let limits = Limits { devices: settings.max_devices, proxy_from: settings.proxy_from.clone() };
        tasks.spawn(accept(listener, identity.clone(), shared, limits, tasks.clone()));
        Ok(Self { reach, table, identity, stop, tasks })
    }

    pub fn reach(&self) -> Reach {
        self.reach.clone()
    }

    /// Reads the certificate and its key again: new connections have them. Ones that cannot be used change nothing.
    pub fn reload(&self) {
        self.identity.reload();
    }

    /// Says goodbye to every device, a part of them at a time, and waits until what they said is carried out.
    pub async fn stop(self) {
        self.stop.cancel();
        let clients = self.table.clients();
        let parts = clients.chunks(AT_ONCE).count().max(1);
        let pause = DRAIN / u32::try_from(parts).unwrap_or(u32::MAX);
        for part in clients.chunks(AT_ONCE) {
            for client in part {
                self.table.end(client, Order::End { code: DisconnectReasonCode::ServerShuttingDown, end: None });
            }
            if parts > 1 {
                tokio::time::sleep(pause).await;
            }
        }
        self.tasks.close();
        drop(tokio::time::timeout(Duration::from_secs(3), self.tasks.wait()).await);
    }
}

/// Who may come.
struct Limits {
    devices: usize,
    proxy_from: Vec<IpNet>,
}

async fn accept(
    listener: TcpListener,
    identity: Arc<Current>,
    shared: Arc<Shared>,
    limits: Limits,
    tasks: TaskTracker,
) {
    let handshakes = Handshakes::default();
    let mut crowded = Crowded::new("broker");
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                crowded.refused(&error).await;
                continue;
            }
        };
        crowded.accepted();
        if shared.table.connected() >= limits.devices {
            shared.dispatch.on_refused("connection", "more devices than broker.max_devices", None, &from);
            continue;
        }
        let proxied = header::is_from(&limits.proxy_from, from.ip());
        let Some(handshake) = handshakes.begin((!proxied).then_some(from.ip())) else {
            shared.dispatch.on_refused("connection", "too many handshakes under way", None, &from);
            continue;
        };
        let tls = identity.tls.read().unwrap_or_else(PoisonError::into_inner).clone();
        tasks.spawn(come_in(Incoming { socket, from, proxied, handshake, tls }, shared.clone(), tasks.clone()));
    }
}

/// A connection that was accepted.
struct Incoming {
    socket: TcpStream,
    from: SocketAddr,
    /// The peer is a load balancer.
    proxied: bool,
    handshake: Handshake,
    tls: Arc<rustls::ServerConfig>,
}

/// Why a connection did not get as far as MQTT.
enum Unready {
    Header(Wrong),
    Crowded(SocketAddr),
    /// A look at the port, by nobody that is to be heard.
    Look,
    Tls(SocketAddr, std::io::Error),
}

/// A connection that speaks MQTT or asks for a WebSocket: its first byte, if there is one.
struct Secured {
    stream: TlsStream<TcpStream>,
    first: Option<u8>,
    from: SocketAddr,
    handshake: Handshake,
}

async fn secured(incoming: Incoming) -> Result<Secured, Unready> {
    let Incoming { mut socket, mut from, proxied, mut handshake, tls } = incoming;
    // Small packets are answered at once.
    let _ = socket.set_nodelay(true);
    let begins = if proxied { header::header(&mut socket).await } else { header::none(&socket).await };
    let begins = begins.map_err(Unready::Header)?;
    if let Begins::Behind(device) = begins {
        from = device;
    }
    if proxied {
        handshake = handshake.of(from.ip()).ok_or(Unready::Crowded(from))?;
    }
    let unready = |error: std::io::Error| match begins {
        Begins::Balancer => Unready::Look,
        Begins::Peer | Begins::Behind(_) => Unready::Tls(from, error),
    };
    let mut stream = TlsAcceptor::from(tls).accept(socket).await.map_err(unready)?;
    let mut first = [0; 1];
    let read = stream.read(&mut first).await.map_err(unready)?;
    Ok(Secured { stream, first: (read > 0).then_some(first[0]), from, handshake })
}

/// Ends with the handshakes: the connection is a task of its own, so that what they needed is given back.
async fn come_in(incoming: Incoming, shared: Arc<Shared>, tasks: TaskTracker) {
    let (peer, stop) = (incoming.from, shared.stop.clone());
    let refused = |why: &'static str, about: &dyn Display| shared.dispatch.on_refused("connection", why, None, about);
    let secured = tokio::select! {
        () = stop.cancelled() => return,
        secured = tokio::time::timeout(HANDSHAKE, secured(incoming)) => secured,
    };
    let Secured { stream, first, from, handshake } = match secured {
        Ok(Ok(secured)) => secured,
        // A load balancer's check, or the agent's doctor, and nothing to speak of; what else it was is counted.
        Ok(Err(Unready::Look | Unready::Header(Wrong::Nothing))) => return,
        Ok(Err(Unready::Header(wrong))) => return refused(wrong.as_str(), &format_args!("{peer}: {wrong}")),
        Ok(Err(Unready::Crowded(from))) => return refused("too many handshakes under way", &from),
        Ok(Err(Unready::Tls(from, error))) => {
            tracing::debug!(event = "endpoint.handshake", from = %from, why = %error, "a TLS handshake did not come about");
            return refused(handshake::word(&error), &from);
        }
        Err(_) => return refused("a handshake that took too long", &peer),
    };
    let Some(first) = first else { return };
    if first != b'G' {
        tasks.spawn(serve(stream, &[first], from.ip(), shared));
        return;
    }
    let opened = tokio::time::timeout(HANDSHAKE, accept_websocket(Prefixed::new(first, stream), PATH)).await;
    drop(handshake);
    match opened {
        Ok(Ok(stream)) => drop(tasks.spawn(serve(stream, &[], from.ip(), shared.clone()))),
        Ok(Err(why)) => refused("no WebSocket of MQTT", &why),
        Err(_) => refused("a handshake that took too long", &from),
    }
}
