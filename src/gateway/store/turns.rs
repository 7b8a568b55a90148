//! Whose job is next: apps take turns by what their jobs cost, so that one app's call to thousands does not keep
//! another's single message waiting.
//!
//! Deficit round robin with new flows first, as FQ-CoDel has it (RFC 8290, section 4): an app that had nothing to do is
//! served before those that always have, and then waits for its turn as they do.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// An app's jobs; `None`: the gateway's own.
pub(super) type Flow = Option<Arc<str>>;

/// Most receivers of a job, and what an app may do in one turn. One receiver costs 1.
pub const SLICE: usize = 32;
/// A transaction takes no further job after this: what is in it would wait for too long.
const LONGEST: Duration = Duration::from_millis(25);
/// The same where other apps' jobs come too: one that comes waits for the commit of all that was done before.
const AMONG_APPS: Duration = Duration::from_millis(2);
/// The same once jobs of two apps are in it.
const MIXED: Duration = Duration::from_millis(1);
/// The same once a large job is in it.
const WITH_LARGE: Duration = Duration::from_micros(500);
/// The same of what others need not wait for: a connection's transaction of large jobs, beside those of small ones.
const APART: Duration = Duration::from_millis(250);
/// After a transaction with large jobs the next of them rest for as long as it took, and for no longer than this, where there is a
/// second app and one had a small job of its own within [`LATELY`].
const LONGEST_REST: Duration = Duration::from_millis(25);
/// Whoever has sent to a single user so lately may do so again.
const LATELY: Duration = Duration::from_secs(1);
/// After so long without jobs of a second app one is taken to be alone.
const ALONE: Duration = Duration::from_secs(60);
/// Most jobs of one transaction.
const BATCH: usize = 256;

/// Jobs that wait, by their apps.
pub(super) struct Turns<T> {
    flows: HashMap<Flow, Waiting<T>>,
    /// Those that had nothing to do until now.
    fresh: VecDeque<Flow>,
    /// The others; one that has nothing more to do leaves when its turn comes.
    old: VecDeque<Flow>,
    cost: usize,
}

struct Waiting<T> {
    jobs: VecDeque<(usize, T)>,
    /// What it may still do in this turn.
    credit: i64,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { flows: HashMap::new(), fresh: VecDeque::new(), old: VecDeque::new(), cost: 0 }
    }
}

fn credit(cost: usize) -> i64 {
    i64::try_from(cost).unwrap_or(i64::MAX)
}

impl<T> Turns<T> {
    pub fn push(&mut self, flow: Flow, cost: usize, job: T) {
        let waiting = self.flows.entry(flow.clone()).or_insert_with(|| {
            self.fresh.push_back(flow);
            Waiting { jobs: VecDeque::new(), credit: credit(SLICE) }
        });
        waiting.jobs.push_back((cost, job));
        self.cost += cost;
    }

    /// The next job of a cost that fits, and whose it is. An app whose first one does not keeps its turn.
    pub fn next(&mut self, fits: impl Fn(&Flow, usize) -> bool) -> Option<(Flow, T)> {
        if !self.has(&fits) {
            if self.cost == 0 {
                *self = Self::default();
            }
            return None;
        }
        let mut passed = [VecDeque::new(), VecDeque::new()];
        let next = self.next_of(&fits, &mut passed);
        let [fresh, old] = passed;
        for (list, passed) in [(&mut self.fresh, fresh), (&mut self.old, old)] {
            passed.into_iter().rev().for_each(|flow| list.push_front(flow));
        }
        next
    }

    fn next_of(&mut self, fits: impl Fn(&Flow, usize) -> bool, passed: &mut [VecDeque<Flow>; 2]) -> Option<(Flow, T)> {
        loop {
            let is_fresh = !self.fresh.is_empty();
            let flow = if is_fresh { self.fresh.pop_front() } else { self.old.pop_front() }?;
            let Some(waiting) = self.flows.get_mut(&flow) else { continue };
            if waiting.jobs.front().is_some_and(|(cost, _)| !fits(&flow, *cost)) {
                passed[usize::from(!is_fresh)].push_back(flow);
                continue;
            }
            if waiting.credit <= 0 {
                waiting.credit += credit(SLICE);
                self.old.push_back(flow);
                continue;
            }
            let Some((cost, job)) = waiting.jobs.pop_front() else {
                if is_fresh {
                    // Else one that always has one job would always be first.
                    self.old.push_back(flow);
                } else {
                    self.flows.remove(&flow);
                }
                continue;
            };
            waiting.credit -= credit(cost);
            self.cost -= cost;
            let list = if is_fresh { &mut self.fresh } else { &mut self.old };
            list.push_front(flow.clone());
            return Some((flow, job));
        }
    }

    /// Whether there is one that fits, and is its app's first.
    pub fn has(&self, fits: impl Fn(&Flow, usize) -> bool) -> bool {
        self.flows.iter().any(|(flow, waiting)| waiting.jobs.front().is_some_and(|(cost, _)| fits(flow, *cost)))
    }

    /// Whether this app has any.
    pub fn has_any_of(&self, flow: &Flow) -> bool {
        self.flows.get(flow).is_some_and(|waiting| !waiting.jobs.is_empty())
    }

    /// What all jobs that wait cost.
    pub const fn cost(&self) -> usize {
        self.cost
    }
}

/// How large transactions are, and how long large jobs rest, by who has had jobs lately. Moments are counted from whenever the
/// caller began to.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The last one's app.
    app: Flow,
    /// When that was last another one than before.
    changed: Option<Duration>,
    /// There was a large one in the last transaction.
    had_large: bool,
    /// Whose the last large one was.
    large: Flow,
    /// When another app last had a small one: those of the same one are its own, as devices acknowledge what it sent.
    had_small: Option<Duration>,
    /// Large ones rest until then.
    rests_until: Duration,
}

impl Pace {
    fn add(&mut self, flow: &Flow, now: Duration) {
        if flow.is_some() && self.app != *flow {
            if self.app.is_some() {
                self.changed = Some(now);
            }
            self.app.clone_from(flow);
        }
    }

    /// Whether another app than the last one had jobs lately.
    pub fn is_among_apps(&self, now: Duration) -> bool {
        self.changed.is_some_and(|changed| now.saturating_sub(changed) < ALONE)
    }

    /// A transaction that began at that moment is over. A thread that did nothing but one app's large jobs would always be in the
    /// midst of one when another app's message to one user comes.
    pub fn over(&mut self, began: Duration, now: Duration) {
        let is_waited_for = self.had_small.is_some_and(|had| now.saturating_sub(had) < LATELY);
        if self.had_large && is_waited_for && self.is_among_apps(now) {
            self.rests_until = now + now.saturating_sub(began).min(LONGEST_REST);
        }
    }

    /// How long large jobs are still to rest.
    pub fn rest(&self, now: Duration) -> Duration {
        self.rests_until.saturating_sub(now)
    }

    /// The next transaction; `apart`: others carry small jobs out beside it.
    pub fn group(&mut self, apart: bool, now: Duration) -> Group<'_> {
        let (longest, mixed) = match (apart, self.is_among_apps(now)) {
            (true, _) => (APART, APART),
            (false, true) => (AMONG_APPS, MIXED),
            (false, false) => (LONGEST, MIXED),
        };
        let follows_large = std::mem::take(&mut self.had_large);
        Group {
            pace: self,
            began: now,
            longest,
            mixed,
            jobs: 0,
            app: None,
            follows_large,
            has_small: false,
            is_mixed: false,
            is_closed: false,
        }
    }
}

/// What is in a transaction.
pub(super) struct Group<'a> {
    pace: &'a mut Pace,
    began: Duration,
    longest: Duration,
    /// The same with jobs of two apps.
    mixed: Duration,
    jobs: usize,
    app: Flow,
    /// There was a large one in the transaction before.
    follows_large: bool,
    /// One of an app's is of few receivers.
    has_small: bool,
    /// Jobs of two apps are in it.
    is_mixed: bool,
    is_closed: bool,
}

/// A job that is taken into a transaction.
pub(super) struct Taken {
    pub flow: Flow,
    /// Of few receivers.
    pub small: bool,
    /// Nothing else goes with it.
    pub alone: bool,
}

impl Group<'_> {
    pub fn add(&mut self, Taken { flow, small, alone }: Taken, now: Duration) {
        self.jobs += 1;
        self.is_closed |= alone;
        self.pace.add(&flow, now);
        if flow.is_some() {
            if self.app.is_some() && self.app != flow {
                self.longest = self.longest.min(self.mixed);
                self.is_mixed = true;
            }
            if small {
                self.has_small = true;
                if self.pace.large != flow {
                    self.pace.had_small = Some(now);
                }
            } else {
                self.pace.had_large = true;
                self.pace.large.clone_from(&flow);
                if self.longest < LONGEST {
                    self.longest = WITH_LARGE;
                }
            }
            self.app = flow;
        }
    }

    pub const fn is_empty(&self) -> bool {
        self.jobs == 0
    }

    /// Whether a job of this app goes with what is in it: another app's of few receivers waits for none of many, unless those
    /// were left out of the last transaction too.
    pub fn has_room_for(&self, flow: &Flow, small: bool) -> bool {
        let goes_with_all = !self.is_mixed && (self.app == *flow || !self.follows_large);
        small || !self.has_small || !self.is_among_apps() || goes_with_all
    }

    /// Whether other apps may wait for it.
    pub fn is_among_apps(&self) -> bool {
        self.longest < LONGEST
    }

    /// Whether it is to be committed now.
    pub fn is_full(&self, now: Duration) -> bool {
        let lasted = now.saturating_sub(self.began);
        self.is_closed || self.jobs >= BATCH || (self.jobs > 0 && lasted >= self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> Flow {
        Some(name.into())
    }

    fn job(flow: Flow, alone: bool) -> Taken {
        Taken { flow, small: false, alone }
    }

    fn flows(turns: &mut Turns<usize>, most: usize) -> String {
        let name = |flow: Flow| flow.map_or_else(|| "-".to_owned(), |app| app.to_string());
        std::iter::from_fn(|| turns.next(|_, _| true)).take(most).map(|(flow, _)| name(flow)).collect()
    }

    #[test]
    fn a_single_message_is_next_though_thousands_of_another_app_wait() {
        let mut turns = Turns::default();
        (0..100).for_each(|n| turns.push(app("a"), SLICE, n));
        assert_eq!(flows(&mut turns, 3), "aaa");
        turns.push(app("b"), 1, 0);
        turns.push(None, 1, 0);
        assert_eq!(flows(&mut turns, 4), "b-aa");
        assert_eq!(turns.cost(), 95 * SLICE);
    }

    #[test]
    fn apps_that_always_have_work_get_equal_shares_whatever_their_jobs_sizes() {
        let mut turns = Turns::default();
        (0..1000).for_each(|n| turns.push(app("a"), SLICE, n));
        (0..100_000).for_each(|n| turns.push(app("b"), 1, n));
        (0..1000).for_each(|n| turns.push(app("c"), 1000, n));
        let mut served = HashMap::new();
        for _ in 0..10_000 {
            let (flow, _) = turns.next(|_, _| true).expect("work");
            let cost = [("a", SLICE), ("b", 1), ("c", 1000)].into_iter().find(|(name, _)| flow == app(name));
            *served.entry(flow).or_insert(0) += cost.expect("known").1;
        }
        let most = served.values().max().expect("some");
        // By a turn, or by the largest job.
        assert!(served.len() == 3 && served.values().all(|cost| most - cost <= 1000), "{served:?}");
    }

    #[test]
    fn an_app_that_always_has_one_job_is_not_always_first() {
        let mut turns = Turns::default();
        (0..100).for_each(|n| turns.push(app("a"), SLICE, n));
        let mut taken = String::new();
        for n in 0..20 {
            turns.push(app("b"), SLICE, n);
            taken += &flows(&mut turns, 2);
        }
        assert_eq!(taken.matches('a').count(), 20, "{taken}");
    }

    #[test]
    fn an_app_whose_next_job_is_too_large_is_passed_over_and_keeps_its_turn() {
        let mut turns = Turns::default();
        turns.push(app("a"), SLICE, 0);
        turns.push(app("a"), 1, 1);
        turns.push(app("b"), 1, 2);
        turns.push(app("b"), 1, 3);
        assert_eq!(turns.next(|_, cost| cost <= 1), Some((app("b"), 2)));
        assert_eq!(turns.next(|_, _| true), Some((app("a"), 0)));
        assert!(turns.has(|_, cost| cost <= 1));
        assert_eq!(
            (turns.next(|_, cost| cost <= 1), turns.next(|_, cost| cost <= 1)),
            (Some((app("b"), 3)), Some((app("a"), 1)))
        );
        assert_eq!((turns.has(|_, _| true), turns.next(|_, _| true)), (false, None));
    }

    #[test]
    fn one_apps_jobs_keep_their_order_and_nothing_is_lost() {
        let mut turns = Turns::default();
        for n in 0..300 {
            turns.push(app(["a", "b", "c"][n % 3]), 1 + n % 100, n);
        }
        let mut last = HashMap::new();
        let mut count = 0;
        while let Some((flow, n)) = turns.next(|_, _| true) {
            assert!(last.insert(flow, n).is_none_or(|before| before < n));
            count += 1;
        }
        assert_eq!((count, turns.cost(), turns.flows.len()), (300, 0, 0), "an app without work is forgotten");
    }

    #[test]
    fn a_transaction_ends_soon_once_a_second_app_is_in_it() {
        let (mut pace, ms) = (Pace::default(), Duration::from_millis);
        let mut group = pace.group(false, ms(1000));
        assert!(!group.is_full(ms(1100)), "there is nothing to commit");
        group.add(job(app("a"), false), ms(1000));
        group.add(job(None, false), ms(1000));
        assert!(!group.is_full(ms(1024)) && group.is_full(ms(1025)));
        group.add(job(app("b"), false), ms(1012));
        assert!(group.is_full(ms(1012)));
        let mut group = pace.group(true, ms(2000));
        group.add(job(app("a"), false), ms(2000));
        group.add(job(app("b"), false), ms(2100));
        assert!(!group.is_full(ms(2249)) && group.is_full(ms(2250)), "others carry small jobs out beside it");
    }

    #[test]
    fn one_apps_small_job_waits_for_no_further_large_one_of_another_app() {
        let ms = Duration::from_millis;
        let small = |flow| Taken { small: true, ..job(flow, false) };
        // Whether a large one of each of two apps follows.
        let follow = |jobs: Vec<Taken>| {
            let mut pace = Pace::default();
            pace.group(false, ms(0)).add(job(app("a"), false), ms(0));
            pace.group(false, ms(0)).add(job(app("b"), false), ms(0));
            let mut group = pace.group(false, ms(1));
            jobs.into_iter().for_each(|job| group.add(job, ms(1)));
            assert!(group.has_room_for(&app("a"), true) && group.has_room_for(&None, true));
            [app("a"), app("b")].map(|app| group.has_room_for(&app, false))
        };
        let large = |name| job(app(name), false);
        assert_eq!(follow(vec![]), [true, true]);
        assert_eq!(follow(vec![large("a"), large("b")]), [true, true], "each of them has much to do");
        assert_eq!(follow(vec![large("a"), small(None)]), [true, true], "nobody waits for the gateway's own");
        assert_eq!(follow(vec![small(app("b"))]), [false, true]);
        assert_eq!(follow(vec![large("b"), small(app("b"))]), [false, true], "its own");
        assert_eq!(follow(vec![large("a"), small(app("b"))]), [false, false]);
        let mut pace = Pace::default();
        let mut alone = pace.group(false, ms(0));
        alone.add(small(app("a")), ms(0));
        assert!(alone.has_room_for(&app("b"), false), "it is the first in a while");
    }

    #[test]
    fn an_app_whose_large_jobs_are_passed_over_has_its_turn_in_the_next_transaction() {
        let mut turns = Turns::default();
        (0..100).for_each(|n| turns.push(app("a"), SLICE, n));
        let mut pace = Pace::default();
        let mut taken = Vec::new();
        for n in 0..40 {
            turns.push(app("b"), 1, n);
            let mut group = pace.group(false, Duration::ZERO);
            let mut jobs = String::new();
            while let Some((flow, _)) = turns.next(|flow, cost| group.has_room_for(flow, cost < SLICE)) {
                let small = flow == app("b");
                jobs.push(if small { 'b' } else { 'a' });
                group.add(Taken { flow, small, alone: false }, Duration::ZERO);
            }
            taken.push(jobs);
        }
        assert!(taken.windows(2).all(|two| two.concat().contains('a')), "{taken:?}");
        assert_eq!(taken.concat().matches('b').count(), 40, "none waits for the next: {taken:?}");
        assert!(taken.iter().all(|jobs| jobs.len() < 3), "{taken:?}");
    }

    #[test]
    fn an_app_that_is_not_alone_has_shorter_transactions_until_it_is_alone_again() {
        let (mut pace, ms) = (Pace::default(), Duration::from_millis);
        pace.group(false, ms(0)).add(job(app("a"), false), ms(0));
        pace.group(false, ms(10)).add(job(app("b"), false), ms(10));
        let mut group = pace.group(false, ms(20));
        group.add(job(app("b"), false), ms(20));
        assert!(group.is_full(ms(21)), "a large one is in it");
        let small = Taken { small: true, ..job(app("b"), false) };
        let mut group = pace.group(false, ms(20));
        group.add(small, ms(20));
        assert!(!group.is_full(ms(21)) && group.is_full(ms(22)));
        let mut group = pace.group(false, ms(61_000));
        group.add(job(app("b"), false), ms(61_000));
        assert!(!group.is_full(ms(61_024)) && group.is_full(ms(61_025)));
    }

    #[test]
    fn large_jobs_rest_as_long_as_they_took_while_another_app_sends_to_single_users() {
        let ms = Duration::from_millis;
        let large = |pace: &mut Pace, began| {
            pace.group(false, ms(began)).add(job(app("a"), false), ms(began));
            pace.over(ms(began), ms(began + 3));
            pace.rest(ms(began + 3))
        };
        let small = |pace: &mut Pace, began| {
            pace.group(false, ms(began)).add(Taken { small: true, ..job(app("b"), false) }, ms(began));
            pace.over(ms(began), ms(began + 1));
        };
        let mut pace = Pace::default();
        assert_eq!(large(&mut pace, 0), ms(0), "it is alone");
        small(&mut pace, 10);
        assert_eq!(large(&mut pace, 20), ms(3));
        small(&mut pace, 24);
        assert_eq!(
            (pace.rest(ms(25)), pace.rest(ms(27))),
            (ms(1), ms(0)),
            "a small one neither ends the rest nor begins it anew"
        );
        assert_eq!(large(&mut pace, 1100), ms(0), "nobody has sent to a single user lately");
        pace.group(false, ms(1200)).add(job(app("c"), false), ms(1200));
        pace.over(ms(1200), ms(1203));
        assert_eq!(pace.rest(ms(1203)), ms(0), "nor does another app's large one need it");
        pace.group(false, ms(1205)).add(Taken { small: true, ..job(app("c"), false) }, ms(1205));
        assert_eq!(large(&mut pace, 1210), ms(0), "nor its own small ones");
        small(&mut pace, 1300);
        pace.group(false, ms(1400)).add(job(app("a"), false), ms(1400));
        pace.over(ms(1400), ms(2000));
        assert_eq!(pace.rest(ms(2000)), LONGEST_REST);
    }

    #[test]
    fn a_transaction_holds_no_more_jobs_than_it_may_and_nothing_goes_with_what_is_alone() {
        let (mut pace, now) = (Pace::default(), Duration::ZERO);
        let mut group = pace.group(false, now);
        (0..BATCH).for_each(|_| group.add(job(app("a"), false), now));
        assert!(group.is_full(now));
        let mut group = pace.group(false, now);
        group.add(job(None, true), now);
        assert!(group.is_full(now));
    }
}
