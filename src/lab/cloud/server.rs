//! HTTPS for all clouds on one port, HTTP/1.1 and HTTP/2, with connections that can be told to go away.

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// Makes a certificate for this machine's own names and writes it to `ca_file`.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn acceptor(ca_file: &Path) -> io::Result<TlsAcceptor> {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).map_err(io::Error::other)?;
    std::fs::write(ca_file, cert.pem())?;
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `shutdown`. `connections` counts them; a change of `goaway` sends GOAWAY on all.
pub(super) async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    router: Router,
    connections: Arc<AtomicU64>,
    goaway: watch::Receiver<u64>,
    shutdown: impl Future<Output = ()>,
) {
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            accepted = listener.accept() => {
                let Ok((tcp, _)) = accepted else { continue };
                connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(one(tcp, tls.clone(), router.clone(), goaway.clone()));
            }
        }
    }
}

async fn one(tcp: TcpStream, tls: TlsAcceptor, router: Router, mut goaway: watch::Receiver<u64>) {
    let _ = tcp.set_nodelay(true);
    // Whoever does not speak TLS is gone.
    let Ok(stream) = tls.accept(tcp).await else { return };
    let builder = Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    goaway.mark_unchanged();
    loop {
        tokio::select! {
            // The client left, or broke the protocol: either way it is over.
            _ = connection.as_mut() => return,
            Ok(()) = goaway.changed() => connection.as_mut().graceful_shutdown(),
        }
    }
}
