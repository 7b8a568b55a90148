//! What came of one vendor send, for one token.

use crate::untrusted::{LONGEST, bounded};

/// The most bytes of a vendor's code that are kept. Theirs have up to thirty.
const LONGEST_CODE: usize = 64;

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
    /// Too many in a short time, and the vendor names no end.
    TooFast {
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
            Self::LimitedUntil { .. } | Self::TooFast { .. } => "limited",
            Self::RetryAfter { .. } => "retry",
            Self::Unknown { .. } => "unknown",
            Self::Refused { .. } => "refused",
        }
    }

    /// The vendor's code; `0` for success. Whatever a vendor says, it is short.
    pub fn code(&self) -> &str {
        let code = match self {
            Self::Delivered { .. } => "0",
            Self::TokenDead { code, .. }
            | Self::TokenSoftDead { code, .. }
            | Self::LimitedUntil { code, .. }
            | Self::TooFast { code, .. }
            | Self::RetryAfter { code, .. }
            | Self::Unknown { code, .. }
            | Self::Refused { code, .. } => code,
        };
        &code[..code.floor_char_boundary(LONGEST_CODE)]
    }

    /// The vendor's code and words, for the trace, the log and the app's server; of bounded length.
    pub fn detail(&self) -> String {
        match self {
            Self::Delivered { vendor_id } => vendor_id.clone().unwrap_or_default(),
            Self::TokenDead { code, reason, .. }
            | Self::TokenSoftDead { code, reason }
            | Self::LimitedUntil { code, reason, .. }
            | Self::TooFast { code, reason }
            | Self::RetryAfter { code, reason, .. }
            | Self::Unknown { code, reason }
            | Self::Refused { code, reason, .. } => bounded(&format_args!("{code} {reason}"), LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vendor_that_answers_with_a_book_is_kept_short() {
        let outcome = Outcome::Unknown { code: "é".repeat(450_000), reason: "x".repeat(900_000) };
        assert_eq!(outcome.code().len(), LONGEST_CODE);
        assert!(outcome.detail().len() < 2 * LONGEST + 100, "{}", outcome.detail().len());
        let plain = Outcome::Unknown { code: "22022".into(), reason: "no".into() };
        assert_eq!((plain.code(), plain.detail().as_str()), ("22022", "22022 no"));
    }
}
