//! How much a device may say: words and bytes a second. Who says more is not refused, it is read more slowly.

use std::time::Duration;

/// Words a second over time, and how many may come at once: a device that comes back acknowledges what it missed.
const WORDS: f64 = 50.0;
const WORDS_AT_ONCE: f64 = 600.0;
/// Bytes a second over time, and at once: one packet of the largest size is read whole.
const BYTES: f64 = 64.0 * 1024.0;
const BYTES_AT_ONCE: f64 = 512.0 * 1024.0;

/// Two buckets that fill with time.
#[derive(Debug)]
pub(super) struct Rate {
    words: f64,
    bytes: f64,
    at: Duration,
}

impl Rate {
    pub const fn new(now: Duration) -> Self {
        Self { words: WORDS_AT_ONCE, bytes: BYTES_AT_ONCE, at: now }
    }

    /// Takes a word of so many bytes, and says how long nothing more is to be read.
    pub fn take(&mut self, bytes: usize, now: Duration) -> Option<Duration> {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let bytes = u32::try_from(bytes).map_or(f64::MAX, f64::from);
        self.words = WORDS.mul_add(passed, self.words).min(WORDS_AT_ONCE) - 1.0;
        self.bytes = BYTES.mul_add(passed, self.bytes).min(BYTES_AT_ONCE) - bytes;
        let owed = (-self.words / WORDS).max(-self.bytes / BYTES);
        (owed > 0.0).then(|| Duration::from_secs_f64(owed.min(60.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_comes_back_is_not_slowed_and_a_flood_is_read_at_fifty_words_a_second() {
        let mut rate = Rate::new(Duration::ZERO);
        assert!((0..600).all(|_| rate.take(100, Duration::ZERO).is_none()));
        let mut now = Duration::ZERO;
        for _ in 0..500 {
            now += rate.take(100, now).unwrap_or_default();
        }
        assert!((Duration::from_secs(9)..Duration::from_secs(11)).contains(&now), "{now:?}");
        assert_eq!(rate.take(100, now + Duration::from_secs(60)), None, "it was quiet for long enough");
    }

    #[test]
    fn large_words_count_by_their_bytes() {
        let mut rate = Rate::new(Duration::ZERO);
        assert!((0..8).all(|_| rate.take(64 * 1024, Duration::ZERO).is_none()));
        assert_eq!(rate.take(64 * 1024, Duration::ZERO), Some(Duration::from_secs(1)));
    }
}
