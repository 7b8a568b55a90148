//! The way of jobs to the store's threads: a bounded number of each app's waits, and they are taken by turns.

use super::turns::{Flow, Turns};
use super::{Job, StoreError};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Jobs of one app that wait; its callers beyond that wait themselves, and nobody else's.
const EACH: usize = 256;
/// Jobs that were handed over since a thread last looked, which it does before each job.
const HANDED: usize = 1024;
/// Apps that are remembered before those without work are forgotten.
const APPS: usize = 64;
/// From so many jobs in one transaction on, the next one waits a moment for more: each costs a write to the disk, however
/// many it carries.
const BUSY: usize = 8;
const GATHER: Duration = Duration::from_millis(2);
/// Receivers for whom no more are waited for.
const ENOUGH: usize = 128;

/// A job and its app's place for it.
type Placed = (Job, OwnedSemaphorePermit);

/// Where jobs are handed in; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Entrance {
    jobs: mpsc::Sender<Placed>,
    places: Arc<Mutex<HashMap<Flow, Arc<Semaphore>>>>,
}

impl Entrance {
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn send(&self, job: Job) -> Result<(), StoreError> {
        let place = self.places(&job.flow).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        self.jobs.send((job, place)).await.map_err(|_| StoreError::Closed)
    }

    fn places(&self, flow: &Flow) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() > APPS {
            // A job that waits, and who waits for a place, holds its app's.
            places.retain(|_, places| Arc::strong_count(places) > 1);
        }
        places.entry(flow.clone()).or_insert_with(|| Arc::new(Semaphore::new(EACH))).clone()
    }
}

/// Where threads take them.
pub(super) struct Queue {
    handed: mpsc::Receiver<Placed>,
    turns: Turns<Placed>,
}

impl Queue {
    fn look(&mut self) {
        while let Ok((job, place)) = self.handed.try_recv() {
            self.turns.push(job.flow.clone(), job.cost(), (job, place));
        }
    }

    /// Waits for a job; `false` when there will be none.
    #[allow(clippy::disallowed_methods, reason = "a thread of the store has nothing else to do than to wait for jobs")]
    pub fn wait(&mut self) -> bool {
        self.look();
        if self.turns.cost() == 0 {
            let Some((job, place)) = self.handed.blocking_recv() else { return false };
            self.turns.push(job.flow.clone(), job.cost(), (job, place));
        }
        true
    }

    /// The same, and a moment more if there is much to do. `last`: how many jobs the transaction before had.
    #[allow(clippy::disallowed_methods, reason = "a thread of the store has nothing else to do than to wait for jobs")]
    pub fn wait_for_more(&mut self, last: usize) -> bool {
        let any = self.wait();
        if any && last >= BUSY && self.turns.cost() < ENOUGH {
            std::thread::sleep(GATHER);
        }
        any
    }

    /// The job whose turn it is, of all that were handed over until now.
    pub fn next(&mut self) -> Option<Job> {
        self.look();
        self.turns.next().map(|(_, (job, _))| job)
    }

    /// Callers of all that wait hear that the store is closed.
    pub fn clear(&mut self) {
        self.look();
        self.turns.clear();
    }
}

pub(super) fn queue() -> (Entrance, Queue) {
    let (jobs, handed) = mpsc::channel(HANDED);
    (Entrance { jobs, places: Arc::default() }, Queue { handed, turns: Turns::default() })
}
