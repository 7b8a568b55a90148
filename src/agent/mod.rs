//! The daemon: wires the deciding rooms to the machine.
//!
//! ```text
//!            apps, CLI                                  broker
//!                |  control socket (HTTP/1.1, JSON)        |  MQTT 5 over TLS
//!                v                                         v
//!            control --Request--> daemon <--Incoming-- mqtt::Connection
//!                                   |  asks: channel, binding, keepalive (plain values)
//!                                   v
//!                                 store (identity, login, tokens, ledger, inbox)
//! ```
//!
//! One task owns everything; nothing is shared, so nothing is locked.

mod bundle;
pub mod cli;
mod clock;
mod config;
pub mod control;
mod daemon;
mod disk;
mod doctor;
mod heart;
mod inbox;
mod link;
mod login;
mod metrics;
mod network;
mod owed;
mod plugin;
mod power;
mod reload;
mod report;
mod state;
mod status;
mod text;

pub use config::{Certificates, Config};
pub use daemon::run;
pub use state::RunError;
pub use status::Status;
