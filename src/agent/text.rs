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
    if status.gateway_answers == Some(false) {
        out.push_str("\n  no gateway has answered on this connection yet");
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
    if let Some(days) = status.login_days_left {
        out.push_str(&format!("\nlogin    {days} days left"));
    }
    out.push_str(&format!("\nchannel  {}", status.channel));
    if let Some(token) = &status.token {
        out.push_str(&format!(" (token {token}, {})", word(&status.binding)));
    }
    if let Some(state) = &status.channel_state {
        out.push_str(&format!("\n  the gateway says: {}", word(state)));
    }
    if let Some(check_in_s) = status.check_in_s {
        out.push_str(&format!("\n  next check in {check_in_s:.0} s"));
    }
    for (vendor, why) in &status.why_not {
        out.push_str(&format!("\n  not {vendor}: {why}"));
    }
    out.push_str(&format!("\ninbox    {} waiting, {} apps attached", status.inbox, status.apps_attached));
    if status.logouts_owed > 0 {
        out.push_str(&format!("\nowed     {} logouts the gateway has not heard of", status.logouts_owed));
    }
    if status.store_failing {
        out.push_str("\nstore    the state directory cannot be written; what changes now is lost with a restart");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::BindingState;

    #[test]
    fn the_status_says_what_the_login_the_gateway_the_channel_and_the_disk_have_to_say() {
        let plain = status(&Status::example());
        for absent in ["days left", "gateway", "check", "store"] {
            assert!(!plain.contains(absent), "{plain}");
        }
        let all = status(&Status {
            gateway_answers: Some(false),
            login_days_left: Some(5),
            channel_state: Some(BindingState::MissingCertificate),
            check_in_s: Some(599.6),
            store_failing: true,
            ..Status::example()
        });
        for said in [
            "no gateway has answered",
            "login    5 days left",
            "the gateway says: missing_certificate",
            "next check in 600 s",
            "cannot be written",
        ] {
            assert!(all.contains(said), "{said}: {all}");
        }
    }
}
