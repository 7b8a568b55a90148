//! What connected devices cost a gateway on one core: their logins, their memory, their messages and their return, with
//! mosquitto doing the same two jobs of messages for the same clients in the same run.
//!
//! ```text
//! core 0: gateway, then mosquitto, alone      other cores: clients over TLS 1.3, REST calls
//! ```

mod client;
mod crowd;
pub(super) mod growth;
mod peer;
mod traffic;

use super::figure::{Figure, show};
use super::fill::{Filling, fill};
use super::rig::Rig;
use super::usage::{processor_s, resident_kib};
use crate::protocol::Address;
use crate::secret::Secret;
use client::{Who, dial};
use crowd::{Crowd, Target};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use traffic::Traffic;

const CALL: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(180);
/// Devices of one user.
const EACH: usize = 20;
/// Devices whose first connecting is timed.
const CONNECT: usize = 5000;
/// Logins of which the median is taken.
const LOGINS: usize = 21;
/// On their way in at once, where a rate is measured.
const TURNS: usize = 256;
/// Files that are open beside connections.
const OTHER_FILES: u64 = 500;

/// What is measured, and on what.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// Devices that are held.
    pub devices: u32,
    /// Messages of each job.
    pub count: u32,
    /// Connections that say nothing, beside which a login is timed; none: that is left out.
    pub silent: u32,
    /// Another gateway than the one beside this program.
    pub gateway: Option<PathBuf>,
    /// A PostgreSQL instead of a file: an empty database.
    pub store: Option<String>,
    /// What the database has before.
    pub filling: Filling,
}

/// Prints every figure; `true` if all goals are met.
///
/// # Errors
/// A sentence when a program cannot be started, or something that was waited for did not come.
pub(super) async fn measure(json: bool, options: &Options) -> Result<bool, String> {
    let devices = usize::try_from(options.devices).map_err(|e| e.to_string())?.min(most_connections()?);
    let mut rig = Rig::start_on(true, CALL, (options.gateway.as_deref(), options.store.as_deref())).await?;
    fill(&mut rig, options.filling).await?;
    rig.ask("PUT", "rules", Some(json!({ "device_limit": 100 }))).await?;
    let bar = ProgressBar::new(10).with_message("users");
    let known = users(&rig, devices.div_ceil(EACH), EACH).await?;
    let single = users(&rig, traffic::USERS, 1).await?;
    let target = Arc::new(target(&rig)?);
    let mut figures = Vec::new();
    let before = resident_kib(rig.gateway.id().ok_or("the gateway ended")?)?;

    step(&bar, "a login beside silent connections");
    if options.silent > 0 {
        figures.push(beside_silent(&target, &single, options.silent).await?);
    }
    step(&bar, "devices connect");
    figures.extend(connect(&known, &target, devices.min(CONNECT)).await?);

    step(&bar, "messages to connected devices");
    let mut crowd = Crowd::new();
    for who in single.iter().chain(&known[..traffic::MANY.min(known.len())]) {
        crowd.add(who.clone(), &target);
    }
    let wanted = single.len() + traffic::MANY.min(known.len());
    crowd.all_online(wanted, LIMIT).await?;
    let rig = Arc::new(rig);
    let ours = Traffic::measure(&rig, &crowd, (&single, &known), options.count).await?;
    crowd.leave().await;
    step(&bar, "the same by mosquitto");
    let theirs = peer::measure(rig.home.path(), options.count).await;
    figures.extend(traffic::figures(&ours, theirs.as_ref().ok()));

    let mut rig = Arc::into_inner(rig).ok_or("a call is still under way")?;
    step(&bar, "devices are held");
    figures.extend(hold(&mut rig, &known[..devices], &target, (before, &bar)).await?);
    bar.finish_and_clear();
    show_raw(&ours.raw, json)?;
    if let Err(why) = &theirs {
        eprintln!("no peer: {why}");
    }
    show(&figures, json)
}

/// What messages to connected devices cost the store: on SQLite, and on the PostgreSQL at `store`, which has to be empty.
///
/// # Errors
/// As [`measure`].
pub(super) async fn stores(
    json: bool,
    (gateway, store): (Option<&Path>, Option<&str>),
    (count, filling): (u32, Filling),
) -> Result<bool, String> {
    let bar = ProgressBar::new(2).with_message("users");
    let mut figures = Vec::new();
    for (on, store) in [("SQLite", None), ("PostgreSQL", store)] {
        if on == "PostgreSQL" && store.is_none() {
            eprintln!("PostgreSQL is left out: give an empty database with --store");
            continue;
        }
        step(&bar, on);
        let mut rig = Rig::start_on(true, CALL, (gateway, store)).await?;
        fill(&mut rig, filling).await?;
        rig.ask("PUT", "rules", Some(json!({ "device_limit": 100 }))).await?;
        let known = users(&rig, traffic::MANY.div_ceil(EACH), EACH).await?;
        let single = users(&rig, traffic::USERS, 1).await?;
        let target = Arc::new(target(&rig)?);
        let mut crowd = Crowd::new();
        single.iter().chain(&known).for_each(|who| crowd.add(who.clone(), &target));
        crowd.all_online(single.len() + known.len(), LIMIT).await?;
        let rig = Arc::new(rig);
        let ours = Traffic::measure(&rig, &crowd, (&single, &known), count).await?;
        crowd.leave().await;
        figures.extend(traffic::stored_figures(&ours, on, store.is_some()));
        show_raw(&ours.raw, json)?;
    }
    bar.finish_and_clear();
    show(&figures, json)
}

fn show_raw(raw: &Value, json: bool) -> Result<(), String> {
    if json {
        return super::show::line(raw).map_err(|e| e.to_string());
    }
    for (name, value) in raw.as_object().into_iter().flatten() {
        println!("     {name:<40} {:>12}", value.as_f64().map_or_else(|| "-".to_owned(), |n| format!("{n:.2}")));
    }
    Ok(())
}

fn step(bar: &ProgressBar, what: &'static str) {
    bar.inc(1);
    bar.set_message(what);
    if bar.is_hidden() {
        eprintln!("{what}");
    }
}

/// What this process, and so the gateway that it starts, may hold open.
fn most_connections() -> Result<usize, String> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = limit.current.unwrap_or(u64::from(u32::MAX)).saturating_sub(OTHER_FILES);
    usize::try_from(most).map_err(|e| e.to_string())
}

fn target(rig: &Rig) -> Result<Target, String> {
    let said = |key: &str| rig.reach[key].as_str().unwrap_or_default().to_owned();
    let port = said("broker").rsplit(':').next().and_then(|port| port.parse().ok()).ok_or("no port")?;
    Target::new(([127, 0, 0, 1], port).into(), Path::new(&said("ca_file")), TURNS)
}

/// Users with so many devices each, and a login for every device.
async fn users(rig: &Rig, count: usize, each: usize) -> Result<Vec<Who>, String> {
    let name = |n: usize| format!("{}-{n}", if each == 1 { "one" } else { "many" });
    let mut all = Vec::new();
    for n in 0..count {
        let token = rig.user(&name(n)).await?;
        for device in 0..each {
            let address = Address::new("o#a", name(n), format!("d{device}")).map_err(|e| e.to_string())?;
            all.push(Who::Device { address, token: Secret::new(token.clone()) });
        }
    }
    Ok(all)
}

/// How much longer a login takes beside connections that never say a word.
async fn beside_silent(target: &Arc<Target>, single: &[Who], count: u32) -> Result<Figure, String> {
    let alone = median_login(target, single).await?;
    let mut silent = JoinSet::new();
    for _ in 0..count {
        let address = target.address;
        silent.spawn(async move { dial(address).await.ok() });
    }
    let silent: Vec<Option<TcpStream>> = silent.join_all().await;
    let held = silent.iter().flatten().count();
    let beside = median_login(target, single).await?;
    drop(silent);
    Ok(Figure {
        name: format!("login beside {held} silent connections, to without ({:.1} ms)", alone * 1000.0),
        value: beside / alone,
        goal: 1.5,
        unit: "",
    })
}

async fn median_login(target: &Arc<Target>, single: &[Who]) -> Result<f64, String> {
    let mut times = Vec::new();
    for who in single.iter().cycle().take(LOGINS) {
        let mut crowd = Crowd::new();
        crowd.add(who.clone(), target);
        times.push(crowd.all_online(1, CALL).await?);
        crowd.leave().await;
    }
    times.sort_by(f64::total_cmp);
    Ok(times[LOGINS / 2])
}

/// So many devices connect, without tickets and with.
async fn connect(known: &[Who], target: &Arc<Target>, count: usize) -> Result<[Figure; 2], String> {
    let own: Vec<Arc<Target>> = known[..count].iter().map(|_| Arc::new(target.with_tickets(1))).collect();
    let mut seconds = Vec::new();
    let mut resumed = 0;
    for _ in 0..2 {
        let mut crowd = Crowd::new();
        for (who, target) in known.iter().zip(&own) {
            crowd.add(who.clone(), target);
        }
        seconds.push(crowd.all_online(count, LIMIT).await?);
        // Tickets come after the handshake.
        sleep(Duration::from_millis(200)).await;
        resumed = crowd.counts.resumed.load(Ordering::Relaxed);
        crowd.leave().await;
    }
    let name = |what: String| format!("{count} devices connect, {what}");
    Ok([
        Figure { name: name("TLS 1.3, no tickets".to_owned()), value: seconds[0], goal: 5.0, unit: "s" },
        Figure { name: name(format!("{resumed} with tickets")), value: seconds[1], goal: 3.0, unit: "s" },
    ])
}

/// Memory of idle devices, and how soon all are back after a reset and after the gateway was killed.
/// `before`: kibibytes of the gateway that no device had connected to yet.
async fn hold(
    rig: &mut Rig,
    known: &[Who],
    target: &Arc<Target>,
    (before, bar): (u64, &ProgressBar),
) -> Result<Vec<Figure>, String> {
    let count = known.len();
    let pid = rig.gateway.id().ok_or("the gateway ended")?;
    let mut crowd = Crowd::new();
    for who in known {
        crowd.add(who.clone(), target);
    }
    crowd.all_online(count, LIMIT).await?;
    sleep(Duration::from_secs(2)).await;
    let grown = resident_kib(pid)?.saturating_sub(before) as f64 / count as f64;
    let mut figures = vec![Figure {
        name: format!("memory a connected idle device, over {count}"),
        value: grown,
        goal: 16.0,
        unit: "KiB",
    }];

    step(bar, "all connections are reset at once");
    let busy = processor_s(pid)?;
    crowd.reset();
    let (back, longest) = tokio::join!(back(&crowd, count), longest_call(rig, &crowd, count));
    figures.push(Figure { name: format!("{count} reset at once, all back"), value: back?, goal: 30.0, unit: "s" });
    let name = format!("longest REST call meanwhile (gateway's processor {:.1} s)", processor_s(pid)? - busy);
    figures.push(Figure { name, value: longest, goal: 1.0, unit: "s" });

    step(bar, "the gateway is killed and started again");
    let killed = Instant::now();
    rig.kill_and_restart().await?;
    crowd.all_online(count, LIMIT).await?;
    let value = killed.elapsed().as_secs_f64();
    figures.push(Figure { name: format!("gateway killed under {count}, all back"), value, goal: 90.0, unit: "s" });
    crowd.leave().await;
    Ok(figures)
}

async fn back(crowd: &Crowd, count: usize) -> Result<f64, String> {
    let started = Instant::now();
    // They notice first.
    while crowd.online() == count && started.elapsed() < Duration::from_secs(1) {
        sleep(Duration::from_millis(1)).await;
    }
    crowd.all_online(count, LIMIT).await?;
    Ok(started.elapsed().as_secs_f64())
}

/// The longest of the calls that are made while devices come back: one that reads the store, one that writes.
async fn longest_call(rig: &Rig, crowd: &Crowd, count: usize) -> f64 {
    let mut longest = 0.0_f64;
    sleep(Duration::from_millis(100)).await;
    while crowd.online() < count {
        let started = Instant::now();
        let read = rig.ask("GET", "users/one-0/devices", None).await;
        let body = json!({ "to": ["one-1"], "body": { "type": "txt", "msg": "meanwhile" } });
        let write = rig.ask("POST", "messages/users", Some(body)).await;
        let took = if read.and(write).is_ok() { started.elapsed().as_secs_f64() } else { f64::INFINITY };
        longest = longest.max(took);
        sleep(Duration::from_millis(100)).await;
    }
    longest
}

/// A number of the raw table.
fn number(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}
