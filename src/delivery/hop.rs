//! The words of a trace.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The word in a trace for each hop of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hop {
    Accepted,
    Published,
    /// The connection did not acknowledge in time.
    NoAck,
    /// The device's connection ended before it acknowledged.
    WentOffline,
    /// The broker takes nothing as large: only its vendor tells the device of it.
    TooLarge,
    /// Why no notification goes out.
    Stopped,
    /// It is kept for the device, or for the broker.
    Waiting,
    VendorSent,
    VendorRetry,
    VendorRefused,
    /// Sent again after a hello.
    Synced,
    /// It is on the device's disk.
    Acked,
    /// A local app has it.
    Taken,
    /// The notification was taken back.
    Recalled,
    /// The receipt of a vendor or app.
    Receipt,
    /// More waited for the device than are kept; the oldest went.
    Evicted,
    /// Its time was over before an app had it.
    Expired,
}

impl Hop {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Published => "published",
            Self::NoAck => "no_ack",
            Self::WentOffline => "went_offline",
            Self::TooLarge => "too_large",
            Self::Stopped => "stopped",
            Self::Waiting => "waiting",
            Self::VendorSent => "vendor_sent",
            Self::VendorRetry => "vendor_retry",
            Self::VendorRefused => "vendor_refused",
            Self::Synced => "synced",
            Self::Acked => "acked",
            Self::Taken => "taken",
            Self::Recalled => "recalled",
            Self::Receipt => "receipt",
            Self::Evicted => "evicted",
            Self::Expired => "expired",
        }
    }
}

/// One line of a trace, as it is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub hop: Hop,
    pub detail: Cow<'static, str>,
}

impl Line {
    pub fn new(hop: Hop, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { hop, detail: detail.into() }
    }
}
