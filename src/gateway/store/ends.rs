//! What leaves the queue: messages that are too many for their device, and those whose time is over.

use super::decided::Of;
use super::pairs::{self, Place, Recall, columns};
use super::partitions::undivided;
use super::room::Room;
use super::sql::{Transaction, params};
use super::value::Bound;
use super::{Store, StoreError, as_i64, as_u64};
use crate::delivery::{Device, Event, Pair, Rules};
use crate::ids::MessageId;
use std::collections::HashSet;

/// Messages looked at in one transaction.
const BATCH: u32 = 500;

/// What a look at what is over led to.
#[derive(Debug, Default)]
pub struct Swept {
    /// Messages that some device had not taken when their time was over.
    pub missed: usize,
    pub recalls: Vec<Recall>,
    /// There may be more of it.
    pub more: bool,
}

/// Lets the oldest go where more wait for a device than are kept; never one that is still on its way to
/// the device or its vendor. Some more go at once, so that a full device does not pay for each message, and not so many
/// that others notice. For when [`Room`] knows of no place.
pub(super) fn evict(
    t: &Transaction<'_>,
    room: &Room,
    (place, device): (Place<'_>, &Device),
    rules: Rules,
    now_ms: u64,
) -> Result<Vec<Recall>, StoreError> {
    let (Place { app, user, device: id }, keep_most) = (place, rules.keep_most);
    let more = keep_most / 25;
    let waiting: u32 = t
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE app = ?1 AND user = ?2 AND device = ?3 AND open IN (1, 2)
             LIMIT ?4) AS w",
        )?
        .query_row(params![app, user, id, keep_most.saturating_add(1)], |r| r.get(0))?;
    if waiting <= keep_most {
        room.counted(place, keep_most - waiting);
        return Ok(Vec::new());
    }
    let oldest: Vec<(MessageId, Pair)> = t
        .prepare_cached(concat!(
            "SELECT d.message, ",
            columns!(),
            // An id begins with its moment. On SQLite only the index is read of those that stay.
            " FROM (SELECT message FROM deliveries WHERE app = ?1 AND user = ?2 AND device = ?3 AND open IN (1, 2)
             ORDER BY message DESC LIMIT 1000 OFFSET ?4) AS o
             JOIN deliveries d ON d.message = o.message AND d.device = ?3"
        ))?
        .query_map(params![app, user, id, keep_most - more], |r| Ok((r.get(0)?, pairs::read(r, 1)?)))?
        .collect::<Result<_, _>>()?;
    let of = Of { t, place, device: device.clone(), bound: false, rules, now_ms };
    let mut recalls = Vec::new();
    for (id, pair) in &oldest {
        recalls.extend(of.step(id, pair, Event::Evicted { keep_most })?);
    }
    room.counted(place, more);
    Ok(recalls)
}

impl Store {
    /// Ends what is on its way of messages whose time is over, and removes those whose trace was kept for as long as
    /// it is. Each message is come by once, in the order of ids.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sweep(&self, rules: Rules, now_ms: u64) -> Result<Swept, StoreError> {
        self.run_alone(move |t| {
            let mut swept = expire(t, rules, now_ms)?;
            let kept_ms = (rules.keep_s + rules.trace_s) * 1000;
            let before = MessageId::from_ms(now_ms.saturating_sub(kept_ms));
            let over = as_i64(now_ms.saturating_sub(rules.trace_s * 1000));
            // On PostgreSQL a day goes whole.
            let tables = if t.is_shared() { undivided(t)? } else { vec!["messages".to_owned()] };
            for table in tables {
                let gone: Vec<MessageId> = t
                    .prepare_cached(&format!(
                        "SELECT id FROM {table} WHERE id < ?1 AND expires_ms <= ?2 ORDER BY id LIMIT ?3"
                    ))?
                    .query_map(params![before, over, BATCH], |r| r.get(0))?
                    .collect::<Result<_, _>>()?;
                swept.more |= gone.len() == BATCH as usize;
                remove(t, &gone)?;
            }
            super::limits::sweep(t, now_ms)?;
            Ok(swept)
        })
        .await
    }
}

/// Removes messages with all that is stored of them.
pub(super) fn remove(t: &Transaction<'_>, gone: &[MessageId]) -> Result<(), StoreError> {
    // SQLite would give the number of a newest event that is gone to another one.
    for (one, all) in [
        (
            "deliveries WHERE message = ?1",
            "deliveries d USING unnest(CAST(?1 AS text[])) AS ids (id) WHERE d.message = ids.id",
        ),
        (
            "events WHERE message = ?1 AND number < (SELECT max(number) FROM events)",
            "events e USING unnest(CAST(?1 AS text[])) AS ids (id) WHERE e.message = ids.id",
        ),
        ("messages WHERE id = ?1", "messages m USING unnest(CAST(?1 AS text[])) AS ids (id) WHERE m.id = ids.id"),
    ] {
        let (one, all) = (format!("DELETE FROM {one}"), format!("DELETE FROM {all}"));
        t.execute_rows((&one, &all), gone.iter().map(|id| vec![Bound::Text(id)]))?;
    }
    Ok(())
}

/// Up to which id messages were come by.
pub(super) const SWEPT: &str = "swept";

fn expire(t: &Transaction<'_>, rules: Rules, now_ms: u64) -> Result<Swept, StoreError> {
    t.execute("INSERT OR IGNORE INTO meta (key, value) VALUES (?1, '')", [SWEPT])?;
    let from: String =
        t.prepare_cached("SELECT value FROM meta WHERE key = ?1 /* lock */")?.query_row([SWEPT], |r| r.get(0))?;
    let before = MessageId::from_ms(now_ms.saturating_sub(rules.keep_s * 1000));
    let next: Vec<(MessageId, i64)> = t
        .prepare_cached("SELECT id, expires_ms FROM messages WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT ?3")?
        .query_map(params![from, before, BATCH], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<Result<_, _>>()?;
    // One that was accepted under a longer life is waited for.
    let over: Vec<MessageId> =
        next.into_iter().take_while(|(_, expires_ms)| as_u64(*expires_ms) <= now_ms).map(|(id, _)| id).collect();
    let Some(last) = over.last() else { return Ok(Swept::default()) };
    let mut swept = Swept { more: over.len() == BATCH as usize, ..Swept::default() };
    type Row = (MessageId, [String; 3], Pair);
    let open: Vec<Row> = t
        .prepare_cached(concat!(
            "SELECT d.message, d.app, d.user, d.device, ",
            columns!(),
            " FROM deliveries d WHERE d.message > ?1 AND d.message <= ?2 AND d.state <> 'done'
             ORDER BY d.message, d.device /* lock d */"
        ))?
        .query_map(params![from, last], |r| Ok((r.get(0)?, [r.get(1)?, r.get(2)?, r.get(3)?], pairs::read(r, 4)?)))?
        .collect::<Result<_, _>>()?;
    swept.missed = open.iter().map(|(id, ..)| id).collect::<HashSet<_>>().len();
    for (id, [app, user, device], pair) in &open {
        let of = Of { t, place: Place { app, user, device }, device: Device::default(), bound: false, rules, now_ms };
        swept.recalls.extend(of.step(id, pair, Event::Expired)?);
    }
    t.execute("UPDATE meta SET value = ?2 WHERE key = ?1", params![SWEPT, last])?;
    Ok(swept)
}
