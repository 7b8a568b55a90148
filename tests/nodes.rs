//! Several gateways, each with devices of its own, on one PostgreSQL and without a broker.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::stage::send;
use support::{Agent, Gateway, Pgbouncer, Postgres, Process, Rest, eventually, free_port, skipped};

struct Stage {
    dir: tempfile::TempDir,
    postgres: Postgres,
    /// What every gateway's configuration says.
    common: String,
}

impl Stage {
    fn new(test: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let Some(postgres) = Postgres::start(dir.path()) else {
            skipped(test, "PostgreSQL is not installed");
            return None;
        };
        let key = dir.path().join("secrets.key");
        std::fs::write(&key, "5a".repeat(32)).expect("written");
        let common = format!("secrets_key = '{}'\n[store]\nurl = '{}'\n", key.display(), postgres.url);
        Some(Self { dir, postgres, common })
    }

    /// Starts, or starts again, with the same state.
    fn gateway(&self, name: &str) -> Gateway {
        Gateway::start(&self.dir.path().join(name), &format!("{}node = '{name}'\n", self.common))
    }

    /// A gateway whose log can be read.
    fn logging(&self, name: &str) -> Process {
        let mut process = self.started(name);
        process.event("gateway.started");
        process
    }

    /// The same, which may not get as far.
    fn started(&self, name: &str) -> Process {
        let home = self.dir.path().join(name);
        std::fs::create_dir_all(&home).expect("made");
        let text = format!(
            "[api]\nlisten = '127.0.0.1:{}'\n[broker]\nlisten = '127.0.0.1:0'\n[paths]\nstate = '{}'\n{}node = '{name}'\n[log]\nformat = 'json'\n",
            free_port(),
            home.join("state").display(),
            self.common
        );
        let file = home.join("gateway.toml");
        std::fs::write(&file, text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
        Process::start(command.arg("--config").arg(&file).arg("serve"), true)
    }

    /// An agent on a gateway, or on what stands before it, logged in and connected.
    fn agent(&self, gateway: &Gateway, port: u16, user: &str) -> Agent {
        let home = self.dir.path().join(format!("agent-{user}"));
        Agent::configure(&home, &format!("mqtts://localhost:{port}"), Path::new(gateway.ca()), "");
        let mut agent = Agent::start(&home);
        agent.login(user, &gateway.user(user));
        agent.process.event("link.up");
        let rest = rest(gateway);
        eventually("the device is online", || device(&rest, user)["online"] == true);
        agent
    }

    /// No notice comes anywhere, as behind a pooler that keeps no session.
    fn without_notices(&self) {
        self.notices_become("''");
    }

    /// Every notice is lost, and nobody finds out.
    fn losing_notices(&self) {
        self.notices_become("'SELECT pg_catalog.pg_notify($1, $2) WHERE $2 = ''beat'''");
    }

    fn notices_become(&self, body: &str) {
        self.postgres.ask("ALTER ROLE impush SET search_path = public, pg_catalog");
        self.postgres.ask(&format!("CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE sql AS {body}"));
    }
}

fn port(gateway: &Gateway) -> u16 {
    gateway.port().parse().expect("a port")
}

fn rest(gateway: &Gateway) -> Rest {
    Rest::new(&gateway.reach, Path::new(gateway.ca()))
}

fn device(rest: &Rest, user: &str) -> Value {
    rest.ok("GET", &format!("users/{user}/devices"), None)["entities"][0].clone()
}

fn watch(agent: &Agent) -> Process {
    Process::start(support::impush(&agent.home).args(["watch", "--json"]), false)
}

fn shows(watch: &mut Process, id: &str) {
    watch.wait_for(id, |line| line.contains(id).then_some(()));
}

/// Without an acknowledgement that came too late.
fn at_once(rest: &Rest, id: &str) {
    let trace = rest.traced(id, &["taken"]);
    assert!(!trace.iter().any(|line| line.contains("no_ack")), "{trace:#?}");
}

/// What stands before the gateways: gives each connection to the gateway of the moment.
struct Balancer {
    port: u16,
    to: Arc<AtomicU16>,
    open: Arc<Mutex<Vec<(TcpStream, TcpStream)>>>,
    /// What ends on one side is passed on to the other.
    tells: Arc<AtomicBool>,
}

impl Balancer {
    fn new(first: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let (to, open) = (Arc::new(AtomicU16::new(first)), Arc::new(Mutex::new(Vec::new())));
        let tells = Arc::new(AtomicBool::new(true));
        let (target, pairs, telling) = (to.clone(), open.clone(), tells.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(("127.0.0.1", target.load(Ordering::Relaxed))) else { continue };
                let copy = |mut from: TcpStream, mut to: TcpStream| {
                    let telling = telling.clone();
                    std::thread::spawn(move || {
                        drop(std::io::copy(&mut from, &mut to));
                        if telling.load(Ordering::Relaxed) {
                            drop(to.shutdown(Shutdown::Write));
                        }
                    });
                };
                copy(near.try_clone().expect("cloned"), far.try_clone().expect("cloned"));
                copy(far.try_clone().expect("cloned"), near.try_clone().expect("cloned"));
                pairs.lock().expect("locked").push((near, far));
            }
        });
        Self { port, to, open, tells }
    }

    fn lead_to(&self, gateway: &Gateway) {
        self.to.store(port(gateway), Ordering::Relaxed);
    }

    /// Devices find their connections broken.
    fn cut(&self) {
        for (near, far) in self.open.lock().expect("locked").drain(..) {
            drop(near.shutdown(Shutdown::Both));
            drop(far.shutdown(Shutdown::Both));
        }
    }

    /// What is silently gone: devices come anew, and the gateway hears nothing of it.
    fn lose(&self) -> Vec<TcpStream> {
        self.tells.store(false, Ordering::Relaxed);
        let pairs: Vec<_> = self.open.lock().expect("locked").drain(..).collect();
        let lost = |(near, far): (TcpStream, TcpStream)| {
            drop(near.shutdown(Shutdown::Both));
            far
        };
        pairs.into_iter().map(lost).collect()
    }
}

#[test]
fn a_message_accepted_at_one_gateway_is_with_a_device_at_another_at_once() {
    let test = "a_message_accepted_at_one_gateway_is_with_a_device_at_another_at_once";
    let Some(stage) = Stage::new(test) else { return };
    let (a, b) = (stage.gateway("a"), stage.gateway("b"));
    let rests = [rest(&a), rest(&b)];
    let agent = stage.agent(&b, port(&b), "bob");
    let mut watch = watch(&agent);
    let mut took = [Vec::new(), Vec::new()];
    for n in 0..40 {
        let began = Instant::now();
        let id = send(&rests[n % 2], "bob", 0);
        shows(&mut watch, &id);
        took[n % 2].push(began.elapsed());
        at_once(&rests[0], &id);
    }
    took.iter_mut().for_each(|all| all.sort());
    println!("at another gateway {:?}, at the same {:?} (p50)", took[0][10], took[1][10]);
    let [there, here] = [0, 1].map(|n| device(&rests[n], "bob")["connection"].clone());
    assert_eq!(there, json!({"held_by": "elsewhere", "gateway": "b"}), "what the other one knows is not made up");
    assert_eq!((&here["held_by"], here["since_ms"].is_u64()), (&json!("here"), true), "{here}");
    let listed = a.ok(&["gateways"]);
    assert!(listed.lines().count() == 2 && listed.contains("a ") && listed.contains("(this one) lives"), "{listed}");
    let all = rests[1].ok("GET", "gateways", None);
    let here: Vec<_> = all["entities"].as_array().expect("a list").iter().filter(|row| row["here"] == true).collect();
    assert_eq!((here.len(), &here[0]["name"], &here[0]["devices"]), (1, &json!("b"), &json!(1)), "{all}");
    eventually("both are counted", || rests[0].text("/metrics").contains("impush_gateway_gateways 2"));
    eventually("notices are heard", || rests[0].text("/metrics").contains("impush_gateway_notices_come 1"));
}

#[test]
fn a_message_is_delivered_though_the_connection_for_notices_is_cut_again_and_again() {
    let test = "a_message_is_delivered_though_the_connection_for_notices_is_cut_again_and_again";
    let Some(stage) = Stage::new(test) else { return };
    let (a, b) = (stage.gateway("a"), stage.gateway("b"));
    let rest = rest(&a);
    let agent = stage.agent(&b, port(&b), "bob");
    let mut watch = watch(&agent);
    for n in 0..10 {
        stage.postgres.ask(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE '%notices%'",
        );
        let id = send(&rest, "bob", n);
        shows(&mut watch, &id);
    }
}

#[test]
fn where_no_notice_comes_messages_and_ends_of_logins_arrive_all_the_same() {
    let test = "where_no_notice_comes_messages_and_ends_of_logins_arrive_all_the_same";
    let Some(stage) = Stage::new(test) else { return };
    stage.without_notices();
    let (a, mut b) = (stage.gateway("a"), stage.logging("deaf"));
    b.event("node.deaf");
    let b = {
        drop(b);
        stage.gateway("b")
    };
    let rest = rest(&a);
    let mut agent = stage.agent(&b, port(&b), "bob");
    let mut watch = watch(&agent);
    for n in 0..5 {
        let id = send(&rest, "bob", n);
        shows(&mut watch, &id);
        at_once(&rest, &id);
    }
    let ended = Instant::now();
    rest.ok("DELETE", "users/bob/disconnect", None);
    agent.process.event("login.kicked");
    assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
}

#[test]
fn a_notice_that_is_lost_costs_the_acknowledgements_deadline_and_not_the_message() {
    let test = "a_notice_that_is_lost_costs_the_acknowledgements_deadline_and_not_the_message";
    let Some(stage) = Stage::new(test) else { return };
    stage.losing_notices();
    let (a, b) = (stage.gateway("a"), stage.gateway("b"));
    let rest = rest(&a);
    let mut agent = stage.agent(&b, port(&b), "bob");
    eventually("notices seem to come", || self::rest(&b).text("/metrics").contains("impush_gateway_notices_come 1"));
    // At the next beat nobody looks for messages any more.
    let leases = || rest.ok("GET", "gateways", None)["entities"][1]["lease_ms"].as_u64();
    let (before, began) = (leases(), Instant::now());
    eventually("the next beat", || leases() > before && began.elapsed() > Duration::from_secs(1));
    let mut watch = watch(&agent);
    let sent = Instant::now();
    let id = send(&rest, "bob", 0);
    shows(&mut watch, &id);
    let took = sent.elapsed();
    println!("without its notice a message took {took:?}");
    // The deadline of 5 s, and a beat.
    assert!(rest.traced(&id, &["taken"]).iter().any(|line| line.contains("no_ack")), "its notice came");
    assert!(took < Duration::from_secs(9), "{took:?}");
    let ended = Instant::now();
    rest.ok("DELETE", "users/bob/disconnect", None);
    agent.process.event("login.kicked");
    assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
}

#[test]
fn what_ends_logins_at_one_gateway_reaches_devices_at_another() {
    let Some(stage) = Stage::new("what_ends_logins_at_one_gateway_reaches_devices_at_another") else { return };
    let (a, b) = (stage.gateway("a"), stage.gateway("b"));
    let rest = rest(&a);
    let password = json!({"newpassword": "another password"});
    for (user, method, path, body) in [
        ("ann", "DELETE", "users/ann/disconnect", None),
        ("bob", "PUT", "users/bob/password", Some(&password)),
        ("cid", "POST", "users/cid/deactivate", None),
        ("dan", "DELETE", "users/dan", None),
    ] {
        let mut agent = stage.agent(&b, port(&b), user);
        let ended = Instant::now();
        rest.ok(method, path, body);
        agent.process.event("login.kicked");
        let took = ended.elapsed();
        println!("{path}: {took:?}");
        assert!(took < Duration::from_secs(5), "{path}: {took:?}");
    }
}

#[test]
fn a_device_that_moves_has_its_old_connection_closed_and_a_late_end_there_changes_nothing() {
    let test = "a_device_that_moves_has_its_old_connection_closed_and_a_late_end_there_changes_nothing";
    let Some(stage) = Stage::new(test) else { return };
    let (a, b) = (stage.gateway("a"), stage.gateway("b"));
    let balancer = Balancer::new(port(&a));
    let mut agent = stage.agent(&a, balancer.port, "bob");
    let rests = [rest(&a), rest(&b)];
    balancer.lead_to(&b);
    let mut lost = balancer.lose();
    let moved = Instant::now();
    agent.process.event("link.up");
    let devices_of = |name: &str| {
        let all = rests[0].ok("GET", "gateways", None);
        let row = all["entities"].as_array().expect("a list").iter().find(|row| row["name"] == name).cloned();
        row.expect("it is listed")["devices"].as_u64().expect("a number")
    };
    eventually("the device is at the other", || (devices_of("a"), devices_of("b")) == (0, 1));
    // The last of the connections is the device's; others may have been probes.
    for old in &mut lost {
        old.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        let mut rest_of_it = Vec::new();
        let closed = old.read_to_end(&mut rest_of_it);
        assert!(closed.is_ok() || closed.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock));
    }
    println!("the old connection was closed {:?} after the device lost it", moved.elapsed());
    assert_eq!(device(&rests[0], "bob")["online"], true);
    let mut watch = watch(&agent);
    for (n, rest) in (0..).zip(&rests) {
        let id = send(rest, "bob", n);
        shows(&mut watch, &id);
        at_once(rest, &id);
    }
}

#[test]
fn a_gateway_that_starts_takes_only_its_own_devices_offline_and_a_dead_ones_go_with_its_lease() {
    let test = "a_gateway_that_starts_takes_only_its_own_devices_offline_and_a_dead_ones_go_with_its_lease";
    let Some(stage) = Stage::new(test) else { return };
    let (mut a, mut b) = (stage.gateway("a"), stage.gateway("b"));
    let of_a = stage.agent(&a, port(&a), "ann");
    let of_b = stage.agent(&b, port(&b), "bob");
    // Neither comes back.
    drop(of_a);
    a.process.kill();
    let b_rest = rest(&b);
    a = stage.gateway("a");
    let began = Instant::now();
    eventually("its own is offline", || device(&b_rest, "ann")["online"] == false);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(device(&b_rest, "bob")["online"], true, "another gateway's is not touched");

    let rest = rest(&a);
    drop(of_b);
    b.process.kill();
    let died = Instant::now();
    eventually("the dead one's is offline", || device(&rest, "bob")["online"] == false);
    println!("a dead gateway's device was offline after {:?}", died.elapsed());
    eventually("it is forgotten", || {
        rest.ok("GET", "gateways", None)["entities"].as_array().expect("a list").len() == 1
    });
}

#[test]
fn a_gateway_that_was_taken_for_dead_has_its_devices_greet_again() {
    let Some(stage) = Stage::new("a_gateway_that_was_taken_for_dead_has_its_devices_greet_again") else { return };
    let (a, b) = (stage.gateway("a"), stage.gateway("b"));
    let agent = stage.agent(&a, port(&a), "ann");
    let rest = rest(&b);
    a.process.signal(rustix::process::Signal::STOP);
    eventually("its device is offline", || device(&rest, "ann")["online"] == false);
    a.process.signal(rustix::process::Signal::CONT);
    eventually("it is online again", || device(&rest, "ann")["online"] == true);
    let mut watch = watch(&agent);
    let id = send(&rest, "ann", 1);
    shows(&mut watch, &id);
}

#[test]
fn a_certificate_put_in_at_one_gateway_is_known_to_devices_at_another() {
    let test = "a_certificate_put_in_at_one_gateway_is_known_to_devices_at_another";
    let Some(stage) = Stage::new(test) else { return };
    let (a, b) = (stage.gateway("a"), stage.gateway("b"));
    let rest = rest(&a);
    let _agent = stage.agent(&b, port(&b), "bob");
    let before = device(&rest, "bob")["seen_ms"].as_u64();
    let fields = json!({"app_secret": "s", "package": "p"});
    rest.ok("POST", "certificates", Some(&json!({"vendor": "xiaomi", "name": "288", "fields": fields})));
    eventually("the device has greeted again", || device(&rest, "bob")["seen_ms"].as_u64() > before);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a steady load, and nothing to wait for")]
fn a_rolling_restart_loses_nothing_and_shows_nothing_twice() {
    let Some(stage) = Stage::new("a_rolling_restart_loses_nothing_and_shows_nothing_twice") else { return };
    let (mut a, mut b) = (stage.gateway("a"), stage.gateway("b"));
    let balancer = Balancer::new(port(&a));
    let users = ["ann", "bob", "cid"];
    let agents: Vec<Agent> = users.iter().map(|user| stage.agent(&a, balancer.port, user)).collect();
    let mut watches: Vec<Process> = agents.iter().map(watch).collect();
    let mut sent: BTreeMap<String, usize> = BTreeMap::new();
    let mut say = |rest: &Rest, count: usize| {
        for n in 0..count {
            let at = n % users.len();
            sent.insert(send(rest, users[at], 0), at);
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    say(&rest(&b), 15);
    balancer.lead_to(&b);
    a.process.signal(rustix::process::Signal::TERM);
    say(&rest(&b), 60);
    a.process.child.wait().expect("ended");
    a = stage.gateway("a");
    say(&rest(&a), 15);
    balancer.lead_to(&a);
    b.process.signal(rustix::process::Signal::TERM);
    say(&rest(&a), 60);
    b.process.child.wait().expect("ended");
    balancer.cut();
    say(&rest(&a), 15);
    for (id, at) in &sent {
        let watch = &mut watches[*at];
        if !watch.seen.iter().any(|line| line.contains(id.as_str())) {
            // The third connection that ends within seconds: the agent's pause after it may be longer than most waits.
            watch.wait_within(Duration::from_secs(120), id, |line| line.contains(id.as_str()).then_some(()));
        }
    }
    for (id, at) in &sent {
        let times = watches[*at].seen.iter().filter(|line| line.contains(id.as_str())).count();
        assert_eq!(times, 1, "{id}");
    }
}

#[test]
fn behind_pgbouncer_in_transaction_mode_gateways_serve_where_it_keeps_statements_and_are_refused_where_not() {
    let test =
        "behind_pgbouncer_in_transaction_mode_gateways_serve_where_it_keeps_statements_and_are_refused_where_not";
    let Some(version) = Pgbouncer::version() else { return skipped(test, "pgbouncer is not installed") };
    let Some(mut stage) = Stage::new(test) else { return };
    let dir = stage.dir.path().to_owned();
    let straight = stage.postgres.url.clone();
    let common = stage.common.clone();
    let before = |stage: &mut Stage, lines: &str| {
        let pgbouncer = Pgbouncer::start(&dir, &stage.postgres, lines);
        stage.common = common.replace(&straight, &pgbouncer.url);
        pgbouncer
    };
    let keeps =
        |number: u32| if version >= (1, 21) { format!("max_prepared_statements = {number}") } else { String::new() };

    let session = before(&mut stage, "pool_mode = session");
    drop(stage.gateway("session"));
    drop(session);

    let nothing = before(&mut stage, &format!("pool_mode = transaction\n{}", keeps(0)));
    let mut refused = stage.started("refused");
    refused.wait_for("the reason", |line| line.contains("keeps no prepared statements").then_some(()));
    assert_eq!(refused.child.wait().expect("ended").code(), Some(74));
    drop(nothing);

    if version < (1, 21) {
        return skipped(test, "this pgbouncer is older than 1.21: that gateways serve behind a later one");
    }
    let _pgbouncer = before(&mut stage, &format!("pool_mode = transaction\ndefault_pool_size = 3\n{}", keeps(200)));
    let mut told = stage.started("told");
    assert_eq!(told.event("store.pooled")["statement_timeout"], "0");
    told.event("node.deaf");
    told.event("gateway.started");
    let (a, b) = (stage.gateway("a"), stage.gateway("b"));
    let agent = stage.agent(&b, port(&b), "ann");
    let mut shown = watch(&agent);
    for n in 0..5 {
        let id = send(&rest(&a), "ann", n);
        shows(&mut shown, &id);
    }
    let listeners = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    assert_eq!(stage.postgres.ask(listeners), "0", "a shared connection would keep it");
    // One that hears all the same.
    stage.common += &format!("notices_url = '{}'\n", stage.postgres.url);
    drop(a);
    let a = stage.gateway("a");
    let heard = || {
        rest(&a).ok("GET", "gateways", None)["entities"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|g| g["name"] == "a" && g["alive"] == true && g["listens"] == true)
    };
    eventually("notices come", heard);
    shows(&mut shown, &send(&rest(&a), "ann", 5));
}
