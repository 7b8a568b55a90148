//! What time it is at a database that several gateways share.

use super::sql::params;
use super::{Store, StoreError, as_u64};
use crate::gateway::clock::Measured;
use std::time::Instant;

impl Store {
    /// `None` for a file of one's own: it has no clock.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn time(&self) -> Result<Option<Measured>, StoreError> {
        if !self.is_shared() {
            return Ok(None);
        }
        self.run(|t| {
            let asked = Instant::now();
            // `now()` would be the beginning of the transaction.
            let sql = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";
            let store_ms: i64 = t.query_row(sql, params![], |row| row.get(0))?;
            Ok(Some(Measured { store_ms: as_u64(store_ms), asked, answered: Instant::now() }))
        })
        .await
    }
}
