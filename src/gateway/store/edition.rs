//! By which edition of all that an app's operators have set a transaction works.

use super::StoreError;
use super::sql::{OptionalExtension as _, Transaction};
use crate::secret::random_hex;
use std::rc::Rc;

/// # Errors
/// [`StoreError`].
pub(super) fn of(t: &Transaction<'_>) -> Result<Rc<str>, StoreError> {
    t.edition(|| {
        let found = t.query_row("SELECT value FROM meta WHERE key = 'edition'", [] as [&str; 0], |r| r.get(0));
        Ok(found.optional()?.unwrap_or_default())
    })
}

/// Something was set in this transaction: from its commit on, whoever remembers reads again.
///
/// # Errors
/// [`StoreError`].
pub(super) fn next(t: &Transaction<'_>) -> Result<(), StoreError> {
    t.execute(
        "INSERT INTO meta (key, value) VALUES ('edition', ?1) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [random_hex::<8>().as_str()],
    )?;
    t.forget_edition();
    Ok(())
}
