//! A server that takes connections and is silent from a step on: the steps before it are a real server's.

use serde_json::json;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

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
    /// As `tls`; with plain MQTT the first byte that is missing is CONNACK's
    Connect,
    /// CONNECT is accepted, SUBSCRIBE is not answered (plain MQTT)
    Subscribe,
}

#[derive(Debug, clap::Args)]
pub(in crate::lab) struct Options {
    /// The first step that is not answered
    #[arg(long)]
    at: At,
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

pub(in crate::lab) async fn serve(options: Options) -> io::Result<()> {
    let socket = if options.listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(options.listen)?;
    let listener = socket.listen(if options.at == At::Tcp { 0 } else { 1024 })?;
    let address = listener.local_addr()?;
    // A queue of length 0 holds one connection (listen(2)); what comes after it is dropped.
    let filler = if options.at == At::Tcp { Some(TcpStream::connect(address).await?) } else { None };
    println!("{}", json!({ "silent": address, "at": format!("{:?}", options.at).to_lowercase() }));
    if filler.is_some() {
        return std::future::pending().await;
    }
    accept(listener, options.at).await
}

async fn accept(listener: TcpListener, at: At) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        // A device that breaks off ends its own connection only.
        tokio::spawn(async move { drop(speak(stream, at).await) });
    }
}

async fn speak(mut stream: TcpStream, at: At) -> io::Result<()> {
    let mut bytes = [0; 4096];
    let mut accepted = false;
    while stream.read(&mut bytes).await? > 0 {
        if at == At::Subscribe && !accepted && bytes[0] != SUBSCRIBE {
            stream.write_all(&ACCEPTED).await?;
            accepted = true;
        }
    }
    Ok(())
}
