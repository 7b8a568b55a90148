//! What survives a restart, as the session holds it.

use super::LocalApp;
use crate::binding::Ledger;
use crate::ids::{AppId, MessageId};
use crate::keepalive::{Cause, Failure, Record};
use crate::secret::Secret;
use crate::vendors::Vendor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Whose messages this device receives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub user: String,
    pub password: Secret,
    /// The password before the last renewal: good until the new one has entered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_password: Option<Secret>,
    /// The IM app; absent in a file of an older version, which meant the configured one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppId>,
    /// Made at the login; absent, or empty, in a file of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "made")]
    pub id: Option<String>,
    /// The app had the token unbound; it stays so until the next login.
    #[serde(default)]
    pub unbound: bool,
    /// A server has accepted it once. Refusals that are not the gateway's own word are tried again then.
    #[serde(default = "worked")]
    pub welcomed: bool,
}

fn made<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|id| !id.is_empty()))
}

/// A file of an older version does not say: it was online more likely than not.
fn worked() -> bool {
    true
}

/// How the last login ended, for those who ask later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub cause: Cause,
    /// The gateway's number and words.
    pub detail: String,
    pub at_ms: u64,
}

impl Ended {
    pub(super) fn failure(&self) -> Failure {
        Failure::new(self.cause, self.detail.clone())
    }
}

/// What the gateway is to be told with the next connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reports {
    /// Messages that local apps have taken.
    pub taken: Vec<MessageId>,
    /// Notifications that were shown or opened: message id and event.
    pub receipts: Vec<(MessageId, String)>,
}

impl Reports {
    pub(super) fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.receipts.is_empty()
    }
}

/// Everything small that is read at start and written when it changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Saved {
    pub login: Option<Login>,
    pub tokens: BTreeMap<Vendor, Secret>,
    /// Certificate names an app gave, which stand over the configuration's.
    pub plugin: BTreeMap<Vendor, String>,
    pub ledger: Ledger,
    pub heartbeat: Vec<Record>,
    pub reports: Reports,
    pub ended: Option<Ended>,
    /// The time a verified connection confirmed last, kept to the day: milliseconds since the Unix epoch.
    pub confirmed_ms: Option<u64>,
    /// Apps that were added, by name.
    pub local_apps: BTreeMap<String, LocalApp>,
}
