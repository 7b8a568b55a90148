//! What stands around a start: variables, files that cannot be read, sockets that are taken, outputs that are no files.

mod support;

use rustix::fs::{CWD, FileType, Mode};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{Agent, Flaw, Process, certificates, free_port, impush, skipped};

/// A home whose configuration is good; nobody listens at its server.
fn home(dir: &Path) -> PathBuf {
    let home = dir.join("a");
    let url = format!("mqtts://localhost:{}", free_port());
    Agent::configure(&home, &url, &certificates(dir, Flaw::None).ca, "");
    home
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn gateway(dir: &Path) -> Command {
    let config = dir.join("gateway.toml");
    std::fs::write(&config, format!("paths.state = '{}'\n", dir.join("g").display())).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
    command.arg("--config").arg(config).arg("check");
    command
}

fn not_text() -> OsString {
    OsString::from_vec(vec![b'a', 0xff])
}

#[test]
fn variables_of_others_stop_neither_program_and_a_bad_one_of_its_own_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = home(dir.path());
    let theirs = [
        ("IMPUSH_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("IMPUSH_GATEWAY_SERVICE_PORT", "443"),
        ("IMPUSH_GATEWAY_SERVICE_PORT_REST", "443"),
        ("IMPUSH_GATEWAY_PORT", "tcp://10.0.0.1:443"),
        ("IMPUSH_GATEWAY_PORT_443_TCP", "tcp://10.0.0.1:443"),
        ("IMPUSH_GATEWAY_PORT_443_TCP_ADDR", "10.0.0.1"),
        ("IMPUSH_SERVICE_HOST", "10.0.0.1"),
    ];
    let agent = |name: &str, value: OsString| impush(&home).args(["config", "check"]).env(name, value).output();
    let all = impush(&home).args(["config", "check"]).envs(theirs).env("LANG", not_text()).output().expect("ran");
    assert!(all.status.success(), "{all:?}");
    let all = gateway(dir.path()).envs(theirs).env("LANG", not_text()).output().expect("ran");
    assert!(all.status.success(), "{all:?}");
    let own = agent("IMPUSH_GATEWAY_API_LISTEN", "127.0.0.1:1".into()).expect("ran");
    assert!(own.status.success(), "the gateway's variable is not the agent's: {own:?}");
    for (name, value) in [
        ("IMPUSH_SERVER_URL", not_text()),
        ("IMPUSH_SERVER_URI", "x".into()),
        ("IMPUSH_KEEP_ALIVE_START_S", "soon".into()),
        ("IMPUSH_KEEP_ALIVE_START_S", "2".into()),
        ("IMPUSH_LOG_LEVEL", "inof".into()),
    ] {
        let output = agent(name, value).expect("ran");
        let text = said(&output);
        assert!(output.status.code() == Some(78) && text.contains(name) && !text.contains("impush.toml"), "{output:?}");
    }
    let output = gateway(dir.path()).env("IMPUSH_GATEWAY_API_REQUESTS_PER_S", "0").output().expect("ran");
    assert!(
        output.status.code() == Some(78) && said(&output).contains("IMPUSH_GATEWAY_API_REQUESTS_PER_S"),
        "{output:?}"
    );
}

#[test]
fn an_empty_level_in_the_environment_is_not_set_and_a_wrong_one_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = home(dir.path());
    let mut process =
        Process::start(impush(&home).arg("run").env("IMPUSH_LOG_LEVEL", "").env("RUST_LOG", "inof"), true);
    process.event("log.variable_refused");
    process.event("agent.started");
    assert!(process.terminate().success());
}

#[test]
fn a_second_agent_leaves_the_first_ones_socket_and_what_is_no_socket_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = home(dir.path());
    let mut first = Agent::start(&home);
    let run =
        |state: &str| impush(&home).arg("run").env("IMPUSH_PATHS_STATE", dir.path().join(state)).output().expect("ran");
    let second = run("other");
    assert!(second.status.code() == Some(75) && said(&second).contains("listens there"), "{second:?}");
    first.status();
    // Killed, it leaves a socket that nobody listens on.
    first.process.kill();
    assert!(home.join("s").exists());
    let mut again = Agent::start(&home);
    assert!(again.process.terminate().success());
    assert!(!home.join("s").exists(), "its own socket goes with it");

    std::fs::write(home.join("s"), "a letter").expect("written");
    let output = run("other");
    assert!(output.status.code() == Some(73) && said(&output).contains("no socket"), "{output:?}");
    assert_eq!(std::fs::read(home.join("s")).expect("still there"), b"a letter");
}

#[test]
fn an_agent_that_ends_late_leaves_its_successors_socket() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = home(dir.path());
    let mut first = Agent::start(&home);
    std::fs::remove_file(home.join("s")).expect("as a cleaner of /run does");
    let mut second = Process::start(impush(&home).arg("run").env("IMPUSH_PATHS_STATE", dir.path().join("b")), true);
    second.event("agent.started");
    assert!(first.process.terminate().success());
    first.status();
}

#[test]
fn a_bundle_goes_into_a_device_or_a_redirected_output_and_replaces_neither() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = home(dir.path());
    let bundle = |output: &Path| impush(&home).arg("support-bundle").arg("--output").arg(output).output().expect("ran");
    let redirected = dir.path().join("redirected");
    let file = std::fs::File::create(&redirected).expect("made");
    let done = impush(&home).args(["support-bundle", "--output", "/dev/stdout"]).stdout(file).status().expect("ran");
    let text = std::fs::read_to_string(&redirected).expect("read");
    assert!(done.success() && text.starts_with("===== version") && !text.contains("written to"), "{text:.300}");
    let plain = dir.path().join("bundle.txt");
    assert!(bundle(&plain).status.success() && plain.metadata().expect("there").len() > 100);

    let device = dir.path().join("null");
    // The kernel's null device has the numbers 1 and 3 (Documentation/admin-guide/devices.txt).
    let made = rustix::fs::mknodat(CWD, &device, FileType::CharacterDevice, Mode::RWXU, rustix::fs::makedev(1, 3));
    if made.is_err() || std::fs::write(&device, "x").is_err() {
        return skipped(
            "a_bundle_goes_into_a_device_or_a_redirected_output_and_replaces_neither",
            "no device can be made",
        );
    }
    let output = bundle(&device);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(std::fs::symlink_metadata(&device).expect("there").file_type().is_char_device());
}

#[test]
fn a_broken_configuration_stops_the_agent_and_not_who_asks_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = home(dir.path());
    let agent = Agent::start(&home);
    let file = home.join("impush.toml");
    let good = std::fs::read_to_string(&file).expect("read");
    for (broken, word) in [
        (format!("{good}\n[channel\n"), "TOML"),
        (format!("{good}\nnonsense = 1\n"), "unknown key"),
        (format!("{good}\n[channel]\nlinger_s = 'long'\n"), "linger_s"),
    ] {
        std::fs::write(&file, broken).expect("written");
        assert_eq!(agent.status()["state"], "logged_out", "asked at the socket the file names");
        agent.ok(&["token", "remove", "xiaomi"]);
        assert!(said(&agent.run(&["status"])).contains(word));
        for command in [["config", "check"].as_slice(), &["run"]] {
            let output = agent.run(command);
            assert!(output.status.code() == Some(78) && said(&output).contains(word), "{output:?}");
        }
    }
    std::fs::write(&file, [good.as_bytes(), b"# caf\xe9\n"].concat()).expect("written");
    agent.status();
    let output = agent.run(&["config", "check"]);
    assert!(said(&output).contains("line 11, column 6") && !said(&output).contains("create"), "{output:?}");
    std::fs::remove_file(&file).expect("removed");
    let output = agent.run(&["status"]);
    assert!(output.status.code() == Some(78) && said(&output).contains("does not exist"), "{output:?}");
}

#[test]
fn a_check_is_made_as_the_user_the_service_runs_as() {
    let test = "a_check_is_made_as_the_user_the_service_runs_as";
    if !rustix::process::geteuid().is_root() {
        return skipped(test, "only root can become somebody else");
    }
    let dir = tempfile::Builder::new().tempdir_in("/tmp").expect("a directory");
    let home = home(dir.path());
    let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
    set(dir.path(), 0o755);
    let check = |user: &[&str]| impush(&home).args(["config", "check"]).args(user).output().expect("ran");
    let (ca, nobody) = (dir.path().join("ca.pem"), ["--as-user", "nobody"]);
    set(&ca, 0o600);
    assert!(check(&[]).status.success(), "root may read it");
    let output = check(&nobody);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    for part in ["server.ca_file: ", "readable by root only", "runs as nobody", "chgrp ", "chmod g+r", "paths.state: "]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    set(&ca, 0o644);
    std::os::unix::fs::chown(&home, Some(65534), None).expect("given");
    let output = check(&nobody);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(check(&["--as-user", "no-such-user"]).status.code(), Some(67));
}
