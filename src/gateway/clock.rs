//! The wall clock, as every stored time is written.

use crate::secret::random_hex;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// A new message's id: its millisecond and chance, 20 hexadecimal digits. Ids made one after the other
/// stand together in the database, which random ones would scatter over all of it.
pub fn message_id(now_ms: u64) -> String {
    format!("{}{}", ids_from(now_ms), random_hex::<4>())
}

/// What the ids of that millisecond begin with: every earlier id is less.
pub fn ids_from(ms: u64) -> String {
    format!("{:012x}", ms & 0xffff_ffff_ffff)
}
