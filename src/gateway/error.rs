//! Why the gateway cannot serve, and what a service manager should make of it.

use super::store::StoreError;
use crate::mqtt::TlsSetupError;
use crate::settings::SettingsError;
use crate::store::OpenError;

/// Why the gateway cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    State(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    #[error("the key for certificates' secrets, {path}: {source}")]
    SecretsKey { path: std::path::PathBuf, source: std::io::Error },
    #[error("vendors: {0}")]
    Vendors(String),
    #[error("{0}")]
    Broker(String),
    #[error("cannot listen on {address} for the API: {source}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: std::path::PathBuf, source: std::io::Error },
}

impl ServeError {
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Tls(_) | Self::Vendors(_) | Self::SecretsKey { .. } => 78,
            Self::State(OpenError::InUse { .. } | OpenError::Unreadable { .. }) => 75,
            Self::State(OpenError::Io { .. }) | Self::Write { .. } => 73,
            Self::Store(_) => 74,
            Self::Broker(_) | Self::Listen { .. } => 69,
        }
    }
}
