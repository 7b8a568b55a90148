//! A bad network for one device: a relay that can swallow every byte without closing anything.
//!
//! After `cut` nothing passes in either direction, no socket is closed and no answer is given, not
//! even to new connections. After `mend` new connections pass; those from before stay dead, as behind
//! a NAT that has forgotten them.

use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Relays until standard input ends; `cut` and `mend` on it are the weather.
///
/// # Errors
/// When the address cannot be listened on.
pub(super) async fn serve(listen: SocketAddr, to: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    super::show::line(&serde_json::json!({ "network": listener.local_addr()?.to_string() }))?;
    // Counts the cuts: a connection passes only while the count is the one it was made under. Odd: cut.
    let (weather, now) = watch::channel(0_u64);
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    // Sockets of swallowed connections are kept open here.
    let mut swallowed = Vec::new();
    loop {
        tokio::select! {
            line = commands.next_line() => match line?.as_deref().map(str::trim) {
                Some("cut") if *now.borrow() % 2 == 0 => weather.send_modify(|n| *n += 1),
                Some("mend") if *now.borrow() % 2 == 1 => weather.send_modify(|n| *n += 1),
                Some(_) => {}
                None => return Ok(()),
            },
            accepted = listener.accept() => {
                let (device, _) = accepted?;
                if *now.borrow() % 2 == 1 {
                    swallowed.push(device);
                    continue;
                }
                tokio::spawn(relay(device, to, now.clone()));
            }
        }
    }
}

async fn relay(device: TcpStream, to: SocketAddr, weather: watch::Receiver<u64>) {
    // Without its far end a connection is simply closed, as by a host that does not listen.
    let Ok(server) = TcpStream::connect(to).await else { return };
    let (device_read, device_write) = device.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::join!(pass(device_read, server_write, weather.clone()), pass(server_read, device_write, weather));
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut weather: watch::Receiver<u64>) {
    let made_under = *weather.borrow();
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut bytes) => read.unwrap_or(0),
            () = changed(&mut weather, made_under) => return swallow(from, to).await,
        };
        if read == 0 {
            drop(to.shutdown().await);
            return;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

/// Holds both halves open and reads nothing, until the process ends.
async fn swallow(from: OwnedReadHalf, to: OwnedWriteHalf) {
    std::future::pending::<()>().await;
    drop((from, to));
}

async fn changed(weather: &mut watch::Receiver<u64>, made_under: u64) {
    // The process is ending when nobody makes the weather any more.
    let _ = weather.wait_for(|n| *n != made_under).await.map(drop);
}
