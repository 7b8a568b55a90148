//! What the command line prints for people.

use super::doctor::Check;
use super::words::{SIGN_IN, date};
use crate::device::Confidence;
use crate::device::Profile;
use crate::session::{State, Status};
use crate::untrusted::shown;
use serde_json::Value as Json;

/// Doctor's findings, each with what to do under it.
pub fn checks(checks: &[Check]) -> String {
    let mut out = String::new();
    for Check { name, outcome, found, advice } in checks {
        out.push_str(&format!("{:<8} {name:<14} {}\n", word(outcome), shown(found)));
        if !advice.is_empty() {
            out.push_str(&format!("{:<8} {:<14} -> {}\n", "", "", shown(advice)));
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
        line(name, &shown(value.as_deref().unwrap_or("-")));
    }
    line("channel", profile.channel.map_or("none", |v| v.as_str()));
    if let Some(why) = &profile.why {
        line("because", &shown(why));
    }
    for evidence in &profile.evidence {
        line("evidence", &format!("{} = {}", evidence.name, shown(&evidence.value)));
    }
    out.trim_end().to_owned()
}

/// The state, since when, why, and what happens next.
pub fn status(status: &Status) -> String {
    let mut out =
        format!("{} since {} s", word(&status.state), (super::clock::wall_ms().saturating_sub(status.since_ms)) / 1000);
    if let Some(cause) = status.cause.as_ref().filter(|_| status.state != State::Online) {
        out.push_str(&format!("\n  because {} ({}): {}", cause.word, cause.number, shown(&cause.detail)));
    }
    if status.sign_in {
        out.push_str(&format!("\n  {SIGN_IN}"));
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
        shown(&status.server),
        shown(status.user.as_deref().unwrap_or("-")),
        shown(&status.device_id)
    ));
    if let Some(proxy) = &status.proxy {
        out.push_str(&format!("\nproxy    {proxy}"));
    }
    if let Some(judged_by_ms) = status.judged_by_ms {
        out.push_str(&format!(
            "\nclock    says {}; certificates are checked against {}",
            date(status.clock_ms),
            date(judged_by_ms)
        ));
    }
    for (name, source) in &status.names {
        out.push_str(&format!("\nname     {name}, by {source}"));
    }
    if let Some(days) = status.login_days_left {
        out.push_str(&format!("\nlogin    {days} days left"));
    }
    out.push_str(&format!("\nchannel  {}", status.channel));
    if let Some(confidence) = status.confidence.filter(|c| matches!(c, Confidence::Forced | Confidence::Token)) {
        out.push_str(&format!(", by {}", if confidence == Confidence::Forced { "configuration" } else { "its token" }));
    }
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
        out.push_str(&format!("\n  not {vendor}: {}", shown(why)));
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
    use crate::keepalive::Cause;
    use crate::protocol::BindingState;
    use crate::session::CauseReport;

    #[test]
    fn what_a_broker_says_cannot_move_the_cursor_nor_write_lines_of_its_own() {
        let cause = CauseReport {
            word: Cause::NotAuthorized,
            number: Cause::NotAuthorized.number(),
            text: String::new(),
            detail: "\u{1b}[2J\nonline since 1 s".to_owned(),
        };
        let said = status(&Status { state: State::Waiting, cause: Some(cause), ..Status::example() });
        assert!(said.contains("\\u001b[2J\\u000aonline since 1 s"), "{said}");
    }

    #[test]
    fn the_status_says_what_the_login_the_gateway_the_channel_and_the_disk_have_to_say() {
        let plain = status(&Status::example());
        for absent in ["days left", "gateway", "check", "store", "portal", "clock"] {
            assert!(!plain.contains(absent), "{plain}");
        }
        let all = status(&Status {
            gateway_answers: Some(false),
            login_days_left: Some(5),
            channel_state: Some(BindingState::MissingCertificate),
            check_in_s: Some(599.6),
            store_failing: true,
            sign_in: true,
            clock_ms: 5_000,
            judged_by_ms: Some(1_795_132_800_000),
            names: [("push.example".to_owned(), "netd".to_owned())].into(),
            ..Status::example()
        });
        for said in [
            "no gateway has answered",
            "name     push.example, by netd",
            "login    5 days left",
            "the gateway says: missing_certificate",
            "next check in 600 s",
            "cannot be written",
            "may want a sign-in",
            "clock    says 1970-01-01; certificates are checked against 2026-11-20",
        ] {
            assert!(all.contains(said), "{said}: {all}");
        }
    }
}
