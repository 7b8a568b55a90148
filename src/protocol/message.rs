//! The JSON payloads.
//!
//! Every payload is one object with `v` (major version) and `type`. Fields nobody knows are ignored
//! so that a newer peer can add some; a `type` nobody knows is an error of its own, so that the
//! reader can log it once and go on.
//!
//! ```json
//! {"v":1,"type":"bind","sequence":7,"notifier":"2882303761517","token":"..."}
//! {"v":1,"type":"bound","sequence":7,"result":"ok"}
//! ```

use crate::ids::{MessageId, Nonce};
use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::sync::Arc;

/// Gateway to device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Down {
    Message(Message),
    /// The answer to `bind` or `unbind`.
    Bound {
        sequence: u64,
        result: BindResult,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// With `later`: the newest number the gateway has seen of this device, which goes on from it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected: Option<u64>,
    },
    /// The login ends here; see [`KickCode`].
    Kick {
        code: KickCode,
        /// The device that replaced this one, where one did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaced_by: Option<String>,
    },
    /// The answer to `hello`, and values the gateway wants the device to use until it says otherwise.
    Settings {
        /// Of the `hello` that is answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nonce: Option<Nonce>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        heartbeat_ceiling_s: Option<u32>,
        /// What the gateway holds for this device and user. Absent: a gateway of before, which does not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bindings: Option<Vec<BindingReport>>,
        /// A new password for the next connection; the old one stays good until this one has been used.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<Secret>,
        /// PEM of an authority that the endpoint's certificate will be of: to be trusted beside those that are.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ca: Option<String>,
    },
}

/// Device to gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Up {
    /// First after every connect; asks for what was missed.
    Hello(Hello),
    Bind {
        sequence: u64,
        notifier: String,
        token: Secret,
    },
    /// An absent notifier unbinds all of the device's bindings.
    Unbind {
        sequence: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notifier: Option<String>,
        /// The user logged out: the device itself leaves, not only its token.
        #[serde(default)]
        logout: bool,
    },
    /// These messages are durable on the device.
    Ack {
        ids: Vec<MessageId>,
        /// Whether a local app is attached that will show them. Absent: an agent of before, which does not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attached: Option<bool>,
    },
    /// A local app has taken these messages.
    Taken {
        ids: Vec<MessageId>,
        /// Those of them for which an app was started.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        woke: Vec<MessageId>,
    },
    /// Asks for a new password before the present one ends; the welcome brings it.
    Renew,
    /// A person saw or opened the message's notification.
    Receipt {
        id: MessageId,
        event: String,
    },
    /// An app is attached or gone; a hint only.
    Presence {
        presence: Presence,
    },
}

/// What a device says of itself on connecting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Random per connection; stands in `state` and in the will too.
    pub nonce: Nonce,
    pub agent: String,
    /// The chosen push channel, or `none`.
    pub channel: String,
    /// What kind of device: `android`, `linux`, `web`...
    pub platform: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Which login this is: the same over reconnections and restarts, another after each login. A device
    /// that was kicked and comes back with the same one is told again; another one may kick in its turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// A short look at the bindings alone: no presence, no queue, the answer is the welcome.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub check: bool,
    /// Which machine this is, so that two that share one state directory are told apart: a fingerprint of
    /// what the hardware says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The one binding the device wants; whatever else the gateway holds for it is to go. Absent: an agent
    /// of before, which does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Held>,
}

/// The binding a device believes in, as its greeting names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "held", rename_all = "lowercase")]
pub enum Held {
    /// None is wanted.
    None,
    /// This notifier with the token of this [`fingerprint`](crate::secret::fingerprint).
    Bound { notifier: String, token: String },
}

/// How one binding does, as the gateway knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingReport {
    pub notifier: String,
    /// Fingerprint of the token.
    pub token: String,
    pub state: BindingState,
    /// Since when, in milliseconds since the Unix epoch by the gateway's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// `limited` ends then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// The vendor's code or words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// Whether a push through a binding can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindingState {
    /// The vendor accepted a push for this very token since it was bound, within seven days.
    Working,
    /// Nothing was pushed through it yet, or not for long.
    Unproven,
    /// The vendor says that the token is dead.
    Dead,
    /// An operator has switched the certificate off.
    Disabled,
    /// There is no certificate of this name.
    MissingCertificate,
    /// The certificate's pushes have failed for ten minutes or more.
    Failing,
    /// A quota of the certificate or the device is used up.
    Limited,
    /// A word of a newer gateway: not to be relied on.
    #[serde(other)]
    Unknown,
}

impl BindingState {
    /// Whether a device may close its connection and leave its messages to this binding.
    pub const fn may_be_rested_on(self) -> bool {
        matches!(self, Self::Working | Self::Unproven)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Unproven => "unproven",
            Self::Dead => "dead",
            Self::Disabled => "disabled",
            Self::MissingCertificate => "missing_certificate",
            Self::Failing => "failing",
            Self::Limited => "limited",
            Self::Unknown => "unknown",
        }
    }
}

/// A message for the user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub id: MessageId,
    pub from: String,
    pub to: String,
    /// `chat` or `groupchat`; a group's id stands in `group`.
    #[serde(default = "chat")]
    pub chat_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// When the gateway accepted it: milliseconds since the Unix epoch.
    pub sent_at_ms: u64,
    /// `true` when it waited in the store instead of going out at once.
    #[serde(default)]
    pub offline: bool,
    /// The message's body as the sender wrote it, one for all receivers of a call.
    pub body: Arc<Json>,
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub ext: Arc<Json>,
}

fn chat() -> String {
    "chat".to_owned()
}

/// A device's connection as the retained `state` topic shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub online: bool,
    /// The connection it speaks of; a notice with an older nonce is stale.
    pub nonce: Nonce,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    Attached,
    Detached,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindResult {
    Ok,
    /// Wrong for good: the token's shape, the notifier's name.
    Refused,
    /// The gateway could not store it now; try again later.
    Later,
}

/// Why a login ended, by the original system's numbers (its connection error codes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u16", from = "u16")]
pub enum KickCode {
    /// 206: logged in on another device.
    Replaced,
    /// 207: the account was deleted.
    AccountDeleted,
    /// 213: another device holds the login and the first wins.
    BoundElsewhere,
    /// 214: too many devices.
    TooManyDevices,
    /// 216: the password was changed.
    PasswordChanged,
    /// 217: kicked by a device, the API or the console.
    Kicked,
    /// 305: the app or account is banned.
    Banned,
    /// A number this version does not know; it ends the login all the same.
    Other(u16),
}

impl KickCode {
    /// The word that stands beside the number in logs, `status` and apps' streams.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::AccountDeleted => "account_deleted",
            Self::BoundElsewhere => "bound_elsewhere",
            Self::TooManyDevices => "too_many_devices",
            Self::PasswordChanged => "password_changed",
            Self::Kicked => "kicked",
            Self::Banned => "banned",
            Self::Other(_) => "other",
        }
    }
}

impl From<KickCode> for u16 {
    fn from(code: KickCode) -> Self {
        match code {
            KickCode::Replaced => 206,
            KickCode::AccountDeleted => 207,
            KickCode::BoundElsewhere => 213,
            KickCode::TooManyDevices => 214,
            KickCode::PasswordChanged => 216,
            KickCode::Kicked => 217,
            KickCode::Banned => 305,
            KickCode::Other(number) => number,
        }
    }
}

impl From<u16> for KickCode {
    fn from(number: u16) -> Self {
        match number {
            206 => Self::Replaced,
            207 => Self::AccountDeleted,
            213 => Self::BoundElsewhere,
            214 => Self::TooManyDevices,
            216 => Self::PasswordChanged,
            217 => Self::Kicked,
            305 => Self::Banned,
            other => Self::Other(other),
        }
    }
}
