//! What happened to each message, hop by hop: numbered events that are only ever added.

use super::pending::NewEvent;
use super::sql::{OptionalExtension as _, Transaction, params};
use super::{Store, StoreError, as_i64, as_u64, turn_of};
use crate::delivery::Hop;
use crate::protocol::Message;
use serde::Serialize;

/// One line of a message's trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TraceLine {
    pub at_ms: u64,
    pub device: String,
    pub hop: String,
    pub detail: String,
}

/// Adds an event.
pub(super) fn note(t: &Transaction<'_>, message: &str, device: &str, now_ms: u64, hop: Hop, detail: &str) {
    t.unwritten.events.add(NewEvent {
        message: message.to_owned(),
        device: device.to_owned(),
        at_ms: as_i64(now_ms),
        hop: hop.as_str(),
        detail: detail.to_owned(),
    });
}

/// Whether a message's trace says just that of this device.
///
/// # Errors
/// [`StoreError`].
pub(super) fn has(
    t: &Transaction<'_>,
    message: &str,
    device: &str,
    hop: Hop,
    detail: &str,
) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM events WHERE message = ?1 AND device = ?2 AND hop = ?3 AND detail = ?4 LIMIT 1";
    let found = t.prepare_cached(sql)?.query_row(params![message, device, hop.as_str(), detail], |r| r.get::<i64>(0));
    Ok(found.optional()?.is_some())
}

impl Store {
    /// # Errors
    /// [`StoreError`].
    pub async fn trace(&self, app: String, id: String) -> Result<Vec<TraceLine>, StoreError> {
        self.run_in(turn_of(&app), move |t| {
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
                .prepare_cached("SELECT at_ms, device, hop, detail FROM events WHERE message = ?1 ORDER BY number")?
                .query_map([&id], |r| {
                    Ok(TraceLine { at_ms: as_u64(r.get(0)?), device: r.get(1)?, hop: r.get(2)?, detail: r.get(3)? })
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
