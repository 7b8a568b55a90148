//! Starts of the agent that fail: which are tried again, and who hears of it meanwhile.

mod support;

use std::path::Path;
use std::process::Output;
use support::{Agent, Flaw, Process, certificates, impush};

/// An agent whose authorities are not there yet.
fn without_authorities(home: &Path, retry: &str) -> Process {
    Agent::configure(home, "mqtts://localhost:1", &home.join("ca.pem"), "");
    Process::start(impush(home).args(["run", retry]), true)
}

fn asked(home: &Path) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = impush(home).arg("status").output().expect("ran");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn a_start_that_lacks_a_file_is_tried_again_and_who_asks_hears_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let certificates = certificates(dir.path(), Flaw::None);
    let home = dir.path().join("a");
    let mut agent = without_authorities(&home, "--retry");
    let failed = agent.event("agent.start_failed");
    assert_eq!((&failed["level"], &failed["next_attempt_s"]), (&"ERROR".into(), &2.into()));
    let (code, said) = loop {
        // The socket comes a moment after the word in the log.
        let heard = asked(&home);
        if !heard.1.contains("no agent answers") {
            break heard;
        }
    };
    assert_eq!(code, Some(69));
    assert!(said.contains("the agent cannot start") && said.contains("ca.pem"), "{said}");
    std::fs::copy(&certificates.ca, home.join("ca.pem")).expect("copied");
    agent.event("agent.started");
    assert_eq!(asked(&home).0, Some(0));
    assert!(!agent.seen.iter().skip(1).any(|line| line.contains("agent.start_failed")), "said once");
    assert!(agent.terminate().success());
    assert!(!home.join("s").exists());
}

#[test]
fn an_agent_that_waits_for_its_next_start_is_reloaded_and_stopped_like_any_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = dir.path().join("a");
    let mut agent = without_authorities(&home, "--retry");
    agent.event("agent.start_failed");
    Agent::configure(&home, "http://localhost", &home.join("ca.pem"), "");
    agent.signal(rustix::process::Signal::HUP);
    let ended = agent.child.wait().expect("ended");
    assert_eq!(ended.code(), Some(78), "what only an edit mends is final");
    let mut agent = Process::start(impush(&home).args(["run", "--retry=always"]), true);
    agent.event("agent.start_failed");
    assert!(agent.terminate().success());
    assert!(!home.join("s").exists(), "its socket goes with it");
}

#[test]
fn a_name_that_is_no_name_is_refused_and_one_without_a_file_names_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    Agent::configure(dir.path(), "mqtts://localhost:1", &dir.path().join("ca.pem"), "");
    let refused = impush(dir.path()).args(["--name", "../x", "status"]).output().expect("ran");
    assert_eq!(refused.status.code(), Some(64));
    let lost = std::process::Command::new(env!("CARGO_BIN_EXE_impush")).args(["--name", "nobody", "run"]).output();
    let lost = lost.expect("ran");
    assert_eq!(lost.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&lost.stderr).contains("/etc/impush/impush@nobody.toml"));
}
