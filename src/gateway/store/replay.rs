//! What has to come again because the device that had it has it no more.

use super::StoreError;
use super::sql::{Transaction, params};
use crate::protocol::Address;
/// What is on no device's disk any longer: its inbox goes with the login.
pub(super) fn inbox_gone(t: &Transaction<'_>, address: &Address) -> Result<(), StoreError> {
    let Address { app, user, device } = address;
    t.execute(
        "UPDATE deliveries SET acked_by = NULL WHERE app = ?1 AND user = ?2 AND device = ?3 AND open = 1 AND acked_by IS NOT NULL",
        params![app, user, device],
    )?;
    Ok(())
}
