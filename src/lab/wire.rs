//! A slow, lossy wire between two Ethernet interfaces: every frame that comes in at one leaves the other
//! after a fixed time, or not at all. For kernels without netem; needs CAP_NET_RAW.
//!
//! Checksum and segmentation offload must be off on all interfaces on the way (`ethtool -K IF tx off gso off
//! tso off gro off`): frames of a virtual interface are otherwise unfinished.

use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike as _, bind, recvfrom, send,
    socket,
};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Frames on their way in one direction; more are lost, as on a full queue.
const DEPTH: usize = 4096;
/// Longest frame with offloads off, and room to spare.
const FRAME: usize = 65_536;

/// What the wire does to frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// Each way.
    pub delay: Duration,
    /// 0 to 100.
    pub loss_percent: u8,
}

/// Carries frames until the process ends.
///
/// # Errors
/// When an interface is missing or the capability is.
pub(super) fn serve(a: &str, b: &str, weather: Weather) -> io::Result<()> {
    let (a, b) = (Arc::new(open(a)?), Arc::new(open(b)?));
    let back = { (b.clone(), a.clone()) };
    let other = std::thread::spawn(move || carry(&back.0, back.1, weather, 1));
    carry(&a, b, weather, 2)?;
    other.join().map_err(|_| io::Error::other("one direction ended"))?
}

/// A socket that hears and says every frame of this interface, but does not hear itself.
fn open(name: &str) -> io::Result<OwnedFd> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no interface {name}"));
    let address: LinkAddr = nix::ifaddrs::getifaddrs()?
        .filter(|interface| interface.interface_name == name)
        .find_map(|interface| interface.address.and_then(|a| a.as_link_addr().copied()))
        .ok_or_else(missing)?;
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    debug_assert_eq!(address.family(), Some(AddressFamily::Packet));
    bind(fd.as_raw_fd(), &address)?;
    Ok(fd)
}

fn carry(from: &OwnedFd, to: Arc<OwnedFd>, weather: Weather, seed: u64) -> io::Result<()> {
    let (sender, receiver) = sync_channel(DEPTH);
    let failed = Arc::new(Mutex::new(None));
    let shared = failed.clone();
    std::thread::spawn(move || {
        let error = deliver(&receiver, &to);
        *shared.lock().unwrap_or_else(PoisonError::into_inner) = error.err();
    });
    let ended = take(from, &sender, weather, seed);
    let other = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
    other.map_or(ended, Err)
}

fn take(from: &OwnedFd, out: &SyncSender<(Instant, Vec<u8>)>, weather: Weather, seed: u64) -> io::Result<()> {
    let mut frame = vec![0; FRAME];
    let mut random = seed;
    loop {
        let (length, source) = match recvfrom::<LinkAddr>(from.as_raw_fd(), &mut frame) {
            Ok(read) => read,
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::ENETDOWN) => continue,
            Err(error) => return Err(error.into()),
        };
        // PACKET_OUTGOING: what this host itself says on the interface.
        if source.is_some_and(|source| source.pkttype() == 4) {
            continue;
        }
        // Knuth's linear congruential generator: which frames are lost is the same in each run.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if (random >> 33) % 100 < u64::from(weather.loss_percent) {
            continue;
        }
        // A full queue loses the frame.
        let _ = out.try_send((Instant::now() + weather.delay, frame[..length].to_vec()));
    }
}

#[allow(clippy::disallowed_methods, reason = "this thread does nothing but wait for the frame's time")]
fn deliver(frames: &Receiver<(Instant, Vec<u8>)>, to: &OwnedFd) -> io::Result<()> {
    while let Ok((at, frame)) = frames.recv() {
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        match send(to.as_raw_fd(), &frame, MsgFlags::empty()) {
            // An interface that is down, full, or takes no frame of this length loses it, as a wire does.
            Ok(_) | Err(nix::errno::Errno::ENETDOWN | nix::errno::Errno::ENOBUFS | nix::errno::Errno::EMSGSIZE) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
