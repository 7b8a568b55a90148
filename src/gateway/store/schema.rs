//! A database's version, and how it grows from one to the next.

use super::sql::in_postgres;
use super::{StoreError, partitions, shape};
use postgres::{Client, IsolationLevel};
use rusqlite::Connection;

/// A database's version as this gateway writes it, and what makes a new one.
const VERSION: usize = 12;
const SCHEMA: &str = include_str!("schema.sql");
const OF_SQLITE: &str = include_str!("schema-sqlite.sql");
/// The oldest version that is taken over, and what makes the next one of each.
const OLDEST: usize = 9;
const STEPS: [&str; VERSION - OLDEST] = [include_str!("schema-from-9.sql"), include_str!("schema-from-10.sql"), ""];
/// Before it messages were in one piece on PostgreSQL.
const DIVIDED: usize = 12;

/// Makes a new file's tables, or takes an older one over.
///
/// # Errors
/// [`StoreError::Version`] where that cannot be done, and what the database says.
pub(super) fn grow_sqlite(connection: &mut Connection) -> Result<(), StoreError> {
    let known: u32 = connection.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    let steps = steps_from(known as usize)?;
    if !steps.is_empty() {
        let transaction = connection.transaction()?;
        steps.iter().try_for_each(|step| transaction.execute_batch(step))?;
        transaction.pragma_update(None, "user_version", VERSION as i64)?;
        shape::check_sqlite(&transaction, SCHEMA)?;
        transaction.commit()?;
    }
    shape::check_sqlite(connection, SCHEMA)?;
    arrange(connection)
}

/// Gives a file the index that only SQLite has, unless it has it.
fn arrange(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let sql = "SELECT count(*) FROM sqlite_master WHERE name = 'deliveries_places'";
    if transaction.query_row(sql, [], |r| r.get::<_, i64>(0))? == 0 {
        transaction.execute_batch(OF_SQLITE)?;
    }
    Ok(transaction.commit()?)
}

/// The same of a PostgreSQL, whose encoding has to be UTF-8.
///
/// # Errors
/// As [`grow_sqlite`].
pub(super) fn grow_postgres(client: &mut Client) -> Result<(), StoreError> {
    let mut t = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start()?;
    let encoding: String = t.query_one("SHOW server_encoding", &[])?.get(0);
    if encoding != "UTF8" {
        return Err(StoreError::Version(format!(
            "its encoding is {encoding}, which does not hold every text; make one with `createdb --encoding=UTF8 --template=template0`"
        )));
    }
    // Several gateways may start at once; the number is this schema's own.
    // To grow a large one, or to wait for who does, takes its time.
    t.batch_execute("SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock(7466001)")?;
    // A role that may create nothing serves on a schema that is complete.
    if t.query_one("SELECT to_regclass('schema_version') IS NULL", &[])?.get(0) {
        t.batch_execute("CREATE TABLE schema_version (version BIGINT NOT NULL)")?;
    }
    let known = t.query_opt("SELECT max(version) FROM schema_version", &[])?;
    let known = known.and_then(|row| row.get::<_, Option<i64>>(0)).unwrap_or(0);
    let steps = steps_from(usize::try_from(known).unwrap_or(0))?;
    if !steps.is_empty() {
        steps.iter().try_for_each(|step| t.batch_execute(&in_postgres(step)))?;
        if known < DIVIDED as i64 {
            partitions::divide(&mut t)?;
        }
        t.execute("INSERT INTO schema_version (version) VALUES ($1)", &[&(VERSION as i64)])?;
    }
    shape::check_postgres(&mut t, SCHEMA)?;
    Ok(t.commit()?)
}

/// What makes a database of this version of one of that.
fn steps_from(known: usize) -> Result<&'static [&'static str], StoreError> {
    match known {
        0 => Ok(&[SCHEMA]),
        OLDEST..=VERSION => Ok(&STEPS[known - OLDEST..]),
        newer if newer > VERSION => Err(StoreError::Version(format!(
            "the database is of version {newer}, this gateway knows {VERSION}; use the newer gateway"
        ))),
        older => Err(StoreError::Version(format!(
            "the database is of version {older}, of before the first release, and none older than {OLDEST} is taken over; \
             start the gateway that wrote it once with the release before this one, or give this one an empty database"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::store::{Store, Vault};
    use std::path::Path;

    fn opened(home: &Path, version: u32) -> Result<Store, StoreError> {
        let path = home.join("db");
        let connection = Connection::open(&path).expect("a file");
        connection.execute_batch(include_str!("../../../tests/fixtures/store/version-9.sql")).expect("made");
        connection.pragma_update(None, "user_version", version).expect("set");
        drop(connection);
        Store::open(&path, Vault::open(&home.join("key"), true).expect("a key"))
    }

    #[tokio::test]
    async fn the_version_before_is_taken_over_with_its_messages_and_traces() {
        let home = tempfile::tempdir().expect("a directory");
        let store = opened(home.path(), 9).expect("taken over");
        let trace = store.trace("o#a".into(), "m".into()).await.expect("a trace");
        let said: Vec<_> = trace.iter().map(|line| (line.at_ms, line.hop.as_str())).collect();
        assert_eq!(said, [(10, "accepted"), (20, "published"), (30, "acked")]);
    }

    #[tokio::test]
    async fn a_version_that_is_neither_known_nor_taken_over_is_refused_with_what_to_do() {
        let unfinished = "a build from between two releases";
        for (version, says) in [(5, "none older than 9 is taken over"), (10, unfinished), (99, "use the newer gateway")]
        {
            let home = tempfile::tempdir().expect("a directory");
            let refused = opened(home.path(), version).err().map(|error| error.to_string());
            assert!(refused.as_ref().is_some_and(|why| why.contains(says)), "{version}: {refused:?}");
        }
    }
}
