//! Answers kept to their time to live, and for a while longer where nobody answers (RFC 8767). A value.

use std::net::IpAddr;
use std::time::Duration;

/// Most names that are kept; the oldest answer makes room.
const MAX_NAMES: usize = 16;
/// An answer is kept at least so long: the ways of one attempt ask for the same name at the same moment.
const FLOOR: Duration = Duration::from_secs(1);
/// An answer is kept at most so long, whatever it says: a server that moves is found within an hour.
const CEILING: Duration = Duration::from_secs(3600);
/// An expired answer may be used so long while nobody answers (RFC 8767, section 5: one to three days).
const STALE: Duration = Duration::from_secs(86_400);

/// What is kept of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub addresses: Vec<IpAddr>,
    /// Who answered.
    pub source: String,
}

#[derive(Debug)]
struct Entry {
    host: String,
    kept: Kept,
    asked: Duration,
    fresh_until: Duration,
}

/// `now` is the time since boot, sleep included.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: Vec<Entry>,
}

impl Cache {
    pub fn keep(&mut self, now: Duration, host: &str, kept: Kept, ttl: Duration) {
        self.forget(host);
        if self.entries.len() >= MAX_NAMES
            && let Some(oldest) = (0..self.entries.len()).min_by_key(|at| self.entries[*at].asked)
        {
            self.entries.swap_remove(oldest);
        }
        let fresh_until = now + ttl.clamp(FLOOR, CEILING);
        self.entries.push(Entry { host: host.to_owned(), kept, asked: now, fresh_until });
    }

    /// Whoever is to know says that there is no such name.
    pub fn forget(&mut self, host: &str) {
        self.entries.retain(|entry| entry.host != host);
    }

    /// No answer is fresh any more: another network may answer differently, or none of the addresses served.
    pub fn expire(&mut self, now: Duration) {
        for entry in &mut self.entries {
            entry.fresh_until = entry.fresh_until.min(now);
        }
    }

    pub fn fresh(&self, now: Duration, host: &str) -> Option<Kept> {
        self.entries.iter().find(|entry| entry.host == host && now < entry.fresh_until).map(|entry| entry.kept.clone())
    }

    /// What was known last, fresh or not.
    pub fn stale(&self, now: Duration, host: &str) -> Option<Kept> {
        let usable = |entry: &&Entry| entry.host == host && now < entry.fresh_until + STALE;
        self.entries.iter().find(usable).map(|entry| entry.kept.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(last: u8) -> Kept {
        Kept { addresses: vec![IpAddr::from([192, 0, 2, last])], source: "netd".into() }
    }

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn an_answer_is_fresh_to_its_time_to_live_and_usable_a_day_longer() {
        let mut cache = Cache::default();
        cache.keep(seconds(100), "a", kept(1), seconds(60));
        assert_eq!(cache.fresh(seconds(159), "a"), Some(kept(1)));
        assert_eq!(cache.fresh(seconds(160), "a"), None);
        assert_eq!(cache.stale(seconds(160 + 86_399), "a"), Some(kept(1)));
        assert_eq!(cache.stale(seconds(160 + 86_400), "a"), None);
        assert_eq!(cache.stale(seconds(100), "b"), None);
    }

    #[test]
    fn the_time_to_live_has_a_floor_and_a_ceiling() {
        let mut cache = Cache::default();
        cache.keep(seconds(0), "none", kept(1), seconds(0));
        cache.keep(seconds(0), "long", kept(2), seconds(u64::from(u32::MAX)));
        assert!(cache.fresh(Duration::from_millis(999), "none").is_some() && cache.fresh(FLOOR, "none").is_none());
        assert!(cache.fresh(seconds(3599), "long").is_some() && cache.fresh(CEILING, "long").is_none());
    }

    #[test]
    fn another_network_ends_the_freshness_and_a_denial_the_answer() {
        let mut cache = Cache::default();
        cache.keep(seconds(0), "a", kept(1), seconds(60));
        cache.expire(seconds(5));
        assert_eq!((cache.fresh(seconds(5), "a"), cache.stale(seconds(5), "a")), (None, Some(kept(1))));
        cache.forget("a");
        assert_eq!(cache.stale(seconds(5), "a"), None);
    }

    #[test]
    fn few_names_are_kept_and_the_oldest_makes_room() {
        let mut cache = Cache::default();
        for at in 0..=16 {
            cache.keep(seconds(at), &at.to_string(), kept(1), seconds(600));
        }
        assert_eq!(cache.entries.len(), MAX_NAMES);
        assert!(cache.fresh(seconds(17), "0").is_none() && cache.fresh(seconds(17), "1").is_some());
        cache.keep(seconds(18), "1", kept(2), seconds(600));
        assert_eq!((cache.entries.len(), cache.fresh(seconds(19), "1")), (MAX_NAMES, Some(kept(2))));
    }
}
