//! What the gateway knows for good: users, devices, bindings, certificates, messages, deliveries.
//!
//! One thread owns the SQLite file. Work that arrives while it commits is carried out together in the
//! next transaction, so that a burst costs a few fsyncs and not one each; every caller is answered
//! only after the commit that holds its work.

mod certificates;
mod claims;
mod deliveries;
mod devices;
mod kicks;
mod receipts;
mod settings;
mod traces;
mod users;
mod vault;

pub use certificates::Certificate;
pub use claims::{VendorJob, VendorResult};
pub use deliveries::{NewMessage, Rules};
pub use devices::{Bind, BindReply};
pub use kicks::{Kick, Welcome};
pub use settings::Key;
pub use vault::Vault;

use rusqlite::{Connection, Transaction};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Jobs that wait for the thread; callers beyond that wait themselves.
const QUEUE: usize = 1024;
/// Most jobs of one transaction.
const BATCH: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the store holds something it cannot read: {0}")]
    Corrupt(String),
    #[error("the store is closed")]
    Closed,
}

type Job = Box<dyn FnOnce(&Transaction<'_>) -> Finish + Send>;
/// Tells the caller, once the commit has succeeded or failed.
type Finish = Box<dyn FnOnce(bool) + Send>;

/// A handle; clones share the thread.
#[derive(Debug, Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
    vault: Arc<Vault>,
}

/// What each version of the file added; the file remembers how many it has had.
const STEPS: &[&str] = &[include_str!("schema.sql"), include_str!("schema-2.sql"), include_str!("schema-3.sql")];

impl Store {
    /// Opens or makes the file. Blocks on the disk; call it before the runtime starts its work.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path, vault: Vault) -> Result<Self, StoreError> {
        let mut connection = Connection::open(path)?;
        // FULL: a commit is on the disk before it is answered. WAL: readers of the file (backups, the
        // operator's sqlite3) do not stop it.
        connection.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000; PRAGMA cache_size=-8192;",
        )?;
        grow(&mut connection)?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || work(connection, queue))
            .map_err(|e| StoreError::Corrupt(e.to_string()))?;
        Ok(Self { jobs, vault: Arc::new(vault) })
    }

    /// Runs `job` in a transaction and returns its result after the commit. A job that fails changes
    /// nothing.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |transaction| {
            let result = in_savepoint(transaction, job);
            Box::new(move |committed| {
                let result = if committed { result } else { result.and(Err(StoreError::Closed)) };
                // The caller may have given up waiting.
                drop(sender.send(result));
            })
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        receiver.await.map_err(|_| StoreError::Closed)?
    }
}

fn grow(connection: &mut Connection) -> Result<(), StoreError> {
    let known: u32 = connection.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    let known = known as usize;
    if known > STEPS.len() {
        return Err(StoreError::Corrupt(format!(
            "the file is of version {known}, this gateway knows {}; use the newer gateway",
            STEPS.len()
        )));
    }
    for (at, step) in STEPS.iter().enumerate().skip(known) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", as_i64(at as u64 + 1))?;
        transaction.commit()?;
    }
    Ok(())
}

fn in_savepoint<T>(
    transaction: &Transaction<'_>,
    job: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    transaction.execute_batch("SAVEPOINT job")?;
    match job(transaction) {
        Ok(value) => {
            transaction.execute_batch("RELEASE job")?;
            Ok(value)
        }
        Err(error) => {
            transaction.execute_batch("ROLLBACK TO job; RELEASE job")?;
            Err(error)
        }
    }
}

fn work(mut connection: Connection, mut queue: mpsc::Receiver<Job>) {
    let mut jobs = Vec::with_capacity(BATCH);
    while queue.blocking_recv_many(&mut jobs, BATCH) > 0 {
        let transaction = match connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate) {
            Ok(transaction) => transaction,
            Err(error) => {
                tracing::error!(event = "store.failed", %error, "no transaction can be begun");
                jobs.clear();
                continue;
            }
        };
        let finishes: Vec<Finish> = jobs.drain(..).map(|job| job(&transaction)).collect();
        let committed = transaction.commit();
        if let Err(error) = &committed {
            tracing::error!(event = "store.failed", %error, "a commit failed; its callers are told");
        }
        finishes.into_iter().for_each(|finish| finish(committed.is_ok()));
    }
}

fn as_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn as_u64(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
