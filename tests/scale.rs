//! Several gateways on one PostgreSQL and one broker: any of them may die, and nobody is told twice.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use support::stage::{Stage, send};
use support::{Agent, Mosquitto, Process};

#[test]
fn two_gateways_know_the_same_and_a_device_is_reached_through_either() {
    let Some(stage) = Stage::new("two_gateways_know_the_same_and_a_device_is_reached_through_either") else { return };
    let (a, b) = (stage.gateway("a"), stage.gateway("b"));
    let (on_a, on_b) = (stage.rest(&a), stage.rest(&b));
    let token = stage.phone(&on_a);
    for n in 0..20 {
        let rest = if n % 2 == 0 { &on_a } else { &on_b };
        let id = send(rest, "ann", n);
        // The trace is the same wherever it is asked for.
        on_b.traced(&id, &["vendor_sent"]);
        on_a.traced(&id, &["vendor_sent"]);
    }
    let shown = stage.shown(&on_a, &token);
    assert!(shown.len() == 20 && shown.values().all(|times| *times == 1), "{shown:?}");

    // What one is told the other knows, though it remembers what it was told before.
    for (enabled, end) in [(false, "stopped: notifier disabled"), (true, "vendor_sent")] {
        on_a.ok("PATCH", "certificates/288", Some(&json!({"enabled": enabled})));
        let id = send(&on_b, "ann", 50);
        on_b.traced(&id, &[end]);
    }

    on_b.ok("POST", "users", Some(&json!({"username": "bob", "password": "a password"})));
    let grant = json!({"grant_type": "password", "username": "bob", "password": "a password"});
    let (_, answer) = on_b.ask("POST", &format!("{}/token", on_b.base), Some(&grant));
    let home = stage.dir.path().join("agent");
    Agent::configure(&home, &format!("mqtts://localhost:{}", stage.broker.tls), &stage.certificates.ca, "");
    let mut agent = Agent::start(&home);
    agent.login("bob", answer["access_token"].as_str().expect("a token"));
    agent.process.event("link.up");
    for (n, rest) in [&on_a, &on_b, &on_a, &on_b].into_iter().enumerate() {
        let id = send(rest, "bob", u32::try_from(n).expect("small"));
        assert_eq!(agent.process.event("message.received")["id"], id.as_str());
        rest.traced(&id, &["acked"]);
    }
}

#[test]
fn gateways_that_die_under_load_lose_nothing_and_show_nothing_twice() {
    let Some(stage) = Stage::new("gateways_that_die_under_load_lose_nothing_and_show_nothing_twice") else { return };
    let mut gateways = BTreeMap::from(["a", "b"].map(|name| (name, stage.gateway(name))));
    let mut rests = BTreeMap::from(["a", "b"].map(|name| (name, stage.rest(&gateways[name]))));
    let token = stage.phone(&rests["a"]);
    let mut ids = Vec::new();
    for round in 0..6 {
        let (dies, lives) = if round % 2 == 0 { ("a", "b") } else { ("b", "a") };
        for n in 0..25 {
            let name = if n % 2 == 0 { dies } else { lives };
            ids.push(send(&rests[name], "ann", round * 100 + n));
        }
        // In the middle of its work; the other goes on, and takes over what the dead one had claimed.
        gateways.get_mut(dies).expect("running").process.kill();
        ids.extend((0..10).map(|n| send(&rests[lives], "ann", round * 100 + 50 + n)));
        gateways.insert(dies, stage.gateway(dies));
        // Connections to the dead one are no more.
        rests.insert(dies, stage.rest(&gateways[dies]));
    }
    for id in &ids {
        rests["a"].traced(id, &["vendor_sent"]);
    }
    let shown = stage.shown(&rests["a"], &token);
    assert_eq!(shown.len(), ids.len());
    assert!(shown.values().all(|times| *times == 1), "{shown:?}");
}

#[test]
fn a_gateway_that_does_not_know_the_other_ones_key_says_so_and_touches_nothing() {
    let test = "a_gateway_that_does_not_know_the_other_ones_key_says_so_and_touches_nothing";
    let Some(mut stage) = Stage::new(test) else { return };
    let a = stage.gateway("a");
    stage.phone(&stage.rest(&a));
    drop(a);
    std::fs::write(stage.dir.path().join("secrets.key"), "a5".repeat(32)).expect("written");
    let b = stage.gateway("b");
    let rest = stage.rest(&b);
    let id = send(&rest, "ann", 1);
    rest.traced(&id, &["stopped: notifier unreadable"]);
    assert_eq!(rest.ok("GET", "users/ann/push/binding", None)["entities"].as_array().map(Vec::len), Some(1));
    assert!(Path::new(&stage.dir.path().join("b/state")).exists());
    let listed = rest.ok("GET", "certificates", None);
    assert!(listed["entities"][0]["unreadable"].as_str().is_some_and(|why| why.contains("another key")), "{listed}");
    assert_eq!(rest.ask("GET", &rest.base.replace("/org/app", "/readyz"), None).0, 200);
    drop(b);
    // One with no key at all makes none beside the others' rows.
    let line = stage.common.lines().next().expect("the key").to_owned();
    stage.common = stage.common.replace(&line, "");
    let c = stage.gateway("c");
    let rest = stage.rest(&c);
    let fields = json!({"app_secret": "s", "package": "p"});
    let new = json!({"vendor": "xiaomi", "name": "289", "fields": fields});
    let (status, answer) = rest.ask("POST", &format!("{}/certificates", rest.base), Some(&new));
    assert_eq!((status, &answer["error"]), (409, &json!("secrets_unreadable")), "{answer}");
    assert!(!stage.dir.path().join("c/state/secrets.key").exists());
}

/// What a device says, and what it is told.
struct Device<'a> {
    broker: &'a Mosquitto,
    told: Process,
    topic: &'a str,
}

impl Device<'_> {
    fn say(&self, said: &Value) {
        let mut said = said.clone();
        said["v"] = json!(1);
        self.broker.publish(self.topic, said.to_string().as_bytes());
    }

    fn told(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.told.wait_for(what, |line| {
            let payload: Value = serde_json::from_str(line.split_once(' ')?.1).ok()?;
            wanted(&payload).then_some(payload)
        })
    }

    /// How the bindings do, by the answer to a greeting.
    fn bindings(&mut self, nonce: &str, check: bool, instance: &str) -> Value {
        self.say(&json!({
            "type": "hello", "nonce": nonce, "agent": "test", "channel": "xiaomi", "platform": "android", "login": "l1",
            "check": check, "instance": instance,
        }));
        self.told("a welcome", |down| down["nonce"] == nonce)["bindings"].clone()
    }
}

#[test]
fn what_a_device_and_its_vendor_say_is_kept_for_every_gateway() {
    let Some(mut stage) = Stage::new("what_a_device_and_its_vendor_say_is_kept_for_every_gateway") else { return };
    let (a, b) = (stage.gateway("a"), stage.gateway("b"));
    let (on_a, on_b) = (stage.rest(&a), stage.rest(&b));
    let token = stage.phone(&on_a);
    let told = stage.broker.subscribe("im/v1/org%23app/ann/phone/down");
    let mut phone = Device { broker: &stage.broker, told, topic: "im/v1/org%23app/ann/phone/up" };

    // One device's words go to either gateway.
    let bindings = phone.bindings("n1", false, "m1");
    assert_eq!((&bindings[0]["notifier"], &bindings[0]["state"]), (&json!("288"), &json!("unproven")));
    let first = send(&on_a, "ann", 1);
    phone.say(&json!({"type": "ack", "ids": [first], "attached": false}));
    on_b.traced(&first, &["acked", "vendor_sent"]);
    phone.say(&json!({"type": "taken", "ids": [first]}));
    on_b.traced(&first, &["taken"]);
    assert_eq!(phone.bindings("look", true, "m1")[0]["state"], "working");
    let second = send(&on_b, "ann", 2);
    phone.say(&json!({"type": "ack", "ids": [second], "attached": true}));
    // The app that should have shown it did not say so.
    on_a.traced(&second, &["acked", "vendor_sent"]);

    for (sequence, result) in [(7, "ok"), (7, "ok"), (3, "later")] {
        phone.say(&json!({"type": "bind", "sequence": sequence, "notifier": "288", "token": token}));
        let bound = phone.told("an answer", |down| down["type"] == "bound" && down["sequence"] == sequence);
        assert_eq!(bound["result"], result);
        assert!(result == "ok" || bound["expected"] == 7, "{bound}");
    }

    let devices = |cloned: bool| {
        let listed = on_b.ok("GET", "users/ann/devices", None);
        assert_eq!(listed["entities"][0]["cloned"], cloned, "{listed}");
    };
    phone.bindings("n2", false, "m2");
    devices(false);
    phone.bindings("n3", false, "m1");
    devices(true);

    let lab = |path: &str, body: &Value| on_a.ask("POST", &format!("{}/_lab/{path}", stage.clouds), Some(body)).0;
    lab("faults", &json!({"vendor": "xiaomi", "fault": "quota", "times": 1}));
    let third = send(&on_a, "ann", 3);
    phone.say(&json!({"type": "ack", "ids": [third], "attached": false}));
    on_b.traced(&third, &["vendor_retry: xiaomi: limited"]);
    let limited = phone.bindings("look 2", true, "m1")[0].clone();
    assert_eq!((&limited["state"], &limited["code"]), (&json!("limited"), &json!("200001")));
    assert!(limited["until_ms"].as_u64() > limited["since_ms"].as_u64(), "{limited}");

    lab("tokens", &json!({"vendor": "xiaomi", "token": token, "state": "dead"}));
    let fourth = send(&on_b, "ann", 4);
    phone.say(&json!({"type": "ack", "ids": [fourth], "attached": false}));
    on_a.traced(&fourth, &["vendor_refused: xiaomi: token_dead"]);
    assert_eq!(phone.bindings("look 3", true, "m1")[0]["state"], "dead");
    assert!(on_a.ok("GET", "users/ann/push/binding", None)["entities"][0]["dead_ms"].is_u64());
}

#[test]
fn what_is_due_is_shared_by_gateways_that_claim_at_once_and_each_message_is_sent_once() {
    let test = "what_is_due_is_shared_by_gateways_that_claim_at_once_and_each_message_is_sent_once";
    let Some(stage) = Stage::new(test) else { return };
    let gateways = ["a", "b"].map(|name| stage.gateway(name));
    let rests = gateways.each_ref().map(|gateway| stage.rest(gateway));
    let token = stage.phone(&rests[0]);
    // As once their vendor serves again: all of it is due at one moment.
    stage.postgres.ask(
        "WITH new AS (INSERT INTO messages SELECT id, 'org#app', 'ann', json_build_object('id', id, 'from', 'bob', 'to', 'ann',
             'sent_at_ms', now_ms, 'body', json_build_object('type', 'txt', 'msg', id)), now_ms, now_ms + 3600000
             FROM (SELECT 'm' || lpad(n::text, 4, '0') AS id, (extract(epoch FROM now()) * 1000)::bigint AS now_ms
                   FROM generate_series(1, 600) AS n) AS made RETURNING id)
         INSERT INTO deliveries (message, app, \"user\", device, state, due_ms)
         SELECT id, 'org#app', 'ann', 'phone', 'vendor', 1 FROM new",
    );
    support::eventually("all are shown", || stage.shown(&rests[0], &token).len() >= 600);
    let shown = stage.shown(&rests[0], &token);
    assert!(shown.values().all(|times| *times == 1), "{shown:?}");
    let sent = rests.each_ref().map(|rest| {
        let metrics = rest.text("/metrics");
        let line = metrics.lines().find(|line| line.starts_with("impush_gateway_hops_total{hop=\"vendor_sent\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default()
    });
    assert!(sent.iter().all(|sent| *sent > 0.0), "one does all of it: {sent:?}");
}

#[test]
fn a_call_to_several_is_decided_on_for_each_by_what_is_its_own() {
    let Some(mut stage) = Stage::new("a_call_to_several_is_decided_on_for_each_by_what_is_its_own") else { return };
    stage.common = stage.common.replace("[delivery]", "[delivery]\npolicy = 'all_offline'");
    let gateway = stage.gateway("a");
    let rest = stage.rest(&gateway);
    stage.phone(&rest);
    for user in ["ben", "cid"] {
        let install = json!({"vendor": "xiaomi", "id": "288", "device": user});
        let (_, installed) = rest.ask("POST", &format!("{}/_lab/installs", stage.clouds), Some(&install));
        rest.ok("POST", "users", Some(&json!({"username": user, "password": "a password"})));
        let binding = json!({"device_id": "phone", "device_token": installed["token"], "notifier_name": "288"});
        rest.ok("PUT", &format!("users/{user}/push/binding"), Some(&binding));
    }
    rest.ok("PUT", "users/ben/notification/user/ben", Some(&json!({"type": "NONE"})));
    let told = stage.broker.subscribe("im/v1/org%23app/cid/tablet/down");
    let mut tablet = Device { broker: &stage.broker, told, topic: "im/v1/org%23app/cid/tablet/up" };
    tablet.bindings("n1", false, "m1");
    let message = json!({"to": ["ann", "ben", "cid", "dee"], "body": {"type": "txt", "msg": "hello"}});
    let ids = rest.ok("POST", "messages/users", Some(&message))["data"].clone();
    let id = |user: &str| ids[user].as_str().expect("an id");
    rest.traced(id("ann"), &["vendor_sent"]);
    rest.traced(id("ben"), &["stopped: user ignore push"]);
    rest.traced(id("cid"), &["stopped: another device online", "published"]);
    rest.traced(id("dee"), &["waiting"]);
    // Its user was told there, so the phone's notification is held back no longer: there is none.
    tablet.say(&json!({"type": "ack", "ids": [id("cid")], "attached": true}));
    let state = format!("SELECT state FROM deliveries WHERE message = '{}' AND device = 'phone'", id("cid"));
    support::eventually("the phone is not waited for", || stage.postgres.ask(&state) == "waiting");
}
