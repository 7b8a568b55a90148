//! Logins end for good: the connection is cut, and the token is taken by nobody any more.

mod support;

use impush::ids::DeviceId;
use impush::mqtt::{ConnectOptions, Connection, Endpoint, Incoming, MqttError, Stream, client_config, dial, handshake};
use impush::names::Names;
use impush::protocol::Address;
use impush::secret::Secret;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Agent, Gateway, Rest};
use tokio::runtime::Runtime;

const PASSWORD: &str = "a password";

struct Stage {
    dir: tempfile::TempDir,
    gateway: Gateway,
    rest: Rest,
    runtime: Runtime,
}

impl Stage {
    fn new() -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let dir = tempfile::tempdir().expect("a directory");
        let gateway = Gateway::start(&dir.path().join("g"), "");
        let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let stage = Self { dir, gateway, rest, runtime };
        for user in ["ann", "bob"] {
            stage.rest.ok("POST", "users", Some(&json!({"username": user, "password": PASSWORD})));
        }
        stage
    }

    fn restart(&mut self) {
        self.gateway.process.terminate();
        self.gateway = Gateway::start(&self.dir.path().join("g"), "");
        self.rest = Rest::new(&self.gateway.reach, Path::new(self.gateway.ca()));
    }

    fn grant(&self, user: &str, password: &str, device: Option<&str>) -> (u16, Value) {
        let grant = json!({"grant_type": "password", "username": user, "password": password, "device_id": device});
        self.rest.ask("POST", &format!("{}/token", self.rest.base), Some(&grant))
    }

    fn token(&self, user: &str, device: &str) -> String {
        let (status, answer) = self.grant(user, PASSWORD, Some(device));
        assert_eq!(status, 200, "{answer}");
        answer["access_token"].as_str().expect("a token").to_owned()
    }

    /// A device that is connected and waits for what it is told.
    fn connect(&self, user: &str, device: &str, token: &str) -> Result<Connection<Stream>, MqttError> {
        let endpoint: Endpoint = format!("mqtts://localhost:{}", self.gateway.port()).parse().expect("an address");
        let address = Address::new("org#app", user, device).expect("an address");
        let options = ConnectOptions {
            client_id: address.client_id(),
            user_name: address.user_name(),
            password: Secret::new(token),
            keep_alive_s: 60,
            session_expiry_s: 0,
            clean_start: true,
            will: None,
        };
        let tls = client_config(Some(Path::new(self.gateway.ca())), None).expect("an authority");
        self.runtime.block_on(async {
            let stream = dial(&endpoint, None, &Names::default(), &tls, support::LIMIT).await?;
            let mut connection = handshake(stream, &options, support::LIMIT).await?.0;
            let device = DeviceId::try_from(device.to_owned()).expect("an id");
            connection.subscribe(&format!("im/v1/org%23app/{user}/{device}/down")).await?;
            Ok(connection)
        })
    }

    /// What a connection hears until it is closed.
    fn to_the_end(&self, connection: &mut Connection<Stream>) -> Vec<Value> {
        let mut heard = Vec::new();
        let end = async {
            loop {
                match connection.next().await {
                    Ok(Incoming::Publish { payload, .. }) => {
                        heard.push(serde_json::from_slice(&payload).expect("JSON"));
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        };
        self.runtime.block_on(async { tokio::time::timeout(support::LIMIT, end).await }).expect("it is closed");
        heard
    }

    fn say(&self, connection: &mut Connection<Stream>, user: &str, device: &str, up: &Value) {
        let topic = format!("im/v1/org%23app/{user}/{device}/up");
        let said = self.runtime.block_on(connection.publish(&topic, up.to_string().into_bytes(), false));
        said.expect("said");
    }

    /// Whether REST takes a user's own token.
    fn by_rest(&self, user: &str, token: &str) -> u16 {
        let url = format!("{}/users/{user}/notification/language", self.rest.base);
        let output = std::process::Command::new("curl")
            .args([
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-H",
                &format!("authorization: Bearer {token}"),
                &url,
            ])
            .output()
            .expect("curl runs");
        String::from_utf8_lossy(&output.stdout).parse().expect("a status")
    }

    fn is_out(&self, user: &str, device: &str, token: &str, what: &str) {
        assert_eq!(self.by_rest(user, token), 401, "{what}");
        let refused = self.connect(user, device, token).map(drop).expect_err(what);
        assert!(refused.end.is_some(), "{what}: {refused:?}");
    }
}

#[test]
fn whatever_ends_a_login_cuts_its_connection_and_its_token_is_taken_by_nobody_even_after_a_restart() {
    let mut stage = Stage::new();
    let mut spent: Vec<(&str, String)> = Vec::new();
    let password = json!({"password": "another password"});
    let new = json!({"newpassword": PASSWORD});
    for (what, method, path, body) in [
        ("one device is kicked", "DELETE", "users/ann/disconnect/phone", None),
        ("every device is kicked", "DELETE", "users/ann/disconnect", None),
        ("a device is removed", "DELETE", "users/ann/devices/phone", None),
        ("another password", "PUT", "users/ann", Some(&password)),
        ("a password by its own path", "PUT", "users/ann/password", Some(&new)),
        ("deactivated", "POST", "users/ann/deactivate", None),
        ("deleted", "DELETE", "users/ann", None),
    ] {
        let (status, answer) = match what {
            "a password by its own path" => stage.grant("ann", "another password", Some("phone")),
            _ => stage.grant("ann", PASSWORD, Some("phone")),
        };
        assert_eq!(status, 200, "{what}: {answer}");
        let token = answer["access_token"].as_str().expect("a token").to_owned();
        let mut connection = stage.connect("ann", "phone", &token).expect(what);
        let hello = json!({"v": 1, "type": "hello", "nonce": "n1", "agent": "t", "channel": "none", "platform": "linux", "login": what});
        stage.say(&mut connection, "ann", "phone", &hello);
        support::eventually("the device is online", || {
            let devices = stage.rest.ok("GET", "users/ann/devices", None);
            devices["entities"]
                .as_array()
                .expect("a list")
                .iter()
                .any(|d| d["device_id"] == "phone" && d["logged_in"] == true)
        });
        assert_eq!(stage.by_rest("ann", &token), 200, "{what}");
        let began = Instant::now();
        stage.rest.ok(method, path, body);
        let heard = stage.to_the_end(&mut connection);
        let took = began.elapsed();
        println!("{what}: the socket was closed after {took:?}");
        assert!(heard.iter().any(|down| down["type"] == "kick"), "{what}: {heard:?}");
        assert!(took < Duration::from_secs(10), "{what}: {took:?}");
        stage.is_out("ann", "phone", &token, what);
        match what {
            "deactivated" => {
                assert_eq!(stage.grant("ann", PASSWORD, None).0, 403);
                drop(stage.rest.ok("POST", "users/ann/activate", None));
            }
            "deleted" => {
                assert_eq!(stage.grant("ann", PASSWORD, None).0, 401);
                drop(stage.rest.ok("POST", "users", Some(&json!({"username": "ann", "password": PASSWORD}))));
            }
            _ => {}
        }
        spent.push((what, token));
    }
    stage.restart();
    for (what, token) in &spent {
        stage.is_out("ann", "phone", token, &format!("{what}, after a restart"));
    }
    let token = stage.token("ann", "phone");
    assert_eq!(stage.by_rest("ann", &token), 200);
    drop(stage.connect("ann", "phone", &token).expect("a new login is taken"));
}

#[test]
fn a_device_that_was_away_when_its_login_ended_is_told_when_it_comes_back() {
    let stage = Stage::new();
    let home = stage.dir.path().join("a");
    Agent::configure(&home, &format!("mqtts://localhost:{}", stage.gateway.port()), Path::new(stage.gateway.ca()), "");
    let mut agent = Agent::start(&home);
    agent.login("ann", &stage.gateway.user("ann"));
    agent.process.event("link.up");
    let device = agent.status()["device_id"].as_str().expect("an id").to_owned();
    support::eventually("it is known", || {
        stage.rest.ok("GET", "users/ann/devices", None)["entities"][0]["logged_in"] == true
    });
    agent.process.terminate();
    stage.rest.ok("DELETE", &format!("users/ann/devices/{device}"), None);
    let mut agent = Agent::start(&home);
    assert_eq!(agent.process.event("login.kicked")["code"], 217);
    assert!(agent.status()["user"].is_null());
    assert_eq!(stage.rest.ok("GET", "users/ann/devices", None)["entities"], json!([]), "a ghost is gone for good");
}

#[test]
fn a_login_is_listed_with_its_device_and_can_be_ended_by_its_id() {
    let stage = Stage::new();
    let token = stage.token("ann", "phone");
    let mut connection = stage.connect("ann", "phone", &token).expect("connected");
    let logins = stage.rest.ok("GET", "users/ann/logins", None);
    let login = logins["entities"][0]["login_id"].as_str().expect("an id").to_owned();
    assert_eq!(logins["entities"][0]["device_id"], "phone");
    stage.rest.ok("DELETE", &format!("users/ann/logins/{login}"), None);
    stage.to_the_end(&mut connection);
    stage.is_out("ann", "phone", &token, "ended by its id");
    assert!(stage.rest.ok("GET", "users/ann/logins", None)["entities"][0]["ended_ms"].is_u64());
    let (status, _) = stage.rest.ask("DELETE", &format!("{}/users/ann/logins/none", stage.rest.base), None);
    assert_eq!(status, 404);
}

#[test]
fn guesses_for_one_user_are_held_back_and_do_not_slow_another_users_login() {
    let stage = Stage::new();
    let login = || {
        let began = Instant::now();
        stage.token("bob", "phone");
        began.elapsed()
    };
    let median = |mut all: Vec<Duration>| {
        all.sort_unstable();
        all[all.len() / 2]
    };
    let without = median((0..9).map(|_| login()).collect());
    let base = stage.rest.base.clone();
    let guesses = std::thread::spawn(move || {
        let grant = r#"{"grant_type":"password","username":"ann","password":"wrong wrong"}"#;
        let script = format!(
            "for n in $(seq 120); do curl -s -o /dev/null -w '%{{http_code}} ' -H 'content-type: application/json' -d '{grant}' {base}/token & sleep 0.025; done; wait"
        );
        String::from_utf8(support::shell(&script).stdout).expect("text")
    });
    let mut during = Vec::new();
    while !guesses.is_finished() {
        during.push(login());
    }
    let during = median(during);
    let said = guesses.join().expect("guessed");
    let (looked_at, held_back) = (said.matches("401").count(), said.matches("429").count());
    println!(
        "a login takes {without:?}, and {during:?} beside 40 guesses a second: {looked_at} looked at, {held_back} held back"
    );
    assert!(looked_at <= 14 && looked_at + held_back == 120, "{said}");
    // Whose password was guessed is held back too, and told for how long.
    assert_eq!(stage.grant("ann", PASSWORD, None).0, 429);
}

#[test]
fn a_broker_on_another_machine_shows_a_secret_when_it_asks() {
    let dir = tempfile::tempdir().expect("a directory");
    let ask = |gateway: &Gateway, more: &[&str], query: &str| {
        let api = gateway.reach["api"].as_str().expect("an address");
        let mut curl = std::process::Command::new("curl");
        let url = format!("{api}/broker/rabbitmq/vhost{query}");
        curl.args(["-s", "-w", "\n%{http_code}", "-d", "username=x"]).args(more).arg(url);
        String::from_utf8(curl.output().expect("curl runs").stdout).expect("text")
    };
    let open = Gateway::start(&dir.path().join("open"), "");
    assert_eq!(ask(&open, &[], ""), "allow\n200");
    let through_a_front = ask(&open, &["-H", "x-forwarded-for: 192.0.2.1"], "");
    assert!(through_a_front.ends_with("401"), "{through_a_front}");
    let environment = [("IMPUSH_GATEWAY_BROKER_ASK_SECRET", "0123456789abcdef")];
    let closed = Gateway::start_in(&dir.path().join("closed"), support::free_port(), "", &environment);
    assert!(ask(&closed, &[], "").ends_with("401"));
    assert!(ask(&closed, &[], "?secret=0123456789abcdeF").ends_with("401"));
    assert_eq!(ask(&closed, &[], "?secret=0123456789abcdef"), "allow\n200");
    assert_eq!(ask(&closed, &["-H", "authorization: Bearer 0123456789abcdef"], ""), "allow\n200");
}

#[test]
fn a_program_has_an_id_and_a_secret_of_its_own_and_may_what_it_was_made_for() {
    let stage = Stage::new();
    let create = |scope: &str| {
        let said = stage.gateway.ok(&["app", "create", "--app", "org/app", "--scope", scope, "back office"]);
        let of = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)).expect("printed").to_owned();
        (of("client_id="), of("client_secret="))
    };
    let token = |(id, secret): &(String, String)| {
        let grant = json!({"grant_type": "client_credentials", "client_id": id, "client_secret": secret});
        let (status, answer) = stage.rest.ask("POST", &format!("{}/token", stage.rest.base), Some(&grant));
        (status, answer["access_token"].as_str().unwrap_or_default().to_owned())
    };
    let ask = |token: &str, method: &str, path: &str, body: Option<&Value>| {
        stage.rest.ask_as(token, method, &format!("{}/{path}", stage.rest.base), body).0
    };
    let (full, reader) = (create("app"), create("read"));
    let (app, read) = (token(&full).1, token(&reader).1);
    let user = json!({"username": "carl", "password": "a password"});
    assert_eq!(ask(&read, "POST", "users", Some(&user)), 403);
    assert_eq!(ask(&app, "POST", "users", Some(&user)), 200);
    assert_eq!((ask(&read, "GET", "users", None), ask(&app, "GET", "users", None)), (200, 200));
    for (token, path) in [(&app, "clients"), (&read, "clients"), (&app, "signing-keys"), (&read, "signing-keys")] {
        assert_eq!(ask(token, "GET", path, None), 403, "{path}");
    }
    let listed = stage.gateway.ok(&["app", "list", "--app", "org/app"]);
    assert!(listed.lines().count() == 2 && listed.contains("back office") && !listed.contains(&full.1), "{listed}");

    // Another app's program is nobody here.
    let elsewhere = stage.rest.base.replace("/app", "/other");
    assert_eq!(stage.rest.ask_as(&app, "GET", &format!("{elsewhere}/users"), None).0, 403);

    let renewed = stage.gateway.ok(&["app", "new-secret", "--app", "org/app", &full.0]);
    let new = renewed.lines().find_map(|line| line.strip_prefix("client_secret=")).expect("printed").to_owned();
    assert_eq!(token(&full).0, 401, "the old secret");
    assert_eq!(token(&(full.0.clone(), new)).0, 200);
    stage.gateway.ok(&["app", "remove", "--app", "org/app", &full.0]);
    assert_eq!(ask(&app, "GET", "users", None), 401, "its tokens end with it");
    assert_eq!(ask(&read, "GET", "users", None), 200);
}

#[test]
fn a_signing_key_is_rotated_while_devices_stay_online_and_the_old_ones_end_can_be_read() {
    let mut stage = Stage::new();
    let token = stage.token("ann", "phone");
    let mut online = stage.connect("ann", "phone", &token).expect("online");
    let listed = |said: &str| said.lines().map(str::to_owned).collect::<Vec<_>>();
    let before = listed(&stage.gateway.ok(&["signing-key", "list"]));
    assert_eq!(before, ["first, signs now"]);
    let after = listed(&stage.gateway.ok(&["signing-key", "rotate"]));
    assert!(after.len() == 2 && after[0].starts_with("first, signs now, good until 20"), "{after:?}");
    assert!(after[1].contains(", signs from 20") && !after[1].contains("signs now"), "{after:?}");
    let twice = stage.gateway.run(&["signing-key", "rotate"]);
    assert!(String::from_utf8_lossy(&twice.stderr).contains("wait until it does"), "{twice:?}");
    assert!(!stage.gateway.run(&["signing-key", "remove", "first"]).status.success(), "it signs still");
    // Nobody notices: the connection stands, and the token is taken, also after a restart.
    stage.runtime.block_on(online.ping()).expect("written");
    while !matches!(stage.runtime.block_on(online.next()).expect("open"), Incoming::Pong) {}
    stage.restart();
    assert!(stage.connect("ann", "phone", &token).is_ok());
    assert_eq!(listed(&stage.gateway.ok(&["signing-key", "list"])).len(), 2);
}
