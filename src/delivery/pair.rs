//! Where a message stands on its way to one device, and what its next step depends on.

use super::Device;
use crate::ids::Nonce;
use serde::{Deserialize, Serialize};

/// Where a (message, device) pair stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing was decided yet. It is never stored.
    New,
    /// For a connection: the ack deadline runs.
    Live,
    /// A vendor send is due, or under way until its lease ends.
    Vendor,
    /// The vendor has it.
    Pushed,
    /// No notification goes out while another of the user's devices proves that it is there.
    Held,
    /// No notification goes out; kept for the device's next connection.
    Waiting,
    /// An app has it, or nobody will.
    Done,
}

impl State {
    pub const ALL: [Self; 7] =
        [Self::New, Self::Live, Self::Vendor, Self::Pushed, Self::Held, Self::Waiting, Self::Done];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Live => "live",
            Self::Vendor => "vendor",
            Self::Pushed => "pushed",
            Self::Held => "held",
            Self::Waiting => "waiting",
            Self::Done => "done",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A notification that its vendor may be able to take back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The certificate it went out under.
    pub notifier: String,
    pub vendor_id: String,
}

/// A message on its way to one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub state: State,
    /// The connection it was published to and was not acknowledged on.
    pub under_way: Option<Nonce>,
    /// When something has to happen without anybody's word.
    pub due_ms: Option<u64>,
    /// Vendor sends, with the one under way.
    pub attempts: u32,
    /// When the device first said that it is on its disk.
    pub acked_ms: Option<u64>,
    /// The login in whose inbox it lies there now.
    pub acked_by: Option<String>,
    /// When an app had it.
    pub taken_ms: Option<u64>,
    pub shown: Option<Shown>,
}

impl Pair {
    /// Of a message that has just come.
    pub const fn new() -> Self {
        Self {
            state: State::New,
            under_way: None,
            due_ms: None,
            attempts: 0,
            acked_ms: None,
            acked_by: None,
            taken_ms: None,
            shown: None,
        }
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

/// A pair, and what its next step depends on beside it. What it depends on of the user (who else is online,
/// the policy, the mode) is asked only when it is the vendor's turn: [`super::policy::Facts`].
#[derive(Debug, Clone)]
pub struct Standing {
    pub pair: Pair,
    pub device: Device,
    /// The device has a binding that is not marked dead, with a certificate that is enabled.
    pub bound: bool,
    /// The gateway reaches connected devices at all.
    pub broker: bool,
    pub accepted_ms: u64,
    pub expires_ms: u64,
    /// For connected devices only.
    pub online_only: bool,
}
