//! Routes as Android's netd keeps them: each network has a table of its own, table `main` has no default
//! route, and a rule says whose table holds for everybody (RouteController.cpp in AOSP's netd).

use super::ip::ip;
use crate::lab::show;
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// A network's table has its interface's index and this for a number.
const TABLES: u32 = 1000;
/// Where netd puts the rule of the default network.
const PRIORITY: u32 = 31_000;

#[derive(Debug, clap::Args)]
pub(in crate::lab) struct Options {
    /// The device's network namespace (`ip netns`)
    #[arg(long, value_name = "NAME")]
    netns: String,
    /// A network and its router; the first is the default network. On standard input an interface's name
    /// makes another one so, and `none` none. At its end the rule goes, and the tables stay
    #[arg(long = "uplink", value_name = "INTERFACE=ADDRESS", required = true)]
    uplinks: Vec<Uplink>,
}

#[derive(Debug, Clone)]
struct Uplink {
    interface: String,
    router: IpAddr,
}

impl FromStr for Uplink {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (interface, router) = text.split_once('=').ok_or("INTERFACE=ADDRESS")?;
        Ok(Self { interface: interface.to_owned(), router: router.parse().map_err(|_| "no address".to_owned())? })
    }
}

/// `ip`'s word for the family of a network.
fn family(router: IpAddr) -> &'static str {
    if router.is_ipv6() { "-6" } else { "-4" }
}

/// Serves until standard input ends.
///
/// # Errors
/// What `ip` says.
pub(in crate::lab) async fn serve(options: Options) -> io::Result<()> {
    let netns = options.netns.as_str();
    let mut tables = BTreeMap::new();
    for Uplink { interface, router } in &options.uplinks {
        let shown = ip(netns, &format!("-o link show dev {interface}")).await?;
        let index = shown.split(':').next().and_then(|index| index.trim().parse::<u32>().ok());
        let table = TABLES + index.ok_or_else(|| io::Error::other(format!("{interface} has no index: {shown}")))?;
        let family = family(*router);
        // What is not there need not go.
        drop(ip(netns, &format!("{family} route del default dev {interface}")).await);
        ip(netns, &format!("{family} route replace default via {router} dev {interface} table {table}")).await?;
        tables.insert(interface.clone(), table);
    }
    let mut chosen = options.uplinks.first();
    choose(netns, &tables, None, chosen).await?;
    show::line(&json!({ "routes": tables }))?;
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = commands.next_line().await? {
        let wanted = options.uplinks.iter().find(|uplink| uplink.interface == line.trim());
        choose(netns, &tables, chosen, wanted).await?;
        chosen = wanted;
        show::line(&json!({ "default": chosen.map(|uplink| &uplink.interface) }))?;
    }
    choose(netns, &tables, chosen, None).await
}

/// As netd does: the new network's rule is there before the old one's goes.
async fn choose(
    netns: &str,
    tables: &BTreeMap<String, u32>,
    from: Option<&Uplink>,
    to: Option<&Uplink>,
) -> io::Result<()> {
    for (verb, uplink) in [("add", to), ("del", from)] {
        let Some(uplink) = uplink else { continue };
        let (family, table) = (family(uplink.router), tables.get(&uplink.interface).copied().unwrap_or(TABLES));
        ip(netns, &format!("{family} rule {verb} from all lookup {table} pref {PRIORITY}")).await?;
    }
    Ok(())
}
