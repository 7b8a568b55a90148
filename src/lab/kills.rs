//! A gateway that is killed again and again under load: what was accepted must arrive, and be shown once.

use super::account::{Account, vendors_section};
use super::device::{call, call_as};
use super::process::{Process, sibling};
use crate::http::Http;
use crate::vendor::Vendor;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const START: Duration = Duration::from_secs(15);
const CALL: Duration = Duration::from_secs(5);
/// App servers that send side by side.
const SENDERS: u64 = 8;
/// What is still on its way may take so long after the last kill.
const SETTLE: Duration = Duration::from_secs(120);

/// What became of the messages.
pub(super) struct Kills {
    pub accepted: u64,
    /// Accepted and never shown.
    pub lost: u64,
    /// Shown a second time beside the first.
    pub twice: u64,
    /// Repeats that took the place of the first, which nobody sees.
    pub replaced: u64,
}

struct Place {
    home: PathBuf,
    config: PathBuf,
    http: Http,
    base: String,
}

impl Place {
    async fn start(&self) -> Result<Process, String> {
        let arguments = ["--config", self.config.to_str().unwrap_or_default(), "serve", "--announce"];
        let mut gateway = Process::start("gateway", &sibling("impush-gateway")?, &arguments, &self.home)?;
        gateway.next(START).await?;
        Ok(gateway)
    }

    /// Again until the gateway is there and has answered.
    async fn until_answered(&self, path: &str, token: Option<&str>, body: &Value, key: &str) -> Result<Value, String> {
        let bearer = token.map(|token| format!("Bearer {token}")).unwrap_or_default();
        let headers =
            [("content-type", "application/json"), ("authorization", bearer.as_str()), ("idempotency-key", key)];
        let deadline = Instant::now() + SETTLE;
        loop {
            let url = format!("{}/{path}", self.base);
            match self.http.call("POST", &url, &headers, body.to_string().into_bytes()).await {
                Ok((status, answer)) if status.is_success() => {
                    return serde_json::from_slice(&answer).map_err(|e| e.to_string());
                }
                Ok((status, answer)) if !status.is_server_error() => {
                    return Err(format!("{path}: {status} {}", String::from_utf8_lossy(&answer)));
                }
                _ if Instant::now() > deadline => return Err(format!("{path}: no answer")),
                _ => sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

/// Kills a gateway so many times while messages are sent to a device that is offline.
///
/// # Errors
/// A sentence when a program cannot be started, or the gateway refuses a message.
pub(super) async fn measure(kills: u32, seed: u64) -> Result<Kills, String> {
    let home = tempfile::tempdir().map_err(|e| e.to_string())?;
    let ca = home.path().join("clouds.pem");
    let arguments = ["clouds", "--listen", "127.0.0.1:0", "--ca-file", ca.to_str().unwrap_or_default()];
    let mut clouds = Process::start("clouds", &sibling("impush-lab")?, &arguments, home.path())?;
    let url = clouds.next(START).await?["clouds"].as_str().unwrap_or_default().to_owned();
    // The API keeps its address over restarts; nobody else takes it meanwhile.
    let api = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| e.to_string())?;
    let config = home.path().join("gateway.toml");
    let text = format!(
        "[api]\nlisten = '{api}'\nrequests_per_s = 100000\n[broker]\nlisten = '127.0.0.1:0'\n{}[paths]\nstate = '{}'\n[log]\nlevel = 'warn,mqtt5=error'\n",
        vendors_section(&url, &ca),
        home.path().join("state").display()
    );
    std::fs::write(&config, text).map_err(|e| e.to_string())?;
    let http = Http::new(Some(&ca), CALL)?;
    let place = Arc::new(Place { home: home.path().to_owned(), config, http, base: format!("http://{api}/o/a") });
    let mut gateway = place.start().await?;
    let secret = std::fs::read_to_string(home.path().join("state/admin.secret")).map_err(|e| e.to_string())?;
    let grant = json!({ "grant_type": "client_credentials", "client_id": "admin", "client_secret": secret });
    let token = place.until_answered("token", None, &grant, "t").await?;
    let token = token["access_token"].as_str().unwrap_or_default().to_owned();
    let device = prepare(&place, &url, &token).await?;

    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let (place, token, stop, sent) = (place.clone(), token.clone(), stop.clone(), sent.clone());
        senders.spawn(async move {
            let mut ids = Vec::new();
            for n in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let body = json!({ "to": ["ann"], "type": "txt", "body": { "msg": format!("{sender}-{n}") } });
                let key = format!("{sender}-{n}");
                let answer = place.until_answered("messages/users", Some(&token), &body, &key).await?;
                ids.push(answer["data"]["ann"].as_str().unwrap_or_default().to_owned());
                sent.fetch_add(1, Ordering::Relaxed);
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
        gateway.kill().await?;
        gateway = place.start().await?;
        bar.inc(1);
    }
    stop.store(true, Ordering::Relaxed);
    let mut ids = Vec::new();
    while let Some(done) = senders.join_next().await {
        ids.extend(done.map_err(|e| e.to_string())??);
    }
    bar.finish_and_clear();
    let tray = format!(
        "{url}/_lab/tray?{}",
        serde_urlencoded::to_string([("vendor", "xiaomi"), ("token", &device)]).map_err(|e| e.to_string())?
    );
    let deadline = Instant::now() + SETTLE;
    let mut shown = Vec::new();
    loop {
        let after = shown.last().and_then(|last: &Value| last["number"].as_u64()).unwrap_or(0);
        let more = call(&place.http, "GET", &format!("{tray}&after={after}"), None).await?;
        let more = more.as_array().cloned().unwrap_or_default();
        if !more.is_empty() {
            shown.extend(more);
            continue;
        }
        let counted = count(&ids, &shown);
        if counted.lost == 0 || Instant::now() > deadline {
            return Ok(counted);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// An app at Xiaomi, a user, and an offline device bound to a token, which is returned.
async fn prepare(place: &Place, clouds: &str, token: &str) -> Result<String, String> {
    let Account { certificate, app_id, fields, mut registration, .. } = Account::new(Vendor::Xiaomi)?;
    registration["daily_quota"] = json!(u64::from(u32::MAX));
    call(&place.http, "POST", &format!("{clouds}/_lab/apps"), Some(registration)).await?;
    let install = json!({ "vendor": "xiaomi", "id": app_id, "device": "d" });
    let device = call(&place.http, "POST", &format!("{clouds}/_lab/installs"), Some(install)).await?;
    let device = device["token"].as_str().unwrap_or_default().to_owned();
    let ask = async |method: &str, path: &str, body: Value| {
        call_as(&place.http, method, &format!("{}/{path}", place.base), Some(token), Some(body)).await
    };
    ask("POST", "users", json!({ "username": "ann", "password": "a password" })).await?;
    ask("POST", "certificates", json!({ "vendor": "xiaomi", "name": certificate, "fields": fields })).await?;
    let binding = json!({ "device_id": "d", "device_token": device, "notifier_name": certificate });
    ask("PUT", "users/ann/push/binding", binding).await?;
    Ok(device)
}

fn count(ids: &[String], shown: &[Value]) -> Kills {
    let (mut first, mut again): (HashMap<String, u64>, u64) = (HashMap::new(), 0);
    for notification in shown {
        let payload: Value =
            serde_json::from_str(notification["payload"].as_str().unwrap_or_default()).unwrap_or_default();
        let id = payload["m"].as_str().unwrap_or_default().to_owned();
        if notification["replaced"] == true {
            again += 1;
        } else {
            *first.entry(id).or_default() += 1;
        }
    }
    let lost = ids.iter().filter(|id| !first.contains_key(*id)).count() as u64;
    let twice = first.values().map(|times| times - 1).sum();
    Kills { accepted: ids.len() as u64, lost, twice, replaced: again }
}
