//! A name server, over UDP and TCP, whose names move and which fails when it is told to.

use super::dns::{Manner, Record, answer, question};
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

#[derive(Debug, clap::Args)]
pub(in crate::lab) struct Options {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// A name and an address of it; may be given more than once
    #[arg(long = "name", value_name = "NAME=ADDRESS")]
    names: Vec<Record>,
    /// Seconds for which answers may be kept
    #[arg(long, default_value_t = 60)]
    ttl: u32,
    /// Say over UDP that the answer does not fit
    #[arg(long)]
    truncate: bool,
}

/// What the server does now.
#[derive(Debug, Clone)]
struct State {
    names: Vec<Record>,
    ttl: u32,
    fails: bool,
    hangs: bool,
}

pub(in crate::lab) async fn serve(options: Options) -> io::Result<()> {
    let listener = TcpListener::bind(options.listen).await?;
    let address = listener.local_addr()?;
    let udp = UdpSocket::bind(address).await?;
    let over = Over::Udp { truncate: options.truncate };
    let (state, now) = watch::channel(State { names: options.names, ttl: options.ttl, fails: false, hangs: false });
    crate::lab::show::line(&serde_json::json!({ "names": address.to_string() }))?;
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    let mut open = true;
    let mut query = vec![0; 4096];
    loop {
        tokio::select! {
            line = commands.next_line(), if open => match line? {
                Some(line) => {
                    let known = state.send_if_modified(|state| command(state, &line));
                    crate::lab::show::line(&serde_json::json!({ "done": line.trim(), "known": known }))?;
                }
                None => open = false,
            },
            heard = udp.recv_from(&mut query) => {
                let (length, from) = heard?;
                let told = reply(&query[..length], &now.borrow(), over)?;
                if let Some(told) = told {
                    // A peer that is gone is not the server's trouble.
                    let _ = udp.send_to(&told, from).await;
                }
            }
            accepted = listener.accept() => {
                let (peer, _) = accepted?;
                tokio::spawn(over_tcp(peer, now.clone()));
            }
        }
    }
}

/// Carries one line out; false when it says nothing known.
fn command(state: &mut State, line: &str) -> bool {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["move", name, address] => match format!("{name}={address}").parse::<Record>() {
            Ok(moved) => {
                state.names.retain(|record| record.name != moved.name);
                state.names.push(moved);
            }
            Err(_) => return false,
        },
        ["forget", name] => state.names.retain(|record| record.name != name),
        ["fail"] => state.fails = true,
        ["hang"] => state.hangs = true,
        ["mend"] => (state.fails, state.hangs) = (false, false),
        _ => return false,
    }
    true
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Udp { truncate: bool },
    Tcp,
}

fn reply(query: &[u8], state: &State, over: Over) -> io::Result<Option<Vec<u8>>> {
    let Some(question) = question(query) else { return Ok(None) };
    let way = if over == Over::Tcp { "tcp" } else { "udp" };
    crate::lab::show::line(&serde_json::json!({ "asked": question.name, "over": way }))?;
    if state.hangs {
        return Ok(None);
    }
    let manner = match over {
        _ if state.fails => Manner::Fails,
        Over::Udp { truncate: true } => Manner::Truncated,
        _ => Manner::Well,
    };
    Ok(Some(answer(query, &question, &state.names, state.ttl, manner)))
}

async fn over_tcp(mut peer: TcpStream, now: watch::Receiver<State>) -> io::Result<()> {
    let length = peer.read_u16().await?;
    let mut query = vec![0; usize::from(length)];
    peer.read_exact(&mut query).await?;
    let told = reply(&query, &now.borrow(), Over::Tcp)?;
    if let Some(told) = told {
        peer.write_u16(u16::try_from(told.len()).unwrap_or(u16::MAX)).await?;
        peer.write_all(&told).await?;
    }
    Ok(())
}
