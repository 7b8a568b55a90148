//! The rooms of impush, lowest floor first; a room uses only what stands above it in this list.
#![forbid(unsafe_code)]

pub mod access;
#[cfg(any(feature = "gateway", feature = "lab"))]
pub mod http;
pub mod ids;
pub mod input;
pub mod logs;
pub mod proxy;
pub mod secret;
pub mod service;
pub mod settings;
pub mod terminal;
pub mod untrusted;
pub mod vendors;

pub mod protocol;

pub mod binding;
pub mod channel;
pub mod device;
pub mod keepalive;

#[cfg(feature = "gateway")]
pub mod delivery;
pub mod session;

pub mod names;

pub mod mqtt;
pub mod store;

pub mod agent;
#[cfg(feature = "gateway")]
pub mod gateway;
#[cfg(feature = "lab")]
pub mod lab;
