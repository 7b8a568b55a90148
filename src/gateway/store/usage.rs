//! What the store has done so far, for metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Clones share it: a store and its threads.
#[derive(Debug, Clone, Default)]
pub(super) struct Usage(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    transactions: AtomicU64,
    jobs: AtomicU64,
    statements: AtomicU64,
}

/// Since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    pub transactions: u64,
    /// Calls, acknowledgements and other pieces of work that were in them.
    pub jobs: u64,
    /// On PostgreSQL each is a round trip.
    pub statements: u64,
}

impl Usage {
    pub fn statement(&self) {
        self.0.statements.fetch_add(1, Ordering::Relaxed);
    }

    /// A transaction with so many jobs has come to its end.
    pub fn transaction(&self, jobs: usize) {
        self.0.transactions.fetch_add(1, Ordering::Relaxed);
        self.0.jobs.fetch_add(u64::try_from(jobs).unwrap_or(0), Ordering::Relaxed);
    }

    pub fn so_far(&self) -> Used {
        let [transactions, jobs, statements] =
            [&self.0.transactions, &self.0.jobs, &self.0.statements].map(|count| count.load(Ordering::Relaxed));
        Used { transactions, jobs, statements }
    }
}
