//! `impush doctor`: what could keep this device from being reached, asked in the order in which it would
//! fail, each with what to do about it.
//!
//! It runs beside the agent and changes nothing: what the agent knows and uses it asks at the control socket, the
//! rest it tries itself, over the same code the agent uses. Where the two differ, it says so.

mod agent;
mod network;
mod running;
mod ways;

use super::clock;
use super::config::Config;
use super::control::{Client, ClientError};
use super::manager;
use crate::mqtt::{TimeFloor, credentials};
use crate::session::Status;
use serde::Serialize;
use std::sync::Arc;

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
    // First of all: what it uses is what counts, and the files may say something else by now.
    let status = client.call("GET", "/v1/status", None).await;
    let status =
        status.and_then(|json| serde_json::from_value::<Status>(json).map_err(|e| ClientError::Broken(e.to_string())));
    let agent = status.as_ref().ok();
    let now_ms = clock::wall_ms();
    let judged_by_ms = agent.and_then(|status| status.judged_by_ms).unwrap_or(0).max(clock::BUILT_MS);
    let floor = Arc::new(TimeFloor::new(judged_by_ms));
    let identity = config.server.client_certificate.as_deref().zip(config.server.client_key.as_deref());
    let credentials = credentials(&config.server.authorities(), identity, floor.clone());
    let ready = config.check();
    match &ready {
        Ok(ready) => {
            checks.push(Check::ok("configuration", "good"));
            checks
                .extend(agent.iter().flat_map(|status| running::differences(ready, credentials.as_ref().ok(), status)));
        }
        Err(_) if config.awaits_enrolment() => {
            checks.push(Check::skipped("configuration", "it says no server, nor has an enrolment yet"));
        }
        Err(error) => checks.push(Check::failed(
            "configuration",
            error.to_string(),
            "correct it; `impush config check` says when it is good",
        )),
    }
    checks.push(agent::clock(now_ms, now_ms.max(judged_by_ms)));
    match (&ready, &credentials) {
        (Ok(ready), Ok(credentials)) => {
            let sign_in = agent.is_some_and(|status| status.sign_in);
            let names = &config.names(ready);
            checks.extend(network::Way { ready, names, tls: &credentials.config, floor, sign_in }.examine().await);
        }
        (Ok(_), Err(error)) => {
            let goes_on = agent.and_then(|status| status.trusted.as_ref()).map(running::goes_on);
            let found = format!("{error}{}", goes_on.map(|text| format!("; {text}")).unwrap_or_default());
            checks.push(Check::failed("tls", found, "correct server.ca_file, client_certificate and client_key"));
        }
        (Err(_), _) => checks.push(Check::skipped("network", "the server is not known")),
    }
    match &status {
        Ok(status) => {
            checks.extend(ways::examine(status));
            checks.extend(agent::examine(status, now_ms));
            checks.extend(agent::sleep(config.device.root.as_deref(), status));
        }
        Err(ClientError::NotRunning { path, source, advice }) => {
            checks.push(Check::failed(
                "agent",
                format!("nobody answers at {}: {source}", path.display()),
                advice.clone(),
            ));
        }
        Err(ClientError::Refused(refusal)) if refusal.code == "not_enrolled" => {
            let advice = "impush enrol CODE, with a code that `impush-gateway enrol-code create` has printed";
            checks.push(Check::failed("agent", "it runs, and waits to be enrolled", advice));
        }
        Err(error) => {
            checks.push(Check::failed("agent", error.to_string(), manager::advice(client.path()).await));
        }
    }
    checks.extend(agent::disk(config, agent));
    checks
}
