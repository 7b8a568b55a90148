//! The agent on a real network stack: device - NAT router - server in network namespaces, with what
//! networks do to connections. Needs root, `ip`, `nft` and mosquitto.
//!
//! ```text
//! dev: wlan0 10.71.1.2, rmnet0 10.71.2.2 --- nat: 10.71.9.1 (wifi), 10.71.9.11 (cell) --- srv: 10.71.9.2
//! ```

mod support;

use serde_json::{Value, json};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use support::{Agent, Certificates, Flaw, Process, all_paths, certificates, has, impush, must, shell, skipped};

/// The namespaces have fixed names, so that a killed run's remains are found and removed.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const UP: &str = r#"
set -e
for n in dev nat srv; do ip netns del impush-$n 2>/dev/null || true; done
for n in dev nat srv; do ip netns add impush-$n; ip -n impush-$n link set lo up; done
ip -n impush-dev link add wlan0 type veth peer name w0 netns impush-nat
ip -n impush-dev link add rmnet0 type veth peer name c0 netns impush-nat
ip -n impush-nat link add up0 type veth peer name eth0 netns impush-srv
ip -n impush-dev addr add 10.71.1.2/24 dev wlan0; ip -n impush-nat addr add 10.71.1.1/24 dev w0
ip -n impush-nat addr add 10.71.2.1/24 dev c0
ip -n impush-nat addr add 10.71.9.1/24 dev up0; ip -n impush-nat addr add 10.71.9.11/24 dev up0
ip -n impush-srv addr add 10.71.9.2/24 dev eth0; ip -n impush-srv link set eth0 up
ip -n impush-dev link set wlan0 up
for i in w0 c0 up0; do ip -n impush-nat link set $i up; done
ip -n impush-dev route add default via 10.71.1.1 dev wlan0
ip netns exec impush-nat sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
ip netns exec impush-nat nft -f - <<'NFT'
table ip lab {
  chain c_fwd { type filter hook forward priority 0; policy accept; ct state invalid counter drop; }
  chain c_in { type filter hook input priority 0; policy accept; iifname "up0" meta l4proto { tcp, udp } counter drop; }
  chain c_post { type nat hook postrouting priority srcnat;
    iifname "w0" oifname "up0" snat to 10.71.9.1
    iifname "c0" oifname "up0" snat to 10.71.9.11
  }
}
NFT
ip netns exec impush-nat sh -c 'echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose'
"#;

/// Puts a wire of its own namespace between router and server.
const SLOW: &str = r#"
set -e
ip netns del impush-wire 2>/dev/null || true; ip netns add impush-wire
ip netns exec impush-wire sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6'
ip -n impush-nat link del up0
ip -n impush-nat link add up0 type veth peer name wa netns impush-wire; ip -n impush-srv link add eth0 type veth peer name wb netns impush-wire
for at in "nat up0" "srv eth0" "wire wa" "wire wb"; do set -- $at
  ip netns exec impush-$1 ethtool -K $2 tx off gso off tso off gro off >/dev/null; ip -n impush-$1 link set $2 up; done
for i in "dev wlan0" "nat w0"; do set -- $i; ip netns exec impush-$1 ethtool -K $2 tx off gso off tso off gro off >/dev/null; done
ip -n impush-nat addr add 10.71.9.1/24 dev up0; ip -n impush-srv addr add 10.71.9.2/24 dev eth0
"#;

struct Lab {
    _turn: MutexGuard<'static, ()>,
    dir: tempfile::TempDir,
    _broker: Process,
    _wire: Option<Process>,
    agent: Agent,
}

impl Lab {
    /// `None`, said aloud, where the machine cannot.
    fn new(test: &str, keep_alive: &str) -> Option<Self> {
        Self::behind(test, keep_alive, None)
    }

    /// With a wire before the server that takes so many milliseconds each way.
    fn behind(test: &str, keep_alive: &str, delay_ms: Option<u32>) -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        if !rustix::process::geteuid().is_root() || !["ip", "nft", "mosquitto"].iter().all(|p| has(p)) {
            skipped(test, "needs root, ip, nft and mosquitto");
            return None;
        }
        let made = shell(UP);
        if !made.status.success() {
            skipped(test, &format!("this kernel cannot: {}", String::from_utf8_lossy(&made.stderr)));
            return None;
        }
        let wire = match delay_ms {
            Some(_) if !has("ethtool") => {
                skipped(test, "needs ethtool");
                return None;
            }
            Some(delay) => {
                must(SLOW);
                let mut command = Command::new("ip");
                command.args(["netns", "exec", "impush-wire", env!("CARGO_BIN_EXE_impush-lab"), "wire", "wa", "wb"]);
                command.args(["--delay-ms", &delay.to_string()]).env("PATH", all_paths());
                Some(Process::start(&mut command, true))
            }
            None => None,
        };
        let dir = tempfile::tempdir().expect("a directory");
        let certificates = certificates(dir.path(), Flaw::None);
        let broker = broker(dir.path(), &certificates);
        // The name in the certificate, for this namespace alone.
        Agent::configure(&dir.path().join("a"), "mqtts://localhost:8883", &certificates.ca, keep_alive);
        let process = Process::start(&mut in_device(&dir.path().join("a"), &["run"]), true);
        let mut agent = Agent { process, home: dir.path().join("a") };
        agent.process.event("agent.started");
        agent.login("ann", "secret");
        agent.process.event("link.up");
        Some(Self { _turn: turn, dir, _broker: broker, _wire: wire, agent })
    }

    fn status(&self) -> Value {
        assert!(self.dir.path().exists());
        self.agent.status()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.agent.process.child.kill());
        shell(
            "for n in dev nat srv wire; do ip netns pids impush-$n 2>/dev/null | xargs -r kill -9; ip netns del impush-$n 2>/dev/null; done",
        );
    }
}

/// A broker in the server's namespace that is reached as `localhost` from the device's: its port is
/// forwarded by the device's own packet filter, so that the certificate's name holds.
fn broker(dir: &Path, certificates: &Certificates) -> Process {
    use std::os::unix::fs::PermissionsExt as _;
    for (path, mode) in [(dir, 0o755), (certificates.key.as_path(), 0o644)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permitted");
    }
    let config = dir.join("mosquitto.conf");
    let text = format!(
        "listener 8883 10.71.9.2\nallow_anonymous true\ncafile {}\ncertfile {}\nkeyfile {}\nlistener 1883 10.71.9.2\n",
        certificates.ca.display(),
        certificates.chain.display(),
        certificates.key.display()
    );
    std::fs::write(&config, text).expect("written");
    must(
        "ip netns exec impush-dev sh -c 'echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet' && mkdir -p /etc/netns/impush-dev && \
         printf '10.71.9.2 localhost\\n' > /etc/netns/impush-dev/hosts",
    );
    let mut command = Command::new("ip");
    command.args(["netns", "exec", "impush-srv", "mosquitto", "-v", "-c"]).arg(&config).env("PATH", all_paths());
    let mut process = Process::start(&mut command, true);
    process.wait_for("running", |line| line.contains("running").then_some(()));
    process
}

fn in_device(home: &Path, arguments: &[&str]) -> Command {
    let inner = impush(home);
    let mut command = Command::new("ip");
    command.args(["netns", "exec", "impush-dev"]).arg(inner.get_program()).args(inner.get_args()).args(arguments);
    command.env("PATH", all_paths()).env_remove("RUST_LOG").env_remove("INVOCATION_ID").env_remove("JOURNAL_STREAM");
    command
}

#[test]
fn a_nat_that_forgets_the_connection_silently_is_noticed_and_survived() {
    let Some(mut lab) = Lab::new(
        "a_nat_that_forgets_the_connection_silently_is_noticed_and_survived",
        "[keep_alive]\nstart_s = 8\nfloor_s = 5\n",
    ) else {
        return;
    };
    // Every flow is forgotten, as when the router restarts: packets vanish, nobody closes anything.
    must(
        "ip netns exec impush-nat nft add rule ip lab c_fwd ip saddr 10.71.1.2 tcp dport 8883 ct state established counter drop",
    );
    let down = lab.agent.process.event("link.down");
    // The kernel's own late notices may have had it probed: silence is what is found either way.
    assert!(["pong_lost", "ack_lost", "network_changed"].iter().any(|cause| down["cause"] == *cause), "{down}");
    must("ip netns exec impush-nat nft flush chain ip lab c_fwd");
    lab.agent.process.event("link.up");
}

#[test]
fn a_network_whose_idle_limit_is_short_is_learnt() {
    let Some(mut lab) =
        Lab::new("a_network_whose_idle_limit_is_short_is_learnt", "[keep_alive]\nstart_s = 12\nfloor_s = 5\n")
    else {
        return;
    };
    // conntrack forgets an established flow after seven idle seconds, silently.
    must("ip netns exec impush-nat sh -c 'echo 7 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established'");
    let down = lab.agent.process.event("link.down");
    assert_eq!(down["cause"], "pong_lost");
    lab.agent.process.event("heartbeat.lost");
    let status = lab.status();
    assert!(status["heartbeat_s"].as_f64().expect("a number") < 7.0, "{status}");
    assert!(status["network"].as_str().expect("a key").starts_with("wifi-"), "{status}");
}

#[test]
fn moving_from_wifi_to_cellular_reconnects_by_the_change_itself() {
    let Some(mut lab) = Lab::new("moving_from_wifi_to_cellular_reconnects_by_the_change_itself", "") else { return };
    must(
        "ip -n impush-dev link set rmnet0 up && ip -n impush-dev addr add 10.71.2.2/24 dev rmnet0 && ip -n impush-dev addr flush dev wlan0 && \
         ip -n impush-dev link set wlan0 down && ip -n impush-dev route replace default via 10.71.2.1 dev rmnet0",
    );
    // The heartbeat is 45 s: only the change can be the messenger.
    assert_eq!(lab.agent.process.event("link.down")["cause"], "address_gone");
    lab.agent.process.event("link.up");
    assert!(lab.status()["network"].as_str().expect("a key").starts_with("cell-"));
}

#[test]
fn a_link_that_goes_and_comes_back_is_used_at_once() {
    let Some(mut lab) = Lab::new("a_link_that_goes_and_comes_back_is_used_at_once", "") else { return };
    must("ip -n impush-dev addr flush dev wlan0 && ip -n impush-dev link set wlan0 down");
    assert_eq!(lab.agent.process.event("link.down")["cause"], "address_gone");
    must(
        "ip -n impush-dev link set wlan0 up && ip -n impush-dev addr add 10.71.1.2/24 dev wlan0 && ip -n impush-dev route add default via 10.71.1.1",
    );
    lab.agent.process.event("link.up");
}

#[test]
fn a_change_beside_the_connection_costs_nothing_and_a_black_hole_is_found_by_a_probe() {
    let Some(mut lab) =
        Lab::new("a_change_beside_the_connection_costs_nothing_and_a_black_hole_is_found_by_a_probe", "")
    else {
        return;
    };
    let since = lab.status()["since_ms"].clone();
    must("ip -n impush-dev addr add 10.71.1.77/24 dev wlan0");
    lab.agent.process.event("network.same");
    assert_eq!(lab.status()["since_ms"], since);
    // A black hole now: the probe, not the heartbeat, finds it.
    must("ip -n impush-dev route add blackhole 10.71.9.2");
    let down = lab.agent.process.event("link.down");
    assert_eq!(down["cause"], "network_changed");
    must("ip -n impush-dev route del blackhole 10.71.9.2");
    lab.agent.process.event("link.up");
}

#[test]
fn loss_on_the_way_does_not_break_the_connection() {
    let Some(mut lab) =
        Lab::new("loss_on_the_way_does_not_break_the_connection", "[keep_alive]\nstart_s = 5\nfloor_s = 5\n")
    else {
        return;
    };
    must("ip netns exec impush-nat nft insert rule ip lab c_fwd numgen random mod 100 \\< 10 counter drop");
    let since = lab.status()["since_ms"].clone();
    lab.agent.ok(&["reconnect"]);
    lab.agent.process.event("link.up");
    let again = lab.status();
    assert_ne!(again["since_ms"], since);
    assert_eq!(again["state"], "online");
}

#[test]
fn a_path_of_eight_hundred_milliseconds_is_slow_and_not_broken() {
    let Some(mut lab) = Lab::behind(
        "a_path_of_eight_hundred_milliseconds_is_slow_and_not_broken",
        "[keep_alive]\nstart_s = 5\nfloor_s = 5\n",
        Some(400),
    ) else {
        return;
    };
    let since = lab.status()["since_ms"].clone();
    // A ping after five idle seconds teaches that the network keeps connections so long; nothing was lost.
    lab.agent.process.event("link.idle_survived");
    let status = lab.status();
    assert_eq!((&status["since_ms"], &status["state"]), (&since, &Value::from("online")), "{status}");
    assert!(status["round_trip_ms"].as_u64().expect("a number") >= 800, "{status}");
}

#[test]
fn a_network_that_comes_back_is_used_however_often_it_went() {
    let Some(mut lab) = Lab::new("a_network_that_comes_back_is_used_however_often_it_went", "") else { return };
    // More often than a server may drop fresh connections before its pauses grow long.
    for _ in 0..5 {
        must("ip -n impush-dev addr flush dev wlan0 && ip -n impush-dev link set wlan0 down");
        assert_eq!(lab.agent.process.event("link.down")["cause"], "address_gone");
        must(
            "ip -n impush-dev link set wlan0 up && ip -n impush-dev addr add 10.71.1.2/24 dev wlan0 && ip -n impush-dev route add default via 10.71.1.1",
        );
        lab.agent.process.event("link.up");
    }
}

/// Offloads would let packets of many segments through the router as one.
const NO_OFFLOADS: &str = r#"
set -e
for at in "dev wlan0" "nat w0" "nat up0" "srv eth0"; do set -- $at
  ip netns exec impush-$1 ethtool -K $2 tx off gso off tso off gro off >/dev/null; done
"#;

#[test]
fn a_message_that_the_path_loses_for_its_size_comes_in_small_segments() {
    let test = "a_message_that_the_path_loses_for_its_size_comes_in_small_segments";
    if !["ethtool", "mosquitto_pub"].iter().all(|p| has(p)) {
        return skipped(test, "needs ethtool and mosquitto_pub");
    }
    let Some(mut lab) = Lab::new(test, "[keep_alive]\nstart_s = 5\nfloor_s = 5\n") else { return };
    must(NO_OFFLOADS);
    let heartbeat = lab.status()["heartbeat_s"].clone();
    let down = format!("im/v1/org%23app/ann/{}/down", lab.status()["device_id"].as_str().expect("an id"));
    let send = |id: &str| {
        let body = json!({ "text": "x".repeat(5000) });
        let message =
            json!({ "v": 1, "type": "message", "id": id, "from": "b", "to": "ann", "sent_at_ms": 1, "body": body });
        let mut command = Command::new("ip");
        command.args(["netns", "exec", "impush-srv", "mosquitto_pub", "-V", "mqttv5", "-h", "10.71.9.2", "-q", "1"]);
        command.args(["-t", &down, "-m", &message.to_string()]).env("PATH", all_paths());
        assert!(command.status().expect("ran").success());
    };
    // The control: large packets pass.
    send("before");
    assert_eq!(lab.agent.process.event("message.received")["id"], "before");
    let mut router = Command::new(env!("CARGO_BIN_EXE_impush-lab"));
    router.args(["trouble", "large", "--netns", "impush-nat", "--above", "1300"]).env("PATH", all_paths());
    let (mut router, _input) = Process::start_told(&mut router);
    router.wait_for("the rule", |line| line.starts_with('{').then_some(()));
    send("lost");
    lab.agent.process.event("link.small_segments");
    assert_eq!(lab.agent.process.event("message.received")["id"], "lost");
    let status = lab.status();
    assert_eq!((&status["small_segments"], &status["heartbeat_s"]), (&Value::from(true), &heartbeat), "{status}");
    let downs = lab.agent.process.seen.iter().filter(|line| line.contains(r#""event":"link.down""#)).count();
    assert_eq!(downs, 2, "once for the silence, once to know what it meant");
}

/// Ids of a batch of messages that make 3.5 kB together.
fn batch(name: &str) -> Vec<String> {
    (0..40).map(|n| format!("{name}-{n:02}-{}", "x".repeat(80))).collect()
}

#[test]
fn a_path_that_loses_large_packets_gets_small_segments_and_keeps_its_heartbeat() {
    let test = "a_path_that_loses_large_packets_gets_small_segments_and_keeps_its_heartbeat";
    if !["ethtool", "ss", "curl", "mosquitto_sub", "mosquitto_pub"].iter().all(|p| has(p)) {
        return skipped(test, "needs ethtool, ss, curl, mosquitto_sub and mosquitto_pub");
    }
    let Some(mut lab) = Lab::new(test, "") else { return };
    must(NO_OFFLOADS);
    let heartbeat = lab.status()["heartbeat_s"].clone();
    let device = lab.status()["device_id"].as_str().expect("an id").to_owned();
    let at_server = |program: &str, options: &[&str]| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", "impush-srv", program, "-V", "mqttv5", "-h", "10.71.9.2", "-q", "1"]);
        command.args(options).env("PATH", all_paths());
        command
    };
    let mut up = Process::start(&mut at_server("mosquitto_sub", &["-t", "im/v1/+/+/+/up"]), false);
    lab._broker.wait_for("SUBACK", |line| line.contains("Sending SUBACK to auto-").then_some(()));
    let batches = ["before", "lost", "after"].map(batch);
    let down = format!("im/v1/org%23app/ann/{device}/down");
    let mut publish = at_server("mosquitto_pub", &["-l", "-t", &down]).stdin(Stdio::piped()).spawn().expect("started");
    let mut lines = publish.stdin.take().expect("piped");
    for id in batches.iter().flatten() {
        let message =
            json!({ "v": 1, "type": "message", "id": id, "from": "b", "to": "ann", "sent_at_ms": 1, "body": {} });
        writeln!(lines, "{message}").expect("written");
    }
    drop(lines);
    assert!(publish.wait().expect("ended").success());
    for _ in batches.iter().flatten() {
        lab.agent.process.event("message.received");
    }
    let socket = lab.agent.home.join("s");
    let take = |ids: &[String]| {
        let mut curl = Command::new("curl");
        curl.args(["-sf", "-m", "20", "-d", &json!({ "ids": ids }).to_string(), "--unix-socket"]).arg(&socket);
        let done = curl.arg("http://impush/v1/messages/ack").output().expect("ran");
        assert!(done.status.success(), "{done:?}");
    };
    let taken =
        |line: &str, ids: &[String]| line.contains(r#""type":"taken""#) && ids.iter().all(|id| line.contains(id));
    // The control: large packets pass.
    take(&batches[0]);
    up.wait_for("the first batch", |line| taken(line, &batches[0]).then_some(()));

    let mut router = Command::new(env!("CARGO_BIN_EXE_impush-lab"));
    router.args(["trouble", "large", "--netns", "impush-nat", "--above", "1300"]).env("PATH", all_paths());
    let (mut router, _input) = Process::start_told(&mut router);
    router.wait_for("the rule", |line| line.starts_with('{').then_some(()));
    take(&batches[1]);
    lab.agent.process.event("link.small_segments");
    let lost = lab.agent.process.event("link.down");
    assert_eq!(lost["cause"], "ack_lost");
    lab.agent.process.event("link.up");
    take(&batches[2]);
    up.wait_for("the last batch", |line| taken(line, &batches[2]).then_some(()));
    let sockets = shell("ip netns exec impush-dev ss -tin state established dst 10.71.9.2");
    let text = String::from_utf8_lossy(&sockets.stdout).into_owned();
    let sizes: Vec<u32> = text.split_whitespace().filter_map(|word| word.strip_prefix("mss:")?.parse().ok()).collect();
    assert!(!sizes.is_empty() && sizes.iter().all(|size| *size <= 1200), "{text}");
    let status = lab.status();
    assert_eq!((&status["small_segments"], &status["heartbeat_s"]), (&Value::from(true), &heartbeat), "{status}");
    let downs = lab.agent.process.seen.iter().filter(|line| line.contains(r#""event":"link.down""#)).count();
    assert_eq!(downs, 1, "the link fell once");
}
