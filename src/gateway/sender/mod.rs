//! Delivery through the vendors' clouds: one file per vendor, and what they share.
//!
//! Every answer becomes one [`Outcome`]. Credential trouble stays inside a sender: it refreshes once
//! and then reports the certificate, never the token.

mod credential;
mod huawei;
mod xiaomi;

use crate::gateway::config::Vendors;
use crate::gateway::content::Content;
use crate::gateway::store::Certificate;
use crate::http::{Http, HttpError};
use crate::vendor::Vendor;
use huawei::Huawei;
use serde_json::Value as Json;
use std::time::Duration;
use xiaomi::Xiaomi;

/// What a vendor's answer means for one token. `code` is the vendor's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Delivered {
        vendor_id: Option<String>,
    },
    /// This token will never work again.
    TokenDead {
        code: String,
        reason: String,
    },
    /// It does not work now and may later: switched off, not reachable.
    TokenSoftDead {
        code: String,
        reason: String,
    },
    /// A quota or rate is used up until then (milliseconds since the Unix epoch).
    LimitedUntil {
        until_ms: u64,
        code: String,
        reason: String,
    },
    /// Transient; the vendor may have named a pause.
    RetryAfter {
        after_ms: Option<u64>,
        code: String,
        reason: String,
    },
    /// Wrong for good; `certificate` says whose fault it is: the certificate's, or this request's.
    Refused {
        code: String,
        reason: String,
        certificate: bool,
    },
}

impl Outcome {
    /// The word used in traces, logs and metric labels.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Delivered { .. } => "delivered",
            Self::TokenDead { .. } => "token_dead",
            Self::TokenSoftDead { .. } => "token_soft_dead",
            Self::LimitedUntil { .. } => "limited",
            Self::RetryAfter { .. } => "retry",
            Self::Refused { .. } => "refused",
        }
    }

    /// The vendor's code and words, for the trace.
    pub fn detail(&self) -> String {
        match self {
            Self::Delivered { vendor_id } => vendor_id.clone().unwrap_or_default(),
            Self::TokenDead { code, reason }
            | Self::TokenSoftDead { code, reason }
            | Self::LimitedUntil { code, reason, .. }
            | Self::RetryAfter { code, reason, .. }
            | Self::Refused { code, reason, .. } => format!("{code} {reason}"),
        }
    }
}

/// What a code of a vendor's table asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Ok,
    TokenDead,
    TokenSoftDead,
    Auth,
    LimitedShort,
    LimitedToday,
    Retry,
    Request,
    Certificate,
}

/// One notification for one device.
#[derive(Debug, Clone)]
pub struct Notification {
    pub content: Content,
    /// Replaces an earlier one with the same id on the device, so that a repeat is not a second one.
    pub collapse_id: u32,
    pub time_to_live: Duration,
    /// The sender's `em_android_push_ext`.
    pub vendor_ext: Json,
}

/// The senders, with their connections and credentials.
#[derive(Debug)]
pub struct Senders {
    xiaomi: Xiaomi,
    huawei: Huawei,
}

impl Senders {
    pub fn new(http: &Http, vendors: &Vendors) -> Self {
        Self {
            xiaomi: Xiaomi::new(http.clone(), &vendors.xiaomi_url),
            huawei: Huawei::new(http.clone(), &vendors.huawei_oauth_url, &vendors.huawei_push_url),
        }
    }

    /// Whether this build can send through the vendor.
    pub const fn can_send(vendor: Vendor) -> bool {
        matches!(vendor, Vendor::Xiaomi | Vendor::Huawei)
    }

    /// Sends to one token. Never fails: whatever happens is an outcome.
    pub async fn send(
        &self,
        certificate: &Certificate,
        token: &str,
        notification: &Notification,
        now_ms: u64,
    ) -> Outcome {
        match certificate.vendor {
            Vendor::Xiaomi => self.xiaomi.send(certificate, token, notification, now_ms).await,
            Vendor::Huawei => self.huawei.send(certificate, token, notification, now_ms).await,
            other => Outcome::Refused {
                code: "unsupported".to_owned(),
                reason: format!("this gateway has no {other} sender"),
                certificate: true,
            },
        }
    }
}

/// Turns a code's meaning into an outcome; `Auth` is the caller's to handle first.
pub(super) fn outcome(
    meaning: Meaning,
    code: String,
    reason: String,
    now_ms: u64,
    vendor_id: Option<String>,
) -> Outcome {
    match meaning {
        Meaning::Ok => Outcome::Delivered { vendor_id },
        Meaning::TokenDead => Outcome::TokenDead { code, reason },
        Meaning::TokenSoftDead => Outcome::TokenSoftDead { code, reason },
        Meaning::LimitedShort => Outcome::LimitedUntil { until_ms: now_ms + SHORT_LIMIT_MS, code, reason },
        Meaning::LimitedToday => Outcome::LimitedUntil { until_ms: next_china_midnight(now_ms), code, reason },
        Meaning::Retry => Outcome::RetryAfter { after_ms: None, code, reason },
        Meaning::Request => Outcome::Refused { code, reason, certificate: false },
        Meaning::Auth | Meaning::Certificate => Outcome::Refused { code, reason, certificate: true },
    }
}

/// A rate limit per second or so: long enough to leave its window.
const SHORT_LIMIT_MS: u64 = 5000;

/// The vendors' days end at midnight in China (UTC+8, no daylight saving).
pub(super) fn next_china_midnight(now_ms: u64) -> u64 {
    const DAY: u64 = 86_400_000;
    const OFFSET: u64 = 8 * 3_600_000;
    ((now_ms + OFFSET) / DAY + 1) * DAY - OFFSET
}

pub(super) fn http_outcome(error: &HttpError) -> Outcome {
    Outcome::RetryAfter { after_ms: None, code: error.as_str().to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_ends_at_midnight_in_china() {
        // 2026-11-22 15:59:59 UTC is 23:59:59 in China.
        assert_eq!(next_china_midnight(1_795_363_199_000), 1_795_363_200_000);
        assert_eq!(next_china_midnight(1_795_363_200_000), 1_795_363_200_000 + 86_400_000);
    }
}
