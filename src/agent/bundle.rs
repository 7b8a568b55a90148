//! `impush support-bundle`: one text file with what a person far away needs to help, and no secret in it.

use super::config::Config;
use super::control::Client;
use super::doctor;
use super::manager::Init;
use crate::secret::Secret;
use crate::untrusted::escaped_lines;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(20);

/// The whole text.
pub async fn collect(config: &Config, client: &Client) -> String {
    let mut out = String::new();
    let mut section = |title: &str, text: &str| {
        let _ = writeln!(out, "===== {title} =====\n{}\n", text.trim_end());
    };
    section("version", concat!("impush ", env!("CARGO_PKG_VERSION")));
    section("kernel", &std::fs::read_to_string("/proc/version").unwrap_or_default());
    let detected = crate::device::detect(config.device.root.as_deref());
    section("init system", &format!("{:?}", Init::here()));
    section("device", &as_text(detected.map_err(|e| e.to_string())));
    section("configuration", &as_text(Ok::<_, String>(without_secrets(config.clone()))));
    let status = client.call("GET", "/v1/status", None).await;
    section("status", &as_text(status.map_err(|e| e.to_string())));
    let metrics = client.text("/v1/metrics").await;
    section("metrics", &metrics.unwrap_or_else(|e| e.to_string()));
    section("doctor", &as_text(Ok::<_, String>(doctor::examine(config, client).await)));
    section("journal", &journal().await);
    escaped_lines(&out).into_owned()
}

/// Every value of the configuration that proves anything is replaced by its fingerprint.
pub fn without_secrets(mut config: Config) -> Config {
    config.server.proxy = config.server.proxy.map(|proxy| Secret::new(format!("(set, {proxy})")));
    config
}

fn as_text<T: serde::Serialize>(value: Result<T, String>) -> String {
    match value {
        Ok(value) => serde_json::to_string_pretty(&value).unwrap_or_else(|e| e.to_string()),
        Err(why) => why,
    }
}

/// The log never holds a secret, so it goes in as it is.
async fn journal() -> String {
    let init = Init::here();
    let Some((program, arguments)) = init.log_command() else { return format!("not collected; {}", init.log()) };
    match tokio::time::timeout(LIMIT, Command::new(program).args(arguments).kill_on_drop(true).output()).await {
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(Err(error)) => format!("no journal: {program}: {error}"),
        Err(_) => format!("no journal: {program} did not end"),
    }
}
