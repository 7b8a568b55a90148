//! Logs whose reader has stalled or is not there, with the real programs: what they still do meanwhile, and
//! where an operator finds the lines.

mod support;

use serde_json::Value;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Agent, LIMIT, free_port, has, impush, skipped};

/// Ended when dropped.
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("started"))
    }

    /// Asks it to end, and returns how long that took.
    fn terminate(&mut self) -> Duration {
        let asked = Instant::now();
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), rustix::process::Signal::TERM)
            .expect("signalled");
        until("the end", || self.0.try_wait().expect("waited"));
        asked.elapsed()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Asks again until there is an answer; nothing tells when a stalled program would have one.
#[allow(clippy::disallowed_methods, reason = "between two questions")]
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(started.elapsed() < LIMIT, "no {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A pipe that takes not one byte more until somebody reads it.
fn full_pipe() -> (PipeReader, PipeWriter, usize) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let flags = rustix::fs::fcntl_getfl(&writer).expect("flags");
    rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).expect("set");
    let mut filled = 0;
    while let Ok(count) = writer.write(&[b'\n'; 4096]) {
        filled += count;
    }
    rustix::fs::fcntl_setfl(&writer, flags).expect("set");
    (reader, writer, filled)
}

fn configured(home: &Path, extra: &str) {
    Agent::configure(home, "mqtts://127.0.0.1:1", Path::new("/dev/null"), "");
    let text = std::fs::read_to_string(home.join("impush.toml")).expect("read");
    let text = text.replace("ca_file = '/dev/null'\n", "").replace("format = 'json'\n", extra);
    std::fs::write(home.join("impush.toml"), text).expect("written");
}

/// The agent's answer, once it gives one.
fn answer(home: &Path) -> Value {
    until("answer of the agent", || {
        let output = impush(home).args(["status", "--json"]).output().expect("ran");
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    })
}

/// Each makes the agent write a line that nothing but the level holds back.
fn broken_requests(home: &Path, count: usize) {
    for _ in 0..count {
        let mut peer = UnixStream::connect(home.join("s")).expect("connected");
        peer.set_read_timeout(Some(LIMIT)).expect("set");
        peer.write_all(b"\x01\r\n\r\n").expect("written");
        drop(peer.read_to_end(&mut Vec::new()));
    }
}

#[test]
fn an_agent_whose_log_nobody_reads_answers_and_ends_when_asked() {
    let home = tempfile::tempdir().expect("a directory");
    configured(home.path(), "format = 'json'\n");
    let (_reader, writer, _) = full_pipe();
    let mut agent = Program::start(impush(home.path()).arg("run").stderr(writer));
    assert_eq!(answer(home.path())["state"], "logged_out");
    broken_requests(home.path(), 1200);
    assert_eq!(answer(home.path())["state"], "logged_out");
    let took = agent.terminate();
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn a_reader_that_comes_back_is_told_how_many_lines_it_missed() {
    let home = tempfile::tempdir().expect("a directory");
    configured(home.path(), "format = 'json'\n");
    let (mut reader, writer, filled) = full_pipe();
    let mut agent = Program::start(impush(home.path()).arg("run").stderr(writer));
    answer(home.path());
    let sent = 1300;
    broken_requests(home.path(), sent);
    // A stall ends; the lines that waited come, and then the count of the others.
    reader.read_exact(&mut vec![0; filled]).expect("what filled the pipe");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(reader));
    let mut failed = 0;
    let dropped = loop {
        let line = lines.next().expect("a line").expect("text");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        match line["event"].as_str() {
            Some("control.peer_failed") => failed += 1,
            Some("log.dropped") => break line,
            _ => {}
        }
    };
    let count = dropped["count"].as_u64().expect("a count");
    // A line is written after its peer was told, so the last few may come behind the count.
    assert!(failed >= 800 && count >= 200 && failed + count + 16 >= sent as u64, "{failed} came, {dropped}");
    assert!(dropped["message"].as_str().is_some_and(|text| text.starts_with(&format!("{count} lines were dropped"))));
    // All is well again.
    broken_requests(home.path(), 1);
    let next: Value = serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON");
    assert_eq!(next["event"], "control.peer_failed", "{next}");
    std::thread::spawn(move || lines.count());
    assert!(agent.terminate() < Duration::from_secs(3));
}

#[test]
fn a_gateway_whose_log_nobody_reads_serves_and_ends_when_asked() {
    let home = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let config = home.path().join("gateway.toml");
    let text = format!(
        "[api]\nlisten = '127.0.0.1:{port}'\n[broker]\nlisten = '127.0.0.1:0'\n[paths]\nstate = '{}'\n",
        home.path().join("state").display()
    );
    std::fs::write(&config, text).expect("written");
    let (_reader, writer, _) = full_pipe();
    let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
    let mut gateway = Program::start(command.arg("--config").arg(&config).arg("serve").stderr(writer));
    let ready = until("readiness", || {
        let mut peer = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        peer.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        peer.read_to_string(&mut text).ok().map(|_| text)
    });
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    let took = gateway.terminate();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_service_manager_that_has_stalled_keeps_no_agent() {
    let home = tempfile::tempdir().expect("a directory");
    configured(home.path(), "");
    let manager = UnixDatagram::bind(home.path().join("notify")).expect("bound");
    let mut command = impush(home.path());
    // A sign of life every 2 ms fills the manager's queue at once.
    command.env("NOTIFY_SOCKET", home.path().join("notify")).env("WATCHDOG_USEC", "8000").env_remove("WATCHDOG_PID");
    let mut agent = Program::start(command.arg("run").stderr(Stdio::null()));
    assert!(received(&manager).starts_with("READY=1\n"));
    until("a full queue", || {
        let probe = UnixDatagram::unbound().expect("a socket");
        probe.set_nonblocking(true).expect("set");
        probe.send_to(b"", home.path().join("notify")).is_err().then_some(())
    });
    answer(home.path());
    assert!(agent.terminate() < Duration::from_secs(4));
}

/// Runs `impush run` with `/dev` and `/run` of its own, in which `log` and the journal's socket are what the
/// test has put into `home`.
fn among_its_own(test: &str, home: &Path) -> Option<Command> {
    if !rustix::process::geteuid().is_root() || !has("unshare") {
        skipped(test, "needs root and unshare");
        return None;
    }
    const SCRIPT: &str = r#"
set -e
mkdir "$0/dev"; mount -t tmpfs none "$0/dev"
for node in null urandom random; do touch "$0/dev/$node"; mount --bind /dev/$node "$0/dev/$node"; done
if [ -e "$0/dev-log" ]; then touch "$0/dev/log"; mount --bind "$0/dev-log" "$0/dev/log"; fi
mount --rbind "$0/dev" /dev
mount -t tmpfs none /run; mkdir -p /run/systemd/journal
if [ -e "$0/journal" ]; then touch /run/systemd/journal/socket; mount --bind "$0/journal" /run/systemd/journal/socket; fi
exec "$@"
"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", SCRIPT]).arg(home).arg(env!("CARGO_BIN_EXE_impush"));
    command.arg("--config").arg(home.join("impush.toml")).arg("run");
    command.env_remove("RUST_LOG").env_remove("JOURNAL_STREAM");
    Some(command)
}

fn received(socket: &UnixDatagram) -> String {
    let mut packet = vec![0; 64 * 1024];
    socket.set_read_timeout(Some(LIMIT)).expect("set");
    let count = socket.recv(&mut packet).expect("a packet");
    String::from_utf8(packet[..count].to_vec()).expect("text")
}

#[test]
fn a_journal_that_has_stopped_keeps_no_agent_and_has_the_fields_when_it_goes_on() {
    let home = tempfile::tempdir().expect("a directory");
    configured(home.path(), "format = 'journal'\n");
    // The kernel queues a few packets for who does not read (net.unix.max_dgram_qlen); then senders wait.
    let journal = UnixDatagram::bind(home.path().join("journal")).expect("bound");
    let Some(mut command) = among_its_own("a_journal_that_has_stopped", home.path()) else { return };
    let mut agent = Program::start(command.stderr(Stdio::null()));
    answer(home.path());
    broken_requests(home.path(), 1200);
    answer(home.path());
    let first = received(&journal);
    assert!(first.contains("SYSLOG_IDENTIFIER=impush\n") && first.contains("\nMESSAGE=agent started\n"), "{first}");
    assert!(first.contains("PRIORITY=5\n") && first.contains("\nIMPUSH_EVENT=agent.started\n"), "{first}");
    let dropped = loop {
        let packet = received(&journal);
        if packet.contains("IMPUSH_EVENT=log.dropped\n") {
            break packet;
        }
    };
    assert!(dropped.contains("PRIORITY=4\n") && dropped.contains("lines were dropped"), "{dropped}");
    assert!(agent.terminate() < Duration::from_secs(4));
}

#[test]
fn where_nobody_reads_standard_error_the_lines_are_in_syslog() {
    let home = tempfile::tempdir().expect("a directory");
    configured(home.path(), "");
    let syslog = UnixDatagram::bind(home.path().join("dev-log")).expect("bound");
    let Some(mut command) = among_its_own("where_nobody_reads_standard_error", home.path()) else { return };
    let agent = Program::start(command.stderr(Stdio::null()));
    let line = received(&syslog);
    let head = format!("<29>impush[{}]: ts=", agent.0.id());
    assert!(line.starts_with(&head) && line.contains(" event=agent.started "), "{line}");
}

#[test]
fn a_start_that_fails_says_why_where_an_operator_looks() {
    let home = tempfile::tempdir().expect("a directory");
    let syslog = UnixDatagram::bind(home.path().join("dev-log")).expect("bound");
    for (config, why) in [
        ("[log]\nlevel = 'info'\nlevl = 1\n", "log.level"),
        (
            "[paths]\nstate = '/tmp/none'\nsocket = '/tmp/none.sock'\n[server]\nurl = 'mqtts://127.0.0.1:1'\napp = 'o#a'\nca_file = '/nowhere/ca.pem'\n",
            "/nowhere/ca.pem",
        ),
    ] {
        drop(std::fs::remove_dir(home.path().join("dev")));
        std::fs::write(home.path().join("impush.toml"), config).expect("written");
        let Some(mut command) = among_its_own("a_start_that_fails", home.path()) else { return };
        let status = command.stderr(Stdio::null()).status().expect("ran");
        assert!(!status.success());
        let line = received(&syslog);
        assert!(line.starts_with("<27>impush[") && line.contains(" event=program.failed"), "{line}");
        assert!(line.contains(why), "{line}");
    }
}

#[test]
fn without_a_syslog_the_lines_are_in_a_file_beside_the_state() {
    let home = tempfile::tempdir().expect("a directory");
    configured(home.path(), "");
    let Some(mut command) = among_its_own("without_a_syslog", home.path()) else { return };
    let mut agent = Program::start(command.stderr(Stdio::null()));
    answer(home.path());
    agent.terminate();
    let text = std::fs::read_to_string(home.path().join("state/impush.log")).expect("the log");
    assert!(text.contains(" event=agent.started ") && text.contains(" event=agent.stopped"), "{text}");
}

#[test]
fn a_configured_file_is_used_whoever_reads_standard_error() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("chosen.log");
    configured(home.path(), &format!("file = '{}'\n", file.display()));
    let mut agent = Program::start(impush(home.path()).arg("run").stderr(Stdio::inherit()));
    answer(home.path());
    agent.terminate();
    let text = std::fs::read_to_string(file).expect("the log");
    assert!(text.lines().next().is_some_and(|line| line.contains(" event=agent.started ")), "{text}");
}
