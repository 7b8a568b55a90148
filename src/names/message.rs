//! A DNS message, built and read: one question for a name's addresses, and its answer (RFC 1035, section 4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Bytes of the longest answer that is read: far more than the addresses of one name need.
pub(super) const MAX_MESSAGE: usize = 8192;
/// Most addresses that are taken from one answer.
const MAX_ADDRESSES: usize = 16;
/// Most aliases (CNAME) that are followed from the name to its addresses.
const MAX_ALIASES: usize = 8;
/// Most records of one answer that are looked at.
const MAX_RECORDS: usize = 128;
/// Most compression pointers of one name; each must lead backwards (RFC 1035, section 4.1.4).
const MAX_POINTERS: usize = 16;
/// RFC 1035, section 2.3.4.
const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;
const HEADER: usize = 12;
const CLASS_IN: u16 = 1;
const TYPE_CNAME: u16 = 5;
/// RFC 1035, section 4.1.1.
const FLAG_ANSWER: u16 = 1 << 15;
const FLAG_TRUNCATED: u16 = 1 << 9;
const FLAG_RECURSION_DESIRED: u16 = 1 << 8;
const RCODE_NO_SUCH_NAME: u16 = 3;

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    A,
    /// RFC 3596.
    Aaaa,
}

impl Kind {
    const fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
        }
    }
}

/// Addresses, and how long they may be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub addresses: Vec<IpAddr>,
    /// The least of the records that lead to the addresses.
    pub ttl: Duration,
}

/// Why a message gives no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    #[error("it is no name that DNS can be asked for")]
    BadName,
    /// Of another question: whoever waits goes on waiting.
    #[error("an answer to another question")]
    NotOurs,
    /// Ask over TCP.
    #[error("a truncated answer")]
    Truncated,
    #[error("a malformed answer")]
    Malformed,
    #[error("there is no such name")]
    NoSuchName,
    #[error("the name has no address")]
    NoAddress,
    #[error("the name server failed (rcode {0})")]
    Failed(u16),
}

/// A query that asks for recursion.
///
/// # Errors
/// [`MessageError::BadName`].
pub(super) fn query(id: u16, host: &str, kind: Kind) -> Result<Vec<u8>, MessageError> {
    let mut out = Vec::with_capacity(HEADER + host.len() + 6);
    for field in [id, FLAG_RECURSION_DESIRED, 1, 0, 0, 0] {
        out.extend_from_slice(&field.to_be_bytes());
    }
    out.extend_from_slice(&wire_name(host)?);
    out.extend_from_slice(&kind.number().to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    Ok(out)
}

/// The addresses in the answer to that question.
///
/// # Errors
/// [`MessageError`].
pub(super) fn read(message: &[u8], id: u16, host: &str, kind: Kind) -> Result<Answer, MessageError> {
    let mut reader = Reader { message, at: 0 };
    // What is too short to say whose answer it is belongs to nobody.
    let header = reader.header().ok_or(MessageError::NotOurs)?;
    if header.id != id || header.flags & FLAG_ANSWER == 0 {
        return Err(MessageError::NotOurs);
    }
    let asked = wire_name(host)?;
    // A server that could not even read the question may leave it out (RFC 9619 allows one at most).
    let rcode = header.flags & 0xf;
    match header.questions {
        1 => {
            let name = reader.name().ok_or(MessageError::Malformed)?;
            let (of, class) = (reader.u16(), reader.u16());
            if name != asked || of != Some(kind.number()) || class != Some(CLASS_IN) {
                return Err(MessageError::NotOurs);
            }
        }
        0 if rcode != 0 => {}
        _ => return Err(MessageError::NotOurs),
    }
    match rcode {
        0 => {}
        RCODE_NO_SUCH_NAME => return Err(MessageError::NoSuchName),
        other => return Err(MessageError::Failed(other)),
    }
    if header.flags & FLAG_TRUNCATED != 0 {
        return Err(MessageError::Truncated);
    }
    let mut records = Vec::new();
    for _ in 0..usize::from(header.answers).min(MAX_RECORDS) {
        records.extend(reader.record(kind).ok_or(MessageError::Malformed)?);
    }
    follow(asked, &records)
}

/// From the name over its aliases to its addresses.
fn follow(asked: Vec<u8>, records: &[Record]) -> Result<Answer, MessageError> {
    let (mut name, mut ttl) = (asked, u32::MAX);
    for _ in 0..=MAX_ALIASES {
        let of_name = records.iter().filter(|record| record.name == name);
        let mut addresses = Vec::new();
        let mut alias = None;
        for record in of_name {
            match &record.data {
                Data::Address(address) => {
                    if addresses.len() < MAX_ADDRESSES {
                        addresses.push(*address);
                        ttl = ttl.min(record.ttl);
                    }
                }
                Data::Alias(target) => alias = Some((target, record.ttl)),
            }
        }
        if !addresses.is_empty() {
            return Ok(Answer { addresses, ttl: Duration::from_secs(ttl.into()) });
        }
        let Some((target, alias_ttl)) = alias else { return Err(MessageError::NoAddress) };
        name.clone_from(target);
        ttl = ttl.min(alias_ttl);
    }
    Err(MessageError::NoAddress)
}

/// The name as it goes over the wire, in lower case: names compare without regard to case (RFC 4343).
fn wire_name(host: &str) -> Result<Vec<u8>, MessageError> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut out = Vec::with_capacity(host.len() + 2);
    for label in host.split('.') {
        if label.is_empty() || label.len() > MAX_LABEL || !label.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(MessageError::BadName);
        }
        out.push(u8::try_from(label.len()).map_err(|_| MessageError::BadName)?);
        out.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
    }
    out.push(0);
    if out.len() > MAX_NAME { Err(MessageError::BadName) } else { Ok(out) }
}

struct Header {
    id: u16,
    flags: u16,
    questions: u16,
    answers: u16,
}

enum Data {
    Address(IpAddr),
    Alias(Vec<u8>),
}

struct Record {
    name: Vec<u8>,
    ttl: u32,
    data: Data,
}

/// Reads on from a place in the message; `None` where it ends too early or says what cannot be.
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let bytes = self.message.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn header(&mut self) -> Option<Header> {
        let header = Header { id: self.u16()?, flags: self.u16()?, questions: self.u16()?, answers: self.u16()? };
        self.take(4)?;
        Some(header)
    }

    /// A name, in lower case, with its compression undone.
    fn name(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let mut inside = Reader { message: self.message, at: self.at };
        // Where the name ends in the record; known at the first pointer.
        let mut end = None;
        let mut pointers = 0;
        loop {
            let [length] = inside.array()?;
            match length >> 6 {
                0 if length == 0 => {
                    out.push(0);
                    self.at = end.unwrap_or(inside.at);
                    return Some(out);
                }
                0 => {
                    out.push(length);
                    out.extend(inside.take(length.into())?.iter().map(u8::to_ascii_lowercase));
                    if out.len() >= MAX_NAME {
                        return None;
                    }
                }
                3 => {
                    let pointer = inside.at - 1;
                    let [low] = inside.array()?;
                    end = end.or(Some(inside.at));
                    pointers += 1;
                    let to = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                    if to >= pointer || pointers > MAX_POINTERS {
                        return None;
                    }
                    inside.at = to;
                }
                _ => return None,
            }
        }
    }

    /// The next record; of another class or type, nothing. `None` outside when it is malformed.
    fn record(&mut self, kind: Kind) -> Option<Option<Record>> {
        let name = self.name()?;
        let (of, class) = (self.u16()?, self.u16()?);
        let ttl = u32::from_be_bytes(self.array()?);
        // A set first bit means zero (RFC 2181, section 8).
        let ttl = if ttl >> 31 == 0 { ttl } else { 0 };
        let length = usize::from(self.u16()?);
        let start = self.at;
        let data = self.take(length)?;
        if class != CLASS_IN {
            return Some(None);
        }
        let data = match of {
            TYPE_CNAME => {
                let mut inside = Reader { message: self.message.get(..self.at)?, at: start };
                Data::Alias(inside.name()?)
            }
            _ if of != kind.number() => return Some(None),
            _ => Data::Address(match kind {
                Kind::A => Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into(),
                Kind::Aaaa => Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into(),
            }),
        };
        Some(Some(Record { name, ttl, data }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name TYPE ttl data` records after the question; names uncompressed unless given as bytes.
    fn answer(host: &str, kind: Kind, flags: u16, records: &[(&[u8], u16, u32, &[u8])]) -> Vec<u8> {
        let mut out = query(7, host, kind).expect("a query");
        out[2..4].copy_from_slice(&(FLAG_ANSWER | flags).to_be_bytes());
        out[7] = u8::try_from(records.len()).expect("few");
        for (name, of, ttl, data) in records {
            out.extend_from_slice(name);
            out.extend_from_slice(&of.to_be_bytes());
            out.extend_from_slice(&CLASS_IN.to_be_bytes());
            out.extend_from_slice(&ttl.to_be_bytes());
            out.extend_from_slice(&u16::try_from(data.len()).expect("short").to_be_bytes());
            out.extend_from_slice(data);
        }
        out
    }

    const TO_QUESTION: &[u8] = &[0xc0, 12];

    fn sample() -> Vec<u8> {
        let alias = wire_name("edge.example").expect("a name");
        // The pointer's target is inside the alias's own record: `push.example` + 12 bytes of fixed fields.
        let records: &[(&[u8], u16, u32, &[u8])] = &[
            (&alias, 1, 60, &[192, 0, 2, 2]),
            (TO_QUESTION, TYPE_CNAME, 300, &alias),
            (&alias, 1, 90, &[192, 0, 2, 3]),
            (TO_QUESTION, 16, 5, b"\x04text"),
        ];
        answer("Push.example", Kind::A, 0x80, records)
    }

    #[test]
    fn an_answer_gives_the_addresses_at_the_end_of_its_aliases_and_the_least_time_to_live_on_the_way() {
        let read = read(&sample(), 7, "push.EXAMPLE.", Kind::A).expect("an answer");
        assert_eq!(read.addresses, ["192.0.2.2".parse::<IpAddr>().expect("one"), "192.0.2.3".parse().expect("one")]);
        assert_eq!(read.ttl, Duration::from_secs(60));
    }

    #[test]
    fn addresses_of_six_are_read_and_those_of_another_name_are_not_believed() {
        let other = wire_name("other.example").expect("a name");
        let address: [u8; 16] = "2001:db8::7".parse::<Ipv6Addr>().expect("one").octets();
        let found = answer("a.b", Kind::Aaaa, 0, &[(TO_QUESTION, 28, u32::MAX, &address)]);
        let found = read(&found, 7, "a.b", Kind::Aaaa).expect("an answer");
        assert_eq!((found.addresses.len(), found.ttl), (1, Duration::ZERO), "a time with the first bit set is none");
        let foreign = answer("a.b", Kind::A, 0, &[(&other, 1, 60, &[192, 0, 2, 9])]);
        assert_eq!(read(&foreign, 7, "a.b", Kind::A), Err(MessageError::NoAddress));
    }

    #[test]
    fn what_is_no_answer_to_this_question_is_told_from_an_answer_without_addresses() {
        let with = |flags, records| read(&answer("a.b", Kind::A, flags, records), 7, "a.b", Kind::A);
        assert_eq!(with(3, &[]), Err(MessageError::NoSuchName));
        assert_eq!(with(2, &[]), Err(MessageError::Failed(2)));
        assert_eq!(with(FLAG_TRUNCATED, &[]), Err(MessageError::Truncated));
        assert_eq!(with(0, &[]), Err(MessageError::NoAddress));
        assert_eq!(
            with(0, &[(TO_QUESTION, 1, 9, &[1, 2, 3])]),
            Err(MessageError::Malformed),
            "an address of three bytes"
        );
        let good = answer("a.b", Kind::A, 0, &[]);
        for (id, host, kind) in [(8, "a.b", Kind::A), (7, "a.c", Kind::A), (7, "a.b", Kind::Aaaa)] {
            assert_eq!(read(&good, id, host, kind), Err(MessageError::NotOurs));
        }
        assert_eq!(read(&query(7, "a.b", Kind::A).expect("a query"), 7, "a.b", Kind::A), Err(MessageError::NotOurs));
    }

    #[test]
    fn aliases_in_a_ring_and_pointers_that_lead_forwards_or_to_themselves_end() {
        let (a, b) = (wire_name("a.b").expect("a name"), wire_name("c.d").expect("a name"));
        let ring = answer("a.b", Kind::A, 0, &[(&a, TYPE_CNAME, 1, &b), (&b, TYPE_CNAME, 1, &a)]);
        assert_eq!(read(&ring, 7, "a.b", Kind::A), Err(MessageError::NoAddress));
        let start = u8::try_from(answer("a.b", Kind::A, 0, &[]).len()).expect("short");
        for to in [start, start + 2] {
            let looped = answer("a.b", Kind::A, 0, &[(&[0xc0, to], 1, 1, &[192, 0, 2, 1])]);
            assert_eq!(read(&looped, 7, "a.b", Kind::A), Err(MessageError::Malformed));
        }
    }

    #[test]
    fn names_that_dns_cannot_carry_are_refused() {
        let (label, long) = ("a".repeat(64), ["abc"; 64].join("."));
        for name in ["", ".", "a..b", "bücher.example", "a b", &label, &long] {
            assert_eq!(query(1, name, Kind::A), Err(MessageError::BadName), "{name}");
        }
        assert!(query(1, &"a".repeat(63), Kind::A).is_ok());
    }

    #[test]
    fn two_hundred_thousand_damaged_answers_end_in_an_answer_or_an_error() {
        let good = sample();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(random >> 33).expect("31 bits")
        };
        let mut answered = 0_u32;
        for _ in 0..200_000 {
            let mut bytes = good.clone();
            for _ in 0..=next() % 4 {
                let at = next() % bytes.len();
                match next() % 4 {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes.insert(at, next().to_le_bytes()[0]),
                    2 => bytes[at] = 0xc0,
                    _ => bytes[at] = next().to_le_bytes()[0],
                }
            }
            if let Ok(answer) = read(&bytes, 7, "push.example", Kind::A) {
                assert!((1..=MAX_ADDRESSES).contains(&answer.addresses.len()));
                answered += 1;
            }
        }
        assert!(answered > 1000, "damage beside what is read does no harm: {answered}");
    }
}
