//! Messages to connected devices, stored, delivered and acknowledged: one to one, many in a call, one body to very many.

use super::client::Who;
use super::crowd::{Counts, Crowd};
use super::number;
use super::peer::Peer;
use crate::lab::figure::Figure;
use crate::lab::rig::Rig;
use crate::lab::usage::{named, processor_s, threads_s, written_bytes};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Users with one device each, to whom messages go one to one.
pub(super) const USERS: usize = 64;
/// Devices that get one body.
pub(super) const MANY: usize = 1000;
/// Messages whose calls are under way at once.
const CONCURRENCY: usize = 256;
/// Seconds of the open loop.
const OPEN_S: f64 = 10.0;
/// The gateway's threads that only work on the store.
const STORE: [&str; 2] = ["store", "checkpoint"];

/// What one job came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    per_s: f64,
    pub per_core_s: f64,
    /// Microseconds of the gateway's processor a message, beside the store's thread.
    outside_store_us: f64,
    core_share: f64,
    load_share: f64,
    /// Of the store, a message.
    statements: f64,
    transactions: f64,
    /// By the gateway and by PostgreSQL's processes, a message; of all PostgreSQL's on this machine.
    pub written_bytes: f64,
    database_us: f64,
}

/// What all jobs came to.
#[derive(Debug)]
pub(super) struct Traffic {
    one: Job,
    bulk: Job,
    many: Job,
    half_p99_ms: f64,
    /// Every number, for people.
    pub raw: Value,
}

impl Traffic {
    /// # Errors
    /// A sentence when a message was refused, or not acknowledged.
    pub async fn measure(
        rig: &Arc<Rig>,
        crowd: &Crowd,
        (single, known): (&[Who], &[Who]),
        count: u32,
    ) -> Result<Self, String> {
        let singles = names(single);
        let many = &known[..MANY.min(known.len())];
        let crowded = names(many);
        // Caches, statements and connections are in place before the clock starts.
        job(rig, crowd, &singles, (1, 1), count / 10).await?;
        crowd.counts.times_ms();
        let one = job(rig, crowd, &singles, (1, 1), count).await?;
        let bulk = job(rig, crowd, &singles, (singles.len(), 1), count).await?;
        let each = many.len() / crowded.len().max(1);
        let copies = count.max(many.len() as u32 * 10);
        let many = job(rig, crowd, &crowded, (crowded.len(), each), copies).await?;
        crowd.counts.times_ms();
        let rate = one.per_s / 2.0;
        let sent = (rate * OPEN_S) as u32;
        let before = crowd.counts.received.load(Ordering::Relaxed);
        flood(rig, &crowd.counts, &singles, (sent, 1), Some(rate)).await?;
        received(crowd, before + u64::from(sent)).await?;
        let times = crowd.counts.times_ms();
        let at = |share: f64| {
            times.get((times.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or(f64::NAN)
        };
        let words = crowd.counts.words.load(Ordering::Relaxed) as f64;
        let mut raw = json!({
            "half_rate_p50_ms": number(at(0.5)), "half_rate_p99_ms": number(at(0.99)),
            "acks_a_word": number(crowd.counts.acked.load(Ordering::Relaxed) as f64 / words),
        });
        for (name, job) in [("one_to_one", one), ("64_a_call", bulk), ("one_body_to_many", many)] {
            raw[format!("{name}_per_s")] = number(job.per_s);
            raw[format!("{name}_per_core_s")] = number(job.per_core_s);
            raw[format!("{name}_outside_store_us")] = number(job.outside_store_us);
            raw[format!("{name}_gateway_core_share")] = number(job.core_share);
            raw[format!("{name}_load_core_share")] = number(job.load_share);
            raw[format!("{name}_statements")] = number(job.statements);
            raw[format!("{name}_transactions")] = number(job.transactions);
            raw[format!("{name}_written_bytes")] = number(job.written_bytes);
            raw[format!("{name}_database_us")] = number(job.database_us);
        }
        Ok(Self { one, bulk, many, half_p99_ms: at(0.99), raw })
    }
}

/// The users of these devices, each once.
pub(super) fn names(all: &[Who]) -> Vec<String> {
    let mut names: Vec<String> = all
        .iter()
        .filter_map(|who| match who {
            Who::Device { address, .. } => Some(address.user.to_string()),
            Who::Subscriber { .. } => None,
        })
        .collect();
    names.dedup();
    names
}

/// What the store's part of it came to, over that database.
pub(super) fn stored_figures(ours: &Traffic, on: &str, is_shared: bool) -> Vec<Figure> {
    let job = ours.bulk;
    let figure = |what: &str, value, goal, unit| Figure { name: format!("{on}: {what}"), value, goal, unit };
    let mut figures = vec![figure("bytes written a message, 64 a call", job.written_bytes, 4096.0, "B")];
    let rate = if is_shared { 5000.0 } else { 12_000.0 };
    let name = format!("gateway's processor a message, 64 a call ({:.0} a core-second)", job.per_core_s);
    figures.push(figure(&name, 1e6 / job.per_core_s, 1e6 / rate, "µs"));
    if is_shared {
        figures.push(figure("database's processor a message, 64 a call", job.database_us, 150.0, "µs"));
        figures.push(figure("round trips a message, 64 a call", job.statements, 2.0, ""));
    }
    figures
}

/// Beside the peer's, where it could be measured.
pub(super) fn figures(ours: &Traffic, theirs: Option<&Peer>) -> Vec<Figure> {
    let mut figures = vec![
        Figure {
            name: "a message outside the store, one to one".into(),
            value: ours.one.outside_store_us,
            goal: 60.0,
            unit: "µs",
        },
        Figure {
            name: format!("a delivered message, 64 receivers a call ({:.0} a core-second)", ours.bulk.per_core_s),
            value: 1e6 / ours.bulk.per_core_s,
            goal: 1e6 / 12_000.0,
            unit: "µs",
        },
        Figure { name: "p99 at half the rate, open loop".into(), value: ours.half_p99_ms, goal: 50.0, unit: "ms" },
    ];
    if let Some(peer) = theirs {
        let ratio = |what: &str, theirs: f64, ours: f64, goal: f64| Figure {
            name: format!("{what}: mosquitto ({theirs:.0} a core-second) to the gateway ({ours:.0})"),
            value: theirs / ours,
            goal,
            unit: "",
        };
        figures.push(ratio("one to one", peer.one_per_core_s, ours.one.per_core_s, 2.0));
        figures.push(ratio("one body to many", peer.many_per_core_s, ours.many.per_core_s, 5.0));
    }
    figures
}

/// Messages until every one is delivered, and its acknowledgement is stored.
///
/// # Errors
/// A sentence when a message was refused, or not acknowledged.
pub(super) async fn job(
    rig: &Arc<Rig>,
    crowd: &Crowd,
    users: &[String],
    (receivers, each): (usize, usize),
    copies: u32,
) -> Result<Job, String> {
    let pid = rig.gateway.id().ok_or("the gateway ended")?;
    let used = || -> Result<[f64; 3], String> {
        Ok([processor_s(pid)?, threads_s(pid, |name| STORE.contains(&name))?, processor_s(std::process::id())?])
    };
    let calls = (copies / u32::try_from(receivers * each).map_err(|e| e.to_string())?).max(1);
    let copies = u64::from(calls) * (receivers * each) as u64;
    let counts = &crowd.counts;
    let before = counts.received.load(Ordering::Relaxed);
    let stored = Stored::now(rig, pid).await;
    let (started, busy) = (Instant::now(), used()?);
    flood(rig, counts, users, (calls, receivers), None).await?;
    received(crowd, before + copies).await?;
    let (seconds, now) = (started.elapsed().as_secs_f64(), used()?);
    let [gateway, store, load] = [0, 1, 2].map(|at| now[at] - busy[at]);
    let copies = copies as f64;
    let stored = Stored::now(rig, pid).await.since(&stored);
    let [statements, transactions, written_bytes, database_s] = stored.map(|count| count / copies);
    Ok(Job {
        per_s: copies / seconds,
        per_core_s: copies / gateway,
        outside_store_us: (gateway - store) / copies * 1e6,
        core_share: gateway / seconds,
        load_share: load / seconds,
        statements,
        transactions,
        written_bytes,
        database_us: database_s * 1e6,
    })
}

/// What the store has done so far: its statements and transactions, and of each process that works for it the bytes
/// written and the seconds of processor time.
struct Stored {
    statements: f64,
    transactions: f64,
    gateway_bytes: f64,
    database: HashMap<u32, (f64, f64)>,
}

impl Stored {
    /// What this build or this user is not told is no number.
    async fn now(rig: &Rig, gateway: u32) -> Self {
        let of =
            |process: &u32| (written_bytes(*process).unwrap_or(f64::NAN), processor_s(*process).unwrap_or(f64::NAN));
        Self {
            statements: rig.counter("store_statements").await.unwrap_or(f64::NAN),
            transactions: rig.counter("store_transactions").await.unwrap_or(f64::NAN),
            gateway_bytes: written_bytes(gateway).unwrap_or(f64::NAN),
            database: named("postgres").into_iter().map(|process| (process, of(&process))).collect(),
        }
    }

    /// Statements, transactions, bytes and seconds of PostgreSQL since then; of its processes that were there then and
    /// are there now.
    fn since(&self, then: &Self) -> [f64; 4] {
        let both = self.database.iter().filter_map(|(process, now)| Some((now, then.database.get(process)?)));
        let (bytes, seconds) =
            both.fold((0.0, 0.0), |(bytes, seconds), (now, then)| (bytes + now.0 - then.0, seconds + now.1 - then.1));
        [
            self.statements - then.statements,
            self.transactions - then.transactions,
            self.gateway_bytes - then.gateway_bytes + bytes,
            seconds,
        ]
    }
}

/// All were received and acknowledged, and the gateway has stored that.
async fn received(crowd: &Crowd, wanted: u64) -> Result<(), String> {
    crowd.until("messages received", wanted, |counts| counts.received.load(Ordering::Relaxed)).await?;
    let words = crowd.counts.words.load(Ordering::Relaxed);
    crowd.until("acknowledgements stored", words, |counts| counts.answered.load(Ordering::Relaxed)).await
}

/// Makes calls as fast as they are taken, or at a rate whatever the answers.
async fn flood(
    rig: &Arc<Rig>,
    counts: &Arc<Counts>,
    users: &[String],
    (calls, receivers): (u32, usize),
    per_second: Option<f64>,
) -> Result<(), String> {
    let slots = Arc::new(Semaphore::new(if per_second.is_some() { 4096 } else { (CONCURRENCY / receivers).max(1) }));
    let started = Instant::now();
    let mut tasks: JoinSet<Result<Value, String>> = JoinSet::new();
    for n in 0..calls {
        if let Some(rate) = per_second {
            tokio::time::sleep_until(started + Duration::from_secs_f64(f64::from(n) / rate)).await;
        }
        let permit = slots.clone().acquire_owned().await.map_err(|e| e.to_string())?;
        // Every user is a receiver as often as any other, however many a call has.
        let to: Vec<&String> = (0..receivers).map(|at| &users[(n as usize * receivers + at) % users.len()]).collect();
        let body = json!({ "to": to, "body": { "type": "txt", "msg": n.to_string(), "at_us": counts.now_us() } });
        let rig = rig.clone();
        tasks.spawn(async move {
            let answer = rig.ask("POST", "messages/users", Some(body)).await;
            drop(permit);
            answer
        });
        while let Some(done) = tasks.try_join_next() {
            done.map_err(|e| e.to_string())??;
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|e| e.to_string())??;
    }
    Ok(())
}
