//! How much a real agent's memory grows over many reconnections to a real gateway over TLS.

use super::process::{Process, sibling};
use super::rig::Rig;
use super::socket;
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
    let rig = Rig::start(false, START).await?;
    let path = |name: &str| rig.home.path().join(name);
    let said = |key: &str| rig.reach[key].as_str().unwrap_or_default().to_owned();
    let password = device_password(&rig).await?;

    let (port, socket) = (said("broker").rsplit(':').next().unwrap_or_default().to_owned(), path("s"));
    let text = format!(
        "[server]\nurl = 'mqtts://localhost:{port}'\napp = 'o#a'\nca_file = '{}'\n[paths]\nstate = '{}'\nsocket = '{}'\n[log]\nlevel = 'error'\n",
        said("ca_file"),
        path("agent-state").display(),
        socket.display()
    );
    let config = path("impush.toml");
    std::fs::write(&config, text).map_err(|e| format!("{}: {e}", config.display()))?;
    let agent = Process::start(
        "agent",
        &sibling("impush")?,
        &["--config", config.to_str().unwrap_or_default(), "run"],
        rig.home.path(),
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

async fn device_password(rig: &Rig) -> Result<String, String> {
    rig.ask("POST", "users", Some(json!({ "username": "ann", "password": "a password" }))).await?;
    let grant = json!({ "grant_type": "password", "username": "ann", "password": "a password" });
    let token = rig.ask("POST", "token", Some(grant)).await?;
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
