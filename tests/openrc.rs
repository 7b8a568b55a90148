//! The init script on a real OpenRC: what its operator is told of starts that work, and of those that do not.
//!
//! OpenRC is this machine's, or unpacked below the directory that `OPENRC_ROOT` names
//! (`apt-get download openrc librc1 libeinfo1`, then `dpkg -x` of each).

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{all_paths, has, skipped};

/// A root of its own over this machine's, in name spaces that end with the script: OpenRC as after a boot, the init
/// script and the program in their places.
const PREPARE: &str = r#"
set -e
mkdir -p "$AT/over"; mount -t tmpfs over "$AT/over"; mkdir -p "$AT/over/up" "$AT/over/work" "$AT/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$AT/over/up,workdir=$AT/over/work" "$AT/root"
R=$AT/root
[ -z "$OPENRC_ROOT" ] || (cd "$OPENRC_ROOT"; tar c .) | tar x --keep-directory-symlink -C "$R"
mount -t proc proc "$R/proc"; mount -t tmpfs run "$R/run"
# Its own, for a syslog of its own.
mount -t tmpfs dev "$R/dev"; for d in null zero random urandom tty; do : >"$R/dev/$d"; mount --bind "/dev/$d" "$R/dev/$d"; done
for d in daemons exclusive failed hotplugged inactive options scheduled started starting stopping tmp wasinactive; do
    mkdir -p "$R/run/openrc/$d"
done
echo default >"$R/run/openrc/softlevel"
: >"$R/etc/insserv.conf"
mkdir -p "$R/etc/impush"
install -m 755 "$PROGRAM" "$R/usr/bin/impush"
install -m 755 "$SCRIPT" "$R/etc/init.d/impush"
chroot "$R" useradd -r -M impush
printf "[server]\nurl = 'mqtts://127.0.0.1:1'\napp = 'org#app'\n" >"$R/etc/impush/impush.toml"
exec chroot "$R" sh -c "$STEPS" 2>&1
"#;

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/openrc/impush")
}

/// What the steps say; `None`, said aloud, where the machine cannot.
fn steps(test: &str, steps: &str) -> Option<String> {
    let unpacked = std::env::var("OPENRC_ROOT").unwrap_or_default();
    if !rustix::process::geteuid().is_root() || (unpacked.is_empty() && !has("openrc-run")) {
        skipped(test, "needs root, and OpenRC or OPENRC_ROOT");
        return None;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "-p", "-f", "--kill-child", "sh", "-c", PREPARE])
        .env("PATH", all_paths())
        .env("AT", dir.path())
        .env("PROGRAM", env!("CARGO_BIN_EXE_impush"))
        .env("SCRIPT", script())
        .env("STEPS", steps)
        .env("OPENRC_ROOT", unpacked)
        .stdin(Stdio::null())
        .output()
        .expect("ran");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn openrc_starts_agents_side_by_side_and_calls_no_refused_start_started() {
    let test = "openrc_starts_agents_side_by_side_and_calls_no_refused_start_started";
    let Some(said) = steps(
        test,
        r#"
        answers() { for i in $(seq 600); do impush --name="$1" status && return; sleep 0.1; done; }
        say() { "$@"; echo "<$*: $?>"; }
        say rc-service impush start
        say answers ""
        cp /etc/impush/impush.toml /etc/impush/impush@work.toml; ln -s impush /etc/init.d/impush.work
        say rc-service impush.work start
        say answers work
        ls -d /var/lib/impush*/identity.json
        say rc-service impush.work stop
        say rc-service impush status
        say rc-service impush stop
        echo 'nonsense = 1' >>/etc/impush/impush.toml
        echo "<broken>"
        say rc-service impush start
        say rc-service impush status
        sed -i /nonsense/d /etc/impush/impush.toml; chmod 600 /etc/impush/impush.toml
        echo "<unreadable>"
        say rc-service impush start
        say rc-service impush status
        chmod 644 /etc/impush/impush.toml
        say rc-service impush start
        answers "" >/dev/null 2>&1
        echo 'nonsense = 1' >>/etc/impush/impush.toml
        echo "<dies>"
        kill -9 $(pgrep -x impush)
        # Nobody tells OpenRC what only an edit mends: it is tried without an end.
        for i in $(seq 600); do impush --config /dev/null status 2>&1 | grep nonsense && break; sleep 0.1; done
        sed -i /nonsense/d /etc/impush/impush.toml
        say rc-service impush reload
        say answers ""
        say rc-service impush stop
        "#,
    ) else {
        return;
    };
    let good = ["rc-service impush start: 0", "answers : 0", "rc-service impush.work start: 0", "answers work: 0"];
    for word in good.iter().chain(&["rc-service impush.work stop: 0", "rc-service impush reload: 0"]) {
        assert!(said.contains(&format!("<{word}>")), "{word}: {said}");
    }
    assert!(said.contains("/var/lib/impush/identity.json\n/var/lib/impush@work/identity.json"), "{said}");
    let part = |from: &str, to: &str| {
        let rest = said.split_once(from).unwrap_or_else(|| panic!("no {from}: {said}")).1;
        rest.split_once(to).map_or(rest, |(part, _)| part).to_owned()
    };
    for (part, named) in
        [(part("<broken>", "<unreadable>"), "nonsense"), (part("<unreadable>", "<dies>"), "impush.toml")]
    {
        let refused = part.split_once("status").map_or("", |(before, _)| before).to_owned();
        assert!(refused.contains("rc-service impush start: 1") && refused.contains(named), "{part}");
        assert!(part.contains("status: stopped"), "{part}");
    }
    let died = part("<dies>", "rc-service impush stop");
    assert!(died.contains("cannot start") && died.contains("<answers : 0>"), "{died}");
}

#[test]
fn under_openrc_the_log_is_where_its_documentation_says_with_a_syslog_and_without() {
    let test = "under_openrc_the_log_is_where_its_documentation_says_with_a_syslog_and_without";
    if !has("busybox") {
        return skipped(test, "needs busybox");
    }
    let Some(said) = steps(
        test,
        r#"
        has() { for i in $(seq 300); do grep -s "$1" "$2" && return; sleep 0.1; done; echo "nothing of $1 in $2"; }
        rm -f /dev/log
        echo "<file>"
        rc-service impush start
        has agent.started /var/lib/impush/impush.log
        echo password >/run/password; impush login ann --no-wait --password-file /run/password
        has link.down /var/lib/impush/impush.log
        rc-service impush stop
        has agent.stopped /var/lib/impush/impush.log
        stat -c '<mode %a %U>' /var/lib/impush/impush.log
        busybox syslogd -n -O /var/log/messages &
        for i in $(seq 100); do [ -S /dev/log ] && break; sleep 0.1; done
        echo "<syslog>"
        rc-service impush start
        has agent.started /var/log/messages
        has link.down /var/log/messages
        rc-service impush stop
        has agent.stopped /var/log/messages
        rm -f /dev/log
        "#,
    ) else {
        return;
    };
    assert!(!said.contains("nothing of"), "{said}");
    assert!(said.contains("<mode 640 impush>"), "{said}");
    let by_syslog = said.split_once("<syslog>").expect("reached").1;
    assert!(by_syslog.contains("daemon.warn impush[") && by_syslog.contains("daemon.notice impush["), "{by_syslog}");
}
