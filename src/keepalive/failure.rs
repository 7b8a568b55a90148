//! What went wrong with a connection: a numbered cause that decides the recovery, and the details.

use super::Cause;

/// A connection that ended or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", cause.text())]
pub struct Failure {
    pub cause: Cause,
    /// What the system, the TLS library or the server said.
    pub detail: String,
    /// Where the server sent us, with `use_another_server` and `server_moved`.
    pub server_reference: Option<String>,
    /// The gateway's own word that this login has ended (user property `impush-end`): its kick code. A
    /// broker's code alone never says so.
    pub end: Option<u16>,
}

impl Failure {
    pub fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into(), server_reference: None, end: None }
    }
}
