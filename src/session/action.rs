//! What the shell is to do. It decides nothing: it carries these out in their order.

use super::{Change, RequestId, request};
use crate::ids::{MessageId, Nonce};
use crate::keepalive::Cause;
use crate::protocol::{Address, Message, Up};
use crate::secret::Secret;
use std::collections::VecDeque;
use std::time::Duration;

/// What follows an event, in the order in which it is to be done.
#[must_use = "a decision that is not carried out is lost"]
#[derive(Debug)]
pub struct Actions(pub(super) VecDeque<Action>);

impl IntoIterator for Actions {
    type Item = Action;
    type IntoIter = std::collections::vec_deque::IntoIter<Action>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// One deed of the shell.
#[derive(Debug)]
pub enum Action {
    /// Make the connection; an attempt under way is dropped. Tell [`super::Event::DialStarted`], then
    /// `Dialled` or `DialFailed`.
    Dial(Box<Dial>),
    /// Drop the attempt under way.
    CancelDial,
    /// Write on the connection; tell `Written` or `Lost`. Without a connection nothing is written.
    Write(Write),
    /// End the connection on purpose: say goodbye, then DISCONNECT.
    Close(Goodbye),
    /// Drop the socket: the peer of a dead link cannot be told.
    Abandon,
    /// Put one change on the disk; tell `Persisted` or `PersistFailed`.
    Persist {
        change: Change,
        version: u64,
    },
    /// Make a message durable; tell `Kept`.
    Keep {
        message: Box<Message>,
        packet_id: Option<u16>,
    },
    /// Look at the network; tell `NetworkSeen`.
    LookAtNetwork,
    /// Look at the battery; tell `BatterySeen`.
    LookAtBattery,
    /// Start a connection beside the main one; tell `SideEnded`.
    StartSide(Box<Side>),
    /// Drop it, if it runs.
    CancelSide(super::event::SideKind),
    Answer {
        id: RequestId,
        answer: request::Answer,
    },
    /// The inbox of this user is the one to keep messages in; of none: the open one is closed and unlinked.
    OpenInbox {
        user: String,
    },
    UnlinkInbox,
    /// Wake an app that does not run, for this message; as this user, where a command is run.
    WakeApp {
        app: String,
        how: super::Wake,
        uid: u32,
        id: MessageId,
        from: String,
    },
    /// The gateway's certificate will be of this authority: trust it beside those that are trusted.
    KeepAuthority {
        pem: String,
    },
    /// Who may ask over the loopback port is another.
    LocalAppsChanged,
    /// Local apps' streams end with this reason.
    EndStreams {
        word: String,
        detail: String,
    },
}

/// A write on the main connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    Publish {
        topic: String,
        payload: Vec<u8>,
        retain: bool,
    },
    Acknowledge(u16),
    Ping,
    /// What waits for the server's window.
    Queued,
}

/// What a broker can do of what is asked for; MQTT 5 lets it leave either out (section 3.2.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broker {
    pub retain: bool,
    /// QoS 1.
    pub at_least_once: bool,
}

impl Default for Broker {
    fn default() -> Self {
        Self { retain: true, at_least_once: true }
    }
}

/// An attempt at the main connection.
#[derive(Debug, Clone)]
pub struct Dial {
    pub nonce: Nonce,
    pub address: Address,
    pub password: Secret,
    /// Servers in the order in which they join the race.
    pub servers: Vec<super::endpoints::Server>,
    pub keep_alive_s: u16,
    /// What the broker is not known to refuse.
    pub broker: Broker,
    /// The broker's old session is not wanted.
    pub clean_start: bool,
    /// A session that the broker has kept holds the subscription; without it, SUBSCRIBE is part of the attempt.
    pub subscribed: bool,
}

/// How a connection is left.
#[derive(Debug, Clone, PartialEq)]
pub struct Goodbye {
    pub cause: Cause,
    /// Topic and payload of the offline notice.
    pub offline: Option<(String, Vec<u8>)>,
    /// The broker forgets the session.
    pub end_session: bool,
}

/// A short connection beside the main one.
#[derive(Debug, Clone)]
pub enum Side {
    /// Idles for so long, then pings: how long does this network keep an idle connection?
    Probe { address: Address, password: Secret, idle: Duration },
    /// Asks the gateway how the bindings do, while the main connection rests.
    Check { nonce: Nonce, address: Address, password: Secret, hello: Up },
    /// Tells a logout that was made without a network.
    Unbind { address: Address, password: Secret, sequence: u64, unbind: Up },
}
