//! What the command line prints for people.

use super::doctor::Check;
use crate::device::Profile;
use crate::session::{State, Status};
use serde_json::Value as Json;

/// Doctor's findings, each with what to do under it.
pub fn checks(checks: &[Check]) -> String {
    let mut out = String::new();
    for Check { name, outcome, found, advice } in checks {
        out.push_str(&format!("{:<8} {name:<14} {found}\n", word(outcome)));
        if !advice.is_empty() {
            out.push_str(&format!("{:<8} {:<14} -> {advice}\n", "", ""));
        }
    }
    out.trim_end().to_owned()
}

/// Who made a device, with the evidence.
pub fn profile(profile: &Profile) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| out.push_str(&format!("{name:<13}{value}\n"));
    for (name, value) in [
        ("manufacturer", &profile.manufacturer),
        ("brand", &profile.brand),
        ("model", &profile.model),
        ("system", &profile.rom),
    ] {
        line(name, value.as_deref().unwrap_or("-"));
    }
    line("channel", profile.channel.map_or("none", |v| v.as_str()));
    if let Some(why) = &profile.why {
        line("because", why);
    }
    for evidence in &profile.evidence {
        line("evidence", &format!("{} = {}", evidence.name, evidence.value));
    }
    out.trim_end().to_owned()
}

/// The state, since when, why, and what happens next.
pub fn status(status: &Status) -> String {
    let mut out =
        format!("{} since {} s", word(&status.state), (super::clock::wall_ms().saturating_sub(status.since_ms)) / 1000);
    if let Some(cause) = status.cause.as_ref().filter(|_| status.state != State::Online) {
        out.push_str(&format!("\n  because {} ({}): {}", cause.word, cause.number, cause.detail));
    }
    if let Some(next) = &status.next_attempt {
        out.push_str(&format!(
            "\n  next attempt in {:.1} s (base {:.1} s + jitter {:.1} s)",
            next.in_s, next.base_s, next.jitter_s
        ));
    }
    out.push_str(&format!(
        "\nserver   {}\nuser     {}\ndevice   {}",
        status.server,
        status.user.as_deref().unwrap_or("-"),
        status.device_id
    ));
    out.push_str(&format!("\nchannel  {}", status.channel));
    if let Some(token) = &status.token {
        out.push_str(&format!(" (token {token}, {})", word(&status.binding)));
    }
    for (vendor, why) in &status.why_not {
        out.push_str(&format!("\n  not {vendor}: {why}"));
    }
    out.push_str(&format!("\ninbox    {} waiting, {} apps attached", status.inbox, status.apps_attached));
    if status.logouts_owed > 0 {
        out.push_str(&format!("\nowed     {} logouts the gateway has not heard of", status.logouts_owed));
    }
    out
}

/// The serialized word of a unit-like value.
fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(Json::String(word)) => word,
        Ok(Json::Object(map)) => map.get("state").and_then(Json::as_str).unwrap_or_default().to_owned(),
        _ => String::new(),
    }
}
