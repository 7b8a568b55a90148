//! From an address to a connected stream: name, TCP with racing addresses, socket options, TLS.

use super::addresses::addresses;
use super::websocket::{self, WebSocket};
use super::{Endpoint, MqttError, Proxy, tls};
use crate::keepalive::Cause;
use crate::names::Names;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long one address may stay silent before the next is tried beside it (RFC 8305, section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// How long one server may take before the next is tried beside it: longer than a handshake on a slow
/// mobile network, so that a healthy server is not joined by a second.
const NEXT_ENDPOINT_AFTER: Duration = Duration::from_secs(3);
/// Unacknowledged data for this long ends the connection in the kernel (TCP_USER_TIMEOUT, RFC 5482).
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// A connected stream, encrypted or (loopback only) not.
#[derive(Debug)]
pub enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What MQTT is spoken over.
#[derive(Debug)]
pub enum Stream {
    Direct(Transport),
    WebSocket(Box<WebSocket<Transport>>),
}

impl Transport {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Direct(transport) => transport.tcp(),
            Self::WebSocket(socket) => socket.get_ref().tcp(),
        }
    }

    /// The server's certificate was checked for this connection: there is TLS, and no earlier session was resumed.
    pub fn is_verified(&self) -> bool {
        let transport = match self {
            Self::Direct(transport) => transport,
            Self::WebSocket(socket) => socket.get_ref(),
        };
        match transport {
            Transport::Plain(_) => false,
            Transport::Tls(tls) => {
                tls.get_ref().1.handshake_kind().is_some_and(|kind| kind != rustls::HandshakeKind::Resumed)
            }
        }
    }

    /// The address of this end; when it leaves the device the connection is dead.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.tcp().local_addr().ok()
    }

    /// The address of the far end.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.tcp().peer_addr().ok()
    }
}

/// Connects within `timeout`, all steps together.
///
/// # Errors
/// [`MqttError`] with the cause of the first step that failed.
pub async fn dial(
    endpoint: &Endpoint,
    proxy: Option<&Proxy>,
    names: &Names,
    config: &Arc<ClientConfig>,
    timeout: Duration,
) -> Result<Stream, MqttError> {
    tokio::time::timeout(timeout, connect(endpoint, proxy, names, config)).await.unwrap_or_else(|_| {
        Err(MqttError::new(Cause::ConnectTimeout, format!("{endpoint} did not answer within {} s", timeout.as_secs())))
    })
}

/// Connects to the first of these servers that can be spoken to; each is given a head start over the
/// next. Returns which one it was.
///
/// # Errors
/// [`MqttError`] of the last that failed; `connect_timeout` when none has failed yet.
pub async fn dial_first(
    endpoints: &[Endpoint],
    proxy: Option<&Proxy>,
    names: &Names,
    config: &Arc<ClientConfig>,
    timeout: Duration,
) -> Result<(Endpoint, Stream), MqttError> {
    let attempts = endpoints.iter().map(|endpoint| async move {
        connect(endpoint, proxy, names, config).await.map(|stream| (endpoint.clone(), stream))
    });
    let nowhere = MqttError::new(Cause::DnsFailed, "no server is configured");
    tokio::time::timeout(timeout, first(attempts, NEXT_ENDPOINT_AFTER, nowhere)).await.unwrap_or_else(|_| {
        let named: Vec<String> = endpoints.iter().map(Endpoint::to_string).collect();
        let detail = format!("{} did not answer within {} s", named.join(", "), timeout.as_secs());
        Err(MqttError::new(Cause::ConnectTimeout, detail))
    })
}

async fn connect(
    endpoint: &Endpoint,
    proxy: Option<&Proxy>,
    names: &Names,
    config: &Arc<ClientConfig>,
) -> Result<Stream, MqttError> {
    let tcp = match proxy {
        Some(proxy) => {
            let way = Endpoint { host: proxy.host.clone(), port: proxy.port, tls: false, path: None };
            proxy.open(reach(&way, names).await?, &endpoint.host, endpoint.port).await?
        }
        None => reach(endpoint, names).await?,
    };
    tcp.set_nodelay(true).map_err(|e| name(endpoint, &e))?;
    // A kernel without the option keeps its own, longer limit; the pong deadline still holds.
    let _ = rustix::net::sockopt::set_tcp_user_timeout(
        &tcp,
        u32::try_from(TCP_USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX),
    );
    let transport = if endpoint.tls { encrypt(endpoint, config, tcp).await? } else { Transport::Plain(tcp) };
    Ok(match endpoint.path {
        Some(_) => Stream::WebSocket(Box::new(websocket::open(transport, &endpoint.to_string()).await?)),
        None => Stream::Direct(transport),
    })
}

async fn encrypt(endpoint: &Endpoint, config: &Arc<ClientConfig>, tcp: TcpStream) -> Result<Transport, MqttError> {
    let server = ServerName::try_from(endpoint.host.clone())
        .map_err(|e| MqttError::new(Cause::TlsWrongName, format!("{}: {e}", endpoint.host)))?;
    let tls = TlsConnector::from(config.clone()).connect(server, tcp).await.map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => tls::explain(&e),
        _ => MqttError::new(Cause::TlsFailed, format!("{endpoint} ended the TLS handshake: {e}")),
    })?;
    Ok(Transport::Tls(Box::new(tls)))
}

/// A TCP connection to the first of the name's addresses that answers.
async fn reach(endpoint: &Endpoint, names: &Names) -> Result<TcpStream, MqttError> {
    let attempts = addresses(names, &endpoint.host, endpoint.port).await?.into_iter().map(TcpStream::connect);
    let none = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    first(attempts, NEXT_ADDRESS_AFTER, none).await.map_err(|e| name(endpoint, &e))
}

/// The first success among attempts of which each starts when the one before has failed, or has been
/// silent for `head_start`.
async fn first<T, E, F: Future<Output = Result<T, E>>>(
    mut waiting: impl ExactSizeIterator<Item = F>,
    head_start: Duration,
    none: E,
) -> Result<T, E> {
    let mut attempts = FuturesUnordered::new();
    let mut last = none;
    loop {
        match waiting.next() {
            Some(attempt) => attempts.push(attempt),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        let more = waiting.len() > 0;
        tokio::select! {
            Some(done) = attempts.next() => match done {
                Ok(reached) => return Ok(reached),
                Err(error) => last = error,
            },
            () = tokio::time::sleep(head_start), if more => {}
        }
    }
}

fn name(endpoint: &Endpoint, error: &io::Error) -> MqttError {
    let cause = match error.kind() {
        io::ErrorKind::ConnectionRefused => Cause::ConnectRefused,
        io::ErrorKind::TimedOut => Cause::ConnectTimeout,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Cause::Unreachable,
        io::ErrorKind::NotFound => Cause::DnsFailed,
        _ => Cause::Io,
    };
    MqttError::new(cause, format!("{endpoint}: {error}"))
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(transport) => Pin::new(transport).poll_read(cx, buf),
            Self::WebSocket(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Direct(transport) => Pin::new(transport).poll_write(cx, buf),
            Self::WebSocket(socket) => Pin::new(socket).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(transport) => Pin::new(transport).poll_flush(cx),
            Self::WebSocket(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(transport) => Pin::new(transport).poll_shutdown(cx),
            Self::WebSocket(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
