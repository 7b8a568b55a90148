//! A machine with an init of its own: a container over this machine's root, behind NAT, and the packages for it.
//!
//! ```text
//! guest 10.72.1.2 --- router (NAT) 10.72.9.1 --- this machine 10.72.9.2
//! ```

use super::{Process, all_paths, has, skipped};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

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

pub fn shell(script: &str) -> Output {
    Command::new("sh").arg("-c").arg(script).env("PATH", all_paths()).stdin(Stdio::null()).output().expect("ran")
}

pub fn must(script: &str) -> String {
    let output = shell(script);
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A root of its own over this machine's, and an init in it.
pub struct Guest {
    pub root: PathBuf,
    place: PathBuf,
    init: Option<(Process, u32)>,
}

impl Guest {
    /// `None`, said aloud, where the machine cannot.
    pub fn new(test: &str, place: &Path) -> Option<Self> {
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
             rm -rf {at}/root/var/log/journal {at}/root/var/lib/man-db/auto-update; for u in systemd-networkd systemd-resolved systemd-timesyncd; do ln -sf /dev/null {at}/root/etc/systemd/system/$u.service; done"
        ));
        Some(Self { root, place: place.to_owned(), init: None })
    }

    pub fn boot(&mut self) {
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

    pub fn run(&self, script: &str) -> Output {
        let (_, leader) = self.init.as_ref().expect("booted");
        let mut command = Command::new("nsenter");
        command.args(["-t", &leader.to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "sh", "-c", script]);
        command.env("PATH", all_paths()).stdin(Stdio::null()).output().expect("ran")
    }

    pub fn ok(&self, script: &str) -> String {
        let output = self.run(script);
        assert!(output.status.success(), "{script}: {output:?}\n{}", self.journal());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub fn journal(&self) -> String {
        let output = self.run("journalctl --no-pager -u impush -u impush.socket -o short-monotonic");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !done(self) {
            assert!(Instant::now() < deadline, "no {what}\n{}", self.journal());
        }
    }

    pub fn state(&self) -> String {
        let output = self.run("impush status --json");
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["state"].as_str().unwrap_or_default().to_owned()
    }

    pub fn online(&self) {
        self.until("connection", |guest| guest.state() == "online");
    }

    pub fn power_off(&mut self) {
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

/// Debian packages of this version, and rpms where there is `rpmbuild` and they are asked for.
pub fn package(out: &Path, version: &str, rpm: bool) {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/build.sh");
    let output = Command::new(build)
        .args(["--out"])
        .arg(out)
        .arg("deb")
        .args((rpm && has("rpmbuild")).then_some("rpm"))
        .env("VERSION", version)
        .env("COMPRESSION", "none")
        .env("IMPUSH", env!("CARGO_BIN_EXE_impush"))
        .env("IMPUSH_GATEWAY", env!("CARGO_BIN_EXE_impush-gateway"))
        .env("IMPUSH_LAB", env!("CARGO_BIN_EXE_impush-lab"))
        .output()
        .expect("the package builds");
    assert!(output.status.success(), "{output:?}");
}
