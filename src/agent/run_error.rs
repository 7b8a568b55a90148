//! Why the agent cannot run, and what a service manager makes of each.

use crate::device;
use crate::mqtt::TlsSetupError;
use crate::settings::SettingsError;
use crate::store::OpenError;
use std::io;
use std::path::PathBuf;

/// Each has an exit code that tells a service manager whether to try again.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    State(#[from] OpenError),
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    #[error("device.root: {0}")]
    Device(#[from] device::PropertyError),
    #[error("cannot open the control socket {path}: {source}")]
    Socket { path: PathBuf, source: io::Error },
    #[error("the kernel gives no timer: {0}")]
    Timer(io::Error),
    #[error("the kernel gives no event loop: {0}")]
    Runtime(io::Error),
}

impl RunError {
    /// sysexits: 77 and 78 need a person, 75 may pass by itself, 71 and 73 are the system's.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(error) if error.not_permitted() => 77,
            Self::Settings(_) | Self::Tls(_) | Self::Device(_) => 78,
            Self::State(OpenError::InUse { .. } | OpenError::Unreadable { .. }) => 75,
            Self::Socket { source, .. } if source.kind() == io::ErrorKind::AddrInUse => 75,
            Self::State(OpenError::Io { .. }) | Self::Socket { .. } => 73,
            Self::Timer(_) | Self::Runtime(_) => 71,
        }
    }
}
