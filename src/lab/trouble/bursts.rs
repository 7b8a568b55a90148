//! A foreign link that comes and goes, as on a host of many containers: the kernel tells of each.

use super::ip::ip;
use crate::lab::show;
use serde_json::json;
use std::io;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;

/// The two ends of the foreign link.
const LINK: [&str; 2] = ["impush-b0", "impush-b1"];

#[derive(Debug, clap::Args)]
pub(in crate::lab) struct Options {
    /// The device's network namespace (`ip netns`)
    #[arg(long, value_name = "NAME")]
    netns: String,
    /// Milliseconds between two comings, until standard input ends
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    every_ms: u64,
}

/// Serves until standard input ends.
///
/// # Errors
/// What `ip` says.
pub(in crate::lab) async fn serve(options: Options) -> io::Result<()> {
    let netns = options.netns.as_str();
    let mut every = tokio::time::interval(Duration::from_millis(options.every_ms));
    let mut input = tokio::io::stdin();
    let mut ignored = [0_u8; 64];
    let [one, other] = LINK;
    // A killed run's link is in the way.
    drop(ip(netns, &format!("link del {one}")).await);
    show::line(&json!({ "bursts": netns }))?;
    loop {
        tokio::select! {
            _ = every.tick() => {
                ip(netns, &format!("link add {one} type veth peer name {other}")).await?;
                ip(netns, &format!("link set {one} up")).await?;
                ip(netns, &format!("link del {one}")).await?;
            }
            read = input.read(&mut ignored) => if read? == 0 {
                return Ok(());
            },
        }
    }
}
