//! The agent among the routes of a real kernel: policy routing as on Android, a VPN's rules, links and
//! addresses that come and go. Needs root, `ip` and mosquitto.
//!
//! ```text
//! device: wlan0 10.73.1.2 2001:db8:73:1::2, rmnet0 10.73.2.2 --- server: 10.73.9.2 2001:db8:73:9::2
//! ```
//!
//! The server takes a packet only from the link its answer would leave by, as every access network does.

mod support;

use std::io::Write as _;
use std::path::Path;
use std::process::{ChildStdin, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use support::{Agent, Flaw, Process, all_paths, certificates, has, impush, must, shell, skipped};

/// The namespaces have fixed names, so that a killed run's remains are found and removed.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const UP: &str = r#"
set -e
for n in dev srv; do ip netns del impush-p-$n 2>/dev/null || true; ip netns add impush-p-$n; ip -n impush-p-$n link set lo up; done
for n in dev srv; do ip netns exec impush-p-$n sh -c 'for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done'; done
ip netns exec impush-p-srv sh -c 'for f in all default; do echo 1 > /proc/sys/net/ipv4/conf/$f/rp_filter; done'
ip -n impush-p-dev link add wlan0 type veth peer name w0 netns impush-p-srv
ip -n impush-p-dev link add rmnet0 type veth peer name c0 netns impush-p-srv
ip -n impush-p-srv addr add 10.73.9.2/32 dev lo; ip -n impush-p-srv addr add 2001:db8:73:9::2/128 dev lo
for i in "1 wlan0 w0" "2 rmnet0 c0"; do set -- $i
  ip -n impush-p-srv link set $3 up; ip -n impush-p-dev link set $2 up
  ip -n impush-p-srv addr add 10.73.$1.1/24 dev $3; ip -n impush-p-dev addr add 10.73.$1.2/24 dev $2
done
ip -n impush-p-srv addr add 2001:db8:73:1::1/64 dev w0 nodad
mkdir -p /etc/netns/impush-p-dev
"#;
const DOWN: &str = "for n in dev srv; do ip netns pids impush-p-$n 2>/dev/null | xargs -r kill -9; ip netns del impush-p-$n 2>/dev/null; done";
/// The default route where a Linux desktop has it.
const MAIN: &str = "ip -n impush-p-dev route add default via 10.73.1.1 dev wlan0";
const V4: &str = "10.73.9.2";

struct Lab {
    _turn: MutexGuard<'static, ()>,
    _dir: tempfile::TempDir,
    _broker: Process,
    agent: Agent,
}

fn inside(namespace: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &format!("impush-p-{namespace}")]).env("PATH", all_paths());
    command
}

/// Trouble of the lab's in the device's namespace, once it is there.
fn trouble(kind: &str, options: &[&str]) -> (Process, ChildStdin) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_impush-lab"));
    command.args(["trouble", kind, "--netns", "impush-p-dev"]).args(options).env("PATH", all_paths());
    let (mut process, input) = Process::start_told(&mut command);
    process.wait_for(kind, |line| line.starts_with('{').then_some(()));
    (process, input)
}

fn tell((process, input): &mut (Process, ChildStdin), word: &str) {
    writeln!(input, "{word}").expect("told");
    process.wait_for(word, |line| line.starts_with('{').then_some(()));
}

impl Lab {
    /// The agent online; `before` are the device's routes, the last line what serves them. `None`, said aloud,
    /// where the machine cannot.
    fn new<T>(test: &str, server: &str, before: impl FnOnce() -> T) -> Option<(Self, T)> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        if !rustix::process::geteuid().is_root() || !["ip", "mosquitto"].iter().all(|p| has(p)) {
            skipped(test, "needs root, ip and mosquitto");
            return None;
        }
        let made = shell(UP);
        if !made.status.success() {
            skipped(test, &format!("this kernel cannot: {}", String::from_utf8_lossy(&made.stderr)));
            return None;
        }
        let served = before();
        let dir = tempfile::tempdir().expect("a directory");
        let broker = broker(dir.path(), server);
        let home = dir.path().join("a");
        Agent::configure(&home, "mqtts://localhost:8883", &dir.path().join("ca.pem"), "");
        let plain = impush(&home);
        let mut command = inside("dev");
        command.arg(plain.get_program()).args(plain.get_args()).arg("run");
        command.env_remove("RUST_LOG").env_remove("INVOCATION_ID").env_remove("JOURNAL_STREAM");
        let mut agent = Agent { process: Process::start(&mut command, true), home };
        agent.process.event("agent.started");
        agent.login("ann", "secret");
        agent.process.event("link.up");
        Some((Self { _turn: turn, _dir: dir, _broker: broker, agent }, served))
    }

    fn network(&self) -> String {
        self.agent.status()["network"].as_str().unwrap_or("none").to_owned()
    }

    fn since(&self) -> u64 {
        self.agent.status()["since_ms"].as_u64().expect("a time")
    }

    /// How long until the next event of this name.
    fn until(&mut self, event: &str) -> Duration {
        let from = Instant::now();
        self.agent.process.event(event);
        from.elapsed()
    }

    fn seen(&self, event: &str) -> usize {
        let wanted = format!("\"event\":\"{event}\"");
        self.agent.process.seen.iter().filter(|line| line.contains(&wanted)).count()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.agent.process.child.kill());
        shell(DOWN);
    }
}

/// A broker at the server that the device calls `localhost`, so that the certificate's name holds.
fn broker(dir: &Path, server: &str) -> Process {
    broker_named(dir, server, Flaw::None)
}

/// With [`Flaw::WrongName`] it is not `localhost` but `elsewhere.example`.
fn broker_named(dir: &Path, server: &str, flaw: Flaw) -> Process {
    use std::os::unix::fs::PermissionsExt as _;
    let made = certificates(dir, flaw);
    for (path, mode) in [(dir, 0o755), (made.key.as_path(), 0o644)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permitted");
    }
    let config = dir.join("mosquitto.conf");
    let (ca, chain, key) = (made.ca.display(), made.chain.display(), made.key.display());
    let text = format!("listener 8883 {server}\nallow_anonymous true\ncafile {ca}\ncertfile {chain}\nkeyfile {key}\n");
    std::fs::write(&config, text).expect("written");
    std::fs::write("/etc/netns/impush-p-dev/hosts", format!("{server} localhost\n")).expect("written");
    let mut process = Process::start(inside("srv").args(["mosquitto", "-v", "-c"]).arg(&config), true);
    process.wait_for("running", |line| line.contains("running").then_some(()));
    process
}

#[test]
fn on_tables_of_their_own_networks_are_known_and_handed_over_without_a_pause() {
    let netd = || trouble("routes", &["--uplink", "wlan0=10.73.1.1", "--uplink", "rmnet0=10.73.2.1"]);
    let Some((mut lab, mut netd)) =
        Lab::new("on_tables_of_their_own_networks_are_known_and_handed_over_without_a_pause", V4, netd)
    else {
        return;
    };
    let wifi = lab.network();
    assert!(wifi.starts_with("wifi-"), "{wifi}");
    // A rule that does not concern this agent changes nothing.
    let since = lab.since();
    must("ip -n impush-p-dev rule add fwmark 7 lookup 1099");
    lab.agent.process.event("network.same");
    assert_eq!(lab.since(), since);
    // Six links that live a few seconds: as many would make a server's fault of it.
    for (to, kind) in ["rmnet0", "wlan0"].into_iter().cycle().zip(["cell-", "wifi-"].into_iter().cycle()).take(6) {
        tell(&mut netd, to);
        let took = lab.until("link.up");
        assert!(took <= Duration::from_secs(3), "{to}: {took:?}");
        assert!(lab.network().starts_with(kind), "{to}: {}", lab.network());
    }
    assert_eq!(lab.network(), wifi, "the same network has the same name");
    // No default network for a while: its return is a rule alone.
    tell(&mut netd, "none");
    lab.agent.process.event("link.down");
    lab.agent.process.wait_for("a pause of some seconds", |line| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        (event["event"] == "link.down" && event["next_attempt_s"].as_f64()? > 3.0).then_some(())
    });
    tell(&mut netd, "wlan0");
    let took = lab.until("link.up");
    assert!(took <= Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_vpn_with_rules_of_its_own_is_the_network_while_it_is_there() {
    let Some((mut lab, ())) =
        Lab::new("a_vpn_with_rules_of_its_own_is_the_network_while_it_is_there", V4, || must(MAIN))
    else {
        return;
    };
    let wifi = lab.network();
    // As wg-quick(8) does: everything but the tunnel's own packets goes by its table, `main`'s default not.
    must(
        "set -e; d='ip -n impush-p-dev'
        $d link add wg0 type veth peer name g0 netns impush-p-srv; ip -n impush-p-srv link set g0 up; $d link set wg0 up
        $d addr add 10.73.3.2/32 dev wg0; ip -n impush-p-srv route add 10.73.3.2 dev g0
        $d route add default dev wg0 table 51820
        $d rule add not fwmark 51820 table 51820; $d rule add table main suppress_prefixlength 0",
    );
    lab.agent.process.event("link.up");
    assert!(lab.network().starts_with("other-"), "{}", lab.network());
    must(
        "set -e; d='ip -n impush-p-dev'; $d rule del table main suppress_prefixlength 0; $d rule del table 51820; $d link del wg0",
    );
    lab.agent.process.event("link.up");
    assert_eq!(lab.network(), wifi);
}

#[test]
fn a_burst_of_foreign_links_costs_nothing_and_hides_no_change() {
    let Some((mut lab, ())) = Lab::new("a_burst_of_foreign_links_costs_nothing_and_hides_no_change", V4, || must(MAIN))
    else {
        return;
    };
    let since = lab.since();
    let _bursts = trouble("bursts", &["--every-ms", "400"]);
    for _ in 0..4 {
        lab.agent.process.event("network.same");
    }
    assert_eq!((lab.since(), lab.seen("network.changed")), (since, 0));
    must("ip -n impush-p-dev route replace default via 10.73.2.1 dev rmnet0");
    let took = lab.until("network.changed");
    assert!(took <= Duration::from_secs(2), "{took:?}");
    lab.agent.process.event("link.up");
    assert!(lab.network().starts_with("cell-"), "{}", lab.network());
}

#[test]
fn an_address_that_rotates_is_asked_about_once_and_its_end_is_the_connections() {
    let v6 = || {
        let rotate = trouble("rotate", &["--interface", "wlan0", "--prefix", "2001:db8:73:1::"]);
        must("ip -n impush-p-dev -6 route add default via 2001:db8:73:1::1 dev wlan0");
        rotate
    };
    let test = "an_address_that_rotates_is_asked_about_once_and_its_end_is_the_connections";
    let Some((mut lab, mut rotate)) = Lab::new(test, "2001:db8:73:9::2", v6) else { return };
    assert!(lab.network().starts_with("wifi-"), "{}", lab.network());
    let since = lab.since();
    tell(&mut rotate, "rotate");
    lab.agent.process.event("network.settled");
    for n in 0..3 {
        // What a router advertisement does: an address's life is renewed.
        must(&format!(
            "ip -n impush-p-dev addr add 2001:db8:73:1::{n}:1/64 dev wlan0 nodad preferred_lft 0 valid_lft 1000"
        ));
        lab.agent.process.event("network.same");
    }
    assert_eq!((lab.since(), lab.seen("network.changed")), (since, 1));
    tell(&mut rotate, "drop");
    assert_eq!(lab.agent.process.event("link.down")["cause"], "address_gone");
    lab.agent.process.event("link.up");
}

#[test]
fn a_wire_that_is_plugged_in_again_is_used_at_once_though_its_addresses_never_left() {
    let test = "a_wire_that_is_plugged_in_again_is_used_at_once_though_its_addresses_never_left";
    let Some((mut lab, ())) = Lab::new(test, V4, || must(MAIN)) else { return };
    let network = lab.network();
    must("ip -n impush-p-srv link set w0 down");
    lab.agent.process.event("link.down");
    lab.agent.process.wait_for("a pause of some seconds", |line| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        (event["event"] == "link.down" && event["next_attempt_s"].as_f64()? > 5.0).then_some(())
    });
    must("ip -n impush-p-srv link set w0 up");
    let took = lab.until("link.up");
    assert!(took <= Duration::from_secs(2), "{took:?}");
    assert_eq!(lab.network(), network);
}

/// Android as a native service finds it, below a root of its own: no resolver file and no hosts but netd's socket,
/// properties for root alone beside a getprop that answers, logd, wake locks; uid 1000 with its two capabilities, and
/// nothing to write to but logd.
const ANDROID: &str = r#"
set -e
mkdir -p "$AT/over" "$AT/root"; mount -t tmpfs over "$AT/over"; mkdir "$AT/over/up" "$AT/over/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$AT/over/up,workdir=$AT/over/work" "$AT/root"
R=$AT/root
mount --rbind /proc "$R/proc"; mount --rbind /sys "$R/sys"; mount -t tmpfs dev "$R/dev"
for d in null urandom; do : >"$R/dev/$d"; mount --bind "/dev/$d" "$R/dev/$d"; done
mkdir -p "$R$AT/share" "$R/dev/socket"; mount --bind "$AT/share" "$R$AT/share"; mount --bind "$AT/share/sockets" "$R/dev/socket"
mount -t tmpfs power "$R/sys/power"
for f in wake_lock wake_unlock; do : >"$R/sys/power/$f"; chown 1000 "$R/sys/power/$f"; done
rm -f "$R/etc/resolv.conf" "$R/etc/hosts"; rm -rf "$R/run/systemd"
mkdir -p "$R/system/bin"
printf 'ro.product.brand=Nobody\n' >"$R/system/build.prop"; chmod 600 "$R/system/build.prop"
printf '#!/bin/sh\necho "[ro.product.brand]: [Nobody]"; echo "[ro.build.version.release]: [14]"\n' >"$R/system/bin/getprop"
chmod 755 "$R/system/bin/getprop"
cd /
exec chroot "$R" setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all,+block_suspend,+wake_alarm \
    --ambient-caps=-all,+block_suspend,+wake_alarm --bounding-set=-all,+block_suspend,+wake_alarm --no-new-privs \
    "$PROGRAM" --config "$AT/share/impush.toml" run <&- >&- 2>&-
"#;

/// What logd was sent: priority, and the event's fields.
struct Logd(std::os::unix::net::UnixDatagram, Vec<(u8, serde_json::Value)>);

impl Logd {
    fn bind(path: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let socket = std::os::unix::net::UnixDatagram::bind(path).expect("bound");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).expect("permitted");
        socket.set_read_timeout(Some(support::LIMIT)).expect("set");
        Self(socket, Vec::new())
    }

    fn event(&mut self, name: &str) -> serde_json::Value {
        let mut packet = [0; 8192];
        loop {
            let Ok(count) = self.0.recv(&mut packet) else { panic!("no {name} in {:#?}", self.1) };
            let text = packet[12..count].strip_prefix(b"impush\0".as_slice()).expect("the tag");
            let event: serde_json::Value = serde_json::from_slice(&text[..text.len() - 1]).expect("JSON");
            self.1.push((packet[11], event.clone()));
            if event["event"] == name {
                return event;
            }
        }
    }

    fn warnings(&self) -> Vec<&serde_json::Value> {
        self.1.iter().filter(|(priority, _)| *priority >= 5).map(|(_, event)| event).collect()
    }
}

#[test]
fn on_a_system_as_unkind_as_android_it_boots_logs_in_moves_and_is_reached() {
    let test = "on_a_system_as_unkind_as_android_it_boots_logs_in_moves_and_is_reached";
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let tools = ["ip", "mosquitto", "mosquitto_pub", "setpriv", "unshare"];
    if !rustix::process::geteuid().is_root() || !tools.iter().all(|tool| has(tool)) {
        return skipped(test, "needs root, ip, mosquitto and setpriv");
    }
    let made = shell(UP);
    if !made.status.success() {
        return skipped(test, &format!("this kernel cannot: {}", String::from_utf8_lossy(&made.stderr)));
    }
    let mut netd = trouble("routes", &["--uplink", "wlan0=10.73.1.1", "--uplink", "rmnet0=10.73.2.1"]);
    let dir = tempfile::tempdir().expect("a directory");
    let (share, sockets) = (dir.path().join("share"), dir.path().join("share/sockets"));
    std::fs::create_dir_all(&sockets).expect("made");
    let _broker = broker_named(dir.path(), V4, Flaw::WrongName);
    std::fs::copy(dir.path().join("ca.pem"), share.join("ca.pem")).expect("copied");
    Agent::configure(
        &share,
        "mqtts://elsewhere.example:8883",
        &share.join("ca.pem"),
        "[keep_alive]\nwake_device = true\n",
    );
    must(&format!("chown -R 1000:1000 {0}; chmod 755 {1}", share.display(), dir.path().display()));
    let mut resolver = Command::new(env!("CARGO_BIN_EXE_impush-lab"));
    resolver.args(["trouble", "dnsproxyd", "--name", "elsewhere.example=10.73.9.2", "--socket"]);
    let mut resolver = Process::start(resolver.arg(sockets.join("dnsproxyd")), false);
    resolver.wait_for("netd", |line| line.starts_with('{').then_some(()));
    must(&format!("chmod 666 {}", sockets.join("dnsproxyd").display()));
    let mut logd = Logd::bind(&sockets.join("logdw"));
    let boot = || {
        let mut command = inside("dev");
        command.args(["unshare", "-m", "--propagation", "private", "sh", "-c", ANDROID]);
        command.env("AT", dir.path()).env("PROGRAM", env!("CARGO_BIN_EXE_impush"));
        command.env_remove("INVOCATION_ID").env_remove("JOURNAL_STREAM").env_remove("RUST_LOG");
        Process::start(&mut command, true)
    };
    let mut agent = Agent { process: boot(), home: share.clone() };
    logd.event("agent.started");
    agent.login("ann", "secret");
    assert_eq!(logd.event("names.source")["source"], "netd");
    logd.event("link.up");
    let status = agent.status();
    let down = format!("im/v1/org%23app/ann/{}/down", status["device_id"].as_str().expect("an id"));
    let send = |id: &str| {
        let message = serde_json::json!({ "v": 1, "type": "message", "id": id, "from": "b", "to": "ann", "sent_at_ms": 1, "body": {} });
        let mut command = inside("srv");
        command.args(["mosquitto_pub", "-V", "mqttv5", "-h", V4, "-p", "8883", "--cafile"]).arg(share.join("ca.pem"));
        command.args(["--insecure", "-q", "1", "-t", &down, "-m", &message.to_string()]);
        assert!(command.status().expect("ran").success());
    };
    send("first");
    assert_eq!(logd.event("message.received")["id"], "first");
    let network = |agent: &Agent| agent.status()["network"].as_str().unwrap_or_default().to_owned();
    assert!(network(&agent).starts_with("wifi-"), "{}", network(&agent));
    assert!(agent.status()["wake_lock"]["taken"].as_u64() > Some(0), "{}", agent.status());
    assert_eq!(agent.status()["saving_power"], false);
    assert_eq!(logd.warnings(), Vec::<&serde_json::Value>::new(), "a healthy run logs no warning");

    // Killed, and the device boots again.
    agent.process.kill();
    agent.process = boot();
    logd.event("agent.started");
    logd.event("link.up");
    assert_eq!(agent.status()["inbox"], 1, "what was on the disk is");

    // Wi-Fi ends: its address goes, and netd makes the other network everybody's.
    let from = Instant::now();
    must("ip -n impush-p-dev addr flush dev wlan0");
    tell(&mut netd, "rmnet0");
    logd.event("link.up");
    println!("Wi-Fi to mobile, the first address gone: online after {:?}", from.elapsed());
    assert!(network(&agent).starts_with("cell-"), "{}", network(&agent));
    send("second");
    assert_eq!(logd.event("message.received")["id"], "second");
    agent.process.kill();
    shell(DOWN);
    drop(turn);
}
