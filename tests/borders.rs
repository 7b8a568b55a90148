//! What devices and apps say, where it is nothing that a gateway takes in: refused and counted, on either database, and
//! in nobody's way.

mod support;

use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use support::stage::{Stage, send};
use support::{Gateway, Process, Rest};

fn counted(rest: &Rest, from: &str, reason: &str) -> u64 {
    let text = rest.text("/metrics");
    let wanted = format!("impush_gateway_input_refused_total{{from=\"{from}\",reason=\"{reason}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&wanted)).map_or(0, |count| count.parse().expect("a number"))
}

fn hello(nonce: &str, model: &str) -> String {
    json!({"v": 1, "type": "hello", "nonce": nonce, "agent": "test", "channel": "none", "platform": "linux", "model": model})
        .to_string()
}

/// Words that SQLite would keep and PostgreSQL would not, one a line.
fn bad_words(count: usize) -> String {
    let mut words = String::new();
    for n in 0..count {
        words += &match n % 4 {
            0 => hello(&format!("n{n}"), "a\0b"),
            1 => hello(&"n".repeat(6000), "model"),
            2 => json!({"v": 1, "type": "bind", "sequence": n, "notifier": "x\0", "token": "t"}).to_string(),
            _ => json!({"v": 1, "type": "receipt", "id": "m\0", "event": "clicked"}).to_string(),
        };
        words.push('\n');
    }
    words
}

fn welcomed(down: &mut Process, nonce: &str) {
    let wanted = format!("\"nonce\":\"{nonce}\"");
    down.wait_for("a welcome", |line| line.contains(&wanted).then_some(()));
}

/// The longest time from a message's acceptance to its arrival, of 20 that are sent to one device through both.
fn longest(rests: [&Rest; 2], down: &mut Process) -> Duration {
    let took = (0..20).map(|n| {
        let sent = Instant::now();
        let id = send(rests[n as usize % 2], "bob", n);
        down.wait_for("the message", |line| line.contains(&id).then_some(()));
        sent.elapsed()
    });
    took.max().expect("some")
}

#[test]
fn words_that_one_database_would_refuse_are_in_no_other_users_way() {
    let test = "words_that_one_database_would_refuse_are_in_no_other_users_way";
    let Some(mut stage) = Stage::new(test) else { return };
    let (a, b) = (stage.gateway("a"), stage.gateway("b"));
    let (on_a, on_b) = (stage.rest(&a), stage.rest(&b));
    for user in ["ann", "bob"] {
        on_a.ok("POST", "users", Some(&json!({"username": user, "password": "a password"})));
    }
    let mut down = stage.broker.subscribe("im/v1/org%23app/bob/desk/down");
    stage.broker.publish("im/v1/org%23app/bob/desk/up", hello("good", "desk").as_bytes());
    welcomed(&mut down, "good");

    let quiet = longest([&on_a, &on_b], &mut down);
    let mut other = stage.broker.publish_lines("im/v1/org%23app/ann/phone/up", &bad_words(300));
    let disturbed = longest([&on_a, &on_b], &mut down);
    assert!(other.wait().expect("ended").success());
    println!("longest of 20 messages: {quiet:?}, and {disturbed:?} with 300 bad words of another user's device");
    let refused = |reason: &str| counted(&on_a, "device", reason) + counted(&on_b, "device", reason);
    support::eventually("all are counted", || refused("control_character") + refused("malformed") == 300);

    // A device whose bind is nothing that is taken in is told so.
    let mut told = stage.broker.subscribe("im/v1/org%23app/ann/phone/down");
    let bind = json!({"v": 1, "type": "bind", "sequence": 7, "notifier": "288", "token": "t".repeat(6000)});
    stage.broker.publish("im/v1/org%23app/ann/phone/up", bind.to_string().as_bytes());
    let bound = told.wait_for("an answer", |line| serde_json::from_str::<Value>(line.split_once(' ')?.1).ok());
    assert_eq!((&bound["sequence"], &bound["result"]), (&json!(7), &json!("refused")), "{bound}");
    assert!(bound["reason"].as_str().is_some_and(|why| why.contains("6000 bytes")), "{bound}");
    assert_eq!(stage.gateways_that_entered(), 2, "a word cost a gateway its connection");
}

fn what_an_app_may_not_say(rest: &Rest) {
    let base = &rest.base;
    rest.ok("POST", "users", Some(&json!({"username": "ann", "password": "a password"})));
    let before = counted(rest, "app", "nul");
    let deep = (0..40).fold(json!(1), |inner, _| json!({"a": inner}));
    let grant = |user: &str| json!({"grant_type": "password", "username": user, "password": "a password"});
    for (method, path, body) in [
        ("POST", "token", grant("a\0nn")),
        ("POST", "token", grant(&"a".repeat(6000))),
        ("POST", "messages/users", json!({"to": ["ann"], "body": {"msg": "a\0b"}})),
        ("POST", "messages/users", json!({"to": ["ann"], "body": {"msg": "a"}, "ext": deep})),
        ("POST", "messages/users", json!({"to": ["ann"], "from": "a\0b", "body": {"msg": "a"}})),
        ("POST", "users", json!({"username": "b\0b", "password": "a password"})),
        ("PUT", "users/ann", json!({"nickname": "a\0"})),
        ("PUT", "users/ann/push/binding", json!({"device_id": "d", "notifier_name": "n\0", "device_token": "t"})),
        (
            "PUT",
            "users/ann/push/binding",
            json!({"device_id": "d", "notifier_name": "n", "device_token": "t".repeat(6000)}),
        ),
        ("GET", "users/a%00nn/devices", Value::Null),
        ("GET", "messages/a%00/trace", Value::Null),
        ("GET", "users/ann/notification/user/b%00", Value::Null),
    ] {
        let (status, answer) = rest.ask(method, &format!("{base}/{path}"), Some(&body).filter(|body| !body.is_null()));
        assert_eq!((status, &answer["error"]), (400, &json!("illegal_argument")), "{method} {path}: {answer}");
    }
    assert!(counted(rest, "app", "nul") >= before + 4);
    assert!(counted(rest, "app", "depth") >= 1);
    assert_eq!(rest.ask("GET", &base.replace("/org/app", "/readyz"), None).0, 200);
}

#[test]
fn what_an_app_may_not_say_is_refused_with_its_reason_over_sqlite() {
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(dir.path(), "");
    what_an_app_may_not_say(&Rest::new(&gateway.reach, gateway.ca().as_ref()));
}

#[test]
fn what_an_app_may_not_say_is_refused_with_its_reason_over_postgresql() {
    let test = "what_an_app_may_not_say_is_refused_with_its_reason_over_postgresql";
    let Some(stage) = Stage::new(test) else { return };
    let gateway = stage.gateway("a");
    what_an_app_may_not_say(&stage.rest(&gateway));
}

fn text(id: &str, bytes: usize) -> Value {
    json!({"to": [id], "body": {"type": "txt", "msg": "x".repeat(bytes)}})
}

fn what_is_too_large_goes_its_other_way(test: &str, broker: &str) {
    let Some(mut stage) = Stage::with_broker(test, broker) else { return };
    let (a, b) = (stage.gateway("a"), stage.gateway("b"));
    let (on_a, on_b) = (stage.rest(&a), stage.rest(&b));
    stage.phone(&on_a);
    on_a.ok("POST", "users", Some(&json!({"username": "bob", "password": "a password"})));
    let mut down = stage.broker.subscribe("im/v1/org%23app/bob/desk/down");
    let mut phone = stage.broker.subscribe("im/v1/org%23app/ann/phone/down");
    for (user, device, down) in [("bob", "desk", &mut down), ("ann", "phone", &mut phone)] {
        stage.broker.publish(&format!("im/v1/org%23app/{user}/{device}/up"), hello(device, "a model").as_bytes());
        welcomed(down, device);
    }
    let quiet = longest([&on_a, &on_b], &mut down);
    let mut ids = Vec::new();
    for rest in [&on_a, &on_b].repeat(8) {
        for user in ["ann", "bob"] {
            let sent = rest.ok("POST", "messages/users", Some(&text(user, 40_000)));
            ids.push((user, sent["data"][user].as_str().expect("an id").to_owned()));
        }
    }
    let disturbed = longest([&on_a, &on_b], &mut down);
    println!("longest of 20 messages: {quiet:?}, and {disturbed:?} beside 32 that are too large ({broker})");
    for (user, id) in &ids {
        let wanted: &[&str] = if *user == "ann" { &["too_large", "vendor_sent"] } else { &["too_large"] };
        let trace = on_a.traced(id, wanted);
        assert!(trace.len() <= 6 && !trace.iter().any(|line| line.contains("no_ack")), "{user}: {trace:#?}");
    }
    assert_eq!(stage.gateways_that_entered(), 2, "a message cost a gateway its connection");
}

#[test]
fn a_message_larger_than_the_brokers_packets_goes_to_its_vendor_or_waits_and_the_link_stays() {
    let test = "a_message_larger_than_the_brokers_packets_goes_to_its_vendor_or_waits_and_the_link_stays";
    what_is_too_large_goes_its_other_way(test, "max_packet_size 20000");
}

#[test]
fn a_message_that_the_broker_refuses_for_its_size_goes_to_its_vendor_or_waits_and_the_link_stays() {
    let test = "a_message_that_the_broker_refuses_for_its_size_goes_to_its_vendor_or_waits_and_the_link_stays";
    what_is_too_large_goes_its_other_way(test, "message_size_limit 20000");
}

/// Stands before PostgreSQL. When it is armed, it hands the next COMMIT on and cuts that connection.
fn cutter(server: u16) -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let armed = Arc::new(AtomicU32::new(0));
    let cuts = armed.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
            let (mut answers, mut back) = (server.try_clone().expect("a copy"), client.try_clone().expect("a copy"));
            std::thread::spawn(move || drop(std::io::copy(&mut answers, &mut back)));
            let (cuts, mut client, mut server) = (cuts.clone(), client, server);
            std::thread::spawn(move || {
                let mut bytes = [0; 65536];
                while let Ok(count @ 1..) = client.read(&mut bytes) {
                    let commit = bytes[..count].windows(6).any(|word| word == b"COMMIT");
                    let one_less = |n: u32| n.checked_sub(1);
                    if commit && cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
                        // Nothing that is answered from here on arrives.
                        drop(client.shutdown(Shutdown::Both));
                        drop(server.write_all(&bytes[..count]));
                        return;
                    }
                    if server.write_all(&bytes[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, armed)
}

#[test]
fn a_commit_whose_answer_is_lost_is_asked_for_and_shown_once() {
    let test = "a_commit_whose_answer_is_lost_is_asked_for_and_shown_once";
    let Some(mut stage) = Stage::new(test) else { return };
    let (port, armed) = cutter(stage.postgres.port);
    stage.common = stage.common.replace(&format!(":{}/", stage.postgres.port), &format!(":{port}/"));
    let gateway = stage.gateway("a");
    let rest = stage.rest(&gateway);
    let token = stage.phone(&rest);
    let url = format!("{}/messages/users", rest.base);
    for n in 0..6 {
        armed.store(1, Ordering::SeqCst);
        let body = json!({"to": ["ann"], "body": {"type": "txt", "msg": format!("{n}")}});
        // Who obeys sends again what was not accepted.
        support::eventually("it is accepted", || rest.ask("POST", &url, Some(&body)).0 == 200);
    }
    armed.store(0, Ordering::SeqCst);
    support::eventually("all are shown", || stage.shown(&rest, &token).len() >= 6);
    let last = send(&rest, "ann", 9);
    rest.traced(&last, &["vendor_sent"]);
    let shown = stage.shown(&rest, &token);
    assert!(shown.len() == 7 && shown.values().all(|times| *times == 1), "{shown:?}");
}
