//! The control socket: HTTP/1.1 and JSON over a Unix socket, for local apps and the command line.
//!
//! | method and path | does |
//! | --- | --- |
//! | `GET /v1/status` | the status document |
//! | `POST /v1/login` `{user, password, wait}` | stores the login and connects; with `wait` answers when a server has accepted it, or says why not |
//! | `POST /v1/enrol` `{code, wait}` | exchanges an enrolment code, and logs in with what it brings |
//! | `POST /v1/logout` `{keep_binding}` | unbinds and ends the login |
//! | `PUT /v1/tokens/{channel}` `{token}` | a vendor token came or changed |
//! | `DELETE /v1/tokens/{channel}` | it went |
//! | `GET /v1/messages?app=NAME&after=N&stream=true` | messages as JSON lines, oldest first; `{"gap": n}` where n were given up for want of room; a stream's last line is `{"end": {word, detail}}`. With `peek=true` all that are there, and no app's place is kept |
//! | `POST /v1/messages/ack` `{ids, app}` | the app has taken them |
//! | `POST /v1/apps` `{name, origins, wake}` | adds a local app and answers its secret, once |
//! | `GET /v1/apps`, `DELETE /v1/apps/{name}` | those that were added, without their secrets; one is forgotten |
//! | `POST /v1/reconnect` | a new connection now |
//! | `PUT /v1/power` `{mode}` | `auto`, `normal` or `low`: save power, or a metered network |
//! | `POST /v1/receipts` `{id, event}` | a notification was `arrived` or `clicked` |
//! | `GET /v1/metrics` | counters for Prometheus |
//! | `POST /v1/init` | the push plugin's `initPushModule`: the channel, and why not the others |
//! | `PUT /v1/plugin` `{config}` | its `usePlugin`: certificate names, under the plugin's own keys |
//! | `POST /v1/unbindPushToken` | its `unbindPushToken`: until the next login |
//!
//! Errors are `{"error": {"code", "message"}}`; an agent that cannot start answers everything with `not_started`. A peer must be root, run as the agent's user, or be in the
//! socket's group.

mod answer;
mod apps;
mod client;
mod messages;
mod peer;
mod refuse;
mod serve;
mod server;
mod socket_file;
mod web;

pub use client::{Client, ClientError, Reader};
pub use server::{Door, Server, bind, given, group_id};
pub use socket_file::OwnSocket;
pub use web::Apps;

pub use crate::session::Refusal;

use crate::ids::MessageId;
use crate::secret::Secret;
use crate::session::{self, Patience};
use crate::store::Batch;
use serde_json::Value as Json;
use tokio::sync::oneshot;

/// Largest request body, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// What a peer asks of the daemon.
#[derive(Debug)]
pub enum Ask {
    /// What the session decides.
    Session(session::Ask),
    /// With an enrolment code; the login follows.
    Enrol {
        code: Secret,
        patience: Patience,
    },
    Status,
    /// Messages for a local app; without its name all that are there.
    Messages {
        app: Option<String>,
        after: u64,
    },
    Ack {
        app: String,
        ids: Vec<MessageId>,
    },
    Metrics,
    /// The apps that were added.
    Apps,
    /// A message stream was opened.
    Attach {
        app: String,
    },
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
    Messages { batch: Batch, epoch: Option<String> },
    Text(String),
}
