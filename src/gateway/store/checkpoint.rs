//! Moves what SQLite has committed from its log into the file, beside the store's thread: a commit need not
//! wait for it.

use super::StoreError;
use rusqlite::Connection;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Commits of so long go into the file together.
const PAUSE: Duration = Duration::from_secs(1);
/// While commits never pause the log only grows; at this size, in pages of 4 KiB, the store's thread itself
/// moves the little that is left, and it starts anew.
const MOST_PAGES: i64 = 16_384;

/// Tells that something was committed; dropping it ends the thread.
pub(super) struct Checkpoints(SyncSender<()>);

impl Checkpoints {
    /// Starts the thread for this file, whose only writer is `writer`.
    pub fn start(path: &Path, writer: &Connection) -> Result<Self, StoreError> {
        writer.pragma_update(None, "wal_autocheckpoint", MOST_PAGES)?;
        let own = Connection::open(path)?;
        let (committed, heard) = sync_channel(1);
        let thread = std::thread::Builder::new().name("checkpoint".to_owned());
        thread.spawn(move || work(&own, &heard)).map_err(StoreError::Thread)?;
        Ok(Self(committed))
    }

    pub fn committed(&self) {
        // Full: it knows already.
        let _ = self.0.try_send(());
    }
}

#[allow(clippy::disallowed_methods, reason = "this thread has nothing else to do than to wait for commits")]
fn work(own: &Connection, heard: &Receiver<()>) {
    while heard.recv().is_ok() {
        std::thread::sleep(PAUSE);
        let done = own.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(0));
        if let Err(error) = done {
            tracing::error!(event = "store.failed", %error, "the log could not be moved into the database; it grows until it can");
        }
    }
}
