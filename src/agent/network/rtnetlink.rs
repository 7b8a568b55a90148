//! The few messages of rtnetlink(7) that are asked with and answered by, as bytes and as values.
//!
//! Layouts: `include/uapi/linux/netlink.h`, `rtnetlink.h`, `neighbour.h` and `if_link.h`. Numbers stand in
//! the machine's own byte order, addresses in the network's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Of `struct rtmsg`, `struct ndmsg` and `struct ifinfomsg`.
const ROUTE_BODY: usize = 12;
const NEIGHBOUR_BODY: usize = 12;
const LINK_BODY: usize = 16;

const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_VIA: u16 = 18;
const RTA_UID: u16 = 25;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_IFINDEX: u16 = 8;
/// REACHABLE, STALE, DELAY, PROBE and PERMANENT: the states in which the hardware address is good.
const NUD_KNOWN: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;
/// The interface is up and has a carrier, or is of a kind that knows none.
const IFF_RUNNING: u32 = 0x40;
/// The two upper bits of an attribute's type are flags.
const TYPE_MASK: u16 = 0x3fff;

/// How the kernel would reach a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub interface: u32,
    /// `None` where the interface leads there by itself.
    pub gateway: Option<IpAddr>,
    pub source: Option<IpAddr>,
    /// The destination is this machine.
    pub local: bool,
}

/// What the kernel said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Route(Route),
    Neighbour {
        interface: u32,
        address: IpAddr,
        hardware: &'a [u8],
    },
    Link {
        running: bool,
    },
    /// The end of a list.
    Done,
    /// A refusal, as a positive errno; 0 is an acknowledgement.
    Error(i32),
    /// Nothing that is asked for here.
    Other,
}

/// Asks for the route that this user's socket would take; `bound_to` is the device it would be bound to.
pub(super) fn ask_route(sequence: u32, to: IpAddr, user: u32, bound_to: Option<u32>) -> Vec<u8> {
    let (family, bits) = match to {
        IpAddr::V4(_) => (AF_INET, 32),
        IpAddr::V6(_) => (AF_INET6, 128),
    };
    let mut body = vec![0; ROUTE_BODY];
    (body[0], body[1]) = (family, bits);
    match to {
        IpAddr::V4(to) => put(&mut body, RTA_DST, &to.octets()),
        IpAddr::V6(to) => put(&mut body, RTA_DST, &to.octets()),
    }
    // Rules may hold for some users only, as those of Android's VPNs do (ip-rule(8), uidrange).
    put(&mut body, RTA_UID, &user.to_ne_bytes());
    if let Some(device) = bound_to {
        put(&mut body, RTA_OIF, &device.to_ne_bytes());
    }
    request(RTM_GETROUTE, NLM_F_REQUEST, sequence, &body)
}

/// Asks for all neighbours of an interface: kernels before 5.0 know no question after one alone.
pub(super) fn ask_neighbours(sequence: u32, interface: u32) -> Vec<u8> {
    let mut body = vec![0; NEIGHBOUR_BODY];
    body[0] = AF_INET;
    put(&mut body, NDA_IFINDEX, &interface.to_ne_bytes());
    request(RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP, sequence, &body)
}

pub(super) fn ask_link(sequence: u32, interface: u32) -> Vec<u8> {
    let mut body = vec![0; LINK_BODY];
    body[4..8].copy_from_slice(&interface.to_ne_bytes());
    request(RTM_GETLINK, NLM_F_REQUEST, sequence, &body)
}

/// The messages of a datagram that answer the request of this number. What cannot be read ends them.
pub(super) fn answers(mut bytes: &[u8], sequence: u32) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        loop {
            let length = u32_at(bytes, 0)? as usize;
            let message = bytes.get(..length).filter(|message| message.len() >= HEADER)?;
            bytes = bytes.get(aligned(length)..).unwrap_or_default();
            if u32_at(message, 8)? == sequence {
                return Some(read(u16_at(message, 4)?, &message[HEADER..]));
            }
        }
    })
}

fn read(kind: u16, body: &[u8]) -> Message<'_> {
    let known = match kind {
        NLMSG_DONE => Some(Message::Done),
        NLMSG_ERROR => u32_at(body, 0).map(|errno| Message::Error((errno as i32).saturating_neg())),
        RTM_NEWROUTE => route(body).map(Message::Route),
        RTM_NEWNEIGH => neighbour(body),
        RTM_NEWLINK => u32_at(body, 8).map(|flags| Message::Link { running: flags & IFF_RUNNING != 0 }),
        _ => None,
    };
    known.unwrap_or(Message::Other)
}

fn route(body: &[u8]) -> Option<Route> {
    let (family, kind) = (*body.first()?, *body.get(7)?);
    if ![RTN_UNICAST, RTN_LOCAL].contains(&kind) {
        return None;
    }
    let mut route = Route { interface: 0, gateway: None, source: None, local: kind == RTN_LOCAL };
    for (attribute, value) in attributes(body.get(ROUTE_BODY..)?) {
        match attribute {
            RTA_OIF => route.interface = u32_at(value, 0)?,
            RTA_GATEWAY => route.gateway = address(family, value),
            RTA_PREFSRC => route.source = address(family, value),
            // `struct rtvia`: a gateway of the other family.
            RTA_VIA => route.gateway = address(u8::try_from(u16_at(value, 0)?).ok()?, value.get(2..)?),
            _ => {}
        }
    }
    (route.interface != 0).then_some(route)
}

fn neighbour(body: &[u8]) -> Option<Message<'_>> {
    let (family, interface, state) = (*body.first()?, u32_at(body, 4)?, u16_at(body, 8)?);
    let (mut found, mut hardware) = (None, None);
    for (attribute, value) in attributes(body.get(NEIGHBOUR_BODY..)?) {
        match attribute {
            NDA_DST => found = address(family, value),
            NDA_LLADDR => hardware = Some(value),
            _ => {}
        }
    }
    let hardware = hardware.filter(|_| state & NUD_KNOWN != 0)?;
    Some(Message::Neighbour { interface, address: found?, hardware })
}

fn address(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => <[u8; 4]>::try_from(value).ok().map(|octets| Ipv4Addr::from(octets).into()),
        AF_INET6 => <[u8; 16]>::try_from(value).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

/// `struct rtattr`: length, type, value, padded to four bytes.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let (kind, value) = (u16_at(bytes, 2)?, bytes.get(4..length)?);
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind & TYPE_MASK, value))
    })
}

fn request(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    // The kernel's own port.
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(body);
    bytes
}

/// Appends an attribute of four or sixteen bytes, which need no padding.
fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn route_answer(family: u8, kind: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![0; ROUTE_BODY];
        (body[0], body[7]) = (family, kind);
        for (attribute, value) in attributes {
            put(&mut body, *attribute, value);
        }
        request(RTM_NEWROUTE, 0, 7, &body)
    }

    fn neighbour_answer(state: u16) -> Vec<u8> {
        let mut body = vec![0; NEIGHBOUR_BODY];
        body[0] = AF_INET;
        body[4..8].copy_from_slice(&3_u32.to_ne_bytes());
        body[8..10].copy_from_slice(&state.to_ne_bytes());
        put(&mut body, NDA_DST, &[10, 0, 1, 1]);
        put(&mut body, NDA_LLADDR, &[0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);
        request(RTM_NEWNEIGH, 0, 7, &body)
    }

    #[test]
    fn a_route_is_asked_for_as_this_users_socket_on_its_device_would_take_it() {
        let asked = |bound_to| {
            let bytes = ask_route(7, ip("192.0.2.1"), 1000, bound_to);
            assert_eq!(u32_at(&bytes, 0), Some(bytes.len() as u32));
            let found = attributes(&bytes[HEADER + ROUTE_BODY..]).map(|(kind, value)| (kind, value.to_vec()));
            found.collect::<Vec<_>>()
        };
        let plain = [(RTA_DST, vec![192, 0, 2, 1]), (RTA_UID, 1000_u32.to_ne_bytes().to_vec())];
        assert_eq!(asked(None), plain);
        assert_eq!(asked(Some(5))[2], (RTA_OIF, 5_u32.to_ne_bytes().to_vec()));
    }

    #[test]
    fn a_route_is_read_with_its_interface_gateway_and_source() {
        let interface = 3_u32.to_ne_bytes();
        let bytes = route_answer(
            AF_INET,
            RTN_UNICAST,
            &[(RTA_OIF, &interface), (RTA_GATEWAY, &[10, 0, 1, 1]), (RTA_PREFSRC, &[10, 0, 1, 2])],
        );
        let found = Route { interface: 3, gateway: Some(ip("10.0.1.1")), source: Some(ip("10.0.1.2")), local: false };
        assert_eq!(answers(&bytes, 7).collect::<Vec<_>>(), [Message::Route(found)]);
    }

    #[test]
    fn a_gateway_of_the_other_family_and_a_destination_on_this_machine_are_understood() {
        let interface = 3_u32.to_ne_bytes();
        let mut via = (u16::from(AF_INET6)).to_ne_bytes().to_vec();
        via.extend("fe80::1".parse::<Ipv6Addr>().expect("an address").octets());
        let mut bytes = route_answer(AF_INET, RTN_UNICAST, &[(RTA_OIF, &interface)]);
        // 18 bytes of value: the length says so, and padding follows.
        bytes.extend([22, 0, RTA_VIA as u8, 0]);
        bytes.extend(&via);
        bytes.extend([0, 0]);
        let length = (bytes.len() as u32).to_ne_bytes();
        bytes[..4].copy_from_slice(&length);
        bytes.extend(route_answer(AF_INET, RTN_LOCAL, &[(RTA_OIF, &interface)]));
        let found: Vec<_> = answers(&bytes, 7).collect();
        assert!(matches!(found[0], Message::Route(route) if route.gateway == Some(ip("fe80::1"))), "{found:?}");
        assert!(matches!(found[1], Message::Route(route) if route.local), "{found:?}");
    }

    #[test]
    fn what_leads_nowhere_is_no_route_and_a_refusal_is_an_errno() {
        const RTN_BLACKHOLE: u8 = 6;
        let bytes = route_answer(AF_INET, RTN_BLACKHOLE, &[(RTA_OIF, &3_u32.to_ne_bytes())]);
        assert_eq!(answers(&bytes, 7).collect::<Vec<_>>(), [Message::Other]);
        let refused = request(NLMSG_ERROR, 0, 7, &(-101_i32).to_ne_bytes());
        assert_eq!(answers(&refused, 7).collect::<Vec<_>>(), [Message::Error(101)]);
    }

    #[test]
    fn a_neighbours_hardware_address_is_read_only_when_it_is_known() {
        const NUD_REACHABLE: u16 = 0x02;
        const NUD_FAILED: u16 = 0x20;
        let known = Message::Neighbour {
            interface: 3,
            address: ip("10.0.1.1"),
            hardware: &[0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff],
        };
        assert_eq!(answers(&neighbour_answer(NUD_REACHABLE), 7).next(), Some(known));
        assert_eq!(answers(&neighbour_answer(NUD_FAILED), 7).next(), Some(Message::Other));
    }

    #[test]
    fn answers_to_another_request_are_passed_over() {
        let mut bytes = request(NLMSG_DONE, 0, 6, &[0; 4]);
        bytes.extend(request(NLMSG_DONE, 0, 7, &[0; 4]));
        assert_eq!(answers(&bytes, 7).count(), 1);
    }

    #[test]
    fn whatever_bytes_come_reading_them_ends_and_yields_no_more_than_there_is_room_for() {
        // xorshift64 (Marsaglia 2003): the same bytes in each run.
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let whole = [
            route_answer(AF_INET, RTN_UNICAST, &[(RTA_OIF, &[3, 0, 0, 0]), (RTA_GATEWAY, &[10, 0, 1, 1])]),
            route_answer(AF_INET6, RTN_UNICAST, &[(RTA_OIF, &[3, 0, 0, 0]), (RTA_GATEWAY, &[0xfe; 16])]),
            neighbour_answer(2),
            request(NLMSG_ERROR, 0, 7, &i32::MIN.to_ne_bytes()),
            request(RTM_NEWLINK, 0, 7, &[0x40; LINK_BODY]),
        ]
        .concat();
        let mut read = 0;
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..=next() % 8 {
                let at = next() as usize % bytes.len();
                bytes[at] = if next() % 2 == 0 { next() as u8 } else { 0 };
            }
            bytes.truncate(next() as usize % (bytes.len() + 1));
            let found = answers(&bytes, 7).count();
            assert!(found <= bytes.len() / HEADER, "{bytes:?}");
            read += found;
        }
        assert!(read > 20_000, "the bytes were hardly ever read: {read}");
    }
}
