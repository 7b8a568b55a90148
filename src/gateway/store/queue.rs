//! The way of jobs to the store's threads: a bounded number of each app's waits, and they are taken by turns. A small job of
//! a user that one thread is at is left to that thread: another would only wait for it.

use super::hands::{Hands, Mark};
use super::turns::{Flow, SLICE, Turns};
use super::{Job, StoreError};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Jobs of one app that wait; its callers beyond that wait themselves, and nobody else's.
const EACH: usize = 256;
/// Apps that are remembered before those without work are forgotten.
const APPS: usize = 64;
/// A job of more receivers is large: half of the threads, where there are several, carry none out.
pub(super) const SMALL: usize = 8;
/// From so many jobs in one transaction on, the next one waits a moment for more: each costs a write to the disk, however
/// many it carries.
const BUSY: usize = 8;
const GATHER: Duration = Duration::from_millis(2);
/// Receivers for whom no more are waited for.
const ENOUGH: usize = 128;
/// While more receivers wait than one app has places for, and small jobs beside them, no large one rests.
const CROWDED: usize = EACH * (SLICE + SMALL);

/// Which jobs are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Any,
    Small,
    Large,
}

/// A job and its app's place for it.
type Placed = (Box<Job>, OwnedSemaphorePermit);

/// A job that is left to a thread, and what that has in hand with it.
type Left = (Placed, Vec<Mark>);

/// What is left to one thread.
#[derive(Default)]
struct Own {
    turns: Turns<Left>,
    /// What it has cost lately, less what has been taken of the rest meanwhile; a turn at most.
    ahead: usize,
}

struct State {
    turns: Turns<Placed>,
    hands: Hands,
    /// By the numbers of the threads that they are left to.
    left: Vec<Own>,
    threads: usize,
    /// Threads that carry large jobs out.
    large: usize,
    /// Threads may wait that nobody has woken since: a call into the kernel for each job would be for nothing while all are
    /// at work.
    is_idle: bool,
    is_closed: bool,
}

impl State {
    /// Which jobs a thread may take of those that are looked for.
    fn fits(&self, size: Size, has_large: bool) -> impl Fn(&Flow, usize) -> bool + use<> {
        let may_large = has_large || self.large < (self.threads / 2).max(1);
        move |_: &Flow, cost| match (cost > SMALL, size) {
            (true, Size::Any | Size::Large) => may_large,
            (false, Size::Any | Size::Small) => true,
            _ => false,
        }
    }

    /// Whether there is any for this thread.
    fn has(&self, thread: usize, size: Size, has_large: bool) -> bool {
        let fits = self.fits(size, has_large);
        self.left[thread].turns.has(&fits) || self.turns.has(fits)
    }

    /// The next for this thread, and what it has in hand with it. What is left to it and the rest take turns: one app that has much
    /// for one user would else keep all others from that thread.
    fn next(&mut self, thread: usize, fits: impl Fn(&Flow, usize) -> bool) -> Option<Left> {
        let own = &self.left[thread];
        if own.ahead < SLICE || !own.turns.has(&fits) {
            return self.left_to(thread, &fits).or_else(|| self.any(thread, &fits));
        }
        self.any(thread, &fits).or_else(|| self.left_to(thread, &fits))
    }

    fn left_to(&mut self, thread: usize, fits: impl Fn(&Flow, usize) -> bool) -> Option<Left> {
        let own = &mut self.left[thread];
        let Some((_, left)) = own.turns.next(fits) else {
            own.ahead = 0;
            return None;
        };
        own.ahead = (own.ahead + left.0.0.cost()).min(SLICE);
        Some(left)
    }

    fn any(&mut self, thread: usize, fits: impl Fn(&Flow, usize) -> bool) -> Option<Left> {
        loop {
            let (flow, placed) = self.turns.next(&fits)?;
            let cost = placed.0.cost();
            // What is of many would be left to one thread with nearly all that there is.
            let (at, marks) = match self.threads < 2 || placed.0.users.len() > SMALL {
                true => (thread, Vec::new()),
                false => self.hands.take(&placed.0.users, thread),
            };
            let own = &mut self.left[at];
            // Nothing of a user overtakes what is left of the same one.
            if at == thread && (marks.is_empty() || !own.turns.has_any_of(&flow)) {
                own.ahead = own.ahead.saturating_sub(cost);
                return Some((placed, marks));
            }
            own.turns.push(flow, cost, (placed, marks));
        }
    }

    /// What is left to this thread is anybody's again, and so are the users that it has in hand.
    fn let_go(&mut self, thread: usize, marks: impl Iterator<Item = Mark>) {
        self.hands.done(marks);
        while let Some((flow, (placed, marks))) = self.left[thread].turns.next(|_, _| true) {
            self.hands.done(marks.into_iter());
            self.turns.push(flow, placed.0.cost(), placed);
        }
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    places: Mutex<HashMap<Flow, Arc<Semaphore>>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where jobs are handed in; clones share it, and threads end once all are gone.
#[derive(Clone)]
pub(super) struct Entrance(Arc<Open>);

struct Open(Arc<Shared>);

impl std::fmt::Debug for Entrance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entrance").finish_non_exhaustive()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.state().is_closed = true;
        self.0.changed.notify_all();
    }
}

impl Entrance {
    /// Puts it in a box at once, which is all of it that whoever waits holds.
    ///
    /// # Errors
    /// [`StoreError::Closed`]: no thread is left.
    pub fn send(&self, job: Job) -> impl Future<Output = Result<(), StoreError>> {
        let (shared, job) = (&self.0.0, Box::new(job));
        let place = self.places(&job.flow).acquire_owned();
        async move {
            let place = place.await.map_err(|_| StoreError::Closed)?;
            let mut state = shared.state();
            if state.is_closed {
                return Err(StoreError::Closed);
            }
            state.turns.push(job.flow.clone(), job.cost(), (job, place));
            let is_idle = std::mem::take(&mut state.is_idle);
            drop(state);
            if is_idle {
                // One alone may be none of those that may take it.
                shared.changed.notify_all();
            }
            Ok(())
        }
    }

    fn places(&self, flow: &Flow) -> Arc<Semaphore> {
        let mut places = self.0.0.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() > APPS {
            // A job that waits, and who waits for a place, holds its app's.
            places.retain(|_, places| Arc::strong_count(places) > 1);
        }
        places.entry(flow.clone()).or_insert_with(|| Arc::new(Semaphore::new(EACH))).clone()
    }
}

/// Where one thread takes them.
pub(super) struct Queue {
    shared: Arc<Shared>,
    number: usize,
    /// It has taken a large one since it last waited.
    has_large: bool,
    /// Of those that it has taken since then.
    marks: Vec<Mark>,
}

impl Queue {
    /// For another thread.
    pub fn another(&self) -> Self {
        let mut state = self.shared.state();
        state.threads += 1;
        state.left.push(Own::default());
        Self { shared: self.shared.clone(), number: state.left.len() - 1, has_large: false, marks: Vec::new() }
    }

    /// What was taken is done: waits for a job that this thread may take; `false` when there will be none.
    pub fn wait(&mut self) -> bool {
        self.wait_for(Duration::ZERO).is_some()
    }

    /// The same, but for so long only for a small one; of which size jobs are then to be taken.
    fn wait_for(&mut self, rest: Duration) -> Option<Size> {
        let over = Instant::now() + rest;
        let mut state = self.shared.state();
        state.hands.done(self.marks.drain(..));
        if std::mem::take(&mut self.has_large) {
            state.large -= 1;
            self.shared.changed.notify_all();
        }
        loop {
            let may_rest = !rest.is_zero() && !state.is_closed && state.turns.cost() <= CROWDED;
            let left = if may_rest { over.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            let size = if left.is_zero() { Size::Any } else { Size::Small };
            if state.has(self.number, size, false) {
                return Some(size);
            }
            if state.is_closed {
                return None;
            }
            state.is_idle = true;
            state = match size {
                Size::Small => self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                _ => self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// The same where large jobs rest for so long, and with a moment more if there is much to do; small ones that come meanwhile are
    /// not to wait. `last`: how many jobs the transaction before had. Of which size jobs are then to be taken; `None` when there
    /// will be none.
    #[allow(clippy::disallowed_methods, reason = "a thread of the store has nothing else to do than to wait for jobs")]
    pub fn wait_for_more(&mut self, last: usize, rest: Duration) -> Option<Size> {
        let size = self.wait_for(rest)?;
        if size == Size::Any && last >= BUSY && self.shared.state().turns.cost() < ENOUGH {
            std::thread::sleep(GATHER);
        }
        Some(size)
    }

    /// The job whose turn it is, of those that this thread may take.
    pub fn next(&mut self, size: Size) -> Option<Job> {
        self.next_that(size, |_, _| true)
    }

    /// The same of those that there is room for, by their apps and whether they are small.
    pub fn next_that(&mut self, size: Size, has_room: impl Fn(&Flow, bool) -> bool) -> Option<Job> {
        let mut state = self.shared.state();
        let fits = state.fits(size, self.has_large);
        let fits = |flow: &Flow, cost| fits(flow, cost) && has_room(flow, cost <= SMALL);
        let ((job, _place), marks) = state.next(self.number, fits)?;
        self.marks.extend(marks);
        if job.cost() > SMALL && !self.has_large {
            self.has_large = true;
            state.large += 1;
        }
        Some(*job)
    }

    /// It may be long until this thread comes to what it has taken: its connection is to be tried, or made. It keeps those
    /// jobs and nobody else's.
    pub fn let_go(&mut self) {
        self.shared.state().let_go(self.number, self.marks.drain(..));
        self.shared.changed.notify_all();
    }

    /// Callers of all that wait hear that the store is closed.
    pub fn clear(&mut self) {
        let waiting = std::mem::take(&mut self.shared.state().turns);
        drop(waiting);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.threads -= 1;
        state.large -= usize::from(self.has_large);
        state.let_go(self.number, self.marks.drain(..));
        if state.threads == 0 {
            state.is_closed = true;
            let waiting = std::mem::take(&mut state.turns);
            drop(state);
            drop(waiting);
        } else {
            self.shared.changed.notify_all();
        }
    }
}

pub(super) fn queue() -> (Entrance, Queue) {
    let (turns, hands, left) = (Turns::default(), Hands::default(), vec![Own::default()]);
    let state = State { turns, hands, left, threads: 1, large: 0, is_idle: false, is_closed: false };
    let (state, changed) = (Mutex::new(state), Condvar::new());
    let shared = Arc::new(Shared { state, changed, places: Mutex::default() });
    (Entrance(Arc::new(Open(shared.clone()))), Queue { shared, number: 0, has_large: false, marks: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(app: &str, receivers: usize) -> Job {
        let users = (0..receivers).map(|n| format!("{app}/{n}")).collect();
        Job {
            flow: Some(app.into()),
            users,
            alone: false,
            work: super::super::Work::Single(Box::new(|_| Box::new(|_| ()))),
        }
    }

    #[tokio::test]
    async fn half_of_the_threads_are_left_to_small_jobs() {
        let (entrance, mut first) = queue();
        let mut others: Vec<Queue> = (0..3).map(|_| first.another()).collect();
        for _ in 0..10 {
            entrance.send(job("a", 32)).await.expect("taken");
        }
        let taken = |queue: &mut Queue| queue.next(Size::Any).map(|job| job.cost());
        assert_eq!((taken(&mut first), taken(&mut others[0])), (Some(32), Some(32)));
        assert_eq!((taken(&mut others[1]), taken(&mut others[2])), (None, None));
        entrance.send(job("b", 1)).await.expect("taken");
        assert!(others[1].wait());
        assert_eq!((taken(&mut others[1]), taken(&mut others[1])), (Some(1), None));
        // It has done what it had, and one that ended leaves its share.
        assert!(first.wait());
        assert_eq!(taken(&mut others[2]), Some(32));
        drop(others);
        assert_eq!(taken(&mut first), Some(32));
    }

    #[tokio::test]
    async fn what_is_of_a_user_that_one_thread_is_at_is_left_to_it_and_the_others_go_on() {
        let (entrance, mut first) = queue();
        let mut second = first.another();
        let of = |user: &str| Job { users: vec![format!("a/{user}")], ..job("a", 0) };
        for user in ["ann", "ann", "ben", "ann"] {
            entrance.send(of(user)).await.expect("taken");
        }
        let taken = |queue: &mut Queue| queue.next(Size::Any).map(|job| job.users[0].clone());
        assert_eq!(taken(&mut first).as_deref(), Some("a/ann"));
        assert_eq!(taken(&mut second).as_deref(), Some("a/ben"));
        assert_eq!(taken(&mut second), None);
        assert!(first.wait());
        assert_eq!(taken(&mut first).as_deref(), Some("a/ann"));
        assert_eq!(taken(&mut second), None, "there is one more that waits for its turn there");
        // A thread that ends leaves what was left to it to the others.
        drop(first);
        assert!(second.wait());
        assert_eq!(taken(&mut second).as_deref(), Some("a/ann"));
        assert_eq!(taken(&mut second), None);
    }

    #[tokio::test]
    async fn what_is_left_to_a_thread_takes_turns_with_the_rest_and_nothing_of_a_user_overtakes() {
        let (entrance, mut first) = queue();
        let mut second = first.another();
        let of = |app: &str, user: String| Job { users: vec![user], ..job(app, 0) };
        for n in 0..100 {
            // `a/ann` is what the first thread is at; the number is for this test to tell them apart.
            entrance.send(Job { users: vec!["a/ann".into(), format!("a/{n}")], ..job("a", 0) }).await.expect("taken");
        }
        let taken = |queue: &mut Queue| queue.next(Size::Any).map(|job| job.users.last().cloned().unwrap_or_default());
        assert_eq!((taken(&mut first).as_deref(), taken(&mut second)), (Some("a/0"), None));
        for n in 0..100 {
            entrance.send(of("b", format!("b/{n}"))).await.expect("taken");
        }
        // More of the first one's, behind it.
        for n in 100..110 {
            entrance.send(Job { users: vec!["a/ann".into(), format!("a/{n}")], ..job("a", 0) }).await.expect("taken");
        }
        let all: Vec<String> = std::iter::from_fn(|| taken(&mut first)).collect();
        assert_eq!(all.len(), 209);
        let places: Vec<usize> =
            (0..100).map(|n| all.iter().position(|at| *at == format!("b/{n}")).expect("taken")).collect();
        assert!(places[0] <= SLICE / 2 && places[50] <= SLICE / 2 + 110, "{places:?}");
        let of_ann: Vec<usize> = all.iter().filter_map(|at| at.strip_prefix("a/")?.parse().ok()).collect();
        assert!(of_ann.is_sorted(), "{of_ann:?}");
    }

    #[tokio::test]
    async fn a_thread_that_has_to_try_its_connection_first_keeps_nobody_elses_jobs() {
        let (entrance, mut first) = queue();
        let mut second = first.another();
        let of = |user: &str| Job { users: vec![format!("a/{user}")], ..job("a", 0) };
        let taken = |queue: &mut Queue| queue.next(Size::Any).map(|job| job.users[0].clone());
        for _ in 0..3 {
            entrance.send(of("ann")).await.expect("taken");
        }
        assert_eq!((taken(&mut first).as_deref(), taken(&mut second)), (Some("a/ann"), None));
        first.let_go();
        assert_eq!(taken(&mut second).as_deref(), Some("a/ann"));
        assert_eq!((taken(&mut first), taken(&mut second).as_deref()), (None, Some("a/ann")));
    }

    #[tokio::test]
    async fn a_thread_that_woke_for_nothing_is_woken_again() {
        let (entrance, mut first) = queue();
        let mut second = first.another();
        entrance.send(job("a", 32)).await.expect("taken");
        assert!(first.next(Size::Any).is_some(), "no more large ones are carried out beside it");
        let shared = second.shared.clone();
        let asleep = || async {
            while !shared.state().is_idle {
                tokio::task::yield_now().await;
            }
        };
        let woken = std::thread::spawn(move || second.wait());
        asleep().await;
        entrance.send(job("a", 32)).await.expect("taken");
        asleep().await;
        entrance.send(job("b", 1)).await.expect("taken");
        let joined = tokio::task::spawn_blocking(move || woken.join());
        let joined = tokio::time::timeout(Duration::from_secs(30), joined).await.expect("it is woken");
        assert!(joined.expect("joined").expect("it waited"));
    }

    #[tokio::test]
    async fn while_large_jobs_rest_small_ones_are_taken_and_beyond_one_apps_places_none_rests() {
        let (entrance, mut queue) = queue();
        let (short, long) = (Duration::from_millis(1), Duration::from_secs(3600));
        entrance.send(job("a", 32)).await.expect("taken");
        entrance.send(job("b", 1)).await.expect("taken");
        assert_eq!(queue.wait_for_more(0, long), Some(Size::Small));
        assert_eq!(queue.next(Size::Small).map(|job| job.cost()), Some(1));
        assert_eq!(
            (queue.wait_for_more(0, short), queue.next(Size::Any).map(|job| job.cost())),
            (Some(Size::Any), Some(32))
        );
        for _ in 0..EACH {
            entrance.send(job("a", SLICE)).await.expect("taken");
        }
        entrance.send(job("b", 1)).await.expect("taken");
        assert_eq!(queue.wait_for_more(0, long), Some(Size::Small), "one full app is what the rest is for");
        for _ in 0..=EACH / 4 {
            entrance.send(job("b", SLICE)).await.expect("taken");
        }
        assert_eq!(queue.wait_for_more(0, long), Some(Size::Any));
        assert!(queue.next(Size::Any).is_some(), "the rest would be for nothing");
        drop(entrance);
        assert_eq!(queue.wait_for_more(0, long), Some(Size::Any), "the end waits for no rest");
    }

    #[tokio::test]
    async fn a_thread_that_waits_while_large_jobs_rest_is_woken_by_a_small_one_and_by_the_end() {
        let long = Duration::from_secs(3600);
        for ends in [false, true] {
            let (entrance, mut queue) = queue();
            entrance.send(job("a", SLICE)).await.expect("taken");
            let shared = queue.shared.clone();
            let woken = tokio::task::spawn_blocking(move || queue.wait_for_more(0, long));
            while !shared.state().is_idle {
                tokio::task::yield_now().await;
            }
            if ends {
                drop(entrance);
            } else {
                entrance.send(job("b", 1)).await.expect("taken");
            }
            let woken = tokio::time::timeout(Duration::from_secs(30), woken).await.expect("it is woken");
            assert_eq!(woken.expect("joined"), Some(if ends { Size::Any } else { Size::Small }));
        }
    }

    #[tokio::test]
    async fn one_app_that_fills_its_places_keeps_nobody_else_out() {
        let (entrance, mut queue) = queue();
        for _ in 0..EACH {
            entrance.send(job("a", 1)).await.expect("taken");
        }
        let late = tokio::time::timeout(Duration::from_millis(1), entrance.send(job("a", 1))).await;
        assert!(late.is_err(), "it waits itself");
        entrance.send(job("b", 1)).await.expect("taken");
        assert!(queue.next(Size::Any).is_some());
        entrance.send(job("a", 1)).await.expect("there is a place again");
    }

    #[tokio::test]
    async fn without_threads_jobs_are_refused_and_without_callers_threads_end() {
        let (entrance, queue_) = queue();
        entrance.send(job("a", 1)).await.expect("taken");
        drop(queue_);
        assert!(matches!(entrance.send(job("a", 1)).await, Err(StoreError::Closed)));
        let (entrance, mut queue) = queue();
        entrance.send(job("a", 1)).await.expect("taken");
        drop(entrance);
        assert!(queue.wait() && queue.next(Size::Any).is_some());
        assert!(!queue.wait());
    }
}
