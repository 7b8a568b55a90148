//! The daemon: a shell around the session, which decides.
//!
//! ```text
//!            apps, CLI                                  broker
//!                |  control socket (HTTP/1.1, JSON)        |  MQTT 5 over TLS
//!                v                                         v
//!            control --Request--> daemon <--Incoming-- mqtt::Connection
//!                                   |  Event   ^ Actions
//!                                   v          |
//!                                 session    shell --> store, sockets, side connections
//! ```
//!
//! One task owns everything; nothing is shared, so nothing is locked.

mod app_command;
mod awaiting;
mod bundle;
mod check;
pub mod cli;
mod clock;
mod command_error;
mod config;
pub mod control;
mod daemon;
mod disk;
mod doctor;
mod enrol;
mod enrolled;
mod enrolling;
mod file_watch;
mod front;
mod given;
mod identity;
mod inbox;
mod loading;
mod manager;
mod metrics;
mod name;
mod network;
mod opening;
mod output;
mod power;
mod reload;
mod run_error;
mod shell;
mod side;
mod start;
mod text;
mod trust;
mod wake_app;
mod wake_lock;
mod words;

pub use crate::session::Status;
pub use config::{Certificates, Config};
pub use daemon::run;
pub use reload::Reload;
pub use run_error::RunError;
