//! What time it is, for all that is stored: due times, leases and ends of life.
//!
//! Where several gateways share a database, its clock is everybody's: this process measures how far that is from its own
//! monotonic clock, so that a wall clock that is wrong here, or is set while it runs, moves nothing. With a file of one's
//! own the wall clock is the time.

use crate::ids::MessageId;
use crate::secret::random;
use rustix::time::{ClockId, clock_gettime};
use std::cell::RefCell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nothing was measured.
const UNKNOWN: i64 = i64::MIN;
/// An answer that took longer says too little of the moment.
const LONGEST_TRIP: Duration = Duration::from_secs(2);
/// From this distance on, beyond what the measure may be wrong by, it is said. In milliseconds.
const FAR_MS: u64 = 1000;
/// What two clocks may part by from one sweep to the next. In milliseconds.
const PART_MS: u64 = 600_000;
/// How long a clock that jumped ahead is not believed.
const DOUBT: Duration = Duration::from_secs(86_400);

static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
/// Milliseconds since the Unix epoch at [`BEGUN`], by the database's clock.
static SHARED: AtomicI64 = AtomicI64::new(UNKNOWN);

/// Milliseconds since the Unix epoch, by the store's clock.
pub fn now_ms() -> u64 {
    match SHARED.load(Ordering::Relaxed) {
        UNKNOWN => wall_ms(),
        at_begin => at(at_begin, Instant::now()),
    }
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

fn since_begin(now: Instant) -> i64 {
    i64::try_from(now.saturating_duration_since(*BEGUN).as_millis()).unwrap_or(i64::MAX)
}

fn at(at_begin: i64, now: Instant) -> u64 {
    u64::try_from(at_begin.saturating_add(since_begin(now))).unwrap_or(0)
}

/// Time since boot, suspended time included.
pub fn boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A new message's id.
pub fn message_id(now_ms: u64) -> MessageId {
    MessageId::made(now_ms, chance())
}

/// Random bytes that are no secret, asked of the operating system for many ids at once.
fn chance() -> [u8; 4] {
    thread_local! {
        static DRAWN: RefCell<Vec<[u8; 4]>> = const { RefCell::new(Vec::new()) };
    }
    DRAWN.with_borrow_mut(|drawn| {
        if drawn.is_empty() {
            drawn.extend(random::<256>().as_chunks().0);
        }
        drawn.pop().unwrap_or_else(random)
    })
}

/// What a database answered when it was asked for its time.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Milliseconds since the Unix epoch.
    pub store_ms: u64,
    pub asked: Instant,
    pub answered: Instant,
}

/// How far this machine's wall clock is from the store's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Distance {
    /// Milliseconds; positive where this machine is ahead.
    pub ahead_ms: i64,
    /// What it may be wrong by.
    pub within_ms: u64,
}

impl Distance {
    /// Whether somebody should know.
    pub fn is_far(self) -> bool {
        self.ahead_ms.unsigned_abs() > FAR_MS + self.within_ms
    }
}

/// From here on [`now_ms`] is that clock's. `None`: the answer took too long, and what was known stays.
pub fn set(measured: Measured) -> Option<Distance> {
    let trip = measured.answered.saturating_duration_since(measured.asked);
    if trip > LONGEST_TRIP {
        return None;
    }
    let middle = measured.asked + trip / 2;
    let store_ms = i64::try_from(measured.store_ms).ok()?;
    SHARED.store(store_ms - since_begin(middle), Ordering::Relaxed);
    let ahead_ms = i64::try_from(wall_ms()).unwrap_or(i64::MAX) - i64::try_from(now_ms()).unwrap_or(i64::MAX);
    Some(Distance { ahead_ms, within_ms: u64::try_from(trip.as_millis() / 2).unwrap_or(u64::MAX) + 1 })
}

/// Whether the time is believed so far that messages may be removed for it: what is gone does not come back with the
/// right time. A clock that went further than the time since boot is doubted for a day.
#[derive(Debug, Default)]
pub struct Believed {
    /// Time since boot, and milliseconds since the Unix epoch.
    last: Option<(Duration, u64)>,
    doubted: Option<Duration>,
}

/// The clock is further ahead than it can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jumped {
    pub ahead_ms: u64,
    /// It is the first that is seen of it.
    pub new: bool,
}

impl Believed {
    /// # Errors
    /// [`Jumped`]: not now.
    pub fn look(&mut self, boot: Duration, now_ms: u64) -> Result<(), Jumped> {
        if let Some((then, ms)) = self.last {
            let went_ms = u64::try_from(boot.saturating_sub(then).as_millis()).unwrap_or(u64::MAX);
            let ahead_ms = now_ms.saturating_sub(ms.saturating_add(went_ms));
            if ahead_ms > PART_MS {
                let new = self.doubted.is_none();
                let since = *self.doubted.get_or_insert(boot);
                if boot.saturating_sub(since) < DOUBT {
                    return Err(Jumped { ahead_ms, new });
                }
            }
        }
        (self.last, self.doubted) = (Some((boot, now_ms)), None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const DAY_MS: u64 = 86_400_000;

    #[test]
    fn ids_of_one_millisecond_are_different() {
        let ids: HashSet<_> = (0..200).map(|_| message_id(1)).collect();
        assert_eq!(ids.len(), 200);
    }

    #[test]
    fn a_clock_that_jumps_ahead_is_doubted_for_a_day_and_no_longer() {
        let mut believed = Believed::default();
        let hours = |h: u64| Duration::from_secs(h * 3600);
        let wall = |h: u64| 1_000_000 * DAY_MS / 100 + h * 3_600_000;
        assert_eq!(believed.look(hours(1), wall(1)), Ok(()));
        assert_eq!(believed.look(hours(2), wall(2) + 60_000), Ok(()));
        let ahead_ms = 8 * DAY_MS - 60_000;
        assert_eq!(believed.look(hours(3), wall(3) + 8 * DAY_MS), Err(Jumped { ahead_ms, new: true }));
        assert_eq!(believed.look(hours(4), wall(4) + 8 * DAY_MS), Err(Jumped { ahead_ms, new: false }));
        // It was set right.
        assert_eq!(believed.look(hours(5), wall(5)), Ok(()));
        // It stays where it jumped to: that is the time, then.
        assert!(believed.look(hours(6), wall(6) + 8 * DAY_MS).is_err());
        assert!(believed.look(hours(29), wall(29) + 8 * DAY_MS).is_err());
        assert_eq!(believed.look(hours(30), wall(30) + 8 * DAY_MS), Ok(()));
        assert_eq!(believed.look(hours(31), wall(31) + 8 * DAY_MS), Ok(()));
        // Back is never a reason to remove more.
        assert_eq!(believed.look(hours(32), wall(32)), Ok(()));
        // A machine that slept is no clock that jumped.
        assert_eq!(believed.look(hours(100), wall(100)), Ok(()));
    }

    #[test]
    fn a_distance_is_far_beyond_what_its_measure_may_be_wrong_by() {
        assert!(!Distance { ahead_ms: 1500, within_ms: 600 }.is_far());
        assert!(Distance { ahead_ms: -1700, within_ms: 600 }.is_far());
        let slow = Measured { store_ms: 5, asked: *BEGUN, answered: *BEGUN + Duration::from_secs(3) };
        assert_eq!(set(slow), None, "it says too little");
    }
}
