//! Real programs for the tests: agent, gateway, clouds and mosquitto as processes, waited for by what
//! they say and never by the clock.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod guest;
pub mod stage;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// Nothing here takes this long; it only ends a test that hangs.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Says aloud that a test cannot run here. The harness captures `print!`, not the stream itself.
pub fn skipped(test: &str, why: &str) {
    writeln!(std::io::stderr(), "SKIPPED {test}: {why}").expect("standard error");
}

pub fn has(program: &str) -> bool {
    let paths = std::env::var("PATH").unwrap_or_default();
    paths.split(':').chain(["/usr/sbin", "/sbin"]).any(|dir| Path::new(dir).join(program).exists())
}

/// A child whose output lines arrive on a channel; killed when dropped.
pub struct Process {
    pub child: Child,
    lines: Receiver<String>,
    pub seen: Vec<String>,
}

impl Process {
    /// Starts a program and listens to its standard error (`err`) or output.
    pub fn start(command: &mut Command, err: bool) -> Self {
        Self::listen(command.stdin(Stdio::null()), err)
    }

    /// Starts a program that is told things on its standard input and answers on its output.
    pub fn start_told(command: &mut Command) -> (Self, ChildStdin) {
        let mut process = Self::listen(command.stdin(Stdio::piped()), false);
        let input = process.child.stdin.take().expect("piped");
        (process, input)
    }

    fn listen(command: &mut Command, err: bool) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
        let (out, error) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let (heard, ignored): (Box<dyn Read + Send>, Box<dyn Read + Send>) =
            if err { (Box::new(error), Box::new(out)) } else { (Box::new(out), Box::new(error)) };
        let (sender, lines) = sync_channel(10_000);
        std::thread::spawn(move || {
            for line in BufReader::new(heard).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        // The other stream must be drained too, or the child would block on it.
        std::thread::spawn(move || drop(std::io::copy(&mut BufReader::new(ignored), &mut std::io::sink())));
        Self { child, lines, seen: Vec::new() }
    }

    /// The first line, from now on, that `wanted` accepts.
    pub fn wait_for<T>(&mut self, what: &str, wanted: impl FnMut(&str) -> Option<T>) -> T {
        self.wait_within(LIMIT, what, wanted)
    }

    /// The same, where lines may be so far apart.
    pub fn wait_within<T>(&mut self, limit: Duration, what: &str, mut wanted: impl FnMut(&str) -> Option<T>) -> T {
        loop {
            match self.lines.recv_timeout(limit) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if let Some(found) = wanted(&line) {
                        return found;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {what}; seen:\n{}", self.seen.join("\n")),
                Err(RecvTimeoutError::Disconnected) => panic!("ended before {what}; seen:\n{}", self.seen.join("\n")),
            }
        }
    }

    /// The next log event of this name.
    pub fn event(&mut self, name: &str) -> Value {
        self.wait_for(name, |line| serde_json::from_str::<Value>(line).ok().filter(|v| v["event"] == name))
    }

    /// Every line until the end.
    pub fn rest(&mut self) -> Vec<String> {
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            self.seen.push(line);
        }
        self.seen.clone()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).expect("signalled");
    }

    pub fn terminate(&mut self) -> std::process::ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().expect("ended")
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A port nobody listens on, never given twice by this process. It lies below the range from which the
/// kernel picks ports for outgoing connections, so that none of those takes it meanwhile.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (std::process::id().wrapping_mul(97).wrapping_add(step)) % 12_000;
        let port = u16::try_from(port).expect("below 32000");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// An authority and a server certificate below `dir`.
pub struct Certificates {
    pub ca: PathBuf,
    pub chain: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    None,
    Expired,
    NotYetValid,
    WrongName,
    /// No flaw to a clock that is right.
    BeganDaysAgo(i64),
}

pub fn certificates(dir: &Path, flaw: Flaw) -> Certificates {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    ca.distinguished_name.push(DnType::CommonName, "test authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("signed").pem();
    let issuer = Issuer::new(ca, ca_key);
    let name = if flaw == Flaw::WrongName { "elsewhere.example" } else { "localhost" };
    let mut server = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    let now = time::OffsetDateTime::now_utc();
    match flaw {
        Flaw::Expired => {
            server.not_before = now - time::Duration::days(20);
            server.not_after = now - time::Duration::days(10);
        }
        Flaw::BeganDaysAgo(days) => server.not_before = now - time::Duration::days(days),
        Flaw::NotYetValid => server.not_before = now + time::Duration::days(10),
        Flaw::None | Flaw::WrongName => {}
    }
    let key = KeyPair::generate().expect("a key");
    let certificate = server.signed_by(&key, &issuer).expect("signed");
    let made = Certificates { ca: dir.join("ca.pem"), chain: dir.join("server.pem"), key: dir.join("server.key") };
    std::fs::write(&made.ca, ca_pem).expect("written");
    std::fs::write(&made.chain, certificate.pem()).expect("written");
    std::fs::write(&made.key, key.serialize_pem()).expect("written");
    made
}

/// A real mosquitto with TLS on `tls` and plain MQTT on `plain`, both on loopback.
pub struct Mosquitto {
    pub process: Process,
    pub tls: u16,
    pub plain: u16,
    pub websocket: u16,
    config: PathBuf,
}

impl Mosquitto {
    pub fn start(dir: &Path, certificates: &Certificates) -> Self {
        Self::start_with(dir, certificates, "")
    }

    /// With one listener without TLS, at this port.
    pub fn start_plain(dir: &Path, plain: u16) -> Self {
        let path = dir.join("plain.conf");
        std::fs::write(&path, format!("listener {plain} 127.0.0.1\nallow_anonymous true\n")).expect("written");
        Self { process: Self::run(&path), tls: plain, plain, websocket: plain, config: path }
    }

    fn run(config: &Path) -> Process {
        let mut command = Command::new("mosquitto");
        let mut process = Process::start(command.arg("-v").arg("-c").arg(config).env("PATH", all_paths()), true);
        process.wait_for("running", |line| line.contains("running").then_some(()));
        process
    }

    /// Ends it at once, with all its connections.
    pub fn stop(&mut self) {
        self.process.child.kill().expect("killed");
        self.process.child.wait().expect("ended");
    }

    /// At the same ports.
    pub fn start_again(&mut self) {
        self.process = Self::run(&self.config);
    }

    /// With more lines in the configuration of its TLS listener.
    pub fn start_with(dir: &Path, certificates: &Certificates, extra: &str) -> Self {
        let (tls, plain, websocket) = (free_port(), free_port(), free_port());
        // mosquitto gives up root and must still read its files.
        for (path, mode) in [(dir, 0o755), (certificates.key.as_path(), 0o644)] {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permitted");
        }
        let config = format!(
            "per_listener_settings true\nlistener {plain} 127.0.0.1\nallow_anonymous true\nlistener {websocket} 127.0.0.1\nprotocol websockets\nallow_anonymous true\nlistener {tls} 127.0.0.1\nallow_anonymous true\n\
             cafile {}\ncertfile {}\nkeyfile {}\n{extra}\n",
            certificates.ca.display(),
            certificates.chain.display(),
            certificates.key.display()
        );
        let path = dir.join("mosquitto.conf");
        std::fs::write(&path, config).expect("written");
        Self { process: Self::run(&path), tls, plain, websocket, config: path }
    }

    pub fn publish(&self, topic: &str, payload: &[u8]) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), payload).expect("written");
        let port = self.plain.to_string();
        let done = Command::new("mosquitto_pub")
            .args(["-V", "mqttv5", "-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic, "-f"])
            .arg(file.path())
            .output()
            .expect("published");
        assert!(done.status.success(), "{done:?}");
    }

    /// Publishes each line of a text; it has been done when the child has ended.
    pub fn publish_lines(&self, topic: &str, lines: &str) -> Child {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(lines.as_bytes()).and_then(|()| file.rewind()).expect("written");
        let port = self.plain.to_string();
        let mut command = Command::new("mosquitto_pub");
        command.args(["-V", "mqttv5", "-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic, "-l"]).stdin(file);
        command.spawn().expect("started")
    }

    /// A subscriber whose lines are `topic payload`; listening once this returns.
    pub fn subscribe(&mut self, filter: &str) -> Process {
        static LAST: AtomicU32 = AtomicU32::new(0);
        // Gateways subscribe too, and the broker may have told of that only now.
        let client = format!("subscriber-{}", LAST.fetch_add(1, Ordering::Relaxed));
        let port = self.plain.to_string();
        let mut command = Command::new("mosquitto_sub");
        command.args(["-V", "mqttv5", "-h", "127.0.0.1", "-p", &port, "-q", "1", "-v", "-i", &client, "-t", filter]);
        let process = Process::start(&mut command, false);
        let told = format!("Sending SUBACK to {client}");
        self.process.wait_for("SUBACK", |line| line.ends_with(&told).then_some(()));
        process
    }
}

/// A real PostgreSQL on a port of its own, with an empty database.
pub struct Postgres {
    process: Option<Process>,
    server: Command,
    bin: PathBuf,
    data: PathBuf,
    pub port: u16,
    pub url: String,
}

/// A pgbouncer before a [`Postgres`]: the one on the path, or the one that `PGBOUNCER` names.
pub struct Pgbouncer {
    _process: Process,
    pub url: String,
}

impl Pgbouncer {
    fn program() -> String {
        std::env::var("PGBOUNCER").unwrap_or_else(|_| "pgbouncer".to_owned())
    }

    /// Major and minor version; `None` where it is not installed.
    pub fn version() -> Option<(u32, u32)> {
        let said = Command::new(Self::program()).arg("--version").env("PATH", all_paths()).output().ok()?;
        let text = String::from_utf8(said.stdout).ok()?;
        let mut numbers = text.lines().next()?.trim_start_matches("PgBouncer ").split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// With these lines in its configuration.
    pub fn start(dir: &Path, postgres: &Postgres, lines: &str) -> Self {
        let port = free_port();
        let file = dir.join(format!("pgbouncer-{port}.ini"));
        let text = format!(
            "[databases]\npostgres = host=127.0.0.1 port={} dbname=postgres user=impush\n[pgbouncer]\nauth_type = any\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n{lines}\n",
            postgres.port
        );
        std::fs::write(&file, text).expect("written");
        // It refuses to run as root, as PostgreSQL does.
        let root = rustix::process::geteuid().is_root();
        let mut command = Command::new(if root { "setpriv" } else { "env" });
        if root {
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]);
        }
        let mut process = Process::start(command.arg(Self::program()).arg(&file).env("PATH", all_paths()), true);
        process.wait_for("its listener", |line| line.contains("process up").then_some(()));
        Self { _process: process, url: format!("postgres://impush@127.0.0.1:{port}/postgres?sslmode=disable") }
    }
}

impl Postgres {
    /// `None` where it is not installed.
    pub fn start(dir: &Path) -> Option<Self> {
        let mut made = Self::made(dir)?;
        made.run();
        Some(made)
    }

    /// Its data, and nobody who serves them yet.
    pub fn made(dir: &Path) -> Option<Self> {
        Self::made_by(dir, "postgres", |data, bin| {
            let mut make = bin("initdb");
            make.args(["-N", "-A", "trust", "-U", "impush", "-D"]).arg(data);
            make
        })
    }

    fn made_by(dir: &Path, name: &str, by: impl Fn(&Path, &dyn Fn(&str) -> Command) -> Command) -> Option<Self> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
        let bin = versions.map(|v| v.path().join("bin")).filter(|bin| bin.join("initdb").exists()).max()?;
        let data = dir.join(name);
        std::fs::create_dir_all(&data).expect("made");
        let port = free_port();
        // It refuses to run as root.
        let root = rustix::process::geteuid().is_root();
        let run = |program: &str| {
            let mut command = Command::new(if root { "runuser" } else { "env" });
            if root {
                command.args(["-u", "nobody", "--"]);
            }
            command.arg(bin.join(program)).env("PATH", all_paths());
            command
        };
        if root {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("permitted");
            std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).expect("permitted");
            let owned = Command::new("chown").arg("nobody").arg(&data).status().expect("ran");
            assert!(owned.success());
        }
        let made = by(&data, &run).output().expect("ran");
        assert!(made.status.success(), "{made:?}");
        let mut server = run("postgres");
        server.arg("-D").arg(&data).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", ""]);
        let url = format!("postgres://impush@127.0.0.1:{port}/postgres?sslmode=disable");
        Some(Self { process: None, server, bin, data, port, url })
    }

    /// Starts it, or starts it again.
    pub fn run(&mut self) {
        let mut process = Process::start(&mut self.server, true);
        process.wait_for("ready", |line| line.contains("ready to accept ").then_some(()));
        self.process = Some(process);
    }

    /// A standby that follows this one, and serves readers.
    pub fn standby(&self, dir: &Path) -> Self {
        let mut standby = Self::made_by(dir, "standby", |data, bin| {
            let mut copy = bin("pg_basebackup");
            copy.args([
                "-N",
                "-c",
                "fast",
                "-R",
                "-h",
                "127.0.0.1",
                "-U",
                "impush",
                "-p",
                &self.port.to_string(),
                "-D",
            ])
            .arg(data);
            copy
        })
        .expect("installed");
        standby.run();
        standby
    }

    /// What one statement answers: a line a row, `|` between the columns.
    pub fn ask(&self, statement: &str) -> String {
        let said =
            Command::new(self.bin.join("psql")).args(["-AtX", "-c", statement, &self.url]).output().expect("ran");
        assert!(said.status.success(), "{said:?}");
        String::from_utf8(said.stdout).expect("text").trim_end().to_owned()
    }

    /// Ends it at once, with all its connections.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // The child may be what changed the user.
        let file = std::fs::read_to_string(self.data.join("postmaster.pid")).expect("read");
        let id = file.lines().next().and_then(|id| id.parse().ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(id.expect("an id"), rustix::process::Signal::INT).expect("signalled");
        process.child.wait().expect("ended");
    }
}

/// The library by which a program sees another time.
pub fn faketime() -> Option<String> {
    let places = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let found = places.map(|place| place.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())?;
    Some(found.to_str()?.to_owned())
}

/// Between two questions where nothing tells when the answer changes: an app may ask a hundred times a second.
#[allow(clippy::disallowed_methods, reason = "between two questions")]
fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(15));
}

/// Waits until it is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + LIMIT;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "not so in time: {what}");
        pause();
    }
}

/// A script's outcome, with the administrator's programs in reach.
pub fn shell(script: &str) -> Output {
    Command::new("sh").arg("-c").arg(script).env("PATH", all_paths()).output().expect("ran")
}

/// As [`shell`], of a script that has to go well.
pub fn must(script: &str) {
    let output = shell(script);
    assert!(output.status.success(), "{script}: {output:?}");
}

pub fn all_paths() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// An agent with its own state and socket below `home`.
pub struct Agent {
    pub process: Process,
    pub home: PathBuf,
}

impl Agent {
    pub fn configure(home: &Path, url: &str, ca: &Path, extra: &str) {
        std::fs::create_dir_all(home).expect("made");
        let text = format!(
            "[server]\nurl = '{url}'\napp = 'org#app'\nca_file = '{}'\n[paths]\nstate = '{}'\nsocket = '{}'\n[log]\nformat = 'json'\nlevel = 'debug'\n{extra}",
            ca.display(),
            home.join("state").display(),
            home.join("s").display()
        );
        std::fs::write(home.join("impush.toml"), text).expect("written");
    }

    /// Starts it and waits until its socket answers.
    pub fn start(home: &Path) -> Self {
        let process = Process::start(impush(home).arg("run"), true);
        let mut agent = Self { process, home: home.to_owned() };
        agent.process.event("agent.started");
        agent
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        impush(&self.home).args(arguments).output().expect("ran")
    }

    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.ok(&["status", "--json"])).expect("JSON")
    }

    pub fn login(&self, user: &str, password: &str) {
        let file = self.home.join("password");
        std::fs::write(&file, password).expect("written");
        // Whether a server accepts it is what the tests look at themselves.
        self.ok(&["login", user, "--no-wait", "--password-file", file.to_str().expect("a path")]);
    }
}

/// The agent's command line with that home's configuration.
pub fn impush(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_impush"));
    command
        .arg("--config")
        .arg(home.join("impush.toml"))
        .env_remove("RUST_LOG")
        .env_remove("INVOCATION_ID")
        .env_remove("JOURNAL_STREAM");
    command
}

const PASSWORD: &str = "a password";

/// A gateway with its own endpoint.
pub struct Gateway {
    pub process: Process,
    pub home: PathBuf,
    pub reach: Value,
}

impl Gateway {
    pub fn start(home: &Path, extra: &str) -> Self {
        Self::start_at(home, free_port(), extra)
    }

    /// With the REST API at this port.
    pub fn start_at(home: &Path, api_port: u16, extra: &str) -> Self {
        Self::start_in(home, api_port, extra, &[])
    }

    /// With more variables in its environment.
    pub fn start_in(home: &Path, api_port: u16, extra: &str, environment: &[(&str, &str)]) -> Self {
        std::fs::create_dir_all(home).expect("made");
        let config = home.join("gateway.toml");
        let text = format!(
            "[api]\nlisten = '127.0.0.1:{}'\n[broker]\nlisten = '127.0.0.1:0'\n[paths]\nstate = '{}'\n{extra}",
            api_port,
            home.join("state").display()
        );
        std::fs::write(&config, text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
        command.envs(environment.iter().copied());
        let mut process = Process::start(command.arg("--config").arg(&config).args(["serve", "--announce"]), false);
        let reach = process.wait_for("the addresses", |line| serde_json::from_str(line).ok());
        Self { process, home: home.to_owned(), reach }
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
        command.arg("--config").arg(self.home.join("gateway.toml")).args(arguments).output().expect("ran")
    }

    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// Creates the user and returns a device password.
    pub fn user(&self, user: &str) -> String {
        let file = self.home.join("password");
        std::fs::write(&file, PASSWORD).expect("written");
        let file = file.to_str().expect("a path");
        self.ok(&["user", "--app", "org/app", "--password-file", file, "--", user]);
        self.ok(&["token", "--app", "org/app", "--password-file", file, "--", user])
    }

    pub fn ca(&self) -> &str {
        self.reach["ca_file"].as_str().expect("a file")
    }

    pub fn port(&self) -> String {
        self.reach["broker"].as_str().expect("an address").rsplit(':').next().expect("a port").to_owned()
    }

    pub fn mosquitto(&self, program: &str, client: &str, user: &str, token: &str) -> Command {
        let mut command = Command::new(program);
        let port = self.port();
        command.args([
            "-V",
            "mqttv5",
            "-h",
            "localhost",
            "-p",
            &port,
            "--cafile",
            self.ca(),
            "-q",
            "1",
            "-i",
            client,
            "-u",
            user,
            "-P",
            token,
        ]);
        command
    }
}

/// An operator's REST calls to one app of a gateway, and plain calls to the clouds.
pub struct Rest {
    http: impush::http::Http,
    runtime: tokio::runtime::Runtime,
    pub base: String,
    token: String,
}

impl Rest {
    /// `reach` is what the gateway announced, `ca` what the clouds prove themselves with.
    pub fn new(reach: &Value, ca: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let http = impush::http::Http::new(Some(ca), LIMIT).expect("a client");
        let api = reach["api"].as_str().expect("an address").to_owned();
        let secret = std::fs::read_to_string(reach["admin_secret_file"].as_str().expect("a file")).expect("read");
        let mut rest = Self { http, runtime, base: format!("{api}/org/app"), token: String::new() };
        let grant = json!({"grant_type": "client_credentials", "client_id": "admin", "client_secret": secret});
        let (_, answer) = rest.ask("POST", &format!("{}/token", rest.base), Some(&grant));
        rest.token = answer["access_token"].as_str().expect("a token").to_owned();
        rest
    }

    /// Any URL; the body of the answer is null where it is no JSON.
    pub fn ask(&self, method: &str, url: &str, body: Option<&Value>) -> (u16, Value) {
        self.ask_with(method, url, &[], body)
    }

    /// ... with more headers.
    pub fn ask_with(&self, method: &str, url: &str, more: &[(&str, &str)], body: Option<&Value>) -> (u16, Value) {
        self.call(&self.token, method, url, more, body)
    }

    /// ... with another token.
    pub fn ask_as(&self, token: &str, method: &str, url: &str, body: Option<&Value>) -> (u16, Value) {
        self.call(token, method, url, &[], body)
    }

    fn call(&self, token: &str, method: &str, url: &str, more: &[(&str, &str)], body: Option<&Value>) -> (u16, Value) {
        let bearer = format!("Bearer {token}");
        let headers = [&[("content-type", "application/json"), ("authorization", bearer.as_str())], more].concat();
        let body = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
        let call = self.http.call(method, url, &headers, body);
        let (status, answer) = self.runtime.block_on(call).unwrap_or_else(|e| panic!("{method} {url}: {e}"));
        (status.as_u16(), serde_json::from_slice(&answer).unwrap_or_default())
    }

    /// The text at a path of the gateway itself.
    pub fn text(&self, path: &str) -> String {
        let url = self.base.replace("/org/app", path);
        let (_, text) = self.runtime.block_on(self.http.call("GET", &url, &[], Vec::new())).expect(path);
        String::from_utf8(text.to_vec()).expect("text")
    }

    /// A path of the app that must succeed.
    pub fn ok(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, answer) = self.ask(method, &format!("{}/{path}", self.base), body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// The trace of a message as `hop: detail` lines, once it has a line with each of these.
    pub fn traced(&self, id: &str, wanted: &[&str]) -> Vec<String> {
        let deadline = std::time::Instant::now() + LIMIT;
        loop {
            let answer = self.ok("GET", &format!("messages/{id}/trace"), None);
            let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
            let lines: Vec<String> = answer["entities"]
                .as_array()
                .expect("lines")
                .iter()
                .map(|l| format!("{}: {}", text(l, "hop"), text(l, "detail")))
                .collect();
            if wanted.iter().all(|w| lines.iter().any(|line| line.contains(w))) {
                return lines;
            }
            assert!(std::time::Instant::now() < deadline, "no {wanted:?} in {lines:#?}");
            pause();
        }
    }
}
