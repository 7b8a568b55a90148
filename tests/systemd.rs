//! The packages on a real systemd: a container with an init of its own, behind NAT, against a gateway on this
//! machine. Installed, started, killed, rebooted, upgraded, removed and purged; the journal read.
//!
//! ```text
//! guest 10.72.1.2 --- router (NAT) 10.72.9.1 --- this machine 10.72.9.2: gateway
//! ```

mod support;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::{Gateway, Process, all_paths, free_port, has, skipped};

/// A boot takes a second; a busy machine may need many.
const LIMIT: Duration = Duration::from_secs(60);

const UP: &str = r"
set -e
for n in guest router; do ip netns del impush-$n 2>/dev/null || true; ip netns add impush-$n; ip -n impush-$n link set lo up; done
ip link del impush-host 2>/dev/null || true
ip -n impush-guest link add host0 type veth peer name g0 netns impush-router
ip link add impush-host type veth peer name up0 netns impush-router
ip -n impush-guest addr add 10.72.1.2/24 dev host0; ip -n impush-router addr add 10.72.1.1/24 dev g0
ip -n impush-router addr add 10.72.9.1/24 dev up0; ip addr add 10.72.9.2/24 dev impush-host
ip -n impush-guest link set host0 up; for i in g0 up0; do ip -n impush-router link set $i up; done; ip link set impush-host up
ip -n impush-guest route add default via 10.72.1.1
ip netns exec impush-router sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
ip netns exec impush-router nft 'add table ip lab; add chain ip lab post { type nat hook postrouting priority srcnat; }; add rule ip lab post oifname up0 masquerade'
";
const DOWN: &str =
    "for n in guest router; do ip netns del impush-$n 2>/dev/null; done; ip link del impush-host 2>/dev/null; true";

fn shell(script: &str) -> Output {
    Command::new("sh").arg("-c").arg(script).env("PATH", all_paths()).stdin(Stdio::null()).output().expect("ran")
}

fn must(script: &str) -> String {
    let output = shell(script);
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A root of its own over this machine's, and an init in it.
struct Guest {
    root: PathBuf,
    place: PathBuf,
    init: Option<(Process, u32)>,
}

impl Guest {
    /// `None`, said aloud, where the machine cannot.
    fn new(test: &str, place: &Path) -> Option<Self> {
        let tools = ["ip", "nft", "systemd-nspawn", "nsenter", "dpkg-deb"];
        if !rustix::process::geteuid().is_root() || !tools.iter().all(|tool| has(tool)) {
            skipped(test, &format!("needs root and {}", tools.join(", ")));
            return None;
        }
        let made = shell(UP);
        if !made.status.success() {
            skipped(test, &format!("this kernel cannot: {}", String::from_utf8_lossy(&made.stderr)));
            return None;
        }
        let root = place.join("root");
        let at = place.display();
        // The upper half may not lie inside the lower one, so it has a file system of its own.
        must(&format!(
            "mkdir -p {at}/over && mount -t tmpfs -o size=512m over {at}/over && mkdir -p {at}/over/up {at}/over/work {at}/root && \
             mount -t overlay overlay -o lowerdir=/,upperdir={at}/over/up,workdir={at}/over/work {at}/root && \
             : >{at}/root/etc/fstab; : >{at}/root/etc/machine-id; rm -f {at}/root/etc/systemd/system/*.wants/* {at}/root/usr/sbin/policy-rc.d; \
             rm -rf {at}/root/var/log/journal; for u in systemd-networkd systemd-resolved systemd-timesyncd; do ln -sf /dev/null {at}/root/etc/systemd/system/$u.service; done"
        ));
        Some(Self { root, place: place.to_owned(), init: None })
    }

    fn boot(&mut self) {
        let mut command = Command::new("systemd-nspawn");
        command.args(["-q", "--register=no", "--keep-unit", "--console=pipe", "-b"]).arg("-D").arg(&self.root);
        command.arg("--network-namespace-path=/run/netns/impush-guest").env("PATH", all_paths());
        let process = Process::start(&mut command, false);
        let deadline = Instant::now() + LIMIT;
        let leader = loop {
            let found = must(&format!("pgrep -P {} -x systemd || true", process.child.id()));
            if let Ok(leader) = found.trim().parse() {
                break leader;
            }
            assert!(Instant::now() < deadline, "no init in the container");
        };
        self.init = Some((process, leader));
        self.until("the boot", |guest| {
            let state = guest.run("systemctl is-system-running 2>/dev/null");
            let state = String::from_utf8_lossy(&state.stdout).into_owned();
            state.starts_with("running") || state.starts_with("degraded")
        });
    }

    fn run(&self, script: &str) -> Output {
        let (_, leader) = self.init.as_ref().expect("booted");
        let mut command = Command::new("nsenter");
        command.args(["-t", &leader.to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "sh", "-c", script]);
        command.env("PATH", all_paths()).stdin(Stdio::null()).output().expect("ran")
    }

    fn ok(&self, script: &str) -> String {
        let output = self.run(script);
        assert!(output.status.success(), "{script}: {output:?}\n{}", self.journal());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn journal(&self) -> String {
        let output = self.run("journalctl --no-pager -u impush -u impush.socket -o short-monotonic");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !done(self) {
            assert!(Instant::now() < deadline, "no {what}\n{}", self.journal());
        }
    }

    fn state(&self) -> String {
        let output = self.run("impush status --json");
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["state"].as_str().unwrap_or_default().to_owned()
    }

    fn online(&self) {
        self.until("connection", |guest| guest.state() == "online");
    }

    fn power_off(&mut self) {
        let (mut process, leader) = self.init.take().expect("booted");
        // SIGRTMIN+4 is systemd's word for it; the call itself may lose its answer.
        shell(&format!("nsenter -t {leader} -m -u -i -n -p -C systemctl poweroff"));
        drop(process.child.wait());
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.init = None;
        let at = self.place.display();
        // The container's processes end with their init, a moment later.
        shell(&format!(
            "for i in 1 2 3 4 5 6 7 8 9 10; do umount {at}/root 2>/dev/null && break; sleep 0.2; done; umount {at}/over"
        ));
        shell(DOWN);
    }
}

fn package(out: &Path, version: &str) {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/build.sh");
    let output = Command::new(build)
        .args(["--out"])
        .arg(out)
        .arg("deb")
        .args(has("rpmbuild").then_some("rpm"))
        .env("VERSION", version)
        .env("COMPRESSION", "gzip")
        .env("IMPUSH", env!("CARGO_BIN_EXE_impush"))
        .env("IMPUSH_GATEWAY", env!("CARGO_BIN_EXE_impush-gateway"))
        .env("IMPUSH_LAB", env!("CARGO_BIN_EXE_impush-lab"))
        .output()
        .expect("the package builds");
    assert!(output.status.success(), "{output:?}");
}

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
    package(&packages, "0.1.0");
    package(&packages, "0.1.1");

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

    // A question at the socket starts the service.
    guest.ok("systemctl stop impush.service");
    guest.online();

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
