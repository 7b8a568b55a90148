//! What happened to each message, hop by hop, and the end of both when their time is over.

use super::sql::{OptionalExtension as _, Transaction, params};
use super::{Store, StoreError, as_i64, as_u64};
use crate::gateway::delivery::Hop;
use crate::ids::MessageId;
use crate::protocol::Message;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// One line of a message's trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TraceLine {
    pub at_ms: u64,
    pub device: String,
    pub hop: String,
    pub detail: String,
}

/// Numbers the hops of one millisecond, so that they keep their order.
static NUMBER: AtomicU64 = AtomicU64::new(0);
/// Hops one millisecond has numbers for.
const NUMBERS: u64 = 1_000_000;

pub(super) fn note(
    t: &Transaction<'_>,
    message: &str,
    device: &str,
    now_ms: u64,
    hop: Hop,
    detail: &str,
) -> Result<(), StoreError> {
    let at = now_ms * NUMBERS + NUMBER.fetch_add(1, Ordering::Relaxed) % NUMBERS;
    // Two gateways may hit the same number once in an age; a line of a trace is not worth an error.
    t.prepare_cached("INSERT OR IGNORE INTO hops (message, at, device, hop, detail) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![message, as_i64(at), device, hop.as_str(), detail])?;
    Ok(())
}

impl Store {
    /// Removes expired messages with their deliveries and traces. Returns how many went, and how many of
    /// them some device had not taken.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sweep(&self, keep_s: u64, now_ms: u64) -> Result<(usize, usize), StoreError> {
        self.run(move |t| {
            let before = MessageId::from_ms(now_ms.saturating_sub(keep_s * 1000));
            let gone: Vec<String> = t
                .prepare_cached("SELECT id FROM messages WHERE id < ?1 AND expires_ms <= ?2 ORDER BY id LIMIT 1000")?
                .query_map(params![before, as_i64(now_ms)], |r| r.get(0))?
                .collect::<Result<_, _>>()?;
            let mut missed = 0;
            for id in &gone {
                let open: bool = t
                    .prepare_cached("SELECT EXISTS (SELECT 1 FROM deliveries WHERE message = ?1 AND state <> 'done')")?
                    .query_row([id], |r| r.get(0))?;
                missed += usize::from(open);
                for table in ["deliveries WHERE message", "hops WHERE message", "messages WHERE id"] {
                    t.execute(&format!("DELETE FROM {table} = ?1"), [id])?;
                }
            }
            super::limits::sweep(t, now_ms)?;
            Ok((gone.len(), missed))
        })
        .await
    }

    /// # Errors
    /// [`StoreError`].
    pub async fn trace(&self, app: String, id: String) -> Result<Vec<TraceLine>, StoreError> {
        self.run(move |t| {
            // A trace is its own app's affair, for as long as the message is kept.
            let found: Option<(String, String, i64)> = t
                .query_row("SELECT app, message, accepted_ms FROM messages WHERE id = ?1", [&id], |r| {
                    Ok((r.get(0)?, r.get(1)?, r.get(2)?))
                })
                .optional()?;
            let Some((_, body, accepted_ms)) = found.filter(|(owner, ..)| *owner == app) else {
                return Ok(Vec::new());
            };
            let mut rows: Vec<TraceLine> = t
                .prepare_cached("SELECT at, device, hop, detail FROM hops WHERE message = ?1 ORDER BY at")?
                .query_map([&id], |r| {
                    Ok(TraceLine {
                        at_ms: as_u64(r.get(0)?) / NUMBERS,
                        device: r.get(1)?,
                        hop: r.get(2)?,
                        detail: r.get(3)?,
                    })
                })?
                .collect::<Result<_, _>>()?;
            // The message itself says this much; earlier versions wrote it twice.
            if rows.first().is_none_or(|first| first.hop != Hop::Accepted.as_str()) {
                let from =
                    serde_json::from_str::<Message>(&body).map_or_else(|e| e.to_string(), |message| message.from);
                let accepted = Hop::Accepted.as_str().to_owned();
                let (device, detail) = (String::new(), format!("from {from}"));
                rows.insert(0, TraceLine { at_ms: as_u64(accepted_ms), device, hop: accepted, detail });
            }
            Ok(rows)
        })
        .await
    }
}
