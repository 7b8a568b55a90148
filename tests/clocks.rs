//! A gateway whose own clock is wrong goes by the clock of the database it shares.

mod support;

use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::stage::{Stage, send};
use support::{faketime, skipped};

/// What a load balancer is told.
fn told(rest: &support::Rest) -> String {
    rest.text("/readyz")
}

#[test]
fn a_gateway_six_seconds_ahead_pushes_nothing_that_is_acknowledged_in_time() {
    let test = "a_gateway_six_seconds_ahead_pushes_nothing_that_is_acknowledged_in_time";
    let (Some(faketime), Some(mut stage)) = (faketime(), Stage::new(test)) else {
        return skipped(test, "faketime, mosquitto or PostgreSQL is not installed");
    };
    // Six seconds are more than the time to acknowledge in, which is one second here.
    let a = stage.gateway("a");
    let b = stage.gateway_in("b", &[("LD_PRELOAD", &faketime), ("FAKETIME", "+6s")]);
    let (on_a, on_b) = (stage.rest(&a), stage.rest(&b));
    stage.phone(&on_a);
    assert_eq!(told(&on_a), "ready\n");
    assert!(told(&on_b).contains("clock is 6 s ahead of the database's") || told(&on_b).contains("clock is 5 s ahead"));

    let mut down = stage.broker.subscribe("im/v1/org%23app/ann/phone/down");
    let up = "im/v1/org%23app/ann/phone/up";
    let say = |said: Value| stage.broker.publish(up, said.to_string().as_bytes());
    say(json!({"v": 1, "type": "hello", "nonce": "n1", "agent": "test", "channel": "xiaomi", "platform": "android"}));
    down.wait_for("a welcome", |line| line.contains("\"nonce\":\"n1\"").then_some(()));
    say(json!({"v": 1, "type": "presence", "presence": "attached"}));
    let ids: Vec<String> = (0..20)
        .map(|n| {
            let id = send(if n % 2 == 0 { &on_a } else { &on_b }, "ann", n);
            down.wait_for("the message", |line| line.contains(&id).then_some(()));
            say(json!({"v": 1, "type": "ack", "ids": [id], "attached": true}));
            say(json!({"v": 1, "type": "taken", "ids": [id]}));
            id
        })
        .collect();
    let pushed = ids.iter().filter(|id| {
        let trace = on_a.traced(id, &["taken"]);
        trace.iter().any(|line| line.contains("vendor") || line.contains("no_ack"))
    });
    assert_eq!(pushed.count(), 0, "of 20 messages that were acknowledged");
}

#[test]
fn a_gateway_eight_days_ahead_lives_in_the_databases_time() {
    let test = "a_gateway_eight_days_ahead_lives_in_the_databases_time";
    let (Some(faketime), Some(mut stage)) = (faketime(), Stage::new(test)) else {
        return skipped(test, "faketime, mosquitto or PostgreSQL is not installed");
    };
    let a = stage.gateway("a");
    let b = stage.gateway_in("b", &[("LD_PRELOAD", &faketime), ("FAKETIME", "+8d")]);
    let (on_a, on_b) = (stage.rest(&a), stage.rest(&b));
    on_a.ok("POST", "users", Some(&json!({"username": "ann", "password": "a password"})));
    let said = told(&on_b);
    assert!(said.starts_with("ready\nthis machine's clock is 69") && said.contains(" s ahead of"), "{said}");
    let ahead: f64 = on_b
        .text("/metrics")
        .lines()
        .find_map(|line| line.strip_prefix("impush_gateway_clock_ahead_seconds ")?.parse().ok())
        .expect("a gauge");
    assert!((690_000.0..692_000.0).contains(&ahead), "{ahead}");

    // What it accepts is of today, and what the other accepted is not over for it.
    let wall_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after").as_millis()).expect("ms");
    let listed = on_b.ok("GET", "users/ann/devices", None);
    assert!(listed["timestamp"].as_u64().expect("ms").abs_diff(wall_ms) < 60_000, "{listed}");
    let hello = |nonce: &str| json!({"v": 1, "type": "hello", "nonce": nonce, "agent": "t", "channel": "none", "platform": "l"});
    let up = "im/v1/org%23app/ann/desk/up";
    let mut down = stage.broker.subscribe("im/v1/org%23app/ann/desk/down");
    stage.broker.publish(up, hello("first").to_string().as_bytes());
    down.wait_for("a welcome", |line| line.contains("\"first\"").then_some(()));
    let state = json!({"v": 1, "online": false, "nonce": "first"});
    stage.broker.publish("im/v1/org%23app/ann/desk/state", state.to_string().as_bytes());
    support::eventually("it is offline", || {
        on_a.ok("GET", "users/ann/devices", None)["entities"][0]["online"] == json!(false)
    });
    let id = send(&on_a, "ann", 1);
    // Only the one whose clock is wrong answers now.
    drop(a);
    stage.broker.publish(up, hello("second").to_string().as_bytes());
    let came = down.wait_for("the message", |line| line.contains(&id).then(|| line.to_owned()));
    let message: Value = serde_json::from_str(came.split_once(' ').expect("a payload").1).expect("JSON");
    assert!(message["sent_at_ms"].as_u64().expect("ms").abs_diff(wall_ms) < 60_000, "{message}");
}

#[test]
#[ignore = "takes the minute after which a gateway first removes what is over"]
fn a_gateway_eight_days_ahead_removes_no_message_that_is_kept_for_seven() {
    let test = "a_gateway_eight_days_ahead_removes_no_message_that_is_kept_for_seven";
    let (Some(faketime), Some(stage)) = (faketime(), Stage::new(test)) else {
        return skipped(test, "faketime, mosquitto or PostgreSQL is not installed");
    };
    let a = stage.gateway("a");
    let on_a = stage.rest(&a);
    stage.phone(&on_a);
    let ids: Vec<String> = (0..20).map(|n| send(&on_a, "ann", n)).collect();
    let _b = stage.gateway_in("b", &[("LD_PRELOAD", &faketime), ("FAKETIME", "+8d")]);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(75) {
        let gone = ids.iter().filter(|id| on_a.traced(id, &[]).iter().any(|line| line.contains("expired"))).count();
        assert_eq!(gone, 0, "of 20 messages");
    }
}
