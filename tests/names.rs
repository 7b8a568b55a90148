//! The agent's resolver against Android's netd and against name servers, both emulated as processes of their
//! own, and on a machine without any resolver.

mod support;

use impush::names::{Names, parse_server};
use serde_json::Value;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use support::{Agent, Flaw, LIMIT, Mosquitto, Process, all_paths, certificates, free_port, has, impush, skipped};

const HOST: &str = "push.example";

/// A device's file system with netd's socket in it.
fn netd(root: &Path, arguments: &[&str]) -> Process {
    let sockets = root.join("dev/socket");
    std::fs::create_dir_all(&sockets).expect("made");
    let mut command = Command::new(env!("CARGO_BIN_EXE_impush-lab"));
    command.args(["trouble", "dnsproxyd", "--socket"]).arg(sockets.join("dnsproxyd")).args(arguments);
    let mut process = Process::start(&mut command, false);
    process.wait_for("the socket", |line| line.contains("dnsproxyd").then_some(()));
    process
}

/// A name server that is told on its standard input what to do.
struct NameServer {
    child: Child,
    input: ChildStdin,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
    address: String,
}

impl NameServer {
    fn start(arguments: &[&str]) -> Self {
        Self::of(Command::new(env!("CARGO_BIN_EXE_impush-lab")), arguments)
    }

    fn of(mut command: Command, arguments: &[&str]) -> Self {
        use std::io::BufRead as _;
        command.args(["trouble", "names"]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let input = child.stdin.take().expect("piped");
        let mut lines = std::io::BufReader::new(child.stdout.take().expect("piped")).lines();
        let first: Value = serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON");
        let address = first["names"].as_str().expect("an address").to_owned();
        Self { child, input, lines, address }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("told");
        let done =
            |said: &String| serde_json::from_str::<Value>(said).is_ok_and(|v| v["done"] == line && v["known"] == true);
        self.lines.by_ref().map_while(Result::ok).find(done).expect("done");
    }

    fn is_asked(&mut self) {
        self.lines.by_ref().map_while(Result::ok).find(|said| said.contains("asked")).expect("a question");
    }

    /// As the only resolver below an empty root.
    fn names(&self, root: &Path) -> Names {
        Names::new(Some(root.to_owned()), vec![parse_server(&self.address).expect("an address")])
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn look(names: &Names, host: &str) -> Result<(Vec<String>, String), String> {
    let found = tokio::time::timeout(LIMIT, names.lookup(host, 8883)).await.expect("an end");
    let found = found.map_err(|error| error.to_string())?;
    assert!(found.addresses.iter().all(|address| address.port() == 8883));
    Ok((found.addresses.iter().map(|address| address.ip().to_string()).collect(), found.source))
}

#[tokio::test]
async fn netd_is_asked_in_the_dialect_of_its_android_and_the_oldest_is_refused_by_name() {
    let root = tempfile::tempdir().expect("a directory");
    let names = ["--name", "push.example=192.0.2.1", "--name", "push.example=2001:db8::1"];
    for (dialect, expected) in [("10", ["2001:db8::1", "192.0.2.1"]), ("6", ["192.0.2.1", "2001:db8::1"])] {
        let mut netd = netd(root.path(), &[&["--dialect", dialect][..], &names[..]].concat());
        let resolver = Names::new(Some(root.path().to_owned()), Vec::new());
        let found = look(&resolver, "Push.Example").await.expect("found");
        assert_eq!(found, (expected.map(str::to_owned).to_vec(), "netd".to_owned()), "Android {dialect}");
        netd.wait_for("a command", |line| line.contains("resnsend 0 0 ").then_some(()));
        let error = look(&resolver, "other.example").await.expect_err("no such name");
        assert_eq!(error, "other.example: netd: there is no such name", "Android {dialect}");
    }
    let _netd = netd(root.path(), &[&["--dialect", "5"][..], &names[..]].concat());
    let error = look(&Names::new(Some(root.path().to_owned()), Vec::new()), HOST).await.expect_err("too old");
    assert!(error.contains("Android 5") && error.contains("server.dns"), "{error}");
}

#[tokio::test]
async fn an_answer_of_netd_is_kept_and_one_without_a_time_to_live_is_not() {
    let root = tempfile::tempdir().expect("a directory");
    for (dialect, kept) in [("10", true), ("6", false)] {
        let running = netd(root.path(), &["--dialect", dialect, "--name", "push.example=192.0.2.1"]);
        let resolver = Names::new(Some(root.path().to_owned()), Vec::new());
        look(&resolver, HOST).await.expect("found");
        drop(running);
        assert_eq!(look(&resolver, HOST).await.is_ok(), kept, "Android {dialect}");
    }
}

#[tokio::test]
async fn a_netd_that_fails_babbles_or_hangs_is_named_and_the_configured_servers_answer() {
    let root = tempfile::tempdir().expect("a directory");
    let server = NameServer::start(&["--name", "push.example=192.0.2.7"]);
    for fault in ["fails", "garbage", "hangs"] {
        for dialect in ["10", "6"] {
            let _netd =
                netd(root.path(), &["--dialect", dialect, "--fault", fault, "--name", "push.example=192.0.2.1"]);
            let found = look(&server.names(root.path()), HOST).await.expect("found");
            assert_eq!(found, (vec!["192.0.2.7".to_owned()], server.address.clone()), "{fault}");
            let alone = Names::new(Some(root.path().to_owned()), Vec::new());
            if fault == "hangs" {
                // Whoever gives up drops the call.
                assert!(tokio::time::timeout(Duration::from_millis(50), alone.lookup(HOST, 1)).await.is_err());
            } else {
                let error = look(&alone, HOST).await.expect_err("a fault");
                assert!(error.starts_with("push.example: netd: "), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_moves_is_found_when_its_time_to_live_is_over_or_when_it_is_doubted() {
    let root = tempfile::tempdir().expect("a directory");
    for (ttl, doubted) in [("1", false), ("3600", true)] {
        let mut server = NameServer::start(&["--name", "push.example=192.0.2.1", "--ttl", ttl]);
        let names = server.names(root.path());
        assert_eq!(look(&names, HOST).await.expect("found").0, ["192.0.2.1"]);
        server.tell("move push.example 192.0.2.2");
        assert_eq!(look(&names, HOST).await.expect("kept").0, ["192.0.2.1"], "within its time to live");
        if doubted {
            names.doubt();
        }
        let asked = Instant::now();
        while look(&names, HOST).await.expect("found").0 != ["192.0.2.2"] {
            assert!(!doubted && asked.elapsed() < LIMIT, "still at the old address");
        }
    }
}

#[tokio::test]
async fn an_expired_answer_serves_while_nobody_answers_and_not_after_a_denial() {
    let root = tempfile::tempdir().expect("a directory");
    let mut server = NameServer::start(&["--name", "push.example=192.0.2.1", "--ttl", "3600"]);
    let names = server.names(root.path());
    look(&names, HOST).await.expect("found");
    server.tell("fail");
    names.on_network(Some("wifi-2"));
    let (addresses, source) = look(&names, HOST).await.expect("the expired answer");
    assert_eq!((addresses, source), (vec!["192.0.2.1".to_owned()], format!("{}, expired", server.address)));
    assert_eq!(names.told()[HOST], format!("{}, expired", server.address));
    server.tell("mend");
    assert_eq!(look(&names, HOST).await.expect("found").1, server.address);
    server.tell("forget push.example");
    names.doubt();
    let error = look(&names, HOST).await.expect_err("denied");
    assert!(error.contains(&server.address) && error.contains("no such name"), "{error}");
    server.tell("fail");
    let error = look(&names, HOST).await.expect_err("what was denied is not used again");
    assert!(error.contains("SERVFAIL"), "{error}");
}

#[tokio::test]
async fn what_does_not_fit_is_asked_over_tcp_and_the_next_server_when_one_is_silent() {
    let root = tempfile::tempdir().expect("a directory");
    let mut cut = NameServer::start(&["--name", "push.example=192.0.2.1", "--truncate"]);
    assert_eq!(look(&cut.names(root.path()), HOST).await.expect("found").0, ["192.0.2.1"]);
    assert!(cut.lines.by_ref().map_while(Result::ok).any(|said| said.contains("tcp")));
    let mut silent = NameServer::start(&["--name", "push.example=192.0.2.9"]);
    silent.tell("hang");
    let servers = [&silent.address, &cut.address].map(|address| parse_server(address).expect("an address"));
    let names = Names::new(Some(root.path().to_owned()), servers.to_vec());
    assert_eq!(look(&names, HOST).await.expect("found").1, cut.address);
}

#[tokio::test]
async fn addresses_the_hosts_file_and_localhost_need_nobody() {
    let root = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(root.path().join("etc")).expect("made");
    std::fs::write(root.path().join("etc/hosts"), "192.0.2.5 push.example\n").expect("written");
    let names = Names::new(Some(root.path().to_owned()), vec!["127.0.0.1:1".parse().expect("an address")]);
    for (host, address, source) in [
        ("192.0.2.4", "192.0.2.4", "address"),
        ("2001:db8::4", "2001:db8::4", "address"),
        (HOST, "192.0.2.5", "hosts file"),
        ("localhost", "127.0.0.1", "localhost"),
    ] {
        let (addresses, by) = look(&names, host).await.expect("found");
        assert_eq!((addresses[0].parse::<IpAddr>(), by.as_str()), (address.parse(), source), "{host}");
    }
}

/// An agent below a root of its own, whose server is known by name only.
fn device(dir: &Path, extra: &str) -> Option<(Mosquitto, Agent)> {
    if !has("mosquitto") {
        skipped("an agent and its names", "needs mosquitto");
        return None;
    }
    let made = certificates(dir, Flaw::WrongName);
    let broker = Mosquitto::start(dir, &made);
    let home = dir.join("a");
    let url = format!("mqtts://elsewhere.example:{}", broker.tls);
    let root = dir.join("root");
    std::fs::create_dir_all(&root).expect("made");
    Agent::configure(&home, &url, &made.ca, &format!("[device]\nroot = '{}'\n", root.display()));
    let config = home.join("impush.toml");
    let text = std::fs::read_to_string(&config).expect("read").replacen("[server]", &format!("[server]\n{extra}"), 1);
    std::fs::write(&config, text).expect("written");
    let agent = Agent::start(&home);
    Some((broker, agent))
}

#[test]
fn an_agent_reaches_its_server_through_netd_or_a_configured_server_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = NameServer::start(&["--name", "elsewhere.example=127.0.0.1"]);
    for by_netd in [true, false] {
        let home = dir.path().join(by_netd.to_string());
        std::fs::create_dir(&home).expect("made");
        let dns = if by_netd { String::new() } else { format!("dns = ['{}']", server.address) };
        let _netd = by_netd.then(|| netd(&home.join("root"), &["--name", "elsewhere.example=127.0.0.1"]));
        let Some((_broker, mut agent)) = device(&home, &dns) else { return };
        agent.login("ann", "secret");
        let source = agent.process.event("names.source");
        let expected = if by_netd { "netd" } else { &server.address };
        assert_eq!(source["source"], *expected, "{source}");
        agent.process.event("link.up");
        assert_eq!(agent.status()["names"]["elsewhere.example"], *expected);
        let doctor = agent.run(&["doctor"]);
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(said.contains(&format!("elsewhere.example is 127.0.0.1 (by: {expected})")), "{said}");
    }
}

#[test]
fn an_agent_whose_netd_fails_says_who_failed_and_stops_at_once_while_it_hangs() {
    for fault in ["fails", "hangs"] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut netd = netd(&dir.path().join("root"), &["--fault", fault]);
        let Some((_broker, mut agent)) = device(dir.path(), "") else { return };
        agent.login("ann", "secret");
        netd.wait_for("a command", |line| line.contains("resnsend").then_some(()));
        if fault == "fails" {
            let down = agent.process.event("link.down");
            assert_eq!(down["cause"], "dns_failed");
            assert!(
                down["detail"].as_str().expect("text").contains("elsewhere.example: netd: Connection timed out"),
                "{down}"
            );
        }
        let asked = Instant::now();
        assert!(agent.process.terminate().success());
        assert!(asked.elapsed() < Duration::from_secs(5), "{fault}: {:?}", asked.elapsed());
    }
}

/// Loopback alone, in a network namespace, and an `/etc` without resolv.conf for what runs in `bare`.
struct Bare {
    _turn: MutexGuard<'static, ()>,
    etc: tempfile::TempDir,
}

/// The namespace has a fixed name, so that a killed run's remains are found and removed.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

impl Bare {
    const NAME: &'static str = "impush-names";

    fn new(test: &str) -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        if !rustix::process::geteuid().is_root() || !["ip", "unshare", "mosquitto"].iter().all(|p| has(p)) {
            skipped(test, "needs root, ip, unshare and mosquitto");
            return None;
        }
        let etc = tempfile::tempdir().expect("a directory");
        let script = format!(
            "ip netns del {0} 2>/dev/null; ip netns add {0} && ip -n {0} link set lo up && cp -a /etc/. {1} && rm -f {1}/resolv.conf",
            Self::NAME,
            etc.path().display()
        );
        let made = Command::new("sh").arg("-c").arg(script).env("PATH", all_paths()).output().expect("ran");
        if !made.status.success() {
            skipped(test, &format!("this machine cannot: {}", String::from_utf8_lossy(&made.stderr)));
            return None;
        }
        Some(Self { _turn: turn, etc })
    }

    /// A name server for the C library, which knows no other port than 53, and the file that names it.
    fn resolver(&self) -> NameServer {
        let lab = self.command(&Command::new(env!("CARGO_BIN_EXE_impush-lab")));
        let server = NameServer::of(lab, &["--listen", "127.0.0.1:53", "--name", "elsewhere.example=127.0.0.1"]);
        self.resolver_file("nameserver 127.0.0.1\n");
        server
    }

    fn resolver_file(&self, text: &str) {
        std::fs::write(self.etc.path().join("new"), text).expect("written");
        std::fs::rename(self.etc.path().join("new"), self.etc.path().join("resolv.conf")).expect("renamed");
    }

    fn agent(&self, home: PathBuf) -> Agent {
        let mut run = impush(&home);
        run.arg("run");
        let mut agent = Agent { process: Process::start(&mut self.command(&run), true), home };
        agent.process.event("agent.started");
        agent.login("ann", "secret");
        agent
    }

    fn command(&self, program: &Command) -> Command {
        let mut command = Command::new("ip");
        let script = format!("mount --bind {} /etc && exec \"$@\"", self.etc.path().display());
        command.args(["netns", "exec", Self::NAME, "unshare", "-m", "sh", "-c", &script, "sh"]);
        command.arg(program.get_program()).args(program.get_args());
        command
            .env("PATH", all_paths())
            .env_remove("RUST_LOG")
            .env_remove("INVOCATION_ID")
            .env_remove("JOURNAL_STREAM");
        command
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let script = format!("ip netns pids {0} | xargs -r kill -9; ip netns del {0}", Self::NAME);
        drop(Command::new("sh").arg("-c").arg(script).env("PATH", all_paths()).output());
    }
}

#[test]
fn a_resolver_that_appears_late_is_used_at_once() {
    let Some(bare) = Bare::new("a_resolver_that_appears_late_is_used_at_once") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let made = certificates(dir.path(), Flaw::WrongName);
    let (port, home) = (free_port(), dir.path().join("a"));
    for (path, mode) in [(dir.path(), 0o755), (made.key.as_path(), 0o644)] {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permitted");
    }
    let config = dir.path().join("mosquitto.conf");
    let [ca, chain, key] = [&made.ca, &made.chain, &made.key].map(|path| path.display().to_string());
    let text =
        format!("listener {port} 127.0.0.1\nallow_anonymous true\ncafile {ca}\ncertfile {chain}\nkeyfile {key}\n");
    std::fs::write(&config, text).expect("written");
    let mut broker = Command::new("mosquitto");
    broker.arg("-v").arg("-c").arg(&config);
    let mut broker = Process::start(&mut bare.command(&broker), true);
    broker.wait_for("running", |line| line.contains("running").then_some(()));
    Agent::configure(&home, &format!("mqtts://elsewhere.example:{port}"), &made.ca, "");
    let mut agent = bare.agent(home);
    let down = agent.process.event("link.down");
    assert_eq!(down["cause"], "dns_failed");
    assert!(down["detail"].as_str().expect("text").contains("elsewhere.example: system: "), "{down}");
    // Nobody can say where the server is, and the pauses grow.
    agent.process.wait_for("a long pause", |line| {
        let down = serde_json::from_str::<Value>(line).ok().filter(|line| line["event"] == "link.down")?;
        (down["next_attempt_s"].as_f64().expect("a number") > 5.0).then_some(())
    });
    let _resolver = bare.resolver();
    let written = Instant::now();
    assert_eq!(agent.process.event("link.retry_soon")["why"], "network_changed");
    agent.process.event("link.up");
    assert!(written.elapsed() < Duration::from_secs(2), "{:?}", written.elapsed());
    assert_eq!(agent.status()["names"]["elsewhere.example"], "system");
}

#[test]
fn lookups_of_the_system_that_hang_do_not_pile_up_and_hold_no_end_up() {
    let Some(bare) = Bare::new("lookups_of_the_system_that_hang_do_not_pile_up_and_hold_no_end_up") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let made = certificates(dir.path(), Flaw::WrongName);
    let mut resolver = bare.resolver();
    resolver.tell("hang");
    let home = dir.path().join("a");
    Agent::configure(&home, "mqtts://elsewhere.example:8883", &made.ca, "");
    let mut agent = bare.agent(home);
    resolver.is_asked();
    let tasks = format!("/proc/{}/task", agent.status()["pid"]);
    let hanging = || {
        let names = std::fs::read_dir(&tasks).expect("listed").flatten();
        let names = names.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.trim() == "getaddrinfo").count()
    };
    let mut most = 0;
    for round in 0..8 {
        // Another file: the attempt under way is given up for another.
        bare.resolver_file(&format!("nameserver 127.0.0.1\n# {round}\n"));
        agent.process.event("link.attempt_renamed");
        most = most.max(hanging());
    }
    assert!((1..=2).contains(&most), "{most} threads");
    let asked = Instant::now();
    assert!(agent.process.terminate().success());
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
}
