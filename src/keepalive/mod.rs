//! When to ping, when a link is dead, when to reconnect. No socket and no clock: every time is passed in.

pub mod constants;
mod failure;
mod heartbeat;
mod link;
mod power;
pub mod race;
mod reason;
mod reconnect;
mod ways;

pub use failure::Failure;
pub use heartbeat::{Bounds, Heartbeat, ProbeOutcome, Record};
pub use link::{Link, LinkAction};
pub use power::{Battery, PowerMode, is_low, next_wake};
pub use reason::{Cause, Recovery};
pub use reconnect::{Attempt, Reconnect, Verdict};
pub use ways::{Tried, WayReport, Ways};

/// A point in time: what CLOCK_BOOTTIME shows, so that time spent suspended counts.
pub type Moment = std::time::Duration;
