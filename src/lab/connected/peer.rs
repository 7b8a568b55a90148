//! mosquitto with the same clients over TLS: QoS 1 to one subscriber each, and one body to a thousand; it stores nothing.

use super::client::{Who, open};
use super::crowd::{Crowd, Target};
use super::traffic::{MANY, USERS};
use crate::lab::usage::processor_s;
use crate::mqtt::{ConnectOptions, Incoming, MqttError, handshake};
use crate::secret::Secret;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_secs(60);
/// Connections that publish, and publishes of each that are not acknowledged.
const PUBLISHERS: usize = 4;
const UNDER_WAY: usize = 64;
/// As long as the gateway's own message.
const BODY: [u8; 200] = [b'x'; 200];

/// Messages delivered and acknowledged a second of its processor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub one_per_core_s: f64,
    pub many_per_core_s: f64,
}

/// A mosquitto on the first core; dropping it kills it.
pub(super) struct Mosquitto {
    process: Child,
    pub pid: u32,
    pub target: Arc<Target>,
}

/// # Errors
/// A sentence when there is no mosquitto, or it does not answer.
pub(super) async fn start(home: &Path) -> Result<Mosquitto, String> {
    let path = |name: &str| home.join(name);
    let write = |name: &str, text: String| std::fs::write(path(name), text).map_err(|e| format!("{name}: {e}"));
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned()]).map_err(|e| e.to_string())?;
    write("peer.pem", cert.pem())?;
    write("peer.key", signing_key.serialize_pem())?;
    let address: SocketAddr =
        TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| e.to_string())?;
    let port = address.port();
    // As root it would give up its privileges and then not read the files.
    let text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\ncertfile {}\nkeyfile {}\nset_tcp_nodelay true\nmax_queued_messages 0\nmax_inflight_messages 0\nlog_type error\n",
        path("peer.pem").display(),
        path("peer.key").display()
    );
    write("peer.conf", text)?;
    let process = Command::new("taskset")
        .args(["-c", "0", "mosquitto", "-c"])
        .arg(path("peer.conf"))
        .env("PATH", concat!(env!("PATH"), ":/usr/sbin:/usr/local/sbin"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("mosquitto: {e}"))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).await.is_err() {
        if Instant::now() > deadline {
            return Err("mosquitto does not listen; is it installed?".to_owned());
        }
        sleep(Duration::from_millis(20)).await;
    }
    let pid = process.id().ok_or("mosquitto ended")?;
    let target = Arc::new(Target::new(address, &path("peer.pem"), 64)?);
    Ok(Mosquitto { process, pid, target })
}

/// # Errors
/// As [`start`].
pub(super) async fn measure(home: &Path, count: u32) -> Result<Peer, String> {
    let Mosquitto { mut process, pid, target } = start(home).await?;
    let mut crowd = Crowd::new();
    let subscriber = |n: usize, topic: String| Who::Subscriber { client_id: format!("c{n}"), topic };
    for n in 0..USERS {
        crowd.add(subscriber(n, format!("one/{n}")), &target);
    }
    for n in 0..MANY {
        crowd.add(subscriber(USERS + n, "many".to_owned()), &target);
    }
    crowd.all_online(USERS + MANY, LIMIT).await?;
    let one_per_core_s = job(&crowd, &target, pid, count, |n| format!("one/{}", n as usize % USERS), 1).await?;
    let bodies = count.div_ceil(MANY as u32).max(10);
    let many_per_core_s = job(&crowd, &target, pid, bodies, |_| "many".to_owned(), MANY as u64).await?;
    crowd.leave().await;
    process.kill().await.map_err(|e| e.to_string())?;
    Ok(Peer { one_per_core_s, many_per_core_s })
}

/// Publishes, until every subscriber has its copy.
async fn job(
    crowd: &Crowd,
    target: &Arc<Target>,
    pid: u32,
    count: u32,
    topic: fn(u32) -> String,
    receivers: u64,
) -> Result<f64, String> {
    let before = crowd.counts.received.load(Ordering::Relaxed);
    let busy = processor_s(pid)?;
    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let target = target.clone();
        let own = (publisher as u32..count).step_by(PUBLISHERS);
        publishers.spawn(async move { publish(&target, publisher, own.map(topic).collect()).await });
    }
    while let Some(done) = publishers.join_next().await {
        done.map_err(|e| e.to_string())?.map_err(|e| e.detail)?;
    }
    let copies = u64::from(count) * receivers;
    crowd.until("messages of mosquitto", before + copies, |counts| counts.received.load(Ordering::Relaxed)).await?;
    Ok(copies as f64 / (processor_s(pid)? - busy))
}

async fn publish(target: &Target, publisher: usize, topics: Vec<String>) -> Result<(), MqttError> {
    let options = ConnectOptions {
        client_id: format!("publisher-{publisher}"),
        user_name: String::new(),
        password: Secret::new(""),
        keep_alive_s: 600,
        session_expiry_s: 0,
        clean_start: true,
        will: None,
    };
    let (mut connection, _) = handshake(open(target).await?, &options, LIMIT).await?;
    let mut under_way = 0;
    for topic in topics {
        connection.publish(&topic, BODY.to_vec(), false).await?;
        under_way += 1;
        while under_way == UNDER_WAY {
            under_way -= answered(&mut connection).await?;
        }
    }
    while under_way > 0 {
        under_way -= answered(&mut connection).await?;
    }
    connection.disconnect(true).await
}

/// How many publishes the next word of the server is the answer to.
async fn answered<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    connection: &mut crate::mqtt::Connection<S>,
) -> Result<usize, MqttError> {
    match connection.next().await? {
        Incoming::Published { .. } => {
            connection.send_queued().await?;
            Ok(1)
        }
        Incoming::Publish { .. } | Incoming::Subscribed { .. } | Incoming::Pong => Ok(0),
    }
}
