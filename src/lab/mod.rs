//! The whole system on one machine without an account: emulated vendor clouds, emulated phones, bad
//! networks, and the demo that tells the story.

mod account;
mod agent;
mod bench;
mod chart;
pub mod cli;
mod cloud;
mod cluster;
mod comeback;
mod connected;
mod demo;
mod device;
mod fair;
mod far;
mod figure;
mod fill;
mod fleet;
mod footprint;
mod growth;
mod idle;
mod kills;
mod manual;
mod network;
mod noise;
mod process;
mod rig;
mod senders;
mod show;
mod simulate;
mod socket;
mod throughput;
mod trouble;
mod usage;
mod wire;
