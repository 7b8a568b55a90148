//! Whether a database has what the schema makes: a build from between two releases may have written it under this version's
//! number, and every statement would fail.

use super::StoreError;
use postgres::GenericClient;
use rusqlite::Connection;
use std::collections::BTreeSet;

/// Each table's columns.
type Shape = BTreeSet<(String, String)>;

fn of_sqlite(connection: &Connection) -> Result<Shape, StoreError> {
    let mut statement = connection.prepare(
        "SELECT t.name, c.name FROM sqlite_master t JOIN pragma_table_info(t.name) c WHERE t.type = 'table'",
    )?;
    let columns = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?;
    Ok(columns.collect::<Result<_, _>>()?)
}

/// # Errors
/// [`StoreError::Version`]: something is missing.
pub(super) fn check_sqlite(connection: &Connection, schema: &str) -> Result<(), StoreError> {
    check(schema, &of_sqlite(connection)?)
}

/// # Errors
/// As [`check_sqlite`].
pub(super) fn check_postgres(client: &mut impl GenericClient, schema: &str) -> Result<(), StoreError> {
    let columns = client.query(
        "SELECT table_name::TEXT, column_name::TEXT FROM information_schema.columns WHERE table_schema = ANY (current_schemas(false))",
        &[],
    )?;
    check(schema, &columns.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn check(schema: &str, found: &Shape) -> Result<(), StoreError> {
    let made = Connection::open_in_memory()?;
    made.execute_batch(schema)?;
    match of_sqlite(&made)?.difference(found).next() {
        None => Ok(()),
        Some((table, column)) => Err(StoreError::Version(format!(
            "it has no {table}.{column}: a build from between two releases has written it; go on with that one, or give this \
             one an empty database"
        ))),
    }
}
