//! A gateway that is killed again and again under load: what was accepted must arrive, and be shown once.

use super::account::ANY;
use super::rig::Rig;
use crate::http::Http;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const CALL: Duration = Duration::from_secs(5);
const USER: &str = "ann";
/// App servers that send side by side.
const SENDERS: u64 = 8;
/// What is still on its way may take so long after the last kill.
const SETTLE: Duration = Duration::from_secs(120);

/// What became of the messages.
pub(super) struct Kills {
    pub accepted: u64,
    /// Accepted and never shown.
    pub lost: Vec<String>,
    /// Shown a second time beside the first.
    pub twice: u64,
    /// Repeats that took the place of the first, which nobody sees.
    pub replaced: u64,
}

/// Sends one message; again until the gateway is there and has answered.
pub(super) async fn send(http: &Http, base: &str, token: &str, to: &str, text: &str) -> Result<String, String> {
    let bearer = format!("Bearer {token}");
    // The same key for every try: a message whose answer was lost is not a second one.
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str()), ("idempotency-key", text)];
    let body = json!({ "to": [to], "type": "txt", "body": { "msg": text } }).to_string();
    let deadline = Instant::now() + SETTLE;
    loop {
        match http.call("POST", &format!("{base}/messages/users"), &headers, body.clone().into_bytes()).await {
            Ok((status, answer)) if status.is_success() => {
                let answer: Value = serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
                return Ok(answer["data"][to].as_str().unwrap_or_default().to_owned());
            }
            Ok((status, answer)) if !status.is_server_error() => {
                return Err(format!("{status} {}", String::from_utf8_lossy(&answer)));
            }
            _ if Instant::now() > deadline => return Err("the gateway did not come back".to_owned()),
            _ => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Kills a gateway so many times while messages are sent to a device that is offline.
///
/// # Errors
/// A sentence when a program cannot be started, or the gateway refuses a message.
pub(super) async fn measure(kills: u32, seed: u64) -> Result<Kills, String> {
    let mut rig = Rig::start(false, CALL).await?;
    let account = crate::lab::cloud::account(ANY)?;
    rig.register(&account).await?;
    let device = rig.bound_users(&account, &[USER.to_owned()]).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let (http, base, token, stop) = (rig.http.clone(), rig.base.clone(), rig.token.clone(), stop.clone());
        senders.spawn(async move {
            let mut ids = Vec::new();
            for n in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                ids.push(send(&http, &base, &token, USER, &format!("{sender}-{n}")).await?);
            }
            Ok::<_, String>(ids)
        });
    }
    let bar = ProgressBar::new(u64::from(kills));
    let mut random = seed;
    for _ in 0..kills {
        // From at once to a quarter of a second after it is up: at any point of its work.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        sleep(Duration::from_millis((random >> 33) % 250)).await;
        rig.kill_and_restart().await?;
        bar.inc(1);
    }
    stop.store(true, Ordering::Relaxed);
    let mut ids = Vec::new();
    while let Some(done) = senders.join_next().await {
        ids.extend(done.map_err(|e| e.to_string())??);
    }
    bar.finish_and_clear();
    let tray =
        serde_urlencoded::to_string([("vendor", ANY.as_str()), ("token", &device)]).map_err(|e| e.to_string())?;
    settled(&ids, SETTLE, async |after| rig.lab("GET", &format!("tray?{tray}&after={after}"), None).await).await
}

/// Reads a tray until everything accepted was shown, or the time is over.
///
/// # Errors
/// The tray's.
pub(super) async fn settled(
    ids: &[String],
    limit: Duration,
    tray: impl AsyncFn(u64) -> Result<Value, String>,
) -> Result<Kills, String> {
    let deadline = Instant::now() + limit;
    let mut shown = Vec::new();
    loop {
        let after = shown.last().and_then(|last: &Value| last["number"].as_u64()).unwrap_or(0);
        let more = tray(after).await?.as_array().cloned().unwrap_or_default();
        if !more.is_empty() {
            shown.extend(more);
            continue;
        }
        let counted = count(ids, &shown);
        if counted.lost.is_empty() || Instant::now() > deadline {
            return Ok(counted);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Of which message a notification in a tray is.
pub(super) fn message_of(notification: &Value) -> String {
    let payload: Value = serde_json::from_str(notification["payload"].as_str().unwrap_or_default()).unwrap_or_default();
    payload["m"].as_str().unwrap_or_default().to_owned()
}

fn count(ids: &[String], shown: &[Value]) -> Kills {
    let (mut first, mut again): (HashMap<String, u64>, u64) = (HashMap::new(), 0);
    for notification in shown {
        let id = message_of(notification);
        if notification["replaced"] == true {
            again += 1;
        } else {
            *first.entry(id).or_default() += 1;
        }
    }
    let lost = ids.iter().filter(|id| !first.contains_key(*id)).cloned().collect();
    let twice = first.values().map(|times| times - 1).sum();
    Kills { accepted: ids.len() as u64, lost, twice, replaced: again }
}
