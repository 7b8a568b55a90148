//! Brokers of other people, set up exactly as `impush-gateway broker-config` says: who gets in, and who does not.

mod support;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;
use support::{Agent, Certificates, Flaw, Gateway, Process, Rest, certificates, eventually, free_port, has, skipped};

const PASSWORD: &str = "a password";

/// A mosquitto and a gateway with it, each as the recipe says.
struct Stage {
    dir: tempfile::TempDir,
    certificates: Certificates,
    mosquitto: Option<Process>,
    gateway: Gateway,
    rest: Rest,
    port: u16,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let certificates = certificates(dir.path(), Flaw::None);
        // mosquitto gives up root and must still read its files.
        support::must(&format!("chmod 755 {0}; chmod 644 {0}/server.key", dir.path().display()));
        let (port, broker) = (free_port(), dir.path().join("broker"));
        let file = |path: &Path| path.display().to_string();
        let recipe = Command::new(env!("CARGO_BIN_EXE_impush-gateway"))
            .args(["broker-config", "mosquitto", &file(&broker), "--name", "localhost", "--port", &port.to_string()])
            .args(["--certificate", &file(&certificates.chain), "--key", &file(&certificates.key)])
            .args(["--ca-file", &file(&certificates.ca)])
            .output()
            .expect("ran");
        assert!(recipe.status.success(), "{recipe:?}");
        let mosquitto = Some(started(&broker));
        let lines = std::fs::read_to_string(broker.join("gateway.toml")).expect("written");
        let home = dir.path().join("g");
        std::fs::create_dir(&home).expect("made");
        let api = free_port();
        let config =
            format!("[api]\nlisten = '127.0.0.1:{api}'\n{lines}[paths]\nstate = '{}'\n", file(&home.join("state")));
        std::fs::write(home.join("gateway.toml"), config).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
        command.arg("--config").arg(home.join("gateway.toml")).args(["serve", "--announce"]);
        let mut process = Process::start(&mut command, false);
        let reach: Value = process.wait_for("the addresses", |line| serde_json::from_str(line).ok());
        let rest = Rest::new(&reach, &certificates.ca);
        for user in ["ann", "bob"] {
            rest.ok("POST", "users", Some(&json!({"username": user, "password": PASSWORD})));
        }
        let gateway = Gateway { process, home, reach };
        Self { dir, certificates, mosquitto, gateway, rest, port }
    }

    fn broker(&self) -> PathBuf {
        self.dir.path().join("broker")
    }

    /// A token; at the gateway's start until it has its connection to the broker.
    fn token(&self, user: &str, device: &str) -> String {
        let grant = json!({"grant_type": "password", "username": user, "password": PASSWORD, "device_id": device});
        let mut token = String::new();
        eventually("the broker takes a login", || {
            let (status, answer) = self.rest.ask("POST", &format!("{}/token", self.rest.base), Some(&grant));
            assert!([200, 503].contains(&status), "{answer}");
            token = answer["access_token"].as_str().unwrap_or_default().to_owned();
            status == 200
        });
        token
    }

    fn agent(&self, name: &str) -> (Agent, String) {
        let home = self.dir.path().join(name);
        let url = format!("mqtts://localhost:{}", self.port);
        Agent::configure(&home, &url, &self.certificates.ca, "");
        let agent = Agent::start(&home);
        let device = agent.status()["device_id"].as_str().expect("an id").to_owned();
        (agent, device)
    }

    /// A client of mosquitto's own, with this login.
    fn client(&self, program: &str, id: &str, (name, password): (&str, &str), more: &[&str]) -> Output {
        let mut command = Command::new(program);
        let (port, ca) = (self.port.to_string(), self.certificates.ca.display().to_string());
        command.args(["-V", "mqttv5", "-h", "localhost", "-p", &port, "--cafile", &ca, "-q", "1", "-d", "-i", id]);
        command.args(["-u", name, "-P", password]).args(more).output().expect("ran")
    }
}

fn started(broker: &Path) -> Process {
    let mut command = Command::new("mosquitto");
    command.arg("-v").arg("-c").arg(broker.join("mosquitto.conf")).env("PATH", support::all_paths());
    let mut process = Process::start(&mut command, true);
    process.wait_for("running", |line| line.contains("running").then_some(()));
    process
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The claims of a token, unverified.
fn claim(token: &str, name: &str) -> String {
    use base64::Engine as _;
    let payload = token.split('.').nth(1).expect("claims");
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).expect("base64");
    let claims: Value = serde_json::from_slice(&payload).expect("JSON");
    claims[name].as_str().expect("a text").to_owned()
}

#[test]
fn a_mosquitto_set_up_as_its_recipe_says_lets_in_logins_alone_and_cuts_them_off_when_they_end() {
    const TEST: &str = "a_mosquitto_set_up_as_its_recipe_says_lets_in_logins_alone_and_cuts_them_off_when_they_end";
    if !has("mosquitto") || !has("mosquitto_sub") {
        return skipped(TEST, "mosquitto is not installed");
    }
    let mut stage = Stage::new();
    let (mut agent, device) = stage.agent("a");
    let token = stage.token("ann", &device);
    agent.login("ann", &token);
    agent.process.event("link.up");
    let sent = stage.gateway.ok(&["send", "--app", "org/app", "ann", "over a mosquitto with accounts"]);
    assert_eq!(agent.process.event("message.received")["id"], sent.as_str());

    // Nobody else, and nothing else.
    let (id, name) = (claim(&token, "clientid"), claim(&token, "username"));
    let others = stage.token("bob", "phone");
    let bob = (claim(&others, "username"), others.clone());
    let bob = (bob.0.as_str(), bob.1.as_str());
    let bobs_id = claim(&others, "clientid");
    let own = "im/v1/org%23app/bob/phone/down";
    let subscribed = |filter: &str| text(&stage.client("mosquitto_sub", &bobs_id, bob, &["-t", filter, "-W", "1"]));
    assert!(subscribed(own).contains("Subscribed (mid: 1): 1"), "{}", subscribed(own));
    let anns = format!("im/v1/org%23app/ann/{device}/down");
    for filter in [&anns, "#", "im/v1/#", "im/v1/+/+/+/down", "$share/gateway/im/v1/+/+/+/up", "$CONTROL/#", "$SYS/#"] {
        assert!(subscribed(filter).contains("Subscribed (mid: 1): 135"), "{filter}: {}", subscribed(filter));
    }
    for topic in [own, &anns, &anns.replace("down", "up"), "$CONTROL/dynamic-security/v1"] {
        let published = stage.client("mosquitto_pub", &bobs_id, bob, &["-t", topic, "-m", "{}"]);
        assert!(text(&published).contains("RC:135"), "{topic}: {}", text(&published));
    }
    let refused = |stage: &Stage, id: &str, login: (&str, &str)| {
        let output = stage.client("mosquitto_pub", id, login, &["-t", own, "-m", "{}"]);
        assert!(text(&output).contains("Not authorized"), "{id} {}: {}", login.0, text(&output));
    };
    refused(&stage, &bobs_id, (bob.0, "a wrong password"));
    refused(&stage, &bobs_id, (bob.0, &token));
    refused(&stage, &bobs_id, (&name, &token));
    refused(&stage, &id, bob);
    refused(&stage, "anybody", ("", ""));
    refused(&stage, &bobs_id, ("org%23app/bob", bob.1));

    // A login that ends: the device is told, its connection is cut by the broker, and its token is taken no more.
    let start = Instant::now();
    stage.gateway.ok(&["kick", "--app", "org/app", "ann"]);
    agent.process.event("login.kicked");
    eventually("its account is gone", || {
        text(&stage.client("mosquitto_pub", &id, (&name, &token), &["-t", own, "-m", "{}"])).contains("Not authorized")
    });
    println!("a kick: told, and refused by the broker after {:?}", start.elapsed());
    refused(&stage, &id, (&name, &token));
    let (status, answer) = stage.rest.ask("GET", &format!("{}/users/ann/devices", stage.rest.base), None);
    assert_eq!((status, &answer["entities"][0]["online"]), (200, &json!(false)), "{answer}");

    // One that does not leave when it is told is cut off.
    let mut stays = Command::new("mosquitto_sub");
    stays.args(["-V", "mqttv5", "-h", "localhost", "-p", &stage.port.to_string(), "-q", "0", "-d", "-i", &bobs_id]);
    stays.arg("--cafile").arg(&stage.certificates.ca).args(["-u", bob.0, "-P", bob.1, "-t", own, "-k", "60"]);
    let _stays = Process::start(&mut stays, false);
    let broker = stage.mosquitto.as_mut().expect("it runs");
    // Those of the tries above were with QoS 1.
    let subscribed = format!("{bobs_id} 0 {own}");
    broker.wait_for("its subscription", |line| line.ends_with(&subscribed).then_some(()));
    let start = Instant::now();
    let change = json!({"newpassword": "another password"});
    stage.rest.ok("PUT", "users/bob/password", Some(&change));
    let cut = |line: &str| line.contains(&bobs_id) && line.contains("administrative action");
    broker.wait_for("the end", |line| cut(line).then_some(()));
    println!("another password: the broker has cut the connection off after {:?}", start.elapsed());
    refused(&stage, &bobs_id, bob);

    // A device that logs in over and over has its newest logins alone.
    let tokens: Vec<String> = (0..9).map(|_| stage.token("ann", "phone")).collect();
    let id = claim(&tokens[0], "clientid");
    let out = |token: &String| {
        let output = stage.client("mosquitto_pub", &id, (&claim(token, "username"), token), &["-t", own, "-m", "{}"]);
        text(&output).contains("Connection error: Not authorized")
    };
    eventually("one of those that are too many is gone", || {
        let gone = tokens.iter().any(out);
        if !gone {
            stage.token("ann", "phone");
        }
        gone
    });

    // What ended while the broker was away is out once it is back.
    let token = stage.token("ann", "tablet");
    let (id, name) = (claim(&token, "clientid"), claim(&token, "username"));
    stage.mosquitto.take().expect("it runs").kill();
    stage.gateway.ok(&["kick", "--app", "org/app", "ann"]);
    let broker = stage.broker();
    stage.mosquitto = Some(started(&broker));
    eventually("what has ended is gone", || {
        text(&stage.client("mosquitto_pub", &id, (&name, &token), &["-t", own, "-m", "{}"])).contains("Not authorized")
    });
}

#[test]
fn a_gateway_of_another_installation_leaves_the_accounts_at_the_same_mosquitto_alone() {
    const TEST: &str = "a_gateway_of_another_installation_leaves_the_accounts_at_the_same_mosquitto_alone";
    if !has("mosquitto") || !has("mosquitto_sub") {
        return skipped(TEST, "mosquitto is not installed");
    }
    let stage = Stage::new();
    let token = stage.token("ann", "phone");
    let config = std::fs::read_to_string(stage.gateway.home.join("gateway.toml")).expect("written");
    let home = stage.dir.path().join("staging");
    std::fs::create_dir(&home).expect("made");
    let state = |home: &Path| home.join("state").display().to_string();
    let config = config.replace(&state(&stage.gateway.home), &state(&home));
    let listen = config.lines().find(|line| line.starts_with("listen")).expect("an address").to_owned();
    let config = config.replace(&listen, &format!("listen = '127.0.0.1:{}'", free_port()));
    std::fs::write(home.join("gateway.toml"), config).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
    command.arg("--config").arg(home.join("gateway.toml")).arg("serve").env("IMPUSH_GATEWAY_LOG_FORMAT", "json");
    let mut staging = Process::start(&mut command, true);
    let told = staging.event("accounts.foreign");
    assert_eq!(told["accounts"], 1, "{told}");
    let (id, name) = (claim(&token, "clientid"), claim(&token, "username"));
    let subscribed =
        stage.client("mosquitto_sub", &id, (&name, &token), &["-t", "im/v1/org%23app/ann/phone/down", "-W", "1"]);
    assert!(text(&subscribed).contains("Subscribed (mid: 1): 1"), "{}", text(&subscribed));
}

#[test]
fn an_account_from_before_installations_had_ids_bears_one_and_goes_with_its_user_after_a_restart() {
    const TEST: &str = "an_account_from_before_installations_had_ids_bears_one_and_goes_with_its_user_after_a_restart";
    if !has("mosquitto") || !has("mosquitto_sub") {
        return skipped(TEST, "mosquitto is not installed");
    }
    let mut stage = Stage::new();
    let token = stage.token("ann", "phone");
    let broker = stage.broker();
    let file = broker.join("dynamic-security.json");
    let accounts = || std::fs::read_to_string(&file).expect("read");
    eventually("the account is in the file", || accounts().contains("installation"));
    // The gateway's end of the connection is over with it.
    stage.mosquitto.take().expect("it runs").kill();
    let written = accounts();
    let at = written.find(",\\\"installation\\\"").expect("it bears one");
    let end = at + written[at..].find('}').expect("its end");
    std::fs::write(&file, format!("{}{}", &written[..at], &written[end..])).expect("written");
    stage.mosquitto = Some(started(&broker));
    eventually("it bears one again", || accounts().contains("installation"));
    let (id, name) = (claim(&token, "clientid"), claim(&token, "username"));
    let subscribed =
        stage.client("mosquitto_sub", &id, (&name, &token), &["-t", "im/v1/org%23app/ann/phone/down", "-W", "1"]);
    assert!(text(&subscribed).contains("Subscribed (mid: 1): 1"), "{}", text(&subscribed));

    // Its user goes while the broker is away, from a gateway that has not seen the account.
    stage.mosquitto.take().expect("it runs").kill();
    stage.gateway.process.kill();
    let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
    command.arg("--config").arg(stage.gateway.home.join("gateway.toml")).args(["serve", "--announce"]);
    stage.gateway.process = Process::start(&mut command, false);
    stage.gateway.process.wait_for("the addresses", |line| serde_json::from_str::<Value>(line).ok());
    stage.gateway.ok(&["remove-user", "--app", "org/app", "ann"]);
    stage.mosquitto = Some(started(&broker));
    eventually("it goes", || !accounts().contains(&name));
}

#[test]
fn emqx_is_answered_who_may_enter_and_where_to_as_its_recipe_asks() {
    let dir = tempfile::tempdir().expect("a directory");
    let environment = [
        ("IMPUSH_GATEWAY_BROKER_ASK_SECRET", "0123456789abcdef"),
        ("IMPUSH_GATEWAY_BROKER_USER", "gateway"),
        ("IMPUSH_GATEWAY_BROKER_PASSWORD", "its own"),
    ];
    let gateway = Gateway::start_in(&dir.path().join("g"), free_port(), "", &environment);
    let api = gateway.reach["api"].as_str().expect("an address");
    let mut recipe = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
    recipe.envs(environment).arg("--config").arg(gateway.home.join("gateway.toml"));
    let recipe = recipe.args(["broker-config", "emqx"]).output().expect("ran");
    let recipe = String::from_utf8(recipe.stdout).expect("text");
    for part in [format!("\"{api}/broker/emqx/auth\""), format!("\"{api}/broker/emqx/acl\""), "no_match = deny".into()]
    {
        assert!(recipe.contains(&part), "{part}: {recipe}");
    }
    let shown =
        recipe.lines().find_map(|line| line.trim().strip_prefix("authorization = ")).expect("it shows the secret");
    let shown: String = serde_json::from_str(shown).expect("quoted");
    let token = gateway.user("ann");
    let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
    let ask = |shown: &str, about: &str, question: Value| {
        let output = Command::new("curl")
            .args(["-s", "-H", "content-type: application/json", "-H", &format!("authorization: {shown}")])
            .args(["-d", &question.to_string(), &format!("{api}/broker/emqx/{about}")])
            .output()
            .expect("curl runs");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let auth = |client: &str, user: &str, password: &str| {
        ask(&shown, "auth", json!({"clientid": client, "username": user, "password": password}))
    };
    let (client, user) = ("ann:phone@org%23app", "org%23app/ann");
    assert_eq!(auth(client, user, &token), json!({"result": "allow"}));
    for (client, user, password) in [
        (client, user, "wrong"),
        (client, "org%23app/bob", token.as_str()),
        ("bob:phone@org%23app", user, token.as_str()),
        ("undefined", "undefined", "undefined"),
    ] {
        assert_eq!(auth(client, user, password)["result"], "deny", "{client} {user}");
    }
    assert_eq!(auth("$gateway:01", "gateway", "its own"), json!({"result": "allow", "is_superuser": true}));
    assert_eq!(auth("$gateway:01", "gateway", &token), json!({"result": "deny", "is_superuser": false}));
    assert!(ask("Bearer guessed", "auth", json!({})).get("result").is_none(), "nobody else asks");
    let acl = |action: &str, topic: &str| {
        let question = json!({"clientid": client, "username": user, "action": action, "topic": topic});
        ask(&shown, "acl", question)["result"] == "allow"
    };
    assert!(acl("subscribe", "im/v1/org%23app/ann/phone/down") && acl("publish", "im/v1/org%23app/ann/phone/state"));
    assert!(!acl("subscribe", "im/v1/org%23app/bob/phone/down") && !acl("publish", "im/v1/org%23app/ann/phone/down"));
    assert!(!acl("subscribe", "im/v1/#") && !acl("undefined", "im/v1/org%23app/ann/phone/up"));
    rest.ok("PUT", "users/ann/password", Some(&json!({"newpassword": "another password"})));
    assert_eq!(auth(client, user, &token)["result"], "deny", "its login has ended");
}
