//! Questions to the kernel's routing tables, one socket a look; bounded in time and in what is read.

use super::rtnetlink::{self, Message, Route};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send, socket_with};
use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::net::TcpSocket;

/// The kernel has its answer ready before the request's write returns.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// What the kernel puts into one datagram of a list at most (`netlink_dump` in af_netlink.c).
const DATAGRAM: usize = 32 * 1024;
/// Datagrams of one answer. Some kernels list the neighbours of every interface: at most 1,024 by default
/// (arp(7), gc_thresh3), of which one datagram holds hundreds.
const DATAGRAMS: u32 = 32;

/// A socket to ask with.
#[derive(Debug)]
pub(super) struct Kernel {
    fd: OwnedFd,
    /// For what is asked by ioctl: Android allows none on a netlink socket (SELinux, net.te).
    inet: TcpSocket,
    sequence: Cell<u32>,
    /// The device that this process's sockets are bound to from the start (`ip vrf exec`, ip-vrf(8)).
    bound_to: Option<u32>,
}

impl Kernel {
    /// # Errors
    /// The system's error: some sandboxes refuse netlink.
    pub fn open() -> io::Result<Self> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        let inet = TcpSocket::new_v4()?;
        let device = inet.device()?.and_then(|name| String::from_utf8(name).ok());
        let bound_to = device.and_then(|name| netdevice::name_to_index(&inet, &name).ok());
        Ok(Self { fd, inet, sequence: Cell::new(0), bound_to })
    }

    /// How this process's sockets would go there; `None` when there is no way.
    pub fn route(&self, to: IpAddr) -> Option<Route> {
        let user = rustix::process::geteuid().as_raw();
        self.ask(
            |sequence| rtnetlink::ask_route(sequence, to, user, self.bound_to),
            |message| match message {
                Message::Route(route) => Some(route),
                _ => None,
            },
        )
    }

    /// An IPv4 neighbour's hardware address as people write it, if it is known.
    pub fn hardware_address(&self, interface: u32, address: IpAddr) -> Option<String> {
        self.ask(
            |sequence| rtnetlink::ask_neighbours(sequence, interface),
            |message| match message {
                Message::Neighbour { interface: at, address: of, hardware } if at == interface && of == address => {
                    Some(hardware.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"))
                }
                _ => None,
            },
        )
    }

    /// Whether the interface has a carrier; `true` where the kernel does not tell.
    pub fn is_running(&self, interface: u32) -> bool {
        let told = self.ask(
            |sequence| rtnetlink::ask_link(sequence, interface),
            |message| match message {
                Message::Link { running } => Some(running),
                _ => None,
            },
        );
        told.unwrap_or(true)
    }

    pub fn interface_name(&self, index: u32) -> Option<String> {
        netdevice::index_to_name(&self.inet, index).ok()
    }

    /// The first of the answers that is wanted; `None` when none is, or the kernel refuses.
    fn ask<T>(&self, request: impl Fn(u32) -> Vec<u8>, wanted: impl Fn(Message<'_>) -> Option<T>) -> Option<T> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        send(&self.fd, &request(sequence), SendFlags::empty()).ok()?;
        let mut bytes = vec![0_u8; DATAGRAM];
        let mut found = None;
        for _ in 0..DATAGRAMS {
            let read = match recv(&self.fd, bytes.as_mut_slice(), RecvFlags::empty()) {
                Ok((read, _)) => read,
                Err(Errno::INTR) => continue,
                Err(_) => return found,
            };
            for message in rtnetlink::answers(bytes.get(..read)?, sequence) {
                match message {
                    Message::Done | Message::Error(_) => return found,
                    // A list is read to its end: the kernel takes no second question before.
                    Message::Neighbour { .. } => found = found.or_else(|| wanted(message)),
                    _ => return wanted(message),
                }
            }
        }
        found
    }
}
