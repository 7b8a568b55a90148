//! A gateway whose database or broker is not there waits for it, says so once, and goes on when it is back.

mod support;

use serde_json::{Value, json};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use support::stage::{Stage, send};
use support::{Flaw, LIMIT, Mosquitto, Postgres, Process, Rest, certificates, free_port, has, skipped};

/// What a gateway says to its service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn new(home: &Path) -> Self {
        let socket = UnixDatagram::bind(home.join("notify")).expect("bound");
        socket.set_read_timeout(Some(LIMIT)).expect("set");
        Self(socket)
    }

    fn told(&self, what: &str) -> String {
        loop {
            let mut packet = [0; 4096];
            let count = self.0.recv(&mut packet).unwrap_or_else(|error| panic!("no {what}: {error}"));
            let said = String::from_utf8_lossy(&packet[..count]).into_owned();
            assert!(!said.contains("READY=1") || what.contains("READY=1"), "too early: {said}");
            if said.contains(what) {
                return said;
            }
        }
    }
}

/// A gateway that logs JSON and has this broker and database.
fn gateway(home: &Path, ca: &Path, broker: u16, postgres: &str) -> Process {
    std::fs::write(home.join("secrets.key"), "5a".repeat(32)).expect("written");
    let text = format!(
        "[paths]\nsecrets_key = '{}'\nstate = '{}'\n[api]\nlisten = '127.0.0.1:{}'\n[log]\nformat = 'json'\n\
         [broker]\nurl = 'mqtt://127.0.0.1:{broker}'\nca_file = '{}'\n[store]\nurl = '{postgres}'\n",
        home.join("secrets.key").display(),
        home.join("state").display(),
        free_port(),
        ca.display()
    );
    std::fs::write(home.join("gateway.toml"), text).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
    command.env("NOTIFY_SOCKET", home.join("notify")).env_remove("INVOCATION_ID").env_remove("JOURNAL_STREAM");
    Process::start(command.arg("--config").arg(home.join("gateway.toml")).arg("serve"), true)
}

fn count(process: &Process, event: &str) -> usize {
    let wanted = |line: &&String| {
        serde_json::from_str::<Value>(line).is_ok_and(|v| v["event"] == event && v["level"] != "DEBUG")
    };
    process.seen.iter().filter(wanted).count()
}

fn reach(started: &Value, home: &Path) -> Value {
    let api = format!("http://{}", started["api"].as_str().expect("an address"));
    json!({"api": api, "admin_secret_file": home.join("state/admin.secret")})
}

#[test]
fn a_gateway_waits_for_its_database_and_its_broker_and_says_so_once() {
    let test = "a_gateway_waits_for_its_database_and_its_broker_and_says_so_once";
    let dir = tempfile::tempdir().expect("a directory");
    let home = dir.path();
    let Some(mut postgres) = Postgres::made(home).filter(|_| has("mosquitto")) else {
        return skipped(test, "PostgreSQL or mosquitto is not installed");
    };
    let certificates = certificates(home, Flaw::None);
    let manager = Manager::new(home);
    let broker_port = free_port();
    let mut gateway = gateway(home, &certificates.ca, broker_port, &postgres.url);

    // Twice, so that it has tried again.
    for _ in 0..2 {
        assert!(manager.told("EXTEND_TIMEOUT_USEC=").contains("EXTEND_TIMEOUT_USEC=60000000"));
    }
    assert_eq!(gateway.event("gateway.waiting")["what"], "PostgreSQL");
    postgres.run();
    let started = gateway.event("gateway.started");
    let said = manager.told("STATUS=waiting for the broker");
    assert!(said.contains(&broker_port.to_string()), "{said}");

    // It takes messages meanwhile, and a load balancer hears what is wrong.
    let rest = Rest::new(&reach(&started, home), &certificates.ca);
    assert!(rest.text("/readyz").contains("no connection to the broker"));
    rest.ok("POST", "users", Some(&json!({"username": "ann", "password": "a password"})));

    let broker = Mosquitto::start_plain(home, broker_port);
    manager.told("READY=1");
    support::eventually("/readyz knows", || rest.text("/readyz") == "ready\n");

    // The database goes and comes back: one line each.
    postgres.stop();
    let message = json!({"to": ["ann"], "body": {"msg": "hello"}});
    let url = format!("{}/messages/users", rest.base);
    for _ in 0..10 {
        assert_eq!(rest.ask("POST", &url, Some(&message)).0, 503);
    }
    postgres.run();
    support::eventually("it takes messages again", || rest.ask("POST", &url, Some(&message)).0 == 200);
    for _ in 0..20 {
        assert_eq!(rest.ask("POST", &url, Some(&message)).0, 200);
    }
    drop(broker);
    gateway.event("broker.down");
    gateway.signal(rustix::process::Signal::TERM);
    gateway.rest();
    let lines = |event| (event, count(&gateway, event));
    for expected in
        [("gateway.waiting", 2), ("store.failed", 1), ("store.recovered", 1), ("broker.down", 2), ("broker.up", 1)]
    {
        assert_eq!(lines(expected.0), expected, "{}", gateway.seen.join("\n"));
    }
}

#[test]
fn a_gateway_that_waits_for_its_database_ends_when_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = dir.path();
    let certificates = certificates(home, Flaw::None);
    let nobody = format!("postgres://impush@127.0.0.1:{}/postgres", free_port());
    let mut gateway = gateway(home, &certificates.ca, free_port(), &nobody);
    gateway.event("gateway.waiting");
    assert!(gateway.terminate().success());
}

/// Long with `IMPUSH_BROKER_AWAY_S=60`.
#[test]
#[allow(clippy::disallowed_methods, reason = "nothing tells what does not happen")]
fn messages_that_wait_for_the_broker_are_told_of_twice_and_who_has_a_vendor_is_pushed_to_at_once() {
    let test = "messages_that_wait_for_the_broker_are_told_of_twice_and_who_has_a_vendor_is_pushed_to_at_once";
    let Some(mut stage) = Stage::new(test) else { return };
    let away = std::env::var("IMPUSH_BROKER_AWAY_S").map_or(4, |s| s.parse().expect("seconds"));
    // What is told again because the machine is slow would come between.
    let gateway = stage.gateway_in("a", &[("IMPUSH_GATEWAY_DELIVERY_ACK_DEADLINE_MS", "120000")]);
    let rest = stage.rest(&gateway);
    let token = stage.phone(&rest);
    rest.ok("POST", "users", Some(&json!({"username": "bob", "password": "a password"})));
    let hello = |nonce: &str| {
        json!({"v": 1, "type": "hello", "nonce": nonce, "agent": "test", "channel": "none", "platform": "linux"})
            .to_string()
    };
    let greets = |stage: &mut Stage, user: &str, device: &str, nonce: &str| {
        let down = stage.broker.subscribe(&format!("im/v1/org%23app/{user}/{device}/down"));
        stage.broker.publish(&format!("im/v1/org%23app/{user}/{device}/up"), hello(nonce).as_bytes());
        down
    };
    let online = |stage: &mut Stage, user: &str, device: &str, nonce: &str| {
        let mut down = greets(stage, user, device, nonce);
        down.wait_for("a welcome", |line| line.contains(nonce).then_some(()));
        down
    };
    let desk = online(&mut stage, "bob", "desk", "before-desk");
    let phone = online(&mut stage, "ann", "phone", "before-phone");
    drop((desk, phone));

    stage.broker.stop();
    support::eventually("/readyz knows", || rest.text("/readyz").contains("no connection to the broker"));
    let waiting: Vec<String> = (0..300).map(|n| send(&rest, "bob", n)).collect();
    let sent = std::time::Instant::now();
    let pushed: Vec<String> = (0..20).map(|n| send(&rest, "ann", n)).collect();
    support::eventually("all are pushed", || {
        let shown = stage.shown(&rest, &token);
        pushed.iter().all(|id| shown.contains_key(id))
    });
    println!("20 messages with a vendor were sent and shown in {:?}", sent.elapsed());
    std::thread::sleep(std::time::Duration::from_secs(away));
    let hops = |stage: &Stage, ids: &[String]| {
        let ids = ids.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(",");
        stage.postgres.ask(&format!("SELECT hop, count(*) FROM events WHERE message IN ({ids}) GROUP BY 1 ORDER BY 1"))
    };
    println!(
        "after {away} s: {:?} of 300 that wait, {:?} of 20 with a vendor",
        hops(&stage, &waiting),
        hops(&stage, &pushed)
    );
    assert_eq!(hops(&stage, &waiting), "waiting|300");
    assert_eq!(hops(&stage, &pushed), "vendor_sent|20");

    stage.broker.start_again();
    support::eventually("/readyz knows", || rest.text("/readyz") == "ready\n");
    // Nobody has subscribed yet: the broker throws these away.
    support::eventually("they are published", || hops(&stage, &waiting).contains("published|300"));
    let mut desk = greets(&mut stage, "bob", "desk", "after-desk");
    // It acknowledges what it has, as a device does, and is told the rest.
    let mut order = Vec::new();
    while order.len() < waiting.len() {
        let id = desk.wait_for("what waited", |line| {
            let message: Value = serde_json::from_str(line.split_once(' ')?.1).ok()?;
            (message["type"] == "message").then(|| message["id"].as_str().expect("an id").to_owned())
        });
        if !order.contains(&id) {
            order.push(id);
            if order.len() % 50 == 0 {
                let ack = json!({"v": 1, "type": "ack", "ids": order[order.len() - 50..]});
                stage.broker.publish("im/v1/org%23app/bob/desk/up", ack.to_string().as_bytes());
            }
        }
    }
    assert_eq!(order, waiting, "in their order");
    support::eventually("all are acknowledged", || hops(&stage, &waiting).contains("acked|300"));
    println!("in the end: {:?}", hops(&stage, &waiting));
}
