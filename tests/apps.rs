//! Local apps: one that does not run is started for a message, and one that runs asks over the loopback port.

mod support;

use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Agent, Gateway, Rest, free_port};

struct Stage {
    dir: tempfile::TempDir,
    gateway: Gateway,
    rest: Rest,
    agent: Agent,
    port: u16,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let gateway = Gateway::start(&dir.path().join("g"), "");
        let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
        let (home, port) = (dir.path().join("a"), free_port());
        let url = format!("mqtts://localhost:{}", gateway.port());
        Agent::configure(&home, &url, Path::new(gateway.ca()), &format!("[control]\nport = {port}\n"));
        let mut agent = Agent::start(&home);
        let password = gateway.user("ann");
        agent.login("ann", &password);
        agent.process.event("link.up");
        Self { dir, gateway, rest, agent, port }
    }

    fn send(&mut self, text: &str) -> String {
        let id = self.gateway.ok(&["send", "--app", "org/app", "ann", text]);
        self.agent.process.event("message.received");
        id
    }

    /// A program that appends what it is told to a file.
    fn program(&self, more: &str) -> (PathBuf, PathBuf) {
        let (path, log) = (self.dir.path().join("wake"), self.dir.path().join("woken"));
        let lines = format!("#!/bin/sh\ncat >>{0}\necho >>{0}\n{more}\n", log.display());
        std::fs::write(&path, lines).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("changed");
        (path, log)
    }

    fn listed(&self) -> Value {
        serde_json::from_str(&self.agent.ok(&["app", "list", "--json"])).expect("JSON")
    }

    /// A request at the loopback port, as a browser or an app makes it: status, headers and body.
    fn ask(&self, host: &str, path: &str, headers: &[String], body: Option<&Value>) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-g", "-m", "10", "-D", "-", "-w", "\n%{http_code}"]);
        for header in headers {
            curl.args(["-H", header]);
        }
        if let Some(body) = body {
            curl.args(["-H", "content-type: application/json", "-d", &body.to_string()]);
        }
        let output = curl.arg(format!("http://{host}:{}{path}", self.port)).output().expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, status) = text.rsplit_once('\n').expect("a status");
        (status.parse().expect("a number"), answer.to_owned())
    }
}

#[test]
fn a_hundred_messages_start_an_app_once_and_the_one_that_woke_it_says_so_in_its_trace() {
    let mut stage = Stage::new();
    let (program, log) = stage.program("echo here >&2");
    stage.agent.ok(&["app", "add", "chat", "--wake", &format!("command:{}", program.display())]);
    let id = stage.gateway.ok(&["send", "--app", "org/app", "ann", "0"]);
    let received = stage.agent.process.event("message.received");
    let woken = stage.agent.process.event("app.woken");
    assert_eq!((&received["id"], &woken["app"]), (&json!(id), &json!("chat")));
    println!("message on disk at {}, its app's program done at {}", received["timestamp"], woken["timestamp"]);
    let first = id;
    // All of them before the app would be started again for want of an answer.
    for n in 1..100 {
        let body = json!({"to": ["ann"], "body": {"type": "txt", "msg": n.to_string()}});
        stage.rest.ok("POST", "messages/users", Some(&body));
    }
    for _ in 1..100 {
        stage.agent.process.event("message.received");
    }
    let told: Vec<Value> = std::fs::read_to_string(&log)
        .expect("it was started")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(told, [json!({"id": first, "from": "admin"})]);
    assert_eq!((&stage.listed()[0]["wakes"], &stage.listed()[0]["attached"]), (&json!(1), &json!(false)));
    assert!(stage.agent.ok(&["app", "list"]).contains("not running, woken 1 times"));
    // It comes, and takes them.
    let mut watch =
        support::Process::start(support::impush(&stage.agent.home).args(["watch", "--app", "chat", "--json"]), false);
    watch.wait_for("the first", |line| line.contains(&first).then_some(()));
    stage.rest.traced(&first, &["taken: by an app that it woke"]);
    drop(watch);
    // Nobody is logged in: nobody is woken.
    stage.agent.ok(&["logout"]);
    stage.agent.ok(&["app", "remove", "chat"]);
    assert_eq!(stage.listed(), json!([]));
}

#[test]
fn a_program_that_others_can_change_or_that_is_none_is_refused_with_what_to_do() {
    let stage = Stage::new();
    let (program, _) = stage.program("");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o777)).expect("changed");
    for (wake, said) in [
        (format!("command:{}", program.display()), "chmod go-w"),
        ("command:/no/such".to_owned(), "no such program"),
        ("shell:rm".to_owned(), "unit:NAME.service"),
    ] {
        let output = stage.agent.run(&["app", "add", "chat", "--wake", &wake]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(said), "{told}");
    }
    assert_eq!(stage.listed(), json!([]));
}

#[test]
fn an_app_asks_over_the_loopback_port_with_its_secret_and_nobody_else_does() {
    let mut stage = Stage::new();
    assert_eq!(stage.ask("127.0.0.1", "/v1/status", &[], None).0, 0, "nothing listens before an app was added");
    let secret = stage.agent.ok(&["app", "add", "chat", "--origin", "https://app.example"]).trim().to_owned();
    stage.agent.process.event("control.port_open");
    let bearer = format!("authorization: Bearer {secret}");
    let own = [bearer.clone()];
    for host in ["127.0.0.1", "[::1]", "localhost"] {
        assert_eq!(stage.ask(host, "/v1/status", &own, None).0, 200, "{host}");
    }
    let id = stage.send("hello");
    let (status, lines) = stage.ask("127.0.0.1", "/v1/messages", &own, None);
    assert!(status == 200 && lines.contains(&id), "{lines}");
    let taken = stage.ask("127.0.0.1", "/v1/messages/ack", &own, Some(&json!({"ids": [id], "app": "other"})));
    assert_eq!(taken.0, 403, "in its own name alone");
    assert_eq!(stage.ask("127.0.0.1", "/v1/messages/ack", &own, Some(&json!({"ids": [id]}))).0, 200);
    stage.rest.traced(&id, &["taken"]);
    // What belongs to the device is not an app's.
    for path in ["/v1/logout", "/v1/reconnect", "/v1/apps"] {
        assert_eq!(stage.ask("127.0.0.1", path, &own, Some(&json!({}))).0, 403, "{path}");
    }
    // DNS rebinding, a foreign page, a guess, no secret.
    for (headers, wanted) in [
        (vec![bearer.clone(), "host: evil.example".to_owned()], 403),
        (vec![bearer.clone(), "origin: https://evil.example".to_owned()], 403),
        (vec!["authorization: Bearer guess".to_owned()], 401),
        (vec![], 401),
    ] {
        assert_eq!(stage.ask("127.0.0.1", "/v1/status", &headers, None).0, wanted, "{headers:?}");
    }
    let of_page = [bearer.clone(), "origin: https://app.example".to_owned()];
    let (status, answer) = stage.ask("127.0.0.1", "/v1/status", &of_page, None);
    assert!(status == 200 && answer.contains("access-control-allow-origin: https://app.example"), "{answer}");
    // Its secret is good for nothing once it was removed, and nothing listens any more.
    stage.agent.ok(&["app", "remove", "chat"]);
    stage.agent.process.event("control.port_closed");
    assert_eq!(stage.ask("127.0.0.1", "/v1/status", &own, None).0, 0);
}

#[test]
fn a_browsers_preflight_is_answered_for_pages_that_may_ask_and_for_a_private_network() {
    let mut stage = Stage::new();
    stage.agent.ok(&["app", "add", "view", "--origin", "null"]);
    stage.agent.process.event("control.port_open");
    let preflight = |stage: &Stage, origin: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-i", "-X", "OPTIONS", "-H", &format!("origin: {origin}")]);
        curl.args(["-H", "access-control-request-method: POST", "-H", "access-control-request-private-network: true"]);
        let output = curl.arg(format!("http://127.0.0.1:{}/v1/messages/ack", stage.port)).output().expect("curl runs");
        String::from_utf8_lossy(&output.stdout).to_lowercase()
    };
    let allowed = preflight(&stage, "null");
    assert!(allowed.starts_with("http/1.1 204"), "{allowed}");
    for header in [
        "access-control-allow-origin: null",
        "access-control-allow-headers: authorization, content-type",
        "access-control-allow-private-network: true",
    ] {
        assert!(allowed.contains(header), "{header}: {allowed}");
    }
    assert!(preflight(&stage, "https://evil.example").starts_with("http/1.1 403"));
}

#[test]
fn two_apps_have_a_copy_each_over_restarts_too() {
    let mut stage = Stage::new();
    let secrets = ["one", "two"].map(|name| stage.agent.ok(&["app", "add", name]).trim().to_owned());
    stage.agent.process.event("control.port_open");
    let headers = |at: usize| [format!("authorization: Bearer {}", secrets[at])];
    // Each has its place from its first question on.
    for at in [0, 1] {
        assert_eq!(stage.ask("127.0.0.1", "/v1/messages", &headers(at), None).0, 200);
    }
    let id = stage.send("for both");
    assert_eq!(stage.ask("127.0.0.1", "/v1/messages/ack", &headers(0), Some(&json!({"ids": [id]}))).0, 200);
    let home = stage.agent.home.clone();
    stage.agent.process.terminate();
    stage.agent = Agent::start(&home);
    stage.agent.process.event("control.port_open");
    assert!(!stage.ask("127.0.0.1", "/v1/messages", &headers(0), None).1.contains(&id), "the first has taken it");
    assert!(stage.ask("127.0.0.1", "/v1/messages", &headers(1), None).1.contains(&id), "the second has not");
}
