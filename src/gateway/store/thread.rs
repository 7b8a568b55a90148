//! The threads that own the database, one for a SQLite file and one for each connection to PostgreSQL.

use super::bulk::Bulk;
use super::checkpoint::Checkpoints;
use super::health::Health;
use super::kept::{self, Kept};
use super::partitions;
use super::patience::Commits;
use super::plans::{self, Plans};
use super::pooler::{self, Session};
use super::queue::{Queue, SMALL, Size};
use super::schema;
use super::sql::{Statements, Transaction};
use super::turns::{Group, Pace, Taken};
use super::usage::Usage;
use super::{Finish, Job, StoreError, Work};
use postgres::error::SqlState;
use postgres::{Client, Config, IsolationLevel};
use rusqlite::Connection;
use std::collections::VecDeque;
use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Most jobs one connection to PostgreSQL takes while others may be free.
const SHARE: usize = 16;
/// The same of large ones.
const SHARE_LARGE: usize = 4;
/// Statements kept prepared.
const STATEMENTS: usize = 200;
/// A connection that was not used for so long is asked whether it stands before it is given work.
const IDLE: Duration = Duration::from_millis(500);
/// How long it may take to answer.
const VALID: Duration = Duration::from_secs(5);
/// Pause between attempts to reach PostgreSQL; callers are told meanwhile.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// What no statement of the store comes near, unless the role or the database has a deadline already.
const DEADLINE: &str =
    "SELECT set_config('statement_timeout', '30s', false) WHERE current_setting('statement_timeout') = '0'";

/// The file is nobody else's to read; SQLite gives those beside it the same mode.
fn private(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Opens or makes a SQLite file and starts its thread.
pub(super) fn sqlite(path: &Path, usage: Usage, queue: Queue) -> Result<(), StoreError> {
    private(path).map_err(|source| StoreError::Key { path: path.to_owned(), source })?;
    let mut connection = Connection::open(path)?;
    // FULL: a commit is on the disk before it is answered. WAL: readers of the file (backups, the
    // operator's sqlite3) do not stop it. MEMORY: what undoes a job that fails; from 64 KiB on, as with a few dozen messages,
    // it would be written to a file, a page at a time.
    connection.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000; PRAGMA cache_size=-8192;
         PRAGMA temp_store=MEMORY;",
    )?;
    // Else SQLite looks at values to choose a plan, and prepares a statement anew for each run with others.
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // Every statement of the store; the library's own 16 would be prepared anew for each message.
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    schema::grow_sqlite(&mut connection)?;
    kept::recover(&connection)?;
    let checkpoints = Checkpoints::start(path, &mut connection)?;
    spawn(move || work_sqlite(connection, &checkpoints, &usage, queue))
}

/// A PostgreSQL, and how it is reached.
#[derive(Clone)]
struct Server {
    config: Config,
    tls: MakeRustlsConnect,
    session: Session,
    /// How many connections the gateway has to it.
    connections: usize,
    usage: Usage,
}

/// Looks at what stands before PostgreSQL, connects, grows the schema and starts a thread for each connection.
pub(super) async fn postgres(
    (config, tls, connections): (Config, MakeRustlsConnect, usize),
    usage: Usage,
    days: partitions::Told,
    queue: Queue,
) -> Result<Session, StoreError> {
    let connections = connections.max(1);
    let mut server = Server { config, tls, session: Session::Kept, connections, usage };
    let (looked, answer) = oneshot::channel();
    let looking = server.clone();
    // The client has a runtime of its own, which cannot be started inside another.
    spawn(move || drop(looked.send(looking.look())))?;
    server.session = answer.await.map_err(|_| StoreError::Closed)??;
    let health = Health::default();
    let commits = Commits::watch(connections, server.tls.clone())?;
    for number in 0..connections {
        let (commits, days) = (commits.clone(), days.clone());
        let (server, health, queue) = (server.clone(), health.clone(), queue.another());
        let (opened, answer) = oneshot::channel();
        spawn(move || {
            let connected = server.connect().and_then(|mut client| {
                schema::grow_postgres(&mut client)?;
                if number == 0 {
                    partitions::at_start(&mut client, &server.usage, &days)?;
                }
                Ok(client)
            });
            match connected {
                Ok(client) => {
                    drop(opened.send(Ok(())));
                    work_postgres(client, &server, (number, &commits), &health, queue);
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        })?;
        answer.await.map_err(|_| StoreError::Closed)??;
    }
    Ok(server.session)
}

impl Server {
    fn look(&self) -> Result<Session, StoreError> {
        let mut one = self.config.connect(self.tls.clone())?;
        match self.config.connect(self.tls.clone()) {
            Ok(mut other) => pooler::look(&mut one, &mut other),
            // Where there is no room for a second one there is none to mix the first up with.
            Err(error) if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS) => Ok(Session::Kept),
            Err(error) => Err(error.into()),
        }
    }

    fn connect(&self) -> Result<Client, StoreError> {
        let mut client = self.config.connect(self.tls.clone())?;
        // Not among the connection's options: poolers refuse those. One in transaction mode would give it to others.
        if self.session == Session::Kept {
            client.batch_execute(plans::SETTINGS)?;
            if !self.config.get_options().is_some_and(|options| options.contains("statement_timeout")) {
                client.batch_execute(DEADLINE)?;
            }
        }
        Ok(client)
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let thread = std::thread::Builder::new().name("store".to_owned());
    thread.spawn(work).map(drop).map_err(StoreError::Thread)
}

fn work_sqlite(mut connection: Connection, checkpoints: &Checkpoints, usage: &Usage, mut queue: Queue) {
    let (health, kept) = (Health::default(), Kept::default());
    let (mut last, mut pace) = (0, Pace::default());
    while let Some(size) = queue.wait_for_more(last, pace.rest(now())) {
        let began = now();
        let transaction = match connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate) {
            Ok(transaction) => transaction,
            Err(error) => {
                health.failed(&error);
                queue.clear();
                continue;
            }
        };
        let (finishes, written) = {
            let t = Transaction::sqlite(&transaction, usage, &kept);
            (
                some(&t, (&mut pace, false), |group| {
                    queue.next_that(size, |flow, small| group.has_room_for(flow, small))
                }),
                t.commit(),
            )
        };
        last = finishes.len();
        usage.transaction(last);
        let committed = written.and_then(|()| Ok(transaction.commit()?));
        kept.over(committed.is_ok());
        finish(finishes, committed, &health);
        if kept.is_full() {
            enter_all(&kept, &mut connection, &health);
        }
        pace.over(began, now());
        let among_apps = pace.is_among_apps(now());
        if among_apps {
            make_way();
        }
        checkpoints.committed(&connection, among_apps);
    }
    enter_all(&kept, &mut connection, &health);
}

fn enter_all(kept: &Kept, connection: &mut Connection, health: &Health) {
    // Until it can be done they are entered one by one.
    if let Err(error) = kept.enter_all(connection) {
        health.failed(&error);
    }
}

fn work_postgres(
    client: Client,
    server: &Server,
    (number, commits): (usize, &Commits),
    health: &Health,
    mut queue: Queue,
) {
    let mut jobs = VecDeque::with_capacity(SHARE);
    let mut client = Some(client);
    let (mut statements, mut pace) = (Statements::new(), Pace::default());
    let (mut used, mut plans) = (Instant::now(), Plans::of_new_connection(now()));
    // The connection is not to be used again, and whether these jobs have already been given a second one.
    let (mut suspect, mut again) = (false, false);
    let only = server.connections == 1;
    while share(&mut queue, &mut jobs, only) {
        if std::mem::take(&mut suspect) {
            client = None;
        }
        // The database may have gone and come back meanwhile, which only a question tells.
        let idled = used.elapsed() > IDLE;
        used = Instant::now();
        if idled || client.as_ref().is_none_or(Client::is_closed) {
            queue.let_go();
        }
        let ended = |client: &mut Client| client.is_closed() || (idled && client.is_valid(VALID).is_err());
        if client.as_mut().is_none_or(ended) {
            statements.clear();
            client = server.connect().inspect_err(|error| health.failed(error)).ok();
            plans = Plans::of_new_connection(now());
        }
        let Some(open) = client.as_mut() else {
            // Their callers hear that the store is closed, and ask again.
            jobs.clear();
            again = false;
            pause();
            continue;
        };
        let token = open.cancel_token();
        let planned = if plans.are_old(now()) { open.batch_execute(plans::FORGET) } else { Ok(()) };
        // Whatever the database's default is: the store's locks are made for this one.
        let begun =
            planned.and_then(|()| open.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start());
        let users = held_by(&jobs);
        let held = |transaction| {
            let t = Transaction::postgres(transaction, &mut statements, &server.usage);
            t.hold(users).map(|()| t)
        };
        let t = match begun.map_err(StoreError::from).and_then(held) {
            Ok(t) => t,
            Err(error) => {
                suspect = true;
                // Nothing was done yet: a connection that was cut is no reason to refuse what another one takes.
                if std::mem::replace(&mut again, true) {
                    health.failed(&error);
                    jobs.clear();
                    queue.let_go();
                    again = false;
                }
                continue;
            }
        };
        again = false;
        let finishes = some(&t, (&mut pace, !only && is_large(&jobs)), |group| match jobs.front() {
            Some(job) if job.alone && !group.is_empty() => None,
            Some(job) if !group.has_room_for(&job.flow, job.cost() <= SMALL) => None,
            _ => jobs.pop_front(),
        });
        suspect = t.was_read_only();
        // What is left to write may wait for others, and is none of the commit's patience.
        let written = t.unwritten.write(&t);
        let committed = match t.removes_files() {
            true => written.and_then(|()| t.commit()),
            false => written.and_then(|()| commits.commit(number, token, || t.commit())),
        };
        // A statement prepared in a transaction that was undone is prepared again.
        if let Err(error) = &committed {
            suspect |= error.is_unsure();
            statements.clear();
        }
        server.usage.transaction(finishes.len());
        finish(finishes, committed, health);
    }
}

/// Takes one connection's share of the jobs once nothing is left over: large ones, or small ones, or of both if it is the only
/// connection; `false` when there will be none.
fn share(queue: &mut Queue, jobs: &mut VecDeque<Job>, only: bool) -> bool {
    // With more beside what is left over it would never come to look for jobs of the other size.
    if !jobs.is_empty() {
        return true;
    }
    while jobs.is_empty() {
        if !queue.wait() {
            return false;
        }
        // Another may have been faster.
        jobs.extend(queue.next(Size::Any));
    }
    let (most, size) = if is_large(jobs) { (SHARE_LARGE, Size::Large) } else { (SHARE, Size::Small) };
    let size = if only { Size::Any } else { size };
    while jobs.len() < most
        && let Some(job) = queue.next(size)
    {
        jobs.push_back(job);
    }
    true
}

/// Whose users a transaction of these jobs holds from its beginning. Not those of jobs that come after one that is alone: it holds
/// its own once it knows them, and two that take theirs in two goes wait for each other.
fn held_by(jobs: &VecDeque<Job>) -> Vec<&str> {
    let together = jobs.iter().take_while(|job| !job.alone);
    together.flat_map(|job| job.users.iter().map(String::as_str)).collect()
}

/// Whether the next of them is large.
fn is_large(jobs: &VecDeque<Job>) -> bool {
    jobs.front().is_some_and(|first| first.cost() > SMALL)
}

/// Whoever takes requests in and answers them on this core comes first: else a message waits for as long as the scheduler lets
/// this thread go on, before the store hears of it and after it was committed.
fn make_way() {
    std::thread::yield_now();
}

/// Carries jobs out, all of them or as many as one transaction may hold.
fn some(
    t: &Transaction<'_>,
    (pace, apart): (&mut Pace, bool),
    mut next: impl FnMut(&Group<'_>) -> Option<Job>,
) -> Vec<Finish> {
    let mut group = pace.group(apart, now());
    let (mut bulk, mut finishes) = (Bulk::default(), Vec::new());
    while !group.is_full(now())
        && let Some(job) = next(&group)
    {
        let (small, alone) = (job.cost() <= SMALL, job.alone && t.is_shared());
        group.add(Taken { flow: job.flow, small, alone }, now());
        match job.work {
            Work::Accept(asked) => bulk.accept(asked),
            Work::Had(asked) => bulk.had(asked),
            Work::Answered(asked) => bulk.answered(asked),
            Work::Single(carry_out) => {
                // It may be of what those before it have written.
                bulk.carry_out(t, &mut finishes);
                finishes.push(carry_out(t));
            }
        }
        if bulk.is_full(group.is_among_apps()) {
            bulk.carry_out(t, &mut finishes);
            if group.is_among_apps() {
                make_way();
            }
        }
    }
    bulk.carry_out(t, &mut finishes);
    finishes
}

/// The time since the first store of this process was opened.
fn now() -> Duration {
    static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
    STARTED.elapsed()
}

#[allow(clippy::disallowed_methods, reason = "this thread has nothing else to do until the database is back")]
fn pause() {
    std::thread::sleep(RECONNECT_PAUSE);
}

fn finish(finishes: Vec<Finish>, committed: Result<(), StoreError>, health: &Health) {
    let why = match committed {
        Ok(()) => {
            health.worked();
            None
        }
        Err(error) => {
            health.failed(&error);
            Some(error.to_string())
        }
    };
    let committed = || why.as_deref().map_or(Ok(()), Err);
    finishes.into_iter().for_each(|finish| finish(committed()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::store::queue;

    fn job(app: Option<&str>, receivers: usize) -> Job {
        let users = (0..receivers).map(|n| format!("{}/{n}", app.unwrap_or("several"))).collect();
        let work = Work::Single(Box::new(|_: &Transaction<'_>| -> Finish { Box::new(|_| ()) }));
        Job { flow: app.map(Into::into), users, alone: false, work }
    }

    #[tokio::test]
    async fn a_large_job_is_taken_though_small_ones_always_wait_and_none_of_the_gateways_own_is_large() {
        let (entrance, mut queue) = queue::queue();
        let _other = queue.another();
        let mut jobs = VecDeque::new();
        let mut taken = Vec::new();
        for round in 0..2 * SHARE {
            for _ in 0..2 {
                entrance.send(job(Some("a"), 1)).await.expect("sent");
            }
            if round == 1 {
                entrance.send(job(Some("b"), 32)).await.expect("sent");
                entrance.send(job(None, 32)).await.expect("sent");
            }
            assert!(share(&mut queue, &mut jobs, false));
            // One fits into each transaction.
            taken.extend(jobs.pop_front().map(|job| (job.flow, job.users.len())));
        }
        for flow in [Some("b".into()), None] {
            assert!(taken.contains(&(flow.clone(), 32)), "{flow:?}: {taken:?}");
        }
    }

    #[test]
    fn what_finds_out_whose_rows_it_writes_begins_with_nobodys() {
        let alone = || Job { alone: true, users: Vec::new(), ..job(None, 0) };
        let jobs: VecDeque<Job> = [job(Some("a"), 1), job(Some("b"), 2), alone(), job(Some("c"), 1)].into();
        assert_eq!(held_by(&jobs), ["a/0", "b/0", "b/1"]);
        let jobs: VecDeque<Job> = [alone(), job(Some("c"), 1)].into();
        assert!(held_by(&jobs).is_empty());
    }

    #[tokio::test]
    async fn the_only_connection_takes_jobs_of_each_size_together() {
        for (only, together) in [(true, 2), (false, 1)] {
            let (entrance, mut queue) = queue::queue();
            entrance.send(job(Some("a"), 32)).await.expect("sent");
            entrance.send(job(Some("b"), 1)).await.expect("sent");
            let mut jobs = VecDeque::new();
            assert!(share(&mut queue, &mut jobs, only));
            assert_eq!(jobs.len(), together);
        }
    }
}
