//! Where the connection stands: one of six, each with what belongs to it alone.

use super::Ground;
use crate::ids::Nonce;
use crate::keepalive::{Attempt, Cause, Link};
use crate::protocol::{Address, Presence};
use std::time::Duration;

/// Where the connection stands.
#[derive(Debug)]
pub enum Phase {
    /// No user is logged in.
    LoggedOut,
    /// The next attempt stands in the table of timers.
    Waiting(Attempt),
    /// An attempt is under way; its nonce tells its outcome from an older one's.
    Connecting {
        nonce: Nonce,
    },
    Online(Box<Online>),
    /// The vendor channel delivers and no app is attached: not connected on purpose.
    Resting,
    /// Only the gateway's own word or the operator's leads here, or a login that never worked.
    Stopped(Cause),
}

/// A connection that stands.
#[derive(Debug)]
pub struct Online {
    pub link: Link,
    pub address: Address,
    pub nonce: Nonce,
    /// The way on which the server is known to have answered.
    pub ground: Option<Ground>,
    /// ... and whether its interface said that it has a carrier: not every driver knows.
    pub carrier: bool,
    /// The server has answered on another way; the next look says which.
    pub moved: bool,
    /// As people read it.
    pub server: String,
    /// The longest heartbeat the server's own keep alive, or the gateway, allows.
    pub server_limit: Option<Duration>,
    /// What the gateway takes the local apps for: a connection that says nothing has one.
    pub told: Presence,
    /// Sent, and not acknowledged when the last write was done.
    pub unanswered_bytes: usize,
}
