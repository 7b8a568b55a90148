//! Temporary IPv6 addresses that take each other's place (RFC 8981): the old one stays for connections that
//! have it, and is used for no new one.

use super::ip::ip;
use crate::lab::show;
use serde_json::json;
use std::io;
use std::net::Ipv6Addr;
use tokio::io::{AsyncBufReadExt as _, BufReader};

#[derive(Debug, clap::Args)]
pub(in crate::lab) struct Options {
    /// The device's network namespace (`ip netns`)
    #[arg(long, value_name = "NAME")]
    netns: String,
    #[arg(long)]
    interface: String,
    /// The first address of a /64 the interface is on; the temporary ones are below it. On standard input
    /// `rotate` makes a new one, and `drop` removes those before the newest
    #[arg(long, value_name = "ADDRESS")]
    prefix: Ipv6Addr,
}

/// Serves until standard input ends; the addresses stay.
///
/// # Errors
/// What `ip` says.
pub(in crate::lab) async fn serve(options: Options) -> io::Result<()> {
    let (netns, interface) = (options.netns.as_str(), options.interface.as_str());
    let nth = |n: u128| Ipv6Addr::from((options.prefix.to_bits() & (u128::MAX << 64)) | (0x7e00 + n));
    let add = async |n: u128| {
        ip(netns, &format!("addr add {}/64 dev {interface} nodad", nth(n))).await?;
        show::line(&json!({ "address": nth(n) }))
    };
    let (mut oldest, mut newest) = (0, 0);
    add(newest).await?;
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = commands.next_line().await? {
        match line.trim() {
            "rotate" => {
                let before = nth(newest);
                newest += 1;
                ip(netns, &format!("addr change {before}/64 dev {interface} preferred_lft 0")).await?;
                add(newest).await?;
            }
            "drop" => {
                for n in oldest..newest {
                    ip(netns, &format!("addr del {}/64 dev {interface}", nth(n))).await?;
                }
                oldest = newest;
                show::line(&json!({ "address": nth(newest) }))?;
            }
            _ => {}
        }
    }
    Ok(())
}
