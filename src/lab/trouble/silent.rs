//! A server that takes connections and is silent from a step on: the steps before it are a real server's.

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

/// First byte of a SUBSCRIBE (MQTT 5, section 3.8.1).
const SUBSCRIBE: u8 = 0x82;
/// A CONNACK that accepts (MQTT 5, section 3.2).
const ACCEPTED: [u8; 5] = [0x20, 3, 0, 0, 0];

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum At {
    /// SYN is not answered: the queue of the listener is kept full
    Tcp,
    /// TCP stands, and no byte comes
    Tls,
    /// The first byte that is missing is CONNACK's
    Connect,
    /// CONNECT is accepted, SUBSCRIBE is not answered
    Subscribe,
}

#[derive(Debug, clap::Args)]
pub(in crate::lab) struct Options {
    /// The first step that is not answered
    #[arg(long)]
    at: At,
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The server's certificate chain (PEM): speaks TLS up to `--at`; without it plain MQTT
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

pub(in crate::lab) async fn serve(options: Options) -> io::Result<()> {
    let files = options.certificate.as_deref().zip(options.key.as_deref());
    let tls = files.map(|(certificate, key)| acceptor(certificate, key)).transpose()?;
    let socket = if options.listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(options.listen)?;
    let listener = socket.listen(if options.at == At::Tcp { 0 } else { 1024 })?;
    let address = listener.local_addr()?;
    // A queue of length 0 holds one connection (listen(2)); what comes after it is dropped.
    let filler = if options.at == At::Tcp { Some(TcpStream::connect(address).await?) } else { None };
    crate::lab::show::line(&json!({ "silent": address, "at": format!("{:?}", options.at).to_lowercase() }))?;
    if filler.is_some() {
        return std::future::pending().await;
    }
    accept(listener, options.at, tls).await
}

fn acceptor(certificate: &Path, key: &Path) -> io::Result<TlsAcceptor> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain.map_err(io::Error::other)?, key)
        .map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(listener: TcpListener, at: At, tls: Option<TlsAcceptor>) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let tls = tls.clone().filter(|_| at != At::Tls);
        // A device that breaks off ends its own connection only.
        tokio::spawn(async move {
            drop(match tls {
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => speak(stream, at).await,
                    Err(error) => Err(error),
                },
                None => speak(stream, at).await,
            });
        });
    }
}

async fn speak(mut stream: impl AsyncRead + AsyncWrite + Unpin, at: At) -> io::Result<()> {
    let mut bytes = [0; 4096];
    let mut accepted = false;
    while stream.read(&mut bytes).await? > 0 {
        if at == At::Subscribe && !accepted && bytes[0] != SUBSCRIBE {
            stream.write_all(&ACCEPTED).await?;
            stream.flush().await?;
            accepted = true;
        }
    }
    Ok(())
}
