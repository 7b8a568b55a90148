//! Which devices of a user are remembered: so many, and of those that are not logged in the oldest go first.

use super::StoreError;
use super::presence::whole;
use super::sql::{OptionalExtension as _, Transaction, params};
use crate::protocol::Address;

/// Device ids remembered for one user: a token that is not bound to a device could name any number.
pub(super) const MOST_DEVICES: i64 = 100;

/// Makes sure that the device is known. `false`: the user has too many that are logged in.
///
/// # Errors
/// [`StoreError`].
pub(super) fn ensure(t: &Transaction<'_>, address: &Address) -> Result<bool, StoreError> {
    if !insert(t, address)? {
        return Ok(true);
    }
    let Address { app, user, .. } = address;
    let known: i64 = t
        .prepare_cached("SELECT count(*) FROM devices WHERE app = ?1 AND user = ?2")?
        .query_row(params![app, user], |r| r.get(0))?;
    Ok(known <= MOST_DEVICES || make_room(t, address)?)
}

/// Adds the device; `false`: it is there already.
pub(super) fn insert(t: &Transaction<'_>, address: &Address) -> Result<bool, StoreError> {
    let new = t
        .prepare_cached("INSERT OR IGNORE INTO devices (app, user, device) VALUES (?1, ?2, ?3)")?
        .execute(whole(address))?;
    Ok(new > 0)
}

/// One device more than are remembered is known: another of them goes, or, where all are logged in, this one: then `false`.
pub(super) fn make_room(t: &Transaction<'_>, address: &Address) -> Result<bool, StoreError> {
    let Address { app, user, device } = address;
    // One that was told of its end long ago goes last: until then it may ask again.
    let oldest: Option<String> = t
        .query_row(
            "SELECT device FROM devices WHERE app = ?1 AND user = ?2 AND device <> ?3 AND logged_in = 0
             ORDER BY CASE WHEN kicked_code IS NULL THEN 0 ELSE 1 END, seen_ms, device LIMIT 1",
            params![app, user, device],
            |r| r.get(0),
        )
        .optional()?;
    let leaves = oldest.as_deref().unwrap_or(device);
    t.execute("DELETE FROM bindings WHERE app = ?1 AND user = ?2 AND device = ?3", params![app, user, leaves])?;
    t.execute("DELETE FROM devices WHERE app = ?1 AND user = ?2 AND device = ?3", params![app, user, leaves])?;
    Ok(oldest.is_some())
}
