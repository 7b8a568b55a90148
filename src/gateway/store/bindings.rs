//! What a push to a device would go through, and how much waits for it there: for one device, or asked for many at once.

use super::known::Known;
use super::presence::whole;
use super::sql::{Row, Transaction};
use super::{StoreError, as_u64};
use crate::protocol::Address;
use std::collections::HashMap;

/// Messages that wait for a device are counted up to here.
pub(super) const COUNTED: u32 = 100;

/// Of a device's bindings, the one that a push would use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Newest {
    /// Nothing is bound.
    None,
    /// Only tokens their vendors call dead.
    Dead,
    Usable {
        notifier: String,
        token: String,
        /// Until when the device's user has switched notifications off, in milliseconds since the Unix epoch.
        off_until_ms: u64,
        /// When its vendor was last noted to have accepted a push for this token.
        accepted_ms: Option<u64>,
    },
}

/// A binding, and when it came to be one.
type Found = (i64, Newest);

/// Reads a binding.
fn read(r: &mut Row) -> Result<Found, StoreError> {
    let (notifier, token, off_until_ms) = (r.get(0)?, r.get(1)?, as_u64(r.get(2)?));
    let (bound_ms, dead_ms, accepted_ms) = (r.get(3)?, r.get::<Option<i64>>(4)?, r.get::<Option<i64>>(5)?);
    Ok((
        bound_ms,
        match dead_ms {
            Some(_) => Newest::Dead,
            None => Newest::Usable { notifier, token, off_until_ms, accepted_ms: accepted_ms.map(as_u64) },
        },
    ))
}

/// Of those whose token lives, the one bound last. A device has a few at most: sorting in SQL would have SQLite prepare the
/// statement anew for each run.
fn newest(all: Vec<Found>) -> Newest {
    let name = |newest: &Newest| match newest {
        Newest::Usable { notifier, .. } => Some(notifier.clone()),
        Newest::None | Newest::Dead => None,
    };
    let none = if all.is_empty() { Newest::None } else { Newest::Dead };
    let living = all.into_iter().filter(|(_, one)| *one != Newest::Dead);
    living
        .max_by(|(a_ms, a), (b_ms, b)| a_ms.cmp(b_ms).then_with(|| name(b).cmp(&name(a))))
        .map_or(none, |(_, one)| one)
}

macro_rules! columns {
    () => {
        "b.notifier, b.token, b.off_until_ms, b.bound_ms, b.dead_ms, b.accepted_ms"
    };
}

/// A device's bindings. They are asked for in the order of their key: by a plan made on an empty table PostgreSQL would go by the
/// index of tokens as well, through all of the app's.
macro_rules! whose {
    ($app:literal, $user:literal, $device:literal) => {
        concat!(
            " FROM bindings b WHERE b.app = ",
            $app,
            " AND b.user = ",
            $user,
            " AND b.device BETWEEN ",
            $device,
            " AND ",
            $device,
            " ORDER BY b.device"
        )
    };
}
pub(super) use whose;

macro_rules! devices {
    () => {
        concat!(
            " FROM unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS text[]), CAST(?4 AS bigint[]))
             AS u (app, user, device, place) CROSS JOIN LATERAL (SELECT *",
            whose!("u.app", "u.user", "u.device"),
            ") AS b"
        )
    };
}

/// The binding of one device, and of several.
const OF_ONE: &str = concat!("SELECT ", columns!(), ", ?4", whose!("?1", "?2", "?3"));
const OF_ALL: &str = concat!("SELECT ", columns!(), ", u.place", devices!());

macro_rules! waiting {
    ($app:literal, $user:literal, $device:literal) => {
        concat!(
            ", (SELECT count(*) FROM (SELECT 1 FROM deliveries d WHERE d.app = ",
            $app,
            " AND d.user = ",
            $user,
            " AND d.device = ",
            $device,
            " AND d.open IN (1, 2) LIMIT 100) AS w)"
        )
    };
}

const WAITING_ONE: &str = concat!("SELECT ", columns!(), waiting!("?1", "?2", "?3"), ", ?4", whose!("?1", "?2", "?3"));
const WAITING_ALL: &str =
    concat!("SELECT ", columns!(), waiting!("u.app", "u.user", "u.device"), ", u.place", devices!());

/// The binding a push to this device would use.
///
/// # Errors
/// [`StoreError`].
pub(super) fn newest_binding(t: &Transaction<'_>, address: &Address) -> Result<Newest, StoreError> {
    const ONE: &str = concat!("SELECT ", columns!(), whose!("?1", "?2", "?3"));
    let all = t.prepare_cached(ONE)?.query_map(whole(address), read)?.collect::<Result<_, _>>()?;
    Ok(newest(all))
}

/// Whether a notification can go to the device: it has a binding that is not marked dead, and its certificate
/// is there and enabled.
///
/// # Errors
/// [`StoreError`].
pub(super) fn usable(t: &Transaction<'_>, known: &Known, address: &Address) -> Result<bool, StoreError> {
    is_usable(t, known, address, &newest_binding(t, address)?)
}

/// The same of what was found before.
///
/// # Errors
/// [`StoreError`].
pub(super) fn is_usable(
    t: &Transaction<'_>,
    known: &Known,
    address: &Address,
    newest: &Newest,
) -> Result<bool, StoreError> {
    let Newest::Usable { notifier, .. } = newest else { return Ok(false) };
    Ok(matches!(known.certificate(t, &address.app, notifier)?, Ok(Some(certificate)) if certificate.enabled))
}

/// Those of several devices; what is bound to none is left out.
///
/// # Errors
/// [`StoreError`].
pub(super) fn of_all<'a>(
    t: &Transaction<'_>,
    addresses: impl Iterator<Item = &'a Address>,
) -> Result<HashMap<&'a Address, Newest>, StoreError> {
    let found = ask(t, (OF_ONE, OF_ALL), addresses, read)?;
    Ok(found.into_iter().map(|(address, all)| (address, newest(all))).collect())
}

/// The same with how many messages wait for each, up to [`COUNTED`].
///
/// # Errors
/// [`StoreError`].
pub(super) fn with_waiting<'a>(
    t: &Transaction<'_>,
    addresses: impl Iterator<Item = &'a Address>,
) -> Result<HashMap<&'a Address, (Newest, u32)>, StoreError> {
    let found = ask(t, (WAITING_ONE, WAITING_ALL), addresses, |r| Ok((read(r)?, r.get(6)?)))?;
    let each = found.into_iter().map(|(address, all)| {
        let waiting = all.first().map_or(0, |(_, waiting)| *waiting);
        (address, (newest(all.into_iter().map(|(one, _)| one).collect()), waiting))
    });
    Ok(each.collect())
}

/// How many messages wait for this device, up to [`COUNTED`].
///
/// # Errors
/// [`StoreError`].
pub(super) fn waiting(t: &Transaction<'_>, address: &Address) -> Result<u32, StoreError> {
    const ONE: &str = "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE app = ?1 AND user = ?2 AND device = ?3
         AND open IN (1, 2) LIMIT 100) AS w";
    t.prepare_cached(ONE)?.query_row(whole(address), |r| r.get(0))
}

fn ask<'a, T>(
    t: &Transaction<'_>,
    sql: (&str, &str),
    addresses: impl Iterator<Item = &'a Address>,
    read: impl Fn(&mut Row) -> Result<T, StoreError>,
) -> Result<HashMap<&'a Address, Vec<T>>, StoreError> {
    let mut wanted: Vec<&Address> = addresses.collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut found: HashMap<&Address, Vec<T>> = HashMap::new();
    for (place, one) in t.for_rows(sql, wanted.iter().map(|address| whole(address)), read)? {
        found.entry(wanted[place]).or_default().push(one);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::store::trial::Trial;

    #[tokio::test]
    async fn a_devices_bindings_are_found_by_its_user_whatever_is_known_of_the_tables() {
        let Some(trial) = Trial::start("a_devices_bindings_are_found_by_its_user") else { return };
        trial.database("bindings");
        let _store = trial.store("impush", "bindings").await;
        let one = OF_ONE.replace(", ?4", "");
        let waiting = WAITING_ONE.replace(", ?4", "");
        trial.go_by_users("bindings", "bindings, deliveries", &[&one, OF_ALL, &waiting, WAITING_ALL]);
    }
}
