//! The agent's state on disks that are full, read-only, torn, somebody else's or not there, with real processes.

#![cfg(target_os = "linux")]

mod support;

use serde_json::Value;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Agent, Flaw, Gateway, Process, certificates, has, impush, skipped};

const NOBODY: u32 = 65_534;

fn root_or_skip(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped(test, "mounting and files of other users need root");
    }
    root
}

fn ran(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).env("PATH", support::all_paths()).output().expect("ran");
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path")
}

/// A small file system of its own, gone when dropped.
struct Mount(PathBuf);

impl Mount {
    fn small(at: &Path) -> Self {
        std::fs::create_dir_all(at).expect("made");
        ran("mount", &["-t", "tmpfs", "-o", "size=128k,mode=0700", "none", text(at)]);
        Self(at.to_owned())
    }

    fn over_itself(at: &Path) -> Self {
        ran("mount", &["--bind", text(at), text(at)]);
        let mount = Self(at.to_owned());
        mount.remount("ro,bind");
        mount
    }

    fn remount(&self, how: &str) {
        ran("mount", &["-o", &format!("remount,{how}"), text(&self.0)]);
    }

    fn fill(&self) -> PathBuf {
        use std::io::Write as _;
        let path = self.0.join("other-program");
        let mut file = std::fs::File::create(&path).expect("made");
        for size in [4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).env("PATH", support::all_paths()).output());
    }
}

/// An agent's home without a server that answers, and its state directory.
fn home() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let home = dir.path().join("a");
    let certificates = certificates(dir.path(), Flaw::None);
    Agent::configure(&home, "mqtts://localhost:1", &certificates.ca, "");
    let state = home.join("state");
    (dir, home, state)
}

fn run(home: &Path) -> Process {
    Process::start(impush(home).arg("run"), true)
}

/// The agent as the user nobody, as a service runs.
fn run_as_nobody(dir: &Path, home: &Path) -> Process {
    for path in [dir, home] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("open to all");
    }
    // The build's own directories may be closed to that user.
    let program = dir.join("impush");
    std::fs::copy(env!("CARGO_BIN_EXE_impush"), &program).expect("copied");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    Process::start(command.arg("--config").arg(home.join("impush.toml")).arg("run").env_remove("INVOCATION_ID"), true)
}

fn device(home: &Path) -> String {
    let mut agent = run(home);
    let device = agent.event("agent.started")["device"].as_str().expect("an id").to_owned();
    agent.terminate();
    device
}

#[test]
fn a_file_that_root_restored_is_waited_for_and_left_alone_and_who_asks_hears_why() {
    if !root_or_skip("a_file_that_root_restored_is_waited_for_and_left_alone_and_who_asks_hears_why") {
        return;
    }
    for name in ["identity.json", "login.json"] {
        let (dir, home, state) = home();
        let first = device(&home);
        std::fs::write(state.join("login.json"), r#"{"user":"ann","password":"p","app":"org#app","id":"l1"}"#)
            .expect("written");
        for path in std::fs::read_dir(&state).expect("listed").map(|e| e.expect("an entry").path()) {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("private");
            chown(path, Some(NOBODY), Some(NOBODY)).expect("given");
        }
        chown(&state, Some(NOBODY), Some(NOBODY)).expect("given");
        let path = state.join(name);
        chown(&path, Some(0), Some(0)).expect("restored by root");
        let before = std::fs::read(&path).expect("read");
        let mut agent = run_as_nobody(dir.path(), &home);
        let why = agent.event("store.unusable")["why"].as_str().expect("a reason").to_owned();
        assert!(why.contains(text(&path)) && why.contains("uid 0") && why.contains("chown 65534"), "{why}");
        let asked = impush(&home).arg("status").output().expect("ran");
        let said = String::from_utf8_lossy(&asked.stderr).into_owned();
        assert!(!asked.status.success() && said.contains(name), "{asked:?}");
        assert_eq!(std::fs::read(&path).expect("read"), before, "left alone");
        chown(&path, Some(NOBODY), Some(NOBODY)).expect("given");
        agent.event("store.usable");
        assert_eq!(agent.event("agent.started")["device"], first);
        let status = impush(&home).args(["status", "--json"]).output().expect("ran").stdout;
        assert_eq!(serde_json::from_slice::<Value>(&status).expect("JSON")["user"], "ann");
        let aside =
            std::fs::read_dir(&state).expect("listed").any(|e| text(&e.expect("an entry").path()).contains(".corrupt"));
        assert!(!aside, "nothing was set aside");
        assert!(agent.terminate().success());
    }
}

#[test]
fn what_root_writes_in_a_users_state_is_that_users() {
    if !root_or_skip("what_root_writes_in_a_users_state_is_that_users") {
        return;
    }
    let (_dir, home, state) = home();
    std::fs::create_dir(&state).expect("made");
    chown(&state, Some(NOBODY), Some(NOBODY)).expect("given");
    let mut agent = Agent::start(&home);
    agent.login("ann", "secret");
    agent.ok(&["token", "set", "meizu", &"a".repeat(45)]);
    agent.process.terminate();
    let mut waiting = vec![state];
    while let Some(path) = waiting.pop() {
        let found = std::fs::metadata(&path).expect("there");
        assert_eq!((found.uid(), found.gid()), (NOBODY, NOBODY), "{}", path.display());
        if found.is_dir() {
            waiting.extend(std::fs::read_dir(&path).expect("listed").map(|e| e.expect("an entry").path()));
        }
    }
}

#[test]
fn a_full_disk_ends_nothing_refuses_what_must_be_durable_and_is_told_once() {
    if !root_or_skip("a_full_disk_ends_nothing_refuses_what_must_be_durable_and_is_told_once") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(&dir.path().join("gateway"), "");
    let password = gateway.user("ann");
    let home = dir.path().join("a");
    Agent::configure(&home, &format!("mqtts://localhost:{}", gateway.port()), Path::new(gateway.ca()), "");
    let disk = Mount::small(&home.join("state"));
    let mut agent = Agent::start(&home);
    agent.login("ann", &password);
    agent.process.event("link.up");
    let other = disk.fill();
    let token = "a".repeat(45);
    for _ in 0..2 {
        let refused = agent.run(&["token", "set", "meizu", &token]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("No space left"), "{refused:?}");
    }
    agent.process.event("store.failed");
    assert_eq!(agent.status()["state"], "online");
    gateway.ok(&["send", "--app", "org/app", "ann", "not on a full disk"]);
    // Killed and started again while it is full: nothing has to be written for a connection.
    agent.process.kill();
    let mut agent = Agent::start(&home);
    agent.process.event("link.up");
    drop(agent.run(&["token", "set", "meizu", &token]));
    agent.process.event("store.failed");
    std::fs::remove_file(&other).expect("freed");
    agent.ok(&["token", "set", "meizu", &token]);
    agent.process.event("store.recovered");
    let failures = agent.process.seen.iter().filter(|line| line.contains("store.failed")).count();
    assert_eq!(failures, 1, "told once");
    // A little room in its segment may have been enough for it before.
    if !agent.process.seen.iter().any(|line| line.contains("message.received")) {
        agent.process.event("message.received");
    }
    // A logout needs no room, and is one after the next start too.
    let other = disk.fill();
    agent.ok(&["logout"]);
    agent.process.kill();
    let agent = Agent::start(&home);
    assert_eq!(agent.status()["state"], "logged_out");
    drop(other);
}

#[test]
fn an_identity_that_cannot_be_stored_is_derived_and_is_stored_when_the_disk_takes_it() {
    if !root_or_skip("an_identity_that_cannot_be_stored_is_derived_and_is_stored_when_the_disk_takes_it") {
        return;
    }
    let (dir, home, state) = home();
    let board = dir.path().join("board");
    std::fs::create_dir_all(board.join("proc/device-tree")).expect("made");
    std::fs::write(board.join("proc/device-tree/serial-number"), "board-a").expect("written");
    let config = home.join("impush.toml");
    let written = std::fs::read_to_string(&config).expect("read");
    std::fs::write(&config, format!("{written}\n[device]\nroot = '{}'\n", board.display())).expect("written");
    let disk = Mount::small(&state);
    let other = disk.fill();
    let first = device(&home);
    let mut agent = Agent::start(&home);
    assert_eq!(agent.status()["device_id"], first.as_str(), "the same at the next start");
    assert!(!state.join("identity.json").exists());
    std::fs::remove_file(other).expect("freed");
    agent.ok(&["token", "set", "meizu", &"a".repeat(45)]);
    agent.process.event("store.recovered");
    let stored = std::fs::read_to_string(state.join("identity.json")).expect("stored in the same run");
    assert!(stored.contains(&first), "{stored}");
}

#[test]
fn a_read_only_state_is_started_from_and_says_which_line_systemd_needs() {
    if !root_or_skip("a_read_only_state_is_started_from_and_says_which_line_systemd_needs") {
        return;
    }
    let (_dir, home, state) = home();
    let first = device(&home);
    let file = Mount::over_itself(&state.join("identity.json"));
    assert_eq!(device(&home), first, "from a file that is a mount of its own");
    drop(file);
    std::fs::write(state.join("reports.json"), "torn").expect("written");
    let whole = Mount::over_itself(&state);
    assert_eq!(device(&home), first, "a torn file that cannot be set aside stops nothing");
    drop(whole);
    std::fs::remove_dir_all(&state).expect("removed");
    let parent = Mount::over_itself(&home);
    let socket = format!("{}/s", _dir.path().display());
    let mut command = impush(&home);
    let mut agent =
        Process::start(command.arg("run").env("INVOCATION_ID", "1").env("IMPUSH_PATHS_SOCKET", socket), true);
    let why = agent.event("store.unusable")["why"].as_str().expect("a reason").to_owned();
    assert!(why.contains(&format!("ReadWritePaths={}", state.display())), "{why}");
    drop(parent);
    agent.event("agent.started");
}

#[test]
fn a_link_is_followed_and_its_target_is_waited_for_and_not_made() {
    let (dir, home, state) = home();
    let target = dir.path().join("data/impush");
    symlink(&target, &state).expect("linked");
    let mut agent = run(&home);
    let why = agent.event("store.unusable")["why"].as_str().expect("a reason").to_owned();
    assert!(why.contains("link") && !target.exists(), "{why}");
    std::fs::create_dir_all(&target).expect("mounted at last");
    agent.event("agent.started");
    assert!(target.join("identity.json").exists());
}

#[test]
fn twenty_kills_three_full_disks_and_every_torn_file_lose_nothing_and_show_nothing_twice() {
    let test = "twenty_kills_three_full_disks_and_every_torn_file_lose_nothing_and_show_nothing_twice";
    if !has("python3") {
        return skipped(test, "python3 is not installed");
    }
    if !root_or_skip(test) {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/long/disk.py");
    let output = Command::new("python3")
        .arg(script)
        .args(["--kills", "20", "--fills", "3"])
        .env("AGENT_PROGRAM", env!("CARGO_BIN_EXE_impush"))
        .env("GATEWAY_PROGRAM", env!("CARGO_BIN_EXE_impush-gateway"))
        .output()
        .expect("ran");
    assert!(output.status.success(), "{output:?}");
}
