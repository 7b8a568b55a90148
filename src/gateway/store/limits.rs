//! Which quotas are used up, until when: of a certificate, or of one token under it.

use super::sql::{OptionalExtension as _, Transaction, params};
use super::value::Bound;
use super::{StoreError, as_i64, as_u64};
use crate::delivery::outcome::Limit;
use std::collections::{BTreeMap, BTreeSet};

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

/// What a vendor said of a push.
pub(super) struct Said<'a> {
    pub app: &'a str,
    pub notifier: &'a str,
    pub token: &'a str,
    pub limited: Limited,
    /// The vendor's.
    pub code: &'a str,
    pub now_ms: u64,
}

impl<'a> Said<'a> {
    /// For which token it is worth noting.
    fn token(&self) -> Option<&'a str> {
        let lasts = self.limited.until_ms >= self.now_ms + WORTH_NOTING_MS;
        match self.limited.limit {
            Limit::Device => Some(self.token),
            Limit::Certificate => Some(EVERY),
            Limit::Circuit => None,
        }
        .filter(|_| lasts)
    }
}

/// Notes what vendors said of pushes.
///
/// # Errors
/// [`StoreError`].
pub(super) fn note<'a>(t: &Transaction<'_>, said: impl Iterator<Item = Said<'a>>) -> Result<(), StoreError> {
    // Every send says it; only the first costs a write.
    macro_rules! note {
        ($from:literal) => {
            concat!(
                "INSERT INTO limits (app, notifier, token, since_ms, until_ms, code)
                 SELECT u.app, u.notifier, u.token, u.since_ms, u.until_ms, u.code FROM ",
                $from,
                " WHERE NOT EXISTS (SELECT 1 FROM limits l WHERE l.app = u.app AND l.notifier = u.notifier AND l.token = u.token
                 AND l.until_ms >= u.until_ms)
                 ON CONFLICT (app, notifier, token) DO UPDATE SET until_ms = excluded.until_ms, code = excluded.code"
            )
        };
    }
    const ONE: &str =
        note!("(SELECT ?1 AS app, ?2 AS notifier, ?3 AS token, ?4 AS since_ms, ?5 AS until_ms, ?6 AS code) AS u");
    const ALL: &str = note!(
        "unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS text[]), CAST(?4 AS bigint[]), CAST(?5 AS bigint[]),
         CAST(?6 AS text[])) AS u (app, notifier, token, since_ms, until_ms, code)"
    );
    // A statement writes a row once: of several limits the first, and the one that ends last.
    let mut limits: BTreeMap<(&str, &str, &str), (u64, u64, &str)> = BTreeMap::new();
    for said in said {
        let Some(token) = said.token() else { continue };
        let (until_ms, code) = (said.limited.until_ms, said.code);
        let one = limits.entry((said.app, said.notifier, token)).or_insert((said.now_ms, until_ms, code));
        if until_ms > one.1 {
            (one.1, one.2) = (until_ms, code);
        }
    }
    let rows = limits.into_iter().map(|((app, notifier, token), (since_ms, until_ms, code))| {
        let mut row = [app, notifier, token].map(Bound::Text).to_vec();
        row.extend([since_ms, until_ms].map(|ms| Bound::Integer(as_i64(ms))));
        row.push(Bound::Text(code));
        row
    });
    t.execute_rows((ONE, ALL), rows)
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

/// Vendors accepted pushes for these tokens after all: of an app's certificate, by its name.
///
/// # Errors
/// [`StoreError`].
pub(super) fn over<'a>(
    t: &Transaction<'_>,
    tokens: impl Iterator<Item = (&'a str, &'a str, &'a str)>,
) -> Result<(), StoreError> {
    const ONE: &str = "DELETE FROM limits WHERE app = ?1 AND notifier = ?2 AND token = ?3";
    const ALL: &str = "DELETE FROM limits l USING unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS text[]))
         AS u (app, notifier, token) WHERE l.app = u.app AND l.notifier = u.notifier AND l.token = u.token";
    let each = tokens.flat_map(|(app, notifier, token)| [EVERY, token].map(|token| [app, notifier, token]));
    let each: BTreeSet<_> = each.collect();
    t.execute_rows((ONE, ALL), each.into_iter().map(|row| row.map(Bound::Text).to_vec()))
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
