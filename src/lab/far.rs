//! What becomes of notifications when the vendor is far away: a host that was never called, a connection that dies
//! silently, and one that is cut with notifications under way.
//!
//! ```text
//! gateway, load  eth0 --- wa [ wire, 80 ms each way ] wb --- eth0  clouds
//! ```
//!
//! Needs root, `ip`, `ethtool`, `nft` and `ss`.

use super::figure::{Figure, show};
use super::kills::{Kills, message_of, send, settled};
use super::process::output;
use super::rig::Rig;
use super::throughput::followed;
use crate::vendors::Vendor;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::process::Command;
use tokio::time::{Instant, interval, sleep};

/// Each way.
const DELAY_MS: u64 = 80;
const CALL: Duration = Duration::from_secs(30);
/// The whole run.
const RUN: Duration = Duration::from_secs(600);
const CLOUDS: &str = "10.73.0.2:8690";
const USER: &str = "ann";
/// Notifications to a cold host, all at once.
const COLD: u32 = 200;
/// Under way at the cut.
const UNDER_WAY: u32 = 60;
/// Around the silent death: one every so often, and how many before and in all.
const EVERY: Duration = Duration::from_secs(5);
const BEFORE: u32 = 2;
const IN_ALL: u32 = 6;

const UP: &str = r#"
set -e
for n in gw wire srv; do ip netns del impush-far-$n 2>/dev/null || true; ip netns add impush-far-$n; ip -n impush-far-$n link set lo up; done
ip netns exec impush-far-wire sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6'
ip -n impush-far-gw link add eth0 type veth peer name wa netns impush-far-wire
ip -n impush-far-srv link add eth0 type veth peer name wb netns impush-far-wire
for at in "gw eth0" "srv eth0" "wire wa" "wire wb"; do set -- $at
  ip netns exec impush-far-$1 ethtool -K $2 tx off gso off tso off gro off >/dev/null; ip -n impush-far-$1 link set $2 up; done
ip -n impush-far-gw addr add 10.73.0.1/24 dev eth0
ip -n impush-far-srv addr add 10.73.0.2/24 dev eth0
ip netns exec impush-far-srv nft 'table inet far { set dead { type inet_service; }; chain in { type filter hook input priority 0; tcp sport @dead drop; }; chain out { type filter hook output priority 0; tcp dport @dead drop; }; }'
"#;
const DOWN: &str =
    "for n in gw wire srv; do ip netns pids impush-far-$n | xargs -r kill -9; ip netns del impush-far-$n; done";

async fn shell(script: &str) -> Result<String, String> {
    output(Path::new("/bin/sh"), &["-c", script], CALL).await
}

/// Prints every figure; `true` if all goals are met. Not `inside` yet: the way is laid out first.
///
/// # Errors
/// A sentence when the machine cannot, or a program does not answer.
pub(super) async fn measure(json: bool, inside: bool) -> Result<bool, String> {
    if inside {
        return show(&figures().await?, json);
    }
    shell(UP).await.map_err(|e| format!("needs root, ip, ethtool and nft: {e}"))?;
    let measured = tokio::select! {
        measured = tokio::time::timeout(RUN, over_the_wire(json)) => measured.unwrap_or_else(|_| Err("not done in time".to_owned())),
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
    };
    shell(DOWN).await?;
    measured
}

async fn over_the_wire(json: bool) -> Result<bool, String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let within = |namespace: &str| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("impush-far-{namespace}")]).arg(&own).stdin(Stdio::null());
        command.kill_on_drop(true);
        command
    };
    let wire = within("wire").args(["wire", "wa", "wb", "--delay-ms", &DELAY_MS.to_string()]).spawn();
    let _wire = wire.map_err(|e| format!("the wire: {e}"))?;
    let mut bench = within("gw");
    bench.args(["bench", "far", "--inside"]).args(json.then_some("--json"));
    match bench.status().await.map_err(|e| format!("the load: {e}"))?.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => Err("it could not be measured".to_owned()),
    }
}

async fn figures() -> Result<Vec<Figure>, String> {
    let mut rig = Rig::start_away(CALL, "impush-far-srv", CLOUDS).await?;
    let first = |http2| Vendor::ORDER.into_iter().find(|vendor| super::cloud::of(*vendor).http2 == http2);
    let (Some(shared), Some(single)) = (first(true), first(false)) else {
        return Err("no vendor of both kinds".to_owned());
    };
    let bar = ProgressBar::new(Vendor::ORDER.len() as u64 + 3);
    let mut all = Vec::new();
    for vendor in Vendor::ORDER {
        all.push(cold(&mut rig, vendor).await?);
        bar.inc(1);
    }
    for vendor in [shared, single] {
        all.extend(silence(&mut rig, vendor).await?);
        bar.inc(1);
    }
    all.extend(cut(&mut rig, shared).await?);
    bar.finish_and_clear();
    Ok(all)
}

/// A gateway that has no connection yet; its vendors speak what this one's servers do.
async fn fresh(rig: &mut Rig, vendor: Vendor) -> Result<&'static str, String> {
    let http2 = super::cloud::of(vendor).http2;
    rig.lab("POST", "connections", Some(json!({ "http1": !http2 }))).await?;
    rig.kill_and_restart().await?;
    Ok(if http2 { "HTTP/2" } else { "HTTP/1.1" })
}

async fn counts(rig: &Rig, vendor: Vendor, what: &str) -> Result<u64, String> {
    let counts = rig.lab("GET", &format!("counts?vendor={vendor}"), None).await?;
    counts[what].as_u64().ok_or_else(|| format!("no {what} in {counts}"))
}

async fn cold(rig: &mut Rig, vendor: Vendor) -> Result<Figure, String> {
    let spoken = fresh(rig, vendor).await?;
    let account = super::cloud::account(vendor)?;
    rig.register(&account).await?;
    let device = rig.install(&account, "cold").await?;
    let name = percent_encoding::utf8_percent_encode(&account.certificate, percent_encoding::NON_ALPHANUMERIC);
    let before = counts(rig, vendor, "connections").await?;
    let body = json!({ "token": device, "count": COLD, "concurrency": COLD });
    let answer = rig.ask("POST", &format!("certificates/{name}/test"), Some(body)).await?;
    if answer["data"]["outcomes"]["delivered"] != COLD {
        return Err(format!("{vendor}: {}", answer["data"]["outcomes"]));
    }
    let made = counts(rig, vendor, "connections").await? - before;
    let name = format!("connections for {COLD} at once to a cold host, {spoken}, {vendor}");
    Ok(Figure { name, value: made as f64, goal: if spoken == "HTTP/2" { 2.0 } else { 16.0 }, unit: "" })
}

/// A user of this vendor with one device; what asks for its tray.
async fn bound(rig: &Rig, vendor: Vendor) -> Result<String, String> {
    let account = super::cloud::account(vendor)?;
    rig.register(&account).await?;
    let device = rig.bound_users(&account, &[format!("{USER}-{vendor}")]).await?;
    serde_urlencoded::to_string([("vendor", vendor.as_str()), ("token", &device)]).map_err(|e| e.to_string())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

async fn silence(rig: &mut Rig, vendor: Vendor) -> Result<Vec<Figure>, String> {
    let spoken = fresh(rig, vendor).await?;
    let tray = bound(rig, vendor).await?;
    let mut every = interval(EVERY);
    let mut sent = Vec::new();
    for n in 0..IN_ALL {
        if n == BEFORE {
            followed(rig, sent.clone()).await?;
            silence_connection(rig.gateway.id()).await?;
        }
        every.tick().await;
        let at = now_ms();
        let text = format!("silence {spoken} {n}");
        sent.push((send(&rig.http, &rig.base, &rig.token, &format!("{USER}-{vendor}"), &text).await?, at));
    }
    let name = format!("silent death, a notification every 5 s, {spoken}: ");
    came_of(rig, &tray, sent, name, "longest wait", 10.0).await
}

/// Nothing passes on the gateway's only connection from now on, and nobody says so.
async fn silence_connection(gateway: Option<u32>) -> Result<(), String> {
    let listed = shell("ss -tnpH state established dst 10.73.0.2").await?;
    let own = format!("pid={},", gateway.ok_or("the gateway ended")?);
    let ports: Vec<&str> = listed
        .lines()
        .filter(|line| line.contains(&own))
        .filter_map(|line| line.split_whitespace().nth(2)?.rsplit(':').next())
        .collect();
    let [port] = ports.as_slice() else { return Err(format!("{} connections, not one: {listed}", ports.len())) };
    let drop_all = format!("nft add element inet far dead {{ {port} }}");
    shell(&format!("ip netns exec impush-far-srv {drop_all}")).await.map(drop)
}

async fn cut(rig: &mut Rig, vendor: Vendor) -> Result<Vec<Figure>, String> {
    let spoken = fresh(rig, vendor).await?;
    let tray = bound(rig, vendor).await?;
    let user = format!("{USER}-{vendor}");
    let message = async |text: String| send(&rig.http, &rig.base, &rig.token, &user, &text).await;
    let warm = message("warm".to_owned()).await?;
    followed(rig, vec![(warm.clone(), now_ms())]).await?;
    // They come to the cloud, which says nothing to them before the cut.
    rig.lab("POST", "faults", Some(json!({ "vendor": vendor, "fault": "hang", "times": UNDER_WAY }))).await?;
    let before = counts(rig, vendor, "calls").await?;
    let ids = futures_util::future::join_all((0..UNDER_WAY).map(|n| message(format!("cut {n}")))).await;
    let ids = ids.into_iter().collect::<Result<Vec<_>, _>>()?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while counts(rig, vendor, "calls").await? < before + u64::from(UNDER_WAY) {
        if Instant::now() > deadline {
            return Err(format!("{vendor}: not all of them are under way at once"));
        }
        sleep(Duration::from_millis(10)).await;
    }
    // When the word for it is there. It befalls this call's connection too.
    let at = now_ms() + DELAY_MS;
    let cut: Result<Value, String> = rig.lab("POST", "connections", Some(json!({ "blow": "reset" }))).await;
    drop(cut);
    let sent = [(warm, at)].into_iter().chain(ids.into_iter().map(|id| (id, at))).collect();
    let name = format!("cut with {UNDER_WAY} under way, {spoken}: ");
    came_of(rig, &tray, sent, name, "all there after", 1.0).await
}

/// The longest time from the moment beside each message until it was shown, and what else the tray tells.
async fn came_of(
    rig: &Rig,
    tray: &str,
    sent: Vec<(String, u64)>,
    name: String,
    longest: &str,
    goal_s: f64,
) -> Result<Vec<Figure>, String> {
    let ids: Vec<String> = sent.iter().map(|(id, _)| id.clone()).collect();
    let shown = async |after: u64| rig.lab("GET", &format!("tray?{tray}&after={after}"), None).await;
    // Whatever comes a second time has come by then.
    followed(rig, sent.clone()).await?;
    let Kills { lost, twice, .. } = settled(&ids, CALL, shown).await?;
    let tray = shown(0).await?;
    let tray = tray.as_array().map(Vec::as_slice).unwrap_or_default();
    let waited_ms = |(id, at): &(String, u64)| {
        let first = tray.iter().find(|notification| message_of(notification) == *id);
        first.and_then(|first| first["at_ms"].as_u64()).map_or(f64::INFINITY, |shown| shown.saturating_sub(*at) as f64)
    };
    let longest_ms = sent.iter().map(waited_ms).fold(0.0, f64::max);
    let figure = |what: &str, value, goal, unit| Figure { name: format!("{name}{what}"), value, goal, unit };
    Ok(vec![
        figure(longest, longest_ms / 1000.0, goal_s, "s"),
        figure("lost", lost.len() as f64, 0.0, ""),
        figure("shown twice", twice as f64, 0.0, ""),
    ])
}
