//! Which network the device is on, and word of its changes.
//!
//! rtnetlink only rings the bell (addresses and routes, debounced by the caller); what changed is then
//! looked up, so that a lost or doubled notice does no harm.

use super::clock::readable_fd;
use crate::secret::fingerprint;
use rustix::fd::OwnedFd;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use tokio::io::unix::AsyncFd;

/// rtnetlink(7): RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// Rings when an address, route or link changes.
#[derive(Debug)]
pub(super) struct Watch {
    fd: AsyncFd<OwnedFd>,
}

impl Watch {
    /// # Errors
    /// The system's error: some sandboxes refuse netlink. Pings notice a dead network then, later.
    pub fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&fd, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self { fd: readable_fd(fd)? })
    }

    /// Waits for the next notice and swallows what came with it.
    pub async fn changed(&self) {
        let mut notice = [0_u8; 8192];
        let mut heard = false;
        loop {
            let Ok(mut ready) = self.fd.readable().await else { return std::future::pending().await };
            // ENOBUFS says that notices were dropped: something changed, and that is all that is asked.
            while ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut notice)?)).is_ok() {
                heard = true;
            }
            if heard {
                return;
            }
        }
    }
}

/// The network that carries the default route: its kind and a hash of its gateway. Never a name that a
/// person gave it. `None` without a default route.
pub(super) fn key() -> Option<String> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let Some((interface, gateway)) = default_route(&read("/proc/net/route")) else {
        let (interface, gateway) = default_route_v6(&read("/proc/net/ipv6_route"))?;
        return Some(format!("{}-{}", kind(&interface), fingerprint(&gateway)));
    };
    let hardware = hardware_address(&read("/proc/net/arp"), gateway, &interface).unwrap_or_default();
    Some(format!("{}-{}", kind(&interface), fingerprint(&format!("{gateway} {hardware}"))))
}

/// What an attempt stands on: the network, and this device's address on it.
pub(super) type Ground = (String, Option<IpAddr>);

/// The ground on the network of this [`key`]; `None` without a default route.
pub(super) fn ground(key: Option<String>) -> Option<Ground> {
    // Addresses nobody has (RFC 5737, RFC 3849): only the default route leads there.
    let nowhere = [SocketAddr::from(([192, 0, 2, 1], 9)), SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9))];
    key.map(|key| (key, nowhere.into_iter().find_map(source_towards)))
}

/// Whether the device still has this address. A connection bound to one it has lost is dead.
pub(super) fn has_address(address: SocketAddr) -> bool {
    // Binding is the one question that needs no list of interfaces. Any other trouble than the
    // address's absence says nothing about it.
    match UdpSocket::bind(SocketAddr::new(address.ip(), 0)) {
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
        Ok(_) => true,
    }
}

/// The address from which this device would reach `peer` now; `None` when there is no way. Nothing is
/// sent: connecting a datagram socket only asks the kernel's routes.
pub(super) fn source_towards(peer: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(peer).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// The default route's interface and gateway: the one with the lowest metric.
fn default_route(table: &str) -> Option<(String, IpAddr)> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [interface, destination, gateway, _, _, _, metric, mask, ..] = fields.as_slice() else { return None };
            if *destination != "00000000" || *mask != "00000000" {
                return None;
            }
            // The kernel prints the address in host byte order.
            let gateway = u32::from_str_radix(gateway, 16).ok()?;
            Some((
                metric.parse::<u32>().ok()?,
                (*interface).to_owned(),
                IpAddr::V4(Ipv4Addr::from(gateway.to_ne_bytes())),
            ))
        })
        .min_by_key(|(metric, ..)| *metric)
        .map(|(_, interface, gateway)| (interface, gateway))
}

/// The same on a network without IPv4 (the fields are told in the kernel's net/ipv6/route.c). The
/// kernel's own entries for what cannot be reached lead to `lo`.
fn default_route_v6(table: &str) -> Option<(String, String)> {
    table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [destination, length, _, _, gateway, metric, _, _, _, interface] = fields.as_slice() else {
                return None;
            };
            let default = destination.bytes().all(|b| b == b'0') && *length == "00" && *interface != "lo";
            default.then_some((u32::from_str_radix(metric, 16).ok()?, (*interface).to_owned(), (*gateway).to_owned()))
        })
        .min_by_key(|(metric, ..)| *metric)
        .map(|(_, interface, gateway)| (interface, gateway))
}

fn hardware_address(table: &str, gateway: IpAddr, interface: &str) -> Option<String> {
    let wanted = gateway.to_string();
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields.as_slice() {
            [ip, _, flags, hardware, _, device] if *ip == wanted && *device == interface && *flags != "0x0" => {
                Some((*hardware).to_owned())
            }
            _ => None,
        }
    })
}

fn kind(interface: &str) -> &'static str {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| interface.starts_with(prefix));
    match () {
        () if starts(&["wl", "ath", "ra"]) => "wifi",
        () if starts(&["rmnet", "wwan", "ccmni", "ppp", "pdp"]) => "cell",
        () if starts(&["eth", "en", "usb"]) => "wired",
        () => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        rmnet0\t00000000\t0102000A\t0003\t0\t0\t700\t00000000\t0\t0\t0\n\
        wlan0\t00000000\t0101000A\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
        wlan0\t0001000A\t00000000\t0001\t0\t0\t600\t00FFFFFF\t0\t0\t0\n";

    #[test]
    fn the_default_route_with_the_lowest_metric_names_the_network() {
        assert_eq!(default_route(ROUTES), Some(("wlan0".into(), "10.0.1.1".parse().expect("an address"))));
        assert_eq!(default_route("header only\n"), None);
        assert_eq!(default_route("header\nwlan0 broken line\n"), None);
    }

    #[test]
    fn a_network_of_ipv6_alone_has_a_name_too() {
        let zero = "0".repeat(32);
        let (gateway, net) = ("fe800000000000000000000000000001", "20010db8000000000000000000000000");
        let line = |to: &str, length: &str, metric: &str, interface: &str| {
            format!("{to} {length} {zero} 00 {gateway} {metric} 00000001 00000000 00000003 {interface}\n")
        };
        let table = [
            line(net, "40", "00000100", "wlan0"),
            line(&zero, "00", "00000400", "rmnet0"),
            line(&zero, "00", "00000258", "wlan0"),
            line(&zero, "00", "00000000", "lo"),
        ];
        assert_eq!(default_route_v6(&table.concat()), Some(("wlan0".into(), gateway.into())));
        assert_eq!(default_route_v6(&table[3]), None);
        assert_eq!(default_route_v6("torn line\n"), None);
    }

    #[test]
    fn a_gateways_hardware_address_is_read_only_when_it_is_known() {
        let arp = "IP address HW type Flags HW address Mask Device\n10.0.1.1 0x1 0x2 aa:bb:cc:dd:ee:ff * wlan0\n10.0.1.9 0x1 0x0 00:00:00:00:00:00 * wlan0\n";
        let at = |ip: &str| hardware_address(arp, ip.parse().expect("an address"), "wlan0");
        assert_eq!(at("10.0.1.1").as_deref(), Some("aa:bb:cc:dd:ee:ff"));
        assert_eq!(at("10.0.1.9"), None);
    }

    #[test]
    fn an_address_of_this_machine_is_there_and_a_documentation_one_is_not() {
        assert!(has_address("127.0.0.1:1".parse().expect("an address")));
        assert!(!has_address("203.0.113.7:1".parse().expect("an address")));
    }

    #[tokio::test]
    async fn the_watch_can_be_opened_or_says_why_not() {
        if let Err(error) = Watch::new() {
            assert!(matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported), "{error}");
        }
    }
}
