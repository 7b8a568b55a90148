//! Whether the database works: what its failures mean, and one line when it goes away and one when it is back.

use super::StoreError;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tracing::{debug, error, info};

/// Clones share it: a store and its threads.
#[derive(Debug, Clone)]
pub(super) struct Health {
    started: Instant,
    /// Milliseconds from `started` to the moment it went away, and one more; 0 while it works.
    away_since: Arc<AtomicU64>,
}

impl Default for Health {
    fn default() -> Self {
        Self { started: Instant::now(), away_since: Arc::default() }
    }
}

impl Health {
    /// A transaction could not be had, or was not committed.
    pub fn failed(&self, why: &dyn Display) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        if self.away_since.compare_exchange(0, now + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            error!(event = "store.failed", error = %why, "the database does not work: callers are told, and it is tried again until it does");
        } else {
            debug!(event = "store.failed", error = %why, "the database still does not work");
        }
    }

    /// A transaction was committed.
    pub fn worked(&self) {
        // Nearly always it did before, and then nothing is written.
        if self.away_since.load(Ordering::Relaxed) == 0 {
            return;
        }
        let since = self.away_since.swap(0, Ordering::Relaxed);
        if since > 0 {
            let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            info!(event = "store.recovered", away_ms = now.saturating_sub(since - 1), "the database works again");
        }
    }
}

impl StoreError {
    /// The data is at fault, and not the store: to try again does not help. SQLSTATE classes 22 (data exception) and
    /// 54 (program limit exceeded, as a key too long for an index).
    pub fn refuses_data(&self) -> bool {
        match self {
            Self::Postgres(error) => error.code().is_some_and(|code| {
                let class = code.code().get(..2);
                class == Some("22") || class == Some("54")
            }),
            Self::Sqlite(error) => error.sqlite_error_code() == Some(rusqlite::ErrorCode::TooBig),
            _ => false,
        }
    }

    /// The database is away, or does not let anybody in now; whoever keeps it has said so. SQLSTATE classes 08
    /// (connection exception), 53 (insufficient resources, as too many connections) and 57 (the operator ends it, or it
    /// starts), and 25006 (it takes no writes now, as after a switchover).
    pub fn is_away(&self) -> bool {
        match self {
            Self::Closed | Self::NotCommitted(_) => true,
            Self::InPart { why, .. } => why.is_away(),
            Self::Postgres(error) => match error.code() {
                Some(code) => ["08", "53", "57P", "25006"].iter().any(|class| code.code().starts_with(class)),
                // Nothing was answered, or the connection ended.
                None => error.is_closed() || is_network(error),
            },
            _ => false,
        }
    }

    /// A commit was asked for, and its answer was lost: it may have taken place.
    pub fn is_unsure(&self) -> bool {
        matches!(self, Self::NotCommitted(_))
    }

    /// Says what came of it, unless it is only that the database is away.
    pub fn tell(&self, what: &'static str) {
        if self.is_away() {
            debug!(event = "store.failed", error = %self, "{what}");
        } else {
            error!(event = "store.failed", error = %self, "{what}");
        }
    }
}

/// Whether the network is at fault, and not what was said over it, as a certificate that is not believed.
fn is_network(error: &postgres::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return io.kind() != std::io::ErrorKind::InvalidData;
        }
        cause = inner.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_away_from_its_first_failure_to_its_next_success() {
        let health = Health::default();
        let away = || health.away_since.load(Ordering::Relaxed);
        health.worked();
        assert_eq!(away(), 0);
        health.failed(&"gone");
        let since = away();
        assert!(since > 0);
        health.failed(&"still gone");
        assert_eq!(away(), since);
        health.worked();
        assert_eq!(away(), 0);
    }
}
