//! Why a command of the agent failed, and the exit code that says what a script may do about it (sysexits).

use super::control::ClientError;
use super::identity::ResetError;
use super::inbox::InboxCommandError;
use super::run_error::RunError;
use crate::settings::SettingsError;
use std::io;
use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Detect(#[from] crate::device::PropertyError),
    #[error("the login ended: {word} {detail}")]
    LoginEnded { word: String, detail: String },
    #[error("{}", .0.join("\nimpush: "))]
    CannotStart(Vec<String>),
    #[error("cannot look as that user: {0}")]
    User(io::Error),
    #[error("{failed} checks failed")]
    Unhealthy { failed: usize },
    #[error(transparent)]
    Inbox(#[from] InboxCommandError),
    #[error(transparent)]
    Reset(#[from] ResetError),
    #[error("cannot print: {0}")]
    Output(#[from] io::Error),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

impl CommandError {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(error) if error.not_permitted() => 77,
            Self::Settings(_) | Self::CannotStart(_) => 78,
            Self::Run(error) => error.exit_code(),
            Self::Client(ClientError::NotPermitted { .. }) => 77,
            Self::Client(ClientError::NotRunning { .. } | ClientError::Asleep { .. } | ClientError::Broken(_))
            | Self::Unhealthy { .. } => 69,
            Self::Client(ClientError::Refused(refusal)) => refusal_code(&refusal.code),
            Self::File { .. } | Self::Detect(_) => 66,
            Self::LoginEnded { .. } => 77,
            Self::User(error) if error.kind() == io::ErrorKind::PermissionDenied => 77,
            Self::User(_) => 67,
            Self::Inbox(error) => error.exit_code(),
            Self::Reset(error) => error.exit_code(),
            Self::Output(_) | Self::Json(_) => 74,
        }
    }
}

/// sysexits for the reason's word: what a script may do about it differs.
fn refusal_code(word: &str) -> u8 {
    match word {
        "dns_failed" => 68,
        "not_started" | "not_enrolled" => 69,
        "not_stored" => 74,
        "bad_credentials" | "not_authorized" | "banned" | "client_id_refused" | "login_expired" | "unknown"
        | "expired" | "used_up" | "revoked" | "user_exists" | "not_active" => 77,
        "wrong_app" => 78,
        "no_answer"
        | "connect_timeout"
        | "connect_refused"
        | "network_unreachable"
        | "server_busy"
        | "server_unavailable"
        | "server_shutting_down"
        | "quota_exceeded"
        | "busy"
        | "held_back"
        | "unavailable"
        | "peer_closed"
        | "io_error" => 75,
        word if word.starts_with("tls_") || matches!(word, "not_mqtt5" | "protocol_error") => 76,
        _ => 65,
    }
}
