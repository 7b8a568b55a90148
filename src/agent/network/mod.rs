//! Which network leads to the server, as the kernel would route there, and word of its changes.
//!
//! rtnetlink rings the bell (addresses, routes, rules and links; debounced by the session); what changed is
//! then asked for, so that a lost or doubled notice does no harm.

mod kernel;
mod name;
mod rtnetlink;

use super::clock::readable_fd;
use super::disk::blocking;
use kernel::Kernel;
use name::{Hop, name};
use rtnetlink::Route;
use rustix::fd::OwnedFd;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

/// Groups of rtnetlink(7), each the bit below its number: RTNLGRP_LINK 1, IPV4_IFADDR 5, IPV4_ROUTE 7,
/// IPV4_RULE 8, IPV6_IFADDR 9, IPV6_ROUTE 11, IPV6_RULE 19. A new default network may be a new rule alone.
const GROUPS: u32 = 1 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18;
/// Datagrams swallowed at one waking, so that a flood of them cannot hold the loop.
const NOTICES_AT_ONCE: u32 = 64;
/// Addresses nobody has (RFC 5737, RFC 3849): what leads there leads everywhere.
const EVERYWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
/// The kernel answers at once; it waits only while somebody else changes its interfaces.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Rings when an address, route, rule or link changes.
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
            for _ in 0..NOTICES_AT_ONCE {
                // ENOBUFS says that notices were dropped: something changed, and that is all that is asked.
                if ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut notice)?)).is_err() {
                    break;
                }
                heard = true;
            }
            if heard {
                return;
            }
        }
    }
}

/// How the kernel would go somewhere now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    /// The network's [`name()`], and this device's address on it.
    pub ground: (String, Option<IpAddr>),
    /// The interface has a carrier, as far as its driver knows.
    pub carrier: bool,
}

/// Whom the question after the way is about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Towards {
    /// The far end of a connection that stands, and of none other.
    Peer(SocketAddr),
    /// The far end of the last connection if it can be reached, else the whole internet.
    Anybody { last: Option<SocketAddr> },
}

/// The kernel did not say in time how it would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kernel did not answer within {} s", LOOK_TIMEOUT.as_secs())]
pub(super) struct Unanswered;

/// How the kernel would go there now; `None` when there is no way.
///
/// # Errors
/// [`Unanswered`]: nothing is known then.
pub(super) async fn way(towards: Towards) -> Result<Option<Way>, Unanswered> {
    // A question that hangs is not joined by more.
    static ASKING: Semaphore = Semaphore::const_new(1);
    let asked = async {
        let asking = ASKING.acquire().await.map_err(|_| Unanswered)?;
        // The question may wait for the kernel's lock, which the loop must not.
        let answer = blocking(move || {
            let _asking = asking;
            Kernel::open().ok().and_then(|kernel| way_now(&kernel, towards))
        });
        Ok(answer.await)
    };
    tokio::time::timeout(LOOK_TIMEOUT, asked).await.unwrap_or(Err(Unanswered))
}

fn way_now(kernel: &Kernel, towards: Towards) -> Option<Way> {
    let everywhere = EVERYWHERE.map(|address| find(kernel, address));
    let peer = match towards {
        Towards::Peer(peer) => Some(peer),
        Towards::Anybody { last } => last,
    };
    // What listens on this machine leads on by itself: a tunnel, a proxy.
    let peer = peer.filter(|peer| !peer.ip().is_loopback()).map(|peer| find(kernel, peer.ip()));
    let taken = match (peer, towards) {
        (Some(Some((hop, route))), _) if !route.local => Some((hop, route)),
        (Some(None), Towards::Peer(_)) => None,
        _ => everywhere.iter().flatten().find(|(_, route)| !route.local).cloned(),
    };
    let (hop, route) = taken?;
    let named = everywhere.each_ref().map(|found| found.as_ref().map(|(hop, _)| hop));
    let hardware = |router: &Hop| {
        let found = everywhere.iter().flatten().find(|(hop, _)| hop == router);
        kernel.hardware_address(found.map_or(route.interface, |(_, route)| route.interface), router.gateway)
    };
    Some(Way { ground: (name(&hop, named, hardware), hop.source), carrier: kernel.is_running(route.interface) })
}

fn find(kernel: &Kernel, towards: IpAddr) -> Option<(Hop, Route)> {
    let route = kernel.route(towards)?;
    let gateway = Hop::gateway_or_unspecified(route.gateway, towards);
    Some((Hop { interface: kernel.interface_name(route.interface)?, gateway, source: route.source }, route))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_machine_is_there_and_a_documentation_one_is_not() {
        assert!(has_address("127.0.0.1:1".parse().expect("an address")));
        assert!(!has_address("203.0.113.7:1".parse().expect("an address")));
    }

    #[test]
    fn the_kernel_says_that_this_machine_is_reached_on_itself() {
        let Ok(kernel) = Kernel::open() else { return };
        let route = kernel.route(Ipv4Addr::LOCALHOST.into()).expect("a way to itself");
        assert!(route.local, "{route:?}");
        assert_eq!(kernel.interface_name(route.interface).as_deref(), Some("lo"));
        assert!(kernel.is_running(route.interface));
        assert_eq!(kernel.hardware_address(route.interface, EVERYWHERE[0]), None);
    }

    #[tokio::test]
    async fn the_watch_can_be_opened_or_says_why_not() {
        if let Err(error) = Watch::new() {
            assert!(matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported), "{error}");
        }
    }
}
