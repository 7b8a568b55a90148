//! A name server, asked over UDP, and over TCP for what does not fit (RFC 1035, section 4.2; RFC 7766).

use super::failure::Failure;
use super::message::{Answer, Kind, MAX_MESSAGE, MessageError, query, read};
use super::pair::both;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Waits for an answer before the query is sent again, and at last given up.
const PATIENCE: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(2)];
/// How long the exchange over TCP may take.
const TCP_LIMIT: Duration = Duration::from_secs(4);
/// The port of DNS.
const PORT: u16 = 53;

/// The name's addresses.
///
/// # Errors
/// [`Failure`], after five seconds without an answer at the latest; nine where TCP is silent.
pub(super) async fn ask(server: SocketAddr, host: &str) -> Result<Answer, Failure> {
    let answer = both(|kind| async move { one(server, host, kind).await.map(Some) }).await?;
    answer.ok_or(Failure::Broken("no answer"))
}

async fn one(server: SocketAddr, host: &str, kind: Kind) -> Result<Answer, Failure> {
    let id = super::random_id()?;
    let query = query(id, host, kind)?;
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A port of the kernel's own choice for each question, and answers from the server alone (RFC 5452).
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    for patience in PATIENCE {
        socket.send(&query).await?;
        match timeout(patience, heard(&socket, id, host, kind)).await {
            Ok(Err(Heard::Message(MessageError::Truncated))) => return over_tcp(server, &query, id, host, kind).await,
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(Heard::Message(error))) => return Err(error.into()),
            Ok(Err(Heard::Io(error))) => return Err(error.into()),
            Err(_) => {}
        }
    }
    Err(Failure::Silent(PATIENCE.iter().sum()))
}

enum Heard {
    Message(MessageError),
    Io(std::io::Error),
}

/// The answer to this question; what answers another is not listened to.
async fn heard(socket: &UdpSocket, id: u16, host: &str, kind: Kind) -> Result<Answer, Heard> {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(Heard::Io)?;
        match read(buffer.get(..length).unwrap_or_default(), id, host, kind) {
            Err(MessageError::NotOurs) => {}
            other => return other.map_err(Heard::Message),
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8], id: u16, host: &str, kind: Kind) -> Result<Answer, Failure> {
    let exchange = async {
        let mut tcp = TcpStream::connect(server).await?;
        let length = u16::try_from(query.len()).unwrap_or(u16::MAX).to_be_bytes();
        tcp.write_all(&[&length, query].concat()).await?;
        let length = usize::from(tcp.read_u16().await?);
        if length > MAX_MESSAGE {
            return Err(Failure::Broken("the answer is too long"));
        }
        let mut message = vec![0; length];
        tcp.read_exact(&mut message).await?;
        Ok(read(&message, id, host, kind)?)
    };
    timeout(TCP_LIMIT, exchange).await.unwrap_or(Err(Failure::Silent(TCP_LIMIT)))
}

/// A name server as it is configured: `1.1.1.1`, `1.1.1.1:5353`, `2606::1`, `[2606::1]:53`. Port 53 unless
/// said otherwise.
pub fn parse_server(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
    address.ok().or_else(|| text.parse().ok()).filter(|address| address.port() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_written_with_or_without_a_port() {
        for (text, read) in [
            ("1.1.1.1", "1.1.1.1:53"),
            ("1.1.1.1:5353", "1.1.1.1:5353"),
            ("2606::1", "[2606::1]:53"),
            ("[2606::1]", "[2606::1]:53"),
            ("[2606::1]:54", "[2606::1]:54"),
        ] {
            assert_eq!(parse_server(text).map(|address| address.to_string()).as_deref(), Some(read), "{text}");
        }
        for text in ["", "dns.example", "1.1.1.1:0", "1.1.1.1:", "[1.1.1.1", "1.1.1.1:66000"] {
            assert_eq!(parse_server(text), None, "{text}");
        }
    }
}
