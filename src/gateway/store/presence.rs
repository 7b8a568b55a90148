//! Rows of devices as the delivery's rules see them: loaded, decided on, written back.

use super::sql::{OptionalExtension as _, Row, Transaction, params};
use super::{StoreError, as_i64, as_u64};
use crate::delivery::presence::{Event, Step, step};
use crate::delivery::{Device, State};
use crate::ids::Nonce;
use crate::protocol::Address;
use std::collections::HashMap;

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
         AS u (app, user, device, place)
         JOIN devices v ON v.app = u.app AND v.user = u.user AND v.device = u.device /* lock */"
    );
    let mut wanted: Vec<&Address> = addresses.collect();
    wanted.sort_unstable();
    wanted.dedup();
    let rows = wanted.iter().map(|address| whole(address));
    let found = t.for_rows((ONE, ALL), rows, |r| read(r, 0))?;
    Ok(found.into_iter().map(|(place, device)| (wanted[place], device)).collect())
}

/// An address as a statement's parameters.
pub(super) fn whole(Address { app, user, device }: &Address) -> [&str; 3] {
    [app, user, device]
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
    let Address { app, user, device } = address;
    let step = step(before, event, now_ms);
    let Device { logged_in, online, nonce, attached, silent, seen_ms, node, .. } = &step.device;
    if *before != step.device {
        t.prepare_cached(
            "UPDATE devices SET logged_in = ?4, online = ?5, connection = connection + CASE WHEN nonce <> ?6 THEN 1 ELSE 0 END,
             nonce = ?6, attached = ?7, silent = ?8, seen_ms = ?9, node = ?10 WHERE app = ?1 AND user = ?2 AND device = ?3",
        )?
        .execute(params![
            app,
            user,
            device,
            logged_in,
            online,
            nonce.as_ref().map_or("", |n| n),
            attached,
            silent,
            as_i64(*seen_ms),
            node
        ])?;
    }
    if step.reconsider {
        t.prepare_cached(
            "UPDATE deliveries SET due_ms = ?5 WHERE app = ?1 AND user = ?2 AND device <> ?3 AND open IN (1, 2) AND state = ?4",
        )?
        .execute(params![app, user, device, State::Held.as_str(), as_i64(now_ms)])?;
    }
    Ok(step)
}
