//! The agent among its neighbours: doctor, support bundle, the plugin's verbs, metrics, and what the log holds.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Agent, Gateway, Process, Rest};

const TOKEN: &str = "d//igwEhgBGCI2TG6lWqlNH5Ma8BHPtVQDBUSr7KXm7bk1EyO3xl/7ysVeyJuZ6j";

/// A gateway with a Xiaomi certificate, and a Xiaomi phone with an agent whose user is logged in.
struct Stage {
    _dir: tempfile::TempDir,
    gateway: Gateway,
    rest: Rest,
    agent: Agent,
    password: String,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let gateway = Gateway::start(&dir.path().join("g"), "[log]\nlevel = 'trace'\n");
        let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
        let fields = json!({"app_secret": "the-apps-secret", "package": "com.example"});
        rest.ok("POST", "certificates", Some(&json!({"vendor": "xiaomi", "name": "288", "fields": fields})));
        let root = dir.path().join("phone");
        for (file, text) in [
            ("system/build.prop", "ro.build.version.release=12\n"),
            ("product/etc/build.prop", "ro.product.product.manufacturer=Xiaomi\nro.product.product.brand=Redmi\n"),
            ("vendor/build.prop", "ro.miui.ui.version.name=V12\nro.miui.ui.version.code=10\n"),
        ] {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        let home = dir.path().join("a");
        let url = format!("mqtts://localhost:{}", gateway.port());
        Agent::configure(&home, &url, Path::new(gateway.ca()), &format!("[device]\nroot = '{}'\n", root.display()));
        let mut agent = Agent::start(&home);
        let password = gateway.user("ann");
        agent.login("ann", &password);
        agent.process.event("link.up");
        Self { _dir: dir, gateway, rest, agent, password }
    }

    /// A call to the control socket, as any HTTP client makes it.
    fn socket(&self, method: &str, path: &str, body: Option<Value>) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-X", method, "-w", "\n%{http_code}", "--unix-socket"]).arg(self.agent.home.join("s"));
        if let Some(body) = body {
            curl.args(["-d", &body.to_string()]);
        }
        let output = curl.arg(format!("http://impush{path}")).output().expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, status) = text.rsplit_once('\n').expect("a status");
        (status.parse().expect("a number"), answer.to_owned())
    }

    fn bindings(&self) -> usize {
        self.rest.ok("GET", "users/ann/push/binding", None)["entities"].as_array().expect("a list").len()
    }

    /// Until the gateway has so many bindings.
    fn bound(&self, wanted: usize) {
        let deadline = std::time::Instant::now() + support::LIMIT;
        while self.bindings() != wanted {
            assert!(std::time::Instant::now() < deadline, "never {wanted} bindings: {}", self.agent.status());
        }
    }
}

#[test]
fn the_plugins_verbs_configure_bind_and_unbind_and_a_login_binds_again() {
    let mut stage = Stage::new();
    let (status, said) = stage.socket("POST", "/v1/init", None);
    assert_eq!(status, 200);
    assert!(said.contains(r#""candidate":"xiaomi""#) && said.contains(r#""channel":"none""#), "{said}");
    // A placeholder of another maker's is not this phone's fault: it is named, and the rest is in force.
    let placeholder = json!({"config": {"VIVOCertificateName": "no-hash"}});
    let (status, said) = stage.socket("PUT", "/v1/plugin", Some(placeholder));
    assert!(status == 200 && said.contains(r#""vivo":"bad_certificate_name""#), "{said}");
    let unknown = json!({"config": {"NOKIACertificateName": "1"}});
    assert_eq!(stage.socket("PUT", "/v1/plugin", Some(unknown)).0, 400);
    let config = json!({"emPush": {}, "config": {"MICertificateName": "288", "OPPOCertificateName": ""}});
    assert_eq!(stage.socket("PUT", "/v1/plugin", Some(config)).0, 200);
    assert_eq!(stage.socket("PUT", "/v1/tokens/xiaomi", Some(json!({ "token": TOKEN }))).0, 200);
    stage.bound(1);
    assert_eq!(stage.socket("POST", "/v1/unbindPushToken", None).0, 200);
    stage.bound(0);
    // What an app has unbound stays unbound over a restart; the names it gave stay too.
    stage.agent.process.terminate();
    stage.agent = Agent::start(&stage.agent.home.clone());
    stage.agent.process.event("link.up");
    assert!(stage.socket("POST", "/v1/init", None).1.contains(r#""certificates":["xiaomi"]"#));
    assert_eq!(stage.bindings(), 0);
    stage.agent.login("ann", &stage.password.clone());
    stage.bound(1);
}

#[test]
fn a_click_reaches_the_messages_trace_and_what_was_counted_can_be_read() {
    let mut stage = Stage::new();
    let id = stage.gateway.ok(&["send", "--app", "org/app", "ann", "hello"]);
    stage.agent.process.event("message.received");
    let click = json!({"id": id, "event": "clicked"});
    assert_eq!(stage.socket("POST", "/v1/receipts", Some(click)), (200, r#"{"told":true}"#.to_owned()));
    stage.rest.traced(&id, &["receipt: clicked on the device"]);
    assert_eq!(stage.socket("POST", "/v1/receipts", Some(json!({"id": id, "event": "eaten"}))).0, 400);
    let (status, metrics) = stage.socket("GET", "/v1/metrics", None);
    assert_eq!(status, 200);
    for line in ["impush_state{state=\"online\"} 1", "impush_messages_total 1", "impush_connections_total 1"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn doctor_finds_nothing_wrong_with_a_healthy_agent_and_names_what_is_broken() {
    let mut stage = Stage::new();
    let checks = |agent: &Agent| -> (Option<i32>, Vec<(String, String)>) {
        let output = agent.run(&["doctor", "--json"]);
        let checks: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let text = |check: &Value, key: &str| check[key].as_str().expect("a text").to_owned();
        let found = checks.as_array().expect("a list").iter();
        (output.status.code(), found.map(|check| (text(check, "name"), text(check, "outcome"))).collect())
    };
    let (code, found) = checks(&stage.agent);
    assert_eq!(code, Some(0), "{found:?}");
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    let order = [
        "configuration",
        "clock",
        "dns",
        "route",
        "tcp",
        "tls",
        "certificate",
        "anonymous",
        "ways",
        "login",
        "binding",
        "channel",
        "heartbeat",
        "token age",
        "disk",
        "permissions",
    ];
    assert_eq!(names, order);
    assert!(found.iter().all(|(_, outcome)| outcome == "ok"), "{found:?}");
    stage.gateway.process.kill();
    stage.agent.process.event("link.down");
    let (code, found) = checks(&stage.agent);
    assert_eq!(code, Some(69));
    let failed: Vec<&str> = found.iter().filter(|(_, o)| o == "failed").map(|(name, _)| name.as_str()).collect();
    assert_eq!(failed, ["tcp", "login"]);
    stage.agent.process.terminate();
    let (_, found) = checks(&stage.agent);
    assert!(found.contains(&("agent".to_owned(), "failed".to_owned())), "{found:?}");
}

#[test]
fn neither_the_log_of_a_full_debug_run_nor_the_support_bundle_holds_a_secret() {
    let mut stage = Stage::new();
    stage.socket("PUT", "/v1/plugin", Some(json!({"config": {"MICertificateName": "288"}})));
    stage.socket("PUT", "/v1/tokens/xiaomi", Some(json!({ "token": TOKEN })));
    stage.bound(1);
    stage.gateway.ok(&["send", "--app", "org/app", "ann", "the-words-of-a-message"]);
    stage.agent.process.event("message.received");
    let bundle = stage.agent.ok(&["support-bundle"]);
    for part in ["===== version", "===== device", "===== configuration", "===== status", "===== doctor"] {
        assert!(bundle.contains(part), "{part}");
    }
    stage.agent.ok(&["logout"]);
    let device = stage.agent.home.clone();
    stage.agent.process.terminate();
    let mut log = stage.agent.process.rest().join("\n");
    log.push_str(&bundle);
    drop(device);
    let admin =
        std::fs::read_to_string(stage.gateway.reach["admin_secret_file"].as_str().expect("a file")).expect("read");
    for secret in [TOKEN, stage.password.as_str(), "the-apps-secret", admin.trim(), "the-words-of-a-message"] {
        assert!(!log.contains(secret), "`{}...` is in the log or the bundle", &secret[..8]);
    }
    assert!(log.contains("binding"), "the log was read");
}

#[test]
fn a_gateways_log_at_its_loudest_holds_no_secret() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = String::new();
    let home = dir.path().join("g");
    std::fs::create_dir_all(&home).expect("made");
    for line in [
        "[api]",
        "listen = '127.0.0.1:0'",
        "[broker]",
        "listen = '127.0.0.1:0'",
        "[log]",
        "level = 'trace'",
        "format = 'json'",
        "[paths]",
    ] {
        config.push_str(line);
        config.push('\n');
    }
    config.push_str(&format!("state = '{}'\n", home.join("state").display()));
    std::fs::write(home.join("gateway.toml"), config).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
    let mut gateway = Process::start(command.arg("--config").arg(home.join("gateway.toml")).arg("serve"), true);
    let started = gateway.event("gateway.started");
    let admin = std::fs::read_to_string(home.join("state/admin.secret")).expect("read");
    let reach = json!({
        "api": format!("http://{}", started["api"].as_str().expect("an address")),
        "admin_secret_file": home.join("state/admin.secret"),
    });
    let rest = Rest::new(&reach, &home.join("state/tls/ca.pem"));
    let fields = json!({"app_secret": "the-apps-secret", "package": "com.example"});
    rest.ok("POST", "certificates", Some(&json!({"vendor": "xiaomi", "name": "288", "fields": fields})));
    rest.ok("POST", "users", Some(&json!({"username": "ann", "password": "the-users-password"})));
    let binding = json!({"device_id": "d", "device_token": TOKEN, "notifier_name": "288"});
    rest.ok("PUT", "users/ann/push/binding", Some(&binding));
    gateway.terminate();
    let log = gateway.rest().join("\n");
    for secret in [TOKEN, "the-apps-secret", "the-users-password", admin.trim()] {
        assert!(!log.contains(secret), "`{}...` is in the log", &secret[..8]);
    }
    assert!(log.contains("gateway.stopped"));
}

fn sources(path: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(path).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, out);
        } else {
            out.push(path);
        }
    }
}

#[test]
fn every_event_the_programs_log_is_explained_in_the_documents_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let mut logged = BTreeSet::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "rs")) {
        let text = std::fs::read_to_string(file).expect("read");
        for part in text.split("event = \"").skip(1) {
            logged.insert(part.split('"').next().expect("a word").to_owned());
        }
    }
    let document = std::fs::read_to_string(root.join("docs/logs.md")).expect("read");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let explained: BTreeSet<String> =
        rows.map(|row| row.split('`').next().expect("a word").to_owned()).filter(|name| name.contains('.')).collect();
    assert_eq!(explained, logged);
}

#[test]
fn the_manual_and_the_completions_are_written_for_every_program() {
    let dir = tempfile::tempdir().expect("a directory");
    let lab = env!("CARGO_BIN_EXE_impush-lab");
    assert!(Command::new(lab).arg("manual").arg(dir.path()).status().expect("ran").success());
    let text = |path: &str| std::fs::read_to_string(dir.path().join(path)).expect(path);
    for name in ["impush", "impush-gateway", "impush-lab"] {
        assert!(text(&format!("man/{name}.1")).contains(".SH NAME"));
        assert!(text(&format!("completions/bash/{name}.bash")).contains("complete"));
    }
    assert!(text("man/impush-doctor.1").contains("doctor"));
    assert!(text("completions/zsh/_impush").contains("support-bundle"));
}
