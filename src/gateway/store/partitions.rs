//! How PostgreSQL's messages, deliveries and events are divided into partitions, and how those are made and dropped beside
//! everything else: never by waiting for longer than others may be held up.

use super::days::{DAY_MS, Kept, Span, Table, day_of, over, wanted};
use super::ends::SWEPT;
use super::sql::{OptionalExtension as _, Statements, Transaction, params};
use super::usage::Usage;
use super::{Store, StoreError, as_u64};
use crate::delivery::Rules;
use crate::ids::MessageId;
use postgres::error::SqlState;
use postgres::{Client, IsolationLevel};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::{debug, info, warn};

mod dividing;
mod rest;

pub(super) use dividing::divide;

/// One gateway at a time. While a lock is waited for, everybody who wants the table waits behind: at most so long for each of the three.
/// PostgreSQL looks for deadlocks after a second, so none of them ends anybody else's work. To make one, what the rest holds is
/// looked through. A commit that waits for a standby would hold the tables meanwhile; what is lost with a machine is done again.
const WITHIN: &str =
    "SET LOCAL lock_timeout = '100ms'; SET LOCAL statement_timeout = '2s'; SET LOCAL synchronous_commit = 'local'";
/// While a partition is made the rest is looked through, and everybody waits: a larger one is made to end before ([`rest`]). In bytes.
const REST_MOST: i64 = 16 << 20;
/// Rows of the rest that are looked through at a time.
const LEFT: u32 = 1000;
/// What the moment that an end was come by is stored under.
const SWEPT_UNTIL: &str = "swept/";

/// A partition, as it is called.
#[derive(Debug)]
struct Part {
    table: Table,
    name: String,
    /// `None`: for what no other is for.
    span: Option<Span>,
}

/// What is there of what is wanted.
enum Made {
    All,
    /// Another gateway is at it.
    ByOthers,
    MayNot,
    /// The rest is to end at this moment before.
    BesideTooMuch(u64),
    /// What is in the rest is of days to come.
    NotYet,
}

/// Why days are not made, as it was last said.
#[derive(Debug, Clone, Default)]
pub(super) struct Told(Arc<Mutex<Option<&'static str>>>);

impl Told {
    fn tell(&self, why: Option<&'static str>) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (why, *told) {
            (Some(new), before) if before != Some(new) => {
                warn!(
                    event = "days.not_made",
                    why = new,
                    "messages get no partitions of their days: they stay in the rest, and are removed row by row"
                );
            }
            (None, Some(_)) => info!(event = "days.made", "messages have the partitions of their days again"),
            _ => {}
        }
        *told = why;
    }

    /// What came of a try; others come every minute.
    fn tried(&self, made: Result<Made, StoreError>) -> Result<(), StoreError> {
        let why = match made {
            Ok(Made::All) => None,
            Ok(Made::ByOthers) => return Ok(()),
            Ok(Made::MayNot) => Some("this role may not make tables, or does not own them"),
            Ok(Made::BesideTooMuch(_)) => {
                Some("the rest is larger than 16 MiB; the gateway looks through it a minute later")
            }
            Ok(Made::NotYet) => Some("the rest holds messages of days to come"),
            // It is tried well ahead.
            Err(error) if is_held_up(&error) => {
                debug!(event = "days.held_up", %error, "partitions are made later");
                return Ok(());
            }
            Err(error) if state(&error) == Some(&SqlState::QUERY_CANCELED) => {
                Some("the rest is too large to be looked through within the deadline of a statement")
            }
            Err(error) if state(&error) == Some(&SqlState::CHECK_VIOLATION) => {
                Some("the rest holds messages of those days")
            }
            Err(error) => return Err(error),
        };
        self.tell(why);
        Ok(())
    }
}

fn state(error: &StoreError) -> Option<&SqlState> {
    match error {
        StoreError::Postgres(error) => error.code(),
        _ => None,
    }
}

/// Others use the tables.
fn is_held_up(error: &StoreError) -> bool {
    state(error) == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// Whether this role may make partitions, and drop them.
fn may(t: &Transaction<'_>) -> Result<bool, StoreError> {
    let sql = "SELECT pg_has_role(c.relowner, 'USAGE') AND has_schema_privilege(c.relnamespace, 'CREATE')
         FROM pg_class c WHERE c.oid = to_regclass('messages')";
    t.query_row(sql, params![], |r| r.get(0))
}

fn there(t: &Transaction<'_>) -> Result<Vec<Part>, StoreError> {
    let mut there = Vec::new();
    for table in Table::ALL {
        let sql = "SELECT CAST(c.relname AS TEXT), pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i
             JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass(?1)";
        let parts: Vec<Part> = t
            .prepare_cached(sql)?
            .query_map(params![table.name()], |r| {
                Ok(Part { table, name: r.get(0)?, span: Span::read(&r.get::<String>(1)?) })
            })?
            .collect::<Result<_, _>>()?;
        there.extend(parts);
    }
    Ok(there)
}

fn spans(there: &[Part], table: Table) -> Vec<Span> {
    there.iter().filter(|part| part.table == table).filter_map(|part| part.span).collect()
}

/// What holds rows that no day is there for, as it is to be asked for row by row: all of it, where nothing may be dropped.
///
/// # Errors
/// [`StoreError`].
pub(super) fn undivided(t: &Transaction<'_>) -> Result<Vec<String>, StoreError> {
    if !may(t)? {
        return Ok(vec![Table::Messages.name().to_owned()]);
    }
    let is_one = |part: &Part| part.table == Table::Messages && part.span.is_none_or(|span| span.from_ms == 0);
    Ok(there(t)?.into_iter().filter(is_one).map(|part| part.name).collect())
}

/// Removes what is left in the rest of messages that were over before `before` and have gone, of a page of it; where the next one begins.
/// Such is noted of a message whose day has gone already, as by a vendor's late receipt. It would stay for good, and the rest grow.
fn remove_left(
    t: &Transaction<'_>,
    (table, after): (Table, String),
    before: &str,
) -> Result<Option<String>, StoreError> {
    // Who may make no tables has no rights on their parts either.
    if !may(t)? {
        return Ok(None);
    }
    let rest = table.rest();
    let next = format!(
        "SELECT max(message) FROM (SELECT message FROM {rest} WHERE message > ?1 AND message < ?2 ORDER BY message LIMIT {LEFT}) AS r"
    );
    let last: Option<String> = t.prepare_cached(&next)?.query_row(params![after, before], |r| r.get(0))?;
    let Some(last) = last else { return Ok(None) };
    let gone = format!(
        "DELETE FROM {rest} r WHERE r.message > ?1 AND r.message <= ?2 AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.id = r.message)"
    );
    t.execute(&gone, params![after, last])?;
    Ok(Some(last))
}

/// From when on nothing lies in the rest: what does would not let its day be made.
fn rest_until(t: &Transaction<'_>, there: &[Part], now_ms: u64) -> Result<u64, StoreError> {
    let before = MessageId::from_ms(day_of(now_ms) + 30 * DAY_MS);
    let mut until = 0;
    for Part { table, name, .. } in there.iter().filter(|part| part.span.is_none()) {
        let newest = format!("SELECT max({0}) FROM {name} WHERE {0} < ?1", table.column());
        let newest: Option<String> = t.query_row(&newest, params![before], |r| r.get(0))?;
        let ms = newest.as_ref().and_then(|id| u64::from_str_radix(id.get(..12)?, 16).ok());
        until = until.max(ms.map_or(0, |ms| day_of(ms) + DAY_MS));
    }
    Ok(until)
}

/// Whether it is this gateway's turn.
fn take_turn(t: &Transaction<'_>) -> Result<bool, StoreError> {
    let sql = "SELECT pg_try_advisory_xact_lock(7466002)";
    t.query_row(sql, params![], |r| r.get(0))
}

/// What gives a table's partitions to the table's owner: whoever makes them may be another role, and who owns the table reads
/// and drops them by their names.
fn give(table: &str) -> String {
    format!(
        "SELECT format('ALTER TABLE %s OWNER TO %I', CAST(CAST(c.oid AS regclass) AS TEXT), pg_get_userbyid(p.relowner))
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
         WHERE p.oid = to_regclass({table}) AND c.relowner <> p.relowner
         AND has_schema_privilege(p.relowner, c.relnamespace, 'CREATE')"
    )
}

/// Makes what is wanted.
fn make(t: &Transaction<'_>, kept: Kept, now_ms: u64) -> Result<Made, StoreError> {
    if !may(t)? {
        return Ok(Made::MayNot);
    }
    let all = |there: &[Part], from_ms| {
        let of = |table| {
            wanted(&spans(there, table), kept.width_ms(table), from_ms, now_ms)
                .into_iter()
                .map(move |span| (table, span))
        };
        Table::ALL.into_iter().flat_map(of).collect::<Vec<_>>()
    };
    if all(&there(t)?, 0).is_empty() {
        return Ok(Made::All);
    }
    if !take_turn(t)? {
        return Ok(Made::ByOthers);
    }
    t.execute_batch(WITHIN)?;
    let there = there(t)?;
    let mut from_ms = rest_until(t, &there, now_ms)?;
    if rest::is_large(t)? {
        // With a day between: until it is opened again it takes nothing of what begins there.
        from_ms = from_ms.max(day_of(now_ms) + 2 * DAY_MS);
        let ends = rest::ends(t, from_ms)?;
        if !all(&there, from_ms).is_empty() && !ends {
            rest::open(t)?;
            return Ok(Made::BesideTooMuch(from_ms));
        }
    }
    for (table, span) in all(&there, from_ms) {
        t.execute_batch(&table.make(span))?;
    }
    rest::open(t)?;
    for table in Table::ALL {
        let give: Vec<String> =
            t.prepare_cached(&give("?1"))?.query_map(params![table.name()], |r| r.get(0))?.collect::<Result<_, _>>()?;
        give.iter().try_for_each(|give| t.execute_batch(give))?;
    }
    Ok(if from_ms > day_of(now_ms) + 2 * DAY_MS { Made::NotYet } else { Made::All })
}

/// Since when every message before an end was come by.
fn swept(t: &Transaction<'_>) -> Result<BTreeMap<u64, u64>, StoreError> {
    let sql = "SELECT substr(key, 7), value FROM meta WHERE substr(key, 1, 6) = ?1";
    let rows: Vec<(String, String)> = t
        .prepare_cached(sql)?
        .query_map(params![SWEPT_UNTIL], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let read = |(end, since): &(String, String)| Some((u64::from_str_radix(end, 16).ok()?, since.parse().ok()?));
    Ok(rows.iter().filter_map(read).collect())
}

/// Notes which ends were come by.
fn note_swept(t: &Transaction<'_>, kept: Kept, now_ms: u64) -> Result<(), StoreError> {
    if !may(t)? {
        return Ok(());
    }
    let noted = swept(t)?;
    let ends: BTreeSet<u64> = there(t)?.iter().filter_map(|part| Some(part.span?.to_ms)).collect();
    for end in ends.into_iter().filter(|end| *end <= kept.until(now_ms) && !noted.contains_key(end)) {
        let end = MessageId::from_ms(end);
        let mark = "SELECT value FROM meta WHERE key = ?1";
        let mark: Option<String> = t.query_row(mark, params![SWEPT], |r| r.get(0)).optional()?;
        let sql = "SELECT id FROM messages WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT 1";
        let left: Option<String> = t.query_row(sql, params![mark.unwrap_or_default(), end], |r| r.get(0)).optional()?;
        if left.is_some() {
            break;
        }
        let note = "INSERT OR IGNORE INTO meta (key, value) VALUES (?1, ?2)";
        t.execute(note, params![format!("{SWEPT_UNTIL}{end}"), now_ms.to_string()])?;
    }
    Ok(())
}

/// Drops what ends first of what is over; `None`: nothing is.
fn drop_over(t: &Transaction<'_>, kept: Kept, now_ms: u64) -> Result<Option<Vec<String>>, StoreError> {
    if !may(t)? {
        return Ok(None);
    }
    let there = there(t)?;
    let ends: Vec<u64> = there.iter().filter_map(|part| Some(part.span?.to_ms)).collect();
    let Some(end) = over(&ends, &swept(t)?, kept, now_ms) else { return Ok(None) };
    if !take_turn(t)? {
        return Ok(None);
    }
    t.execute_batch(WITHIN)?;
    let ended = there.into_iter().filter(|part| part.span.is_some_and(|span| span.to_ms == end));
    let names: Vec<String> = ended.map(|part| part.name).collect();
    // Another gateway may have been faster.
    t.drop_tables(&names)?;
    t.execute("DELETE FROM meta WHERE key = ?1", params![format!("{SWEPT_UNTIL}{}", MessageId::from_ms(end))])?;
    Ok(Some(names))
}

/// Makes today's and those ahead before anything is stored.
///
/// # Errors
/// [`StoreError`].
pub(super) fn at_start(client: &mut Client, usage: &Usage, told: &Told) -> Result<(), StoreError> {
    let mut statements = Statements::new();
    let begun = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start()?;
    let t = Transaction::postgres(begun, &mut statements, usage);
    let sql = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";
    let now_ms: i64 = t.query_row(sql, params![], |r| r.get(0))?;
    told.tried(t.job(|t| make(t, Kept::UNSET, as_u64(now_ms))))?;
    t.commit()
}

impl Store {
    /// On PostgreSQL: makes the partitions of today and the days ahead, and, where something `may_go` for its age, drops those
    /// that are over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keep_days(&self, rules: Rules, now_ms: u64, may_go: bool) -> Result<(), StoreError> {
        if !self.shared {
            return Ok(());
        }
        let kept = Kept::from(&rules);
        let mut made = self.run_alone(move |t| make(t, kept, now_ms)).await;
        if let Ok(Made::BesideTooMuch(until_ms)) = made {
            made = match self.end_rest(until_ms).await {
                Ok(true) => self.run_alone(move |t| make(t, kept, now_ms)).await,
                Ok(false) => Ok(Made::ByOthers),
                Err(error) => Err(error),
            };
            if made.is_err() {
                self.open_rest().await?;
            }
        }
        self.days.tried(made)?;
        if !may_go {
            return Ok(());
        }
        self.run_alone(move |t| note_swept(t, kept, now_ms)).await?;
        let before = MessageId::from_ms(kept.until(now_ms.saturating_sub(kept.trace_ms)));
        for table in [Table::Deliveries, Table::Events] {
            let mut after = Some(String::new());
            while let Some(from) = after {
                let before = before.clone();
                after = self.run_alone(move |t| remove_left(t, (table, from), &before)).await?;
            }
        }
        loop {
            match self.run_alone(move |t| drop_over(t, kept, now_ms)).await {
                Ok(Some(names)) => {
                    info!(event = "days.dropped", partitions = names.join(" "), "a day's messages have gone whole")
                }
                Ok(None) => return Ok(()),
                Err(error) if is_held_up(&error) => {
                    debug!(event = "days.held_up", %error, "partitions are dropped later");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests;
