//! The gateway's core: what becomes of a message on its way to one device, as values.
//!
//! ```text
//!            online            no ack in time, or offline notice
//! new -------------------> live ----------------------------------> vendor --accepted--> pushed
//!  |  offline               ^                                        ^  |                  |
//!  +------------------------+----------------------------------------+  |                  |
//!                           |                                           |                  |
//!                           +-- no notification, but connected ---------+                  |
//!                                                                       | no way, refused  |
//!        another of the user's devices proves that it is there          v                  |
//!    held <-------------------------------------------------------- vendor                 |
//!     |  it does not prove it any more: the vendor's turn again         |                  |
//!     |  it has the message                                             v                  |
//!     +-------------------------------------------------------------> waiting              |
//!                                                                       |  taken           |
//!            hello: sent again, from every state but done               +-----> done <-----+
//! ```
//!
//! `waiting` and `pushed` are not ends: the message stays for the device to fetch until an app has taken it
//! or it expires. `ack` says that the device has it on its disk, `taken` that an app has it: two facts. For a
//! device whose vendor can be reached only `taken` proves the delivery; for any other, `ack` ends the live leg.
//!
//! [`step()`] decides for one (message, device) pair, [`presence::step`] for a device's connections. Whoever
//! stores pairs loads, steps and applies.

pub mod content;
mod event;
mod hop;
pub mod outcome;
mod pair;
pub mod policy;
pub mod presence;
pub mod silence;
mod step;
mod vendor;

#[cfg(test)]
mod tests;

pub use event::Event;
pub use hop::{Hop, Line};
pub use pair::{Pair, Shown, Standing, State};
pub use presence::Device;
pub use step::{Act, Step, kept_until, step};
pub use vendor::{AfterVendor, Luck, after_vendor};

/// Settings the decisions need.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub ack_deadline_ms: u64,
    /// How long a device with an open app that has just gone is waited for before its vendor's turn.
    pub reconnect_grace_ms: u64,
    pub push_life_s: u64,
    /// Seconds a message waits for its devices.
    pub keep_s: u64,
    /// Seconds a message's trace can be read after that.
    pub trace_s: u64,
    /// Messages kept for one device; more evict the oldest.
    pub keep_most: u32,
    /// A vendor send claimed by a gateway that then died is taken over after this: longer than any send
    /// can take.
    pub lease_ms: u64,
    pub policy: policy::MultiDevice,
}

#[cfg(test)]
impl Rules {
    pub const FOR_TESTS: Self = Self {
        ack_deadline_ms: 5000,
        reconnect_grace_ms: 3000,
        push_life_s: 3600,
        keep_s: 7200,
        trace_s: 600,
        keep_most: 100,
        lease_ms: 30_000,
        policy: policy::MultiDevice::AnyOffline,
    };
}
