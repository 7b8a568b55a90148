//! How fast a device is online again when its network is back, beside `mosquitto_sub` on the same wire.
//!
//! ```text
//! device (impush, mosquitto_sub) wlan0 --- wa [ wire, 25 ms each way ] wb --- eth0 server (mosquitto, TLS)
//! ```
//!
//! mosquitto_sub ends when the network is unreachable; it is started again after a second, which is the
//! pause its library makes between its own attempts. Needs root, `ip`, `ethtool`, `mosquitto` and `mosquitto_sub`.

use super::process::{output, sibling};
use super::socket;
use indicatif::ProgressBar;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

/// The round trip over the wire.
pub(super) const ROUND_TRIP: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(30);
/// mosquitto_sub notices a silent death after at most twice its keep alive (5 s, its shortest).
const UNTIL_BOTH_NOTICED: Duration = Duration::from_secs(11);

const UP: &str = r#"
set -e
for n in dev wire srv; do ip netns del impush-bench-$n 2>/dev/null || true; ip netns add impush-bench-$n; ip -n impush-bench-$n link set lo up; done
ip netns exec impush-bench-wire sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6'
ip -n impush-bench-dev link add wlan0 type veth peer name wa netns impush-bench-wire
ip -n impush-bench-srv link add eth0 type veth peer name wb netns impush-bench-wire
for at in "dev wlan0" "srv eth0" "wire wa" "wire wb"; do set -- $at
  ip netns exec impush-bench-$1 ethtool -K $2 tx off gso off tso off gro off >/dev/null; ip -n impush-bench-$1 link set $2 up; done
ip -n impush-bench-srv addr add 10.72.0.2/24 dev eth0; ip -n impush-bench-srv route add 10.72.1.0/24 dev eth0
ip -n impush-bench-dev addr add 10.72.1.2/24 dev wlan0; ip -n impush-bench-dev route add default dev wlan0
"#;
const DOWN: &str =
    "for n in dev wire srv; do ip netns pids impush-bench-$n | xargs -r kill -9; ip netns del impush-bench-$n; done";
const CUT: &str = "ip -n impush-bench-dev addr flush dev wlan0; ip -n impush-bench-dev link set wlan0 down";
const MEND: &str = "ip -n impush-bench-dev link set wlan0 up; ip -n impush-bench-dev addr add 10.72.1.2/24 dev wlan0; \
                    ip -n impush-bench-dev route add default dev wlan0";

/// Medians, in seconds from the moment the default route is back.
pub(super) struct Comeback {
    pub impush: f64,
    pub mosquitto_sub: f64,
}

/// # Errors
/// A sentence when the machine cannot, or a program does not answer.
pub(super) async fn measure(rounds: u32) -> Result<Comeback, String> {
    shell(UP).await.map_err(|e| format!("needs root, ip and ethtool: {e}"))?;
    let measured = tokio::select! {
        measured = inside(rounds) => measured,
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
    };
    shell(DOWN).await?;
    measured
}

async fn shell(script: &str) -> Result<String, String> {
    output(Path::new("/bin/sh"), &["-c", script], LIMIT).await
}

fn inside_of(namespace: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &format!("impush-bench-{namespace}")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command
}

struct Broker {
    _child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Broker {
    /// The moment at which the log says that this client is connected.
    async fn connected(&mut self, marks: &[&str]) -> Result<Vec<Instant>, String> {
        let mut at: Vec<Option<Instant>> = vec![None; marks.len()];
        let all = async {
            while at.iter().any(Option::is_none) {
                let line = self.lines.next_line().await.map_err(|e| e.to_string())?.ok_or("the broker ended")?;
                for (mark, at) in marks.iter().zip(&mut at) {
                    if line.contains("New client connected") && line.contains(mark) {
                        at.get_or_insert_with(Instant::now);
                    }
                }
            }
            Ok::<_, String>(())
        };
        tokio::time::timeout(LIMIT, all).await.map_err(|_| "a client did not come back".to_owned())??;
        Ok(at.into_iter().flatten().collect())
    }

    /// Forgets what was logged until now.
    async fn skip(&mut self) {
        while let Ok(Ok(Some(_))) = tokio::time::timeout(Duration::from_millis(1), self.lines.next_line()).await {}
    }
}

async fn inside(rounds: u32) -> Result<Comeback, String> {
    let home = tempfile::tempdir().map_err(|e| e.to_string())?;
    let path = |name: &str| home.path().join(name).display().to_string();
    let write = |name: &str, text: String| std::fs::write(path(name), text).map_err(|e| format!("{name}: {e}"));
    // mosquitto gives up its privileges before it reads the files.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(home.path(), open).map_err(|e| e.to_string())?;
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["10.72.0.2".to_owned()]).map_err(|e| e.to_string())?;
    write("cert.pem", cert.pem())?;
    write("key.pem", signing_key.serialize_pem())?;
    write(
        "mosquitto.conf",
        format!(
            "listener 8883 10.72.0.2\nallow_anonymous true\ncafile {0}\ncertfile {0}\nkeyfile {1}\nuser root\n",
            path("cert.pem"),
            path("key.pem")
        ),
    )?;
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let delay = (ROUND_TRIP.as_millis() / 2).to_string();
    let _wire = inside_of("wire")
        .arg(own)
        .args(["wire", "wa", "wb", "--delay-ms", &delay])
        .spawn()
        .map_err(|e| format!("the wire: {e}"))?;
    let mut broker = inside_of("srv")
        .args(["mosquitto", "-v", "-c", &path("mosquitto.conf")])
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("mosquitto: {e}"))?;
    let said = broker.stderr.take().ok_or("no error pipe")?;
    let mut broker = Broker { lines: BufReader::new(said).lines(), _child: broker };

    let socket = home.path().join("s");
    write(
        "impush.toml",
        format!(
            "[server]\nurl = 'mqtts://10.72.0.2'\napp = 'o#a'\nca_file = '{}'\n[paths]\nstate = '{}'\nsocket = '{}'\n",
            path("cert.pem"),
            path("state"),
            socket.display()
        ),
    )?;
    let _agent = inside_of("dev")
        .arg(sibling("impush")?)
        .args(["--config", &path("impush.toml"), "run"])
        .spawn()
        .map_err(|e| format!("impush: {e}"))?;
    let deadline = Instant::now() + LIMIT;
    while !socket.exists() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let login = json!({ "user": "ann", "password": "x" });
    socket::call(&socket, "POST", "/v1/login", Some(&login)).await?;
    broker.connected(&["as ann:"]).await?;
    let peer = format!(
        "while :; do mosquitto_sub -V mqttv5 -h 10.72.0.2 -p 8883 -k 5 -i peer -t x --cafile {}; sleep 1; done",
        path("cert.pem")
    );
    let _peer = inside_of("dev").args(["sh", "-c", &peer]).spawn().map_err(|e| format!("mosquitto_sub: {e}"))?;
    broker.connected(&["as peer"]).await?;

    let bar = ProgressBar::new(u64::from(rounds));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        shell(CUT).await?;
        // At another moment of mosquitto_sub's pause of a second each time.
        let pause = UNTIL_BOTH_NOTICED + Duration::from_millis(u64::from(round) * 617 % 1000);
        tokio::time::sleep(pause).await;
        broker.skip().await;
        let (ended, heard) = tokio::join!(
            async {
                shell(MEND).await?;
                Ok::<_, String>(Instant::now())
            },
            broker.connected(&["as ann:", "as peer"]),
        );
        let (back, at) = (ended?, heard?);
        // The broker logs when CONNECT arrives; the device knows half a round trip later.
        let seconds = |at: Instant| (at.saturating_duration_since(back) + ROUND_TRIP / 2).as_secs_f64();
        ours.push(seconds(at[0]));
        theirs.push(seconds(at[1]));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Comeback { impush: median(ours), mosquitto_sub: median(theirs) })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
