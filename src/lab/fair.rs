//! How long one app's single messages take beside another app's call to very many, and alone in the same run.

use super::device::call_as;
use super::figure::{Figure, show};
use super::rig::Rig;
use crate::http::Http;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

const TIMEOUT: Duration = Duration::from_secs(60);
/// Single messages a second, whatever the answers.
const RATE: u32 = 100;
/// How long they are sent alone, and beside the calls.
const LONG: Duration = Duration::from_secs(10);
/// Receivers of one call, as many as the API takes.
const RECEIVERS: u32 = 600;
/// Calls under way at once: a call to 5,000 users.
const SIDE_BY_SIDE: u32 = 9;
/// Most messages before the clock starts.
const WARM: u32 = 6000;

/// Prints the figures; `true` if all goals are met.
///
/// # Errors
/// A sentence when a program cannot be started, or a message was refused.
pub(super) async fn measure(json: bool, count: u32, gateway: Option<PathBuf>) -> Result<bool, String> {
    let rig = Rig::start_with(true, TIMEOUT, gateway.as_deref()).await?;
    let (base, token) = rig.app("b").await?;
    let large = Arc::new(App { http: Http::new(None, TIMEOUT)?, base, token });
    let single = Arc::new(App { http: Http::new(None, TIMEOUT)?, base: rig.base.clone(), token: rig.token.clone() });
    // Caches, statements and connections are in place.
    call_many(&large, WARM.min(count)).await?;
    singles(&single, Duration::from_secs(1)).await?;

    let alone = singles(&single, LONG).await?;
    let started = Instant::now();
    let beside = tokio::spawn(async move { singles(&single, LONG).await });
    let mut calls = 0.0;
    // One takes too short a time to say what one message of a hundred waits.
    while !beside.is_finished() {
        call_many(&large, count).await?;
        calls += 1.0;
    }
    let rate = calls * f64::from(count) / started.elapsed().as_secs_f64();
    let beside = beside.await.map_err(|e| e.to_string())??;
    let figure = |share: f64, goal: f64| {
        let (alone, beside) = (at(&alone, share), at(&beside, share));
        let name = format!(
            "single messages' p{:.0} beside another app's calls to {count}, to alone ({beside:.1} ms, {alone:.1} ms)",
            share * 100.0
        );
        Figure { name, value: beside / alone, goal, unit: "" }
    };
    if !json {
        println!("     {} single messages beside {rate:.0} messages/s of the other app", beside.len());
    }
    show(&[figure(0.5, 2.0), figure(0.99, 2.0)], json)
}

/// An app, as its server calls the gateway.
struct App {
    http: Http,
    base: String,
    token: String,
}

impl App {
    async fn send(&self, to: &[String]) -> Result<(), String> {
        let body: Value = json!({ "to": to, "body": { "type": "txt", "msg": "hello" } });
        let url = format!("{}/messages/users", self.base);
        call_as(&self.http, "POST", &url, Some(&self.token), Some(body)).await.map(drop)
    }
}

/// Sends to one user after another at a fixed rate; the milliseconds from each one's sending to its answer, in their order. What
/// this program's own clock is late by is not among them.
async fn singles(app: &Arc<App>, time: Duration) -> Result<Vec<f64>, String> {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for n in 0_u32.. {
        sleep_until(started + Duration::from_secs(1) * n / RATE).await;
        if started.elapsed() >= time {
            break;
        }
        let app = app.clone();
        tasks.spawn(async move {
            let sent = Instant::now();
            app.send(&[format!("single-{}", n % 1000)]).await.map(|()| sent.elapsed().as_secs_f64() * 1000.0)
        });
    }
    let mut times = tasks.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn at(times: &[f64], share: f64) -> f64 {
    times.get((times.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or(f64::NAN)
}

/// One message to each of so many users, in calls side by side.
async fn call_many(app: &Arc<App>, count: u32) -> Result<(), String> {
    let mut tasks: JoinSet<Result<(), String>> = JoinSet::new();
    for first in (0..count).step_by(RECEIVERS as usize) {
        if tasks.len() >= SIDE_BY_SIDE as usize
            && let Some(done) = tasks.join_next().await
        {
            done.map_err(|e| e.to_string())??;
        }
        let app = app.clone();
        tasks.spawn(async move {
            let to: Vec<String> = (first..(first + RECEIVERS).min(count)).map(|n| format!("many-{n}")).collect();
            app.send(&to).await
        });
    }
    tasks.join_all().await.into_iter().collect()
}
