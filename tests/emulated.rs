//! The static agents, one an architecture, run under emulation against a gateway on this machine.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Agent, Gateway, Process, has, skipped};

/// Emulated code is slower; the agent's own limits are longer than it needs all the same.
fn run(architecture: &str, emulator: &str) {
    let test = format!("the_static_agent_for_{architecture}_serves");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program: PathBuf = root.join(format!("target/static/{architecture}/impush"));
    if !program.exists() {
        return skipped(&test, &format!("packaging/static.sh {architecture} has not built it"));
    }
    if !has(emulator) {
        return skipped(&test, &format!("{emulator} is not installed (qemu-user-static)"));
    }
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(&dir.path().join("g"), "");
    let home = dir.path().join("a");
    Agent::configure(&home, &format!("mqtts://127.0.0.1:{}", gateway.port()), Path::new(gateway.ca()), "");
    let emulated = |arguments: &[&str]| {
        let mut command = Command::new(emulator);
        command.arg(&program).arg("--config").arg(home.join("impush.toml")).args(arguments);
        command
    };
    let mut agent = Process::start(&mut emulated(&["run"]), true);
    agent.event("agent.started");
    let file = home.join("password");
    std::fs::write(&file, gateway.user("ann")).expect("written");
    let login = emulated(&["login", "--password-file", file.to_str().expect("a path"), "ann"]).output().expect("ran");
    assert!(login.status.success(), "{login:?}");
    agent.event("link.up");
    let id = gateway.ok(&["send", "--app", "org/app", "ann", "hello"]);
    assert_eq!(agent.event("message.received")["id"], id.as_str());
    // Killed, it finds its login again.
    agent.kill();
    let mut agent = Process::start(&mut emulated(&["run"]), true);
    agent.event("link.up");
    assert!(agent.terminate().success());
}

#[test]
fn the_static_agent_for_x86_64_serves() {
    run("x86_64", "qemu-x86_64-static");
}

#[test]
fn the_static_agent_for_aarch64_serves() {
    run("aarch64", "qemu-aarch64-static");
}

#[test]
fn the_static_agent_for_armv7_serves() {
    run("armv7", "qemu-arm-static");
}
