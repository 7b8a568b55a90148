//! The packages on a real systemd: a container with an init of its own, behind NAT, against a gateway on this
//! machine. Installed, started, killed, rebooted, upgraded, removed and purged; the journal read.
//!
//! ```text
//! guest 10.72.1.2 --- router (NAT) 10.72.9.1 --- this machine 10.72.9.2: gateway
//! ```

mod support;

use std::path::Path;
use std::process::Command;
use support::guest::{Guest, package};
use support::{Gateway, free_port, has, skipped};

#[test]
fn the_package_serves_survives_kill_reboot_and_upgrade_and_goes_without_a_trace() {
    let test = "the_package_serves_survives_kill_reboot_and_upgrade_and_goes_without_a_trace";
    let dir = tempfile::tempdir().expect("a directory");
    let Some(mut guest) = Guest::new(test, dir.path()) else { return };
    let home = dir.path().join("g");
    std::fs::create_dir_all(&home).expect("made");
    let environment =
        [("IMPUSH_GATEWAY_BROKER_NAMES", "[\"10.72.9.2\"]"), ("IMPUSH_GATEWAY_BROKER_LISTEN", "10.72.9.2:0")];
    let gateway = Gateway::start_in(&home, free_port(), "", &environment);
    let password = gateway.user("ann");
    let packages = guest.root.join("root/packages");
    package(&packages, "0.1.0", true);
    package(&packages, "0.1.1", true);

    guest.boot();
    guest.ok("dpkg -i /root/packages/impush_0.1.0_*.deb");
    assert_eq!(
        guest.ok("systemctl is-active impush.socket impush.service || true"),
        "inactive\ninactive",
        "nothing is configured yet"
    );
    let ca = std::fs::read(gateway.ca()).expect("read");
    std::fs::write(guest.root.join("etc/impush/ca.pem"), ca).expect("written");
    std::fs::write(guest.root.join("etc/impush/impush.toml"), configuration(&gateway)).expect("written");
    std::fs::write(guest.root.join("root/password"), &password).expect("written");
    guest.ok("systemd-tmpfiles --create impush.conf; systemctl start impush.socket impush.service");
    guest.ok("impush login ann --password-file /root/password");
    guest.online();
    assert!(guest.ok("systemctl show impush -p StatusText").contains("online at mqtts://10.72.9.2"));
    let doctor = guest.run("impush doctor");
    assert!(doctor.status.success(), "{doctor:?}");

    // Who may talk to it: the group, and nobody else.
    guest.ok("useradd -M -G impush in; useradd -M out; setpriv --reuid in --regid in --init-groups impush status");
    assert_eq!(guest.run("setpriv --reuid out --regid out --init-groups impush status").status.code(), Some(77));

    // A message, read by clients in other languages, and found in the journal by its field.
    for program in ["python3 client.py", "node client.mjs"] {
        let (interpreter, file) = program.split_once(' ').expect("two words");
        if !guest.run(&format!("command -v {interpreter}")).status.success() {
            println!("{interpreter} is not here; its example is not tried");
            continue;
        }
        guest.ok(&format!(
            "timeout 60 {interpreter} /usr/share/doc/impush/examples/{file} >/root/{interpreter}.out 2>&1 </dev/null &"
        ));
        let id = gateway.ok(&["send", "--app", "org/app", "ann", &format!("hello, {interpreter}")]);
        guest.until("message", |guest| {
            guest.run(&format!("grep -q 'hello, {interpreter}' /root/{interpreter}.out")).status.success()
        });
        assert!(guest.ok("journalctl IMPUSH_EVENT=message.received -o json").contains(&id));
        guest.ok(&format!("pkill -x {interpreter} || true"));
    }

    // Who looks for what is wrong starts no agent that was stopped on purpose.
    guest.ok("systemctl stop impush.service");
    let doctor = String::from_utf8_lossy(&guest.run("impush doctor").stdout).into_owned();
    assert!(doctor.contains("systemctl start impush"), "{doctor}");
    guest.ok("impush support-bundle --output /root/bundle >/dev/null");
    assert_eq!(guest.ok("systemctl is-active impush.service || true"), "inactive");

    // A question at the socket starts the service.
    guest.online();

    // Another agent does not take the manager's socket away.
    let other = guest.run("STATE_DIRECTORY=/root/other impush --socket /run/impush/control.sock run");
    assert_eq!(other.status.code(), Some(75), "{other:?}");
    guest.online();

    // A file that root alone can read is named before the service fails on it.
    guest.ok("chmod 600 /etc/impush/ca.pem");
    let check = guest.run("impush config check");
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(check.status.code() == Some(78) && said.contains("ca.pem") && said.contains("chmod"), "{check:?}");
    guest.ok("chmod 644 /etc/impush/ca.pem; impush config check");

    // The loop that does the work feeds the watchdog, idle as it is; a loop that hangs does not.
    guest.ok("mkdir -p /run/systemd/system/impush.service.d && printf '[Service]\\nWatchdogSec=3\\n' >/run/systemd/system/impush.service.d/short.conf && systemctl daemon-reload && systemctl restart impush");
    let fed = |guest: &Guest| guest.ok("systemctl show impush -p WatchdogTimestampMonotonic");
    for _ in 0..3 {
        let last = fed(&guest);
        guest.until("sign of life", |guest| fed(guest) != last);
    }
    assert_eq!(guest.ok("systemctl show impush -p NRestarts"), "NRestarts=0");
    guest.ok("kill -STOP $(systemctl show impush -p MainPID --value)");
    guest.until("restart by the watchdog", |guest| guest.ok("systemctl show impush -p NRestarts") == "NRestarts=1");
    guest.ok("rm -r /run/systemd/system/impush.service.d; systemctl daemon-reload; systemctl restart impush");
    guest.online();

    guest.ok("systemctl kill --kill-who=main -s KILL impush");
    guest.until("restart", |guest| guest.ok("systemctl show impush -p NRestarts") == "NRestarts=1");
    guest.online();

    guest.power_off();
    guest.boot();
    guest.online();

    let before = guest.ok("cat /var/lib/impush/identity.json");
    guest.ok("dpkg -i --force-confold /root/packages/impush_0.1.1_*.deb");
    guest.online();
    assert_eq!(guest.ok("cat /var/lib/impush/identity.json"), before, "an upgrade keeps the state");
    assert!(guest.ok("dpkg -s impush").contains("Version: 0.1.1"));

    // A state directory that the unit closes: said before the start, with the line that opens it.
    guest.ok("mkdir -p /srv/impush; chown impush: /srv/impush; chmod 700 /srv/impush");
    guest.ok("cp /etc/impush/impush.toml /root/good.toml; printf '[paths]\nstate = \"/srv/impush\"\n' >>/etc/impush/impush.toml");
    let checked = guest.run("impush config check 2>&1");
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(!checked.status.success() && said.contains("ReadWritePaths=/srv/impush"), "{said}");
    let drop_in = |guest: &Guest, lines: &str| {
        let place = "/run/systemd/system/impush.service.d";
        guest.ok(&format!(
            "mkdir -p {place}; printf '[Service]\\n{lines}\\n' >{place}/test.conf; systemctl daemon-reload"
        ));
    };
    drop_in(&guest, "ReadWritePaths=/srv/impush");
    guest.ok("impush config check && systemctl restart impush");
    guest.until("state elsewhere", |guest| guest.root.join("srv/impush/identity.json").exists());
    guest.ok("cp /root/good.toml /etc/impush/impush.toml; rm -r /run/systemd/system/impush.service.d");
    guest.ok("systemctl daemon-reload; systemctl restart impush");
    guest.online();

    // A unit that sleeps is started for a message, by an agent that may start units.
    guest.ok("printf '[Service]\\nExecStart=/bin/touch /run/woken\\n' >/run/systemd/system/chat.service");
    drop_in(&guest, "User=root\\nGroup=root\\nPrivateUsers=no");
    guest.ok("systemctl restart impush; impush app add chat --wake unit:chat.service");
    guest.online();
    gateway.ok(&["send", "--app", "org/app", "ann", "wake up"]);
    guest.until("the unit", |guest| guest.run("test -e /run/woken").status.success());
    assert!(guest.ok("impush app list").contains("woken 1 times by unit:chat.service"));
    guest.ok("impush app remove chat; rm -r /run/systemd/system/impush.service.d; systemctl daemon-reload");
    guest.ok("systemctl restart impush");
    guest.online();

    // A limit of starts, as an operator may set it: the advice is pasted as it stands.
    drop_in(&guest, "ExecStart=\\nExecStart=/bin/false\\n[Unit]\\nStartLimitIntervalSec=600\\nStartLimitBurst=2");
    guest.run("for i in 1 2 3 4; do systemctl restart impush; done");
    guest.until("the limit", |guest| guest.ok("systemctl show impush.socket -p Result").contains("start-limit-hit"));
    let told = guest.run("impush status 2>&1");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let advice = told.split_once("then systemctl").map(|(_, command)| command.trim().trim_end_matches('.').to_owned());
    let advice = advice.unwrap_or_else(|| panic!("no command in: {told}"));
    assert!(advice.contains("reset-failed"), "{told}");
    guest.ok("rm -r /run/systemd/system/impush.service.d; systemctl daemon-reload");
    guest.ok(&format!("systemctl{}", format!(" {advice}").replace("  ", " ")));
    guest.online();

    // A configuration that cannot work is not tried for ever: 78 is final.
    guest.ok("echo 'nonsense = 1' >>/etc/impush/impush.toml; systemctl restart impush || true");
    assert!(guest.ok("systemctl show impush -p ExecMainStatus -p ActiveState").contains("ExecMainStatus=78"));
    guest.ok("sed -i /nonsense/d /etc/impush/impush.toml; systemctl reset-failed impush; systemctl start impush");
    guest.online();

    let warnings = guest.ok("journalctl --no-pager _COMM=impush -b -p warning -o cat");
    assert_eq!(warnings, "", "a healthy run logs no warning");

    guest.ok("dpkg -r impush");
    assert!(guest.root.join("var/lib/impush/identity.json").exists(), "a removal keeps the state");
    assert!(guest.root.join("etc/impush/impush.toml").exists());
    guest.ok("dpkg -P impush");
    assert!(!guest.root.join("var/lib/impush").exists() && !guest.root.join("etc/impush/impush.toml").exists());
    assert_eq!(guest.ok("systemctl is-active impush.socket || true"), "inactive");

    // The gateway's needs no configuration to begin with.
    guest.ok("dpkg -i /root/packages/impush-gateway_0.1.0_*.deb");
    let answers = |guest: &Guest| guest.run("curl -sf http://127.0.0.1:8680/readyz").status.success();
    guest.until("gateway", answers);
    assert!(guest.ok("systemctl show impush-gateway -p StatusText").contains("serving the REST API"));
    let secret = guest.ok("cat /var/lib/impush-gateway/admin.secret");
    guest.ok("systemctl reload impush-gateway; dpkg -i /root/packages/impush-gateway_0.1.1_*.deb");
    guest.until("upgraded gateway", answers);
    assert_eq!(guest.ok("cat /var/lib/impush-gateway/admin.secret"), secret, "an upgrade keeps the state");
    guest.ok("dpkg -P impush-gateway");
    assert!(!guest.root.join("var/lib/impush-gateway").exists());
    if has("rpmbuild") {
        rpm(&guest, &gateway, &password);
    } else {
        println!("rpmbuild is not here; the rpm is not tried");
    }
    guest.power_off();
}

/// The same programs as an rpm, in the same container.
fn rpm(guest: &Guest, gateway: &Gateway, password: &str) {
    guest.ok("rpm -i --nodeps /root/packages/impush-0.1.0-1.*.rpm");
    std::fs::write(guest.root.join("etc/impush/ca.pem"), std::fs::read(gateway.ca()).expect("read")).expect("written");
    std::fs::write(guest.root.join("etc/impush/impush.toml"), configuration(gateway)).expect("written");
    std::fs::write(guest.root.join("root/password"), password).expect("written");
    guest.ok("systemctl start impush.socket impush.service; impush login ann --password-file /root/password");
    guest.online();
    let before = guest.ok("cat /var/lib/impush/identity.json");
    guest.ok("rpm -U --nodeps /root/packages/impush-0.1.1-1.*.rpm");
    guest.online();
    assert_eq!(guest.ok("cat /var/lib/impush/identity.json"), before, "an upgrade keeps the state");
    guest.ok("rpm -e impush");
    assert_eq!(guest.ok("systemctl is-active impush.service || true"), "inactive");
    assert!(!guest.root.join("usr/bin/impush").exists());
}

fn configuration(gateway: &Gateway) -> String {
    format!("[server]\nurl = 'mqtts://10.72.9.2:{}'\napp = 'org#app'\nca_file = '/etc/impush/ca.pem'\n", gateway.port())
}

#[test]
fn the_units_are_clean_and_as_closed_as_they_claim() {
    if !has("systemd-analyze") {
        return skipped("the_units_are_clean_and_as_closed_as_they_claim", "systemd-analyze is not there");
    }
    let systemd = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    for (unit, most) in [("impush.service", 1.5), ("impush-gateway.service", 2.0)] {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--no-pager"])
            .arg(systemd.join(unit))
            .output()
            .expect("ran");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let level = text.lines().find_map(|line| line.split("Overall exposure level for").nth(1));
        let level = level.and_then(|line| line.split(':').nth(1)).and_then(|rest| rest.split_whitespace().next());
        let level: f64 = level.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text}"));
        assert!(level <= most, "{unit}: {level}");
    }
}
