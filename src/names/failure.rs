//! Why a name was not resolved: who was asked, and how each failed.

use super::message::MessageError;
use std::fmt;
use std::io;
use std::time::Duration;

/// How one of those that were asked failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An answer, and a definite one: an expired answer must not be used in its place.
    #[error("{0}")]
    Denied(&'static str),
    /// Nobody answers; asking elsewhere or later may help.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// What came is no answer, or says that there is none now.
    #[error("{0}")]
    Broken(&'static str),
    /// netd's own code (its `ResponseCode.h`).
    #[error("it answered with its code {0}")]
    Code(i32),
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Netd speaks a dialect of before Android 6: configure name servers.
    #[error("netd of Android 5 and earlier is not spoken to; set server.dns")]
    TooOld,
}

impl From<MessageError> for Failure {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::BadName => Self::Denied("it is no name that DNS can be asked for"),
            MessageError::NoSuchName => Self::Denied("there is no such name"),
            MessageError::NoAddress => Self::Denied("the name has no address"),
            MessageError::Failed(2) => Self::Broken("the name server failed (SERVFAIL)"),
            MessageError::Failed(5) => Self::Broken("the name server refuses to answer (REFUSED)"),
            MessageError::Failed(_) => Self::Broken("the name server failed"),
            MessageError::Truncated => Self::Broken("the answer is cut short"),
            MessageError::Malformed => Self::Broken("the answer is malformed"),
            MessageError::NotOurs => Self::Broken("the answer is to another question"),
        }
    }
}

/// A name that nobody resolved.
#[derive(Debug, thiserror::Error)]
pub struct LookupError {
    pub host: String,
    /// Who was asked, in the order in which they failed.
    pub asked: Vec<(String, Failure)>,
}

impl LookupError {
    /// Somebody answered that the name, or an address of it, does not exist.
    pub(super) fn is_denied(&self) -> bool {
        self.asked.iter().any(|(_, failure)| matches!(failure, Failure::Denied(_)))
    }
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.host)?;
        for (at, (who, failure)) in self.asked.iter().enumerate() {
            write!(f, "{}{who}: {failure}", if at == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}
