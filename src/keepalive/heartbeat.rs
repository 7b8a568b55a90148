//! How long each network keeps an idle connection, found without the main link paying for it.
//!
//! ```text
//!   floor        good             bad        ceiling
//!     |------------|---- search ----|-----------|
//!                  ^ main link pings a little below `good`
//!                       ^ a second, throw-away connection idles here, then pings
//! ```
//!
//! The first probe asks for the ceiling, which most networks allow; each further one halves what is
//! left on a logarithmic scale. What counts as evidence is decided by the shell: a ping lost after an
//! idle time, while another connection on the same network answered.

use super::constants::{
    HEARTBEAT_CEILING, HEARTBEAT_FLOOR, HEARTBEAT_START, MAX_RECORDS, RETEST_AFTER, RETEST_AT_MOST, SEARCH_RESOLUTION,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the heartbeat must stay within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub floor: Duration,
    pub start: Duration,
    pub ceiling: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { floor: HEARTBEAT_FLOOR, start: HEARTBEAT_START, ceiling: HEARTBEAT_CEILING }
    }
}

/// What is known of one network. Times are wall-clock milliseconds, because they outlive a boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Interface kind and hashed gateway; never a name a person gave.
    pub network: String,
    /// The longest idle time that was survived, in seconds; 0 while nothing is known.
    pub good_s: f64,
    /// The shortest that was not.
    pub bad_s: Option<f64>,
    /// Probes of the present search.
    pub probes: u32,
    /// When the search ended.
    pub settled_ms: Option<u64>,
    /// Days until the settled value is doubted; doubles each time it proves right.
    pub retest_days: u32,
    /// Last use, for eviction.
    pub used_ms: u64,
}

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// It answered after the idle time.
    Survived,
    /// It did not, while the main link did.
    Lost,
    /// Something else happened: network change, sleep, server gone.
    Inconclusive,
    /// The server does not allow a second connection.
    Refused,
}

/// The search on the present network.
#[derive(Debug)]
pub struct Heartbeat {
    bounds: Bounds,
    records: Vec<Record>,
    current: Option<usize>,
    /// The server refuses side connections: the main link is stretched carefully instead.
    side_refused: bool,
}

impl Heartbeat {
    /// Takes stored records as they are found and repairs what cannot be true.
    pub fn new(bounds: Bounds, records: Vec<Record>, now_ms: u64) -> Self {
        let mut records: Vec<Record> = records.into_iter().filter_map(|record| repaired(record, now_ms)).collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.used_ms));
        let mut seen = std::collections::HashSet::new();
        records.retain(|record| seen.insert(record.network.clone()));
        records.truncate(MAX_RECORDS);
        Self { bounds, records, current: None, side_refused: false }
    }

    /// The longest heartbeat allowed from now on.
    pub fn set_ceiling(&mut self, ceiling: Duration) {
        self.bounds.ceiling = ceiling.max(self.bounds.floor);
    }

    /// For the disk.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    pub fn current(&self) -> Option<&Record> {
        self.current.map(|at| &self.records[at])
    }

    pub fn side_refused(&self) -> bool {
        self.side_refused
    }

    /// The device is on this network now.
    pub fn on_network(&mut self, network: &str, now_ms: u64) {
        let at = match self.records.iter().position(|record| record.network == network) {
            Some(at) => at,
            None => {
                if self.records.len() >= MAX_RECORDS {
                    let oldest = (0..self.records.len()).min_by_key(|at| self.records[*at].used_ms).unwrap_or(0);
                    self.records.swap_remove(oldest);
                }
                self.records.push(Record {
                    network: network.to_owned(),
                    good_s: 0.0,
                    bad_s: None,
                    probes: 0,
                    settled_ms: None,
                    retest_days: 0,
                    used_ms: now_ms,
                });
                self.records.len() - 1
            }
        };
        self.records[at].used_ms = now_ms;
        self.current = Some(at);
    }

    /// How long the main link may be idle.
    pub fn interval(&self) -> Duration {
        let Bounds { floor, start, ceiling } = self.bounds;
        let Some(record) = self.current() else { return start.clamp(floor, ceiling) };
        let seconds = if record.good_s <= 0.0 {
            match record.bad_s {
                None => start.as_secs_f64(),
                // The start value failed: nothing is known to work, so the shortest is used.
                Some(_) => floor.as_secs_f64(),
            }
        } else if self.side_refused && record.settled_ms.is_none() {
            self.careful_step(record)
        } else if record.good_s >= ceiling.as_secs_f64() {
            ceiling.as_secs_f64()
        } else {
            below(record.good_s)
        };
        Duration::from_secs_f64(seconds).clamp(floor, ceiling)
    }

    /// The idle time a side connection should test next; `None` when there is nothing to learn.
    pub fn wanted_probe(&self, now_ms: u64) -> Option<Duration> {
        let record = self.current()?;
        // The main link's own first answers come first: they cost nothing.
        if self.side_refused || (record.good_s <= 0.0 && record.bad_s.is_none()) {
            return None;
        }
        let seconds = match record.settled_ms.filter(|_| !self.open_above(record)) {
            Some(settled) => {
                let life = RETEST_AFTER.as_millis() as u64 * u64::from(record.retest_days.max(1));
                if record.good_s >= self.ceiling_s() || now_ms.saturating_sub(settled) < life {
                    return None;
                }
                record.bad_s.unwrap_or(record.good_s) * 1.2
            }
            None => match record.bad_s {
                None => self.ceiling_s(),
                Some(bad) => (self.lower(record) * bad).sqrt(),
            },
        };
        Some(Duration::from_secs_f64(seconds).clamp(self.bounds.floor, self.bounds.ceiling))
    }

    /// A probe of `tested` ended.
    pub fn on_probe(&mut self, tested: Duration, outcome: ProbeOutcome, now_ms: u64) {
        let Some(at) = self.current else { return };
        match outcome {
            ProbeOutcome::Refused => self.side_refused = true,
            ProbeOutcome::Inconclusive => {}
            ProbeOutcome::Survived | ProbeOutcome::Lost => {
                if self.open_above(&self.records[at]) {
                    self.records[at].settled_ms = None;
                }
                let record = &mut self.records[at];
                let retest = record.settled_ms.is_some();
                record.probes = if retest { 1 } else { record.probes + 1 };
                if outcome == ProbeOutcome::Survived {
                    learn_good(record, tested.as_secs_f64());
                    if retest {
                        // The limit has risen: search again above.
                        record.settled_ms = None;
                        record.retest_days = 0;
                    }
                } else if retest {
                    record.retest_days = (record.retest_days.max(1) * 2).min(RETEST_AT_MOST);
                    record.settled_ms = Some(now_ms);
                } else {
                    record.bad_s = Some(record.bad_s.unwrap_or(f64::MAX).min(tested.as_secs_f64()));
                }
                self.settle(at, now_ms);
            }
        }
    }

    /// The main link answered after being idle so long. `true` when that was news.
    pub fn on_answer_after(&mut self, idle: Duration, now_ms: u64) -> bool {
        let Some(at) = self.current else { return false };
        let known = self.records[at].good_s;
        let news = idle.as_secs_f64() > known && idle >= self.bounds.floor;
        if news && (known <= 0.0 || self.side_refused) {
            learn_good(&mut self.records[at], idle.as_secs_f64());
            self.settle(at, now_ms);
            return true;
        }
        false
    }

    /// The main link was lost by idleness alone after so long. The old knowledge is wrong then.
    ///
    /// A loss after less than the shortest heartbeat says nothing: no network is asked to cut so soon, and
    /// something else was the matter.
    pub fn on_lost_after(&mut self, idle: Duration, now_ms: u64) {
        let Some(at) = self.current.filter(|_| idle >= self.bounds.floor) else { return };
        let record = &mut self.records[at];
        let idle = idle.as_secs_f64();
        record.bad_s = Some(idle.min(record.bad_s.unwrap_or(f64::MAX)));
        if record.good_s >= idle * 0.95 {
            // It worked before and no longer does: the network has changed its mind. From the start
            // again, below what has just failed.
            let start = self.bounds.start.as_secs_f64();
            record.good_s = if start < idle * 0.8 { start } else { 0.0 };
            record.probes = 0;
            record.retest_days = 0;
        }
        record.settled_ms = None;
        self.settle(at, now_ms);
    }

    fn ceiling_s(&self) -> f64 {
        self.bounds.ceiling.as_secs_f64()
    }

    /// The ceiling was lower when this search ended, and nothing between the two is known to fail.
    fn open_above(&self, record: &Record) -> bool {
        record.bad_s.is_none() && record.good_s < self.ceiling_s()
    }

    fn lower(&self, record: &Record) -> f64 {
        record.good_s.max(self.bounds.floor.as_secs_f64())
    }

    fn careful_step(&self, record: &Record) -> f64 {
        let up = record.good_s * 1.25;
        record.bad_s.map_or(up, |bad| up.min((record.good_s * bad).sqrt()))
    }

    fn settle(&mut self, at: usize, now_ms: u64) {
        let ceiling = self.ceiling_s();
        let lower = self.lower(&self.records[at]);
        let record = &mut self.records[at];
        let done = record.good_s >= ceiling || record.bad_s.is_some_and(|bad| bad / lower <= SEARCH_RESOLUTION);
        if done && record.settled_ms.is_none() {
            // The floor is used even where nothing is known to work.
            record.good_s = record.good_s.max(lower.min(record.bad_s.unwrap_or(lower)));
            record.settled_ms = Some(now_ms);
            record.retest_days = record.retest_days.max(7);
        }
    }
}

/// A little below what was survived: the network's clock is not ours.
fn below(good_s: f64) -> f64 {
    (good_s - (good_s * 0.04).max(1.0)).max(0.0)
}

fn learn_good(record: &mut Record, seconds: f64) {
    record.good_s = record.good_s.max(seconds);
    // An older failure below it was of another cause.
    if record.bad_s.is_some_and(|bad| bad <= record.good_s) {
        record.bad_s = None;
    }
}

/// A record is kept only where it can be true: a clock set back, a torn write or another version's
/// file must not give a heartbeat of a year.
fn repaired(mut record: Record, now_ms: u64) -> Option<Record> {
    let sane = |seconds: f64| seconds.is_finite() && (0.0..=86_400.0).contains(&seconds);
    if record.network.is_empty() || record.network.len() > 128 || !sane(record.good_s) {
        return None;
    }
    if record.bad_s.is_some_and(|bad| !sane(bad) || bad <= record.good_s) {
        record.bad_s = None;
        record.settled_ms = None;
    }
    record.used_ms = record.used_ms.min(now_ms);
    record.settled_ms = record.settled_ms.map(|at| at.min(now_ms));
    record.retest_days = record.retest_days.min(RETEST_AT_MOST);
    Some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the search against a network with this idle limit, in seconds.
    fn search(limit: f64) -> (Heartbeat, u32) {
        let mut heartbeat = Heartbeat::new(Bounds::default(), Vec::new(), 0);
        heartbeat.on_network("wifi", 0);
        let start = heartbeat.interval();
        if start.as_secs_f64() < limit {
            heartbeat.on_answer_after(start, 0);
        } else {
            heartbeat.on_lost_after(start, 0);
        }
        let mut probes = 0;
        while let Some(tested) = heartbeat.wanted_probe(0) {
            probes += 1;
            assert!(probes < 20, "limit {limit} never settles");
            let outcome = if tested.as_secs_f64() < limit { ProbeOutcome::Survived } else { ProbeOutcome::Lost };
            heartbeat.on_probe(tested, outcome, 0);
        }
        (heartbeat, probes)
    }

    #[test]
    fn every_limit_is_found_within_six_probes_closely_and_never_overshot() {
        for tenths in (250..80_000).step_by(7) {
            let limit = f64::from(tenths) / 10.0;
            let (heartbeat, probes) = search(limit);
            assert!(probes <= 6, "limit {limit}: {probes} probes");
            let interval = heartbeat.interval().as_secs_f64();
            let best = limit.min(HEARTBEAT_CEILING.as_secs_f64());
            assert!(interval < limit, "limit {limit}: {interval}");
            assert!(best / interval <= 1.15, "limit {limit}: {interval}");
        }
    }

    #[test]
    fn below_the_floor_the_floor_is_used() {
        let (heartbeat, _) = search(12.0);
        assert_eq!(heartbeat.interval(), HEARTBEAT_FLOOR);
    }

    #[test]
    fn a_configured_ceiling_is_never_passed() {
        let bounds = Bounds { ceiling: Duration::from_secs(240), ..Bounds::default() };
        let mut heartbeat = Heartbeat::new(bounds, Vec::new(), 0);
        heartbeat.on_network("n", 0);
        heartbeat.on_answer_after(Duration::from_secs(45), 0);
        while let Some(tested) = heartbeat.wanted_probe(0) {
            assert!(tested <= bounds.ceiling);
            heartbeat.on_probe(tested, ProbeOutcome::Survived, 0);
        }
        assert_eq!(heartbeat.interval(), bounds.ceiling);
    }

    #[test]
    fn a_ceiling_that_is_raised_is_searched_and_one_that_is_lowered_holds_at_once() {
        let (mut heartbeat, _) = search(7200.0);
        assert_eq!(heartbeat.wanted_probe(0), None);
        heartbeat.set_ceiling(Duration::from_secs(1680));
        let mut probes = 0;
        while let Some(tested) = heartbeat.wanted_probe(0) {
            probes += 1;
            heartbeat.on_probe(
                tested,
                if tested.as_secs() < 1000 { ProbeOutcome::Survived } else { ProbeOutcome::Lost },
                0,
            );
        }
        assert!(probes <= 6 && (850..1000).contains(&heartbeat.interval().as_secs()), "{heartbeat:?}");
        heartbeat.set_ceiling(Duration::from_secs(240));
        assert_eq!(heartbeat.interval().as_secs(), 240);
    }

    #[test]
    fn a_loss_without_idleness_teaches_nothing_and_no_record_gives_a_heartbeat_below_the_floor() {
        let (mut heartbeat, _) = search(300.0);
        let before = heartbeat.current().cloned();
        heartbeat.on_lost_after(Duration::from_millis(3), 0);
        assert_eq!(heartbeat.current().cloned(), before);
        for good_s in [0.0, 0.001, 0.5, 1.0] {
            let record = Record {
                network: "n".into(),
                good_s,
                bad_s: Some(good_s + 0.001),
                probes: 0,
                settled_ms: Some(0),
                retest_days: 7,
                used_ms: 0,
            };
            let mut heartbeat = Heartbeat::new(Bounds::default(), vec![record], 0);
            heartbeat.on_network("n", 0);
            assert_eq!(heartbeat.interval(), HEARTBEAT_FLOOR);
        }
    }

    #[test]
    fn a_limit_that_falls_is_followed_from_the_start_value() {
        let (mut heartbeat, _) = search(7200.0);
        heartbeat.on_lost_after(heartbeat.interval(), 0);
        assert!(heartbeat.interval() <= HEARTBEAT_START);
        let mut probes = 0;
        while let Some(tested) = heartbeat.wanted_probe(0) {
            probes += 1;
            heartbeat.on_probe(
                tested,
                if tested.as_secs() < 300 { ProbeOutcome::Survived } else { ProbeOutcome::Lost },
                0,
            );
        }
        assert!(probes <= 6 && heartbeat.interval().as_secs() > 255 && heartbeat.interval().as_secs() < 300);
    }

    #[test]
    fn an_inconclusive_probe_teaches_nothing() {
        let (mut heartbeat, _) = search(7200.0);
        heartbeat.on_network("other", 0);
        heartbeat.on_answer_after(Duration::from_secs(45), 0);
        let before = heartbeat.current().cloned();
        heartbeat.on_probe(HEARTBEAT_CEILING, ProbeOutcome::Inconclusive, 0);
        assert_eq!(heartbeat.current().cloned(), before);
    }

    #[test]
    fn where_side_connections_are_refused_the_main_link_is_stretched_in_small_steps() {
        let mut heartbeat = Heartbeat::new(Bounds::default(), Vec::new(), 0);
        heartbeat.on_network("n", 0);
        heartbeat.on_answer_after(Duration::from_secs(45), 0);
        heartbeat.on_probe(HEARTBEAT_CEILING, ProbeOutcome::Refused, 0);
        assert_eq!(heartbeat.wanted_probe(0), None);
        let mut last = heartbeat.interval();
        for _ in 0..60 {
            let tested = heartbeat.interval();
            assert!(tested.as_secs_f64() <= last.as_secs_f64() * 1.3);
            last = tested;
            if tested.as_secs() < 300 {
                heartbeat.on_answer_after(tested, 0);
            } else {
                heartbeat.on_lost_after(tested, 0);
            }
        }
        assert!((250..300).contains(&heartbeat.interval().as_secs()), "{:?}", heartbeat.interval());
    }

    #[test]
    fn a_settled_value_is_doubted_after_a_week_and_then_ever_more_rarely() {
        const DAY: u64 = 86_400_000;
        let (mut heartbeat, _) = search(300.0);
        assert_eq!(heartbeat.wanted_probe(6 * DAY), None);
        let tested = heartbeat.wanted_probe(7 * DAY).expect("a retest");
        assert!(tested.as_secs() > 300);
        heartbeat.on_probe(tested, ProbeOutcome::Lost, 7 * DAY);
        assert_eq!(heartbeat.wanted_probe(20 * DAY), None);
        let tested = heartbeat.wanted_probe(21 * DAY).expect("another");
        heartbeat.on_probe(tested, ProbeOutcome::Survived, 21 * DAY);
        assert!(heartbeat.wanted_probe(21 * DAY).is_some(), "the limit rose: search goes on");
    }

    #[test]
    fn absurd_records_are_repaired_or_dropped_and_the_oldest_evicted() {
        let record = |network: &str, good_s: f64, bad_s: Option<f64>, used_ms: u64| Record {
            network: network.to_owned(),
            good_s,
            bad_s,
            probes: 0,
            settled_ms: Some(u64::MAX),
            retest_days: u32::MAX,
            used_ms,
        };
        let stored = vec![
            record("nan", f64::NAN, None, 1),
            record("year", 31_536_000.0, None, 1),
            record("crossed", 300.0, Some(100.0), 1),
            record("future", 300.0, Some(310.0), u64::MAX),
            record("", 1.0, None, 1),
        ];
        let mut heartbeat = Heartbeat::new(Bounds::default(), stored, 1000);
        let names: Vec<_> = heartbeat.records().iter().map(|r| r.network.as_str()).collect();
        assert_eq!(names, ["future", "crossed"]);
        assert!(heartbeat.records().iter().all(|r| r.used_ms <= 1000 && r.settled_ms.is_none_or(|at| at <= 1000)));
        for n in 0..100 {
            heartbeat.on_network(&format!("n{n}"), 2000 + n);
        }
        assert_eq!(heartbeat.records().len(), MAX_RECORDS);
        assert!(!heartbeat.records().iter().any(|r| r.network == "future"));
    }
}
