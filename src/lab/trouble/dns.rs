//! A name server's side of a DNS message (RFC 1035, section 4), written apart from the agent's.

use std::net::IpAddr;

/// A name and its address, as `NAME=ADDRESS` on a command line.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub name: String,
    pub address: IpAddr,
}

impl std::str::FromStr for Record {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text.split_once('=').ok_or("write NAME=ADDRESS")?;
        let address = address.parse().map_err(|_| format!("`{address}` is no address"))?;
        Ok(Self { name: name.to_ascii_lowercase(), address })
    }
}

/// What a query asks for.
#[derive(Debug)]
pub(super) struct Question {
    pub name: String,
    /// 1 for an address of IPv4, 28 of IPv6.
    of: u16,
    /// Where the question ends in the query.
    end: usize,
}

/// The query's question; `None` when it is not one.
pub(super) fn question(query: &[u8]) -> Option<Question> {
    if query.get(4..6)? != [0, 1] {
        return None;
    }
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(std::str::from_utf8(query.get(at..at + length)?).ok()?.to_ascii_lowercase());
        at += length;
    }
    let of = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    Some(Question { name: labels.join("."), of, end: at + 4 })
}

/// How a query is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Well,
    /// SERVFAIL.
    Fails,
    /// Says that the answer does not fit.
    Truncated,
}

/// The answer from these records: a name that none has does not exist.
pub(super) fn answer(query: &[u8], question: &Question, records: &[Record], ttl: u32, manner: Manner) -> Vec<u8> {
    let known: Vec<&Record> = records.iter().filter(|record| record.name == question.name).collect();
    let wanted = |address: &IpAddr| match address {
        IpAddr::V4(_) => question.of == 1,
        IpAddr::V6(_) => question.of == 28,
    };
    let addresses: Vec<IpAddr> = match manner {
        Manner::Well => known.iter().map(|record| record.address).filter(wanted).collect(),
        _ => Vec::new(),
    };
    let code = match manner {
        Manner::Fails => 2,
        _ if known.is_empty() => 3,
        _ => 0,
    };
    let truncated = if manner == Manner::Truncated { 2 } else { 0 };
    let mut out = query[..question.end.min(query.len())].to_vec();
    out[2] = 0x81 | truncated;
    out[3] = 0x80 | code;
    out[6..12].fill(0);
    out[7] = u8::try_from(addresses.len()).unwrap_or(u8::MAX);
    for address in addresses.iter().take(255) {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        out.extend_from_slice(&[0xc0, 12]);
        out.extend_from_slice(&question.of.to_be_bytes());
        out.extend_from_slice(&[0, 1]);
        out.extend_from_slice(&ttl.to_be_bytes());
        out.extend_from_slice(&[0, u8::try_from(bytes.len()).unwrap_or(0)]);
        out.extend_from_slice(&bytes);
    }
    out
}
