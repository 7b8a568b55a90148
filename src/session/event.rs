//! What happens to a session.

use super::{Ask, Kind, RequestId, endpoints::Server};
use crate::ids::{MessageId, Nonce};
use crate::keepalive::{Battery, Failure, Moment, ProbeOutcome, Tried};
use crate::protocol::{BindResult, BindingReport, KickCode};
use crate::secret::Secret;
use std::net::IpAddr;
use std::time::Duration;

/// The moment of an event, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// What CLOCK_BOOTTIME shows.
    pub at: Moment,
    /// Milliseconds since the Unix epoch: for people, for records that outlive a boot, and for tokens' ends.
    pub wall_ms: u64,
}

/// What an attempt stands on: the network's key, and this device's address on it.
pub type Ground = (String, Option<IpAddr>);

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// The disk was read; on with the work.
    Started,
    Request {
        id: RequestId,
        ask: Ask,
    },
    /// A local app asked for messages, or took some: it runs.
    AppCame {
        app: String,
    },
    /// Local apps have taken these messages, for the first time.
    Taken {
        ids: Vec<MessageId>,
    },
    /// An attempt begins, on this ground; `None` without a way or a carrier.
    DialStarted {
        ground: Option<Ground>,
    },
    /// An attempt ended: what each way did, told before `Dialled` or `DialFailed`.
    Tried {
        nonce: Nonce,
        network: Option<String>,
        ways: Vec<Tried>,
    },
    Dialled {
        nonce: Nonce,
        standing: Box<Standing>,
    },
    DialFailed {
        nonce: Nonce,
        failure: Failure,
    },
    Heard(Packet),
    /// The connection is over.
    Lost(Failure),
    /// A write is done; for so many bytes the server owes an answer.
    Written {
        unanswered: usize,
    },
    Kept {
        id: MessageId,
        /// Its sender.
        from: String,
        packet_id: Option<u16>,
        kept: Kept,
    },
    /// A timer is due.
    Tick,
    /// An address, route, rule or link changed.
    NetworkNotice,
    NetworkSeen(Sight),
    /// Others are trusted, or shown to the server, from here on.
    TrustChanged,
    /// The system's resolver was told other name servers, or its first.
    NameServersChanged,
    /// The device slept so long.
    Woke {
        gap: Duration,
    },
    /// Somebody set the wall clock.
    ClockStepped,
    /// The configuration was read again; `way_changed`: servers, proxy or certificates are others.
    Reconfigured {
        changeable: Box<super::Changeable>,
        way_changed: bool,
    },
    BatterySeen(Option<Battery>),
    /// The probe is about to ping; the main link pings with it, so that the radio wakes once.
    SideAboutToPing,
    SideEnded {
        side: SideKind,
        outcome: SideOutcome,
    },
    /// Messages are gone from the disk which the gateway was told are on it, and no app has taken.
    InboxLost,
    Persisted {
        kind: Kind,
        version: u64,
    },
    PersistFailed {
        kind: Kind,
        version: u64,
        why: String,
    },
    /// The agent is to end.
    Shutdown,
}

/// What CONNACK said, and where.
#[derive(Debug, Clone)]
pub struct Standing {
    /// What this connection's will names: each CONNECT of an attempt has a nonce of its own.
    pub nonce: Nonce,
    pub server: Server,
    /// As people read it.
    pub server_name: String,
    pub session_present: bool,
    /// The server's certificate was checked for this connection, and not only for one before it.
    pub verified: bool,
    /// Seconds, where the server set another keep alive than asked.
    pub server_keep_alive_s: Option<u16>,
    pub broker: super::Broker,
    /// From CONNECT to CONNACK.
    pub round_trip: Duration,
    /// How the kernel goes to the server: the network the connection is on.
    pub ground: Option<Ground>,
}

/// What the server sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Packet {
    Publish { payload: Vec<u8>, packet_id: Option<u16> },
    Published { refused: Option<String> },
    Subscribed { refused: Option<Failure> },
    Pong,
}

/// What became of a message that was to be made durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    New,
    Duplicate,
    /// It came before, and a local app has it.
    Taken,
    /// The inbox is full.
    Full(String),
    /// The disk refused.
    Failed(String),
    /// No inbox is open: nobody is logged in any more.
    Nobody,
}

/// What a look at the network showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// How the kernel would go to the connection's peer now; without a connection to the last peer, or
    /// anywhere. `None` without a way.
    pub ground: Option<Ground>,
    /// The interface that leads there has a carrier, as far as its driver knows.
    pub carrier: bool,
    /// The connection's own address has left the device.
    pub address_gone: bool,
}

/// Which side connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SideKind {
    Probe,
    Check,
    Unbind,
}

/// How a side connection ended.
#[derive(Debug, Clone)]
pub enum SideOutcome {
    Probed {
        idle: Duration,
        outcome: ProbeOutcome,
    },
    /// The gateway's welcome.
    Checked {
        bindings: Option<Vec<BindingReport>>,
        token: Option<Secret>,
    },
    Kicked {
        code: KickCode,
        replaced_by: Option<String>,
    },
    /// The gateway's answer to the unbind.
    Unbound {
        result: BindResult,
        /// The gateway has seen this number already: the ledger was restored from an older copy.
        expected: Option<u64>,
    },
    Failed(Failure),
}
