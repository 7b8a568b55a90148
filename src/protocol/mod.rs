//! What agent and gateway say to each other: topics, message shapes, limits. Version 1.
//!
//! ```text
//! {prefix}/{app}/{user}/{device}/down    gateway -> device   message bound kick settings
//! {prefix}/{app}/{user}/{device}/up      device -> gateway   hello bind unbind ack taken renew receipt presence
//! {prefix}/{app}/{user}/{device}/state   device -> gateway   online; the will says offline
//! ```

mod address;
mod enrol;
mod message;
mod payload;

pub use address::{
    Address, AddressError, ClientId, GATEWAY_CLIENT_PREFIX, Leg, PROBE_SUFFIX, Topics, client_part, user_name,
};
pub use enrol::{
    CodeError, ENROL_ALPN, ENROL_USER, EnrolAnswer, EnrolCode, EnrolRefusal, NO_SERIAL, enrol_topic, serial_word,
};
pub use message::{BindResult, BindingReport, BindingState, Down, Held, Hello, KickCode, Message, Presence, State, Up};
pub use payload::{PayloadError, decode_down, decode_state, decode_up};

/// The major version in every payload; another one is refused.
pub const VERSION: u32 = 1;
/// Largest payload either side accepts, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// Largest MQTT packet either side advertises: a payload, its topic and its properties, in bytes.
pub const MAX_PACKET: u32 = 96 * 1024;
/// How long the broker keeps a device's session, in seconds. It bridges short gaps and saves a
/// SUBSCRIBE; the offline queue is the gateway's store.
pub const SESSION_EXPIRY_S: u32 = 3600;
/// The user property of CONNACK and DISCONNECT with which the gateway says, on its own endpoint, that a login has
/// ended; its value is a kick code. No broker's own code says that.
pub const END_PROPERTY: &str = "impush-end";
/// The default first levels of every topic.
pub const DEFAULT_PREFIX: &str = "im/v1";
