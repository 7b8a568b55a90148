//! When the deliveries are looked at next: at the earliest moment anybody has named since the last look.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// One sleeper, any number of callers. Moments are milliseconds since the Unix epoch.
#[derive(Debug)]
pub struct Alarm {
    at_ms: AtomicU64,
    /// What is due waits for vendor calls to end.
    starved: AtomicBool,
    earlier: Notify,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { at_ms: AtomicU64::new(u64::MAX), starved: AtomicBool::new(false), earlier: Notify::new() }
    }
}

impl Alarm {
    /// Something is due at that moment. Wakes the sleeper only if it would sleep longer.
    pub fn ring(&self, at_ms: u64) {
        if at_ms < self.at_ms.fetch_min(at_ms, Ordering::AcqRel) {
            self.earlier.notify_one();
        }
    }

    /// Vendor calls have ended: whatever waited for that may go.
    pub fn calls_free(&self) {
        if self.starved.swap(false, Ordering::AcqRel) {
            self.ring(0);
        }
    }

    /// The sleeper looks now; who rings from here on means something newer.
    pub fn looking(&self) {
        self.starved.store(false, Ordering::Release);
        self.at_ms.store(u64::MAX, Ordering::Release);
    }

    /// Sleeps until that moment, or an earlier one that was rung since [`Self::looking`]. `starved`: or
    /// until vendor calls are free.
    pub async fn sleep(&self, until_ms: u64, now_ms: u64, starved: bool) {
        self.starved.store(starved, Ordering::Release);
        let earliest = self.at_ms.fetch_min(until_ms, Ordering::AcqRel).min(until_ms);
        let pause = Duration::from_millis(earliest.saturating_sub(now_ms));
        tokio::select! {
            () = self.earlier.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds of the made-up clock until the sleeper wakes.
    async fn slept(alarm: &Alarm, until_ms: u64, starved: bool, rung: impl FnOnce()) -> u128 {
        let started = tokio::time::Instant::now();
        let sleeping = alarm.sleep(until_ms, 0, starved);
        tokio::pin!(sleeping);
        let first = tokio::time::timeout(Duration::from_millis(1), &mut sleeping).await;
        if first.is_err() {
            rung();
            sleeping.await;
        }
        started.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn the_sleeper_wakes_for_an_earlier_moment_and_no_later_one() {
        let alarm = Alarm::default();
        alarm.looking();
        assert_eq!(slept(&alarm, 1000, false, || alarm.ring(2000)).await, 1000);
        alarm.looking();
        assert_eq!(slept(&alarm, 1000, false, || alarm.ring(0)).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_rung_while_it_looked_is_not_missed() {
        let alarm = Alarm::default();
        alarm.looking();
        alarm.ring(400);
        // The ring itself wakes it once; it then sleeps until the moment.
        assert_eq!(slept(&alarm, 1000, false, || ()).await, 0);
        assert_eq!(slept(&alarm, 1000, false, || ()).await, 400);
    }

    #[tokio::test(start_paused = true)]
    async fn free_calls_wake_only_who_waits_for_them() {
        let alarm = Alarm::default();
        alarm.looking();
        assert_eq!(slept(&alarm, 1000, false, || alarm.calls_free()).await, 1000);
        alarm.looking();
        assert_eq!(slept(&alarm, 1000, true, || alarm.calls_free()).await, 1);
    }
}
