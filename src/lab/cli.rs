//! The `impush-lab` command line.

use super::account::ANY;
use super::cluster::{self, Plan};
use super::connected::growth::{self, Growth};
use super::device::{self, Phone};
use super::figure::{Figure, show};
use super::fill::Filling;
use super::idle::{self, Idle};
use super::kills::{self, Kills};
use super::noise::Brokers;
use super::trouble::{self, Trouble};
use super::wire::{self, Weather};
use super::{
    bench, cloud, connected, demo, fair, far, fleet, footprint, manual, network, senders, simulate, throughput,
};
use crate::logs;
use crate::terminal;
use crate::vendors::Vendor;
use clap::{CommandFactory as _, Parser, Subcommand};
use serde_json::json;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The whole system on one machine without an account.
#[derive(Debug, Parser)]
#[command(name = "impush-lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell the product's story with real processes, sockets and TLS; exit 0 only if all of it held
    Demo {
        /// One JSON line a step
        #[arg(long)]
        json: bool,
        /// The phone's maker
        #[arg(long, default_value_t = ANY)]
        vendor: Vendor,
        /// The whole story with a phone of each maker, one after another
        #[arg(long, conflicts_with = "vendor")]
        all_vendors: bool,
    },
    /// Serve the emulated vendor clouds over HTTPS until stopped
    Clouds {
        #[arg(long, default_value = "127.0.0.1:8690")]
        listen: SocketAddr,
        /// Where to write the certificate to trust
        #[arg(long, value_name = "FILE")]
        ca_file: PathBuf,
        /// Each call goes wrong in this way; may be given again
        #[arg(long, value_name = "NAME")]
        fault: Vec<cloud::Fault>,
    },
    /// Emulate a phone: a token from its cloud, handed to an agent, and a notification tray
    Device {
        #[arg(long)]
        vendor: Vendor,
        /// Tells this phone from others of the same maker
        #[arg(long, default_value = "phone-1")]
        name: String,
        /// The app at the vendor
        #[arg(long)]
        app_id: String,
        /// The clouds' address
        #[arg(long, value_name = "URL")]
        clouds: String,
        /// The clouds' certificate
        #[arg(long, value_name = "FILE")]
        ca_file: PathBuf,
        /// The agent's control socket
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
        /// Lay this maker's property tree out below this directory first
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
    },
    /// Run the shipped keep-alive code against simulated networks in virtual time, beside other policies
    #[command(
        after_help = "Examples:\n  impush-lab simulate --svg keepalive.svg\n  impush-lab simulate --policy impush --nat 300 --days 7 --seed 1 --json\n  impush-lab simulate --policy mars --trace day.jsonl --days 1\n\nPolicies: impush, fixed:SECONDS, mars, oracle. A trace is JSON lines with at_s and event:\n  nat {limit_s}, down, up, switch {network, limit_s}, server_restart {down_s}, suspend, resume"
    )]
    Simulate {
        /// One policy; without it all are shown side by side
        #[arg(long)]
        policy: Option<String>,
        /// Seconds after which the network forgets an idle connection
        #[arg(long, value_name = "SECONDS", value_parser = seconds)]
        nat: Option<f64>,
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Replay a network written as JSON lines
        #[arg(long, value_name = "FILE")]
        trace: Option<PathBuf>,
        /// One JSON object a run
        #[arg(long)]
        json: bool,
        /// Draw the comparison
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Print the figures this product is held to, each with its goal
    Bench {
        #[arg(value_parser = ["keepalive", "senders", "kills", "gateway", "fair", "connected", "store", "growth", "devices", "footprint", "far"])]
        what: String,
        /// One JSON object a figure
        #[arg(long)]
        json: bool,
        /// The agent whose footprint is taken [default: the one built as it is packaged]
        #[arg(long, value_name = "FILE")]
        agent: Option<PathBuf>,
        /// Reconnections of a real agent over which its memory is watched; 0 leaves that out
        #[arg(long, default_value_t = 10_000)]
        reconnects: u32,
        /// How often a real agent's network goes and comes back, beside mosquitto_sub; needs root, and 0
        /// leaves it out
        #[arg(long, default_value_t = 0)]
        comebacks: u32,
        /// Notifications through each vendor, or messages to the gateway
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        count: u32,
        /// Devices that are held connected at once, as far as the limit of open files allows
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        devices: u32,
        /// Connections that say nothing, beside which a login is timed; 0 leaves that out
        #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(0..=10_000))]
        silent: u32,
        /// A gateway to measure with `gateway`, `fair`, `connected`, `store` or `growth` instead of the one beside this program
        #[arg(long, value_name = "FILE")]
        gateway: Option<PathBuf>,
        /// An empty PostgreSQL database for `store`, `connected` or `growth`
        #[arg(long, value_name = "URL")]
        store: Option<String>,
        /// Users that the database of `gateway`, `connected` or `store` has before, each with a bound device; what `growth`
        /// grows by, as `1000,1000000`
        #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(..=20_000_000))]
        users: Vec<u32>,
        /// Messages that wait for those users
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=20_000_000))]
        waiting: u32,
        /// What `growth` lets grow
        #[arg(long, value_enum, default_value_t = growth::Of::Users)]
        of: growth::Of,
        /// Its sizes instead of its own, where it does not grow by users
        #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        sizes: Vec<u32>,
        /// How often `growth` measures each size, in turn
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// Draw what `growth` finds
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
        /// How often the gateway is killed under load
        #[arg(long, default_value_t = 200)]
        kills: u32,
        /// Notifications through each vendor under way at once
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
        concurrency: u32,
        /// The network of `far` is laid out already
        #[arg(long, hide = true)]
        inside: bool,
    },
    /// Kill gateways, and nodes of their broker, under load, and count what was lost or shown twice
    #[command(
        after_help = "tests/long/cluster.sh sets PostgreSQL and a RabbitMQ of three nodes up for it, tests/long/nodes.sh PostgreSQL alone."
    )]
    Cluster {
        /// An empty PostgreSQL database
        #[arg(long, value_name = "URL")]
        store: String,
        /// The broker's nodes; without any each gateway has devices of its own
        #[arg(long, value_name = "URL", value_delimiter = ',')]
        brokers: Vec<String>,
        /// The gateways' account at the broker
        #[arg(long, default_value = "guest")]
        user: String,
        #[arg(long, default_value = "guest")]
        password: String,
        /// The broker has no shared subscriptions: every gateway hears everything
        #[arg(long)]
        unshared: bool,
        /// The broker tells of its clients' connections: the gateways listen
        #[arg(long)]
        client_events: bool,
        /// Where the REST API of all gateways is; the broker may ask there who may enter
        #[arg(long, default_value = "127.0.0.1:18680")]
        front: SocketAddr,
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
        gateways: u8,
        /// Connected devices
        #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..=64))]
        devices: u8,
        #[arg(long, default_value_t = 200)]
        kills: u32,
        /// Shell command that kills node `$1`
        #[arg(long, requires = "start_node")]
        kill_node: Option<String>,
        /// Shell command that starts node `$1` again
        #[arg(long, requires = "kill_node")]
        start_node: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Carry frames between two Ethernet interfaces, late and not all of them; for kernels without netem
    Wire {
        a: String,
        b: String,
        /// Milliseconds each way
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60_000))]
        delay_ms: u64,
        /// Percent of the frames that are lost
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
        loss: u8,
    },
    /// One phone of every maker at the same time, on one gateway: bound, reached, killed, reached again
    Fleet {
        /// One JSON object a phone
        #[arg(long)]
        json: bool,
    },
    /// Write all programs' man pages and shell completions into a directory
    Manual { directory: PathBuf },
    /// Relay one address to another; `cut` and `mend` on standard input are the weather
    Network {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        to: SocketAddr,
    },
    /// Emulate trouble on the way between a device and its server
    Trouble {
        #[command(subcommand)]
        trouble: Trouble,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli: Cli = match terminal::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let settings = logs::Settings { level: "warn".to_owned(), ..logs::Settings::default() };
    logs::init(&settings, logs::Program { name: "impush-lab", state: None });
    drop(rustls::crypto::ring::default_provider().install_default());
    let result = execute(cli.command);
    logs::finish();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            terminal::complain("impush-lab", &error);
            ExitCode::from(69)
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|s| (1.0..=1e7).contains(s)).ok_or_else(|| "1 to 10000000 seconds".to_owned())
}

fn filling(users: &[u32], waiting: u32) -> Filling {
    Filling { users: users.first().copied().unwrap_or_default(), waiting }
}

/// The figures that take another gateway, and those that take a PostgreSQL.
const WITH_GATEWAY: [&str; 5] = ["gateway", "fair", "connected", "store", "growth"];
const WITH_STORE: [&str; 3] = ["connected", "store", "growth"];

/// The policies shown side by side.
const POLICIES: [&str; 5] = ["impush", "fixed:30", "fixed:270", "mars", "oracle"];
/// Idle limits of the stationary networks, in seconds: from the shortest seen on mobile networks to
/// what RFC 5382 asks of a NAT.
const LIMITS: [f64; 8] = [30.0, 60.0, 120.0, 240.0, 300.0, 600.0, 1800.0, 7200.0];

struct Simulation {
    policy: Option<String>,
    nat: Option<f64>,
    days: u32,
    seed: u64,
    trace: Option<PathBuf>,
    json: bool,
    svg: Option<PathBuf>,
}

impl Simulation {
    fn run(self) -> Result<(), String> {
        let scenarios = match (&self.trace, self.nat) {
            (Some(path), nat) => {
                let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
                let name = path.file_stem().map_or_else(|| "trace".into(), |n| n.to_string_lossy().into_owned());
                let mut scenario = simulate::read_trace(&name, &text)?;
                scenario.nat_s = nat.unwrap_or(scenario.nat_s);
                vec![scenario]
            }
            (None, Some(nat)) => vec![simulate::stationary(nat)],
            (None, None) => LIMITS.into_iter().map(simulate::stationary).chain(simulate::built_in(self.days)).collect(),
        };
        let policies = self.policy.as_deref().map_or(POLICIES.to_vec(), |policy| vec![policy]);
        let mut reports = Vec::new();
        for scenario in &scenarios {
            for policy in &policies {
                let report = simulate::run(policy, scenario, self.days, self.seed)?;
                if self.json {
                    super::show::line(&serde_json::to_value(&report).map_err(|e| e.to_string())?)
                        .map_err(|e| e.to_string())?;
                }
                reports.push(report);
            }
        }
        if !self.json {
            drop(write!(io::stdout().lock(), "{}", simulate::table(&reports)));
        }
        match &self.svg {
            Some(path) => {
                std::fs::write(path, simulate::draw(&reports)).map_err(|e| format!("{}: {e}", path.display()))
            }
            None => Ok(()),
        }
    }
}

fn show_cluster(outcome: &cluster::Outcome, json: bool) -> Result<bool, String> {
    let cluster::Outcome { offline, online, gateway_kills, node_kills, cuts, events_replayed } = outcome;
    if json {
        let counted = |k: &Kills| json!({ "accepted": k.accepted, "lost": k.lost.len(), "shown_twice": k.twice, "replaced": k.replaced });
        let line = json!({
            "gateway_kills": gateway_kills, "node_kills": node_kills, "cuts": cuts, "events_replayed": events_replayed,
            "offline": counted(offline), "online": counted(online),
        });
        super::show::line(&line).map_err(|e| e.to_string())?;
    } else {
        println!(
            "{gateway_kills} kills of gateways, {node_kills} of broker nodes, {cuts} cuts of connections, {events_replayed} presence events replayed"
        );
        for (name, k) in [("offline device", offline), ("connected devices", online)] {
            println!(
                "{name:<18} {} accepted: {} lost, {} shown twice, {} repeats that replaced",
                k.accepted,
                k.lost.len(),
                k.twice,
                k.replaced
            );
        }
    }
    Ok([offline, online].iter().all(|k| k.lost.is_empty() && k.twice == 0))
}

fn execute(command: Command) -> Result<bool, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    runtime.block_on(async {
        match command {
            Command::Demo { json, all_vendors: true, .. } => demo::run(json, &Vendor::ORDER).await,
            Command::Demo { json, vendor, .. } => demo::run(json, &[vendor]).await,
            Command::Clouds { listen, ca_file, fault } => {
                let mut stop = terminal::asked_to_stop().map_err(|e| e.to_string())?;
                cloud::serve(listen, &ca_file, &fault, stop()).await.map_err(|e| format!("{listen}: {e}"))?;
                Ok(true)
            }
            Command::Device { vendor, name, app_id, clouds, ca_file, socket, root } => {
                if let Some(root) = root {
                    device::write_tree(vendor, &root).map_err(|e| format!("{}: {e}", root.display()))?;
                }
                let phone =
                    Phone { vendor, name, app_id, clouds: clouds.trim_end_matches('/').to_owned(), ca_file, socket };
                device::live(&phone).await?;
                Ok(true)
            }
            Command::Simulate { policy, nat, days, seed, trace, json, svg } => {
                Simulation { policy, nat, days, seed, trace, json, svg }.run()?;
                Ok(true)
            }
            Command::Bench { what, gateway: Some(_), .. } if !WITH_GATEWAY.contains(&&*what) => {
                Err(format!("`bench {what}` takes no --gateway; leave it out"))
            }
            Command::Bench { what, store: Some(_), .. } if !WITH_STORE.contains(&&*what) => {
                Err(format!("`bench {what}` takes no --store; leave it out"))
            }
            Command::Bench { what, json, count, concurrency, .. } if what == "senders" => {
                senders::measure(json, count, concurrency).await.map(|()| true)
            }
            Command::Bench { what, json, count, gateway, users, waiting, .. } if what == "gateway" => {
                throughput::measure(json, count, filling(&users, waiting), gateway).await.map(|()| true)
            }
            Command::Bench { what, json, count, gateway, .. } if what == "fair" => {
                fair::measure(json, count, gateway).await
            }
            Command::Bench { what, json, count, devices, silent, gateway, store, users, waiting, .. } if what == "connected" => {
                let filling = filling(&users, waiting);
                connected::measure(json, &connected::Options { devices, count, silent, gateway, store, filling }).await
            }
            Command::Bench { what, json, count, gateway, store, users, waiting, .. } if what == "store" => {
                let count = (count, filling(&users, waiting));
                connected::stores(json, (gateway.as_deref(), store.as_deref()), count).await
            }
            Command::Bench { what, json, count, gateway, store, users, sizes, waiting, of, rounds, svg, .. }
                if what == "growth" =>
            {
                let sizes = if of == growth::Of::Users { users } else { sizes };
                let growth = Growth { of, sizes, waiting, rounds, count, gateway, store, svg };
                growth::measure(json, &growth).await
            }
            Command::Bench { what, json, inside, .. } if what == "far" => far::measure(json, inside).await,
            Command::Bench { what, json, agent, .. } if what == "footprint" => {
                show(&footprint::measure(agent).await?, json)
            }
            Command::Bench { what, json, .. } if what == "devices" => {
                let Idle { bytes_per_device, devices, vanished_s } = idle::measure().await?;
                let figures = [
                    Figure { name: format!("gateway memory a bound idle device, over {devices}"), value: bytes_per_device, goal: 1024.0, unit: "B" },
                    Figure { name: "vanished device to its vendor, beyond the deadline".into(), value: vanished_s, goal: 1.0, unit: "s" },
                ];
                show(&figures, json)
            }
            Command::Bench { what, json, kills, .. } if what == "kills" => {
                let Kills { accepted, lost, twice, replaced } = kills::measure(kills, 1).await?;
                let lost = lost.len();
                if json {
                    let line = serde_json::json!({ "kills": kills, "accepted": accepted, "lost": lost, "shown_twice": twice, "replaced": replaced });
                    super::show::line(&line).map_err(|e| e.to_string())?;
                } else {
                    println!("{kills} kills, {accepted} messages accepted: {lost} lost, {twice} shown twice, {replaced} repeats that replaced");
                }
                Ok(lost == 0 && twice == 0)
            }
            Command::Bench { json, reconnects, comebacks, .. } => {
                bench::keepalive(json, &LIMITS, reconnects, comebacks).await
            }
            Command::Cluster {
                store, brokers, user, password, unshared, client_events, front, gateways, devices, kills, kill_node,
                start_node, json,
            } => {
                let (gateways, devices) = (gateways.into(), devices.into());
                let brokers = Brokers { urls: brokers, user, password, shared: !unshared, client_events };
                let plan = Plan { store, brokers, front, gateways, devices, kills, kill_node, start_node };
                show_cluster(&cluster::measure(&plan).await?, json)
            }
            Command::Wire { a, b, delay_ms, loss } => {
                let weather = Weather { delay: Duration::from_millis(delay_ms), loss_percent: loss };
                tokio::task::spawn_blocking(move || wire::serve(&a, &b, weather))
                    .await
                    .map_err(|e| e.to_string())?
                    .map_err(|e| format!("the wire: {e}"))?;
                Ok(true)
            }
            Command::Fleet { json } => fleet::run(json).await.map(|()| true),
            Command::Manual { directory } => {
                manual::write(&directory, Cli::command()).map_err(|e| format!("{}: {e}", directory.display()))?;
                Ok(true)
            }
            Command::Network { listen, to } => {
                network::serve(listen, to).await.map_err(|e| format!("{listen}: {e}"))?;
                Ok(true)
            }
            Command::Trouble { trouble } => {
                trouble::run(trouble).await.map_err(|e| e.to_string())?;
                Ok(true)
            }
        }
    })
}
