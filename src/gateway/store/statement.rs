//! A statement of a transaction, as its callers see it.

use super::StoreError;
use super::sql::Transaction;
use super::value::{Params, Row};

/// A statement of a transaction.
pub(super) struct Statement<'a, 't> {
    transaction: &'a Transaction<'t>,
    sql: &'a str,
}

impl<'a, 't> Statement<'a, 't> {
    pub const fn new(transaction: &'a Transaction<'t>, sql: &'a str) -> Self {
        Self { transaction, sql }
    }

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
