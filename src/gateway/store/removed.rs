//! What is left of users that were removed: their messages that are over. No index finds those by their user, as an entry for each would
//! cost every message, so everybody's are gone through, a page at a time, between which other work comes.

use super::sql::{OptionalExtension as _, Transaction, params};
use super::{Store, StoreError, ends, whose};
use crate::ids::MessageId;

/// Messages gone through in one transaction: a few milliseconds.
const PAGE: u32 = 1000;
/// Whose messages are being removed, with app and user, and up to which id.
const MARK: &str = "removed/";

/// Where a walk is.
enum Walk {
    /// On PostgreSQL days of messages go before those of deliveries: what is of older messages than there are.
    Deliveries(String),
    Messages(String),
}

/// A user's messages go. Those that are open, or have a key by which they would be found for another user of this name, go at once, and
/// the others as [`Store::remove_messages`] comes to them.
///
/// # Errors
/// [`StoreError`].
pub(super) fn begin(t: &Transaction<'_>, app: &str, user: &str) -> Result<(), StoreError> {
    for sql in [
        "SELECT DISTINCT message FROM deliveries WHERE app = ?1 AND user = ?2 AND open IN (1, 2)",
        "SELECT id FROM messages WHERE app = ?1 AND user = ?2 AND idempotency IS NOT NULL",
    ] {
        let mut found: Vec<MessageId> =
            t.prepare_cached(sql)?.query_map([app, user], |r| r.get(0))?.collect::<Result<_, _>>()?;
        // In the order in which the sweep has them.
        found.sort_unstable();
        remove(t, app, user, &found)?;
    }
    let sql = "INSERT INTO meta (key, value) SELECT ?1, coalesce(max(id), '') FROM messages WHERE TRUE
         ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    t.execute(sql, params![mark(app, user)]).map(drop)
}

fn mark(app: &str, user: &str) -> String {
    format!("{MARK}{app}/{user}")
}

fn remove(t: &Transaction<'_>, app: &str, user: &str, gone: &[MessageId]) -> Result<(), StoreError> {
    // The newest event stays, so that no number is given twice; it loses what it says.
    let sql = "UPDATE events SET message = '', device = '', detail = '' WHERE number = (SELECT max(number) FROM events)
         AND EXISTS (SELECT 1 FROM messages m WHERE m.id = events.message AND m.app = ?1 AND m.user = ?2)";
    if !gone.is_empty() {
        t.execute(sql, [app, user])?;
    }
    ends::remove(t, gone)
}

/// Removes what is the user's of the next page; `None`: that was the last one.
fn page(t: &Transaction<'_>, (app, user): (&str, &str), walk: Walk) -> Result<Option<Walk>, StoreError> {
    // Another may have done it.
    let sql = "SELECT value FROM meta WHERE key = ?1 /* lock */";
    let until: Option<String> = t.query_row(sql, [&*mark(app, user)], |r| r.get(0)).optional()?;
    let Some(until) = until else { return Ok(None) };
    let after = match walk {
        Walk::Messages(after) => after,
        Walk::Deliveries(after) => {
            let sql = "SELECT max(message) FROM (SELECT message FROM deliveries WHERE message > ?1
                 AND message < coalesce((SELECT min(id) FROM messages), 'z') ORDER BY message LIMIT ?2) AS d";
            let last: Option<String> = t.prepare_cached(sql)?.query_row(params![after, PAGE], |r| r.get(0))?;
            let Some(last) = last else { return Ok(Some(Walk::Messages(String::new()))) };
            let sql = "DELETE FROM deliveries WHERE message > ?1 AND message <= ?2 AND app = ?3 AND user = ?4";
            t.execute(sql, params![after, last, app, user])?;
            return Ok(Some(Walk::Deliveries(last)));
        }
    };
    let next: Vec<(MessageId, bool)> = t
        .prepare_cached(
            "SELECT id, CASE WHEN app = ?1 AND user = ?2 THEN 1 ELSE 0 END FROM messages WHERE id > ?3 AND id <= ?4
             ORDER BY id LIMIT ?5",
        )?
        .query_map(params![app, user, after, until, PAGE], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let last = next.last().map(|(id, _)| id.to_string());
    let more = next.len() == PAGE as usize;
    let gone: Vec<MessageId> = next.into_iter().filter(|(_, its)| *its).map(|(id, _)| id).collect();
    remove(t, app, user, &gone)?;
    if more {
        return Ok(last.map(Walk::Messages));
    }
    t.execute("DELETE FROM meta WHERE key = ?1", [&*mark(app, user)])?;
    Ok(None)
}

impl Store {
    /// Removes the messages of a user that was removed, which takes about a second for 500,000 of everybody's. Where it ends before,
    /// [`Self::remove_rest`] begins anew.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_messages(&self, app: String, user: String) -> Result<(), StoreError> {
        let mut walk = if self.is_shared() { Walk::Deliveries(String::new()) } else { Walk::Messages(String::new()) };
        loop {
            let (of, by) = (whose(&app, &user), (app.clone(), user.clone()));
            match self.run_for(of, move |t| page(t, (&by.0, &by.1), walk)).await? {
                Some(next) => walk = next,
                None => return Ok(()),
            }
        }
    }

    /// The same of all of whom something is left.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_rest(&self) -> Result<(), StoreError> {
        let find = "SELECT key FROM meta WHERE key > ?1 AND key < 'removed0'";
        let marks: Vec<String> =
            self.run(move |t| t.prepare_cached(find)?.query_map([MARK], |r| r.get(0))?.collect()).await?;
        for mark in marks {
            if let Some((app, user)) = mark.strip_prefix(MARK).and_then(|of| of.split_once('/')) {
                self.remove_messages(app.to_owned(), user.to_owned()).await?;
            }
        }
        Ok(())
    }
}
