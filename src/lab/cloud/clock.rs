//! The wall clock of the clouds.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// A moment of a JSON Web Token, which may have a fraction (RFC 7519, section 2, NumericDate); 0 where there is none.
pub(super) fn seconds(moment: &serde_json::Value) -> u64 {
    moment.as_f64().map_or(0, |seconds| seconds as u64)
}
