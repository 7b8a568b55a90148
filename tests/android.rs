//! What an Android device is given: the SELinux policy, the Magisk module, and the script that installs over adb.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{all_paths, has, skipped};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A program of a few lines in place of the device's own.
fn program(path: &Path, lines: &str) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    fs::write(path, format!("#!/bin/sh\n{lines}\n")).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("changed");
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_policy_compiles_and_allows_what_the_agent_does_and_nothing_more() {
    let test = "the_policy_compiles_and_allows_what_the_agent_does_and_nothing_more";
    if !["m4", "checkpolicy", "secilc"].iter().all(|tool| has(tool)) {
        return skipped(test, "needs m4, checkpolicy and secilc");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let run = |command: &mut Command| {
        let output = command.env("PATH", all_paths()).current_dir(dir.path()).output().expect("ran");
        assert!(output.status.success(), "{command:?}: {}", said(&output));
        output
    };
    let fixture = |name: &str| repository("tests/fixtures/selinux").join(name);
    let policy = run(Command::new("m4").args([
        fixture("macros.m4"),
        fixture("base.conf"),
        repository("packaging/android/impush.te"),
        fixture("end.conf"),
    ]));
    fs::write(dir.path().join("policy.conf"), policy.stdout).expect("written");
    run(Command::new("checkpolicy").args(["-M", "-c", "30", "-o", "binary", "policy.conf"]));
    run(Command::new("checkpolicy").args(["-M", "-C", "-c", "30", "-o", "policy.cil", "policy.conf"]));
    run(Command::new("secilc").args(["-M", "true", "-c", "30", "-o", "again", "-f", "/dev/null", "policy.cil"]));
    let cil = fs::read_to_string(dir.path().join("policy.cil")).expect("read");
    let mut targets: Vec<&str> = cil
        .lines()
        .filter_map(|line| line.strip_prefix("(allow impush "))
        .filter_map(|rest| rest.split_whitespace().next())
        .collect();
    targets.sort_unstable();
    targets.dedup();
    let own = ["impush_data_file", "impush_exec", "impush_socket", "self"];
    let others = [
        "build_prop",
        "misc_user_data_file",
        "sysfs_batteryinfo",
        "sysfs_wake_lock",
        "toolbox_exec",
        "vendor_default_prop",
    ];
    let mut wanted = [&own[..], &others[..]].concat();
    wanted.sort_unstable();
    assert_eq!(targets, wanted);
    let writes = |line: &&str| line.starts_with("(allow impush ") && line.contains("write");
    let written: Vec<&str> = cil.lines().filter(writes).filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert!(written.iter().all(|target| own.contains(target) || *target == "sysfs_wake_lock"), "{written:?}");
    // What the service asks of init is what the policy lets it have.
    let rc = fs::read_to_string(repository("packaging/android/impush.rc")).expect("read");
    assert!(
        rc.contains("capabilities BLOCK_SUSPEND WAKE_ALARM")
            && cil.contains("(capability2 (block_suspend wake_alarm))")
    );
}

#[test]
fn the_magisk_module_installs_the_agent_of_its_architecture_and_keeps_the_configuration() {
    let test = "the_magisk_module_installs_the_agent_of_its_architecture_and_keeps_the_configuration";
    if !["zip", "unzip", "busybox"].iter().all(|tool| has(tool)) {
        return skipped(test, "needs zip, unzip and busybox");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    // The packed programs only say who they are, and end as an agent that a person must help.
    let tree = at("tree");
    fs::create_dir_all(&tree).expect("made");
    for directory in ["packaging", "systemd", "docs"] {
        let copied = Command::new("cp").arg("-r").arg(repository(directory)).arg(&tree).status().expect("ran");
        assert!(copied.success());
    }
    for file in ["Cargo.toml", "README.md", "LICENSE"] {
        fs::copy(repository(file), tree.join(file)).expect("copied");
    }
    for architecture in ["aarch64", "armv7"] {
        let lines = format!("echo \"{architecture} $* $STATE_DIRECTORY\" >>\"$IMPUSH_DATA/started\"; exit 78");
        program(&tree.join("target/static").join(architecture).join("impush"), &lines);
    }
    let mut build = Command::new("bash");
    build.arg(tree.join("packaging/build.sh")).arg("--out").arg(at("out")).arg("android").env("SOURCE_DATE_EPOCH", "1");
    let packed = build.output().expect("ran");
    assert!(packed.status.success(), "{}", said(&packed));
    let zip = fs::read_dir(at("out")).expect("listed").map(|entry| entry.expect("an entry").path());
    let zip = zip.into_iter().find(|path| path.extension().is_some_and(|end| end == "zip")).expect("a module");
    let module = at("module");
    assert!(Command::new("unzip").args(["-q"]).arg(&zip).arg("-d").arg(&module).status().expect("ran").success());
    assert_eq!(
        fs::read_to_string(module.join("META-INF/com/google/android/updater-script")).expect("read"),
        "#MAGISK\n"
    );
    let property = fs::read_to_string(module.join("module.prop")).expect("read");
    assert!(property.starts_with("id=impush\n") && !property.contains('@'), "{property}");

    let data = at("data/misc/impush");
    let shell = |script: &str| {
        let mut command = Command::new("busybox");
        command.args(["sh", "-c", script]).env("MODPATH", &module).env("IMPUSH_DATA", &data);
        command
            .env("IMPUSH_RUN", at("run"))
            .env("IMPUSH_PROGRAM", module.join("system/bin/impush"))
            .output()
            .expect("ran")
    };
    let magisk = "ui_print() { echo \"$*\"; }; abort() { echo \"$*\"; exit 1; }; set_perm() { chmod $4 $1; }; ";
    let refused = shell(&format!("{magisk} ARCH=x64; . $MODPATH/customize.sh"));
    assert!(!refused.status.success() && said(&refused).contains("without an agent for x64"), "{}", said(&refused));
    let installed = shell(&format!("{magisk} ARCH=arm64; . $MODPATH/customize.sh"));
    assert!(installed.status.success() && said(&installed).contains("impush.toml"), "{}", said(&installed));
    assert!(!module.join("armv7").exists() && !module.join("impush.toml").exists());
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&data), mode(&data.join("state")), mode(&data.join("impush.toml"))), (0o700, 0o700, 0o600));
    // 78 asks for a person: it is not tried for ever.
    let ran = shell(
        "sh $MODPATH/service.sh; wait; for i in $(seq 100); do [ -s $IMPUSH_DATA/started ] && break; sleep 0.1; done",
    );
    assert!(ran.status.success(), "{}", said(&ran));
    let started = fs::read_to_string(data.join("started")).expect("it was started");
    let expected = format!("aarch64 --config {0}/impush.toml run --retry=always {0}/state\n", data.display());
    assert_eq!(started, expected);
    // An update of the module leaves the configuration alone.
    fs::write(data.join("impush.toml"), "# mine\n").expect("written");
    assert!(Command::new("unzip").args(["-q", "-o"]).arg(&zip).arg("-d").arg(&module).status().expect("ran").success());
    assert!(shell(&format!("{magisk} ARCH=arm; . $MODPATH/customize.sh")).status.success());
    assert_eq!(fs::read_to_string(data.join("impush.toml")).expect("read"), "# mine\n");
    assert!(shell("sh $MODPATH/uninstall.sh").status.success() && !data.exists());
}

#[test]
fn over_adb_a_system_that_cannot_be_written_is_told_which_way_is_left() {
    let dir = tempfile::tempdir().expect("a directory");
    let calls = dir.path().join("calls");
    for agent in ["aarch64", "armv7", "x86_64"] {
        program(&dir.path().join("place").join(agent).join("impush"), "");
    }
    for file in ["install.sh", "impush.rc"] {
        fs::copy(repository("packaging/android").join(file), dir.path().join("place").join(file)).expect("copied");
    }
    let install = |writable: bool, magisk: &str| {
        program(
            &dir.path().join("bin/adb"),
            &format!(
                "echo \"$*\" >>{}; case \"$*\" in *touch*) exit {};; *magisk*) echo '{magisk}';; *cpu.abi*) echo arm64-v8a;; esac",
                calls.display(),
                u8::from(!writable)
            ),
        );
        drop(fs::remove_file(&calls));
        let path = format!("{}:{}", dir.path().join("bin").display(), all_paths());
        let output =
            Command::new("sh").arg(dir.path().join("place/install.sh")).env("PATH", path).output().expect("ran");
        (output.status.code(), said(&output), fs::read_to_string(&calls).expect("asked"))
    };
    let (code, told, asked) = install(false, "");
    assert!(code == Some(73) && told.contains("disable-verity") && told.contains("magisk.zip"), "{told}");
    assert!(!asked.contains("\npush "), "nothing was begun: {asked}");
    let (code, told, _) = install(false, "27.0:MAGISK");
    assert!(code == Some(73) && told.contains("Magisk 27.0:MAGISK") && told.contains("Install from storage"), "{told}");
    let (code, told, asked) = install(true, "");
    assert!(code == Some(0) && asked.contains("aarch64/impush /system/bin/impush"), "{told} {asked}");
}
