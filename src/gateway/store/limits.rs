//! Which quotas are used up, until when: of a certificate, or of one token under it.

use super::sql::{OptionalExtension as _, Transaction, params};
use super::{StoreError, as_i64, as_u64};
use crate::delivery::outcome::Limit;

/// A limit that is over sooner is a rate, which a device need not hear of; in milliseconds.
const WORTH_NOTING_MS: u64 = 60_000;
/// In the place of a token: the limit holds for every one of the certificate's.
const EVERY: &str = "";

/// A quota that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    pub limit: Limit,
    /// When it ends, in milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// How a limit stands, in milliseconds since the Unix epoch; `code` is the vendor's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub since_ms: u64,
    pub until_ms: u64,
    pub code: String,
}

/// Notes what a vendor said of a push to this token.
///
/// # Errors
/// [`StoreError`].
pub(super) fn note(
    t: &Transaction<'_>,
    app: &str,
    notifier: &str,
    token: &str,
    limited: Limited,
    code: &str,
    now_ms: u64,
) -> Result<(), StoreError> {
    let Limited { limit, until_ms } = limited;
    let token = match limit {
        Limit::Device => token,
        Limit::Certificate => EVERY,
        Limit::Circuit => return Ok(()),
    };
    if until_ms < now_ms + WORTH_NOTING_MS {
        return Ok(());
    }
    // Every send of a call says it; only the first costs a write.
    let noted: bool = t
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM limits WHERE app = ?1 AND notifier = ?2 AND token = ?3 AND until_ms >= ?4)",
        )?
        .query_row(params![app, notifier, token, as_i64(until_ms)], |r| r.get(0))?;
    if noted {
        return Ok(());
    }
    t.prepare_cached(
        "INSERT INTO limits (app, notifier, token, since_ms, until_ms, code) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (app, notifier, token) DO UPDATE SET until_ms = excluded.until_ms, code = excluded.code",
    )?
    .execute(params![app, notifier, token, as_i64(now_ms), as_i64(until_ms), code])?;
    Ok(())
}

/// The limit that holds back a push to this token; of several, the one that ends last.
///
/// # Errors
/// [`StoreError`].
pub(super) fn of(
    t: &Transaction<'_>,
    app: &str,
    notifier: &str,
    token: &str,
    now_ms: u64,
) -> Result<Option<Standing>, StoreError> {
    t.prepare_cached(
        "SELECT since_ms, until_ms, code FROM limits WHERE app = ?1 AND notifier = ?2 AND (token = ?3 OR token = '') AND until_ms > ?4
         ORDER BY until_ms DESC LIMIT 1",
    )?
    .query_row(params![app, notifier, token, as_i64(now_ms)], |r| {
        Ok(Standing { since_ms: as_u64(r.get(0)?), until_ms: as_u64(r.get(1)?), code: r.get(2)? })
    })
    .optional()
}

/// The vendor accepted a push for this token after all.
///
/// # Errors
/// [`StoreError`].
pub(super) fn over(t: &Transaction<'_>, app: &str, notifier: &str, token: &str) -> Result<(), StoreError> {
    t.prepare_cached("DELETE FROM limits WHERE app = ?1 AND notifier = ?2 AND (token = ?3 OR token = '')")?
        .execute(params![app, notifier, token])?;
    Ok(())
}

/// The certificate is another one now: its quotas are its own.
///
/// # Errors
/// [`StoreError`].
pub(super) fn replaced(t: &Transaction<'_>, app: &str, notifier: &str) -> Result<(), StoreError> {
    t.execute("DELETE FROM limits WHERE app = ?1 AND notifier = ?2", params![app, notifier])?;
    Ok(())
}

/// Removes the limits that are over.
///
/// # Errors
/// [`StoreError`].
pub(super) fn sweep(t: &Transaction<'_>, now_ms: u64) -> Result<(), StoreError> {
    t.prepare_cached("DELETE FROM limits WHERE until_ms <= ?1")?.execute(params![as_i64(now_ms)])?;
    Ok(())
}
