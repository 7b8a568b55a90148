//! The time since boot, sleep included, and the wall clock.

use crate::keepalive::Moment;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// CLOCK_BOOTTIME: unlike CLOCK_MONOTONIC it goes on while the device sleeps.
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Milliseconds since the Unix epoch; 0 on a clock before it.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The wall-clock time of a moment, for people.
pub fn wall_ms_of(moment: Moment) -> u64 {
    let now = now();
    let distance = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(0);
    if moment >= now {
        wall_ms().saturating_add(distance(moment - now))
    } else {
        wall_ms().saturating_sub(distance(now - moment))
    }
}
