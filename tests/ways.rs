//! A name with two addresses of which the first is silent: an agent, mosquitto and the lab's silent server as
//! processes. Needs root (for a hosts file of the agent's own), `unshare` and mosquitto.
//!
//! ```text
//! localhost: first address, silent at a step ... second address, a real broker with TLS
//! ```

mod support;

use serde_json::Value;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Agent, Certificates, Flaw, Process, all_paths, certificates, free_port, has, impush, skipped};

/// First address and second: each family first, and one family alone.
const PAIRS: [(&str, &str); 3] = [("127.0.0.1", "::1"), ("::1", "127.0.0.1"), ("127.0.0.1", "127.0.0.2")];
/// From the login, a command of its own, until online.
const FIRST: Duration = Duration::from_secs(3);
/// From a wish for a new connection until online. No silence is waited for: that alone would be a second.
const AGAIN: Duration = Duration::from_millis(500);

struct Lab {
    agent: Agent,
    _servers: [Process; 2],
    _dir: tempfile::TempDir,
}

/// mosquitto with TLS at one address.
fn broker(dir: &Path, made: &Certificates, address: &str, port: u16) -> Process {
    let config = dir.join(format!("mosquitto-{}.conf", address.replace(':', "_")));
    let (ca, chain, key) = (made.ca.display(), made.chain.display(), made.key.display());
    let text =
        format!("listener {port} {address}\nallow_anonymous true\ncafile {ca}\ncertfile {chain}\nkeyfile {key}\n");
    std::fs::write(&config, text).expect("written");
    let mut process =
        Process::start(Command::new("mosquitto").args(["-v", "-c"]).arg(&config).env("PATH", all_paths()), true);
    process.wait_for("running", |line| line.contains("running").then_some(()));
    process
}

/// A server with TLS that is silent from a step on.
fn silent(made: &Certificates, step: &str, address: &str, port: u16) -> Process {
    let listen = std::net::SocketAddr::new(address.parse().expect("an address"), port).to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_impush-lab"));
    command.args(["trouble", "silent", "--at", step, "--listen", &listen, "--certificate"]).arg(&made.chain);
    let mut process = Process::start(command.arg("--key").arg(&made.key), false);
    process.wait_for("its address", |line| line.starts_with('{').then_some(()));
    process
}

/// The agent before its login; `step` is where the first address is silent, if it is.
fn lab(step: Option<&str>, (first, second): (&str, &str)) -> Lab {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let made = certificates(dir.path(), Flaw::None);
    // mosquitto gives up root and must still read its files.
    for (path, mode) in [(dir.path(), 0o755), (made.key.as_path(), 0o644)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permitted");
    }
    let port = free_port();
    let at_first = match step {
        Some(step) => silent(&made, step, first, port),
        None => broker(dir.path(), &made, first, port),
    };
    let servers = [at_first, broker(dir.path(), &made, second, port)];
    let hosts = dir.path().join("hosts");
    std::fs::write(&hosts, format!("{first} localhost\n{second} localhost\n")).expect("written");
    let home = dir.path().join("a");
    Agent::configure(&home, &format!("mqtts://localhost:{port}"), &made.ca, "");
    let plain = impush(&home);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]).arg(&hosts);
    command.arg(plain.get_program()).args(plain.get_args()).arg("run").env("PATH", all_paths());
    command.env_remove("RUST_LOG").env_remove("INVOCATION_ID").env_remove("JOURNAL_STREAM");
    let mut agent = Agent { process: Process::start(&mut command, true), home };
    agent.process.event("agent.started");
    Lab { agent, _servers: servers, _dir: dir }
}

impl Lab {
    /// How long until online after what is done.
    fn online(&mut self, done: impl FnOnce(&Agent)) -> Duration {
        let before = self.agent.status()["since_ms"].clone();
        let from = Instant::now();
        done(&self.agent);
        self.agent.process.event("link.up");
        let took = from.elapsed();
        assert_ne!(self.agent.status()["since_ms"], before, "a connection of its own");
        took
    }

    /// The way to an address, as the status shows it.
    fn way(&self, address: &str) -> Value {
        let ways = self.agent.status()["ways"].clone();
        ways.as_array().expect("ways").iter().find(|way| way["address"] == address).cloned().unwrap_or_default()
    }
}

/// `false`, said aloud, where the machine cannot.
fn can(test: &str) -> bool {
    let able = rustix::process::geteuid().is_root()
        && ["unshare", "mosquitto"].iter().all(|program| has(program))
        && Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success())
        && std::net::TcpListener::bind("[::1]:0").is_ok();
    if !able {
        skipped(test, "needs root, unshare, mosquitto and IPv6 on loopback");
    }
    able
}

/// Online by the second address in time, and without a pause once the first is known to be silent.
fn silent_at(step: &str, test: &str) {
    if !can(test) {
        return;
    }
    for (first, second) in PAIRS {
        let mut lab = lab(Some(step), (first, second));
        let took = lab.online(|agent| agent.login("ann", "secret"));
        let (bad, good) = (lab.way(first), lab.way(second));
        assert_eq!((&bad["outcome"], &bad["step"]), (&"stalled".into(), &step.into()), "{bad}");
        assert_eq!(good["outcome"], "worked", "{good}");
        let examined = lab.agent.run(&["doctor", "--json"]);
        let found = String::from_utf8_lossy(&examined.stdout);
        assert!(found.contains(&format!("({step})")) && found.contains(&format!("{second} works")), "{found}");
        let again = lab.online(|agent| drop(agent.ok(&["reconnect"])));
        tell(&format!("{first} silent at {step}, {second} good: online in {took:?}, again in {again:?}"));
        assert!(took <= FIRST && again <= AGAIN, "{first} {second}: {took:?}, {again:?}");
        assert_eq!(lab.way(second)["outcome"], "worked");
    }
}

/// A figure, for whoever runs this.
fn tell(figure: &str) {
    writeln!(std::io::stderr(), "{figure}").expect("standard error");
}

#[test]
fn an_address_that_does_not_answer_syn_gives_way_to_the_next() {
    silent_at("tcp", "an_address_that_does_not_answer_syn_gives_way_to_the_next");
}

#[test]
fn an_address_that_is_silent_in_tls_gives_way_to_the_next() {
    silent_at("tls", "an_address_that_is_silent_in_tls_gives_way_to_the_next");
}

#[test]
fn an_address_that_does_not_answer_connect_gives_way_to_the_next() {
    silent_at("connect", "an_address_that_does_not_answer_connect_gives_way_to_the_next");
}

#[test]
fn an_address_that_does_not_answer_subscribe_gives_way_to_the_next() {
    silent_at("subscribe", "an_address_that_does_not_answer_subscribe_gives_way_to_the_next");
}

#[test]
fn of_two_good_addresses_the_first_is_used_and_nothing_stalls() {
    if !can("of_two_good_addresses_the_first_is_used_and_nothing_stalls") {
        return;
    }
    for (first, second) in PAIRS {
        let mut lab = lab(None, (first, second));
        let took = lab.online(|agent| agent.login("ann", "secret"));
        let again = lab.online(|agent| drop(agent.ok(&["reconnect"])));
        tell(&format!("{first} and {second} good: online in {took:?}, again in {again:?}"));
        assert!(took <= FIRST && again <= AGAIN, "{first} {second}: {took:?}, {again:?}");
        assert_eq!(lab.way(first)["outcome"], "worked");
        assert_ne!(lab.way(second)["outcome"], "stalled");
    }
}
