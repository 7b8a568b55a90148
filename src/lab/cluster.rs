//! Several gateways on one PostgreSQL and a broker of several nodes, any of which is killed under load, while
//! presence events come late, twice and in the wrong order: nothing may be lost, nothing shown twice. Or without a broker:
//! gateways with devices of their own behind a load balancer, which cuts connections instead.

use super::account::{ANY, vendors_section};
use super::agent::Agent;
use super::device::{call, call_as};
use super::kills::{self, Kills};
use super::noise::{self, Brokers};
use super::process::{Process, sibling};
use crate::http::Http;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

const START: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(10);
/// What is under way after the last kill may take so long: a device whose broker loses its first words says them
/// again ever more rarely.
const SETTLE: Duration = Duration::from_secs(480);
/// A broker's node may take so long to come back: some wait until their ports are free again.
const NODE: Duration = Duration::from_secs(180);
/// A device's first word may take so long: it is said again after 15 s, and then after 30.
const WELCOME: Duration = Duration::from_secs(90);
/// Lost messages whose traces are shown.
const EXPLAINED: usize = 3;
/// App servers that send to the offline device, and as many to the connected ones.
const SENDERS: u64 = 4;
/// One kill in so many is of a broker's node.
const NODE_EVERY: u32 = 20;
/// One kill in so many is of half of the devices' connections, where no broker holds them.
const CUT_EVERY: u32 = 3;
/// The offline device's user.
const OFFLINE: &str = "ann";

/// What to build.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// `postgres://...`, with an empty database.
    pub store: String,
    /// Without nodes each gateway has devices of its own.
    pub brokers: Brokers,
    /// Where the gateways' REST API is, in front of them all.
    pub front: SocketAddr,
    pub gateways: usize,
    pub devices: usize,
    pub kills: u32,
    /// Kills and starts a node: run by `sh -c`, with the node's number from 1 as `$1`.
    pub kill_node: Option<String>,
    pub start_node: Option<String>,
}

/// What became of the messages.
pub(super) struct Outcome {
    pub offline: Kills,
    pub online: Kills,
    pub gateway_kills: u32,
    pub node_kills: u32,
    /// How often half of the devices' connections were cut.
    pub cuts: u32,
    pub events_replayed: u64,
}

struct Gateway {
    process: Process,
    config: PathBuf,
}

/// The gateways, and where they are.
struct Gateways {
    all: Vec<Gateway>,
    apis: Vec<SocketAddr>,
    endpoints: Vec<SocketAddr>,
    /// Whom devices trust at their endpoints.
    ca: String,
}

/// How devices come in.
struct Entrance {
    /// The settings of an agent's `[server]`.
    servers: Vec<String>,
    /// Cuts half of the connections.
    cut: Arc<Notify>,
}

/// # Errors
/// A sentence about what did not start, or what was refused.
pub(super) async fn measure(plan: &Plan) -> Result<Outcome, String> {
    let home = tempfile::tempdir().map_err(|e| e.to_string())?;
    let home = home.path();
    let ca = home.join("clouds.pem");
    let arguments = ["clouds", "--listen", "127.0.0.1:0", "--ca-file", ca.to_str().unwrap_or_default()];
    let mut clouds = Process::start("clouds", &sibling("impush-lab")?, &arguments, home)?;
    let clouds_url = clouds.next(START).await?["clouds"].as_str().unwrap_or_default().to_owned();
    let Gateways { all: mut gateways, apis, endpoints, ca: own_ca } =
        gateways(plan, home, &vendors_section(&clouds_url, &ca)).await?;
    let listener = TcpListener::bind(plan.front).await.map_err(|e| format!("{}: {e}", plan.front))?;
    let front = tokio::spawn(balance(listener, apis, Arc::default()));
    let entrance = entrance(plan, endpoints, &own_ca).await?;
    let http = Http::new(Some(&ca), CALL)?;
    let base = format!("http://{}/o/a", plan.front);
    let secret = std::fs::read_to_string(home.join("gateway-0/admin.secret")).map_err(|e| e.to_string())?;
    let grant = json!({ "grant_type": "client_credentials", "client_id": "admin", "client_secret": secret });
    let token = call(&http, "POST", &format!("{base}/token"), Some(grant)).await?;
    let token = token["access_token"].as_str().unwrap_or_default().to_owned();
    let offline = offline_device(&http, &base, &token, &clouds_url).await?;
    let agents = agents(plan, home, &entrance, (&http, &base, &token)).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let (brokers, over) = (plan.brokers.clone(), stop.clone());
    let noise =
        tokio::spawn(async move { if brokers.urls.is_empty() { Ok(0) } else { noise::replay(brokers, over).await } });
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS * 2 {
        let (http, base, token, stop) = (http.clone(), base.clone(), token.clone(), stop.clone());
        let devices = plan.devices as u64;
        senders.spawn(async move {
            let mut ids = Vec::new();
            for n in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let to = if sender < SENDERS { OFFLINE.to_owned() } else { user((n % devices) as usize) };
                let id = kills::send(&http, &base, &token, &to, &format!("{sender}-{n}")).await?;
                ids.push((to == OFFLINE, id));
                // A steady load that one core carries while programs start.
                sleep(Duration::from_millis(15)).await;
            }
            Ok::<_, String>(ids)
        });
    }
    let (gateway_kills, node_kills, cuts) = kill(plan, &mut gateways, &entrance.cut).await?;
    stop.store(true, Ordering::Relaxed);
    let (mut to_offline, mut to_online) = (Vec::new(), Vec::new());
    while let Some(done) = senders.join_next().await {
        for (offline, id) in done.map_err(|e| e.to_string())?? {
            if offline { to_offline.push(id) } else { to_online.push(id) }
        }
    }
    let tray = |after| {
        let query = serde_urlencoded::to_string([("vendor", ANY.as_str()), ("token", &offline)]).unwrap_or_default();
        format!("{clouds_url}/_lab/tray?{query}&after={after}")
    };
    let offline =
        kills::settled(&to_offline, SETTLE, async |after| call(&http, "GET", &tray(after), None).await).await?;
    let online = received(&to_online, &agents).await?;
    for id in offline.lost.iter().take(EXPLAINED).chain(online.lost.iter().take(EXPLAINED)) {
        let trace = call_as(&http, "GET", &format!("{base}/messages/{id}/trace"), Some(&token), None).await?;
        crate::terminal::note(&format!("lost: {id}: {}", trace["entities"]));
    }
    let events_replayed = noise.await.map_err(|e| e.to_string())??;
    front.abort();
    Ok(Outcome { offline, online, gateway_kills, node_kills, cuts, events_replayed })
}

fn user(n: usize) -> String {
    format!("user-{n}")
}

async fn gateways(plan: &Plan, home: &Path, vendors: &str) -> Result<Gateways, String> {
    let key = home.join("secrets.key");
    std::fs::write(&key, crate::secret::random_hex::<32>()).map_err(|e| e.to_string())?;
    let mut made = Gateways { all: Vec::new(), apis: Vec::new(), endpoints: Vec::new(), ca: String::new() };
    for n in 0..plan.gateways {
        let free =
            || std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| e.to_string());
        let (api, endpoint) = (free()?, free()?);
        let Brokers { urls, user, password, shared, client_events } = &plan.brokers;
        let broker = match urls.get(n % urls.len().max(1)) {
            Some(url) => format!(
                "url = '{url}'\nuser = '{user}'\npassword = '{password}'\nshared_subscriptions = {shared}\nclient_events = {client_events}\n"
            ),
            None => format!("listen = '{endpoint}'\n"),
        };
        let text = format!(
            "[api]\nlisten = '{api}'\nrequests_per_s = 100000\n[broker]\n{broker}[store]\nurl = '{}'\n[delivery]\nack_deadline_ms = 3000\nkeep_most = 100000\n{vendors}timeout_ms = 500\n\
             [paths]\nstate = '{}'\nsecrets_key = '{}'\n[log]\nlevel = 'warn'\n",
            plan.store,
            home.join(format!("gateway-{n}")).display(),
            key.display(),
        );
        let config = home.join(format!("gateway-{n}.toml"));
        std::fs::write(&config, text).map_err(|e| e.to_string())?;
        let (process, said) = start(&config, home).await?;
        made.ca = said["ca_file"].as_str().unwrap_or_default().to_owned();
        made.all.push(Gateway { process, config });
        made.apis.push(api);
        made.endpoints.push(endpoint);
    }
    Ok(made)
}

/// What stands before the brokers' nodes, or before the gateways' own endpoints.
async fn entrance(plan: &Plan, endpoints: Vec<SocketAddr>, ca: &str) -> Result<Entrance, String> {
    let cut = Arc::new(Notify::new());
    let urls = &plan.brokers.urls;
    if urls.is_empty() {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
        let port = listener.local_addr().map_err(|e| e.to_string())?.port();
        tokio::spawn(balance(listener, endpoints, cut.clone()));
        return Ok(Entrance { servers: vec![format!("url = 'mqtts://localhost:{port}'\nca_file = '{ca}'\n")], cut });
    }
    let server = |first: usize| {
        let others: Vec<_> = urls.iter().enumerate().filter(|(at, _)| *at != first).map(|(_, url)| url).collect();
        format!("url = '{}'\nfallback_urls = {}\n", urls[first], json!(others))
    };
    Ok(Entrance { servers: (0..urls.len()).map(server).collect(), cut })
}

/// And what it announced.
async fn start(config: &Path, home: &Path) -> Result<(Process, Value), String> {
    let arguments = ["--config", config.to_str().unwrap_or_default(), "serve", "--announce"];
    let mut process = Process::start("gateway", &sibling("impush-gateway")?, &arguments, home)?;
    let said = process.next(START).await?;
    Ok((process, said))
}

/// A load balancer: each connection to the first gateway, in turn, that takes it. Every second one ends at a cut.
async fn balance(listener: TcpListener, gateways: Vec<SocketAddr>, cut: Arc<Notify>) -> Result<(), String> {
    for turn in 0_usize.. {
        let (mut near, _) = listener.accept().await.map_err(|e| e.to_string())?;
        let (gateways, cut) = (gateways.clone(), cut.clone());
        tokio::spawn(async move {
            for n in 0..gateways.len() {
                if let Ok(mut far) = TcpStream::connect(gateways[(turn + n) % gateways.len()]).await {
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = cut.notified(), if turn.is_multiple_of(2) => {}
                    }
                    return;
                }
            }
        });
    }
    Ok(())
}

async fn offline_device(http: &Http, base: &str, token: &str, clouds: &str) -> Result<String, String> {
    let account = crate::lab::cloud::account(ANY)?;
    let mut registration = account.registration.clone();
    registration["daily_quota"] = json!(u64::from(u32::MAX));
    call(http, "POST", &format!("{clouds}/_lab/apps"), Some(registration)).await?;
    let ask = async |method: &str, path: &str, body: Value| {
        call_as(http, method, &format!("{base}/{path}"), Some(token), Some(body)).await
    };
    let certificate = json!({ "vendor": ANY, "name": account.certificate, "fields": account.fields });
    ask("POST", "certificates", certificate).await?;
    ask("POST", "users", json!({ "username": OFFLINE, "password": "a password" })).await?;
    let install = json!({ "vendor": ANY, "id": account.app_id, "device": "d" });
    let device = call(http, "POST", &format!("{clouds}/_lab/installs"), Some(install)).await?;
    let device = device["token"].as_str().unwrap_or_default().to_owned();
    let binding = json!({ "device_id": "d", "device_token": device, "notifier_name": account.certificate });
    ask("PUT", &format!("users/{OFFLINE}/push/binding"), binding).await?;
    Ok(device)
}

/// A real agent with a reader of its messages.
struct Device {
    _agent: Agent,
    _watch: JoinHandle<()>,
    received: Arc<std::sync::Mutex<Vec<String>>>,
}

async fn agents(
    plan: &Plan,
    home: &Path,
    entrance: &Entrance,
    (http, base, token): (&Http, &str, &str),
) -> Result<Vec<Device>, String> {
    let mut agents = Vec::new();
    for n in 0..plan.devices {
        let (user, name) = (user(n), format!("agent-{n}"));
        let body = json!({ "username": user, "password": "a password" });
        call_as(http, "POST", &format!("{base}/users"), Some(token), Some(body)).await?;
        let grant = json!({ "grant_type": "password", "username": user, "password": "a password" });
        let password = call(http, "POST", &format!("{base}/token"), Some(grant)).await?["access_token"].clone();
        let server = &entrance.servers[n % entrance.servers.len()];
        let agent = Agent::at(home, &sibling("impush")?, &name, server, "").await?;
        agent.login(&user, password.as_str().unwrap_or_default()).await?;
        let config = home.join(format!("{name}.toml")).display().to_string();
        let received = Arc::new(std::sync::Mutex::new(Vec::new()));
        let taken = received.clone();
        let mut watch = Process::start("watch", &sibling("impush")?, &["--config", &config, "watch", "--json"], home)?;
        let reader = tokio::spawn(async move {
            while let Ok(message) = watch.next(Duration::from_secs(3600)).await {
                let id = message["id"].as_str().unwrap_or_default().to_owned();
                taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(id);
            }
        });
        agents.push(Device { _agent: agent, _watch: reader, received });
    }
    for n in 0..plan.devices {
        welcomed(http, &format!("{base}/users/{}/devices", user(n)), token).await?;
    }
    Ok(agents)
}

/// Waits until a gateway has heard the user's device: a broker that has just started may lose its first word.
async fn welcomed(http: &Http, devices: &str, token: &str) -> Result<(), String> {
    let deadline = Instant::now() + WELCOME;
    while call_as(http, "GET", devices, Some(token), None).await?["entities"][0]["online"] != true {
        if Instant::now() > deadline {
            return Err("a device connected and no gateway heard of it".to_owned());
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Kills and restarts one after the other; a node comes back on its own time, and no second goes meanwhile.
async fn kill(plan: &Plan, gateways: &mut [Gateway], cut: &Notify) -> Result<(u32, u32, u32), String> {
    let home = gateways[0].config.parent().unwrap_or(Path::new("/")).to_owned();
    let bar = ProgressBar::new(u64::from(plan.kills));
    let (mut random, mut of_gateways, mut of_nodes, mut cuts) = (7_u64, 0, 0, 0);
    let mut node: Option<JoinHandle<Result<(), String>>> = None;
    for round in 0..plan.kills {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        sleep(Duration::from_millis((random >> 33) % 300)).await;
        bar.inc(1);
        if node.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(ended) = node.take()
        {
            ended.await.map_err(|e| e.to_string())??;
        }
        if let (Some(kill), Some(start), true, None) =
            (&plan.kill_node, &plan.start_node, round % NODE_EVERY == NODE_EVERY / 2, &node)
        {
            let number = (random >> 20) as usize % plan.brokers.urls.len() + 1;
            let (kill, start) = (kill.clone(), start.clone());
            of_nodes += 1;
            node = Some(tokio::spawn(async move {
                shell(&kill, number).await?;
                sleep(Duration::from_secs(2)).await;
                shell(&start, number).await
            }));
            continue;
        }
        if plan.brokers.urls.is_empty() && round % CUT_EVERY == 0 {
            cut.notify_waiters();
            cuts += 1;
            continue;
        }
        of_gateways += 1;
        let gateway = &mut gateways[(random >> 40) as usize % plan.gateways];
        gateway.process.kill().await?;
        gateway.process = self::start(&gateway.config, &home).await?.0;
    }
    bar.finish_and_clear();
    if let Some(last) = node {
        last.await.map_err(|e| e.to_string())??;
    }
    Ok((of_gateways, of_nodes, cuts))
}

async fn shell(command: &str, node: usize) -> Result<(), String> {
    let run =
        Command::new("sh").args(["-c", command, "sh", &node.to_string()]).stdin(std::process::Stdio::null()).status();
    let status = tokio::time::timeout(NODE, run).await;
    match status {
        Ok(Ok(status)) if status.success() => Ok(()),
        other => Err(format!("`{command}` for node {node}: {other:?}")),
    }
}

/// What came of the messages.
async fn received(ids: &[String], agents: &[Device]) -> Result<Kills, String> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let all: Vec<String> = agents
            .iter()
            .flat_map(|agent| agent.received.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
            .collect();
        let distinct: HashSet<&String> = all.iter().collect();
        let missing: Vec<String> = ids.iter().filter(|id| !distinct.contains(id)).cloned().collect();
        if missing.is_empty() || Instant::now() > deadline {
            let twice = (all.len() - distinct.len()) as u64;
            return Ok(Kills { accepted: ids.len() as u64, lost: missing, twice, replaced: 0 });
        }
        sleep(Duration::from_millis(500)).await;
    }
}
