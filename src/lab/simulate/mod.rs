//! The shipped keep-alive code against simulated networks, in virtual time, beside other policies.
//!
//! A trace is JSON lines, in the order of `at_s` (seconds from the start):
//!
//! ```text
//! {"at_s": 0,     "event": "nat", "limit_s": 300}              idle connections are forgotten after this
//! {"at_s": 3600,  "event": "switch", "network": "cell", "limit_s": 60}   another network, another address
//! {"at_s": 7200,  "event": "down"}                             no network at all; "up" ends it
//! {"at_s": 7300,  "event": "up"}
//! {"at_s": 9000,  "event": "server_restart", "down_s": 10}     every connection is closed; back after down_s
//! {"at_s": 10000, "event": "suspend"}                          the device sleeps; "resume" ends it
//! {"at_s": 20000, "event": "resume"}
//! ```
//!
//! A second counts as unreachable when a message could not be delivered over the connection although
//! network and server are up and the device is awake.

mod client;
mod policy;
mod report;
mod scenario;

pub(super) use client::{Report, run};
pub(super) use report::{draw, table};
pub(super) use scenario::{Scenario, built_in, read_trace, stationary};
