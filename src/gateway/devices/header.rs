//! Whom a load balancer speaks for: the PROXY protocol, version 2, before TLS.
//!
//! A peer in `broker.proxy_from` begins with a header that names the device's address; nobody else may.

use ipnet::IpNet;
use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use std::net::{IpAddr, SocketAddr};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// What every header of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_1: &[u8; 6] = b"PROXY ";
/// The signature, what it is, and how much follows.
const FIXED: usize = 16;
/// Addresses and what a load balancer adds: its own TLS' words are some hundred bytes.
const LONGEST: usize = 4096;
/// A record of TLS begins so.
const TLS: u8 = 0x16;

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    #[error("a PROXY header from an address that is not in broker.proxy_from")]
    NotFromThere,
    #[error("no PROXY header from an address in broker.proxy_from")]
    Missing,
    #[error("a PROXY header of version 1, of which only 2 is spoken")]
    Version1,
    #[error("a PROXY header that is malformed")]
    Malformed,
    #[error("a PROXY header that is too large")]
    TooLarge,
    #[error("a PROXY header that is cut short")]
    Cut,
    /// Nothing was said: a look at the port.
    #[error("nothing was said")]
    Nothing,
}

impl Wrong {
    /// The word it is counted under.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFromThere => "a PROXY header that is not taken from there",
            Self::Missing => "no PROXY header",
            Self::Version1 => "a PROXY header of version 1",
            Self::Malformed => "a malformed PROXY header",
            Self::TooLarge => "a PROXY header that is too large",
            Self::Cut => "a PROXY header that is cut short",
            Self::Nothing => "nothing was said",
        }
    }
}

/// Who begins a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begins {
    /// The peer itself.
    Peer,
    /// Somebody at this address, through the peer.
    Behind(SocketAddr),
    /// The peer, for itself: a load balancer that looks whether this is alive, or does not say for whom it comes.
    Balancer,
}

#[derive(Debug, PartialEq, Eq)]
enum Read {
    More(usize),
    Header(Begins),
}

/// What the first bytes of a connection say.
fn read(bytes: &[u8]) -> Result<Read, Wrong> {
    let begins_with = |whole: &[u8]| bytes.iter().zip(whole).all(|(a, b)| a == b);
    if !begins_with(SIGNATURE) {
        return Err(match bytes {
            [TLS, ..] => Wrong::Missing,
            _ if begins_with(VERSION_1) => Wrong::Version1,
            _ => Wrong::Malformed,
        });
    }
    if bytes.len() < FIXED {
        return Ok(Read::More(FIXED - bytes.len()));
    }
    let whole = FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if whole > LONGEST {
        return Err(Wrong::TooLarge);
    }
    if bytes.len() < whole {
        return Ok(Read::More(whole - bytes.len()));
    }
    let config = ParseConfig { include_tlvs: true, allow_v1: false, allow_v2: true };
    let (header, _) = ProxyHeader::parse(bytes, config).map_err(|_| Wrong::Malformed)?;
    if header.tlvs().any(|tlv| tlv.is_err()) {
        return Err(Wrong::Malformed);
    }
    match header.proxied_address() {
        None => Ok(Read::Header(Begins::Balancer)),
        Some(address) if address.protocol == Protocol::Stream => Ok(Read::Header(Begins::Behind(address.source))),
        Some(_) => Err(Wrong::Malformed),
    }
}

/// Whether a peer is one of these networks'.
pub(super) fn is_from(networks: &[IpNet], peer: IpAddr) -> bool {
    // On a socket of both families IPv4 comes in IPv6's clothes.
    networks.iter().any(|network| network.contains(&peer.to_canonical()))
}

/// Reads a load balancer's header, and not a byte of what follows.
///
/// # Errors
/// [`Wrong`].
pub(super) async fn header(stream: &mut TcpStream) -> Result<Begins, Wrong> {
    let mut bytes = Vec::with_capacity(FIXED);
    let mut more = FIXED;
    loop {
        let part = (&mut *stream).take(more as u64).read_buf(&mut bytes).await;
        match part {
            Ok(1..) => {}
            _ if bytes.is_empty() => return Err(Wrong::Nothing),
            _ => return Err(Wrong::Cut),
        }
        match read(&bytes)? {
            Read::More(n) => more = n,
            Read::Header(begins) => return Ok(begins),
        }
    }
}

/// Looks whether a peer that may send no header begins with one.
///
/// # Errors
/// [`Wrong`].
pub(super) async fn none(stream: &TcpStream) -> Result<Begins, Wrong> {
    let mut first = [0; 1];
    match stream.peek(&mut first).await {
        Ok(1..) if [SIGNATURE[0], VERSION_1[0]].contains(&first[0]) => Err(Wrong::NotFromThere),
        Ok(1..) => Ok(Begins::Peer),
        _ => Err(Wrong::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(kind: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [SIGNATURE, &[kind, family][..], &length, rest].concat()
    }

    /// From 192.0.2.7:40000 to 192.0.2.1:8883.
    const ADDRESSES: [u8; 12] = [192, 0, 2, 7, 192, 0, 2, 1, 0x9c, 0x40, 0x22, 0xb3];

    #[test]
    fn a_header_names_the_address_behind_it_however_it_comes_in_pieces() {
        let with_more = [&ADDRESSES[..], &[0x05, 0, 3, b'a', b'b', b'c']].concat();
        for rest in [&ADDRESSES[..], &with_more] {
            let bytes = made(0x21, 0x11, rest);
            for cut in 1..bytes.len() {
                assert!(matches!(read(&bytes[..cut]), Ok(Read::More(_))), "{cut} of {}", bytes.len());
            }
            let source = "192.0.2.7:40000".parse().expect("an address");
            assert_eq!(read(&bytes), Ok(Read::Header(Begins::Behind(source))));
        }
        let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 16], &[0x9c, 0x40, 0x22, 0xb3]].concat();
        let source = "[2001:db8::7]:40000".parse().expect("an address");
        assert_eq!(read(&made(0x21, 0x21, &six)), Ok(Read::Header(Begins::Behind(source))));
    }

    #[test]
    fn a_balancer_that_comes_for_itself_is_taken_for_itself() {
        for (kind, family, rest) in [(0x20, 0x00, &[][..]), (0x20, 0x11, &ADDRESSES), (0x21, 0x00, &[])] {
            assert_eq!(read(&made(kind, family, rest)), Ok(Read::Header(Begins::Balancer)), "{kind:x} {family:x}");
        }
    }

    #[test]
    fn what_is_no_header_of_version_2_is_told_apart() {
        let cut_tlv = [&ADDRESSES[..], &[0x05, 0xff, 0xff, b'a']].concat();
        for (bytes, wrong) in [
            (b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 8883\r\n".to_vec(), Wrong::Version1),
            (vec![TLS, 3, 1], Wrong::Missing),
            (b"GET / HTTP/1.1\r\n".to_vec(), Wrong::Malformed),
            (b"\r\n\r\nQUIT".to_vec(), Wrong::Malformed),
            (made(0x11, 0x11, &ADDRESSES), Wrong::Malformed),
            (made(0x22, 0x11, &ADDRESSES), Wrong::Malformed),
            (made(0x21, 0x11, &ADDRESSES[..8]), Wrong::Malformed),
            (made(0x21, 0x12, &ADDRESSES), Wrong::Malformed),
            (made(0x21, 0x99, &ADDRESSES), Wrong::Malformed),
            (made(0x21, 0x11, &cut_tlv), Wrong::Malformed),
            (made(0x21, 0x11, &[0; LONGEST])[..FIXED].to_vec(), Wrong::TooLarge),
        ] {
            assert_eq!(read(&bytes), Err(wrong), "{bytes:?}");
        }
    }

    #[test]
    fn a_peer_is_found_in_its_network_in_either_form_of_its_address() {
        let networks = ["10.1.0.0/16", "2001:db8::/32"].map(|network| network.parse().expect("a network"));
        for (peer, there) in
            [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("10.2.0.1", false), ("2001:db8::1", true), ("::1", false)]
        {
            assert_eq!(is_from(&networks, peer.parse().expect("an address")), there, "{peer}");
        }
    }
}
