//! The wake lock: the device stays awake from the alarm to the ping's answer, and while an app is told of a message.
//!
//! ```text
//! alarm or packet --> ready in an epoll of our own with EPOLLWAKEUP: the kernel stays awake
//!                 --> the loop wakes: lock taken, then what came is worked off
//!                 --> nothing awaited any more: lock given back, the epoll asked again, and the kernel may sleep
//! ```
//!
//! The lock has a time-out, so that a holder that was killed keeps no device awake (Linux,
//! Documentation/ABI/testing/sysfs-power, `/sys/power/wake_lock`). Without CAP_BLOCK_SUSPEND the kernel refuses it,
//! and ignores EPOLLWAKEUP (epoll_ctl(2)).

use crate::keepalive::Moment;
use crate::session::WakeLockReport;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;
use tracing::{info, warn};

const LOCK: &str = "sys/power/wake_lock";
const UNLOCK: &str = "sys/power/wake_unlock";
/// Time to find out what has come.
const WORK: Duration = Duration::from_secs(1);
/// Time in which an app that was told of a message takes a lock of its own.
const APP_TOLD: Duration = Duration::from_millis(500);
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// What keeps the device awake, and how often and long it did.
#[derive(Debug)]
pub(super) struct WakeLock {
    lock: File,
    unlock: File,
    name: String,
    epoll: OwnedFd,
    held: Option<Held>,
    /// It was given back to the kernel's time-out, for an app's sake.
    lapses: bool,
    refused: bool,
    report: WakeLockReport,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    since: Moment,
    until: Moment,
}

impl WakeLock {
    /// Below `root`, without one below `/`; under the agent's name, since others on the device have theirs.
    ///
    /// # Errors
    /// The system's: `NotFound` where the kernel has no wake locks, `PermissionDenied` where this user may not.
    pub fn new(root: Option<&Path>, name: &str) -> io::Result<Self> {
        let root = root.unwrap_or("/".as_ref());
        let open = |file: &str| OpenOptions::new().write(true).open(root.join(file));
        Ok(Self {
            lock: open(LOCK)?,
            unlock: open(UNLOCK)?,
            name: name.to_owned(),
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            held: None,
            lapses: false,
            refused: false,
            report: WakeLockReport::default(),
        })
    }

    /// What becomes readable here keeps the kernel awake until it was worked off. A closed descriptor leaves by itself.
    pub fn watch(&self, descriptor: impl AsFd) {
        let flags = EventFlags::IN | EventFlags::WAKEUP;
        match epoll::add(&self.epoll, descriptor, EventData::new_u64(0), flags) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => {
                info!(event = "power.unwatched", %error, "the kernel may sleep between a packet and its reading")
            }
        }
    }

    /// The loop woke: what is ready keeps the device awake until [`Self::settle`].
    pub fn woke(&mut self, now: Moment) {
        if self.held.is_none() && self.ready() {
            self.take(now, now + WORK);
        }
    }

    /// An app was told of a message: the lock is left to its time-out.
    pub fn app_told(&mut self, now: Moment) {
        self.take(now, now + APP_TOLD);
        self.lapses = true;
    }

    /// The loop is about to wait, for what must not be slept through until `wanted`.
    pub fn settle(&mut self, now: Moment, wanted: Option<Moment>) {
        match (wanted, self.held) {
            (Some(until), Some(held)) if held.until == until => {}
            (Some(until), _) => self.take(now, until),
            (None, Some(_)) => self.give_back(now),
            (None, None) => {}
        }
        // What was reported before is worked off by now, and holds the kernel no longer.
        self.ready();
    }

    pub fn report(&self, now: Moment) -> WakeLockReport {
        let since = self.held.map(|held| now.min(held.until).saturating_sub(held.since));
        WakeLockReport { held_ms: self.report.held_ms + millis(since.unwrap_or_default()), ..self.report }
    }

    fn take(&mut self, now: Moment, until: Moment) {
        let left = until.saturating_sub(now).as_nanos();
        if left == 0 {
            return self.give_back(now);
        }
        let written = self.lock.write_all(format!("{} {left}", self.name).as_bytes());
        if let Err(error) = written {
            self.refuse(&error);
            return;
        }
        self.lapses = false;
        let since = self.held.map_or(now, |held| held.since);
        self.report.taken += u64::from(self.held.is_none());
        self.held = Some(Held { since, until });
    }

    fn give_back(&mut self, now: Moment) {
        let Some(held) = self.held.take() else { return };
        let lapses = std::mem::take(&mut self.lapses);
        let end = if lapses { held.until } else { now.min(held.until) };
        self.report.held_ms += millis(end.saturating_sub(held.since));
        if !lapses && let Err(error) = self.unlock.write_all(self.name.as_bytes()) {
            self.refuse(&error);
        }
    }

    fn refuse(&mut self, error: &io::Error) {
        // EINVAL: nothing of that name was held any more, since its time was over.
        if error.kind() != io::ErrorKind::InvalidInput && !std::mem::replace(&mut self.refused, true) {
            warn!(
                event = "power.no_wake_lock",
                %error, "the kernel refuses a wake lock; the device may sleep between a ping and its answer"
            );
        }
    }

    fn ready(&self) -> bool {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 4];
        epoll::wait(&self.epoll, &mut events, Some(&AT_ONCE)).is_ok_and(|count| count > 0)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    struct Kernel {
        root: tempfile::TempDir,
    }

    impl Kernel {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("a directory");
            fs::create_dir_all(root.path().join("sys/power")).expect("made");
            for file in [LOCK, UNLOCK] {
                fs::write(root.path().join(file), "").expect("written");
            }
            Self { root }
        }

        /// What was written since the last look: locks, and unlocks.
        fn heard(&self) -> (String, String) {
            let of = |file: &str| {
                let path = self.root.path().join(file);
                let text = fs::read_to_string(&path).expect("read");
                text.trim_start_matches('\0').to_owned()
            };
            (of(LOCK), of(UNLOCK))
        }
    }

    fn at(ms: u64) -> Moment {
        Moment::from_millis(ms)
    }

    #[test]
    fn it_is_held_for_what_is_awaited_and_given_back_when_the_answer_is_there() {
        let kernel = Kernel::new();
        let mut lock = WakeLock::new(Some(kernel.root.path()), "impush").expect("files");
        lock.settle(at(0), None);
        assert_eq!(kernel.heard(), (String::new(), String::new()), "nothing is held while idle");
        lock.settle(at(0), Some(at(9000)));
        lock.settle(at(100), Some(at(9000)));
        assert_eq!(kernel.heard().0, "impush 9000000000", "written once");
        lock.settle(at(200), None);
        assert_eq!(kernel.heard().1, "impush");
        assert_eq!(lock.report(at(5000)), WakeLockReport { taken: 1, held_ms: 200 });
    }

    #[test]
    fn what_is_ready_takes_it_before_it_is_read_and_an_app_that_was_told_has_half_a_second() {
        let kernel = Kernel::new();
        let mut lock = WakeLock::new(Some(kernel.root.path()), "impush@work").expect("files");
        let (mut read, mut peer) = UnixStream::pair().expect("a pair");
        lock.watch(&read);
        lock.woke(at(0));
        assert_eq!(kernel.heard().0, "", "another's timer woke the loop");
        peer.write_all(b"x").expect("written");
        lock.woke(at(0));
        assert_eq!(kernel.heard().0, "impush@work 1000000000");
        read.read_exact(&mut [0_u8; 1]).expect("read");
        lock.app_told(at(5));
        assert!(kernel.heard().0.ends_with("impush@work 500000000"));
        lock.settle(at(6), None);
        assert_eq!(kernel.heard().1, "", "left to its time-out");
        assert_eq!(lock.report(at(6)), WakeLockReport { taken: 1, held_ms: 505 });
    }

    #[test]
    fn a_kernel_without_wake_locks_is_told_apart() {
        let root = tempfile::tempdir().expect("a directory");
        let error = WakeLock::new(Some(root.path()), "impush").expect_err("no file");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
