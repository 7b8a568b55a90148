//! How much a real agent's memory grows over many reconnections to a real gateway over TLS.

use super::device::{call, call_as};
use super::process::{Process, sibling};
use super::socket;
use crate::http::Http;
use indicatif::ProgressBar;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// Starting a process on a busy machine.
const START: Duration = Duration::from_secs(15);
/// Reconnections before the memory is first read.
const WARM_UP: u32 = 100;

/// Kibibytes of resident memory gained over so many reconnections, after a first hundred have filled
/// the caches.
///
/// # Errors
/// A sentence when a program cannot be started or does not answer.
pub(super) async fn measure(reconnects: u32) -> Result<f64, String> {
    let home = tempfile::tempdir().map_err(|e| e.to_string())?;
    let path = |name: &str| home.path().join(name);
    let write = |name: &str, text: String| std::fs::write(path(name), text).map_err(|e| format!("{name}: {e}"));
    let quiet = "[log]\nlevel = 'error'\n";
    let state = path("gateway-state");
    write(
        "gateway.toml",
        format!(
            "[api]\nlisten = '127.0.0.1:0'\n[broker]\nlisten = '127.0.0.1:0'\n[paths]\nstate = '{}'\n{quiet}",
            state.display()
        ),
    )?;
    let config = path("gateway.toml");
    let arguments = ["--config", config.to_str().unwrap_or_default(), "serve", "--announce"];
    let mut gateway = Process::start("gateway", &sibling("impush-gateway")?, &arguments, home.path())?;
    let reach = gateway.next(START).await?;
    let said = |key: &str| reach[key].as_str().unwrap_or_default().to_owned();
    let password = device_password(&said("api"), &said("ca_file"), &said("admin_secret_file")).await?;

    let (port, socket) = (said("broker").rsplit(':').next().unwrap_or_default().to_owned(), path("s"));
    write(
        "impush.toml",
        format!(
            "[server]\nurl = 'mqtts://localhost:{port}'\napp = 'o#a'\nca_file = '{}'\n[paths]\nstate = '{}'\nsocket = '{}'\n{quiet}",
            said("ca_file"),
            path("agent-state").display(),
            socket.display()
        ),
    )?;
    let config = path("impush.toml");
    let agent = Process::start(
        "agent",
        &sibling("impush")?,
        &["--config", config.to_str().unwrap_or_default(), "run"],
        home.path(),
    )?;
    let id = agent.id().ok_or("the agent ended")?;
    let deadline = tokio::time::Instant::now() + START;
    while !socket.exists() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let login = json!({ "user": "ann", "password": password });
    socket::call(&socket, "POST", "/v1/login", Some(&login)).await?;
    let bar = ProgressBar::new(u64::from(reconnects + WARM_UP));
    let mut start = 0;
    for round in 0..reconnects + WARM_UP {
        online(&socket).await?;
        if round == WARM_UP {
            start = resident_kib(id)?;
        }
        socket::call(&socket, "POST", "/v1/reconnect", None).await?;
        bar.inc(1);
    }
    online(&socket).await?;
    bar.finish_and_clear();
    Ok(resident_kib(id)? as f64 - start as f64)
}

async fn device_password(api: &str, ca_file: &str, secret_file: &str) -> Result<String, String> {
    let http = Http::new(Some(Path::new(ca_file)), START)?;
    let secret = std::fs::read_to_string(secret_file).map_err(|e| format!("{secret_file}: {e}"))?;
    let base = format!("{api}/o/a");
    let grant = json!({ "grant_type": "client_credentials", "client_id": "admin", "client_secret": secret });
    let admin = call(&http, "POST", &format!("{base}/token"), Some(grant)).await?;
    let user = json!({ "username": "ann", "password": "a password" });
    call_as(&http, "POST", &format!("{base}/users"), admin["access_token"].as_str(), Some(user)).await?;
    let grant = json!({ "grant_type": "password", "username": "ann", "password": "a password" });
    let token = call(&http, "POST", &format!("{base}/token"), Some(grant)).await?;
    Ok(token["access_token"].as_str().unwrap_or_default().to_owned())
}

async fn online(socket: &Path) -> Result<(), String> {
    loop {
        let status = socket::call(socket, "GET", "/v1/status", None).await?;
        match status["state"].as_str() {
            Some("online") => return Ok(()),
            Some("connecting") => tokio::time::sleep(Duration::from_millis(1)).await,
            _ => return Err(format!("the agent is {status}")),
        }
    }
}

pub(super) fn resident_kib(process: u32) -> Result<u64, String> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).map_err(|e| e.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    line.split_whitespace().next().and_then(|n| n.parse().ok()).ok_or_else(|| format!("VmRSS {line}"))
}
