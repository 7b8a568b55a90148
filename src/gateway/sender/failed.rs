//! A call to a vendor that got no usable answer.

use crate::delivery::outcome::Outcome;
use crate::http::HttpError;

/// What becomes of its notifications, and which connection was lost with it.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub outcome: Outcome,
    /// The number of that connection: the calls that it took with it are one event.
    pub lost: Option<u64>,
}

impl From<Outcome> for Failed {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, lost: None }
    }
}

impl From<HttpError> for Failed {
    fn from(error: HttpError) -> Self {
        let outcome =
            Outcome::RetryAfter { after_ms: None, code: error.as_str().to_owned(), reason: error.to_string() };
        Self { outcome, lost: error.lost() }
    }
}
