//! A captive portal: it answers in every server's place until somebody signs in.
//!
//! RFC 8952, section 1: an enforcement device that lets HTTP(S) lead to a page of its own. What it does with TLS is
//! what phones meet: a handshake with a certificate nobody trusts, and the redirection inside it.

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// The name on its certificate, and where it sends everybody.
const NAME: &str = "portal.example";
/// The first byte of a TLS record that begins a handshake (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
/// Nobody holds a connection to the portal for longer.
const LIMIT: Duration = Duration::from_secs(10);
/// Connections at a time; more are closed.
const MOST: usize = 256;

#[derive(Debug, clap::Args)]
pub(in crate::lab) struct Options {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The server behind it
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
}

/// Serves until standard input ends; `open` on it signs in, `shut` asks for a sign-in again.
///
/// # Errors
/// When the address cannot be listened on.
pub(in crate::lab) async fn serve(options: Options) -> io::Result<()> {
    let tls = acceptor()?;
    let listener = TcpListener::bind(options.listen).await?;
    crate::lab::show::line(&json!({ "portal": listener.local_addr()?.to_string() }))?;
    let to: Arc<str> = options.to.into();
    let room = Arc::new(Semaphore::new(MOST));
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    let mut open = false;
    loop {
        tokio::select! {
            line = commands.next_line() => match line?.as_deref().map(str::trim) {
                Some("open") => open = true,
                Some("shut") => open = false,
                Some(_) => {}
                None => return Ok(()),
            },
            accepted = listener.accept() => {
                let (device, _) = accepted?;
                let Ok(permit) = room.clone().try_acquire_owned() else { continue };
                let (tls, to) = (tls.clone(), to.clone());
                tokio::spawn(async move {
                    if open {
                        relay(device, &to).await;
                    } else {
                        // Whoever does not want its page is gone.
                        drop(tokio::time::timeout(LIMIT, intercept(device, &tls)).await);
                    }
                    drop(permit);
                });
            }
        }
    }
}

fn acceptor() -> io::Result<TlsAcceptor> {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed([NAME.to_owned()]).map_err(io::Error::other)?;
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn relay(mut device: TcpStream, to: &str) {
    // Without its far end a connection is simply closed, as by a host that does not listen.
    let Ok(mut server) = TcpStream::connect(to).await else { return };
    // One of the two left: both are closed.
    let _ = tokio::io::copy_bidirectional(&mut device, &mut server).await;
}

async fn intercept(device: TcpStream, tls: &TlsAcceptor) -> io::Result<()> {
    let mut first = [0];
    device.peek(&mut first).await?;
    if first[0] == HANDSHAKE { redirect(tls.accept(device).await?).await } else { redirect(device).await }
}

async fn redirect(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut asked = [0; 4096];
    let _ = stream.read(&mut asked).await?;
    let answer = format!(
        "HTTP/1.1 302 Found\r\nLocation: http://{NAME}/\r\nCache-Control: no-store\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
