//! What came of one vendor send, for one token.

/// What a vendor's answer means for one token. `code` is the vendor's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Delivered {
        vendor_id: Option<String>,
    },
    /// This token will never work again, if it was bound before `since_ms` (the Unix epoch's milliseconds).
    TokenDead {
        code: String,
        reason: String,
        since_ms: u64,
    },
    /// It does not work now and may later: switched off, not reachable.
    TokenSoftDead {
        code: String,
        reason: String,
    },
    /// A quota or rate is used up until then (milliseconds since the Unix epoch).
    LimitedUntil {
        limit: Limit,
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
    /// A code no table knows: tried again a few times.
    Unknown {
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

/// Whose sends a limit holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// This token's.
    Device,
    /// Every one under the certificate.
    Certificate,
    /// The gateway's own: it does not call the vendor for a while.
    Circuit,
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
            Self::Unknown { .. } => "unknown",
            Self::Refused { .. } => "refused",
        }
    }

    /// The vendor's code; `0` for success.
    pub fn code(&self) -> &str {
        match self {
            Self::Delivered { .. } => "0",
            Self::TokenDead { code, .. }
            | Self::TokenSoftDead { code, .. }
            | Self::LimitedUntil { code, .. }
            | Self::RetryAfter { code, .. }
            | Self::Unknown { code, .. }
            | Self::Refused { code, .. } => code,
        }
    }

    /// The vendor's code and words, for the trace.
    pub fn detail(&self) -> String {
        match self {
            Self::Delivered { vendor_id } => vendor_id.clone().unwrap_or_default(),
            Self::TokenDead { code, reason, .. }
            | Self::TokenSoftDead { code, reason }
            | Self::LimitedUntil { code, reason, .. }
            | Self::RetryAfter { code, reason, .. }
            | Self::Unknown { code, reason }
            | Self::Refused { code, reason, .. } => format!("{code} {reason}"),
        }
    }
}
