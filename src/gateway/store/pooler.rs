//! Whether a pooler stands before PostgreSQL that gives each transaction another connection, and what is lost behind it.
//!
//! Statements are prepared once a connection. Behind a pooler that does not keep them they are missing on the next connection, or, worse,
//! what another gateway prepared under the same name is there.

use super::StoreError;
use crate::secret::random_hex;
use postgres::error::SqlState;
use postgres::{Client, SimpleQueryMessage};
use tracing::warn;

/// Looks at connections that others use meanwhile: one that finds nothing proves little.
const LOOKS: usize = 4;

/// What stands between two connections and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// Nothing, or what is as good.
    Kept,
    /// A pooler in transaction mode, which keeps prepared statements all the same.
    Shared,
}

/// Two connections of the gateway's are looked at from the server's side.
///
/// # Errors
/// [`StoreError::Version`]: behind this pooler statements would be mixed up.
pub(super) fn look(one: &mut Client, other: &mut Client) -> Result<Session, StoreError> {
    if !is_shared(one, other)? {
        return Ok(Session::Kept);
    }
    if !keeps_statements(one, other)? {
        return Err(StoreError::Version(
            "the pooler at store.url gives each transaction another connection and keeps no prepared statements; with pgbouncer from 1.21 \
             set `max_prepared_statements = 200`, with an older one `pool_mode = session` for this database, or leave it out"
                .to_owned(),
        ));
    }
    let deadline = ask(one, "SHOW statement_timeout")?.unwrap_or_default();
    warn!(
        event = "store.pooled",
        statement_timeout = deadline,
        "a pooler in transaction mode stands before the database: no notices come through it, and a statement's deadline is the role's"
    );
    Ok(Session::Shared)
}

/// The same server process for two connections, or another for the same one.
fn is_shared(one: &mut Client, other: &mut Client) -> Result<bool, StoreError> {
    let process = |client: &mut Client| ask(client, "SELECT pg_backend_pid()");
    let (first, second) = (process(one)?, process(other)?);
    for _ in 0..LOOKS {
        // Not in turns: a pooler that goes around would look as if each had its own.
        if first == second || process(other)? != second || process(one)? != first {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a prepared statement comes along from one server process to the next.
fn keeps_statements(one: &mut Client, other: &mut Client) -> Result<bool, StoreError> {
    let mark = random_hex::<8>();
    let text = format!("SELECT '{mark}'");
    let missing = |error: &postgres::Error| error.code() == Some(&SqlState::INVALID_SQL_STATEMENT_NAME);
    let statement = match one.prepare(&text) {
        Ok(statement) => statement,
        // The server process changes even between the parts of this.
        Err(error) if missing(&error) || error.code() == Some(&SqlState::DUPLICATE_PSTATEMENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    for _ in 0..LOOKS {
        // A pooler that keeps them gives them names of its own, for all; the driver's are `s` and a number.
        let named = ask(
            other,
            &format!("SELECT name FROM pg_prepared_statements WHERE statement = '{}'", text.replace('\'', "''")),
        )?;
        if let Some(name) = named {
            return Ok(!name.trim_start_matches('s').chars().all(|c| c.is_ascii_digit()));
        }
        // Another's transaction may hold what was looked at.
        match one.query(&statement, &[]) {
            Ok(_) => {}
            Err(error) if missing(&error) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// The first column of the first row, without preparing anything.
fn ask(client: &mut Client, sql: &str) -> Result<Option<String>, StoreError> {
    let said = client.simple_query(sql)?;
    Ok(said.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}
