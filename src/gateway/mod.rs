//! The server half: who is reachable how, what each message becomes, and which hop stopped it.
//!
//! ```text
//! app server --REST--> api --accept--> store <--claim-- dispatch --> sender --HTTPS--> vendor cloud
//!                                        ^                 |
//!                                        |              publish
//!                              hello bind ack state        v
//!                       broker <------------------------- wire
//! ```
//!
//! What is decided is decided in [`crate::delivery`], as plain values; `dispatch`, `wire` and `api` carry it out.

mod accounts;
mod alarm;
mod api;
mod attempts;
mod broker;
mod calls;
mod check;
mod checked;
pub mod cli;
mod clock;
mod config;
mod crowded;
mod database;
mod devices;
mod dispatch;
mod door;
mod drain;
mod endings;
mod enrolment;
mod error;
mod events;
mod greetings;
mod held;
mod issuing;
mod keyring;
mod mending;
mod metrics;
mod neighbours;
mod opening;
mod outgoing;
mod overdue;
mod password;
mod proof;
mod push;
mod recipes;
mod reload;
mod renewal;
mod secrets;
mod sender;
mod serve;
mod store;
mod timekeeping;
mod tokens;
mod vendor_hosts;
mod waiting;
mod webhook;
mod wire;
mod workers;

pub use config::Config;
pub use error::ServeError;
pub use serve::serve;
