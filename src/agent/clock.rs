//! The time since boot, sleep included; timers on it; and word of a wall clock that was set.

use crate::keepalive::Moment;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The wall-clock moment a step detector waits for: it must never come (the year 2200).
const NEVER_S: i64 = 7_258_118_400;

/// When this program was built, in milliseconds since the Unix epoch: the packages give it the date of its source
/// (reproducible-builds.org, "SOURCE_DATE_EPOCH"), and without that it is this version's.
pub const BUILT_MS: u64 = 1000 * later(1_795_132_800, option_env!("SOURCE_DATE_EPOCH"));

/// The later of a time and one written in decimal digits; what is no number counts for nothing.
const fn later(seconds: u64, text: Option<&str>) -> u64 {
    let Some(text) = text else { return seconds };
    let (mut at, mut other) = (0, 0_u64);
    // Eleven digits reach far beyond any clock, and overflow nothing.
    while at < text.len() && at < 11 {
        let digit = text.as_bytes()[at];
        if !digit.is_ascii_digit() {
            return seconds;
        }
        other = other * 10 + (digit - b'0') as u64;
        at += 1;
    }
    if other > seconds { other } else { seconds }
}

/// CLOCK_BOOTTIME: unlike CLOCK_MONOTONIC it goes on while the device sleeps.
pub fn now() -> Moment {
    time_of(ClockId::Boottime)
}

/// How long the device has slept since it booted.
pub fn slept() -> Duration {
    time_of(ClockId::Boottime).saturating_sub(time_of(ClockId::Monotonic))
}

fn time_of(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Milliseconds since the Unix epoch; 0 on a clock before it.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A timer that also runs while the device sleeps and is due at once when it wakes. tokio's own
/// timers stand still meanwhile (tokio #3185).
#[derive(Debug)]
pub struct Timer {
    fd: AsyncFd<OwnedFd>,
}

impl Timer {
    /// With `wakes_device` the timer wakes a sleeping device, which needs CAP_WAKE_ALARM.
    ///
    /// # Errors
    /// The system's error; `PermissionDenied` without the capability.
    pub fn new(wakes_device: bool) -> io::Result<Self> {
        let clock = if wakes_device { TimerfdClockId::BoottimeAlarm } else { TimerfdClockId::Boottime };
        let fd = timerfd_create(clock, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { fd: readable_fd(fd)? })
    }

    /// The timer's descriptor.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }

    /// Waits until `moment`. A call that is dropped leaves the timer armed; the next call sets it anew.
    pub async fn until(&self, moment: Moment) {
        // A zero value would disarm it.
        let at = moment.max(Duration::from_nanos(1));
        let value =
            Timespec { tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(at.subsec_nanos()) };
        if set(self.fd.get_ref(), TimerfdTimerFlags::ABSTIME, value).is_err() {
            // A timer that cannot be set must not stop the loop.
            tokio::time::sleep(moment.saturating_sub(now())).await;
            return;
        }
        wait(&self.fd).await;
    }
}

/// Tells when somebody sets the wall clock (NTP's first word, an operator).
#[derive(Debug)]
pub struct ClockStep {
    fd: AsyncFd<OwnedFd>,
}

impl ClockStep {
    /// # Errors
    /// The system's error.
    pub fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let this = Self { fd: readable_fd(fd)? };
        this.arm()?;
        Ok(this)
    }

    /// Waits for the next step.
    pub async fn stepped(&self) {
        wait(&self.fd).await;
        // Armed again, or it would be silent from now on; it was armed the same way before.
        let _ = self.arm();
    }

    fn arm(&self) -> io::Result<()> {
        set(
            self.fd.get_ref(),
            TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET,
            Timespec { tv_sec: NEVER_S, tv_nsec: 0 },
        )
    }
}

fn set(fd: &OwnedFd, flags: TimerfdTimerFlags, value: Timespec) -> io::Result<()> {
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
    Ok(timerfd_settime(fd, flags, &once).map(drop)?)
}

/// Registers a descriptor for reading.
///
/// # Errors
/// The system's error.
#[allow(
    deprecated,
    reason = "the replacement is unsafe; an OwnedFd always names the same descriptor, which is what makes this sound"
)]
pub(super) fn readable_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// Until the timer has something to read: its expiry, or ECANCELED when the clock was set.
async fn wait(fd: &AsyncFd<OwnedFd>) {
    loop {
        let Ok(mut ready) = fd.readable().await else { return std::future::pending().await };
        let mut count = [0_u8; 8];
        match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut count)?)) {
            Ok(_) => return,
            // Somebody else's readiness: not due yet.
            Err(_would_block) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_a_date_of_its_own_has_its_versions() {
        assert_eq!(later(7, None), 7);
        for (text, seconds) in [("8", 8), ("6", 7), ("", 7), ("8 ", 7), ("-9", 7)] {
            assert_eq!(later(7, Some(text)), seconds, "{text:?}");
        }
        assert!(BUILT_MS <= wall_ms(), "this clock, or SOURCE_DATE_EPOCH, is wrong");
    }

    #[tokio::test]
    async fn a_timer_ends_at_its_moment_and_can_be_set_again() {
        let timer = Timer::new(false).expect("a timer");
        for ahead in [0, 1, 20] {
            let at = now() + Duration::from_millis(ahead);
            timer.until(at).await;
            assert!(now() >= at);
        }
        timer.until(Moment::ZERO).await;
    }

    #[tokio::test]
    async fn a_dropped_wait_does_not_end_the_next_one_early() {
        let timer = Timer::new(false).expect("a timer");
        let first = timer.until(now() + Duration::from_millis(1));
        // Polled once, so that it is armed, and dropped.
        tokio::select! {
            biased;
            () = first => {}
            () = std::future::ready(()) => {}
        }
        let later = now() + Duration::from_millis(30);
        timer.until(later).await;
        assert!(now() >= later);
    }
}
