//! The gateway as a process with its own endpoint, its REST API and the emulated clouds; other
//! people's MQTT clients against it.

mod support;

use bytes::BytesMut;
use impush::mqtt::server::{next_packet, write_packet};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, Packet, PingResp, PubAck, Publish, SubAck, Subscribe, SubscribeReasonCode,
};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{
    Agent, Certificates, Flaw, Gateway, Mosquitto, Process, Rest, certificates, eventually, free_port, has, skipped,
};

fn clients_or_skip(test: &str) -> bool {
    let there = has("mosquitto_pub") && has("mosquitto_sub");
    if !there {
        skipped(test, "mosquitto's clients are not installed");
    }
    there
}

#[test]
fn mosquittos_clients_get_in_with_a_jwt_and_reach_their_own_topics_only() {
    if !clients_or_skip("mosquittos_clients_get_in_with_a_jwt_and_reach_their_own_topics_only") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(dir.path(), "");
    let (ann, _) = (gateway.user("ann"), gateway.user("bob"));
    let (client, user) = ("ann:dev@org%23app", "org%23app/ann");
    // Nobody has a device yet: the message waits, and a made-up device's hello fetches it.
    gateway.ok(&["send", "--app", "org/app", "ann", "hello ann"]);
    let hello =
        json!({ "v": 1, "type": "hello", "nonce": "n1", "agent": "test", "channel": "none", "platform": "linux" })
            .to_string();
    let mut exchange = gateway.mosquitto("mosquitto_rr", client, user, &ann);
    exchange.args(["-t", "im/v1/org%23app/ann/dev/up", "-e", "im/v1/org%23app/ann/dev/down", "-m", &hello, "-W", "20"]);
    let fetched = exchange.output().expect("ran");
    let fetched: Value = serde_json::from_slice(&fetched.stdout).unwrap_or_else(|e| panic!("{e}: {fetched:?}"));
    assert_eq!(
        (&fetched["type"], &fetched["body"]["msg"], &fetched["offline"]),
        (&json!("message"), &json!("hello ann"), &json!(true))
    );
    let reached = |topic: &str, id: &str| {
        let mut command = gateway.mosquitto("mosquitto_pub", id, user, &ann);
        let output = command.args(["-t", topic, "-m", "{}"]).output().expect("ran");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        output.status.success() && !text.contains("Not authorized") && !text.to_lowercase().contains("error")
    };
    assert!(reached("im/v1/org%23app/ann/dev2/up", "ann:dev2@org%23app"), "its own topic");
    assert!(!reached("im/v1/org%23app/bob/dev/up", "ann:dev2@org%23app"), "another user's");
    assert!(!reached("im/v1/org%23app/ann/dev9/up", "ann:dev2@org%23app"), "another device's");
    assert!(!reached("im/v1/org%23app/ann/dev2/down", "ann:dev2@org%23app"), "its own downward one");
    for filter in
        ["#", "im/v1/#", "im/v1/+/+/+/down", "im/v1/org%23app/bob/dev/down", "$SYS/#", "$share/gateway/im/v1/+/+/+/up"]
    {
        let mut command = gateway.mosquitto("mosquitto_sub", "ann:dev2@org%23app", user, &ann);
        let output = command.args(["-t", filter, "-W", "1", "-d"]).output().expect("ran");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(
            text.contains("denied") || text.contains("135") || text.contains("refused") || !output.status.success(),
            "{filter}: {text}"
        );
        assert!(!text.contains("hello ann"), "{filter}");
    }
}

/// What ann's device hears first after it said this.
fn ask(gateway: &Gateway, token: &str, up: Value, wait: &str) -> Option<Value> {
    let mut exchange = gateway.mosquitto("mosquitto_rr", "ann:dev@org%23app", "org%23app/ann", token);
    let up = up.to_string();
    exchange.args(["-t", "im/v1/org%23app/ann/dev/up", "-e", "im/v1/org%23app/ann/dev/down", "-m", &up, "-W", wait]);
    let output = exchange.output().expect("ran");
    serde_json::from_slice(&output.stdout).ok()
}

#[test]
fn a_device_that_asks_gets_a_new_token_that_lets_it_in_and_not_twice_in_a_minute() {
    if !clients_or_skip("a_device_that_asks_gets_a_new_token_that_lets_it_in_and_not_twice_in_a_minute") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(dir.path(), "");
    let ann = gateway.user("ann");
    let answer = ask(&gateway, &ann, json!({ "v": 1, "type": "renew" }), "20").expect("an answer");
    assert_eq!(answer["type"], "settings");
    let renewed = answer["token"].as_str().expect("a token").to_owned();
    let hello =
        json!({ "v": 1, "type": "hello", "nonce": "n1", "agent": "test", "channel": "none", "platform": "linux" });
    assert_eq!(ask(&gateway, &renewed, hello, "20").expect("a welcome")["nonce"], "n1");
    assert_eq!(ask(&gateway, &renewed, json!({ "v": 1, "type": "renew" }), "2"), None, "one a minute");
}

#[test]
fn a_token_whose_life_is_over_gets_a_device_a_new_one_and_nothing_else() {
    if !clients_or_skip("a_token_whose_life_is_over_gets_a_device_a_new_one_and_nothing_else") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let Some(faketime) = support::faketime() else {
        return skipped(
            "a_token_whose_life_is_over_gets_a_device_a_new_one_and_nothing_else",
            "faketime is not installed",
        );
    };
    // A token lives 60 days: one of three months ago is over, and may still renew itself.
    let ago = [("LD_PRELOAD", faketime.as_str()), ("FAKETIME", "-90d")];
    let mut gateway = Gateway::start_in(dir.path(), free_port(), "", &ago);
    let ann = gateway.user("ann");
    gateway.process.terminate();
    let gateway = Gateway::start(dir.path(), "");
    let unbind = json!({ "v": 1, "type": "unbind", "sequence": 1, "logout": false });
    assert_eq!(ask(&gateway, &ann, unbind.clone(), "2"), None, "it may only renew itself");
    let hello =
        json!({ "v": 1, "type": "hello", "nonce": "n1", "agent": "test", "channel": "none", "platform": "linux" });
    let answer = ask(&gateway, &ann, hello, "20").expect("an answer");
    assert!(answer["token"].is_string(), "{answer}");
    let renewed = answer["token"].as_str().expect("a token");
    assert_eq!(ask(&gateway, renewed, unbind, "20").expect("an answer")["type"], "bound");
}

#[test]
fn a_wrong_token_user_or_client_id_does_not_get_in() {
    if !clients_or_skip("a_wrong_token_user_or_client_id_does_not_get_in") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(dir.path(), "");
    let (ann, bob) = (gateway.user("ann"), gateway.user("bob"));
    for (client, user, token) in [
        ("ann:d@org%23app", "org%23app/ann", bob.as_str()),
        ("ann:d@org%23app", "org%23app/bob", ann.as_str()),
        ("bob:d@org%23app", "org%23app/ann", ann.as_str()),
        ("ann:d@other", "other/ann", ann.as_str()),
        ("$gateway:self", "gateway", ann.as_str()),
        ("ann:d@org%23app", "org%23app/ann", "nonsense"),
        ("anything", "org%23app/ann", ann.as_str()),
    ] {
        let mut command = gateway.mosquitto("mosquitto_pub", client, user, token);
        let output = command.args(["-t", "im/v1/org%23app/ann/d/up", "-m", "{}"]).output().expect("ran");
        assert!(!output.status.success(), "{client} {user}: {output:?}");
    }
    // A will is a publish in waiting.
    let mut command = gateway.mosquitto("mosquitto_pub", "ann:d@org%23app", "org%23app/ann", &ann);
    command.args([
        "--will-topic",
        "im/v1/org%23app/bob/d/state",
        "--will-payload",
        "x",
        "-t",
        "im/v1/org%23app/ann/d/up",
        "-m",
        "{}",
    ]);
    assert!(!command.output().expect("ran").status.success());
}

#[test]
fn users_with_hostile_ids_get_their_own_messages_and_nobody_elses() {
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(&dir.path().join("g"), "");
    let users = ["用户", "a/b", "+", "#", "$SYS", "a@b:c", "..", "ann\u{202e}nna", "%2F", &"长".repeat(60)];
    let mut agents = Vec::new();
    for (number, user) in users.iter().enumerate() {
        let token = gateway.user(user);
        let home = dir.path().join(number.to_string());
        Agent::configure(&home, &format!("mqtts://localhost:{}", gateway.port()), Path::new(gateway.ca()), "");
        let mut agent = Agent::start(&home);
        std::fs::write(home.join("password"), token).expect("written");
        agent.ok(&["login", "--password-file", home.join("password").to_str().expect("a path"), "--", user]);
        agent.process.event("link.up");
        agents.push(agent);
    }
    for (user, agent) in users.iter().zip(&mut agents) {
        gateway.ok(&["send", "--app", "org/app", "--", user, &format!("for {user}")]);
        agent.process.event("message.received");
        let mut watch = Process::start(support::impush(&agent.home).args(["watch", "--json", "--peek"]), false);
        let message: Value = watch.wait_for("the message", |line| serde_json::from_str(line).ok());
        assert_eq!(message["body"]["msg"], format!("for {user}"));
    }
    for agent in &agents {
        assert_eq!(agent.status()["inbox"], 1, "nothing but its own");
    }
}

#[test]
fn a_gateway_killed_after_accepting_still_delivers() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut gateway = Gateway::start(&dir.path().join("g"), "");
    let token = gateway.user("ann");
    let id = gateway.ok(&["send", "--app", "org/app", "ann", "kept"]);
    gateway.process.kill();
    let gateway = Gateway::start(&dir.path().join("g"), "");
    let home = dir.path().join("a");
    Agent::configure(&home, &format!("mqtts://localhost:{}", gateway.port()), Path::new(gateway.ca()), "");
    let mut agent = Agent::start(&home);
    agent.login("ann", &token);
    assert_eq!(agent.process.event("message.received")["id"], id.as_str());
}

#[test]
fn the_api_refuses_in_one_shape_what_it_cannot_take() {
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(dir.path(), "");
    let file = dir.path().join("fields.json");
    for (fields, vendor, name, said) in [
        ("{}", "xiaomi", "288", "app_secret"),
        ("[]", "xiaomi", "288", "object"),
        ("{\"app_secret\":1}", "xiaomi", "288", "must be a text"),
        ("{\"app_secret\":\"s\",\"package\":\"p\"}", "vivo", "288", "appId#appKey"),
    ] {
        std::fs::write(&file, fields).expect("written");
        let output = gateway.run(&[
            "certificate",
            "add",
            "--app",
            "org/app",
            vendor,
            name,
            "--fields-file",
            file.to_str().expect("a path"),
        ]);
        assert_eq!(output.status.code(), Some(65), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
    }
    std::fs::write(&file, "{\"app_secret\":\"very-secret\",\"package\":\"p\"}").expect("written");
    gateway.ok(&[
        "certificate",
        "add",
        "--app",
        "org/app",
        "xiaomi",
        "288",
        "--fields-file",
        file.to_str().expect("a path"),
    ]);
    let listed = gateway.ok(&["certificate", "list", "--app", "org/app"]);
    assert!(listed.contains("288") && !listed.contains("very-secret"), "{listed}");
    assert_eq!(gateway.run(&["trace", "--app", "org/app", "nothing"]).status.code(), Some(65));
}

/// The operator's token for an app.
fn operators(gateway: &Gateway, rest: &Rest, app: &str) -> String {
    let secret = std::fs::read_to_string(gateway.reach["admin_secret_file"].as_str().expect("a file")).expect("read");
    let grant = json!({"grant_type": "client_credentials", "client_id": "admin", "client_secret": secret});
    let (_, answer) = rest.ask("POST", &format!("{app}/token"), Some(&grant));
    answer["access_token"].as_str().expect("a token").to_owned()
}

#[test]
fn one_apps_single_messages_are_answered_while_another_apps_calls_to_thousands_go_on() {
    const CALLS: usize = 12;
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(dir.path(), "");
    let rest = || Rest::new(&gateway.reach, Path::new(gateway.ca()));
    let single = rest();
    let large = single.base.replace("/org/app", "/org/large");
    let token = operators(&gateway, &single, &large);
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for call in 0..CALLS {
            let (rest, url, token, answered) = (rest(), format!("{large}/messages/users"), &token, &answered);
            scope.spawn(move || {
                let to: Vec<String> = (0..600).map(|n| format!("user-{call}-{n}")).collect();
                let (status, answer) = rest.ask_as(token, "POST", &url, Some(&json!({ "to": to, "body": {} })));
                let ids = answer["data"].as_object().map(serde_json::Map::len);
                assert_eq!((status, ids), (200, Some(600)), "{answer}");
                answered.fetch_add(1, Ordering::Relaxed);
            });
        }
        // From here on the others wait in the store's queue.
        eventually("a large call is answered", || answered.load(Ordering::Relaxed) > 0);
        for n in 0..3 {
            single.ok("POST", "messages/users", Some(&json!({ "to": [format!("one-{n}")], "body": {} })));
        }
        let answered = answered.load(Ordering::Relaxed);
        assert!(answered <= CALLS / 2, "{answered} of {CALLS} large calls were answered before three single messages");
    });
}

#[test]
fn an_app_that_sent_more_than_its_limit_waits_and_another_does_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let limit = [("IMPUSH_GATEWAY_API_MESSAGES_PER_S", "10")];
    let gateway = Gateway::start_in(dir.path(), free_port(), "", &limit);
    let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
    let other = rest.base.replace("/org/app", "/org/other");
    let token = operators(&gateway, &rest, &other);
    let to = |count: usize| json!({ "to": (0..count).map(|n| format!("user-{n}")).collect::<Vec<_>>(), "body": {} });
    // It is taken whole, and owed for a minute.
    rest.ok("POST", "messages/users", Some(&to(600)));
    let (status, answer) = rest.ask("POST", &format!("{}/messages/users", rest.base), Some(&to(1)));
    let why = answer["error_description"].as_str().unwrap_or_default();
    assert!(status == 429 && why.starts_with("too many messages of this app; again in 5"), "{status} {answer}");
    let (status, answer) = rest.ask_as(&token, "POST", &format!("{other}/messages/users"), Some(&to(1)));
    assert_eq!(status, 200, "{answer}");
    let counted = "impush_gateway_requests_limited_total{limit=\"messages\"} 1";
    assert!(rest.text("/metrics").lines().any(|line| line == counted), "{}", rest.text("/metrics"));
}

#[test]
fn a_call_to_many_that_a_kill_cut_off_half_way_is_finished_by_its_repeat_without_doubles() {
    const CALLS: i64 = 4;
    let dir = tempfile::tempdir().expect("a directory");
    let mut gateway = Gateway::start(dir.path(), "");
    let mut rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
    let bearer = operators(&gateway, &rest, &rest.base);
    let body =
        |call: i64| json!({ "to": (0..600).map(|n| format!("user-{call}-{n}")).collect::<Vec<_>>(), "body": {} });
    let address = rest.base.trim_start_matches("http://").split('/').next().expect("an address").to_owned();
    let calls: Vec<TcpStream> = (0..CALLS)
        .map(|call| {
            let body = body(call).to_string();
            let mut stream = TcpStream::connect(&address).expect("connected");
            let head = format!(
                "POST /org/app/messages/users HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {bearer}\r\n\
                 idempotency-key: call-{call}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(head.as_bytes()).expect("written");
            stream
        })
        .collect();
    let database = rusqlite::Connection::open(dir.path().join("state/gateway.sqlite")).expect("opened");
    let stored = |what: &str| -> i64 {
        database.query_row(&format!("SELECT count({what}) FROM messages"), [], |row| row.get(0)).expect("counted")
    };
    eventually("some of it is stored", || stored("*") > 0);
    gateway.process.kill();
    let half = stored("*");
    assert!(half < CALLS * 600, "all of it was stored at once");
    drop(calls);
    gateway = Gateway::start(dir.path(), "");
    rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
    for call in 0..CALLS {
        let (key, url) = (format!("call-{call}"), format!("{}/messages/users", rest.base));
        let (status, answer) = rest.ask_with("POST", &url, &[("idempotency-key", &key)], Some(&body(call)));
        assert_eq!((status, answer["data"].as_object().map(serde_json::Map::len)), (200, Some(600)), "{answer}");
    }
    assert_eq!(
        (stored("*"), stored("DISTINCT user")),
        (CALLS * 600, CALLS * 600),
        "{half} were stored before the kill"
    );
}

#[test]
fn a_gateway_on_mosquitto_delivers_like_one_with_its_own_broker() {
    if !clients_or_skip("a_gateway_on_mosquitto_delivers_like_one_with_its_own_broker") || !has("mosquitto") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let certificates = certificates(dir.path(), Flaw::None);
    let broker = Mosquitto::start(dir.path(), &certificates);
    let gateway = on_a_broker(dir.path(), &certificates, broker.tls);
    let token = gateway.user("ann");
    Agent::configure(&dir.path().join("a"), &format!("mqtts://localhost:{}", broker.tls), &certificates.ca, "");
    let mut agent = Agent::start(&dir.path().join("a"));
    agent.login("ann", &token);
    agent.process.event("link.up");
    let id = gateway.ok(&["send", "--app", "org/app", "ann", "over mosquitto"]);
    assert_eq!(agent.process.event("message.received")["id"], id.as_str());
}

#[test]
fn a_gateway_whose_store_is_older_than_the_world_learns_who_is_connected() {
    if !has("mosquitto") {
        skipped("a_gateway_whose_store_is_older_than_the_world_learns_who_is_connected", "mosquitto is not installed");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let certificates = certificates(dir.path(), Flaw::None);
    let broker = Mosquitto::start(dir.path(), &certificates);
    let mut gateway = on_a_broker(dir.path(), &certificates, broker.tls);
    let token = gateway.user("ann");
    Agent::configure(&dir.path().join("a"), &format!("mqtts://localhost:{}", broker.tls), &certificates.ca, "");
    let mut agent = Agent::start(&dir.path().join("a"));
    agent.login("ann", &token);
    agent.process.event("link.up");
    let rest = Rest::new(&gateway.reach, &certificates.ca);
    let online = |rest: &Rest| {
        // Asking often may be refused for a moment.
        let (_, devices) = rest.ask("GET", &format!("{}/users/ann/devices", rest.base), None);
        devices["entities"][0]["online"] == json!(true)
    };
    let within_a_minute = |rest: &Rest| {
        let start = Instant::now();
        while !online(rest) {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "the gateway does not know that the device is connected"
            );
        }
    };
    within_a_minute(&rest);
    gateway.process.kill();
    let store = rusqlite::Connection::open(gateway.home.join("state/gateway.sqlite")).expect("the store");
    let changed = store.execute("UPDATE devices SET online = 0, nonce = 'of before'", []).expect("set back");
    assert_eq!(changed, 1);
    drop(store);
    let gateway = on_a_broker(dir.path(), &certificates, broker.tls);
    let rest = Rest::new(&gateway.reach, &certificates.ca);
    within_a_minute(&rest);
    let mut device = json!(null);
    support::eventually("it may be asked again", || {
        let (status, answer) = rest.ask("GET", &format!("{}/users/ann/devices", rest.base), None);
        device = answer["entities"][0].clone();
        status == 200
    });
    assert_eq!(device["connection"], json!({"held_by": "broker"}), "the gateway makes up nothing of it");
    agent.process.terminate();
    let seen = agent.process.rest();
    let connected = seen.iter().filter(|line| line.contains(r#""link.up""#)).count();
    assert_eq!(connected, 1, "it greeted again over the connection that it had: {seen:?}");
}

/// A gateway that had a broker of its own, and now somebody else's over TLS at this port.
fn on_a_broker(dir: &Path, certificates: &Certificates, port: u16) -> Gateway {
    let extra = format!("[log]\nlevel = 'info'\n[vendors]\nca_file = '{}'\n", certificates.ca.display());
    let home = dir.join("g");
    std::fs::create_dir_all(&home).expect("made");
    let mut gateway = Gateway::start(&home, &extra);
    gateway.process.terminate();
    let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
    command.arg("--config").arg(home.join("gateway.toml")).env("IMPUSH_GATEWAY_BROKER_CA_FILE", &certificates.ca);
    command.args(["serve", "--announce", "--broker", &format!("mqtts://localhost:{port}")]);
    let mut process = Process::start(&mut command, false);
    gateway.reach = process.wait_for("the addresses", |line| serde_json::from_str(line).ok());
    gateway.process = process;
    gateway
}

/// A way to a port that can be cut: what goes over it ends, and nobody else gets through.
struct Cable {
    port: u16,
    whole: Arc<AtomicBool>,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Cable {
    fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let (whole, ends) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Vec::new())));
        let (still, kept) = (whole.clone(), ends.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten().filter(|_| still.load(Ordering::SeqCst)) {
                let far = TcpStream::connect(("127.0.0.1", target)).expect("connected");
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().expect("cloned"), to.try_clone().expect("cloned"));
                    kept.lock().expect("held").push(from.try_clone().expect("cloned"));
                    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                }
            }
        });
        Self { port, whole, ends }
    }

    fn cut(&self) {
        self.whole.store(false, Ordering::SeqCst);
        for end in self.ends.lock().expect("held").drain(..) {
            drop(end.shutdown(std::net::Shutdown::Both));
        }
    }

    fn mend(&self) {
        self.whole.store(true, Ordering::SeqCst);
    }
}

#[test]
fn what_a_gateway_cut_off_from_its_broker_accepts_reaches_a_device_that_stayed_connected() {
    if !clients_or_skip("what_a_gateway_cut_off_from_its_broker_accepts_reaches_a_device_that_stayed_connected")
        || !has("mosquitto")
    {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let certificates = certificates(dir.path(), Flaw::None);
    let broker = Mosquitto::start(dir.path(), &certificates);
    let cable = Cable::to(broker.tls);
    let gateway = on_a_broker(dir.path(), &certificates, cable.port);
    let rest = Rest::new(&gateway.reach, &certificates.ca);
    Agent::configure(&dir.path().join("a"), &format!("mqtts://localhost:{}", broker.tls), &certificates.ca, "");
    let mut agent = Agent::start(&dir.path().join("a"));
    agent.login("ann", &gateway.user("ann"));
    let send = |text: &str| {
        let message = json!({"to": ["ann"], "body": {"type": "txt", "msg": text}});
        rest.ok("POST", "messages/users", Some(&message))["data"]["ann"].as_str().expect("an id").to_owned()
    };
    let before = send("before");
    rest.traced(&before, &["acked"]);
    cable.cut();
    let id = send("meanwhile");
    rest.traced(&id, &["waiting: for the broker"]);
    cable.mend();
    rest.traced(&id, &["published: to the connection, now that the broker is there", "acked"]);
    agent.process.terminate();
    let log = agent.process.rest().join("\n");
    assert_eq!(log.matches("\"link.up\"").count(), 1, "the device stayed connected: {log}");
}

/// A broker that gives everything that anyone says to everyone who subscribes, `$SYS` too, as EMQX and RMQTT say there
/// what they see.
fn telling_broker() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let subscribers = Arc::new(Mutex::new(Vec::new()));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let subscribers = subscribers.clone();
            std::thread::spawn(move || tell(stream, &subscribers));
        }
    });
    port
}

fn tell(mut stream: TcpStream, subscribers: &Mutex<Vec<TcpStream>>) {
    let mut bytes = BytesMut::new();
    let send = |mut to: &TcpStream, packet: &Packet| {
        let mut bytes = BytesMut::new();
        write_packet(packet, &mut bytes).expect("a packet");
        // Whoever is gone hears nothing.
        drop(to.write_all(&bytes));
    };
    loop {
        while let Some(packet) = next_packet(&mut bytes, 100_000).expect("a packet") {
            match packet {
                Packet::Connect(..) => {
                    let code = ConnectReturnCode::Success;
                    send(&stream, &Packet::ConnAck(ConnAck { session_present: false, code, properties: None }));
                }
                Packet::Subscribe(Subscribe { pkid, filters, .. }) => {
                    let return_codes = filters.iter().map(|_| SubscribeReasonCode::Success(QoS::AtMostOnce)).collect();
                    send(&stream, &Packet::SubAck(SubAck { pkid, return_codes, properties: None }));
                    subscribers.lock().expect("unharmed").push(stream.try_clone().expect("a socket"));
                }
                Packet::Publish(publish) => {
                    let heard = Publish { qos: QoS::AtMostOnce, pkid: 0, ..publish.clone() };
                    // One who subscribed several times is told once.
                    let to = subscribers.lock().expect("unharmed").last().map(|s| s.try_clone().expect("a socket"));
                    to.iter().for_each(|to| send(to, &Packet::Publish(heard.clone())));
                    if publish.qos == QoS::AtLeastOnce {
                        send(&stream, &Packet::PubAck(PubAck::new(publish.pkid, None)));
                    }
                }
                Packet::PingReq(_) => send(&stream, &Packet::PingResp(PingResp)),
                _ => return,
            }
        }
        let mut more = [0; 4096];
        match stream.read(&mut more) {
            Ok(read @ 1..) => bytes.extend_from_slice(&more[..read]),
            _ => return,
        }
    }
}

#[test]
fn a_broker_that_tells_of_its_clients_cuts_the_wait_for_acknowledgements_short() {
    if !clients_or_skip("a_broker_that_tells_of_its_clients_cuts_the_wait_for_acknowledgements_short") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let port = telling_broker();
    let config = dir.path().join("gateway.toml");
    let (api, state) = (free_port(), dir.path().join("state"));
    let text = format!(
        "[api]\nlisten = '127.0.0.1:{api}'\n[broker]\nurl = 'mqtt://127.0.0.1:{port}'\nclient_events = true\n\
         [delivery]\nack_deadline_ms = 300000\n[paths]\nstate = '{}'\n[log]\nformat = 'json'\n",
        state.display()
    );
    std::fs::write(&config, text).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
    let mut gateway = Process::start(command.arg("--config").arg(&config).arg("serve"), true);
    gateway.event("broker.up");
    let reach = json!({"api": format!("http://127.0.0.1:{api}"), "admin_secret_file": state.join("admin.secret")});
    let rest = Rest::new(&reach, &certificates(dir.path(), Flaw::None).ca);
    rest.ok("POST", "users", Some(&json!({"username": "ann", "password": "a password"})));
    let publish = |topic: &str, payload: &Value| {
        let done = Command::new("mosquitto_pub")
            .args(["-V", "mqttv5", "-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-t", topic])
            .args(["-m", &payload.to_string()])
            .output()
            .expect("published");
        assert!(done.status.success(), "{done:?}");
    };
    let hello =
        json!({"v": 1, "type": "hello", "nonce": "n1", "agent": "test", "channel": "none", "platform": "linux"});
    publish("im/v1/org%23app/ann/phone/up", &hello);
    gateway.event("device.online");
    let message = json!({"to": ["ann"], "body": {"type": "txt", "msg": "to nobody there"}});
    let sent = rest.ok("POST", "messages/users", Some(&message));
    let id = sent["data"]["ann"].as_str().expect("an id");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after it").as_millis();
    let now = u64::try_from(now).expect("a time");
    let tell = |client: &str, reason: &str, at_ms: u64| {
        let topic = format!("$SYS/brokers/1/clients/{client}/disconnected");
        publish(&topic, &json!({"clientid": client, "reason": reason, "disconnected_at": at_ms}));
    };
    // Of an earlier connection, or of one that another has taken over, or of nobody.
    tell("ann:phone@org%23app", "tcp_closed", now - 60_000);
    tell("ann:phone@org%23app", "takenover", now + 60_000);
    tell("somebody", "tcp_closed", now + 60_000);
    tell("ann:tablet@org%23app", "tcp_closed", now + 60_000);
    publish("$SYS/brokers/1/clients/x/disconnected", &json!("what?"));
    gateway.event("input.refused");
    // One device's words are carried out in their order: by this one all of them were.
    publish("im/v1/org%23app/ann/phone/up", &hello);
    gateway.event("device.online");
    assert!(!gateway.seen.iter().any(|line| line.contains("device.doubted")), "{:?}", gateway.seen);
    tell("ann:phone@org%23app", "tcp_closed", now + 60_000);
    let doubted = gateway.event("device.doubted");
    assert_eq!((&doubted["device"], &doubted["under_way"]), (&json!("ann:phone@org%23app"), &json!(1)));
    rest.traced(id, &["went_offline: the broker says", "no_ack", "to the connection again"]);
    // It may be an old connection's end that comes late: the device stays reachable.
    assert_eq!(rest.ok("GET", "users/ann/devices", None)["entities"][0]["online"], true);
}

#[test]
fn a_phone_rests_while_its_certificate_is_on_and_holds_a_connection_while_it_is_off() {
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(&dir.path().join("g"), "");
    let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
    let fields = json!({"app_secret": "s", "package": "com.example"});
    rest.ok("POST", "certificates", Some(&json!({"vendor": "xiaomi", "name": "288", "fields": fields})));
    let root = dir.path().join("phone");
    std::fs::create_dir_all(root.join("system")).expect("made");
    let properties = "ro.build.version.release=12\nro.product.manufacturer=Xiaomi\nro.product.brand=Redmi\nro.miui.ui.version.name=V12\nro.miui.ui.version.code=10\n";
    std::fs::write(root.join("system/build.prop"), properties).expect("written");
    let home = dir.path().join("a");
    let extra = format!(
        "[device]\nroot = '{}'\n[channel]\nlinger_s = 1\ncheck_first_s = 2\ncheck_most_s = 4\n[certificates]\nMICertificateName = '288'\n",
        root.display()
    );
    Agent::configure(&home, &format!("mqtts://localhost:{}", gateway.port()), Path::new(gateway.ca()), &extra);
    let mut agent = Agent::start(&home);
    agent.login("ann", &gateway.user("ann"));
    agent.process.event("link.up");
    agent.ok(&["token", "set", "xiaomi", "d//igwEhgBGCI2TG6lWqlNH5Ma8BHPtVQDBUSr7KXm7bk1EyO3xl/7ysVeyJuZ6j"]);
    let until = |agent: &Agent, state: &str, channel: &str| {
        let deadline = std::time::Instant::now() + support::LIMIT;
        loop {
            let status = agent.status();
            if status["state"] == state && status["channel_state"] == channel {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "never {state} and {channel}: {status}");
        }
    };
    until(&agent, "resting", "unproven");
    rest.ok("PATCH", "certificates/288", Some(&json!({"enabled": false})));
    until(&agent, "online", "disabled");
    rest.ok("PATCH", "certificates/288", Some(&json!({"enabled": true})));
    until(&agent, "resting", "unproven");
}

/// One connection to the REST API, kept as long as the gateway keeps it.
struct Kept {
    address: String,
    token: String,
    stream: Option<BufReader<TcpStream>>,
}

impl Kept {
    fn begin(&mut self, method: &str, path: &str, body: &str, part: usize) {
        let Self { address, token, stream } = self;
        let stream = stream.get_or_insert_with(|| {
            let stream = TcpStream::connect(&*address).expect("accepted");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
            BufReader::new(stream)
        });
        let length = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{}",
            &body[..part]
        );
        stream.get_mut().write_all(text.as_bytes()).expect("sent");
    }

    /// The answer's head and body.
    fn end(&mut self, rest: &str) -> (String, String) {
        let stream = self.stream.as_mut().expect("begun");
        stream.get_mut().write_all(rest.as_bytes()).expect("sent");
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(stream.read_line(&mut head).expect("an answer"), 0, "cut off: {head}");
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let mut body = vec![0; length.parse().expect("a number")];
        stream.read_exact(&mut body).expect("a body");
        if head.contains("connection: close") {
            self.stream = None;
        }
        (head, String::from_utf8(body).expect("text"))
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> (String, String) {
        self.begin(method, path, body, body.len());
        self.end("")
    }
}

/// A gateway that is asked to stop with so many seconds for its balancers, and connections to its API.
fn draining(dir: &Path, seconds: &str) -> (Gateway, impl Fn() -> Kept + use<>) {
    let gateway = Gateway::start_in(dir, support::free_port(), "", &[("IMPUSH_GATEWAY_API_DRAIN_S", seconds)]);
    let address = gateway.reach["api"].as_str().expect("an address").trim_start_matches("http://").to_owned();
    gateway.user("ann");
    let grant = json!({"grant_type": "client_credentials", "client_id": "admin", "client_secret":
        std::fs::read_to_string(gateway.home.join("state/admin.secret")).expect("read")});
    let mut first = Kept { address: address.clone(), token: String::new(), stream: None };
    let (_, answer) = first.ask("POST", "/org/app/token", &grant.to_string());
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let token = answer["access_token"].as_str().expect("a token").to_owned();
    (gateway, move || Kept { address: address.clone(), token: token.clone(), stream: None })
}

const MESSAGES: &str = "/org/app/messages/users";
const MESSAGE: &str = r#"{"to": ["ann"], "body": {"type": "txt", "msg": "hello"}}"#;

#[test]
fn a_gateway_that_is_to_stop_tells_its_balancer_before_it_closes_and_no_call_fails() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut gateway, client) = draining(dir.path(), "2");
    let left = Arc::new(AtomicBool::new(false));
    let sent: [Arc<AtomicBool>; 2] = Default::default();
    let senders: Vec<_> = sent
        .iter()
        .map(|sent| {
            let (mut client, left, sent) = (client(), left.clone(), sent.clone());
            std::thread::spawn(move || {
                let (mut before, mut since) = (0, 0);
                while !left.load(Ordering::Relaxed) {
                    let (head, _) = client.ask("POST", MESSAGES, MESSAGE);
                    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
                    sent.store(true, Ordering::Relaxed);
                    *if client.stream.is_some() { &mut before } else { &mut since } += 1;
                }
                (before, since)
            })
        })
        .collect();
    let mut slow = client();
    slow.begin("POST", MESSAGES, MESSAGE, 9);
    let ready = || client().ask("GET", "/readyz", "");
    for _ in 0..10 {
        let (head, body) = ready();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}{body}");
    }
    support::eventually("each sends", || sent.iter().all(|sent| sent.load(Ordering::Relaxed)));
    gateway.process.signal(rustix::process::Signal::TERM);
    // As HAProxy does: after three bad answers in a row it sends elsewhere.
    let mut bad = 0;
    while bad < 3 {
        let (head, body) = ready();
        if head.starts_with("HTTP/1.1 503") {
            assert!(body.contains(r#""error":"stopping""#), "{body}");
            bad += 1;
        }
    }
    assert!(client().ask("GET", "/healthz", "").0.starts_with("HTTP/1.1 200"), "it is alive");
    drop(TcpStream::connect(("127.0.0.1", gateway.port().parse().expect("a port"))).expect("devices still get in"));
    left.store(true, Ordering::Relaxed);
    for sender in senders {
        let (before, since) = sender.join().expect("no call failed");
        assert!(before > 0 && since > 0, "{before} {since}");
    }
    support::eventually("the listener closes", || TcpStream::connect(&slow.address).is_err());
    let (head, _) = slow.end(&MESSAGE[9..]);
    assert!(head.starts_with("HTTP/1.1 200"), "what was under way is finished: {head}");
    assert!(gateway.process.child.wait().expect("ended").success());
}

#[test]
fn a_second_signal_ends_the_wait_for_balancers() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut gateway, client) = draining(dir.path(), "300");
    gateway.process.signal(rustix::process::Signal::TERM);
    support::eventually("/readyz says so", || client().ask("GET", "/readyz", "").0.starts_with("HTTP/1.1 503"));
    assert!(gateway.process.terminate().success());
}
