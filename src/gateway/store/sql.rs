//! The little SQL the store speaks, on SQLite or PostgreSQL: statements are written in SQLite's words and
//! put into PostgreSQL's once.
//!
//! | written | PostgreSQL |
//! | --- | --- |
//! | `?1` | `$1` |
//! | `user` | `"user"`, which is a word of its own there |
//! | `INSERT OR IGNORE INTO t ...` | `INSERT INTO t ... ON CONFLICT DO NOTHING` |
//! | `/* lock */`, `/* lock d */`, `/* share */`, `/* claim */` | `FOR UPDATE`, `FOR UPDATE OF d`, `FOR SHARE`, `FOR UPDATE OF d SKIP LOCKED`: SQLite has one writer |

use super::StoreError;
use super::pending::Pending;
pub(super) use super::pending::{NewDelivery, NewEvent};
use super::value::{Bound, from_postgres};
pub(super) use super::value::{Params, Row, Value, params};
use postgres::error::SqlState;
use postgres::types::ToSql;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// Where a transaction runs.
enum Backend<'a> {
    Sqlite(&'a rusqlite::Transaction<'a>),
    Postgres(RefCell<(postgres::Transaction<'a>, &'a mut Statements)>),
}

/// Prepared statements of one PostgreSQL connection, by how they are written here.
pub(super) type Statements = HashMap<String, postgres::Statement>;

/// A transaction on either.
pub(super) struct Transaction<'a> {
    backend: Backend<'a>,
    /// The edition of what is set, once it was asked for.
    edition: RefCell<Option<Rc<str>>>,
    /// The server behind the connection takes no writes.
    read_only: Cell<bool>,
    events: Pending<NewEvent>,
    deliveries: Pending<NewDelivery>,
    /// Where the job that is carried out began.
    savepoint: Cell<Savepoint>,
}

/// Rows of one statement on SQLite; fewer are written one by one.
const TOGETHER: usize = 16;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Savepoint {
    #[default]
    None,
    /// Nothing was done since.
    Unused,
    Used,
}

/// A statement of a transaction.
pub(super) struct Statement<'a, 't> {
    transaction: &'a Transaction<'t>,
    sql: &'a str,
}

impl<'t> Transaction<'t> {
    pub fn sqlite(transaction: &'t rusqlite::Transaction<'t>) -> Self {
        Self::over(Backend::Sqlite(transaction))
    }

    pub fn postgres(transaction: postgres::Transaction<'t>, statements: &'t mut Statements) -> Self {
        Self::over(Backend::Postgres(RefCell::new((transaction, statements))))
    }

    fn over(backend: Backend<'t>) -> Self {
        Self {
            backend,
            edition: RefCell::default(),
            read_only: Cell::default(),
            events: Pending::default(),
            deliveries: Pending::default(),
            savepoint: Cell::default(),
        }
    }

    /// Writes what is left to write, and commits.
    ///
    /// # Errors
    /// [`StoreError`]: PostgreSQL did not commit. SQLite's is its owner's to commit, unless this fails.
    pub fn commit(self) -> Result<(), StoreError> {
        if let Backend::Sqlite(t) = &self.backend
            && t.is_autocommit()
        {
            // As when the disk is full. What is left to write would be written by itself.
            return Err(StoreError::NotCommitted("SQLite has undone the transaction".to_owned()));
        }
        self.write_events()?;
        self.write_deliveries()?;
        match self.backend {
            Backend::Sqlite(_) => Ok(()),
            Backend::Postgres(held) => Ok(held.into_inner().0.commit()?),
        }
    }

    /// Carries a job out. One that fails changes nothing.
    ///
    /// # Errors
    /// The job's, and [`StoreError`].
    pub fn job<T>(&self, job: impl FnOnce(&Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match (self.savepoint.get(), &self.backend) {
            (Savepoint::Unused, _) => {}
            (Savepoint::None, _) => drop(self.execute("SAVEPOINT job", params![])?),
            (Savepoint::Used, Backend::Sqlite(_)) => {
                self.execute("RELEASE SAVEPOINT job", params![])?;
                self.execute("SAVEPOINT job", params![])?;
            }
            // One round trip for both.
            (Savepoint::Used, Backend::Postgres(_)) => self.execute_batch("RELEASE SAVEPOINT job; SAVEPOINT job")?,
        }
        self.events.begin();
        self.deliveries.begin();
        self.savepoint.set(Savepoint::Used);
        let done = job(self);
        if done.is_err() {
            self.execute_batch("ROLLBACK TO SAVEPOINT job")?;
            self.savepoint.set(Savepoint::Unused);
            self.events.undo();
            self.deliveries.undo();
        }
        done
    }

    /// Adds an event; it is written at the transaction's end, or before the first statement that names its table.
    pub fn add_event(&self, event: NewEvent) {
        self.events.add(event);
    }

    /// The same of a delivery.
    pub fn add_delivery(&self, delivery: NewDelivery) {
        self.deliveries.add(delivery);
    }

    /// Writes what the statement may read or change.
    fn write_for(&self, sql: &str) -> Result<(), StoreError> {
        if !self.events.is_empty() && sql.contains("events") {
            self.write_events()?;
        }
        if !self.deliveries.is_empty() && sql.contains("deliveries") {
            self.write_deliveries()?;
        }
        Ok(())
    }

    fn write_events(&self) -> Result<(), StoreError> {
        self.events.write(|events| {
            let texts = |of: fn(&NewEvent) -> &str| events.iter().map(of).collect::<Vec<_>>();
            if self.is_shared() {
                // Numbers are given in the order in which rows come.
                let sql = "INSERT INTO events (message, device, at_ms, hop, detail) SELECT * FROM unnest(
                     CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS bigint[]), CAST(?4 AS text[]), CAST(?5 AS text[]))";
                let at_ms: Vec<i64> = events.iter().map(|e| e.at_ms).collect();
                let (messages, devices) = (texts(|e| &e.message), texts(|e| &e.device));
                return self.write_arrays(sql, &[&messages, &devices, &at_ms, &texts(|e| e.hop), &texts(|e| &e.detail)]);
            }
            let sql = "INSERT INTO events (message, device, at_ms, hop, detail) VALUES ";
            let values = events.iter().map(|e| params![e.message, e.device, e.at_ms, e.hop, e.detail]);
            self.write_rows(sql, &values.collect::<Vec<_>>())
        })
    }

    fn write_deliveries(&self) -> Result<(), StoreError> {
        self.deliveries.write(|rows| {
            let texts = |of: fn(&NewDelivery) -> &str| rows.iter().map(of).collect::<Vec<_>>();
            if self.is_shared() {
                let sql = "INSERT OR IGNORE INTO deliveries (message, app, user, device, state, nonce, attempts, due_ms)
                     SELECT * FROM unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS text[]), CAST(?4 AS text[]),
                     CAST(?5 AS text[]), CAST(?6 AS text[]), CAST(?7 AS bigint[]), CAST(?8 AS bigint[]))";
                let attempts: Vec<i64> = rows.iter().map(|d| i64::from(d.attempts)).collect();
                let due_ms: Vec<Option<i64>> = rows.iter().map(|d| d.due_ms).collect();
                let (messages, apps, users) = (texts(|d| &d.message), texts(|d| &d.app), texts(|d| &d.user));
                let (devices, states, nonces) = (texts(|d| &d.device), texts(|d| d.state), texts(|d| &d.nonce));
                return self.write_arrays(
                    sql,
                    &[&messages, &apps, &users, &devices, &states, &nonces, &attempts, &due_ms],
                );
            }
            let sql =
                "INSERT OR IGNORE INTO deliveries (message, app, user, device, state, nonce, attempts, due_ms) VALUES ";
            let values = rows.iter().map(|d| {
                params![d.message, d.app, d.user, d.device, d.state, d.nonce, d.attempts, d.due_ms]
            });
            self.write_rows(sql, &values.collect::<Vec<_>>())
        })
    }

    fn write_arrays(&self, sql: &str, arrays: &[&(dyn ToSql + Sync)]) -> Result<(), StoreError> {
        let Backend::Postgres(held) = &self.backend else { return Ok(()) };
        let (t, statements) = &mut *held.borrow_mut();
        let statement = prepared(t, statements, sql)?;
        t.execute(&statement, arrays).inspect_err(|error| self.note(error))?;
        Ok(())
    }

    fn write_rows(&self, sql: &str, rows: &[Vec<Bound<'_>>]) -> Result<(), StoreError> {
        let row = format!("({})", vec!["?"; rows.first().map_or(0, Vec::len)].join(", "));
        let (one, many) = (format!("{sql}{row}"), format!("{sql}{}", vec![&*row; TOGETHER].join(", ")));
        let (whole, rest) = rows.as_chunks::<TOGETHER>();
        for rows in whole {
            self.execute(&many, rows.concat())?;
        }
        for row in rest {
            self.execute(&one, row.clone())?;
        }
        Ok(())
    }

    /// Whether transactions of others go on beside it.
    pub fn is_shared(&self) -> bool {
        matches!(self.backend, Backend::Postgres(_))
    }

    /// Waits until no other transaction holds any of these users, and holds them to its end.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn hold(&self, users: Vec<&str>) -> Result<(), StoreError> {
        let Backend::Postgres(held) = &self.backend else { return Ok(()) };
        if users.is_empty() {
            return Ok(());
        }
        let (t, statements) = &mut *held.borrow_mut();
        let sql = "SELECT pg_advisory_xact_lock(h) FROM
             (SELECT DISTINCT hashtextextended(u, 0) AS h FROM unnest(CAST(?1 AS text[])) AS u ORDER BY 1) AS s";
        let statement = prepared(t, statements, sql)?;
        t.query(&statement, &[&users])?;
        Ok(())
    }

    /// What `read` said when it was first asked in this transaction.
    ///
    /// # Errors
    /// `read`'s.
    pub fn edition(&self, read: impl FnOnce() -> Result<String, StoreError>) -> Result<Rc<str>, StoreError> {
        if let Some(edition) = &*self.edition.borrow() {
            return Ok(edition.clone());
        }
        let edition: Rc<str> = read()?.into();
        self.edition.replace(Some(edition.clone()));
        Ok(edition)
    }

    pub fn forget_edition(&self) {
        self.edition.replace(None);
    }

    /// Statements are prepared when they first run, and kept.
    #[allow(clippy::unnecessary_wraps, reason = "it reads as the databases' own")]
    pub fn prepare_cached<'a>(&'a self, sql: &'a str) -> Result<Statement<'a, 't>, StoreError> {
        Ok(Statement { transaction: self, sql })
    }

    /// # Errors
    /// [`StoreError`].
    pub fn execute<'p>(&self, sql: &str, params: impl Params<'p>) -> Result<usize, StoreError> {
        self.write_for(sql)?;
        let values = params.bound();
        match &self.backend {
            Backend::Sqlite(t) => {
                let mut statement = t.prepare_cached(sql)?;
                let changed = statement.execute(rusqlite::params_from_iter(values))?;
                debug_assert!(!prepared_anew(&statement), "{sql}");
                Ok(changed)
            }
            Backend::Postgres(held) => {
                let (t, statements) = &mut *held.borrow_mut();
                let statement = prepared(t, statements, sql)?;
                let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|v| v as &(dyn ToSql + Sync)).collect();
                let changed = t.execute(&statement, &values).inspect_err(|error| self.note(error))?;
                Ok(usize::try_from(changed).unwrap_or(usize::MAX))
            }
        }
    }

    /// # Errors
    /// [`StoreError`]; [`StoreError::NoRow`] when there is none.
    pub fn query_row<'p, T>(
        &self,
        sql: &str,
        params: impl Params<'p>,
        read: impl FnOnce(&mut Row) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        read(self.rows(sql, params)?.first_mut().ok_or(StoreError::NoRow)?)
    }

    /// # Errors
    /// [`StoreError`].
    pub fn execute_batch(&self, sql: &str) -> Result<(), StoreError> {
        match &self.backend {
            Backend::Sqlite(t) => Ok(t.execute_batch(sql)?),
            Backend::Postgres(held) => Ok(held.borrow_mut().0.batch_execute(&in_postgres(sql))?),
        }
    }

    fn note(&self, error: &postgres::Error) {
        if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) {
            self.read_only.set(true);
        }
    }

    /// Whether a write was refused because this server takes none now, as after a switchover: another connection may
    /// reach one that does.
    pub fn was_read_only(&self) -> bool {
        self.read_only.get()
    }

    fn rows<'p>(&self, sql: &str, params: impl Params<'p>) -> Result<Vec<Row>, StoreError> {
        self.write_for(sql)?;
        let values = params.bound();
        match &self.backend {
            Backend::Sqlite(t) => {
                let mut statement = t.prepare_cached(sql)?;
                let columns = statement.column_count();
                let rows = statement.query_map(rusqlite::params_from_iter(values), |row| {
                    (0..columns).map(|at| row.get::<_, Value>(at)).collect::<Result<Vec<_>, _>>().map(Row)
                })?;
                let rows = rows.collect::<Result<_, _>>()?;
                debug_assert!(!prepared_anew(&statement), "{sql}");
                Ok(rows)
            }
            Backend::Postgres(held) => {
                let (t, statements) = &mut *held.borrow_mut();
                let statement = prepared(t, statements, sql)?;
                let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|v| v as &(dyn ToSql + Sync)).collect();
                t.query(&statement, &values).inspect_err(|error| self.note(error))?.iter().map(from_postgres).collect()
            }
        }
    }
}

/// That costs more than most statements do.
fn prepared_anew(statement: &rusqlite::Statement<'_>) -> bool {
    statement.reset_status(rusqlite::StatementStatus::RePrepare) > 0
}

impl Statement<'_, '_> {
    /// # Errors
    /// As [`Transaction::query_row`].
    pub fn query_row<'p, T>(
        &self,
        params: impl Params<'p>,
        read: impl FnOnce(&mut Row) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.transaction.query_row(self.sql, params, read)
    }

    /// # Errors
    /// [`StoreError`].
    pub fn query_map<'p, T>(
        &self,
        params: impl Params<'p>,
        read: impl Fn(&mut Row) -> Result<T, StoreError>,
    ) -> Result<impl Iterator<Item = Result<T, StoreError>>, StoreError> {
        let rows = self.transaction.rows(self.sql, params)?;
        Ok(rows.into_iter().map(move |mut row| read(&mut row)))
    }

    /// # Errors
    /// [`StoreError`].
    pub fn execute<'p>(&self, params: impl Params<'p>) -> Result<usize, StoreError> {
        self.transaction.execute(self.sql, params)
    }
}

/// No row is `None`.
pub(super) trait OptionalExtension<T> {
    /// # Errors
    /// Every other error.
    fn optional(self) -> Result<Option<T>, StoreError>;
}

impl<T> OptionalExtension<T> for Result<T, StoreError> {
    fn optional(self) -> Result<Option<T>, StoreError> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(StoreError::NoRow) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn prepared(
    t: &mut postgres::Transaction<'_>,
    statements: &mut Statements,
    sql: &str,
) -> Result<postgres::Statement, StoreError> {
    if let Some(statement) = statements.get(sql) {
        return Ok(statement.clone());
    }
    let statement = t.prepare(&in_postgres(sql))?;
    statements.insert(sql.to_owned(), statement.clone());
    Ok(statement)
}

/// A statement in PostgreSQL's words.
pub(super) fn in_postgres(sql: &str) -> String {
    let ignores = sql.contains("INSERT OR IGNORE");
    let mut out = String::with_capacity(sql.len() + 32);
    let mut word = String::new();
    let mut quoted = false;
    let flush = |word: &mut String, out: &mut String| {
        out.push_str(if word == "user" { "\"user\"" } else { word });
        word.clear();
    };
    // An apostrophe in a comment quotes nothing.
    let said = sql.lines().filter(|line| !line.trim_start().starts_with("--"));
    for c in said.flat_map(|line| line.chars().chain(['\n'])) {
        if c == '\'' {
            quoted = !quoted;
        }
        if !quoted && (c.is_ascii_alphanumeric() || c == '_') {
            word.push(c);
        } else {
            flush(&mut word, &mut out);
            out.push(if c == '?' && !quoted { '$' } else { c });
        }
    }
    flush(&mut word, &mut out);
    let mut out = out
        .trim_end()
        .replace("INSERT OR IGNORE", "INSERT")
        .replace("/* lock */", "FOR UPDATE")
        .replace("/* lock d */", "FOR UPDATE OF d")
        .replace("/* share */", "FOR SHARE")
        .replace("/* claim */", "FOR UPDATE OF d SKIP LOCKED")
        .replace("WITHOUT ROWID", "")
        .replace("number INTEGER PRIMARY KEY", "number BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY")
        .replace("INTEGER", "BIGINT");
    if ignores {
        out.push_str(" ON CONFLICT DO NOTHING");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_put_into_the_other_databases_words() {
        for (written, there) in [
            ("SELECT user FROM users WHERE user = ?1", "SELECT \"user\" FROM users WHERE \"user\" = $1"),
            (
                "INSERT OR IGNORE INTO t (user) VALUES (?1)",
                "INSERT INTO t (\"user\") VALUES ($1) ON CONFLICT DO NOTHING",
            ),
            ("SELECT 'user?' FROM d /* claim */", "SELECT 'user?' FROM d FOR UPDATE OF d SKIP LOCKED"),
            ("-- A user's own.\nSELECT user", "SELECT \"user\""),
            (
                "CREATE TABLE t (number INTEGER PRIMARY KEY, n INTEGER)",
                "CREATE TABLE t (number BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n BIGINT)",
            ),
        ] {
            assert_eq!(in_postgres(written), there);
        }
    }

    #[test]
    fn events_are_written_in_the_order_of_their_jobs_and_a_failed_jobs_are_not() {
        let mut connection = rusqlite::Connection::open_in_memory().expect("a database");
        connection.execute_batch(include_str!("schema.sql")).expect("a schema");
        let transaction = connection.transaction().expect("begun");
        let t = Transaction::sqlite(&transaction);
        let add = |t: &Transaction<'_>, message: &str| {
            let (device, detail) = (String::new(), String::new());
            t.add_event(NewEvent { message: message.to_owned(), device, at_ms: 1, hop: "accepted", detail });
        };
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
        let found: Vec<String> = found.query_map([], |r| r.get(0)).expect("read").map(|m| m.expect("text")).collect();
        let more = (0..2 * TOGETHER + 3).map(|more| format!("more {more}"));
        let expected: Vec<String> = ["first", "second"].map(str::to_owned).into_iter().chain(more).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn of_a_transaction_that_sqlite_has_undone_nothing_is_written_at_its_end() {
        let mut connection = rusqlite::Connection::open_in_memory().expect("a database");
        connection.execute_batch(include_str!("schema.sql")).expect("a schema");
        let transaction = connection.transaction().expect("begun");
        let t = Transaction::sqlite(&transaction);
        let (message, device, detail) = ("lost".to_owned(), String::new(), String::new());
        t.add_event(NewEvent { message, device, at_ms: 1, hop: "accepted", detail });
        t.execute_batch("ROLLBACK").expect("undone");
        assert!(matches!(t.commit(), Err(StoreError::NotCommitted(_))));
        let left: i64 = transaction.query_row("SELECT count(*) FROM events", [], |r| r.get(0)).expect("counted");
        assert_eq!(left, 0);
    }
}
