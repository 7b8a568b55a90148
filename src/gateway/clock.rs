//! The wall clock, as every stored time is written.

use crate::ids::MessageId;
use crate::secret::random;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// A new message's id.
pub fn message_id(now_ms: u64) -> MessageId {
    MessageId::made(now_ms, random())
}
