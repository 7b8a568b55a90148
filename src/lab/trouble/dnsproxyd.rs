//! netd's resolver socket as Android has it (netd's `DnsProxyListener.cpp`): commands and answers of each
//! release, written apart from the agent's side of them.

use super::dns::{Manner, Record, answer, question};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// Seconds for which its answers may be kept.
const TTL: u32 = 60;

#[derive(Debug, clap::Args)]
pub(in crate::lab) struct Options {
    /// Where to listen
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Android 10 and later, 6 to 9, or 5
    #[arg(long, default_value = "10", value_parser = ["10", "6", "5"])]
    dialect: String,
    /// A name and an address of it; may be given more than once
    #[arg(long = "name", value_name = "NAME=ADDRESS")]
    names: Vec<Record>,
    #[arg(long)]
    fault: Option<Fault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Fault {
    /// Answers that it cannot
    Fails,
    /// Takes the command and says nothing
    Hangs,
    /// Answers what nobody asked
    Garbage,
}

pub(in crate::lab) async fn serve(options: Options) -> io::Result<()> {
    // A killed run's socket is in the way.
    match std::fs::remove_file(&options.socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&options.socket)?;
    crate::lab::show::line(&serde_json::json!({ "dnsproxyd": options.socket.display().to_string() }))?;
    let options = Arc::new(options);
    loop {
        let (peer, _) = listener.accept().await?;
        let options = options.clone();
        tokio::spawn(async move { one(peer, &options).await });
    }
}

async fn one(peer: UnixStream, options: &Options) -> io::Result<()> {
    let (read, mut write) = peer.into_split();
    let mut command = Vec::new();
    let mut read = BufReader::new(read.take(1024));
    read.read_until(0, &mut command).await?;
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').to_owned();
    crate::lab::show::line(&serde_json::json!({ "command": command }))?;
    let words: Vec<&str> = command.split(' ').collect();
    match options.fault {
        Some(Fault::Hangs) => return std::future::pending().await,
        Some(Fault::Garbage) => return write.write_all(&[0xff, 0xfe, 7, 0, 1, 2, 3, 0xc0, 0xff].repeat(40)).await,
        _ => {}
    }
    let fails = options.fault == Some(Fault::Fails);
    match (words.as_slice(), options.dialect.as_str()) {
        (["resnsend", network, flags, query], "10") => {
            let numbers = network.parse::<u32>().is_ok() && flags.parse::<u32>().is_ok();
            let query = BASE64_STANDARD.decode(query).unwrap_or_default();
            let Some(question) = question(&query).filter(|_| numbers) else {
                // EINVAL
                return write.write_all(&(-22_i32).to_be_bytes()).await;
            };
            if fails {
                // ETIMEDOUT
                return write.write_all(&(-110_i32).to_be_bytes()).await;
            }
            let message = answer(&query, &question, &options.names, TTL, Manner::Well);
            let code = u32::from(message[3] & 0xf);
            write.write_all(&[&code.to_be_bytes()[..], &counted(&message)].concat()).await
        }
        (["getaddrinfo", host, "^", _flags, _family, _type, _protocol, _network], dialect) => {
            let host = host.to_ascii_lowercase();
            let named = options.names.iter().filter(|record| record.name == host);
            let addresses: Vec<IpAddr> = named.map(|record| record.address).collect();
            if fails || addresses.is_empty() {
                // EAI_AGAIN or EAI_NODATA, counted, in the machine's own order.
                let why = counted(&if fails { 2_i32 } else { 7 }.to_ne_bytes());
                return write.write_all(&[b"401\0", &why[..]].concat()).await;
            }
            let mut out = b"222\0".to_vec();
            for address in addresses {
                out.extend_from_slice(&if dialect == "5" { as_struct(address) } else { as_fields(address) });
            }
            out.extend_from_slice(&[0; 4]);
            write.write_all(&out).await
        }
        _ => write.write_all(b"500 Command not recognized\0").await,
    }
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes()[..], bytes].concat()
}

/// `struct sockaddr_in` or `sockaddr_in6` in this machine's layout.
fn sockaddr(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => [&2_u16.to_ne_bytes()[..], &[0; 2], &address.octets(), &[0; 8]].concat(),
        IpAddr::V6(address) => [&10_u16.to_ne_bytes()[..], &[0; 6], &address.octets(), &[0; 4]].concat(),
    }
}

fn family(address: IpAddr) -> u32 {
    if address.is_ipv4() { 2 } else { 10 }
}

/// As Android 6 to 9 send it.
fn as_fields(address: IpAddr) -> Vec<u8> {
    let numbers = [1, 0, family(address), 1, 6];
    let fields: Vec<u8> = numbers.iter().flat_map(|number: &u32| number.to_be_bytes()).collect();
    [fields, counted(&sockaddr(address)), counted(b"")].concat()
}

/// As Android 5 sends it: `struct addrinfo` as it lies in memory, counted, then the rest.
fn as_struct(address: IpAddr) -> Vec<u8> {
    let mut structure = vec![0; 48];
    structure[4..8].copy_from_slice(&family(address).to_ne_bytes());
    [counted(&structure), counted(&sockaddr(address)), counted(b"")].concat()
}
