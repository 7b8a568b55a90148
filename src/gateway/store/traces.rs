//! What happened to each message, hop by hop, and the end of both when their time is over.

use super::sql::{OptionalExtension as _, Transaction, params};
use super::{Store, StoreError, as_i64, as_u64};
use crate::gateway::delivery::Hop;
use serde::Serialize;

/// One line of a message's trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TraceLine {
    pub at_ms: u64,
    pub device: String,
    pub hop: String,
    pub detail: String,
}

pub(super) fn note(
    t: &Transaction<'_>,
    message: &str,
    device: &str,
    now_ms: u64,
    hop: Hop,
    detail: &str,
) -> Result<(), StoreError> {
    t.prepare_cached("INSERT INTO trace (message, device, at_ms, hop, detail) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![message, device, as_i64(now_ms), hop.as_str(), detail])?;
    Ok(())
}

impl Store {
    /// Removes expired messages with their deliveries; their traces stay as long again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sweep(&self, keep_s: u64, now_ms: u64) -> Result<usize, StoreError> {
        self.run(move |t| {
            let gone: Vec<String> = t
                .prepare_cached("SELECT id FROM messages WHERE expires_ms <= ?1 LIMIT 1000")?
                .query_map([as_i64(now_ms)], |r| r.get(0))?
                .collect::<Result<_, _>>()?;
            for id in &gone {
                let open: i64 =
                    t.query_row("SELECT count(*) FROM deliveries WHERE message = ?1 AND state <> 'done'", [id], |r| {
                        r.get(0)
                    })?;
                if open > 0 {
                    note(t, id, "", now_ms, Hop::Expired, "never acknowledged")?;
                }
                t.execute("DELETE FROM deliveries WHERE message = ?1", [id])?;
                t.execute("DELETE FROM messages WHERE id = ?1", [id])?;
            }
            let before = now_ms.saturating_sub(keep_s.saturating_mul(2000));
            t.execute("DELETE FROM trace WHERE at_ms < ?1", [as_i64(before)])?;
            Ok(gone.len())
        })
        .await
    }

    /// # Errors
    /// [`StoreError`].
    pub async fn trace(&self, app: String, id: String) -> Result<Vec<TraceLine>, StoreError> {
        self.run(move |t| {
            // A trace is its own app's affair, for as long as the message is kept.
            let owner: Option<String> =
                t.query_row("SELECT app FROM messages WHERE id = ?1", [&id], |r| r.get(0)).optional()?;
            if owner.as_ref() != Some(&app) {
                return Ok(Vec::new());
            }
            let rows = t
                .prepare_cached("SELECT at_ms, device, hop, detail FROM trace WHERE message = ?1 ORDER BY id")?
                .query_map([&id], |r| {
                    Ok(TraceLine { at_ms: as_u64(r.get(0)?), device: r.get(1)?, hop: r.get(2)?, detail: r.get(3)? })
                })?
                .collect::<Result<_, _>>()?;
            Ok(rows)
        })
        .await
    }
}
