//! The status and what was counted, as text for Prometheus (exposition format 0.0.4).

use crate::session::{Counts, State, Status};
use std::fmt::Write as _;

const STATES: [(State, &str); 6] = [
    (State::LoggedOut, "logged_out"),
    (State::Connecting, "connecting"),
    (State::Online, "online"),
    (State::Waiting, "waiting"),
    (State::Resting, "resting"),
    (State::Stopped, "stopped"),
];

pub fn text(status: &Status, counts: &Counts) -> String {
    let mut out = String::new();
    let head = |out: &mut String, name: &str, kind: &str, help: &str| {
        let _ = writeln!(out, "# HELP impush_{name} {help}\n# TYPE impush_{name} {kind}");
    };
    head(&mut out, "state", "gauge", "1 for the state the connection is in");
    for (state, word) in STATES {
        let _ = writeln!(out, "impush_state{{state=\"{word}\"}} {}", u8::from(state == status.state));
    }
    let gauges = [
        ("heartbeat_seconds", "Time between two pings", status.heartbeat_s),
        (
            "heartbeat_settled",
            "1 when the search on this network has ended",
            f64::from(u8::from(status.heartbeat_settled)),
        ),
        ("saving_power", "1 while power is saved", f64::from(u8::from(status.saving_power))),
        ("inbox_messages", "Messages no app has taken yet", status.inbox as f64),
        ("apps_attached", "Open message streams", status.apps_attached as f64),
        ("store_failing", "1 while the state directory cannot be written", f64::from(u8::from(status.store_failing))),
        ("logouts_owed", "Logouts the gateway has not heard of", status.logouts_owed as f64),
    ];
    // Absent where the login does not say: 0 would raise an alarm.
    let days_left = status
        .login_days_left
        .map(|days| ("login_days_left", "Whole days until the login's token can only renew itself", days as f64));
    for (name, help, value) in gauges.into_iter().chain(days_left) {
        head(&mut out, name, "gauge", help);
        let _ = writeln!(out, "impush_{name} {value}");
    }
    if let Some(lock) = status.wake_lock {
        for (name, help, value) in [
            ("wake_locks_total", "Times the device was kept awake", lock.taken as f64),
            ("wake_lock_held_seconds_total", "Time the device was kept awake", lock.held_ms as f64 / 1000.0),
        ] {
            head(&mut out, name, "counter", help);
            let _ = writeln!(out, "impush_{name} {value}");
        }
    }
    for (name, help, value) in [
        ("connections_total", "Connections that were accepted", counts.connections),
        ("messages_total", "Messages received", counts.messages),
        ("checks_total", "Short looks at a channel that is rested on", counts.checks),
    ] {
        head(&mut out, name, "counter", help);
        let _ = writeln!(out, "impush_{name} {value}");
    }
    if !status.app_wakes.is_empty() {
        head(&mut out, "app_wakes_total", "counter", "Times an app was started for a message");
    }
    for (app, times) in &status.app_wakes {
        let _ = writeln!(out, "impush_app_wakes_total{{app=\"{app}\"}} {times}");
    }
    head(&mut out, "links_lost_total", "counter", "Links lost and attempts failed, by cause");
    for (cause, count) in &counts.lost {
        let _ = writeln!(out, "impush_links_lost_total{{cause=\"{cause}\"}} {count}");
    }
    head(&mut out, "input_refused_total", "counter", "Bad input that was refused, by kind");
    for (kind, count) in &status.refused {
        let _ = writeln!(out, "impush_input_refused_total{{kind=\"{kind}\"}} {count}");
    }
    out
}
