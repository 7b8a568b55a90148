//! What apps and users decide, through a whole gateway: silence, templates, filters, kicks, reports.

mod support;

use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Agent, Gateway, Process, Rest};

const PACKAGE: &str = "com.example.app";

/// A gateway, the clouds, and users with a bound phone that is offline.
struct Stage {
    dir: tempfile::TempDir,
    _clouds: Process,
    url: String,
    gateway: Gateway,
    rest: Rest,
}

impl Stage {
    fn new(extra: &str) -> Self {
        Self::keeping(5, extra)
    }

    /// With so many messages kept for a device.
    fn keeping(most: u32, extra: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let ca: PathBuf = dir.path().join("clouds.pem");
        let mut command = Command::new(env!("CARGO_BIN_EXE_impush-lab"));
        let mut clouds =
            Process::start(command.args(["clouds", "--listen", "127.0.0.1:0", "--ca-file"]).arg(&ca), false);
        let said: Value = clouds.wait_for("the address", |line| serde_json::from_str(line).ok());
        let url = said["clouds"].as_str().expect("an address").to_owned();
        let vendors = format!(
            "[vendors]\nxiaomi_url = '{url}'\nca_file = '{}'\n[delivery]\nack_deadline_ms = 500\nkeep_most = {most}\n",
            ca.display()
        );
        let gateway = Gateway::start(&dir.path().join("g"), &format!("{vendors}{extra}"));
        let rest = Rest::new(&gateway.reach, &ca);
        let app = json!({"vendor": "xiaomi", "id": "288", "secret": "s", "package": PACKAGE});
        assert_eq!(rest.ask("POST", &format!("{url}/_lab/apps"), Some(&app)).0, 204);
        let fields = json!({"app_secret": "s", "package": PACKAGE});
        rest.ok("POST", "certificates", Some(&json!({"vendor": "xiaomi", "name": "288", "fields": fields})));
        Self { dir, _clouds: clouds, url, gateway, rest }
    }

    /// A file with everyone's password.
    fn password(&self) -> String {
        let file = self.dir.path().join("password");
        std::fs::write(&file, "a password").expect("written");
        file.display().to_string()
    }

    /// A user with a phone, and its token.
    fn user(&self, user: &str) -> String {
        self.rest.ok("POST", "users", Some(&json!({"username": user, "password": "a password"})));
        let install = json!({"vendor": "xiaomi", "id": "288", "device": user});
        let (_, answer) = self.rest.ask("POST", &format!("{}/_lab/installs", self.url), Some(&install));
        let token = answer["token"].as_str().expect("a token").to_owned();
        let binding = json!({"device_id": "phone", "device_token": token, "notifier_name": "288"});
        self.rest.ok("PUT", &format!("users/{user}/push/binding"), Some(&binding));
        token
    }

    fn send(&self, from: &str, to: &str, body: Value, ext: Value) -> String {
        let message = json!({"from": from, "to": [to], "body": body, "ext": ext});
        self.rest.ok("POST", "messages/users", Some(&message))["data"][to].as_str().expect("an id").to_owned()
    }

    fn last_shown(&self, token: &str) -> (String, String) {
        let query = token.replace('+', "%2B").replace('/', "%2F");
        let (_, shown) =
            self.rest.ask("GET", &format!("{}/_lab/tray?vendor=xiaomi&wait_ms=1&token={query}", self.url), None);
        let last = shown.as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
        let text = |key: &str| last[key].as_str().unwrap_or_default().to_owned();
        (text("title"), text("body"))
    }

    fn agent(&self, name: &str, user: &str) -> Agent {
        let home = self.dir.path().join(name);
        let url = format!("mqtts://localhost:{}", self.gateway.port());
        Agent::configure(&home, &url, Path::new(self.gateway.ca()), "");
        let mut agent = Agent::start(&home);
        agent.login(user, &self.gateway.user(user));
        agent.process.event("link.up");
        // The gateway has taken its greeting when it lists the device, or has answered with a kick.
        let device = agent.status()["device_id"].clone();
        let deadline = std::time::Instant::now() + support::LIMIT;
        while std::time::Instant::now() < deadline {
            let devices = self.rest.ok("GET", &format!("users/{user}/devices"), None);
            let seen = |d: &Value| d["device_id"] == device && d["seen_ms"] != 0;
            if devices["entities"].as_array().expect("a list").iter().any(seen) || agent.status()["user"].is_null() {
                break;
            }
        }
        agent
    }

    /// The home of a user's agent whose device is bound, and which was stopped.
    fn went_away(&self, user: &str, token: &str) -> PathBuf {
        let mut agent = self.agent("a", user);
        let device = agent.status()["device_id"].clone();
        let binding = json!({"device_id": device, "device_token": token, "notifier_name": "288"});
        self.rest.ok("PUT", &format!("users/{user}/push/binding"), Some(&binding));
        let home = agent.home.clone();
        agent.process.terminate();
        support::eventually("the device is offline", || {
            let devices = self.rest.ok("GET", &format!("users/{user}/devices"), None);
            devices["entities"].as_array().expect("a list").iter().all(|d| d["online"] == false)
        });
        home
    }
}

fn text(words: &str) -> Value {
    json!({"type": "txt", "msg": words})
}

#[test]
fn a_users_silence_is_kept_and_only_a_forced_message_breaks_it() {
    let stage = Stage::new("");
    stage.user("ann");
    let token = {
        let grant = json!({"grant_type": "password", "username": "ann", "password": "a password"});
        let (_, answer) = stage.rest.ask("POST", &format!("{}/token", stage.rest.base), Some(&grant));
        answer["access_token"].as_str().expect("a token").to_owned()
    };
    // With her own token, as the app on the phone does.
    let own = |method: &str, path: &str, body: &Value| {
        let url = format!("{}/{path}", stage.rest.base);
        let output = Command::new("curl")
            .args([
                "-s",
                "-X",
                method,
                "-H",
                &format!("authorization: Bearer {token}"),
                "-H",
                "content-type: application/json",
            ])
            .args(["-w", "\n%{http_code}", "-d", &body.to_string(), &url])
            .output()
            .expect("curl ran");
        let answer = String::from_utf8(output.stdout).expect("text");
        let (body, status) = answer.rsplit_once('\n').expect("a status");
        (status.parse::<u16>().expect("a number"), serde_json::from_str::<Value>(body).unwrap_or_default())
    };
    let (status, answer) = own("PUT", "users/ann/notification/user/ann", &json!({"type": "NONE"}));
    assert_eq!((status, &answer["data"]["type"]), (200, &json!("NONE")), "{answer}");
    assert_eq!(own("PUT", "users/bob/notification/user/bob", &json!({"type": "NONE"})).0, 403);

    let id = stage.send("bob", "ann", text("hi"), json!({}));
    stage.rest.traced(&id, &["stopped: user ignore push"]);
    let id = stage.send("bob", "ann", text("hi"), json!({"em_force_notification": true}));
    stage.rest.traced(&id, &["vendor_sent"]);
    // The conversation's own mode beats the app-wide one, and do-not-disturb beats both.
    stage.rest.ok("PUT", "users/ann/notification/user/bob", Some(&json!({"type": "ALL"})));
    let id = stage.send("bob", "ann", text("hi"), json!({}));
    stage.rest.traced(&id, &["vendor_sent"]);
    let id = stage.send("eve", "ann", text("hi"), json!({}));
    stage.rest.traced(&id, &["stopped: user ignore push"]);
    let until = stage.rest.ok("PUT", "users/ann/notification/user/bob", Some(&json!({"ignoreDuration": 600_000})));
    assert!(until["data"]["ignoreDuration"].as_u64().expect("a moment") > 1_000_000_000_000, "{until}");
    let id = stage.send("bob", "ann", text("hi"), json!({}));
    stage.rest.traced(&id, &["stopped: user ignore push"]);
    // Only mentions, app-wide; and a command shows nothing.
    stage.rest.ok("PUT", "users/ann/notification/user/ann", Some(&json!({"type": "AT"})));
    let id = stage.send("eve", "ann", text("@ann"), json!({"em_at_list": ["ann"]}));
    stage.rest.traced(&id, &["vendor_sent"]);
    let id = stage.send("eve", "ann", json!({"type": "cmd"}), json!({"em_at_list": ["ann"]}));
    stage.rest.traced(&id, &["stopped: command message"]);
    for bad in [json!({"ignoreInterval": "25:00-01:00"}), json!({"ignoreDuration": 604_800_001}), json!({"type": "X"})]
    {
        let (status, answer) =
            stage.rest.ask("PUT", &format!("{}/users/ann/notification/user/ann", stage.rest.base), Some(&bad));
        assert_eq!(status, 400, "{bad} {answer}");
    }
}

#[test]
fn what_is_shown_follows_templates_nickname_and_style() {
    let stage = Stage::new("");
    let (ann, _) = (stage.user("ann"), stage.user("bob"));
    stage.rest.ok("PUT", "users/bob", Some(&json!({"nickname": "Bobby"})));
    stage.rest.ok("PUT", "users/ann", Some(&json!({"notification_display_style": 1})));
    let shown = |ext: Value| {
        let id = stage.send("bob", "ann", text("lunch?"), ext);
        stage.rest.traced(&id, &["vendor_sent"]);
        stage.last_shown(&ann)
    };
    assert_eq!(shown(json!({})).1, "Bobby: lunch?");
    let template = json!({"name": "order", "title_pattern": "{0}", "content_pattern": "{$fromNickname}: {0} {1}"});
    stage.rest.ok("POST", "notification/template", Some(&template));
    let named = json!({"em_push_template": {"name": "order", "title_args": ["T"], "content_args": ["a", "b"]}});
    assert_eq!(shown(named), ("T".to_owned(), "Bobby: a b".to_owned()));
    stage.rest.ok("PUT", "users/ann/notification/template", Some(&json!({"templateName": "order"})));
    assert_eq!(shown(json!({})).1, "Bobby: {0} {1}");
    let unknown = json!({"templateName": "nothing"});
    assert_eq!(
        stage.rest.ask("PUT", &format!("{}/users/ann/notification/template", stage.rest.base), Some(&unknown)).0,
        400
    );
    stage.rest.ok("DELETE", "notification/template/order", None);
    assert_eq!(shown(json!({})).1, "Bobby: lunch?", "a template that went is not missed");
}

#[test]
fn the_newest_login_wins_and_the_old_device_stays_out_until_it_logs_in_again() {
    let stage = Stage::new("");
    stage.rest.ok("PUT", "rules", Some(&json!({"device_limit": 1})));
    let mut first = stage.agent("first", "ann");
    // It is away when the other comes, and comes back with the same login: told then, and the other stays.
    first.process.kill();
    let mut second = stage.agent("second", "ann");
    first.process = Process::start(support::impush(&first.home).arg("run"), true);
    assert_eq!(first.process.event("login.kicked")["code"], 206);
    assert_eq!(second.status()["state"], "online");
    // Logging in again is another login, which wins in its turn; the connected device is told at once.
    first.login("ann", &stage.gateway.user("ann"));
    first.process.event("link.up");
    let kicked = second.process.event("login.kicked");
    assert!(kicked["replaced_by"].as_str().is_some_and(|name| !name.is_empty()), "{kicked}");
}

#[test]
fn where_the_first_login_wins_the_newcomer_is_refused() {
    let stage = Stage::new("");
    stage.rest.ok("PUT", "rules", Some(&json!({"device_limit": 1, "login": "first_wins"})));
    let first = stage.agent("first", "ann");
    let mut second = stage.agent("second", "ann");
    assert_eq!(second.process.event("login.kicked")["code"], 213);
    assert_eq!(first.status()["state"], "online");
    let devices = stage.rest.ok("GET", "users/ann/devices", None);
    let online = devices["entities"].as_array().expect("a list").iter().filter(|d| d["logged_in"] == true).count();
    assert_eq!(online, 1, "{devices}");
}

#[test]
fn an_operator_can_end_a_login_and_its_bindings_go_with_it() {
    let stage = Stage::new("");
    let mut agent = stage.agent("a", "ann");
    let device = agent.status()["device_id"].as_str().expect("an id").to_owned();
    stage.user("ann");
    stage.rest.ok("DELETE", &format!("users/ann/disconnect/{device}"), None);
    assert_eq!(agent.process.event("login.kicked")["code"], 217);
    let left = stage.rest.ok("DELETE", "users/ann/disconnect", None);
    assert_eq!(left["data"]["devices"], json!(["phone"]));
    assert_eq!(stage.rest.ok("GET", "users/ann/push/binding", None)["entities"], json!([]));
}

#[test]
fn a_message_for_connected_devices_only_waits_for_nobody() {
    let stage = Stage::new("");
    let token = stage.user("ann");
    let id = stage.send("bob", "ann", text("now or never"), json!({"em_deliver_online_only": true}));
    stage.rest.traced(&id, &["stopped: online only message"]);
    assert_eq!(stage.last_shown(&token), (String::new(), String::new()));
    let id = stage.send("bob", "ann", text("x"), json!({"em_push_filter": {"ignore_device_id": ["phone"]}}));
    stage.rest.traced(&id, &["stopped: ignore push device id"]);
}

#[test]
fn each_vendor_send_is_reported_to_the_apps_server_and_signed() {
    let stage = Stage::new("");
    stage.user("ann");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let rules = json!({"webhook": {"url": url, "secret": "hush"}});
    let stored = stage.rest.ok("PUT", "rules", Some(&rules)).to_string();
    assert!(!stored.contains("hush"), "{stored}");
    let id = stage.send("bob", "ann", text("hi"), json!({}));
    let (stream, _) = listener.accept().expect("a report");
    let mut reader = BufReader::new(stream);
    let (mut signature, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("x-impush-signature: sha256=") {
            signature = value.to_owned();
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().expect("a number");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("answered");
    let report: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(
        (&report["msg_id"], &report["status"], &report["step"]),
        (&json!(id), &json!("success"), &json!("push"))
    );
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"hush");
    let expected: String = ring::hmac::sign(&key, &body).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(signature, expected);
}

#[test]
fn an_app_that_asks_too_much_is_told_when_to_come_back() {
    let stage = Stage::new("");
    let answers: Vec<u16> =
        (0..400).map(|_| stage.rest.ask("GET", &format!("{}/rules", stage.rest.base), None).0).collect();
    assert!(answers.contains(&429) && answers.contains(&200), "{answers:?}");
    assert!(answers.iter().all(|status| [200, 429].contains(status)), "{answers:?}");
}

#[test]
fn more_messages_than_are_kept_let_the_oldest_go_with_a_reason() {
    let stage = Stage::new("");
    stage.user("ann");
    let ids: Vec<String> = (0..8)
        .map(|n| {
            let id = stage.send("bob", "ann", text(&n.to_string()), json!({}));
            stage.rest.traced(&id, &["vendor_sent"]);
            id
        })
        .collect();
    for id in &ids[..3] {
        stage.rest.traced(id, &["evicted: more than 5 messages waited"]);
    }
    for id in &ids[3..] {
        let trace = stage.rest.traced(id, &["vendor_sent"]);
        assert!(!trace.iter().any(|line| line.starts_with("evicted")), "{trace:?}");
    }
}

#[test]
fn a_token_that_is_not_bound_to_a_device_cannot_name_devices_without_end() {
    let stage = Stage::new("");
    let token = stage.user("ann");
    let bind = |device: &str| {
        let binding = json!({"device_id": device, "device_token": token, "notifier_name": "288"});
        stage.rest.ask("PUT", &format!("{}/users/ann/push/binding", stage.rest.base), Some(&binding))
    };
    let statuses: Vec<u16> = (0..99).map(|n| bind(&format!("device-{n}")).0).collect();
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let (status, answer) = bind("one too many");
    assert_eq!(status, 400);
    assert!(answer["error_description"].as_str().expect("why").contains("100 devices"), "{answer}");
    // A login that is over makes room.
    stage.rest.ok("DELETE", "users/ann/disconnect/device-3", None);
    assert_eq!(bind("one too many").0, 200);
}

#[test]
fn a_hangup_changes_the_gateways_limits_and_policy_without_a_restart() {
    let stage = Stage::new("");
    stage.user("ann");
    let file = stage.gateway.home.join("gateway.toml");
    let old = std::fs::read_to_string(&file).expect("read");
    let new = old.replace("[api]", "[api]\nrequests_per_s = 1");
    std::fs::write(&file, new).expect("written");
    stage.gateway.process.signal(rustix::process::Signal::HUP);
    let deadline = std::time::Instant::now() + support::LIMIT;
    let ask = || stage.rest.ask("GET", &format!("{}/users/ann/devices", stage.rest.base), None).0;
    while ask() != 429 {
        assert!(std::time::Instant::now() < deadline, "the new limit never came");
    }
    std::fs::write(&file, old).expect("written");
    stage.gateway.process.signal(rustix::process::Signal::HUP);
    while !(0..5).all(|_| ask() == 200) {
        assert!(std::time::Instant::now() < deadline, "the old limit never came back");
    }
}

#[test]
fn a_notification_is_taken_back_when_the_message_reaches_the_device_after_all() {
    let stage = Stage::new("");
    let token = stage.user("ann");
    let home = stage.went_away("ann", &token);
    let id = stage.send("bob", "ann", text("come back"), Value::Null);
    stage.rest.traced(&id, &["vendor_sent"]);
    let mut agent = Agent::start(&home);
    agent.process.event("message.received");
    stage.rest.traced(&id, &["acked"]);
    let _app = support::Process::start(support::impush(&home).args(["watch", "--json"]), false);
    stage.rest.traced(&id, &["acked", "taken", "recalled: xiaomi: delivered"]);
    let query = token.replace('+', "%2B").replace('/', "%2F");
    let (_, shown) =
        stage.rest.ask("GET", &format!("{}/_lab/tray?vendor=xiaomi&wait_ms=1&token={query}", stage.url), None);
    assert_eq!(shown[0]["recalled"], true, "{shown}");
}

/// A phone on one connection that says what it is told to.
struct Speaker(std::process::Child);

impl Speaker {
    fn start(gateway: &Gateway, user: &str, token: &str) -> Self {
        let (client, name) = (format!("{user}:phone@org%23app"), format!("org%23app/{user}"));
        let mut command = gateway.mosquitto("mosquitto_pub", &client, &name, token);
        let topic = format!("im/v1/org%23app/{user}/phone/up");
        Self(command.args(["-t", &topic, "-l"]).stdin(std::process::Stdio::piped()).spawn().expect("started"))
    }

    fn say(&mut self, payload: &Value) {
        use std::io::Write as _;
        writeln!(self.0.stdin.as_mut().expect("piped"), "{payload}").expect("said");
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_lost_acknowledgement_does_not_hold_up_what_waits_behind_it() {
    if !support::has("mosquitto_pub") {
        let name = "a_lost_acknowledgement_does_not_hold_up_what_waits_behind_it";
        return support::skipped(name, "mosquitto's clients are not installed");
    }
    let stage = Stage::keeping(1000, "");
    stage.user("ann");
    let ids: Vec<String> = (0..510).map(|n| stage.send("bob", "ann", text(&n.to_string()), json!({}))).collect();
    let token = stage.gateway.ok(&["token", "--app", "org/app", "--password-file", &stage.password(), "--", "ann"]);
    let mut device = Speaker::start(&stage.gateway, "ann", &token);
    let mut say = |payload: &Value| device.say(payload);
    say(&json!({"v": 1, "type": "hello", "nonce": "n1", "agent": "test", "channel": "none", "platform": "linux"}));
    stage.rest.traced(&ids[499], &["synced"]);
    say(&json!({"v": 1, "type": "ack", "ids": ids[1..500]}));
    for id in &ids[500..] {
        stage.rest.traced(id, &["synced"]);
    }
    // What is under way is not sent with the next: it has its own time.
    let trace = stage.rest.traced(&ids[0], &["synced"]);
    assert_eq!(trace.iter().filter(|line| line.starts_with("synced")).count(), 1, "{trace:?}");
}

#[test]
fn a_device_that_missed_more_than_one_batch_gets_all_of_it() {
    let stage = Stage::keeping(1000, "");
    let token = stage.user("ann");
    let home = stage.went_away("ann", &token);
    // A batch is 500. All of them are with the vendor, which must not pass for being under way to the device.
    let ids: Vec<String> = (0..510).map(|n| stage.send("bob", "ann", text(&n.to_string()), json!({}))).collect();
    for id in &ids {
        stage.rest.traced(id, &["vendor_sent"]);
    }
    let _agent = Agent::start(&home);
    for id in &ids {
        stage.rest.traced(id, &["acked"]);
    }
}

#[test]
fn a_phone_without_an_app_is_pushed_at_once_and_its_notification_stays_until_an_app_takes_the_message() {
    if !support::has("mosquitto_pub") {
        let name = "a_phone_without_an_app_is_pushed_at_once_and_its_notification_stays_until_an_app_takes_the_message";
        return support::skipped(name, "mosquitto's clients are not installed");
    }
    let stage = Stage::new("");
    let token = stage.user("ann");
    let binding = json!({"device_id": "phone", "device_token": token, "notifier_name": "288"});
    stage.rest.ask("PUT", &format!("{}/users/ann/push/binding", stage.rest.base), Some(&binding));
    let password = stage.gateway.ok(&["token", "--app", "org/app", "--password-file", &stage.password(), "--", "ann"]);
    let mut device = Speaker::start(&stage.gateway, "ann", &password);
    let device = std::cell::RefCell::new(&mut device);
    let say = |payload: &Value| device.borrow_mut().say(payload);
    let hello = |nonce: &str| {
        say(
            &json!({"v": 1, "type": "hello", "nonce": nonce, "agent": "test", "channel": "xiaomi", "platform": "android",
            "login": "l1"}),
        );
    };
    let shown = || {
        let query = token.replace('+', "%2B").replace('/', "%2F");
        let url = format!("{}/_lab/tray?vendor=xiaomi&wait_ms=1&token={query}", stage.url);
        stage.rest.ask("GET", &url, None).1
    };
    hello("n1");
    // Until it is known to be connected, a message for it goes another way.
    support::eventually("the device is online", || {
        stage.rest.ok("GET", "users/ann/devices", None)["entities"][0]["online"] == true
    });
    let first = stage.send("bob", "ann", text("app killed"), json!({}));
    let began = std::time::Instant::now();
    say(&json!({"v": 1, "type": "ack", "ids": [first], "attached": false}));
    stage.rest.traced(&first, &["acked", "vendor_sent"]);
    assert!(began.elapsed() < std::time::Duration::from_secs(1), "{:?}", began.elapsed());
    hello("n2");
    // One device's words are carried out in their order: the answer to this one comes after the hello.
    let second = stage.send("bob", "ann", text("after the reboot"), json!({}));
    say(&json!({"v": 1, "type": "ack", "ids": [first, second], "attached": false}));
    let trace = stage.rest.traced(&second, &["acked", "vendor_sent"]);
    assert!(!trace.iter().any(|line| line.starts_with("recalled")), "{trace:?}");
    let trace = stage.rest.traced(&first, &["vendor_sent", "acked"]);
    assert!(!trace.iter().any(|line| line.starts_with("recalled") || line.starts_with("synced")), "{trace:?}");
    assert!(shown()[0]["recalled"] != true, "{}", shown());
    say(&json!({"v": 1, "type": "taken", "ids": [first]}));
    stage.rest.traced(&first, &["taken", "recalled: xiaomi: delivered"]);
    assert_eq!(shown()[0]["recalled"], true, "{}", shown());
}

/// An agent on a Xiaomi-like phone that looks after its rest every few seconds, logged in, bound and at rest.
fn at_rest(stage: &Stage, user: &str, token: &str) -> Agent {
    let root = stage.dir.path().join("phone");
    std::fs::create_dir_all(root.join("system")).expect("made");
    let properties = "ro.product.manufacturer=Xiaomi\nro.product.brand=Redmi\nro.miui.ui.version.name=V12\nro.miui.ui.version.code=10\n";
    std::fs::write(root.join("system/build.prop"), properties).expect("written");
    let home = stage.dir.path().join("resting");
    let extra = format!(
        "[device]\nroot = '{}'\n[channel]\nlinger_s = 1\ncheck_first_s = 2\ncheck_most_s = 4\n[certificates]\nMICertificateName = '288'\n",
        root.display()
    );
    let url = format!("mqtts://localhost:{}", stage.gateway.port());
    Agent::configure(&home, &url, Path::new(stage.gateway.ca()), &extra);
    let agent = Agent::start(&home);
    agent.ok(&["token", "set", "xiaomi", token]);
    agent.login(user, &stage.gateway.user(user));
    comes_to(&agent, "resting");
    agent
}

fn comes_to(agent: &Agent, state: &str) {
    let deadline = std::time::Instant::now() + support::LIMIT;
    while agent.status()["state"] != state {
        assert!(std::time::Instant::now() < deadline, "never {state}: {}", agent.status());
    }
}

#[test]
fn a_phone_whose_token_dies_at_rest_comes_back_and_what_was_sent_meanwhile_with_it() {
    let stage = Stage::new("");
    let token = stage.user("ann");
    let agent = at_rest(&stage, "ann", &token);
    let dead = json!({"vendor": "xiaomi", "token": token, "state": "dead"});
    stage.rest.ask("POST", &format!("{}/_lab/tokens", stage.url), Some(&dead));
    // The vendor says so to the first of these; neither has another way than the connection.
    let first = stage.send("bob", "ann", text("into the dead token"), json!({}));
    stage.rest.traced(&first, &["token_dead"]);
    let second = stage.send("bob", "ann", text("after it"), json!({}));
    comes_to(&agent, "online");
    for id in [&first, &second] {
        stage.rest.traced(id, &["acked"]);
    }
    assert_eq!(agent.status()["why_not"]["xiaomi"], "token_dead");
    // Another token is rested on again.
    let install = json!({"vendor": "xiaomi", "id": "288", "device": "ann"});
    let (_, answer) = stage.rest.ask("POST", &format!("{}/_lab/installs", stage.url), Some(&install));
    agent.ok(&["token", "set", "xiaomi", answer["token"].as_str().expect("a token")]);
    comes_to(&agent, "resting");
}

#[test]
fn a_login_that_is_ended_while_its_phone_rests_is_over_on_the_phone_too_and_says_why() {
    let stage = Stage::new("");
    let token = stage.user("ann");
    let agent = at_rest(&stage, "ann", &token);
    stage.rest.ok("DELETE", "users/ann/disconnect", None);
    comes_to(&agent, "logged_out");
    let cause = agent.status()["cause"].clone();
    assert_eq!(cause["word"], "kicked");
    assert!(cause["detail"].as_str().is_some_and(|detail| detail.contains("217")), "{cause}");
}

#[test]
fn a_phone_whose_vendors_quota_is_used_up_holds_its_connection_until_it_ends() {
    let stage = Stage::new("");
    let token = stage.user("ann");
    let agent = at_rest(&stage, "ann", &token);
    let fault = json!({"vendor": "xiaomi", "fault": "quota", "times": 1});
    stage.rest.ask("POST", &format!("{}/_lab/faults", stage.url), Some(&fault));
    let id = stage.send("bob", "ann", text("beyond the quota"), json!({}));
    stage.rest.traced(&id, &["vendor_retry: xiaomi: limited"]);
    comes_to(&agent, "online");
    stage.rest.traced(&id, &["acked"]);
    assert_eq!(agent.status()["channel_state"], "limited");
}
