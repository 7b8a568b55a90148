//! Android's resolver, netd, over its socket: what bionic does behind getaddrinfo (netd's `DnsProxyListener.cpp`,
//! bionic's `getaddrinfo.c`).
//!
//! | Android | command | answer |
//! | --- | --- | --- |
//! | 10 and later | `resnsend` with a DNS query | a DNS message with its times to live |
//! | 6 to 9 | `getaddrinfo` | addresses, field by field |
//! | 5 | `getaddrinfo` | structures as they lie in netd's memory: told from the others, and refused |

use super::failure::Failure;
use super::message::{Answer, Kind, MAX_MESSAGE, MessageError, query, read};
use super::pair::both;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Where netd listens, below the root of the file system.
pub(super) const SOCKET: &str = "dev/socket/dnsproxyd";
/// Longest command, its NUL included (libsysutils, `FrameworkListener.cpp`).
const MAX_COMMAND: usize = 1024;
/// Most addresses that are read, and bytes of each: a `sockaddr_storage` has 128.
const MAX_ADDRESSES: usize = 64;
const MAX_SOCKADDR: usize = 128;
/// Bytes of the longest canonical name that is read over.
const MAX_CANONICAL: usize = 1025;
/// The caller's default network.
const NETWORK: u32 = 0;
/// `SOCK_STREAM`: one entry for each address, not one for each socket type.
const STREAM: i32 = 1;
/// netd's `ResponseCode::DnsProxyQueryResult`.
const QUERY_RESULT: i32 = 222;
/// netd's `ResponseCode::DnsProxyOperationFailed`.
const OPERATION_FAILED: i32 = 401;
/// bionic's `netdb.h`.
const EAI_NODATA: i32 = 7;
const EAI_NONAME: i32 = 8;
/// How long the reason of a failure may take after it.
const REASON: Duration = Duration::from_millis(200);
/// `AF_INET` and `AF_INET6` of Linux.
const INET: u16 = 2;
const INET6: u16 = 10;

/// How netd took a query of Android 10.
enum Taken {
    Answer(Answer),
    /// It does not know the command.
    Older,
}

/// The addresses, and their time to live where netd tells one.
///
/// # Errors
/// [`Failure`]. A peer that stays silent is the caller's to give up.
pub(super) async fn ask(socket: &Path, host: &str) -> Result<(Vec<IpAddr>, Option<Duration>), Failure> {
    let taken = both(|kind| async move {
        match resnsend(socket, host, kind).await? {
            Taken::Answer(answer) => Ok(Some(answer)),
            Taken::Older => Ok(None),
        }
    });
    match taken.await? {
        Some(answer) => Ok((answer.addresses, Some(answer.ttl))),
        None => Ok((getaddrinfo(socket, host).await?, None)),
    }
}

async fn resnsend(socket: &Path, host: &str, kind: Kind) -> Result<Taken, Failure> {
    let id = super::random_id()?;
    let query = BASE64_STANDARD.encode(query(id, host, kind)?);
    let mut netd = command(socket, &format!("resnsend {NETWORK} 0 {query}")).await?;
    let mut first = [0; 4];
    netd.read_exact(&mut first).await?;
    // No code of an answer is so large that its first byte is a digit.
    if first[0].is_ascii_digit() {
        return match &first[..3] {
            b"500" => Ok(Taken::Older),
            _ => Err(Failure::Code(text_code(first))),
        };
    }
    let code = i32::from_be_bytes(first);
    if code < 0 {
        return Err(std::io::Error::from_raw_os_error(code.wrapping_neg()).into());
    }
    let message = counted(&mut netd, MAX_MESSAGE).await?;
    Ok(Taken::Answer(read(&message, id, host, kind)?))
}

async fn getaddrinfo(socket: &Path, host: &str) -> Result<Vec<IpAddr>, Failure> {
    // The command's words are separated by blanks and may be quoted.
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(Failure::Denied("it is no name that netd can be asked for"));
    }
    let mut netd = command(socket, &format!("getaddrinfo {host} ^ 0 0 {STREAM} 0 {NETWORK}")).await?;
    let mut code = [0; 4];
    netd.read_exact(&mut code).await?;
    match text_code(code) {
        QUERY_RESULT => {}
        OPERATION_FAILED => return Err(why(&mut netd).await),
        other => return Err(Failure::Code(other)),
    }
    let mut addresses = Vec::new();
    for _ in 0..MAX_ADDRESSES {
        match netd.read_u32().await? {
            0 => break,
            1 => {}
            // The length of a structure.
            _ => return Err(Failure::TooOld),
        }
        // Flags, family, socket type, protocol: the address says its family itself.
        let mut fields = [0; 16];
        netd.read_exact(&mut fields).await?;
        let address = counted(&mut netd, MAX_SOCKADDR).await?;
        counted(&mut netd, MAX_CANONICAL).await?;
        addresses.extend(address_in(&address));
    }
    if addresses.is_empty() { Err(Failure::Denied("the name has no address")) } else { Ok(addresses) }
}

/// What getaddrinfo said inside netd: its code follows, counted, in the machine's own order.
async fn why(netd: &mut UnixStream) -> Failure {
    let code = timeout(REASON, counted(netd, 4)).await;
    let code = code.ok().and_then(Result::ok).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    match code.map(i32::from_ne_bytes) {
        Some(EAI_NODATA | EAI_NONAME) => MessageError::NoSuchName.into(),
        _ => Failure::Code(OPERATION_FAILED),
    }
}

async fn command(socket: &Path, text: &str) -> Result<UnixStream, Failure> {
    if text.len() >= MAX_COMMAND {
        return Err(Failure::Denied("the name is too long for netd"));
    }
    let mut netd = UnixStream::connect(socket).await?;
    netd.write_all(&[text.as_bytes(), b"\0"].concat()).await?;
    Ok(netd)
}

/// Bytes after their count.
async fn counted(netd: &mut UnixStream, most: usize) -> Result<Vec<u8>, Failure> {
    let length = usize::try_from(netd.read_u32().await?).unwrap_or(usize::MAX);
    if length > most {
        return Err(Failure::Broken("the answer is malformed"));
    }
    let mut bytes = vec![0; length];
    netd.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Three digits and what follows them.
fn text_code(text: [u8; 4]) -> i32 {
    std::str::from_utf8(&text[..3]).ok().and_then(|digits| digits.parse().ok()).unwrap_or(-1)
}

/// The address in a `sockaddr` of this machine (ip(7), ipv6(7)).
fn address_in(sockaddr: &[u8]) -> Option<IpAddr> {
    let family = u16::from_ne_bytes(sockaddr.get(..2)?.try_into().ok()?);
    match family {
        INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(sockaddr.get(4..8)?).ok()?).into()),
        INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(sockaddr.get(8..24)?).ok()?).into()),
        _ => None,
    }
}
