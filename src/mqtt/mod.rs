//! One MQTT 5 connection: dial, TLS, codec, session, deadlines; and, in `server`, its other side.
//!
//! ```text
//! Endpoint --dial--> Stream --handshake--> Connection --next()--> Incoming
//!                                              ^ publish, subscribe, ack, ping, disconnect
//! ```
//!
//! rumqttc gives the packets (its public v5 codec); the loop is ours, because its event loop cannot
//! ping at will, bound a flush, or see a lost pong in time. Everything above the dial is generic over
//! the stream, so a test gives it an in-memory pipe.

mod addresses;
mod codec;
mod connection;
mod dial;
mod endpoint;
mod race;
#[cfg(feature = "gateway")]
pub mod server;
mod tls;
mod websocket;

pub use crate::keepalive::Failure as MqttError;
pub use crate::proxy::{Proxy, ProxyError};
pub use connection::{ConnectOptions, Connected, Connection, Incoming, Will, handshake};
pub use dial::Stream;
pub use endpoint::{Endpoint, EndpointError};
pub use race::{Asked, Dialled, Landed, Route, dial, establish};
pub use tls::{
    Authorities, Credentials, TimeFloor, TlsSetupError, are_authorities, client_config, credentials, pinned, sources,
};
#[cfg(feature = "gateway")]
pub use websocket::{WebSocket, accept as accept_websocket};
