//! `impush doctor`: what could keep this device from being reached, asked in the order in which it would
//! fail, each with what to do about it.
//!
//! It runs beside the agent and changes nothing: what the agent knows it asks at the control socket, the
//! rest it tries itself, over the same code the agent uses.

mod agent;
mod network;

use super::config::Config;
use super::control::Client;
use crate::mqtt::client_config;
use crate::session::Status;
use serde::Serialize;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    /// It works, and will not for ever.
    Warning,
    Failed,
    /// Something before it failed, or it cannot be seen from here.
    Skipped,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub outcome: Outcome,
    pub found: String,
    /// What to do; empty when there is nothing to do.
    pub advice: String,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Ok, found: found.into(), advice: String::new() }
    }

    fn warning(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Warning, found: found.into(), advice: advice.into() }
    }

    fn failed(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Failed, found: found.into(), advice: advice.into() }
    }

    fn skipped(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Skipped, found: found.into(), advice: String::new() }
    }
}

/// Every check, in order.
pub async fn examine(config: &Config, client: &Client) -> Vec<Check> {
    let mut checks = Vec::new();
    let ready = match config.check() {
        Ok(ready) => {
            checks.push(Check::ok("configuration", "good"));
            Some(ready)
        }
        Err(error) => {
            checks.push(Check::failed(
                "configuration",
                error.to_string(),
                "correct it; `impush config check` says when it is good",
            ));
            None
        }
    };
    checks.push(agent::clock(super::clock::wall_ms()));
    match &ready {
        Some(ready) => {
            let identity = config.server.client_certificate.as_deref().zip(config.server.client_key.as_deref());
            match client_config(config.server.ca_file.as_deref(), identity) {
                Ok(tls) => checks.extend(network::examine(ready, &tls).await),
                Err(error) => checks.push(Check::failed(
                    "tls",
                    error.to_string(),
                    "correct server.ca_file, client_certificate and client_key",
                )),
            }
        }
        None => checks.push(Check::skipped("network", "the server is not known")),
    }
    let status = client.call("GET", "/v1/status", None).await;
    let status = status.and_then(|json| {
        serde_json::from_value::<Status>(json).map_err(|e| super::control::ClientError::Broken(e.to_string()))
    });
    match &status {
        Ok(status) => checks.extend(agent::examine(status, super::clock::wall_ms())),
        Err(error) => {
            checks.push(Check::failed("agent", error.to_string(), "systemctl start impush; then journalctl -u impush"))
        }
    }
    checks.extend(agent::disk(config, status.as_ref().ok()));
    checks
}
