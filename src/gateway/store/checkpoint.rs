//! Moves what SQLite has committed from its log into the file, beside the store's thread: no commit waits for more of it than
//! is moved in a few milliseconds.

use super::StoreError;
use rusqlite::Connection;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Commits of so long go into the file together.
const PAUSE: Duration = Duration::from_secs(1);
/// The same where it cannot wait. A reader of the file may be all that keeps it so.
const BREATH: Duration = Duration::from_millis(50);
/// The same between parts.
const SHORT_BREATH: Duration = Duration::from_millis(5);
/// While commits never pause the log only grows: from so many pages of 4 KiB on it is to start anew.
const LONG: u32 = 16_384;

/// The log, in pages.
#[derive(Debug, Clone, Copy)]
struct Log {
    /// It is long from here on.
    long: u32,
    pages: u32,
    /// Of these it is known that they are in the file and on the disk.
    moved: u32,
}

impl Log {
    const fn is_long(self) -> bool {
        self.pages >= self.long
    }

    /// The rest is soon moved.
    const fn has_little_left(self) -> bool {
        self.pages - self.moved <= self.long / 32
    }

    /// What there is goes into the file now, and to the disk. `in_parts`, of 1 MiB or more: a commit beside that waits for about
    /// as long as for another commit.
    const fn is_to_be_moved(self, in_parts: bool) -> bool {
        self.is_long() && !self.has_little_left() || in_parts && self.pages - self.moved >= self.long / 64
    }

    /// The store's thread moves the rest, as nothing comes to it meanwhile: only then does the log start anew. It does not wait
    /// for what is not moved beside it in time.
    const fn is_to_start_anew(self) -> bool {
        self.is_long() && (self.has_little_left() || self.pages / 4 >= self.long)
    }
}

#[derive(Debug)]
struct Pages {
    long: u32,
    all: AtomicU32,
    moved: AtomicU32,
}

impl Pages {
    fn log(&self) -> Log {
        let (pages, moved) = (self.all.load(Ordering::Relaxed), self.moved.load(Ordering::Relaxed));
        Log { long: self.long, pages, moved: moved.min(pages) }
    }

    /// After a commit: it has so many.
    fn are(&self, pages: u32) {
        if self.all.swap(pages, Ordering::Relaxed) > pages {
            // It has started anew.
            self.moved.store(0, Ordering::Relaxed);
        }
    }
}

/// Tells that something was committed; dropping it ends the thread.
pub(super) struct Checkpoints {
    pages: Arc<Pages>,
    committed: SyncSender<()>,
    /// With the pause that follows.
    hurry: SyncSender<Duration>,
}

impl Checkpoints {
    /// Starts the thread for this file, whose only writer is `writer`. That is closed before this is dropped.
    pub fn start(path: &Path, writer: &mut Connection) -> Result<Self, StoreError> {
        Self::start_with(path, writer, LONG)
    }

    fn start_with(path: &Path, writer: &mut Connection, long: u32) -> Result<Self, StoreError> {
        let pages = Arc::new(Pages { long, all: AtomicU32::default(), moved: AtomicU32::default() });
        // In place of SQLite's own, which moves all that is left before the commit is answered.
        let heard = pages.clone();
        writer.wal_hook(Some(move |_: &mut _, all| {
            heard.are(u32::try_from(all).unwrap_or(0));
            Ok(())
        }))?;
        let own = Connection::open(path)?;
        let file = File::open(path).map_err(|source| StoreError::Key { path: path.to_owned(), source })?;
        let mover = Mover { own, file, pages: pages.clone() };
        let ((committed, heard), (hurry, hurried)) = (sync_channel(1), sync_channel(1));
        let thread = std::thread::Builder::new().name("checkpoint".to_owned());
        thread.spawn(move || mover.work(&heard, &hurried)).map_err(StoreError::Thread)?;
        Ok(Self { pages, committed, hurry })
    }

    /// Between two transactions, once the first one's callers have been answered.
    pub fn committed(&self, writer: &Connection, among_apps: bool) {
        // Full: it knows already.
        let _ = self.committed.try_send(());
        let log = self.pages.log();
        if log.is_to_be_moved(among_apps) {
            let _ = self.hurry.try_send(if among_apps && !log.is_long() { SHORT_BREATH } else { BREATH });
        }
        if log.is_to_start_anew() {
            move_all(writer);
        }
    }
}

/// The thread's own.
struct Mover {
    own: Connection,
    /// Dropped last: to close a file takes the locks away that the process's connections hold on it.
    file: File,
    pages: Arc<Pages>,
}

impl Mover {
    #[allow(clippy::disallowed_methods, reason = "this thread has nothing else to do than to wait for commits")]
    fn work(self, heard: &Receiver<()>, hurried: &Receiver<Duration>) {
        while heard.recv().is_ok() {
            let breath = hurried.recv_timeout(PAUSE).ok();
            let moved = move_all(&self.own);
            if let Some(breath) = breath {
                self.bring_to_disk(moved);
                // Commits that came meanwhile did not know of it.
                while hurried.try_recv().is_ok() {}
                std::thread::sleep(breath);
            }
        }
    }

    /// SQLite does that only once all of the log is in the file, so the store's thread would have to wait for it.
    fn bring_to_disk(&self, moved: Option<u32>) {
        match (self.file.sync_data(), moved) {
            (Ok(()), Some(moved)) => self.pages.moved.store(moved, Ordering::Relaxed),
            (Ok(()), None) => {}
            (Err(error), _) => {
                tracing::error!(event = "store.failed", %error, "the database could not be brought to the disk; its log grows until it can");
            }
        }
    }
}

/// How many of the log's pages are in the file; `None`: another connection is at it.
fn move_all(connection: &Connection) -> Option<u32> {
    let moved = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(2));
    let moved = moved.inspect_err(|error| {
        tracing::error!(event = "store.failed", %error, "the log could not be moved into the database; it grows until it can");
    });
    u32::try_from(moved.ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_stores_thread_moves_no_more_of_a_log_than_little_unless_it_has_become_far_too_long() {
        let log = |pages, moved| Log { long: 3200, pages, moved };
        let decided = |log: Log| (log.is_to_be_moved(false), log.is_to_start_anew());
        assert_eq!(decided(log(3199, 0)), (false, false));
        assert_eq!(decided(log(3200, 0)), (true, false));
        assert_eq!(decided(log(3500, 3399)), (true, false));
        assert_eq!(decided(log(3500, 3400)), (false, true));
        assert_eq!(decided(log(12_799, 3000)), (true, false));
        assert_eq!(decided(log(12_800, 3000)), (true, true));
        assert!(!log(449, 400).is_to_be_moved(true) && log(450, 400).is_to_be_moved(true), "a part");
    }

    #[test]
    fn of_a_log_that_has_started_anew_nothing_is_moved_yet() {
        let pages = Pages { long: 10, all: AtomicU32::default(), moved: AtomicU32::default() };
        pages.are(12);
        pages.moved.store(12, Ordering::Relaxed);
        assert!(pages.log().is_to_start_anew());
        pages.are(3);
        pages.are(13);
        assert!(!pages.log().is_to_start_anew() && pages.log().is_to_be_moved(false));
    }

    #[test]
    fn a_log_starts_anew_though_commits_never_pause() {
        [false, true].into_iter().for_each(starts_anew);
    }

    fn starts_anew(among_apps: bool) {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("db");
        let mut writer = Connection::open(&path).expect("a file");
        writer.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").expect("made");
        let checkpoints = Checkpoints::start_with(&path, &mut writer, 320).expect("started");
        let (began, mut before) = (Instant::now(), 0);
        loop {
            writer.execute("INSERT INTO t VALUES (zeroblob(20000))", []).expect("written");
            checkpoints.committed(&writer, among_apps);
            let pages = checkpoints.pages.log().pages;
            if pages < before {
                assert!(before >= 320, "it was not long: {before}");
                break;
            }
            before = pages;
            assert!(began.elapsed() < Duration::from_secs(30), "{:?}", checkpoints.pages);
        }
        drop(writer);
    }
}
