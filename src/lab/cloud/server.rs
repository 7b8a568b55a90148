//! HTTPS for all clouds on one port, HTTP/1.1 and HTTP/2, with connections that can be told to go away.

use axum::Router;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde::Deserialize;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

/// A connection without a call for so long is idle.
const IDLE: Duration = Duration::from_millis(50);

/// The clouds' TLS, offering both versions of HTTP or the older one alone.
#[derive(Clone)]
pub(super) struct Tls {
    both: TlsAcceptor,
    plain: TlsAcceptor,
}

/// Makes a certificate for this machine's own names and `other`, and writes it to `ca_file`.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn identity(ca_file: &Path, other: Option<IpAddr>) -> io::Result<Tls> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()].into_iter().chain(other.map(|ip| ip.to_string()));
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(names.collect::<Vec<_>>()).map_err(io::Error::other)?;
    std::fs::write(ca_file, cert.pem())?;
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .map_err(io::Error::other)?;
    let mut plain = config.clone();
    plain.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Tls { both: Arc::new(config).into(), plain: Arc::new(plain).into() })
}

/// What befalls every connection that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Blow {
    /// Told to end after what is under way (HTTP/2: GOAWAY).
    Goaway,
    /// Nothing is read or written any more, and nobody says so: a path that died.
    Silence,
    /// RST, with whatever is under way.
    Reset,
}

/// How connections are served that come from now on, and what befell those that are open.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manner {
    /// Counts the blows; a connection that was made later is not hit.
    pub blows: u64,
    pub blow: Option<Blow>,
    /// HTTP/1.1 alone.
    pub http1: bool,
    /// The most calls at once on one HTTP/2 connection; 0: the library's own limit.
    pub streams: u32,
}

/// Connections so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub made: AtomicU64,
    /// Ended while they were idle, which their next call finds out.
    pub idle_closed: AtomicU64,
}

#[derive(Debug, Default)]
struct Calls {
    open: AtomicUsize,
    last: AtomicBool,
    changed: Notify,
}

/// The connection a call came by: an extension of its request.
#[derive(Debug, Clone, Default)]
pub(super) struct Line(Arc<Calls>);

impl Line {
    /// Ends it once no call is open, as a server does that keeps idle ones for a while only.
    pub fn end_when_idle(&self) {
        self.0.last.store(true, Ordering::Relaxed);
        self.0.changed.notify_one();
    }

    fn begin(&self) -> Open {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        self.0.changed.notify_one();
        Open(self.clone())
    }

    /// Until it is idle and was to end then.
    async fn ended(&self) {
        loop {
            let changed = self.0.changed.notified();
            let idle = self.0.last.load(Ordering::Relaxed) && self.0.open.load(Ordering::Relaxed) == 0;
            if !idle {
                changed.await;
            } else if tokio::time::timeout(IDLE, changed).await.is_err() {
                return;
            }
        }
    }
}

/// A call that is open.
struct Open(Line);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.0.changed.notify_one();
    }
}

/// Serves until `shutdown`.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Tls,
    router: Router,
    counts: Arc<Counts>,
    manner: watch::Receiver<Manner>,
    shutdown: impl Future<Output = ()>,
) {
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            accepted = listener.accept() => {
                let Ok((tcp, _)) = accepted else { continue };
                counts.made.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(one(tcp, tls.clone(), router.clone(), counts.clone(), manner.clone()));
            }
        }
    }
}

async fn one(tcp: TcpStream, tls: Tls, router: Router, counts: Arc<Counts>, mut changes: watch::Receiver<Manner>) {
    let _ = tcp.set_nodelay(true);
    let Ok(socket) = tcp.as_fd().try_clone_to_owned() else { return };
    let manner = *changes.borrow_and_update();
    let tls = if manner.http1 { tls.plain } else { tls.both };
    // Whoever does not speak TLS is gone.
    let Ok(stream) = tls.accept(tcp).await else { return };
    let mut builder = Builder::new(TokioExecutor::new());
    if manner.streams > 0 {
        builder.http2().max_concurrent_streams(manner.streams);
    }
    let line = Line::default();
    let of_calls = line.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(of_calls.clone());
        let open = of_calls.begin();
        let answer = router.clone().call(request);
        async move {
            let answer = answer.await;
            drop(open);
            answer
        }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    loop {
        tokio::select! {
            // The client left, or broke the protocol: either way it is over.
            _ = connection.as_mut() => return,
            () = line.ended() => {
                counts.idle_closed.fetch_add(1, Ordering::Relaxed);
                return reset_at_next_word(socket).await;
            }
            Ok(()) = changes.changed() => {
                let now = *changes.borrow_and_update();
                match now.blow.filter(|_| now.blows > manner.blows) {
                    Some(Blow::Goaway) => connection.as_mut().graceful_shutdown(),
                    Some(Blow::Silence) => std::future::pending().await,
                    Some(Blow::Reset) => return reset(&socket),
                    None => {}
                }
            }
        }
    }
}

/// Closing then sends RST, not FIN (socket(7), SO_LINGER).
fn reset(socket: impl AsFd) {
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// As when the peer's next request and the server's FIN cross: the request is unread, and its answer RST.
async fn reset_at_next_word(socket: OwnedFd) {
    let Ok(watched) = TcpStream::from_std(socket.into()) else { return };
    let _ = watched.readable().await;
    reset(watched);
}
