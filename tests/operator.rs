//! What an operator meets with a real gateway and agent: a key that is gone, a disk that is full, and text
//! that would take over the terminal.

mod support;

use impush::http::Http;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Agent, Gateway, LIMIT, Rest, free_port, has, impush, skipped};

const APP: [&str; 2] = ["--app", "org/app"];

fn add(gateway: &Gateway, name: &str) -> std::process::Output {
    let file = gateway.home.join("fields.json");
    std::fs::write(&file, "{\"app_secret\":\"very-secret\",\"package\":\"p\"}").expect("written");
    let file = file.to_str().expect("a path");
    gateway.run(&[&["certificate", "add"], &APP[..], &["xiaomi", name, "--fields-file", file]].concat())
}

/// Each certificate, by name, with why it is unreadable.
fn listed(gateway: &Gateway) -> Vec<(String, Option<String>)> {
    let text = gateway.ok(&[&["certificate", "list"], &APP[..]].concat());
    let read = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        (line["name"].as_str().expect("a name").to_owned(), line["unreadable"].as_str().map(str::to_owned))
    };
    text.lines().map(read).collect()
}

#[test]
fn a_gateway_whose_sealing_key_is_gone_serves_the_rest_and_makes_no_other_in_silence() {
    let dir = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let mut gateway = Gateway::start_at(dir.path(), port, "");
    let key = dir.path().join("state/secrets.key");
    let token = gateway.user("bob");
    assert!(add(&gateway, "288").status.success() && add(&gateway, "289").status.success());
    let kept = std::fs::read(&key).expect("a key");
    gateway.process.kill();

    std::fs::remove_file(&key).expect("removed");
    let mut gateway = Gateway::start_at(dir.path(), port, "[log]\nformat = 'json'\n");
    let all = listed(&gateway);
    assert_eq!(all.len(), 2);
    for (_, why) in all {
        let why = why.expect("unreadable");
        assert!(why.contains("secrets.key") && why.contains("new-secrets-key"), "{why}");
    }
    for output in [add(&gateway, "288"), gateway.run(&[&["certificate", "test"], &APP[..], &["288", "t"]].concat())] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(65) && said.contains("new-secrets-key"), "{said}");
        assert!(!said.contains("try again"), "{said}");
    }
    gateway.ok(&[&["send"], &APP[..], &["bob", "served"]].concat());
    assert!(!key.exists(), "made in silence");
    // Devices wait: nothing says that their logins are over.
    let mut agent = agent(&dir.path().join("agent"), &gateway, &token);
    assert_eq!(agent.process.event("link.down")["cause"], "server_unavailable");
    gateway.process.kill();

    // Put back, it is as before.
    std::fs::write(&key, &kept).expect("written");
    let mut gateway = Gateway::start_at(dir.path(), port, "");
    agent.process.terminate();
    configured(&agent.home, &gateway);
    agent = Agent::start(&agent.home);
    agent.process.event("link.up");
    assert!(listed(&gateway).iter().all(|(_, why)| why.is_none()));
    assert_eq!(gateway.run(&["new-secrets-key"]).status.code(), Some(66), "never over a key");
    assert_eq!(std::fs::read(&key).expect("a key"), kept);
    gateway.process.kill();

    // Gone for good: by command only, and then one by one.
    std::fs::remove_file(&key).expect("removed");
    let mut gateway = Gateway::start_at(dir.path(), port, "");
    let said = gateway.ok(&["new-secrets-key"]);
    assert!(said.contains("every device and app logs in again"), "{said}");
    assert!(add(&gateway, "288").status.success(), "without a restart");
    let all = listed(&gateway);
    assert!(all[0].1.is_none() && all[1].1.as_ref().is_some_and(|why| why.contains("another key")), "{all:?}");
    gateway.process.kill();
    let gateway = Gateway::start_at(dir.path(), port, "");
    assert!(!gateway.user("ann").is_empty(), "logins are made again");
}

/// The endpoint's port is another one after each start.
fn configured(home: &Path, gateway: &Gateway) {
    Agent::configure(home, &format!("mqtts://localhost:{}", gateway.port()), Path::new(gateway.ca()), "");
}

fn agent(home: &Path, gateway: &Gateway, token: &str) -> Agent {
    configured(home, gateway);
    let agent = Agent::start(home);
    std::fs::write(home.join("password"), token).expect("written");
    let file = home.join("password");
    agent.ok(&["login", "bob", "--no-wait", "--password-file", file.to_str().expect("a path")]);
    agent
}

#[test]
fn a_certificate_that_cannot_be_read_is_named_in_the_log_of_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let mut gateway = Gateway::start_at(dir.path(), port, "");
    assert!(add(&gateway, "288").status.success());
    gateway.process.kill();
    std::fs::write(dir.path().join("state/secrets.key"), "0".repeat(64)).expect("written");
    let config = dir.path().join("gateway.toml");
    let text = std::fs::read_to_string(&config).expect("read");
    std::fs::write(&config, format!("{text}[log]\nformat = 'json'\n")).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
    let mut process = support::Process::start(command.arg("--config").arg(&config).arg("serve"), true);
    let said = process.event("certificate.unreadable");
    assert_eq!((&said["app"], &said["certificate"]), (&json!("org#app"), &json!("288")));
    process.event("gateway.started");
}

/// Ended when dropped.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "between two questions")]
fn a_gateway_with_a_full_disk_says_that_it_is_not_ready_until_there_is_room() {
    if !rustix::process::geteuid().is_root() || !has("unshare") {
        return skipped("a_gateway_with_a_full_disk", "needs root and unshare");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (port, state) = (free_port(), dir.path().join("state"));
    std::fs::create_dir(&state).expect("made");
    let config = dir.path().join("gateway.toml");
    let text = format!(
        "[api]\nlisten = '127.0.0.1:{port}'\n[broker]\nlisten = '127.0.0.1:0'\n[paths]\nstate = '{}'\n",
        state.display()
    );
    std::fs::write(&config, text).expect("written");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount -t tmpfs -o size=8m none \"$0\" && exec \"$@\""]).arg(&state);
    command.arg(env!("CARGO_BIN_EXE_impush-gateway")).arg("--config").arg(&config).arg("serve");
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
    let gateway = Running(child);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let http = Http::new(None, Duration::from_secs(10)).expect("a client");
    let url = format!("http://127.0.0.1:{port}/readyz");
    let until = |wanted: u16| {
        let started = Instant::now();
        loop {
            let answer = runtime.block_on(http.call("GET", &url, &[], Vec::new()));
            if answer.is_ok_and(|(status, _)| status.as_u16() == wanted) {
                return;
            }
            assert!(started.elapsed() < LIMIT, "never {wanted}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    until(200);
    let fill = Path::new("/proc").join(gateway.0.id().to_string()).join("root");
    let fill = fill.join(state.strip_prefix("/").expect("absolute")).join("fill");
    let full = std::fs::write(&fill, vec![0; 16 * 1024 * 1024]).expect_err("no room for all");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    until(503);
    std::fs::remove_file(&fill).expect("removed");
    until(200);
}

#[test]
fn text_of_others_never_reaches_a_terminal_as_more_than_text() {
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(&dir.path().join("g"), "");
    let token = gateway.user("ann");
    let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
    let home = dir.path().join("a");
    Agent::configure(&home, &format!("mqtts://localhost:{}", gateway.port()), Path::new(gateway.ca()), "");
    let agent = Agent::start(&home);
    agent.login("ann", &token);
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}\nbob";
    let body = json!({ "to": ["ann"], "from": evil, "type": "txt", "body": { "msg": evil } });
    let sent = rest.ok("POST", "messages/users", Some(&body));
    let id = sent["data"]["ann"].as_str().expect("an id").to_owned();
    let harmless = |what: &str, text: &str| {
        let bad = text.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
        assert!(bad.is_none() && text.contains("\\u001b"), "{what}: {bad:?} in {text:?}");
    };
    for arguments in [&["watch", "--peek"][..], &["watch", "--peek", "--json"]] {
        let mut watch = support::Process::start(impush(&home).args(arguments), false);
        let line = watch.wait_for("the message", |line| line.contains(&id).then(|| line.to_owned()));
        harmless(arguments[arguments.len() - 1], &line);
    }
    drop(agent);
    harmless(
        "inbox list",
        &String::from_utf8(impush(&home).args(["inbox", "list"]).output().expect("ran").stdout).expect("text"),
    );
    // What a program reads is still the very text.
    let json = impush(&home).args(["inbox", "list", "--json", "--bodies"]).output().expect("ran").stdout;
    let read: Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!((&read["from"], &read["body"]["bodies"]), (&json!(evil), &Value::Null));
    harmless("inbox list --json", &String::from_utf8(json).expect("text"));
    // A refusal repeats what was asked.
    let refused = gateway.run(&[&["trace"], &APP[..], &["\u{202e}bob"]].concat());
    let refused = String::from_utf8(refused.stderr).expect("text");
    assert!(refused.contains("\\u202ebob") && !refused.contains('\u{202e}'), "{refused:?}");
    let refused = gateway.run(&[&["trace"], &APP[..], &[evil]].concat());
    let refused = String::from_utf8(refused.stderr).expect("text");
    assert!(refused.contains("control character") && !refused.contains('\u{1b}'), "{refused:?}");
}
