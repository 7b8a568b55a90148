//! TLS as it lives: authorities that are replaced, servers that move, a captive portal, a clock that stays in 1970.

mod support;

use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use support::{Agent, Certificates, Flaw, Mosquitto, Process, certificates, has, impush, skipped};

fn mosquitto_or_skip(test: &str) -> bool {
    let there = has("mosquitto");
    if !there {
        skipped(test, "mosquitto is not installed");
    }
    there
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// A broker with an authority of its own.
struct Broker {
    _dir: tempfile::TempDir,
    certificates: Certificates,
    server: Mosquitto,
}

impl Broker {
    fn new() -> Self {
        Self::with(Flaw::None)
    }

    fn with(flaw: Flaw) -> Self {
        let dir = home();
        let certificates = certificates(dir.path(), flaw);
        let server = Mosquitto::start(dir.path(), &certificates);
        Self { _dir: dir, certificates, server }
    }

    fn url(&self) -> String {
        format!("mqtts://localhost:{}", self.server.tls)
    }
}

/// As packages and `certbot` do it: a new file takes the old one's name.
fn replace(path: &Path, content: &[u8]) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).expect("written");
    std::fs::rename(new, path).expect("renamed");
}

fn findings(agent: &Agent) -> Vec<Value> {
    let output = agent.run(&["doctor", "--json"]);
    serde_json::from_slice::<Vec<Value>>(&output.stdout).expect("JSON")
}

fn found<'a>(findings: &'a [Value], name: &str) -> Vec<&'a str> {
    let of = |check: &&Value| check["name"] == name;
    findings.iter().filter(of).map(|check| check["found"].as_str().expect("a text")).collect()
}

fn count(agent: &Agent, event: &str) -> usize {
    let named = format!(r#""event":"{event}""#);
    agent.process.seen.iter().filter(|line| line.contains(&named)).count()
}

#[test]
fn a_replaced_authority_ends_the_pause_of_the_distrustful_and_a_broken_one_changes_nothing() {
    let test = "a_replaced_authority_ends_the_pause_of_the_distrustful_and_a_broken_one_changes_nothing";
    if !mosquitto_or_skip(test) {
        return;
    }
    let (broker, other, dir) = (Broker::new(), Broker::new(), home());
    let (home, ca) = (dir.path().join("a"), dir.path().join("ca.pem"));
    std::fs::copy(&other.certificates.ca, &ca).expect("copied");
    Agent::configure(&home, &broker.url(), &ca, "");
    let mut agent = Agent::start(&home);
    agent.login("ann", "secret");
    assert_eq!(agent.process.event("link.down")["cause"], "tls_untrusted");
    let before = agent.status()["trusted"].clone();
    let pem = std::fs::read(&broker.certificates.ca).expect("read");
    // Nobody says so to the agent, whose next attempt may be half an hour away.
    replace(&ca, &pem);
    assert_eq!(agent.process.event("tls.reloaded")["authorities"], json!(1));
    assert_eq!(agent.process.event("link.retry_soon")["why"], "reconfigured");
    agent.process.event("link.up");
    let trusted = agent.status()["trusted"].clone();
    assert_ne!(trusted["fingerprint"], before["fingerprint"]);
    // Broken in place, as by a disk that ran full: named once, whatever is tried.
    std::fs::write(&ca, "-----BEGIN CERTIFICATE-----\nAAAA").expect("written");
    agent.ok(&["reconnect"]);
    assert!(agent.process.event("tls.refused")["error"].as_str().is_some_and(|text| text.contains("ca.pem")));
    agent.process.event("link.up");
    agent.ok(&["reconnect"]);
    agent.process.event("link.up");
    assert_eq!(count(&agent, "tls.refused"), 1);
    assert_eq!(agent.status()["trusted"], trusted);
    let checks = findings(&agent);
    assert!(found(&checks, "tls")[0].contains("the running agent goes on"), "{checks:#?}");
    // Good again, but for another server: the link stands on the old one, and doctor tells the two apart.
    std::fs::copy(&other.certificates.ca, &ca).expect("copied");
    let checks = findings(&agent);
    let differs = found(&checks, "running agent");
    assert!(differs.len() == 1 && differs[0].contains("authorities"), "{checks:#?}");
    agent.process.signal(Signal::HUP);
    agent.process.event("tls.reloaded");
    assert_eq!(found(&findings(&agent), "running agent"), [""; 0]);
    assert_eq!(agent.status()["state"], "online", "a link that stands is not ended for a new authority");
}

#[test]
fn a_client_certificate_is_read_anew_with_its_key() {
    if !mosquitto_or_skip("a_client_certificate_is_read_anew_with_its_key") {
        return;
    }
    let (broker, dir) = (Broker::new(), home());
    let identity = |name: &str| {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("made");
        (made.cert.pem(), made.signing_key.serialize_pem())
    };
    let (home, chain, key) = (dir.path().join("a"), dir.path().join("own.pem"), dir.path().join("own.key"));
    let write = |(certificate, secret): (String, String)| {
        replace(&chain, certificate.as_bytes());
        replace(&key, secret.as_bytes());
    };
    write(identity("first"));
    Agent::configure(&home, &broker.url(), &broker.certificates.ca, "");
    let file = home.join("impush.toml");
    let text = std::fs::read_to_string(&file).expect("read");
    let own = format!("[server]\nclient_certificate = '{}'\nclient_key = '{}'", chain.display(), key.display());
    std::fs::write(&file, text.replacen("[server]", &own, 1)).expect("written");
    let mut agent = Agent::start(&home);
    agent.login("ann", "secret");
    agent.process.event("link.up");
    let first = agent.status()["trusted"]["client_certificate"].clone();
    assert!(first.is_string());
    // Between the two renames the key is another's: nothing changes until they fit.
    let second = identity("second");
    replace(&chain, second.0.as_bytes());
    agent.ok(&["reconnect"]);
    agent.process.event("tls.refused");
    agent.process.event("link.up");
    assert_eq!(agent.status()["trusted"]["client_certificate"], first);
    replace(&key, second.1.as_bytes());
    agent.ok(&["reconnect"]);
    agent.process.event("tls.reloaded");
    agent.process.event("link.up");
    assert_ne!(agent.status()["trusted"]["client_certificate"], first);
}

#[test]
fn sighup_moves_the_link_to_a_newly_configured_server_and_leaves_one_that_is_still_configured() {
    let test = "sighup_moves_the_link_to_a_newly_configured_server_and_leaves_one_that_is_still_configured";
    if !mosquitto_or_skip(test) {
        return;
    }
    let (first, second, dir) = (Broker::new(), Broker::new(), home());
    let home = dir.path().join("a");
    let configure = |broker: &Broker, ca: &Path, more: &str| {
        Agent::configure(&home, &broker.url(), ca, more);
    };
    configure(&first, &first.certificates.ca, "");
    let mut agent = Agent::start(&home);
    agent.login("ann", "secret");
    assert_eq!(agent.process.event("link.up")["server"], json!(first.url()));
    let since = agent.status()["since_ms"].clone();
    // The same again, then with a fallback and another key that waits for the next start.
    agent.process.signal(Signal::HUP);
    agent.process.event("config.reloaded");
    let text = std::fs::read_to_string(home.join("impush.toml")).expect("read");
    let more = format!("[server]\nfallback_urls = ['{}']", second.url());
    let text = text.replacen("[server]", &more, 1).replacen("org#app", "org#other", 1);
    std::fs::write(home.join("impush.toml"), text).expect("written");
    agent.process.signal(Signal::HUP);
    assert_eq!(agent.process.event("config.reloaded")["changed"], "server.fallback_urls");
    assert_eq!(agent.process.event("config.needs_restart")["keys"], "server.app");
    let status = agent.status();
    assert_eq!((&status["since_ms"], &status["servers"][1]), (&since, &json!(second.url())));
    // An authority that cannot be read: nothing of it is taken over, not even the server.
    configure(&second, &dir.path().join("nowhere.pem"), "");
    agent.process.signal(Signal::HUP);
    assert!(agent.process.event("config.refused")["error"].as_str().is_some_and(|text| text.contains("nowhere.pem")));
    assert_eq!(agent.status()["since_ms"], since);
    let checks = findings(&agent);
    let differs = found(&checks, "running agent");
    assert!(differs.iter().any(|text| text.contains(&second.url())), "{checks:#?}");
    configure(&second, &second.certificates.ca, "");
    agent.process.signal(Signal::HUP);
    assert_eq!(agent.process.event("link.closed")["cause"], "reconfigured");
    assert_eq!(agent.process.event("link.up")["server"], json!(second.url()));
    assert_eq!(found(&findings(&agent), "running agent"), [""; 0]);
}

/// `impush-lab trouble portal` in front of a server.
struct Portal {
    child: Child,
    commands: ChildStdin,
    address: String,
}

impl Portal {
    fn start(to: u16) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_impush-lab"))
            .args(["trouble", "portal", "--to", &format!("127.0.0.1:{to}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        let address = line["portal"].as_str().expect("an address").to_owned();
        Self { commands: child.stdin.take().expect("piped"), child, address }
    }
}

impl Drop for Portal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_captive_portal_is_named_and_the_agent_is_online_within_half_a_minute_of_the_sign_in() {
    let test = "a_captive_portal_is_named_and_the_agent_is_online_within_half_a_minute_of_the_sign_in";
    if !mosquitto_or_skip(test) {
        return;
    }
    let (broker, dir) = (Broker::new(), home());
    let mut portal = Portal::start(broker.server.tls);
    let port = portal.address.rsplit(':').next().expect("a port");
    let home = dir.path().join("a");
    Agent::configure(&home, &format!("mqtts://localhost:{port}"), &broker.certificates.ca, "");
    let mut agent = Agent::start(&home);
    agent.login("ann", "secret");
    agent.process.event("network.sign_in");
    let down = agent.process.event("link.down");
    assert_eq!(down["cause"], "tls_untrusted");
    assert!(down["next_attempt_s"].as_f64().expect("a pause") <= 30.0, "{down}");
    assert_eq!(agent.status()["sign_in"], true);
    assert!(agent.ok(&["status"]).contains("captive portal"));
    let checks = findings(&agent);
    assert!(found(&checks, "login")[0].contains("captive portal"), "{checks:#?}");
    let advice = checks.iter().find(|check| check["name"] == "tls").expect("checked")["advice"].to_string();
    assert!(advice.contains("captive portal"), "{advice}");
    writeln!(portal.commands, "open").expect("said");
    let up = agent.process.event("link.up");
    assert_eq!(up["after"], "tls_untrusted");
    assert!(agent.status().get("sign_in").is_none());
}

/// libfaketime, for programs with threads.
fn faketime() -> Option<PathBuf> {
    let places = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let below = places.chain([PathBuf::from("/usr/lib64"), PathBuf::from("/usr/local/lib")]);
    below.map(|dir| dir.join("faketime/libfaketimeMT.so.1")).find(|file| file.exists())
}

/// An agent whose clock began in 1970. What is measured since boot stays as it is.
fn start_in_1970(home: &Path, faketime: &Path) -> Agent {
    let mut command = impush(home);
    command
        .arg("run")
        .env("LD_PRELOAD", faketime)
        .env("FAKETIME", "@1970-01-01 12:00:00")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .env("NO_FAKE_STAT", "1");
    let mut agent = Agent { process: Process::start(&mut command, true), home: home.to_owned() };
    agent.process.event("agent.started");
    agent
}

#[test]
fn a_board_whose_clock_stays_in_1970_comes_up_and_says_what_it_checks_certificates_against() {
    let test = "a_board_whose_clock_stays_in_1970_comes_up_and_says_what_it_checks_certificates_against";
    if !mosquitto_or_skip(test) {
        return;
    }
    let Some(faketime) = faketime() else { return skipped(test, "libfaketime is not installed") };
    let (broker, dir) = (Broker::with(Flaw::BeganDaysAgo(400)), home());
    let home = dir.path().join("a");
    Agent::configure(&home, &broker.url(), &broker.certificates.ca, "");
    let mut agent = start_in_1970(&home, &faketime);
    agent.login("ann", "secret");
    agent.process.event("clock.wrong");
    agent.process.event("link.up");
    let status = agent.status();
    assert!(status["clock_ms"].as_u64().expect("a time") < 3 * 86_400_000, "{status}");
    assert!(status["judged_by_ms"].as_u64().is_some_and(|ms| ms >= 1_795_132_800_000), "{status}");
    let text = agent.ok(&["status"]);
    assert!(text.contains("clock    says 1970-01-0") && text.contains("certificates are checked against 20"), "{text}");
    agent.process.terminate();
    // One that begins in the future is refused as it should be: dates are still looked at.
    let young = Broker::with(Flaw::BeganDaysAgo(-10));
    Agent::configure(&home, &young.url(), &young.certificates.ca, "");
    let mut agent = start_in_1970(&home, &faketime);
    assert_eq!(agent.process.event("link.down")["cause"], "tls_not_yet_valid");
}

#[test]
fn a_time_that_a_verified_connection_confirmed_outlives_a_boot_without_a_clock() {
    let test = "a_time_that_a_verified_connection_confirmed_outlives_a_boot_without_a_clock";
    if !mosquitto_or_skip(test) {
        return;
    }
    let Some(faketime) = faketime() else { return skipped(test, "libfaketime is not installed") };
    // Younger than any build of this source without SOURCE_DATE_EPOCH.
    let (broker, dir) = (Broker::with(Flaw::BeganDaysAgo(1)), home());
    let home = dir.path().join("a");
    Agent::configure(&home, &broker.url(), &broker.certificates.ca, "");
    let mut agent = start_in_1970(&home, &faketime);
    agent.login("ann", "secret");
    assert_eq!(agent.process.event("link.down")["cause"], "tls_not_yet_valid");
    agent.process.terminate();
    let mut agent = Agent::start(&home);
    agent.process.event("link.up");
    agent.ok(&["status"]);
    agent.process.terminate();
    let mut agent = start_in_1970(&home, &faketime);
    agent.process.event("clock.wrong");
    agent.process.event("link.up");
}
