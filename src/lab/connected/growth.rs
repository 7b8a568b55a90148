//! How the figures change as something grows: users in the database, receivers of a call, connected devices. Each size is
//! measured in turn with the others, several times, so that a slow minute of the machine is all sizes' alike.

use super::client::Who;
use super::crowd::Crowd;
use super::traffic::{self, Job, job, names};
use super::{CALL, LIMIT, median_login, most_connections, number, peer, show_raw, step, target, users};
use crate::lab::chart::{Chart, Line};
use crate::lab::figure::{Figure, show};
use crate::lab::fill::{Filling, fill};
use crate::lab::rig::Rig;
use crate::lab::usage::resident_kib;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::lab) enum Of {
    /// In the database, each with a bound device that is not connected
    Users,
    /// Of one call
    Receivers,
    /// Connected, and idle
    Devices,
}

/// What is measured, and on what.
#[derive(Debug, Clone)]
pub(in crate::lab) struct Growth {
    pub of: Of,
    /// The sizes; none: those that [`Of`] has.
    pub sizes: Vec<u32>,
    /// Messages that wait in a database with the most users.
    pub waiting: u32,
    /// How often each size is measured; the middle one counts.
    pub rounds: u32,
    /// Messages of each job.
    pub count: u32,
    pub gateway: Option<PathBuf>,
    /// A PostgreSQL instead of a file: an empty database.
    pub store: Option<String>,
    pub svg: Option<PathBuf>,
}

/// A size's figures, of each round.
struct Size {
    at: u32,
    one: Vec<Job>,
    bulk: Vec<Job>,
}

/// Prints every figure, and draws them; `true` if all goals are met.
///
/// # Errors
/// A sentence when a program cannot be started, or something that was waited for did not come.
pub(in crate::lab) async fn measure(json: bool, growth: &Growth) -> Result<bool, String> {
    let (raw, figures, drawn) = match growth.of {
        Of::Users => by_users(growth).await?,
        Of::Receivers => by_receivers(growth).await?,
        Of::Devices => by_devices(growth).await?,
    };
    show_raw(&raw, json)?;
    if let Some(path) = &growth.svg {
        std::fs::write(path, drawn).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    show(&figures, json)
}

impl Growth {
    fn sizes(&self, otherwise: &[u32]) -> Vec<u32> {
        if self.sizes.is_empty() { otherwise.to_vec() } else { self.sizes.clone() }
    }

    fn on(&self) -> &'static str {
        if self.store.is_some() { "PostgreSQL" } else { "SQLite" }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn middle(jobs: &[Job], of: impl Fn(&Job) -> f64) -> f64 {
    median(jobs.iter().map(of).collect())
}

/// The same server with what was made before left alone: each gateway has a schema of its own.
fn schema(url: &str, users: u32) -> Result<String, String> {
    let name = format!("users_{users}");
    let mut client = postgres::Client::connect(url, postgres::NoTls).map_err(|e| e.to_string())?;
    client.batch_execute(&format!("CREATE SCHEMA {name}")).map_err(|e| e.to_string())?;
    let sign = if url.contains('?') { '&' } else { '?' };
    Ok(format!("{url}{sign}options=-c%20search_path%3D{name}"))
}

/// A gateway whose database has so many users, and the devices that messages go to.
struct Stage {
    rig: Arc<Rig>,
    crowd: Crowd,
    names: Vec<String>,
}

impl Stage {
    async fn new(growth: &Growth, users: u32, waiting: u32, raw: &mut Value) -> Result<Self, String> {
        let store = match growth.store.clone() {
            Some(url) => {
                let made = tokio::task::spawn_blocking(move || schema(&url, users));
                Some(made.await.map_err(|e| e.to_string())??)
            }
            None => None,
        };
        let mut rig = Rig::start_on(true, CALL, (growth.gateway.as_deref(), store.as_deref())).await?;
        let bytes = fill(&mut rig, Filling { users, waiting }).await?;
        let single = self::users(&rig, traffic::USERS, 1).await?;
        let target = Arc::new(target(&rig)?);
        raw[format!("{users}_users_login_ms")] = number(median_login(&target, &single).await? * 1000.0);
        if let Some(bytes) = bytes {
            raw[format!("{users}_users_file_mb")] = number(bytes / 1e6);
        }
        let pid = rig.gateway.id().ok_or("the gateway ended")?;
        raw[format!("{users}_users_resident_kib")] = json!(resident_kib(pid)?);
        let mut crowd = Crowd::new();
        single.iter().for_each(|who| crowd.add(who.clone(), &target));
        crowd.all_online(single.len(), LIMIT).await?;
        Ok(Self { rig: Arc::new(rig), crowd, names: names(&single) })
    }

    async fn job(&self, receivers: usize, count: u32) -> Result<Job, String> {
        job(&self.rig, &self.crowd, &self.names, (receivers, 1), count).await
    }
}

async fn by_users(growth: &Growth) -> Result<(Value, Vec<Figure>, String), String> {
    let sizes = growth.sizes(&[1000, 10_000, 100_000, 1_000_000]);
    let most = sizes.iter().copied().max().unwrap_or(1).max(1);
    let bar = ProgressBar::new(sizes.len() as u64 + u64::from(growth.rounds));
    let (mut stages, mut raw) = (Vec::new(), json!({}));
    for &at in &sizes {
        step(&bar, "a database is filled");
        let waiting = u64::from(growth.waiting) * u64::from(at) / u64::from(most);
        let stage = Stage::new(growth, at, u32::try_from(waiting).map_err(|e| e.to_string())?, &mut raw).await?;
        // Caches, statements and connections are in place before the clock starts.
        stage.job(traffic::USERS, growth.count / 4).await?;
        stages.push((Size { at, one: Vec::new(), bulk: Vec::new() }, stage));
    }
    for _ in 0..growth.rounds {
        step(&bar, "each size in turn");
        for (size, stage) in &mut stages {
            size.one.push(stage.job(1, growth.count).await?);
            size.bulk.push(stage.job(traffic::USERS, growth.count).await?);
        }
    }
    bar.finish_and_clear();
    let (mut sizes, mut crowds) = (Vec::new(), Vec::new());
    for (size, Stage { crowd, rig, .. }) in stages {
        crowds.push((crowd, rig));
        sizes.push(size);
    }
    for (crowd, _) in crowds {
        crowd.leave().await;
    }
    let lines = [("one to one", true), ("64 a call", false)].map(|(name, one)| {
        let point = |size: &Size| {
            let jobs = if one { &size.one } else { &size.bulk };
            (f64::from(size.at), middle(jobs, |job| job.per_core_s))
        };
        Line { name: name.to_owned(), points: sizes.iter().map(point).collect() }
    });
    for size in &sizes {
        for (name, jobs) in [("one_to_one", &size.one), ("64_a_call", &size.bulk)] {
            raw[format!("{}_users_{name}_per_core_s", size.at)] = number(middle(jobs, |job| job.per_core_s));
            raw[format!("{}_users_{name}_written_bytes", size.at)] = number(middle(jobs, |job| job.written_bytes));
        }
    }
    let mut figures = Vec::new();
    if let [first, .., last] = &sizes[..] {
        for line in &lines {
            let (few, many) = (line.points[0].1, line.points[line.points.len() - 1].1);
            figures.push(Figure {
                name: format!(
                    "{}: processor a message, {} users to {} ({})",
                    line.name,
                    last.at,
                    first.at,
                    growth.on()
                ),
                value: few / many,
                goal: 1.25,
                unit: "",
            });
        }
    }
    let title = format!("Messages to connected devices beside users in the database ({})", growth.on());
    let y = "delivered and acknowledged a second of the gateway's processor";
    Ok((raw, figures, Chart { title: &title, x: "users", y, lines: &lines }.draw()))
}

async fn by_receivers(growth: &Growth) -> Result<(Value, Vec<Figure>, String), String> {
    let sizes = growth.sizes(&[1, 4, 16, 64, 256, 600]);
    let most = sizes.iter().copied().max().unwrap_or(1) as usize;
    let rig = Rig::start_on(true, CALL, (growth.gateway.as_deref(), growth.store.as_deref())).await?;
    let known = users(&rig, most, 1).await?;
    let target = Arc::new(target(&rig)?);
    let mut crowd = Crowd::new();
    known.iter().for_each(|who| crowd.add(who.clone(), &target));
    crowd.all_online(known.len(), LIMIT).await?;
    let (rig, names) = (Arc::new(rig), names(&known));
    let bar = ProgressBar::new(u64::from(growth.rounds));
    job(&rig, &crowd, &names, (1, 1), growth.count / 4).await?;
    let mut jobs: Vec<Vec<Job>> = sizes.iter().map(|_| Vec::new()).collect();
    for _ in 0..growth.rounds {
        step(&bar, "each size in turn");
        for (receivers, jobs) in sizes.iter().zip(&mut jobs) {
            jobs.push(job(&rig, &crowd, &names, (*receivers as usize, 1), growth.count).await?);
        }
    }
    bar.finish_and_clear();
    crowd.leave().await;
    let mut raw = json!({});
    let mut points = Vec::new();
    for (receivers, jobs) in sizes.iter().zip(&jobs) {
        let rate = middle(jobs, |job| job.per_core_s);
        raw[format!("{receivers}_a_call_per_core_s")] = number(rate);
        raw[format!("{receivers}_a_call_written_bytes")] = number(middle(jobs, |job| job.written_bytes));
        points.push((f64::from(*receivers), rate));
    }
    let lines = [Line { name: growth.on().to_owned(), points }];
    let y = "delivered and acknowledged a second of the gateway's processor";
    let title = "Messages to connected devices by receivers of a call";
    Ok((raw, Vec::new(), Chart { title, x: "receivers of a call", y, lines: &lines }.draw()))
}

async fn by_devices(growth: &Growth) -> Result<(Value, Vec<Figure>, String), String> {
    let possible = u32::try_from(most_connections()?).unwrap_or(u32::MAX);
    let mut sizes: Vec<u32> = growth.sizes(&[1000, 2500, 5000, 10_000, 20_000]);
    sizes.iter_mut().for_each(|size| *size = possible.min(*size));
    sizes.sort_unstable();
    sizes.dedup();
    let most = sizes.last().copied().unwrap_or_default() as usize;
    let rig = Rig::start_on(true, CALL, (growth.gateway.as_deref(), growth.store.as_deref())).await?;
    rig.ask("PUT", "rules", Some(json!({ "device_limit": 100 }))).await?;
    let bar = ProgressBar::new(2).with_message("users");
    let known = users(&rig, most.div_ceil(super::EACH), super::EACH).await?;
    let target = Arc::new(target(&rig)?);
    step(&bar, "devices are held");
    let pid = rig.gateway.id().ok_or("the gateway ended")?;
    let ours = held(&known, &target, pid, &sizes).await?;
    step(&bar, "the same by mosquitto");
    let theirs = match peer::start(rig.home.path()).await {
        Ok(mosquitto) => {
            let known: Vec<Who> =
                (0..most).map(|n| Who::Subscriber { client_id: format!("c{n}"), topic: format!("one/{n}") }).collect();
            Some(held(&known, &mosquitto.target, mosquitto.pid, &sizes).await?)
        }
        Err(why) => {
            eprintln!("no peer: {why}");
            None
        }
    };
    bar.finish_and_clear();
    let mut raw = json!({});
    let mut lines = vec![Line { name: "gateway".to_owned(), points: ours }];
    lines.extend(theirs.map(|points| Line { name: "mosquitto".to_owned(), points }));
    for Line { name, points } in &lines {
        for (devices, mib) in points {
            raw[format!("{name}_with_{devices}_mib")] = number(*mib);
        }
        if let [first, .., last] = &points[..] {
            let each = (last.1 - first.1) * 1024.0 / (last.0 - first.0);
            raw[format!("{name}_kib_each_from_{}_to_{}", first.0, last.0)] = number(each);
        }
    }
    let title = "Memory with connected, idle devices";
    Ok((raw, Vec::new(), Chart { title, x: "connected devices", y: "resident MiB", lines: &lines }.draw()))
}

/// Mebibytes that a process has with so many connections.
async fn held(known: &[Who], target: &Arc<super::Target>, pid: u32, sizes: &[u32]) -> Result<Vec<(f64, f64)>, String> {
    let (mut crowd, mut points) = (Crowd::new(), Vec::new());
    let mut added = 0;
    for &size in sizes {
        for who in &known[added..size as usize] {
            crowd.add(who.clone(), target);
        }
        added = size as usize;
        crowd.all_online(added, LIMIT).await?;
        sleep(Duration::from_secs(2)).await;
        points.push((f64::from(size), resident_kib(pid)? as f64 / 1024.0));
    }
    crowd.leave().await;
    Ok(points)
}
