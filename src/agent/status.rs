//! What `impush status` says: the state, since when, why, and when something happens next.

use crate::binding::Standing;
use crate::channel::WhyNot;
use crate::keepalive::Cause;
use crate::vendor::Vendor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No user is logged in.
    LoggedOut,
    Connecting,
    Online,
    /// Between two attempts; `next_attempt` says when.
    Waiting,
    /// The vendor channel delivers and no app is attached: not connected on purpose.
    Resting,
    /// Only a login or an operator can help; `cause` says why.
    Stopped,
}

/// Why the last link ended or attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseReport {
    pub word: Cause,
    pub number: u16,
    pub text: String,
    pub detail: String,
}

/// A planned attempt and how its time came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NextAttempt {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub in_s: f64,
    pub base_s: f64,
    pub jitter_s: f64,
}

/// The whole status document. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub state: State,
    pub since_ms: u64,
    pub cause: Option<CauseReport>,
    pub next_attempt: Option<NextAttempt>,
    pub server: String,
    pub app: String,
    pub user: Option<String>,
    pub device_id: String,
    pub model: Option<String>,
    /// The active channel, or `none`.
    pub channel: String,
    pub why_not: BTreeMap<Vendor, WhyNot>,
    /// Fingerprint of the active channel's token.
    pub token: Option<String>,
    pub binding: Standing,
    /// Logouts the gateway has not heard of yet.
    pub logouts_owed: usize,
    pub inbox: usize,
    pub apps_attached: usize,
    pub heartbeat_s: f64,
    /// The search on this network has ended.
    pub heartbeat_settled: bool,
    /// Power is saved: the heartbeat may be longer.
    pub saving_power: bool,
    /// Kind and hashed gateway of the network the connection was made on.
    pub network: Option<String>,
    pub round_trip_ms: Option<u64>,
    /// Bad input that was refused, by kind.
    pub refused: BTreeMap<String, u64>,
    pub version: String,
    pub pid: u32,
}
