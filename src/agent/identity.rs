//! `impush reset-identity`: another device id for an agent that does not run.

use crate::store::{OpenError, reset_identity};
use crate::terminal::print;
use std::io;
use std::path::{Path, PathBuf};

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResetError {
    #[error("the agent is running{}; stop it first", pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    Running { pid: Option<u32> },
    #[error("{path} does not exist: no agent has kept its state there")]
    Nothing { path: PathBuf },
    #[error(transparent)]
    State(OpenError),
    #[error("cannot print: {0}")]
    Output(#[from] io::Error),
}

impl ResetError {
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Running { .. } => 75,
            Self::Nothing { .. } => 66,
            Self::State(_) => 73,
            Self::Output(_) => 74,
        }
    }
}

pub(super) fn reset(state: &Path) -> Result<(), ResetError> {
    if !state.is_dir() {
        return Err(ResetError::Nothing { path: state.to_owned() });
    }
    let kept = reset_identity(state).map_err(|error| match error {
        OpenError::InUse { pid, .. } => ResetError::Running { pid },
        other => ResetError::State(other),
    })?;
    Ok(print(&match kept {
        Some(kept) => format!("the next start takes a new device id; the old one is kept in {}", kept.display()),
        None => "there is no device id yet; the next start makes one".to_owned(),
    })?)
}
