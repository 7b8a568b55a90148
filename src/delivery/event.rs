//! What happens to a message on its way to one device.

use super::policy::Facts;
use super::{AfterVendor, Line};
use crate::ids::Nonce;

/// One event of one pair.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// The app's server handed the message over.
    Accepted,
    /// It waited for the user's first device, or for a new one, which has just come.
    Adopted,
    /// What was due at the pair's own time, in every state but [`super::State::Vendor`] and [`super::State::Held`].
    Due,
    /// The vendor's turn is due. `unanswered`: because the connection did not acknowledge.
    Turn { facts: Facts<'a>, unanswered: bool },
    /// It could not be handed to the broker.
    NotPublished,
    /// It is larger than the broker takes, which says this.
    TooLarge { why: &'a str },
    /// The connection it is under way on has ended, or is said to have.
    Lost { why: &'static str },
    /// It is sent over this connection, after the device came or made room.
    Sent { nonce: Nonce },
    /// It is on the device's disk. `attached`: whether a local app will show it; `None`: an agent that does
    /// not know `taken`.
    Acked { attached: Option<bool> },
    /// An app has it. `woke`: one that the agent started for it.
    Taken { woke: bool },
    /// What came of the vendor send of that number.
    Answered { attempt: u32, after: AfterVendor, vendor_id: Option<String>, notifier: String, line: Line },
    /// The device's login ended.
    LoggedOut,
    /// More wait for the device than are kept, and this is one of the oldest.
    Evicted { keep_most: u32 },
    /// Its time is over.
    Expired,
    /// The stored message cannot be read.
    Unreadable,
}
