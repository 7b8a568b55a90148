//! Transactions and statements on SQLite or PostgreSQL, by the same calls.

use super::StoreError;
use super::kept::Kept;
use super::pending::Unwritten;
use super::repeated::Repeated;
pub(super) use super::statement::Statement;
use super::usage::Usage;
use super::value::{Bound, from_postgres};
pub(super) use super::value::{OptionalExtension, Params, Row, params};
use super::words::OPEN;
pub(super) use super::words::in_postgres;
use postgres::error::SqlState;
use postgres::types::ToSql;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

mod many;

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
    /// Its commit removes files.
    removes_files: Cell<bool>,
    pub unwritten: Unwritten,
    /// Of SQLite.
    pub kept: Option<&'a Kept>,
    usage: Usage,
    /// Where the job that is carried out began.
    savepoint: Cell<Savepoint>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Savepoint {
    #[default]
    None,
    /// Nothing was written since: another job may begin there too.
    Unused,
    Used,
}

impl<'t> Transaction<'t> {
    pub fn sqlite(transaction: &'t rusqlite::Transaction<'t>, usage: &Usage, kept: &'t Kept) -> Self {
        Self { kept: Some(kept), ..Self::over(Backend::Sqlite(transaction), usage) }
    }

    pub fn postgres(transaction: postgres::Transaction<'t>, statements: &'t mut Statements, usage: &Usage) -> Self {
        Self::over(Backend::Postgres(RefCell::new((transaction, statements))), usage)
    }

    fn over(backend: Backend<'t>, usage: &Usage) -> Self {
        Self {
            backend,
            edition: RefCell::default(),
            read_only: Cell::default(),
            removes_files: Cell::default(),
            unwritten: Unwritten::default(),
            kept: None,
            usage: usage.clone(),
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
        // What fails from here on undoes all: SQLite need not copy each page that is written, to undo it alone.
        if !self.is_shared() && self.savepoint.replace(Savepoint::None) != Savepoint::None {
            self.execute_now("RELEASE SAVEPOINT job", Vec::new())?;
        }
        self.unwritten.write(&self)?;
        self.kept.map_or(Ok(()), |kept| kept.mark(&self))?;
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
        self.unwritten.begin();
        // Each statement costs PostgreSQL a round trip.
        self.savepoint.set(if self.is_shared() { Savepoint::Unused } else { Savepoint::Used });
        let done = job(self);
        if done.is_err() {
            self.execute_batch("ROLLBACK TO SAVEPOINT job")?;
            self.savepoint.set(Savepoint::Unused);
            self.unwritten.undo();
            self.kept.into_iter().for_each(Kept::undo);
        }
        done
    }

    /// A statement is sent to PostgreSQL. What only reads leaves nothing to undo.
    fn sends(&self, only_reads: bool) {
        self.usage.statement();
        if !only_reads {
            self.savepoint.set(Savepoint::Used);
        }
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
        self.usage.statement();
        let (t, statements) = &mut *held.borrow_mut();
        // The edition comes with it: nearly every transaction that holds users asks for it next.
        let sql = "SELECT pg_advisory_xact_lock(h), (SELECT value FROM meta WHERE key = 'edition') FROM
             (SELECT DISTINCT hashtextextended(u, 0) AS h FROM unnest(CAST(?1 AS text[])) AS u ORDER BY 1) AS s";
        let statement = prepared(t, statements, sql)?;
        let held = t.query(&statement, &[&users])?;
        if let Some(row) = held.first() {
            let edition: Option<String> = row.try_get(1)?;
            self.edition.borrow_mut().get_or_insert_with(|| edition.unwrap_or_default().into());
        }
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
        Ok(Statement::new(self, sql))
    }

    /// What a statement may read or change is where it looks for it.
    fn ready_for(&self, sql: &str, values: &[Bound<'_>]) -> Result<(), StoreError> {
        self.unwritten.write_for(self, sql)?;
        if self.kept.is_some() && sql.contains(OPEN) { self.enter_kept(values) } else { Ok(()) }
    }

    /// What lies on devices' disks is found by a statement that looks for what is open to a user.
    fn enter_kept(&self, values: &[Bound<'_>]) -> Result<(), StoreError> {
        match (self.kept, values) {
            (Some(kept), [Bound::Text(app), Bound::Text(user), ..]) => {
                kept.enter(self, &((*app).to_owned(), (*user).to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// [`StoreError`].
    pub fn execute<'p>(&self, sql: &str, params: impl Params<'p>) -> Result<usize, StoreError> {
        let values = params.bound();
        self.ready_for(sql, &values)?;
        self.execute_now(sql, values)
    }

    /// The same, before what is not written yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn execute_now(&self, sql: &str, values: Vec<Bound<'_>>) -> Result<usize, StoreError> {
        match &self.backend {
            Backend::Sqlite(t) => Repeated::new(t, &self.usage).execute(sql, &values),
            Backend::Postgres(held) => {
                // A question may be carried out for what it does, as a notice.
                self.sends(false);
                let (t, statements) = &mut *held.borrow_mut();
                let statement = prepared(t, statements, sql)?;
                let changed = t.execute(&statement, &references(&values)).inspect_err(|error| self.note(error))?;
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
        self.sends(false);
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

    /// Drops tables: its commit may take as long as their files take to go.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn drop_tables(&self, names: &[String]) -> Result<(), StoreError> {
        self.removes_files.set(true);
        self.execute_batch(&format!("DROP TABLE IF EXISTS {}", names.join(", ")))
    }

    pub fn removes_files(&self) -> bool {
        self.removes_files.get()
    }

    pub fn rows<'p>(&self, sql: &str, params: impl Params<'p>) -> Result<Vec<Row>, StoreError> {
        let values = params.bound();
        self.ready_for(sql, &values)?;
        match &self.backend {
            Backend::Sqlite(t) => {
                let mut rows = Vec::new();
                Repeated::new(t, &self.usage).query(sql, &values, |row| {
                    rows.push(row);
                    Ok(())
                })?;
                Ok(rows)
            }
            Backend::Postgres(held) => {
                self.sends(is_question(sql));
                let (t, statements) = &mut *held.borrow_mut();
                let statement = prepared(t, statements, sql)?;
                t.query(&statement, &references(&values))
                    .inspect_err(|error| self.note(error))?
                    .iter()
                    .map(from_postgres)
                    .collect()
            }
        }
    }
}

/// Whether a statement that is asked for rows changes none, and holds none.
fn is_question(sql: &str) -> bool {
    // What is held is let go with what is undone.
    sql.starts_with("SELECT") && !sql.contains("/* ")
}

fn references<T: ToSql + Sync>(values: &[T]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
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
