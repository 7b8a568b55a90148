//! From an address to a connected stream: TCP, socket options, proxy, TLS, WebSocket.

use super::websocket::{self, WebSocket};
use super::{Endpoint, MqttError, Proxy, tls};
use crate::keepalive::Cause;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where a path loses large packets: what 1,280 bytes, IPv6's least MTU (RFC 8200, section 5), leave.
const SMALL_SEGMENT: u32 = 1200;
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

    /// The connection's descriptor.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.tcp().as_fd()
    }

    /// The address of the far end.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.tcp().peer_addr().ok()
    }
}

/// Connects a way's address, or that of the proxy before its server, and asks for small segments there.
pub(super) async fn connect(address: SocketAddr, endpoint: &Endpoint, small: bool) -> Result<TcpStream, MqttError> {
    let opened = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if small {
            // Set before the handshake it bounds both directions (tcp(7), TCP_MAXSEG).
            SockRef::from(&socket).set_tcp_mss(SMALL_SEGMENT)?;
        }
        socket.connect(address).await
    };
    opened.await.map_err(|e| name(endpoint, address, &e))
}

/// From a connected socket to a stream that MQTT can be spoken over.
pub(super) async fn secure(
    tcp: TcpStream,
    endpoint: &Endpoint,
    proxy: Option<&Proxy>,
    config: &Arc<ClientConfig>,
) -> Result<Stream, MqttError> {
    let tcp = match proxy {
        Some(proxy) => proxy
            .open(tcp, &endpoint.host, endpoint.port)
            .await
            .map_err(|e| MqttError::new(Cause::ProxyRefused, e.to_string()))?,
        None => tcp,
    };
    tcp.set_nodelay(true).map_err(|e| MqttError::new(Cause::Io, format!("{endpoint}: {e}")))?;
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

fn name(endpoint: &Endpoint, address: SocketAddr, error: &io::Error) -> MqttError {
    let cause = match error.kind() {
        io::ErrorKind::ConnectionRefused => Cause::ConnectRefused,
        io::ErrorKind::TimedOut => Cause::ConnectTimeout,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Cause::Unreachable,
        _ => Cause::Io,
    };
    MqttError::new(cause, format!("{endpoint} at {}: {error}", address.ip()))
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
