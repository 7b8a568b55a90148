//! A statement of SQLite that runs for many rows: it is looked for once, by its text, and not for each of them.

use super::StoreError;
use super::usage::Usage;
use super::value::{Bound, Row, Value};
use rusqlite::{CachedStatement, StatementStatus, params_from_iter};

/// Runs statements one after the other; mostly the same.
pub(super) struct Repeated<'a> {
    transaction: &'a rusqlite::Transaction<'a>,
    usage: &'a Usage,
    /// The last one, and its text.
    last: Option<(&'a str, CachedStatement<'a>)>,
}

impl<'a> Repeated<'a> {
    pub const fn new(transaction: &'a rusqlite::Transaction<'a>, usage: &'a Usage) -> Self {
        Self { transaction, usage, last: None }
    }

    fn statement(&mut self, sql: &'a str) -> Result<&mut CachedStatement<'a>, StoreError> {
        self.usage.statement();
        let last = match self.last.take() {
            Some((text, statement)) if std::ptr::eq(text, sql) => (text, statement),
            _ => (sql, self.transaction.prepare_cached(sql)?),
        };
        Ok(&mut self.last.insert(last).1)
    }

    /// Returns how many rows it has changed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn execute(&mut self, sql: &'a str, values: &[Bound<'_>]) -> Result<usize, StoreError> {
        let statement = self.statement(sql)?;
        let changed = statement.execute(params_from_iter(values))?;
        debug_assert!(!prepared_anew(statement), "{sql}");
        Ok(changed)
    }

    /// # Errors
    /// [`StoreError`], and what reading a row comes to.
    pub fn query(
        &mut self,
        sql: &'a str,
        values: &[Bound<'_>],
        mut each: impl FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let statement = self.statement(sql)?;
        let columns = statement.column_count();
        let mut rows = statement.query(params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            // A collected result knows nothing of its length, and would grow to it.
            let mut values = Vec::with_capacity(columns);
            for at in 0..columns {
                values.push(row.get::<_, Value>(at)?);
            }
            each(Row(values))?;
        }
        drop(rows);
        debug_assert!(!prepared_anew(statement), "{sql}");
        Ok(())
    }
}

/// That costs more than most statements do.
fn prepared_anew(statement: &rusqlite::Statement<'_>) -> bool {
    statement.reset_status(StatementStatus::RePrepare) > 0
}
