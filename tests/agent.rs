//! The agent as a process against a real mosquitto over TLS, and against what can be wrong around it.

mod support;

use serde_json::{Value, json};
use std::path::Path;
use support::{Agent, Flaw, Mosquitto, Process, certificates, has, impush, skipped};

fn mosquitto_or_skip(test: &str) -> bool {
    let there = has("mosquitto") && has("mosquitto_pub") && has("mosquitto_sub");
    if !there {
        skipped(test, "mosquitto and its clients are not installed");
    }
    there
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// A running agent with mosquitto as its server, and what is published on the topics asked for.
struct Stage {
    dir: tempfile::TempDir,
    broker: Mosquitto,
    heard: Process,
    agent: Agent,
}

impl Stage {
    fn new(topics: &str, extra: impl FnOnce(&Path) -> String) -> Self {
        let dir = home();
        let certificates = certificates(dir.path(), Flaw::None);
        let mut broker = Mosquitto::start(dir.path(), &certificates);
        let heard = broker.subscribe(topics);
        let (home, url) = (dir.path().join("a"), format!("mqtts://localhost:{}", broker.tls));
        Agent::configure(&home, &url, &certificates.ca, &extra(dir.path()));
        let agent = Agent::start(&home);
        Self { dir, broker, heard, agent }
    }
}

#[allow(clippy::disallowed_methods, reason = "between two questions")]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + support::LIMIT;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn down(agent: &Agent) -> String {
    format!("im/v1/org%23app/ann/{}/down", agent.status()["device_id"].as_str().expect("an id"))
}

fn message(id: &str) -> Vec<u8> {
    json!({ "v": 1, "type": "message", "id": id, "from": "bob", "to": "ann", "sent_at_ms": 1, "body": { "msg": "hi" } })
        .to_string()
        .into_bytes()
}

#[test]
fn a_message_through_mosquitto_over_tls_is_stored_acknowledged_and_watched() {
    if !mosquitto_or_skip("a_message_through_mosquitto_over_tls_is_stored_acknowledged_and_watched") {
        return;
    }
    let Stage { dir: _dir, broker, heard: mut up, mut agent } = Stage::new("im/v1/+/+/+/up", |_| String::new());
    agent.login("ann", "secret");
    agent.process.event("link.up");
    up.wait_for("hello", |line| line.contains(r#""type":"hello""#).then_some(()));
    broker.publish(&down(&agent), &message("m1"));
    agent.process.event("message.received");
    up.wait_for("ack", |line| line.contains(r#""type":"ack","ids":["m1"]"#).then_some(()));
    let mut watch = Process::start(impush(&agent.home).args(["watch", "--json"]), false);
    let shown: Value = watch.wait_for("m1", |line| serde_json::from_str(line).ok());
    assert_eq!(shown["id"], "m1");
    // The same message again, as after a lost acknowledgement: acknowledged, and shown no second time.
    broker.publish(&down(&agent), &message("m1"));
    agent.process.event("message.duplicate");
    broker.publish(&down(&agent), &message("m2"));
    assert_eq!(watch.wait_for("m2", |line| serde_json::from_str::<Value>(line).ok())["id"], "m2");
}

#[test]
fn a_wake_lock_is_held_while_something_is_awaited_and_given_back() {
    if !mosquitto_or_skip("a_wake_lock_is_held_while_something_is_awaited_and_given_back") {
        return;
    }
    let power = |dir: &Path| dir.join("root/sys/power");
    let Stage { dir, broker, mut agent, .. } = Stage::new("none", |dir| {
        std::fs::create_dir_all(power(dir)).expect("made");
        for file in ["wake_lock", "wake_unlock"] {
            std::fs::write(power(dir).join(file), "").expect("written");
        }
        std::fs::create_dir_all(dir.join("root/etc")).expect("made");
        std::fs::write(dir.join("root/etc/hosts"), "127.0.0.1 localhost\n").expect("written");
        format!("[device]\nroot = '{}'\n", dir.join("root").display())
    });
    agent.login("ann", "secret");
    agent.process.event("link.up");
    let written = |file: &str| std::fs::read_to_string(power(dir.path()).join(file)).expect("read");
    let lock = |agent: &Agent| agent.status()["wake_lock"].clone();
    until("given back", || !written("wake_unlock").is_empty());
    assert!(written("wake_lock").starts_with("impush 2"), "an attempt may take 21 s: {}", written("wake_lock"));
    let taken = lock(&agent)["taken"].as_u64().expect("a number");
    let held = lock(&agent)["held_ms"].as_u64().expect("a number");
    assert!(taken >= 1 && held < 20_000, "{taken} {held}");
    // Nothing is awaited, nothing held: asking changes nothing.
    assert_eq!(lock(&agent)["held_ms"], held);
    broker.publish(&down(&agent), &message("m1"));
    agent.process.event("message.received");
    until("taken for the message", || lock(&agent)["taken"].as_u64() > Some(taken));
}

#[test]
fn the_inbox_is_listed_and_cleared_without_a_running_agent_and_goes_with_its_user() {
    if !mosquitto_or_skip("the_inbox_is_listed_and_cleared_without_a_running_agent_and_goes_with_its_user") {
        return;
    }
    let Stage { dir: _dir, broker, heard: mut up, mut agent } = Stage::new("im/v1/+/+/+/up", |_| String::new());
    agent.login("ann", "secret");
    agent.process.event("link.up");
    up.wait_for("hello", |line| line.contains(r#""type":"hello""#).then_some(()));
    for id in ["m1", "m2"] {
        broker.publish(&down(&agent), &message(id));
        agent.process.event("message.received");
    }
    let refused = agent.run(&["inbox", "list"]);
    assert_eq!(refused.status.code(), Some(75));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("stop it"));
    agent.process.terminate();
    let listed = agent.ok(&["inbox", "list", "--json"]);
    let listed: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let what =
        |line: &Value| (line["number"].as_u64(), line["id"].clone(), line["from"].clone(), line.get("body").cloned());
    assert_eq!(what(&listed[0]), (Some(1), json!("m1"), json!("bob"), None));
    assert_eq!(listed.len(), 2);
    assert!(agent.ok(&["inbox", "list", "--bodies"]).contains(r#"{"msg":"hi"}"#));
    agent.ok(&["inbox", "clear"]);
    assert_eq!(agent.ok(&["inbox", "list"]), "");
    let mut agent = Agent::start(&agent.home);
    agent.process.event("link.up");
    broker.publish(&down(&agent), &message("m1"));
    agent.process.event("message.duplicate");
    broker.publish(&down(&agent), &message("m3"));
    agent.process.event("message.received");
    agent.ok(&["logout"]);
    agent.login("bob", "secret");
    assert_eq!(agent.status()["inbox"], 0, "ann's messages are not bob's");
    agent.process.terminate();
    assert_eq!(agent.ok(&["inbox", "list"]), "");
}

#[test]
fn a_broker_that_has_not_all_of_mqtt_5_is_spoken_to_without() {
    if !mosquitto_or_skip("a_broker_that_has_not_all_of_mqtt_5_is_spoken_to_without") {
        return;
    }
    for lacks in ["retain_available false", "max_qos 0", "retain_available false\nmax_qos 0", "max_packet_size 64"] {
        let dir = home();
        let certificates = certificates(dir.path(), Flaw::None);
        let broker = Mosquitto::start_with(dir.path(), &certificates, lacks);
        let home = dir.path().join("a");
        Agent::configure(&home, &format!("mqtts://localhost:{}", broker.tls), &certificates.ca, "");
        let mut agent = Agent::start(&home);
        agent.login("ann", "secret");
        if lacks.starts_with("max_packet_size") {
            let why = agent.process.event("link.down")["detail"].as_str().expect("why").to_owned();
            assert!(why.contains("max_packet_size"), "{why}");
            continue;
        }
        agent.process.event("link.up");
        if lacks.contains("max_qos") {
            agent.process.event("link.at_most_once");
        }
        broker.publish(&down(&agent), &message("m1"));
        agent.process.event("message.received");
    }
}

#[test]
fn a_gateway_that_answers_an_earlier_connections_hello_hears_this_ones_again() {
    if !mosquitto_or_skip("a_gateway_that_answers_an_earlier_connections_hello_hears_this_ones_again") {
        return;
    }
    let Stage { dir: _dir, broker, heard: mut up, mut agent } = Stage::new("im/v1/+/+/+/up", |_| String::new());
    agent.login("ann", "secret");
    agent.process.event("link.up");
    let hello = |line: &str| {
        let said: Value = serde_json::from_str(line.split_once(' ')?.1).ok()?;
        (said["type"] == "hello").then(|| said["nonce"].clone())
    };
    let own = up.wait_for("hello", hello);
    let answer = |nonce: &Value| json!({"v": 1, "type": "settings", "nonce": nonce}).to_string().into_bytes();
    // The right answer, too, may come after the wrong one: which hello counts at the gateway is not known.
    broker.publish(&down(&agent), &answer(&json!("0123456789abcdef")));
    broker.publish(&down(&agent), &answer(&own));
    assert_eq!(up.wait_for("a second hello", hello), own);
}

#[test]
fn a_websocket_carries_the_connection_where_nothing_else_gets_out() {
    if !mosquitto_or_skip("a_websocket_carries_the_connection_where_nothing_else_gets_out") {
        return;
    }
    let dir = home();
    let certificates = certificates(dir.path(), Flaw::None);
    let broker = Mosquitto::start(dir.path(), &certificates);
    let closed = support::free_port();
    let extra = "[keep_alive]\nstart_s = 5\nfloor_s = 5\n";
    Agent::configure(&dir.path().join("a"), &format!("mqtts://localhost:{closed}"), &certificates.ca, extra);
    let file = dir.path().join("a/impush.toml");
    let text = std::fs::read_to_string(&file).expect("read");
    let fallback = format!("[server]\nfallback_urls = ['ws://127.0.0.1:{}/mqtt']", broker.websocket);
    std::fs::write(&file, text.replacen("[server]", &fallback, 1)).expect("written");
    let mut agent = Agent::start(&dir.path().join("a"));
    agent.login("ann", "secret");
    assert!(agent.process.event("link.up")["server"].as_str().expect("a server").starts_with("ws://"));
    // Larger than one frame of anybody's: bytes, not frames, are what counts.
    let mut large: Value = serde_json::from_slice(&message("large")).expect("JSON");
    large["body"]["msg"] = json!("x".repeat(50_000));
    broker.publish(&down(&agent), large.to_string().as_bytes());
    agent.process.event("message.received");
}

#[test]
fn bad_payloads_are_counted_acknowledged_and_never_come_back() {
    if !mosquitto_or_skip("bad_payloads_are_counted_acknowledged_and_never_come_back") {
        return;
    }
    let dir = home();
    let certificates = certificates(dir.path(), Flaw::None);
    let broker = Mosquitto::start(dir.path(), &certificates);
    Agent::configure(&dir.path().join("a"), &format!("mqtts://localhost:{}", broker.tls), &certificates.ca, "");
    let mut agent = Agent::start(&dir.path().join("a"));
    agent.login("ann", "secret");
    agent.process.event("link.up");
    let topic = down(&agent);
    broker.publish(&topic, b"\xff\xfe not JSON");
    broker.publish(&topic, br#"{"v":1,"type":"dance"}"#);
    broker.publish(&topic, br#"{"v":9,"type":"message"}"#);
    broker.publish(&topic, &vec![b'x'; 70 * 1024]);
    // Larger than the packet size the agent advertised: the broker must withhold it.
    broker.publish(&topic, &vec![b'x'; 200 * 1024]);
    broker.publish(&topic, &message("after"));
    agent.process.event("message.received");
    let refused = agent.status()["refused"].clone();
    assert_eq!(refused, json!({ "malformed": 1, "unknown_type": 1, "version": 1, "too_large": 1 }));
    agent.ok(&["reconnect"]);
    agent.process.event("link.up");
    broker.publish(&topic, &message("again"));
    agent.process.event("message.received");
    assert_eq!(agent.status()["refused"], refused, "nothing was delivered a second time");
}

#[test]
fn a_certificate_that_cannot_be_trusted_is_named_and_tried_again_soon_by_an_agent_that_has_just_come() {
    if !mosquitto_or_skip(
        "a_certificate_that_cannot_be_trusted_is_named_and_tried_again_soon_by_an_agent_that_has_just_come",
    ) {
        return;
    }
    for (flaw, cause) in
        [(Flaw::Expired, "tls_expired"), (Flaw::NotYetValid, "tls_not_yet_valid"), (Flaw::WrongName, "tls_wrong_name")]
    {
        let dir = home();
        let certificates = certificates(dir.path(), flaw);
        let broker = Mosquitto::start(dir.path(), &certificates);
        refused_with(dir.path(), broker.tls, &certificates.ca, cause);
    }
    let (dir, other) = (home(), home());
    let broker = Mosquitto::start(dir.path(), &certificates(dir.path(), Flaw::None));
    refused_with(dir.path(), broker.tls, &certificates(other.path(), Flaw::None).ca, "tls_untrusted");
}

fn refused_with(dir: &Path, port: u16, ca: &Path, cause: &str) {
    Agent::configure(&dir.join("a"), &format!("mqtts://localhost:{port}"), ca, "");
    let mut agent = Agent::start(&dir.join("a"));
    agent.login("ann", "secret");
    let event = agent.process.event("link.down");
    assert_eq!(event["cause"], cause);
    let status = agent.status();
    assert_eq!((&status["state"], &status["cause"]["word"]), (&json!("waiting"), &json!(cause)));
    let pause = ["base_s", "jitter_s"].map(|part| status["next_attempt"][part].as_f64().expect("a pause"));
    assert!((5.0..=30.0).contains(&(pause[0] + pause[1])), "{status}");
}

#[test]
fn sigterm_disconnects_cleanly_and_says_offline_first() {
    if !mosquitto_or_skip("sigterm_disconnects_cleanly_and_says_offline_first") {
        return;
    }
    let Stage { dir: _dir, mut broker, heard: mut states, mut agent } =
        Stage::new("im/v1/+/+/+/state", |_| String::new());
    agent.login("ann", "secret");
    states.wait_for("online", |line| line.contains(r#""online":true"#).then_some(()));
    let status = agent.process.terminate();
    assert_eq!(status.code(), Some(0));
    states.wait_for("offline", |line| line.contains(r#""online":false"#).then_some(()));
    broker.process.wait_for("DISCONNECT", |line| line.contains("Received DISCONNECT").then_some(()));
    assert!(agent.process.rest().iter().any(|l| l.contains("link.closed") && l.contains(r#""clean":true"#)));
}

#[test]
fn a_healthy_run_logs_no_warning_and_no_secret() {
    if !mosquitto_or_skip("a_healthy_run_logs_no_warning_and_no_secret") {
        return;
    }
    let Stage { dir: _dir, broker: _broker, heard: mut up, mut agent } = Stage::new("im/v1/+/+/+/up", |dir| {
        let tree = dir.join("tree/vendor");
        std::fs::create_dir_all(&tree).expect("made");
        std::fs::write(tree.join("build.prop"), "ro.miui.ui.version.name=V12\n").expect("written");
        let root = dir.join("tree");
        format!("[device]\nroot = '{}'\n[certificates]\nMICertificateName = '288'\n", root.display())
    });
    let token = "d//igwEhgBGCI2TG6lWqlK2rWf8dUBvBaNMf1/wOBJxXvUDGhs6FOSiZJrR4JmMR";
    agent.ok(&["token", "set", "xiaomi", token]);
    agent.login("ann", "a-very-secret-password");
    up.wait_for("bind", |line| line.contains(r#""type":"bind""#).then_some(()));
    agent.process.terminate();
    for line in agent.process.rest() {
        assert!(!line.contains(r#""level":"WARN""#) && !line.contains(r#""level":"ERROR""#), "{line}");
        assert!(!line.contains(token) && !line.contains("a-very-secret-password"), "{line}");
    }
}

/// An agent that is up but has no server: what needs none.
fn lonely(dir: &Path) -> Agent {
    let certificates = certificates(dir, Flaw::None);
    Agent::configure(&dir.join("a"), "mqtts://localhost:1", &certificates.ca, "");
    Agent::start(&dir.join("a"))
}

#[test]
fn a_second_agent_on_the_same_state_is_refused_with_the_firsts_pid() {
    let dir = home();
    let agent = lonely(dir.path());
    let second = impush(&agent.home).arg("run").output().expect("ran");
    assert_eq!(second.status.code(), Some(75));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&format!("pid {}", agent.process.child.id())), "{said}");
}

#[test]
fn a_token_that_cannot_be_is_refused_at_the_socket_with_the_reason() {
    let dir = home();
    let agent = lonely(dir.path());
    let refused = agent.run(&["token", "set", "apns", "not hexadecimal"]);
    assert_eq!(refused.status.code(), Some(65));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot hold the character"), "{refused:?}");
    assert_eq!(agent.status()["refused"]["bad_token"], 1);
    assert_eq!(agent.run(&["token", "set", "nokia", "x"]).status.code(), Some(64), "no such channel");
}

#[test]
fn state_survives_a_kill_and_corrupt_state_is_set_aside() {
    let dir = home();
    let mut agent = lonely(dir.path());
    agent.ok(&["token", "set", "meizu", &"a".repeat(45)]);
    agent.login("ann", "secret");
    let device = agent.status()["device_id"].clone();
    agent.process.kill();
    let mut agent = Agent::start(&dir.path().join("a"));
    let status = agent.status();
    assert_eq!((&status["device_id"], &status["user"]), (&device, &json!("ann")));
    agent.process.kill();
    let login = dir.path().join("a/state/login.json");
    std::fs::write(&login, b"{\"user\":").expect("torn");
    let process = Process::start(impush(&agent.home).arg("run"), true);
    let mut agent = Agent { process, home: agent.home.clone() };
    assert_eq!(agent.process.event("store.corrupt")["level"], "ERROR");
    agent.process.event("agent.started");
    let status = agent.status();
    assert_eq!((&status["device_id"], &status["user"]), (&device, &json!("ann")), "a copy was whole");
    assert!(dir.path().join("a/state/login.json.corrupt-1").exists());
}

#[test]
fn the_status_on_a_broker_without_a_gateway_says_that_none_answers() {
    if !mosquitto_or_skip("the_status_on_a_broker_without_a_gateway_says_that_none_answers") {
        return;
    }
    let mut stage = Stage::new("im/v1/#", |_| String::new());
    stage.agent.login("ann", "secret");
    stage.agent.process.event("link.up");
    let text = stage.agent.ok(&["status"]);
    assert!(text.starts_with("online") && text.contains("no gateway has answered"), "{text}");
}

/// An agent on the state that is there, started without waiting for anything.
fn on_board(home: &Path, serial: &str) -> Agent {
    let tree = home.join("root/proc/device-tree");
    std::fs::create_dir_all(&tree).expect("made");
    std::fs::write(tree.join("serial-number"), serial).expect("written");
    let ca = certificates(home.parent().expect("a parent"), Flaw::None).ca;
    let root = format!("[device]\nroot = '{}'\n", home.join("root").display());
    Agent::configure(home, "mqtts://localhost:1", &ca, &root);
    Agent { process: Process::start(impush(home).arg("run"), true), home: home.to_owned() }
}

#[test]
fn a_copied_state_directory_becomes_another_device_on_another_machine_and_stays_on_its_own() {
    let dir = home();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let mut first = on_board(&a, "board-a");
    first.process.event("agent.started");
    first.login("ann", "secret");
    let device = first.status()["device_id"].clone();
    let refused = first.run(&["reset-identity"]);
    assert_eq!(refused.status.code(), Some(75), "{refused:?}");
    first.process.kill();
    std::fs::create_dir_all(b.join("state")).expect("made");
    for name in ["identity.json", "login.json"] {
        std::fs::copy(a.join("state").join(name), b.join("state").join(name)).expect("copied");
    }
    let mut copy = on_board(&b, "board-b");
    let moved = copy.process.event("identity.moved");
    assert_eq!((&moved["level"], &moved["before"]), (&json!("WARN"), &device));
    copy.process.event("agent.started");
    let status = copy.status();
    assert_ne!(status["device_id"], device);
    assert_eq!(status["user"], "ann", "the login stays");
    let mut again = on_board(&a, "board-a");
    again.process.event("agent.started");
    assert_eq!(again.status()["device_id"], device);
    again.process.kill();
    again.ok(&["reset-identity"]);
    let mut reset = on_board(&a, "board-a");
    reset.process.event("agent.started");
    let status = reset.status();
    assert_ne!(status["device_id"], device);
    assert_eq!(status["user"], "ann");
}

#[test]
fn a_configuration_that_cannot_work_exits_78_and_says_what_to_write() {
    let dir = home();
    let file = dir.path().join("impush.toml");
    for (text, said) in [
        ("[server]\nulr = 'mqtts://a'\n", "`server.url`"),
        ("[server]\nurl = 'mqtts://a'\n", "server.app"),
        ("[server\n", "not valid TOML"),
        ("[server]\nurl = 'mqtts://a'\napp = 'o#a'\nca_file = '/nowhere/ca.pem'\n", "/nowhere/ca.pem"),
    ] {
        std::fs::write(&file, text).expect("written");
        let output = impush(dir.path()).arg("run").output().expect("ran");
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
    }
}

#[test]
fn the_environment_can_hold_the_whole_configuration() {
    let dir = home();
    std::fs::write(dir.path().join("impush.toml"), "").expect("written");
    let output = impush(dir.path())
        .args(["config", "check"])
        .env("IMPUSH_SERVER_URL", "mqtts://a")
        .env("IMPUSH_SERVER_APP", "o#a")
        .env("IMPUSH_CERTIFICATES_MICERTIFICATENAME", "288")
        .output()
        .expect("ran");
    assert!(output.status.success(), "{output:?}");
    let shown = impush(dir.path())
        .args(["config", "show"])
        .env("IMPUSH_SERVER_PROXY", "http://u:s3cret@p:1")
        .output()
        .expect("ran");
    let shown = String::from_utf8(shown.stdout).expect("text");
    assert!(shown.contains("linger_s") && !shown.contains("s3cret"), "{shown}");
}

#[test]
fn commands_without_an_agent_say_so_and_exit_69() {
    let dir = home();
    let certificates = certificates(dir.path(), Flaw::None);
    Agent::configure(&dir.path().join("a"), "mqtts://localhost:1", &certificates.ca, "");
    let output = impush(&dir.path().join("a")).arg("status").output().expect("ran");
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("impush run"), "{output:?}");
}
