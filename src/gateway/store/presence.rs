//! Rows of devices as the delivery's rules see them: loaded, decided on, written back.

use super::sql::{OptionalExtension as _, Row, Transaction, params};
use super::value::Bound;
use super::{StoreError, as_i64, as_u64};
use crate::delivery::presence::{Event, Step, step};
use crate::delivery::{Device, State};
use crate::ids::{DeviceId, Nonce};
use crate::protocol::Address;
use std::collections::{BTreeSet, HashMap};

/// What [`read`] reads, of a table named `v`.
macro_rules! device_columns {
    () => {
        "v.logged_in, v.online, v.nonce, v.attached, v.silent, v.login, v.seen_ms, v.node"
    };
}
pub(super) use device_columns;

/// Reads [`device_columns`], which begin at this column; a device that is not there has never been.
pub(super) fn read(r: &mut Row, from: usize) -> Result<Device, StoreError> {
    let flag = |r: &mut Row, at: usize| Ok::<_, StoreError>(r.get::<Option<bool>>(from + at)?.unwrap_or_default());
    Ok(Device {
        logged_in: flag(r, 0)?,
        online: flag(r, 1)?,
        nonce: r.get::<Option<String>>(from + 2)?.and_then(|nonce| Nonce::try_from(nonce).ok()),
        attached: flag(r, 3)?,
        silent: flag(r, 4)?,
        login: r.get::<Option<String>>(from + 5)?.unwrap_or_default(),
        seen_ms: r.get::<Option<i64>>(from + 6)?.map_or(0, as_u64),
        node: r.get::<Option<String>>(from + 7)?.unwrap_or_default(),
    })
}

const SELECT: &str =
    concat!("SELECT ", device_columns!(), " FROM devices v WHERE v.app = ?1 AND v.user = ?2 AND v.device = ?3");
const LOCK: &str = concat!(
    "SELECT ",
    device_columns!(),
    " FROM devices v WHERE v.app = ?1 AND v.user = ?2 AND v.device = ?3 /* lock */"
);

fn find(t: &Transaction<'_>, address: &Address, how: &str) -> Result<Device, StoreError> {
    let Address { app, user, device } = address;
    let found = t.prepare_cached(how)?.query_row(params![app, user, device], |r| read(r, 0)).optional()?;
    Ok(found.unwrap_or_default())
}

/// A device as it is now.
///
/// # Errors
/// [`StoreError`].
pub(super) fn look(t: &Transaction<'_>, address: &Address) -> Result<Device, StoreError> {
    find(t, address, SELECT)
}

/// The same, held against others until the transaction ends.
///
/// # Errors
/// [`StoreError`].
pub(super) fn load(t: &Transaction<'_>, address: &Address) -> Result<Device, StoreError> {
    find(t, address, LOCK)
}

/// Several devices, each once; held against others until the transaction ends.
///
/// # Errors
/// [`StoreError`].
pub(super) fn load_all<'a>(
    t: &Transaction<'_>,
    addresses: impl Iterator<Item = &'a Address>,
) -> Result<HashMap<&'a Address, Device>, StoreError> {
    const ONE: &str =
        concat!("SELECT ", device_columns!(), ", ?4 FROM devices v WHERE v.app = ?1 AND v.user = ?2 AND v.device = ?3");
    const ALL: &str = concat!(
        "SELECT ",
        device_columns!(),
        ", u.place FROM unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS text[]), CAST(?4 AS bigint[]))
         AS u (app, user, device, place) CROSS JOIN LATERAL
         (SELECT * FROM devices v WHERE v.app = u.app AND v.user = u.user AND v.device = u.device OFFSET 0 /* lock */) AS v"
    );
    let mut wanted: Vec<&Address> = addresses.collect();
    wanted.sort_unstable();
    wanted.dedup();
    let rows = wanted.iter().map(|address| whole(address));
    let found = t.for_rows((ONE, ALL), rows, |r| read(r, 0))?;
    Ok(found.into_iter().map(|(place, device)| (wanted[place], device)).collect())
}

/// Which devices of users are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    LoggedIn,
    Online,
}

/// A device of one of several users.
pub(super) struct OfUser {
    /// Its user's place among them.
    pub place: usize,
    pub device: DeviceId,
    pub platform: String,
    pub is: Device,
}

/// The devices of these users, each an app and a user.
///
/// # Errors
/// [`StoreError`].
pub(super) fn of_users(t: &Transaction<'_>, which: Which, users: &[(&str, &str)]) -> Result<Vec<OfUser>, StoreError> {
    macro_rules! one {
        ($flag:literal) => {
            concat!(
                "SELECT v.device, v.platform, ",
                device_columns!(),
                ", ?3 FROM devices v WHERE v.app = ?1 AND v.user = ?2 AND v.",
                $flag,
                " = 1"
            )
        };
    }
    macro_rules! all {
        ($flag:literal) => {
            concat!(
                "SELECT v.device, v.platform, ",
                device_columns!(),
                ", u.place FROM unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS bigint[])) AS u (app, user, place)
                 CROSS JOIN LATERAL (SELECT * FROM devices v WHERE v.app = u.app AND v.user = u.user AND v.",
                $flag,
                // Joined otherwise, by a plan made on an empty table everybody's would be walked through.
                " = 1 OFFSET 0) AS v"
            )
        };
    }
    let statements = match which {
        Which::LoggedIn => (one!("logged_in"), all!("logged_in")),
        Which::Online => (one!("online"), all!("online")),
    };
    let rows = users.iter().map(|(app, user)| [*app, user]);
    let found = t.for_rows(statements, rows, |r| Ok((r.get(0)?, r.get(1)?, read(r, 2)?)))?;
    let each = found.into_iter().map(|(place, (device, platform, is))| OfUser { place, device, platform, is });
    Ok(each.collect())
}

/// An address as a statement's parameters.
pub(super) fn whole(Address { app, user, device }: &Address) -> [&str; 3] {
    [app, user, device]
}

/// A connection of the device is or may be over: the row, and whether anything is under way over the connection that it has,
/// held against others until the transaction ends.
///
/// # Errors
/// [`StoreError`].
pub(super) fn over(
    t: &Transaction<'_>,
    address: &Address,
    event: Event,
    now_ms: u64,
) -> Result<(Step, bool), StoreError> {
    // One question for all that nearly always is not there: on PostgreSQL each is a round trip.
    const OVER: &str = concat!(
        "SELECT ",
        device_columns!(),
        ", EXISTS (SELECT 1 FROM deliveries d WHERE d.app = ?1 AND d.user = ?2 AND d.device = ?3 AND d.open = 1
         AND d.acked_by IS NULL AND d.nonce = v.nonce),
         EXISTS (SELECT 1 FROM deliveries h WHERE h.app = ?1 AND h.user = ?2 AND h.device <> ?3 AND h.open IN (1, 2) AND h.state = ?4)
         FROM devices v WHERE v.app = ?1 AND v.user = ?2 AND v.device = ?3 /* lock */"
    );
    let Address { app, user, device } = address;
    let found = t
        .prepare_cached(OVER)?
        .query_row(params![app, user, device, State::Held.as_str()], |r| Ok((read(r, 0)?, r.get(8)?, r.get(9)?)))
        .optional()?;
    let (before, under_way, holds): (Device, bool, bool) = found.unwrap_or_default();
    Ok((carry_out(t, (address, &before, holds), event, now_ms)?, under_way))
}

/// Carries an event out on a device's row. Rows of devices are always taken before those of deliveries.
///
/// # Errors
/// [`StoreError`].
pub(super) fn apply(t: &Transaction<'_>, address: &Address, event: Event, now_ms: u64) -> Result<Step, StoreError> {
    let before = load(t, address)?;
    decide(t, address, &before, event, now_ms)
}

/// The same of a row that is held already.
///
/// # Errors
/// [`StoreError`].
pub(super) fn decide(
    t: &Transaction<'_>,
    address: &Address,
    before: &Device,
    event: Event,
    now_ms: u64,
) -> Result<Step, StoreError> {
    carry_out(t, (address, before, true), event, now_ms)
}

/// `holds`: something may be held back for the user's other devices.
fn carry_out(
    t: &Transaction<'_>,
    (address, before, holds): (&Address, &Device, bool),
    event: Event,
    now_ms: u64,
) -> Result<Step, StoreError> {
    let step = step(before, event, now_ms);
    if *before != step.device {
        write(t, address, &step.device)?;
    }
    if step.reconsider && holds {
        reconsider(t, address, now_ms)?;
    }
    Ok(step)
}

/// Carries events out on several devices' rows, all of which are read and written at once. Each device is named once.
///
/// # Errors
/// [`StoreError`].
pub(super) fn apply_all(t: &Transaction<'_>, events: Vec<(Address, Event)>, now_ms: u64) -> Result<(), StoreError> {
    let before = load_all(t, events.iter().map(|(address, _)| address))?;
    let (none, mut changed, mut reconsidered) = (Device::default(), Vec::new(), Vec::new());
    for (address, event) in &events {
        let before = before.get(address).unwrap_or(&none);
        let step = step(before, event.clone(), now_ms);
        if *before != step.device {
            changed.push((address, step.device));
        }
        if step.reconsider {
            reconsidered.push(address);
        }
    }
    // Rows are held in one order, as by everybody.
    changed.sort_unstable_by_key(|(address, _)| *address);
    t.execute_rows((WRITE, WRITE_ALL), changed.iter().map(|(address, device)| written(address, device)))?;
    reconsidered.sort_unstable();
    reconsider_all(t, &reconsidered, now_ms)
}

/// What a device's row is given of what [`read`] reads, from an expression for each of these columns; the login is the greeting's.
macro_rules! assignments {
    ($logged_in:literal, $online:literal, $nonce:literal, $attached:literal, $silent:literal, $seen_ms:literal, $node:literal) => {
        concat!(
            "UPDATE devices AS v SET logged_in = ",
            $logged_in,
            ", online = ",
            $online,
            ", connection = v.connection + CASE WHEN v.nonce <> ",
            $nonce,
            " THEN 1 ELSE 0 END, nonce = ",
            $nonce,
            ", attached = ",
            $attached,
            ", silent = ",
            $silent,
            ", seen_ms = ",
            $seen_ms,
            ", node = ",
            $node
        )
    };
}

/// The beginning of a statement whose first parameters are [`written`]'s, which are so many, and its end.
macro_rules! writes {
    () => {
        $crate::gateway::store::presence::assignments!("?4", "?5", "?6", "?7", "?8", "?9", "?10")
    };
}
macro_rules! is_its {
    () => {
        " WHERE app = ?1 AND user = ?2 AND device = ?3"
    };
}
pub(super) use {assignments, is_its, writes};

const WRITE: &str = concat!(writes!(), is_its!());
/// Rows that are held already, so each is where it was found. By a plan made on an empty table every device would be walked through
/// for each of them if they were joined by their keys.
const WRITE_ALL: &str = concat!(
    assignments!("u.logged_in", "u.online", "u.nonce", "u.attached", "u.silent", "u.seen_ms", "u.node"),
    " FROM unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS text[]), CAST(?4 AS bigint[]), CAST(?5 AS bigint[]),
     CAST(?6 AS text[]), CAST(?7 AS bigint[]), CAST(?8 AS bigint[]), CAST(?9 AS bigint[]), CAST(?10 AS text[]))
     AS u (app, user, device, logged_in, online, nonce, attached, silent, seen_ms, node) CROSS JOIN LATERAL
     (SELECT f.ctid AS row FROM devices f WHERE f.app = u.app AND f.user = u.user AND f.device = u.device OFFSET 0) AS f
     WHERE v.ctid = f.row"
);

/// A device's row as a statement's parameters.
pub(super) fn written<'d>(address: &'d Address, now: &'d Device) -> Vec<Bound<'d>> {
    let flag = |flag: bool| Bound::Integer(flag.into());
    let nonce = now.nonce.as_ref().map_or("", |nonce| nonce);
    let mut row = whole(address).map(Bound::Text).to_vec();
    row.extend([flag(now.logged_in), flag(now.online), Bound::Text(nonce), flag(now.attached), flag(now.silent)]);
    row.extend([Bound::Integer(as_i64(now.seen_ms)), Bound::Text(&now.node)]);
    row
}

fn write(t: &Transaction<'_>, address: &Address, now: &Device) -> Result<(), StoreError> {
    t.prepare_cached(WRITE)?.execute(written(address, now)).map(drop)
}

/// What other devices of the user were held back for may be over.
const RECONSIDER: &str =
    "UPDATE deliveries SET due_ms = ?5 WHERE app = ?1 AND user = ?2 AND device <> ?3 AND open IN (1, 2) AND state = ?4";
/// The same for several devices on PostgreSQL: which deliveries those are, held, and then that they are due. Joined otherwise, by a
/// plan made on an empty table all that is open would be walked through.
const HELD_BACK: &str =
    "SELECT d.part, d.row FROM unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS text[]), CAST(?4 AS text[]))
     AS u (app, user, device, state) CROSS JOIN LATERAL
     (SELECT CAST(d.tableoid AS bigint) AS part, CAST(d.ctid AS text) AS row FROM deliveries d WHERE d.app = u.app AND d.user = u.user
      AND d.device <> u.device AND d.open IN (1, 2) AND d.state = u.state OFFSET 0 /* lock */) AS d";
const DUE_ALL: &str = "UPDATE deliveries d SET due_ms = u.due_ms FROM unnest(CAST(?1 AS bigint[]), CAST(?2 AS text[]), CAST(?3 AS bigint[]))
     AS u (part, row, due_ms) WHERE d.ctid = CAST(u.row AS tid) AND d.tableoid = CAST(u.part AS oid)";

fn held_back(address: &Address, now_ms: u64) -> Vec<Bound<'_>> {
    let mut row = whole(address).map(Bound::Text).to_vec();
    row.extend([Bound::Text(State::Held.as_str()), Bound::Integer(as_i64(now_ms))]);
    row
}

fn reconsider_all(t: &Transaction<'_>, addresses: &[&Address], now_ms: u64) -> Result<(), StoreError> {
    let rows = addresses.iter().map(|address| held_back(address, now_ms));
    if !t.is_shared() {
        return t.execute_rows((RECONSIDER, RECONSIDER), rows);
    }
    let wanted = rows.map(|mut row| {
        row.truncate(4);
        row
    });
    let found: BTreeSet<(i64, String)> =
        t.with_rows((HELD_BACK, HELD_BACK), wanted, |r| Ok((r.get(0)?, r.get(1)?)))?.into_iter().collect();
    let due_ms = Bound::Integer(as_i64(now_ms));
    let rows = found.iter().map(|(part, row)| vec![Bound::Integer(*part), Bound::Text(row), due_ms]);
    t.execute_rows((DUE_ALL, DUE_ALL), rows)
}

fn reconsider(t: &Transaction<'_>, address: &Address, now_ms: u64) -> Result<(), StoreError> {
    t.prepare_cached(RECONSIDER)?.execute(held_back(address, now_ms)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::store::trial::Trial;
    use std::time::{Duration, Instant};

    #[tokio::test]
    async fn what_many_devices_had_is_considered_again_by_index_whatever_is_known_of_the_tables() {
        let test = "what_many_devices_had_is_considered_again_by_index_whatever_is_known_of_the_tables";
        let Some(trial) = Trial::start(test) else { return };
        trial.database("again");
        let store = trial.store("impush", "again").await;
        trial.go_by_users("again", "devices, deliveries", &[WRITE_ALL, RECONSIDER, HELD_BACK, DUE_ALL]);
        trial.ask(
            "again",
            "INSERT INTO devices (app, \"user\", device, logged_in, online, nonce) VALUES ('o#a', 'ann', 'phone', 1, 1, 'n'),
             ('o#a', 'ann', 'tablet', 1, 0, ''), ('o#a', 'ben', 'phone', 1, 1, 'n'), ('o#a', 'cid', 'phone', 1, 1, 'n');
             INSERT INTO deliveries (message, app, \"user\", device, state, due_ms, open) VALUES ('m1', 'o#a', 'ann', 'tablet', 'held', 900, 1),
             ('m2', 'o#a', 'ann', 'phone', 'held', 900, 1), ('m3', 'o#a', 'ann', 'tablet', 'vendor', 900, 1),
             ('m4', 'o#a', 'ann', 'tablet', 'held', 900, NULL), ('m5', 'o#a', 'cid', 'tablet', 'held', 900, 1)",
        );
        let ended =
            |user| (Address::new("o#a", user, "phone").expect("an address"), Event::Ended { nonce: "n".into() });
        store.run_alone(move |t| apply_all(t, ["ben", "ann"].map(ended).into(), 50)).await.expect("stored");
        let is = |sql: &str| trial.ask("again", sql).replace('\n', " ");
        assert_eq!(
            is("SELECT \"user\", device, online FROM devices ORDER BY 1, 2"),
            "ann|phone|0 ann|tablet|0 ben|phone|0 cid|phone|1"
        );
        assert_eq!(is("SELECT message, due_ms FROM deliveries ORDER BY 1"), "m1|50 m2|900 m3|900 m4|900 m5|900");
    }

    #[tokio::test]
    async fn users_devices_are_found_by_their_index_though_the_plan_is_of_an_empty_table() {
        let Some(trial) = Trial::start("users_devices_are_found_by_their_index") else { return };
        trial.database("plans");
        let store = trial.store("impush", "plans").await;
        let ask = |which| {
            store.run(move |t| {
                let users = ["u1", "u2", "u3"].map(|user| ("o#a", user));
                Ok(of_users(t, which, &users)?.len())
            })
        };
        let reads = |column: &str| -> u64 {
            let sql = format!("SELECT sum({column}) FROM pg_stat_user_indexes WHERE relname = 'devices'");
            trial.ask("plans", &sql).parse().expect("a number")
        };
        // Else PostgreSQL takes a table that is empty for one of ten pages.
        trial.ask("plans", "VACUUM ANALYZE devices");
        for which in [Which::LoggedIn, Which::Online] {
            // On every connection.
            for _ in 0..8 {
                assert_eq!(tokio::try_join!(ask(which), ask(which)).expect("asked"), (0, 0));
            }
        }
        trial.ask(
            "plans",
            "INSERT INTO devices (app, \"user\", device, logged_in, online, node)
             SELECT 'o#a', 'u' || n, 'phone', 1, 1, 'here' FROM generate_series(1, 5000) AS n",
        );
        let (scans, read, deadline) =
            (reads("idx_scan"), reads("idx_tup_read"), Instant::now() + Duration::from_secs(60));
        // A connection tells of what it did once a second.
        while reads("idx_scan") < scans + 20 {
            for which in [Which::LoggedIn, Which::Online] {
                assert_eq!(ask(which).await.expect("asked"), 3);
            }
            assert!(Instant::now() < deadline, "nothing is found by an index");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (scans, read) = (reads("idx_scan") - scans, reads("idx_tup_read") - read);
        assert!(read <= 10 * scans, "{read} rows in {scans} looks");
    }
}
