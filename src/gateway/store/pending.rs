//! Rows that a transaction's jobs write and that go to the database together, on PostgreSQL in one statement a table, and what
//! becomes of them where a job fails.

use super::StoreError;
use super::kept::User;
use super::sql::Transaction;
use super::value::{Bound, Param as _, params};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Rows of one statement on SQLite; fewer are written one by one.
const TOGETHER: usize = 16;

/// An event that is not written yet.
#[derive(Debug)]
pub(super) struct NewEvent {
    pub message: String,
    pub device: String,
    pub at_ms: i64,
    pub hop: &'static str,
    pub detail: String,
}

/// A delivery that is not written yet; where there is one of that message and device, it stays.
#[derive(Debug)]
pub(super) struct NewDelivery {
    pub message: String,
    pub app: String,
    pub user: String,
    pub device: String,
    pub state: &'static str,
    pub nonce: String,
    pub attempts: u32,
    pub due_ms: Option<i64>,
}

/// What a delivery that is there becomes.
#[derive(Debug)]
pub(super) struct DeliveryChange {
    pub message: String,
    pub device: String,
    pub state: &'static str,
    pub due_ms: Option<i64>,
    pub attempts: u32,
    pub acked_ms: Option<i64>,
    pub taken_ms: Option<i64>,
    pub notifier: Option<String>,
    pub vendor_id: Option<String>,
    /// The connection it is under way on, and the login that has it. `None`: as they were.
    pub place: Option<(String, Option<String>)>,
    /// Whose it is, where it lies on the device's disk from now on.
    pub kept: Option<User>,
    pub done: bool,
}

/// Everything that a transaction has not written yet.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    pub events: Pending<NewEvent>,
    pub deliveries: Pending<NewDelivery>,
    pub changes: Pending<DeliveryChange>,
}

impl Unwritten {
    /// A job begins.
    pub fn begin(&self) {
        self.events.begin();
        self.deliveries.begin();
        self.changes.begin();
    }

    /// The job failed.
    pub fn undo(&self) {
        self.events.undo();
        self.deliveries.undo();
        self.changes.undo();
    }

    /// Writes what a statement may read or change.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn write_for(&self, t: &Transaction<'_>, sql: &str) -> Result<(), StoreError> {
        if !self.events.is_empty() && sql.contains(EVENTS.name) {
            self.events.write(|rows| insert(t, &EVENTS, rows.iter().map(NewEvent::values)))?;
        }
        if !(self.deliveries.is_empty() && self.changes.is_empty()) && sql.contains(DELIVERIES.name) {
            self.deliveries.write(|rows| insert(t, &DELIVERIES, rows.iter().map(NewDelivery::values)))?;
            self.changes.write(|rows| change(t, rows))?;
        }
        Ok(())
    }

    /// Writes everything.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn write(&self, t: &Transaction<'_>) -> Result<(), StoreError> {
        self.write_for(t, EVENTS.name)?;
        self.write_for(t, DELIVERIES.name)
    }
}

/// Rows of one kind.
#[derive(Debug)]
pub(super) struct Pending<T> {
    rows: RefCell<Vec<T>>,
    /// How many of those are of jobs before the one that is carried out.
    earlier: Cell<usize>,
    /// Rows of jobs before this one, which had them written: if it fails they are to be written again.
    written: RefCell<Vec<T>>,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { rows: RefCell::default(), earlier: Cell::default(), written: RefCell::default() }
    }
}

impl<T> Pending<T> {
    fn is_empty(&self) -> bool {
        self.rows.borrow().is_empty()
    }

    /// It is written at the transaction's end, or before the first statement that names its table.
    pub fn add(&self, row: T) {
        self.rows.borrow_mut().push(row);
    }

    fn begin(&self) {
        self.earlier.set(self.rows.borrow().len());
        self.written.borrow_mut().clear();
    }

    /// What the job added is gone, and what it had written is undone.
    fn undo(&self) {
        let mut rows = self.rows.borrow_mut();
        rows.truncate(self.earlier.get());
        rows.splice(0..0, self.written.take());
    }

    /// Hands all rows over to be written.
    fn write(&self, write: impl FnOnce(&[T]) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let rows = self.rows.take();
        let written = if rows.is_empty() { Ok(()) } else { write(&rows) };
        self.written.borrow_mut().extend(rows.into_iter().take(self.earlier.replace(0)));
        written
    }
}

/// When a delivery comes into the index of what is open.
enum Entered {
    Now,
    Later,
}

/// Where rows are added, and their columns with the types that PostgreSQL has for them.
struct Table {
    name: &'static str,
    into: &'static str,
    columns: &'static [(&'static str, &'static str)],
}

const EVENTS: Table = Table {
    name: "events",
    into: "INSERT INTO events",
    columns: &[("message", "text"), ("device", "text"), ("at_ms", "bigint"), ("hop", "text"), ("detail", "text")],
};

const DELIVERIES: Table = Table {
    name: "deliveries",
    into: "INSERT OR IGNORE INTO deliveries",
    columns: &[
        ("message", "text"),
        ("app", "text"),
        ("user", "text"),
        ("device", "text"),
        ("state", "text"),
        ("nonce", "text"),
        ("attempts", "bigint"),
        ("due_ms", "bigint"),
    ],
};

impl NewEvent {
    fn values(&self) -> Vec<Bound<'_>> {
        params![self.message, self.device, self.at_ms, self.hop, self.detail]
    }
}

impl NewDelivery {
    fn values(&self) -> Vec<Bound<'_>> {
        params![self.message, self.app, self.user, self.device, self.state, self.nonce, self.attempts, self.due_ms]
    }
}

impl DeliveryChange {
    fn values(&self) -> Vec<Bound<'_>> {
        let mut values = params![
            self.message,
            self.device,
            self.state,
            self.due_ms,
            self.attempts,
            self.acked_ms,
            self.taken_ms,
            self.notifier,
            self.vendor_id
        ];
        values.extend(match &self.place {
            Some((nonce, acked_by)) => [nonce.bound(), acked_by.bound()],
            None => [Bound::Null; 2],
        });
        values.extend([self.place.is_some(), self.done].map(|flag| Bound::Integer(flag.into())));
        values
    }

    /// Whether it does, and when it comes into the index of what is open.
    fn lies_on_disk(&self, t: &Transaction<'_>) -> Option<Entered> {
        let user = self.kept.as_ref()?;
        let later = t.kept.is_some_and(|kept| kept.add(user, &self.message, &self.device));
        Some(if later { Entered::Later } else { Entered::Now })
    }

    /// On SQLite; what is not named costs its index no page.
    fn update(&self, t: &Transaction<'_>) -> (&'static str, Vec<Bound<'_>>) {
        macro_rules! update {
            ($more:literal) => {
                concat!(
                    "UPDATE deliveries SET state = ?3, due_ms = ?4, attempts = ?5, acked_ms = ?6, taken_ms = ?7,
                     notifier = ?8, vendor_id = ?9",
                    $more,
                    " WHERE message = ?1 AND device = ?2"
                )
            };
        }
        let (sql, named) = match (self.place.is_some(), self.done) {
            (true, true) => (update!(", nonce = ?10, acked_by = ?11, open = NULL"), 11),
            (true, false) => match self.lies_on_disk(t) {
                None => (update!(", nonce = ?10, acked_by = ?11, open = 1"), 11),
                Some(Entered::Now) => (update!(", nonce = ?10, acked_by = ?11, open = 2"), 11),
                Some(Entered::Later) => (update!(", nonce = ?10, acked_by = ?11, open = NULL"), 11),
            },
            (false, true) => (update!(", open = NULL"), 9),
            (false, false) => (update!(""), 9),
        };
        let mut values = self.values();
        values.truncate(named);
        (sql, values)
    }
}

/// All of them, on PostgreSQL.
const CHANGES: &str =
    "UPDATE deliveries d SET state = u.state, due_ms = u.due_ms, attempts = u.attempts, acked_ms = u.acked_ms,
     taken_ms = u.taken_ms, notifier = u.notifier, vendor_id = u.vendor_id,
     nonce = CASE WHEN u.moved = 1 THEN u.nonce ELSE d.nonce END,
     acked_by = CASE WHEN u.moved = 1 THEN u.acked_by ELSE d.acked_by END,
     open = CASE WHEN u.done = 1 THEN NULL ELSE d.open END
     FROM unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS text[]), CAST(?4 AS bigint[]), CAST(?5 AS bigint[]),
     CAST(?6 AS bigint[]), CAST(?7 AS bigint[]), CAST(?8 AS text[]), CAST(?9 AS text[]), CAST(?10 AS text[]),
     CAST(?11 AS text[]), CAST(?12 AS bigint[]), CAST(?13 AS bigint[])) AS u (message, device, state, due_ms, attempts,
     acked_ms, taken_ms, notifier, vendor_id, nonce, acked_by, moved, done)
     WHERE d.message = u.message AND d.device = u.device";
/// Its parameters that say the place, and whether it is another one.
const PLACE: std::ops::Range<usize> = 9..12;

fn change(t: &Transaction<'_>, rows: &[DeliveryChange]) -> Result<(), StoreError> {
    if !t.is_shared() {
        return t.execute_each(rows.iter().map(|row| row.update(t)));
    }
    // A statement changes a row once, so the last word on each counts; a place that an earlier one set stays. Rows are locked
    // in the order of their messages, as by everybody.
    let mut last: BTreeMap<(&str, &str), Vec<Bound<'_>>> = BTreeMap::new();
    for row in rows {
        let mut values = row.values();
        if let (None, Some(before)) = (&row.place, last.get(&(&*row.message, &*row.device))) {
            values[PLACE].copy_from_slice(&before[PLACE]);
        }
        last.insert((&row.message, &row.device), values);
    }
    t.execute_arrays(CHANGES, last.into_values())
}

/// Adds rows, in their order.
fn insert<'r>(
    t: &Transaction<'_>,
    table: &Table,
    rows: impl ExactSizeIterator<Item = Vec<Bound<'r>>>,
) -> Result<(), StoreError> {
    let Table { into, columns, .. } = table;
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let into = format!("{into} ({})", names.join(", "));
    if t.is_shared() {
        return t
            .execute_arrays(&format!("{into} SELECT * FROM {}", arrays(columns.iter().map(|(_, kind)| *kind))), rows);
    }
    let row = format!("({})", vec!["?"; columns.len()].join(", "));
    let one = format!("{into} VALUES {row}");
    let many = format!("{into} VALUES {}", vec![&*row; TOGETHER].join(", "));
    let mut rows: Vec<Vec<Bound<'_>>> = rows.collect();
    let rest = rows.split_off(rows.len() - rows.len() % TOGETHER);
    let together = rows.chunks(TOGETHER).map(|rows| (&*many, rows.concat()));
    t.execute_each(together.chain(rest.into_iter().map(|row| (&*one, row))))
}

/// As many arrays of PostgreSQL as rows, from parameters of these types.
pub(super) fn arrays<'k>(kinds: impl Iterator<Item = &'k str>) -> String {
    let cast = |(at, kind): (usize, &str)| format!("CAST(?{} AS {kind}[])", at + 1);
    format!("unnest({})", kinds.enumerate().map(cast).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::kept::Kept;
    use super::super::sql::in_postgres;
    use super::super::trial::Trial;
    use super::super::usage::Usage;
    use super::*;
    use std::collections::HashMap;

    fn stage(test: impl FnOnce(&rusqlite::Transaction<'_>, Transaction<'_>)) {
        let mut connection = rusqlite::Connection::open_in_memory().expect("a database");
        connection.execute_batch(include_str!("schema.sql")).expect("a schema");
        let transaction = connection.transaction().expect("begun");
        test(&transaction, Transaction::sqlite(&transaction, &Usage::default(), &Kept::default()));
    }

    fn add(t: &Transaction<'_>, message: &str) {
        let (device, detail) = (String::new(), String::new());
        t.unwritten.events.add(NewEvent { message: message.to_owned(), device, at_ms: 1, hop: "accepted", detail });
    }

    #[test]
    fn events_are_written_in_the_order_of_their_jobs_and_a_failed_jobs_are_not() {
        stage(|transaction, t| {
            let well = |message: &str| {
                let done = t.job(|t| {
                    add(t, message);
                    Ok(())
                });
                done.expect("carried out");
            };
            let fails = |reads: bool| {
                t.job(|t| {
                    add(t, "undone");
                    if reads {
                        t.query_row("SELECT count(*) FROM events", params![], |r| r.get::<i64>(0))?;
                        add(t, "undone too");
                    }
                    Err::<(), _>(StoreError::NoRow)
                })
            };
            well("first");
            fails(false).expect_err("undone");
            well("second");
            fails(true).expect_err("undone, with the events before it that it had written");
            t.job(|t| t.execute("DELETE FROM events WHERE message = 'none'", params![])).expect("written");
            fails(true).expect_err("undone");
            for more in 0..2 * TOGETHER + 3 {
                well(&format!("more {more}"));
            }
            t.commit().expect("written");
            let mut found = transaction.prepare("SELECT message FROM events ORDER BY number").expect("read");
            let found: Vec<String> =
                found.query_map([], |r| r.get(0)).expect("read").map(|m| m.expect("text")).collect();
            let more = (0..2 * TOGETHER + 3).map(|more| format!("more {more}"));
            let expected: Vec<String> = ["first", "second"].map(str::to_owned).into_iter().chain(more).collect();
            assert_eq!(found, expected);
        });
    }

    #[test]
    fn on_postgresql_a_job_that_fails_takes_nothing_with_it_of_one_that_only_read_before_it() {
        let Some(trial) = Trial::start("on_postgresql_a_job_that_fails_takes_nothing_with_it") else { return };
        trial.database("savepoints");
        let (mut client, mut statements) = (trial.client("savepoints"), HashMap::new());
        client.batch_execute(&in_postgres(include_str!("schema.sql"))).expect("a schema");
        let usage = Usage::default();
        let t = Transaction::postgres(client.transaction().expect("begun"), &mut statements, &usage);
        let count = |table: &str| t.query_row(&format!("SELECT count(*) FROM {table}"), params![], |r| r.get::<i64>(0));
        let write = |user: &str| {
            t.execute("INSERT INTO users (app, user, password, created_ms) VALUES ('a', ?1, '', 1)", [user])
        };
        t.job(|_| write("ann")).expect("written");
        let before = usage.so_far().statements;
        for _ in 0..3 {
            let read = t.job(|t| {
                add(t, "of who reads");
                count("users")
            });
            assert_eq!(read.expect("read"), 1);
        }
        assert_eq!(usage.so_far().statements - before, 4, "they share a savepoint");
        let undone = t.job(|_| {
            // What those before left is written here.
            count("events")?;
            write("ben")?;
            Err::<(), _>(StoreError::NoRow)
        });
        undone.expect_err("undone");
        t.job(|_| write("cid")).expect("written");
        t.commit().expect("committed");
        assert_eq!(trial.ask("savepoints", "SELECT \"user\" FROM users ORDER BY 1"), "ann\ncid");
        assert_eq!(trial.ask("savepoints", "SELECT count(*) FROM events WHERE message = 'of who reads'"), "3");
    }

    #[test]
    fn a_change_follows_what_it_changes_and_leaves_what_it_does_not_name() {
        stage(|transaction, t| {
            let delivery = |message: &str| NewDelivery {
                message: message.to_owned(),
                app: "o#a".into(),
                user: "ann".into(),
                device: "phone".into(),
                state: "live",
                nonce: "n1".into(),
                attempts: 0,
                due_ms: Some(5),
            };
            let change = |message: &str, nonce: Option<&str>, done| DeliveryChange {
                message: message.to_owned(),
                device: "phone".into(),
                state: if done { "done" } else { "pushed" },
                due_ms: None,
                attempts: 1,
                acked_ms: Some(7),
                taken_ms: None,
                notifier: None,
                vendor_id: None,
                place: nonce.map(|nonce| (nonce.to_owned(), Some("l".to_owned()))),
                kept: None,
                done,
            };
            for message in ["kept", "moved", "done"] {
                t.unwritten.deliveries.add(delivery(message));
            }
            t.unwritten.changes.add(change("kept", None, false));
            t.unwritten.changes.add(change("moved", Some("n2"), false));
            t.unwritten.changes.add(change("done", Some(""), true));
            t.commit().expect("written");
            let mut found = transaction
                .prepare("SELECT message || ' ' || state || ' ' || nonce || ' ' || ifnull(open, '-') FROM deliveries")
                .expect("read");
            let found: Vec<String> =
                found.query_map([], |r| r.get(0)).expect("read").map(|m| m.expect("text")).collect();
            assert_eq!(found, ["done done  -", "kept pushed n1 1", "moved pushed n2 1"]);
        });
    }

    #[test]
    fn of_a_transaction_that_sqlite_has_undone_nothing_is_written_at_its_end() {
        stage(|transaction, t| {
            add(&t, "lost");
            t.execute_batch("ROLLBACK").expect("undone");
            assert!(matches!(t.commit(), Err(StoreError::NotCommitted(_))));
            let left: i64 = transaction.query_row("SELECT count(*) FROM events", [], |r| r.get(0)).expect("counted");
            assert_eq!(left, 0);
        });
    }
}
