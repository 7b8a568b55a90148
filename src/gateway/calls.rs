//! Vendor calls under way, and who may make another: a part of them is kept from what has waited, so that an app that
//! makes few is not behind another app's many, and a part from what comes, so that what has waited goes on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Which calls may be made, as a value.
#[derive(Debug)]
struct Shares {
    most: usize,
    /// By app.
    under_way: HashMap<Arc<str>, usize>,
    /// Of all, those for what has waited.
    for_waiting: usize,
}

impl Shares {
    /// Calls that each of the two, what has waited and what comes, leaves to the other.
    const fn kept(&self) -> usize {
        self.most / 4
    }

    /// Of those the ones that what has waited does not use.
    const fn left_to_waiting(&self) -> usize {
        self.kept().saturating_sub(self.for_waiting)
    }

    /// How many may be made for what has waited, if so many are free.
    fn for_waiting(&self, free: usize) -> usize {
        free.saturating_sub(self.kept()).max(self.left_to_waiting()).min(free)
    }

    /// How many of `wanted` an app may make at once for what it sends now, if so many are free: while half of all are, any
    /// number of those beyond; else as many as keep it a small part of all.
    fn at_once(&self, app: &str, wanted: usize, free: usize) -> usize {
        let own = self.under_way.get(app).copied().unwrap_or_default();
        let beyond_half = free.saturating_sub(self.most / 2);
        let small = (self.most / 8).saturating_sub(own);
        wanted.min(beyond_half.max(small)).min(free.saturating_sub(self.left_to_waiting()))
    }
}

/// The calls of one gateway; clones share them.
#[derive(Debug, Clone)]
pub struct Calls {
    free: Arc<Semaphore>,
    shares: Arc<Mutex<Shares>>,
}

/// Leave for one call; it ends with this.
#[derive(Debug)]
pub struct Call {
    _permit: OwnedSemaphorePermit,
    app: Arc<str>,
    has_waited: bool,
    shares: Arc<Mutex<Shares>>,
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut shares = lock(&self.shares);
        shares.for_waiting -= usize::from(self.has_waited);
        if let Some(own) = shares.under_way.get_mut(&self.app) {
            *own -= 1;
            if *own == 0 {
                shares.under_way.remove(&self.app);
            }
        }
    }
}

fn lock(shares: &Mutex<Shares>) -> MutexGuard<'_, Shares> {
    shares.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Calls {
    pub fn new(most: usize) -> Self {
        let shares = Shares { most, under_way: HashMap::new(), for_waiting: 0 };
        Self { free: Arc::new(Semaphore::new(most)), shares: Arc::new(Mutex::new(shares)) }
    }

    /// For what an app sends now: as many as it may make at once, and no more than wanted.
    pub fn at_once(&self, app: &str, wanted: usize) -> Vec<Call> {
        // Nobody is granted anything until these are counted.
        let mut shares = lock(&self.shares);
        let granted = shares.at_once(app, wanted, self.free.available_permits());
        let app: Arc<str> = app.into();
        let permits = std::iter::from_fn(|| self.free.clone().try_acquire_owned().ok()).take(granted);
        permits.map(|permit| self.call(&mut shares, app.clone(), false, permit)).collect()
    }

    /// How many may be made for what has waited.
    pub fn for_waiting(&self) -> usize {
        lock(&self.shares).for_waiting(self.free.available_permits())
    }

    /// Leave for one of those, once there is a place. `None`: the gateway ends.
    pub async fn next(&self, app: &str) -> Option<Call> {
        let permit = self.free.clone().acquire_owned().await.ok()?;
        Some(self.call(&mut lock(&self.shares), app.into(), true, permit))
    }

    fn call(&self, shares: &mut Shares, app: Arc<str>, has_waited: bool, permit: OwnedSemaphorePermit) -> Call {
        *shares.under_way.entry(app.clone()).or_default() += 1;
        shares.for_waiting += usize::from(has_waited);
        Call { _permit: permit, app, has_waited, shares: self.shares.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_app_with_few_calls_makes_its_own_at_once_while_anothers_backlog_takes_all_it_may() {
        let calls = Calls::new(256);
        let mut backlog = Vec::new();
        for _ in 0..calls.for_waiting() {
            backlog.extend(calls.next("a").await);
        }
        assert_eq!((backlog.len(), calls.for_waiting()), (192, 0));
        assert_eq!(calls.at_once("a", 64).len(), 0, "it has its part");
        let own: Vec<Call> = (0..100).flat_map(|_| calls.at_once("b", 1)).collect();
        assert_eq!(own.len(), 32);
        drop(own);
        assert_eq!(calls.at_once("b", 64).len(), 32, "what has ended makes room");
        assert_eq!(calls.at_once("c", 64).len(), 32);
    }

    #[tokio::test]
    async fn what_has_waited_goes_on_though_many_apps_make_all_the_calls_they_may() {
        let calls = Calls::new(256);
        let mut backlog = Vec::new();
        for _ in 0..64 {
            backlog.extend(calls.next("late").await);
        }
        let come = || (0..8).flat_map(|app| calls.at_once(&app.to_string(), 32)).collect::<Vec<Call>>();
        let coming = come();
        assert_eq!((coming.len(), calls.for_waiting()), (192, 0));
        drop(backlog.pop());
        assert_eq!((come().len(), calls.for_waiting()), (0, 1), "its place is its own");
        drop(backlog);
        assert_eq!((come().len(), calls.for_waiting()), (0, 64));
        drop(coming);
        assert_eq!((come().len(), calls.for_waiting()), (192, 64));
    }

    #[test]
    fn requests_of_one_app_that_come_at_the_same_moment_have_no_more_together() {
        for _ in 0..200 {
            let calls = Calls::new(256);
            let start = std::sync::Barrier::new(4);
            let request = || {
                start.wait();
                calls.at_once("a", 128)
            };
            let made: usize = std::thread::scope(|scope| {
                let requests = [(); 4].map(|()| scope.spawn(request));
                // All are held until the last has been granted.
                let granted = requests.map(|request| request.join().expect("no panic"));
                granted.iter().map(Vec::len).sum()
            });
            assert_eq!(made, 128);
        }
    }

    #[test]
    fn one_app_alone_has_half_of_all_at_once_and_leaves_the_rest_to_what_waits() {
        let calls = Calls::new(256);
        let held: Vec<Call> = (0..10).flat_map(|_| calls.at_once("a", 64)).collect();
        assert_eq!((held.len(), calls.for_waiting()), (128, 64));
    }

    #[test]
    fn the_smallest_gateway_still_makes_calls() {
        for most in 1..8 {
            let calls = Calls::new(most);
            assert!(calls.for_waiting() > 0, "{most}");
            let all: Vec<Call> = (0..10).flat_map(|_| calls.at_once("a", 10)).collect();
            assert!(all.len() <= most);
        }
    }

    #[test]
    fn an_app_without_calls_is_forgotten() {
        let calls = Calls::new(8);
        drop(calls.at_once("a", 3));
        assert!(lock(&calls.shares).under_way.is_empty());
        assert_eq!(calls.free.available_permits(), 8);
    }
}
