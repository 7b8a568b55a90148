//! The control socket: HTTP/1.1 and JSON over a Unix socket, for local apps and the command line.
//!
//! | method and path | does |
//! | --- | --- |
//! | `GET /v1/status` | the status document |
//! | `POST /v1/login` `{user, password}` | stores the login and connects |
//! | `POST /v1/logout` `{keep_binding}` | unbinds and ends the login |
//! | `PUT /v1/tokens/{channel}` `{token}` | a vendor token came or changed |
//! | `DELETE /v1/tokens/{channel}` | it went |
//! | `GET /v1/messages?after=N&stream=true` | messages as JSON lines, oldest first |
//! | `POST /v1/messages/ack` `{ids}` | the app has taken them |
//! | `POST /v1/reconnect` | a new connection now |
//! | `PUT /v1/power` `{mode}` | `auto`, `normal` or `low`: save power, or a metered network |
//! | `POST /v1/receipts` `{id, event}` | a notification was `arrived` or `clicked` |
//! | `GET /v1/metrics` | counters for Prometheus |
//! | `POST /v1/init` | the push plugin's `initPushModule`: the channel, and why not the others |
//! | `PUT /v1/plugin` `{config}` | its `usePlugin`: certificate names, under the plugin's own keys |
//! | `POST /v1/unbindPushToken` | its `unbindPushToken`: until the next login |
//!
//! Errors are `{"error": {"code", "message"}}`. A peer must be root, run as the agent's user, or be in the
//! socket's group.

mod client;
mod server;

pub use client::{Client, ClientError};
pub use server::{Server, bind};

use super::config::Certificates;

use crate::keepalive::PowerMode;
use crate::secret::Secret;
use crate::store::Entry;
use crate::vendor::Vendor;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio::sync::oneshot;

/// Largest request body, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// What a peer asks of the daemon.
#[derive(Debug)]
pub enum Ask {
    Status,
    Login {
        user: String,
        password: Secret,
    },
    Logout {
        keep_binding: bool,
    },
    SetToken {
        vendor: Vendor,
        token: Secret,
    },
    RemoveToken {
        vendor: Vendor,
    },
    Messages {
        after: u64,
    },
    Ack {
        ids: Vec<String>,
    },
    Reconnect,
    Init,
    UsePlugin {
        config: Box<Certificates>,
    },
    UnbindPushToken,
    Receipt {
        id: String,
        event: String,
    },
    Metrics,
    Power {
        mode: PowerMode,
    },
    /// A message stream was opened or closed.
    Attach,
    Detach,
}

/// A question and the way back.
#[derive(Debug)]
pub struct Request {
    pub ask: Ask,
    pub reply: oneshot::Sender<Result<Reply, Refusal>>,
}

#[derive(Debug)]
pub enum Reply {
    Json(Json),
    Messages(Vec<Entry>),
    Text(String),
}

/// Why a request was refused, as the peer reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    #[serde(skip, default)]
    pub status: u16,
    pub code: String,
    pub message: String,
}

impl Refusal {
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into() }
    }
}
