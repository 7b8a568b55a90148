//! How much one gateway carries: accepted durably, decided, and sent to an emulated cloud; with the cloud's
//! own ceiling and a public client of that vendor in the same run.

use super::account::Account;
use super::fill::{Filling, fill};
use super::process::output;
use super::rig::Rig;
use super::usage::{processor_s, resident_kib};
use crate::vendors::Vendor;
use indicatif::ProgressBar;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const CALL: Duration = Duration::from_secs(30);
/// Messages whose calls are under way at once.
const CONCURRENCY: usize = 256;
/// Users, each with one bound device.
const USERS: usize = 64;
/// One message in so many is followed to the vendor for the latency.
const SAMPLE: u32 = 20;

/// Prints the figures.
///
/// # Errors
/// A sentence when a program cannot be started, or a message was refused.
pub(super) async fn measure(
    json_line: bool,
    count: u32,
    filling: Filling,
    gateway: Option<PathBuf>,
) -> Result<(), String> {
    // One core for the gateway, as the figure asks; the rest of the machine makes the load.
    let mut rig = Rig::start_with(true, CALL, gateway.as_deref()).await?;
    fill(&mut rig, filling).await?;
    let rig = Arc::new(rig);
    let pid = rig.gateway.id().ok_or("the gateway ended")?;
    let account = crate::lab::cloud::account(measured()?)?;
    rig.register(&account).await?;
    let users: Vec<String> = (0..USERS).map(user).collect();
    let device = rig.bound_users(&account, &users).await?;

    let before = resident_kib(pid)?;
    let bar = ProgressBar::new(4).with_message("one receiver a call");
    let single = closed_loop(&rig, count, 1).await?;
    bar.inc(1);
    bar.set_message("many receivers a call");
    let bulk = closed_loop(&rig, count, USERS).await?;
    bar.inc(1);
    bar.set_message("open loop");
    let rate = single.sent_per_s;
    let half = rate / 2.0;
    let latencies = flood(&rig, (half * 10.0) as u32, 1, Some(half)).await?;
    bar.inc(1);
    let mut times = followed(&rig, latencies).await?;
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get(((times.len().max(1) - 1) as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    let peer = peer(&rig, &account, &device).await;
    bar.finish_and_clear();
    let figures = json!({
        "accepted_per_s": single.accepted_per_s, "sent_per_s": rate, "sent_per_core_s": single.sent_per_core_s,
        "gateway_core_share": single.gateway, "load_core_share": single.load, "clouds_core_share": single.clouds,
        "clouds_ceiling_per_core_s": single.clouds_per_core_s,
        "bulk_accepted_per_s": bulk.accepted_per_s, "bulk_sent_per_s": bulk.sent_per_s,
        "bulk_sent_per_core_s": bulk.sent_per_core_s, "bulk_gateway_core_share": bulk.gateway,
        "half_rate_p50_ms": at(0.5), "half_rate_p99_ms": at(0.99),
        "gateway_rss_kib": resident_kib(pid)?, "gateway_rss_before_kib": before,
        "aioapns_per_s": peer.as_ref().ok().map(|peer| peer.0), "ratio_to_aioapns": peer.as_ref().ok().map(|peer| rate / peer.0),
        "aioapns_per_core_s": peer.as_ref().ok().map(|peer| peer.1),
    });
    if json_line {
        return super::show::line(&figures).map_err(|e| e.to_string());
    }
    for (name, value) in figures.as_object().into_iter().flatten() {
        println!("{name:<26} {:>12}", value.as_f64().map_or_else(|| "-".to_owned(), |n| format!("{n:.1}")));
    }
    if let Err(why) = peer {
        println!("no peer: {why}");
    }
    Ok(())
}

/// What a closed loop came to.
struct Run {
    accepted_per_s: f64,
    sent_per_s: f64,
    /// Messages a second of the gateway's processor time.
    sent_per_core_s: f64,
    /// Shares of one core.
    gateway: f64,
    load: f64,
    clouds: f64,
    /// Pushes the cloud answered a second of its own processor time: what it could carry on one core.
    clouds_per_core_s: f64,
}

/// Messages in calls to so many receivers, until all of them are with the vendor.
async fn closed_loop(rig: &Arc<Rig>, count: u32, receivers: usize) -> Result<Run, String> {
    let gateway = rig.gateway.id().ok_or("the gateway ended")?;
    let clouds = rig.clouds_process.id().ok_or("the clouds ended")?;
    let used = || [gateway, std::process::id(), clouds].map(|pid| processor_s(pid).unwrap_or_default());
    let (started, busy, before) = (Instant::now(), used(), calls(rig).await?);
    let per_call = u32::try_from(receivers).map_err(|e| e.to_string())?;
    flood(rig, count / per_call, receivers, None).await?;
    let count = count / per_call * per_call;
    let accepted_s = started.elapsed().as_secs_f64();
    arrived(rig, before + u64::from(count)).await?;
    let sent_s = started.elapsed().as_secs_f64();
    let now = used();
    let [gateway, load, clouds] = [0, 1, 2].map(|at| now[at] - busy[at]);
    Ok(Run {
        accepted_per_s: f64::from(count) / accepted_s,
        sent_per_s: f64::from(count) / sent_s,
        sent_per_core_s: f64::from(count) / gateway,
        gateway: gateway / sent_s,
        load: load / sent_s,
        clouds: clouds / sent_s,
        clouds_per_core_s: f64::from(count) / clouds,
    })
}

fn user(n: usize) -> String {
    format!("user-{n}")
}

async fn calls(rig: &Rig) -> Result<u64, String> {
    let answer = rig.lab("GET", &format!("counts?vendor={}", measured()?), None).await?;
    Ok(answer["calls"].as_u64().unwrap_or_default())
}

/// Waits until the cloud has had so many calls.
async fn arrived(rig: &Rig, wanted: u64) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while calls(rig).await? < wanted {
        if Instant::now() > deadline {
            return Err("not everything that was accepted reached the cloud".to_owned());
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Makes calls as fast as they are taken, or at a rate whatever the answers. Returns ids with the moments
/// they were sent (milliseconds since the Unix epoch).
async fn flood(
    rig: &Arc<Rig>,
    count: u32,
    receivers: usize,
    per_second: Option<f64>,
) -> Result<Vec<(String, u64)>, String> {
    // As many messages under way in calls to many as in calls to one.
    let slots = Arc::new(Semaphore::new(if per_second.is_some() { 4096 } else { CONCURRENCY / receivers }));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for n in 0..count {
        if let Some(rate) = per_second {
            tokio::time::sleep_until(started + Duration::from_secs_f64(f64::from(n) / rate)).await;
        }
        let permit = slots.clone().acquire_owned().await.map_err(|e| e.to_string())?;
        let rig = rig.clone();
        tasks.spawn(async move {
            let to: Vec<String> = (0..receivers).map(|at| user((n as usize + at) % USERS)).collect();
            let body = json!({ "to": to, "body": { "type": "txt", "msg": n.to_string() } });
            let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
            let answer = rig.ask("POST", "messages/users", Some(body)).await;
            drop(permit);
            answer.map(|answer| (n, answer["data"][&to[0]].as_str().unwrap_or_default().to_owned(), at))
        });
    }
    let mut sent = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (n, id, at) = done.map_err(|e| e.to_string())??;
        if n.is_multiple_of(SAMPLE) {
            sent.push((id, at));
        }
    }
    Ok(sent)
}

/// Milliseconds from the request to the vendor's answer, read in the traces.
pub(super) async fn followed(rig: &Rig, sent: Vec<(String, u64)>) -> Result<Vec<f64>, String> {
    let mut times = Vec::new();
    for (id, at) in sent {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let trace = rig.ask("GET", &format!("messages/{id}/trace"), None).await?;
            let lines = trace["entities"].as_array().cloned().unwrap_or_default();
            if let Some(line) = lines.iter().find(|line| line["hop"] == "vendor_sent") {
                times.push(line["at_ms"].as_u64().unwrap_or(0).saturating_sub(at) as f64);
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("{id} was not sent"));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(times)
}

/// A public client against the same cloud: notifications a second, and a second of its processor time.
async fn peer(rig: &Rig, account: &Account, device: &str) -> Result<(f64, f64), String> {
    let home = rig.home.path();
    let key: PathBuf = home.join("key.p8");
    std::fs::write(&key, account.fields["key"].as_str().unwrap_or_default()).map_err(|e| e.to_string())?;
    let script = home.join("peer.py");
    std::fs::write(&script, include_str!("../../benches/aioapns_peer.py")).map_err(|e| e.to_string())?;
    let port = rig.clouds.rsplit(':').next().unwrap_or_default();
    let text = |path: &Path| path.display().to_string();
    let field = |name: &str| account.fields[name].as_str().unwrap_or_default().to_owned();
    // On the gateway's core, which has nothing to do now.
    let arguments = [
        "-c".to_owned(),
        "0".to_owned(),
        "python3".to_owned(),
        text(&script),
        port.to_owned(),
        text(&rig.ca),
        text(&key),
        field("key_id"),
        field("team_id"),
        field("bundle_id"),
        device.to_owned(),
        "4000".to_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let printed = output(Path::new("taskset"), &arguments, Duration::from_secs(60)).await;
    let printed = printed.map_err(|e| format!("python3 with aioapns: {}", e.lines().last().unwrap_or_default()))?;
    let mut numbers = printed.split_whitespace().map_while(|number| number.parse().ok());
    numbers.next().zip(numbers.next()).ok_or_else(|| format!("it said {printed}"))
}

/// The vendor of whom a public client is measured beside the gateway.
fn measured() -> Result<Vendor, String> {
    let with_peer = |vendor: &Vendor| super::cloud::of(*vendor).peer;
    Vendor::ORDER.into_iter().find(with_peer).ok_or_else(|| "no vendor has a public client to measure".to_owned())
}
