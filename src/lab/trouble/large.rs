//! A router that loses large packets and says nothing: a tunnel or VPN whose routers' ICMP is filtered (the
//! black hole of RFC 2923, section 2.1).

use crate::lab::process::output;
use crate::lab::show;
use serde_json::json;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;

const LIMIT: Duration = Duration::from_secs(10);
const TABLE: &str = "impush_large";

#[derive(Debug, clap::Args)]
pub(in crate::lab) struct Options {
    /// The router's network namespace (`ip netns`). Packets that its links have not segmented yet count whole:
    /// switch their tso, gso and gro off (ethtool)
    #[arg(long, visible_alias = "namespace", value_name = "NAME")]
    netns: String,
    /// 4 or 6
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(4..=6))]
    family: u8,
    /// Bytes; forwarded IP packets above it are dropped, both ways, until standard input ends
    #[arg(long, default_value_t = 1300)]
    above: u16,
}

/// Serves until standard input ends.
///
/// # Errors
/// What `nft` says.
pub(in crate::lab) async fn serve(options: Options) -> io::Result<()> {
    let family = match options.family {
        4 => "ip",
        6 => "ip6",
        other => return Err(io::Error::other(format!("there is no IPv{other}"))),
    };
    let netns = options.netns.as_str();
    let delete = format!("delete table {family} {TABLE}");
    // A killed run's table is in the way.
    drop(nft(netns, &delete).await);
    let above = options.above;
    let rules = format!(
        "table {family} {TABLE} {{ chain forward {{ type filter hook forward priority 0; meta length > {above} counter drop; }}; }}"
    );
    nft(netns, &rules).await?;
    show::line(&json!({ "large": netns, "above": above }))?;
    let (mut input, mut ignored) = (tokio::io::stdin(), [0_u8; 64]);
    while input.read(&mut ignored).await? > 0 {}
    nft(netns, &delete).await
}

async fn nft(netns: &str, rules: &str) -> io::Result<()> {
    let done = output(Path::new("ip"), &["netns", "exec", netns, "nft", rules], LIMIT).await;
    done.map(drop).map_err(|e| io::Error::other(format!("nft {rules}: {e}")))
}
