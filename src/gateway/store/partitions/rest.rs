//! How partitions are made beside a large rest: PostgreSQL would look through all of it while everybody waits, unless a constraint says
//! that nothing of theirs lies there, which it can be shown to keep to while everything goes on.

use super::{REST_MOST, Table, WITHIN, take_turn};
use crate::gateway::store::sql::{Transaction, params};
use crate::gateway::store::{Store, StoreError};
use crate::ids::MessageId;

/// # Errors
/// [`StoreError`].
pub(super) fn is_large(t: &Transaction<'_>) -> Result<bool, StoreError> {
    let sql = "SELECT CAST(COALESCE(max(pg_relation_size(partdefid)), 0) AS BIGINT) FROM pg_partitioned_table
         WHERE partrelid IN (to_regclass('messages'), to_regclass('deliveries'), to_regclass('events'))";
    Ok(t.query_row(sql, params![], |r| r.get::<i64>(0))? > REST_MOST)
}

fn name(table: Table) -> String {
    format!("{}_until", table.rest())
}

/// Whether each rest is known to hold nothing from this moment on.
///
/// # Errors
/// [`StoreError`].
pub(super) fn ends(t: &Transaction<'_>, until_ms: u64) -> Result<bool, StoreError> {
    let sql = "SELECT count(*) FROM pg_constraint WHERE conrelid = to_regclass(?1) AND CAST(conname AS text) = ?2 AND convalidated
         AND pg_get_constraintdef(oid) LIKE ?3";
    let until = format!("%{}%", MessageId::from_ms(until_ms));
    for table in Table::ALL {
        if t.query_row(sql, params![table.rest(), name(table), until], |r| r.get::<i64>(0))? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Nothing is refused by what was said of a rest, for whoever has the tables to itself.
///
/// # Errors
/// [`StoreError`].
pub(super) fn open(t: &Transaction<'_>) -> Result<(), StoreError> {
    let sql = "SELECT count(*) FROM pg_constraint WHERE conrelid = to_regclass(?1) AND CAST(conname AS text) = ?2";
    for table in Table::ALL {
        let (rest, name) = (table.rest(), name(table));
        if t.query_row(sql, params![rest, name], |r| r.get::<i64>(0))? > 0 {
            t.execute_batch(&format!("ALTER TABLE {rest} DROP CONSTRAINT {name}"))?;
        }
    }
    Ok(())
}

impl Store {
    /// Has each rest end at this moment, for as long as it takes to make what begins there. Whoever fails in between opens them again, as
    /// does whoever comes to make partitions next.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn end_rest(&self, until_ms: u64) -> Result<bool, StoreError> {
        let begun = self.run_alone(move |t| {
            if !take_turn(t)? {
                return Ok(false);
            }
            t.execute_batch(WITHIN)?;
            open(t)?;
            let until = MessageId::from_ms(until_ms);
            for table in Table::ALL {
                let (rest, name, column) = (table.rest(), name(table), table.column());
                t.execute_batch(&format!(
                    "ALTER TABLE {rest} ADD CONSTRAINT {name} CHECK ({column} < '{until}') NOT VALID"
                ))?;
            }
            Ok(true)
        });
        if !begun.await? {
            return Ok(false);
        }
        for table in Table::ALL {
            let look = format!("ALTER TABLE {} VALIDATE CONSTRAINT {}", table.rest(), name(table));
            // It is looked through beside everything.
            self.run_alone(move |t| t.execute_batch(&look)).await?;
        }
        Ok(true)
    }

    /// Whatever became of that.
    pub(super) async fn open_rest(&self) -> Result<(), StoreError> {
        self.run_alone(|t| {
            t.execute_batch(WITHIN)?;
            open(t)
        })
        .await
    }
}
