//! What the gateway knows for good: users, devices, bindings, certificates, messages, deliveries.
//!
//! One thread owns the SQLite file, or each connection to PostgreSQL. Work that arrives while it commits is
//! carried out together in the next transaction, so that a burst costs a few fsyncs and not one each; every
//! caller is answered only after the commit that holds its work. Apps take turns, by what their work costs.

mod accept;
mod acks;
mod bindings;
mod binds;
mod bulk;
mod certificates;
mod checkpoint;
mod claims;
mod clients;
mod clones;
mod days;
mod decided;
mod deliveries;
mod devices;
mod edition;
mod ends;
mod enrolments;
mod greeting;
mod hands;
mod health;
mod installation;
mod kept;
mod kicks;
mod kinds;
mod known;
mod limits;
mod logins;
mod marks;
mod nodes;
mod orders;
mod own;
mod pairs;
mod partitions;
mod patience;
mod pending;
mod plans;
mod pooler;
mod presence;
mod probe;
mod queue;
mod ready;
mod receipts;
mod remembered;
mod removed;
mod repeated;
mod results;
mod room;
mod schema;
mod settings;
mod shape;
mod sql;
mod standing;
mod statement;
mod surroundings;
mod thread;
mod time;
mod together;
mod traces;
#[cfg(test)]
mod trial;
mod turns;
mod usage;
mod users;
mod value;
mod vault;
mod words;

pub use accept::{NewMessage, Reach};
pub use acks::Acked;
pub use binds::{Bind, BindReply};
pub use certificates::Unreadable;
pub use claims::{Claimed, Waiting};
pub use clients::{Client, ClientScope};
pub use devices::DeviceRow;
pub use ends::Swept;
pub use enrolments::{Enrolling, EnrolmentCode, LetIn, check_template};
pub use kicks::{Kick, Look, Welcome};
pub(super) use kinds::LEASE_MS;
pub use limits::Limited;
pub use logins::{Issue, LoginClaim};
pub(super) use nodes::channel;
pub use nodes::{Beat, Dead, Node};
pub use orders::Order;
pub use pairs::Recall;
pub use ready::VendorJob;
pub use results::VendorResult;
pub use settings::Key;
pub use turns::SLICE;
pub use usage::Used;
pub use users::UserChange;
pub use vault::Vault;

use super::database::in_full;
use crate::protocol::Address;
use accept::Accept;
use acks::Had;
use known::Known;
use pooler::Session;
use queue::{Entrance, queue};
use results::Answered;
use room::Room;
use sql::Transaction;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use together::Asked;
use tokio::sync::oneshot;
use tokio_postgres_rustls::MakeRustlsConnect;
use turns::Flow;
use usage::Usage;

/// Pause between attempts to reach PostgreSQL at the start.
const START_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("PostgreSQL failed: {}", in_words(.0))]
    Postgres(#[from] postgres::Error),
    #[error("there is no such row")]
    NoRow,
    #[error("the store holds something it cannot read: {0}")]
    Corrupt(String),
    /// Nothing opens it, and trying again does not help.
    #[error("{0}")]
    Sealed(String),
    /// A file of the gateway's.
    #[error("cannot write {path}: {source}")]
    Key { path: PathBuf, source: std::io::Error },
    #[error("the disk is full: {left_kib} KiB are left")]
    Full { left_kib: u64 },
    #[error("the database cannot be used: {0}")]
    Version(String),
    #[error("no thread can be started for the store: {0}")]
    Thread(std::io::Error),
    /// Whether it was written is not known: a commit whose answer is missing may have taken place.
    #[error("the database did not confirm the change: {0}")]
    NotCommitted(String),
    /// Some of a call's messages are committed, and the others are not.
    #[error("{accepted} of {of} messages were accepted, then: {why}")]
    InPart { accepted: usize, of: usize, why: Box<Self> },
    /// The database is away, or the gateway ends.
    #[error("the store is closed")]
    Closed,
}

/// A piece of a transaction.
struct Job {
    /// The app whose turn it takes.
    flow: Flow,
    /// Whose rows it writes: no two transactions on PostgreSQL hold the same user at a time, and each takes all of its users
    /// before it writes anything, in one order. So none waits for another that waits for it.
    users: Vec<String>,
    /// It writes rows of users it does not know before: nothing else is in its transaction.
    alone: bool,
    work: Work,
}

/// What a job is.
enum Work {
    /// It is carried out together with others of its kind.
    Accept(Asked<Accept>),
    Had(Asked<Had>),
    Answered(Asked<Answered>),
    /// By itself, in the order in which it came.
    Single(Box<dyn FnOnce(&Transaction<'_>) -> Finish + Send>),
}

impl Job {
    /// What it costs its app. The gateway's own are never large: its lease would wait behind one for a connection that takes it.
    fn cost(&self) -> usize {
        if self.flow.is_none() { 1 } else { self.users.len().max(1) }
    }
}

/// Tells the caller, once the commit has succeeded or failed.
type Finish = Box<dyn FnOnce(Result<(), &str>) + Send>;

/// A handle; clones share its threads.
#[derive(Debug, Clone)]
pub struct Store {
    jobs: Entrance,
    vault: Arc<Vault>,
    known: Known,
    /// What this start of the gateway is called in it; empty where a broker holds the devices' connections.
    node: Arc<str>,
    /// Other gateways use it too.
    shared: bool,
    session: Session,
    room: Room,
    usage: Usage,
    probe: probe::Probe,
    days: partitions::Told,
}

impl Store {
    /// Opens or makes the file. Blocks on the disk; call it before the runtime starts its work.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path, vault: Vault) -> Result<Self, StoreError> {
        let ((jobs, queue), usage) = (queue(), Usage::default());
        thread::sqlite(path, usage.clone(), queue)?;
        Ok(Self::over(jobs, vault, path.parent(), (Session::Kept, usage)))
    }

    /// Connects to a PostgreSQL that other gateways may use too, once it is there; `waiting` hears each time that it is
    /// not.
    ///
    /// # Errors
    /// [`StoreError`]: it is there, and cannot be used.
    pub async fn connect(
        config: postgres::Config,
        tls: MakeRustlsConnect,
        connections: usize,
        vault: Vault,
        mut waiting: impl FnMut(&StoreError),
    ) -> Result<Self, StoreError> {
        loop {
            let ((jobs, queue), usage, days) = (queue(), Usage::default(), partitions::Told::default());
            let server = (config.clone(), tls.clone(), connections);
            match thread::postgres(server, usage.clone(), days.clone(), queue).await {
                Ok(session) => return Ok(Self { days, ..Self::over(jobs, vault, None, (session, usage)) }),
                Err(error) if error.is_away() => waiting(&error),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(START_PAUSE).await;
        }
    }

    /// `directory` is where the file is, if it is one.
    fn over(jobs: Entrance, vault: Vault, directory: Option<&Path>, (session, usage): (Session, Usage)) -> Self {
        let (vault, shared) = (Arc::new(vault), directory.is_none());
        let probe = probe::Probe::new(directory);
        let known = Known::new(vault.clone());
        Self {
            jobs,
            known,
            node: Arc::default(),
            vault,
            shared,
            session,
            room: Room::default(),
            usage,
            probe,
            days: partitions::Told::default(),
        }
    }

    /// Whether what a connection to it listens to is heard on that connection.
    pub fn keeps_sessions(&self) -> bool {
        self.session == Session::Kept
    }

    /// What it has done since the start.
    pub fn used(&self) -> Used {
        self.usage.so_far()
    }

    /// Whether other gateways put work into it too.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Runs `job`, which is the gateway's own, in a transaction and returns its result after the commit. A job that fails
    /// changes nothing.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run_as((None, Vec::new(), false), job).await
    }

    /// The same of a job that an app asked for.
    async fn run_in<T: Send + 'static>(
        &self,
        flow: Flow,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run_as((flow, Vec::new(), false), job).await
    }

    /// The same of a job that writes rows of these users.
    async fn run_for<T: Send + 'static>(
        &self,
        users: Vec<String>,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run_as((flow(&users), users, false), job).await
    }

    /// The same of a job that finds out whose rows it writes.
    async fn run_alone<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run_as((None, Vec::new(), true), job).await
    }

    async fn run_as<T: Send + 'static>(
        &self,
        (flow, users, alone): (Flow, Vec<String>, bool),
        job: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.ask((flow, users, alone), |answer| {
            Work::Single(Box::new(move |transaction: &Transaction<'_>| -> Finish {
                let result = transaction.job(job);
                // The caller may have given up waiting.
                Box::new(move |committed| drop(answer.send(after(result, committed))))
            }))
        })
        .await
    }

    /// Waits for what becomes of a job, which is made at once: who waits would otherwise hold all that it is made of, each
    /// caller once more.
    fn ask<T>(
        &self,
        (flow, users, alone): (Flow, Vec<String>, bool),
        work: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Work,
    ) -> impl Future<Output = Result<T, StoreError>> {
        let (sender, receiver) = oneshot::channel();
        let sent = self.jobs.send(Job { flow, users, alone, work: work(sender) });
        async {
            sent.await?;
            receiver.await.map_err(|_| StoreError::Closed)?
        }
    }
}

/// Among the jobs of this app.
fn turn_of(app: &str) -> Flow {
    Some(app.into())
}

/// The one app of these users; none, if they are of several.
fn flow(users: &[String]) -> Flow {
    // No app's name has the separator of [`whose`].
    let app = |user: &String| user.split_once('/').map(|(app, _)| app.to_owned());
    let first = users.first().and_then(app)?;
    users.iter().all(|user| user.split_once('/').is_some_and(|(app, _)| app == first)).then(|| first.into())
}

/// What a caller hears of a job once its transaction was committed, or was not.
fn after<T>(result: Result<T, StoreError>, committed: Result<(), &str>) -> Result<T, StoreError> {
    match committed {
        Ok(()) => result,
        Err(why) => result.and(Err(StoreError::NotCommitted(why.to_owned()))),
    }
}

/// A user's name among all apps'.
fn whose(app: &str, user: &str) -> Vec<String> {
    vec![format!("{app}/{user}")]
}

/// The server's own words, which the error's first line leaves out.
fn in_words(error: &postgres::Error) -> String {
    error.as_db_error().map_or_else(|| in_full(error), |db| format!("{} {}", db.code().code(), db.message()))
}

/// The address of a row; ids were checked when they came in.
fn address(app: &str, user: &str, device: &str) -> Result<Address, StoreError> {
    Address::new(app, user, device).map_err(|error| StoreError::Corrupt(error.to_string()))
}

fn as_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn as_u64(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
