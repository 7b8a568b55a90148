//! What the agent costs a device that does nothing, beside `mosquitto_sub` on the same broker over TLS, in the
//! same minute; and how soon it is bound again after a start.

use super::account::{ANY, Account};
use super::agent::Agent;
use super::device::write_tree;
use super::figure::Figure;
use super::process::output;
use super::rig::Rig;
use super::usage::threads_s;
use crate::protocol::Address;
use indicatif::ProgressBar;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::time::sleep;

const START: Duration = Duration::from_secs(20);
/// Caches and threads of the start are gone by then.
const SETTLE: Duration = Duration::from_secs(20);
/// The heartbeat of both in the idle minute, in seconds.
const HEARTBEAT: u64 = 60;
/// The heartbeat while bytes are counted; each ping costs the same at every heartbeat.
const QUICK: u64 = 10;
/// Starts of which the median is told.
const STARTS: usize = 15;
const USER: &str = "ann";

/// What a process has used, and what it holds.
#[derive(Debug, Clone, Copy)]
struct Usage {
    rss_kib: f64,
    private_dirty_kib: f64,
    voluntary_switches: f64,
    cpu_us: f64,
}

/// The figures, each a ratio to the peer where the peer has one.
///
/// # Errors
/// A sentence about what did not start or is not installed.
pub(super) async fn measure(agent: Option<PathBuf>) -> Result<Vec<Figure>, String> {
    let program = agent.map_or_else(packaged, Ok)?;
    let rig = Rig::start(false, START).await?;
    let account = crate::lab::cloud::account(ANY)?;
    rig.register(&account).await?;
    let password = rig.user(USER).await?;
    let bar = ProgressBar::new(4).with_message("idle minute");

    let agent = Agent::start(&rig, &program, "idle", &beating(HEARTBEAT)).await?;
    agent.login(USER, &password).await?;
    agent.online().await?;
    let peer = Peer::start(&rig, &password, HEARTBEAT)?;
    sleep(SETTLE).await;
    let before = (usage(agent.pid()?)?, usage(peer.pid()?)?);
    sleep(Duration::from_secs(60)).await;
    let after = (usage(agent.pid()?)?, usage(peer.pid()?)?);
    let ratio = |of: fn(&Usage) -> f64| of(&after.0) / of(&after.1).max(1.0);
    let grown = |of: fn(&Usage) -> f64| (of(&after.0) - of(&before.0), (of(&after.1) - of(&before.1)).max(1.0));
    let (switches, cpu) = (grown(|u| u.voluntary_switches), grown(|u| u.cpu_us));
    drop((agent, peer));
    bar.inc(1);

    bar.set_message("bytes");
    let agent = Agent::start(&rig, &program, "bytes", &beating(QUICK)).await?;
    agent.login(USER, &password).await?;
    agent.online().await?;
    let peer = Peer::start(&rig, &password, QUICK)?;
    sleep(SETTLE).await;
    let port = rig.reach["broker"].as_str().unwrap_or_default().rsplit(':').next().unwrap_or_default().to_owned();
    let (one, other) = (agent.pid()?, peer.pid()?);
    let before = (traffic(&port, one).await?, traffic(&port, other).await?);
    sleep(Duration::from_secs(QUICK * 6)).await;
    let bytes = (traffic(&port, one).await? - before.0, traffic(&port, other).await? - before.1);
    drop((agent, peer));
    bar.inc(1);

    bar.set_message("starts");
    let bound = bound_again(&rig, &program, &account, &password).await?;
    bar.finish_and_clear();
    let size = std::fs::metadata(&program).map_err(|e| format!("{}: {e}", program.display()))?.len();
    let described =
        |text: &str, value: f64, other: f64, unit: &str| format!("{text} ({value:.0} to {other:.0} {unit})");
    Ok(vec![
        Figure {
            name: described("resident memory, to mosquitto_sub", after.0.rss_kib, after.1.rss_kib, "KiB"),
            value: ratio(|u| u.rss_kib),
            goal: 0.6,
            unit: "",
        },
        Figure {
            name: described("private dirty memory", after.0.private_dirty_kib, after.1.private_dirty_kib, "KiB"),
            value: ratio(|u| u.private_dirty_kib),
            goal: 1.0,
            unit: "",
        },
        Figure {
            name: described("voluntary switches in an idle minute", switches.0, switches.1, ""),
            value: switches.0 / switches.1,
            goal: 0.1,
            unit: "",
        },
        Figure {
            name: described("processor time in an idle minute", cpu.0, cpu.1, "us"),
            value: cpu.0 / cpu.1,
            goal: 0.2,
            unit: "",
        },
        // Six pings were counted; an hour at 300 s has twelve.
        Figure {
            name: described("bytes an hour at a heartbeat of 300 s", bytes.0 * 2.0, bytes.1 * 2.0, ""),
            value: bytes.0 / bytes.1.max(1.0),
            goal: 1.0,
            unit: "",
        },
        Figure { name: "binary".to_owned(), value: size as f64 / 1_048_576.0, goal: 4.0, unit: "MiB" },
        Figure { name: format!("start until bound again, median of {STARTS}"), value: bound, goal: 150.0, unit: "ms" },
    ])
}

/// The agent as the packages have it, which is not the one beside this program.
fn packaged() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let built = own.parent().and_then(Path::parent).map(|target| target.join("device/impush"));
    built.filter(|path| path.exists()).ok_or_else(|| {
        "the agent as packaged is not built; run `cargo build --profile device --no-default-features --bin impush`, \
         or name one with --agent"
            .to_owned()
    })
}

/// What a heartbeat that never changes is called in the configuration.
fn beating(seconds: u64) -> String {
    format!("[keep_alive]\nstart_s = {seconds}\nfloor_s = {seconds}\nceiling_s = {seconds}\n")
}

struct Peer(tokio::process::Child);

impl Peer {
    fn start(rig: &Rig, password: &str, heartbeat: u64) -> Result<Self, String> {
        let address = Address::new("o#a", USER, "peer").map_err(|e| e.to_string())?;
        let topics = crate::protocol::Topics::new(crate::protocol::DEFAULT_PREFIX).map_err(|e| e.to_string())?;
        let said = |key: &str| rig.reach[key].as_str().unwrap_or_default().to_owned();
        let port = said("broker").rsplit(':').next().unwrap_or_default().to_owned();
        let child = Command::new("mosquitto_sub")
            .args(["-V", "mqttv5", "-h", "localhost", "-p", &port, "--cafile", &said("ca_file"), "-q", "1"])
            .args([
                "-k",
                &heartbeat.to_string(),
                "-i",
                &address.client_id(),
                "-u",
                &address.user_name(),
                "-P",
                password,
            ])
            .args(["-t", &topics.topic(&address, crate::protocol::Leg::Down)])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn();
        child.map(Self).map_err(|e| format!("mosquitto_sub: {e}"))
    }

    fn pid(&self) -> Result<u32, String> {
        self.0.id().ok_or_else(|| "mosquitto_sub ended".to_owned())
    }
}

fn usage(pid: u32) -> Result<Usage, String> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).map_err(|e| format!("{pid}: {e}"));
    let rollup = read("smaps_rollup")?;
    let kib = |key: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default()
    };
    let mut voluntary_switches = 0.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| e.to_string())?.flatten() {
        let text = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let line =
            text("status").lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).map(str::to_owned);
        voluntary_switches += line.and_then(|n| n.trim().parse::<f64>().ok()).unwrap_or_default();
    }
    let cpu_us = threads_s(pid, |_| true)? * 1e6;
    Ok(Usage { rss_kib: kib("Rss:"), private_dirty_kib: kib("Private_Dirty:"), voluntary_switches, cpu_us })
}

/// Bytes of TCP payload a process has sent to and had from the broker, as the kernel counts them.
async fn traffic(port: &str, pid: u32) -> Result<f64, String> {
    let said = output(Path::new("ss"), &["-tinpHO", &format!("dport = :{port}")], START).await?;
    let line = said.lines().find(|line| line.contains(&format!("pid={pid},")));
    let line = line.ok_or_else(|| format!("ss shows no connection of {pid}"))?;
    let count = |key: &str| {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(key));
        value.and_then(|value| value.parse::<f64>().ok()).unwrap_or_default()
    };
    Ok(count("bytes_acked:") + count("bytes_received:"))
}

/// The median time, in milliseconds, from a start to a binding the gateway has confirmed.
async fn bound_again(rig: &Rig, program: &Path, account: &Account, password: &str) -> Result<f64, String> {
    let root = rig.home.path().join("phone");
    write_tree(ANY, &root).map_err(|e| e.to_string())?;
    let token = rig.install(account, "phone").await?;
    let phone = format!(
        "[device]\nroot = '{}'\n[channel]\nlinger_s = 3600\n[certificates]\n{} = '{}'\n",
        root.display(),
        ANY.certificate_key(),
        account.certificate
    );
    let mut agent = Agent::start(rig, program, "bound", &phone).await?;
    agent.login(USER, password).await?;
    agent.ask("PUT", &format!("/v1/tokens/{ANY}"), Some(&json!({ "token": token }))).await?;
    agent.bound().await?;
    let mut times = Vec::new();
    for _ in 0..STARTS {
        agent.process.stop(START).await?;
        let started = Instant::now();
        agent = Agent::start(rig, program, "bound", &phone).await?;
        agent.bound().await?;
        times.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
