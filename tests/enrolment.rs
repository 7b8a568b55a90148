//! Devices enrol with a code: the first connection is verified by it, each device takes one use, and what is refused
//! says why.

mod support;

use impush::mqtt::{ConnectOptions, Endpoint, Incoming, client_config, dial, handshake};
use impush::names::Names;
use impush::protocol::EnrolCode;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use support::{Agent, Certificates, Flaw, Gateway, Mosquitto, Process, Rest, certificates, impush};

struct Stage {
    dir: tempfile::TempDir,
    gateway: Gateway,
    rest: Rest,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let gateway = Gateway::start(&dir.path().join("g"), "");
        let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
        Self { dir, gateway, rest }
    }

    fn code(&self, more: &[&str]) -> String {
        self.gateway.ok(&[&["enrol-code", "create", "--app", "org/app"], more].concat())
    }

    /// A device of which nobody has said where its server is.
    fn board(&self, name: &str, serial: &str) -> Board {
        Board::start(&self.dir.path().join(name), serial)
    }

    fn codes(&self) -> Vec<Value> {
        self.rest.ok("GET", "enrol-codes", None)["entities"].as_array().expect("a list").clone()
    }

    /// How often a code was shown, with this outcome.
    fn shown(&self, outcome: &str) -> u64 {
        let line = format!("impush_gateway_enrolments_total{{outcome=\"{outcome}\"}} ");
        let text = self.rest.text("/metrics");
        text.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().expect("a number"))
    }
}

struct Board {
    agent: Agent,
}

impl Board {
    /// Its files, without a word about servers.
    fn prepare(home: &Path, serial: &str, more: &str) {
        let tree = home.join("board/proc/device-tree");
        std::fs::create_dir_all(&tree).expect("made");
        if !serial.is_empty() {
            std::fs::write(tree.join("serial-number"), serial).expect("written");
        }
        let text = format!(
            "[paths]\nstate = '{}'\nsocket = '{}'\n[log]\nformat = 'json'\nlevel = 'debug'\n[device]\nroot = '{}'\n[control]\nport = 0\n{more}",
            home.join("state").display(),
            home.join("s").display(),
            home.join("board").display(),
        );
        std::fs::write(home.join("impush.toml"), text).expect("written");
    }

    fn start(home: &Path, serial: &str) -> Self {
        Self::prepare(home, serial, "");
        Self::waiting(home)
    }

    fn waiting(home: &Path) -> Self {
        let mut process = Process::start(impush(home).arg("run"), true);
        process.event("agent.awaits_enrolment");
        Self { agent: Agent { process, home: home.to_owned() } }
    }

    fn enrol(&self, code: &str) -> Output {
        self.agent.run(&["enrol", code])
    }

    /// The refusal's word and exit code.
    fn refused(&self, code: &str) -> (String, Option<i32>) {
        let output = self.agent.run(&["enrol", "--json", code]);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no refusal: {output:?}"));
        (said["error"]["code"].as_str().expect("a word").to_owned(), output.status.code())
    }

    fn enrols(&self, code: &str) -> String {
        let output = self.enrol(code);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }
}

fn with(code: &str, change: impl FnOnce(&mut EnrolCode)) -> String {
    let mut read = EnrolCode::read(code).expect("a code");
    change(&mut read);
    read.write().expect("a code").expose().to_owned()
}

fn refusal(word: &str) -> (String, Option<i32>) {
    (word.to_owned(), Some(77))
}

#[test]
fn a_device_that_knows_nothing_enrols_and_is_online_also_after_a_restart() {
    let stage = Stage::new();
    let code = stage.code(&["--uses", "2", "--expires", "1h", "--user", "kiosk-{serial}"]);
    let mut board = stage.board("a", "10:00/54e3 c1b2");
    let status = board.agent.run(&["status"]);
    assert_eq!(status.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&status.stderr).contains("impush enrol CODE"), "{status:?}");
    let doctor = board.agent.run(&["doctor"]);
    let found = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.status.code() == Some(69) && found.contains("waits to be enrolled"), "{found}");
    let said = board.enrols(&code);
    assert!(said.contains("enrolled as kiosk-10-00-54e3-c1b2 ") && said.contains("mqtts://localhost:"), "{said}");
    board.agent.process.event("link.up");
    let again = board.agent.run(&["enrol", &code]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("impush logout"), "{again:?}");
    board.agent.process.terminate();
    for name in ["enrolled.json", "enrolled-ca.pem", "login.json"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(board.agent.home.join("state").join(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert!(!board.agent.process.seen.join("\n").contains(&code), "a code is in no log");
    board.agent = Agent::start(&board.agent.home);
    board.agent.process.event("link.up");
    let id = stage.gateway.ok(&["send", "--app", "org/app", "kiosk-10-00-54e3-c1b2", "hello"]);
    assert_eq!(board.agent.process.event("message.received")["id"], id.as_str());
    let codes = stage.codes();
    let device = board.agent.status()["device_id"].clone();
    assert_eq!((&codes[0]["uses_left"], &codes[0]["devices"][0]["device_id"]), (&json!(1), &device));
    assert_eq!(codes[0]["created_by"], "admin");
    let listed = stage.gateway.ok(&["enrol-code", "list", "--app", "org/app"]);
    assert!(listed.contains("1 of 2 left") && listed.contains("kiosk-10-00-54e3-c1b2 since"), "{listed}");
    assert!(!listed.contains("impush-enrol-1."), "it was shown once");
    assert_eq!(board.agent.run(&["doctor"]).status.code(), Some(0), "doctor knows what the enrolment said");
}

#[test]
fn a_code_that_names_another_authority_is_sent_to_nobody() {
    let stage = Stage::new();
    let other = Gateway::start(&stage.dir.path().join("other"), "");
    let code = stage.code(&["--user", "kiosk-{serial}"]);
    let board = stage.board("a", "SN-10001");
    let untrusted = || ("tls_untrusted".to_owned(), Some(76));
    let wrong = with(&code, |code| code.authority = Some([7; 32]));
    assert_eq!(board.refused(&wrong), untrusted());
    let elsewhere = with(&code, |code| code.server = format!("localhost:{}", other.port()));
    assert_eq!(board.refused(&elsewhere), untrusted(), "another gateway of the same make in the right one's place");
    let said = board.enrol(&elsewhere);
    assert!(String::from_utf8_lossy(&said.stderr).contains("The code was not sent"), "{said:?}");
    let by_address = with(&code, |code| code.server = format!("[::1]:{}", stage.gateway.port()));
    assert_ne!(board.refused(&by_address).1, Some(0));
    let unpinned = with(&code, |code| code.authority = None);
    assert_eq!(board.refused(&unpinned), untrusted(), "the system does not know this authority");
    let others = Rest::new(&other.reach, Path::new(other.ca()));
    for rest in [&stage.rest, &others] {
        assert!(!rest.text("/metrics").contains("impush_gateway_enrolments_total{"), "somebody was shown a code");
    }
    assert_eq!(stage.codes()[0]["uses_left"], 1);
    board.enrols(&code);
}

#[test]
fn a_code_that_brings_nothing_says_why_and_the_device_may_try_another() {
    let stage = Stage::new();
    let board = stage.board("a", "SN-10001");
    for text in ["hunter2", "impush-enrol-1.AAAA"] {
        assert_eq!(board.refused(text), ("bad_code".to_owned(), Some(65)));
    }
    let revoked = stage.code(&["--user", "kiosk-{serial}"]);
    let id = stage.codes()[0]["id"].as_str().expect("an id").to_owned();
    stage.gateway.ok(&["enrol-code", "revoke", "--app", "org/app", &id]);
    assert_eq!(board.refused(&revoked), refusal("revoked"));
    let unknown = with(&revoked, |code| code.secret = impush::secret::Secret::new("00".repeat(16)));
    assert_eq!(board.refused(&unknown), refusal("unknown"));
    stage.gateway.user("admin-user");
    let taking_over = stage.code(&["--user", "admin-user"]);
    assert_eq!(board.refused(&taking_over), refusal("user_exists"));
    let soon = stage.code(&["--user", "admin-user", "--expires", "1s"]);
    support::eventually("it expires", || board.refused(&soon) == refusal("expired"));
    let no_serial = stage.board("b", "");
    let by_serial = stage.code(&["--uses", "9", "--user", "kiosk-{serial}"]);
    assert_eq!(no_serial.refused(&by_serial), ("no_serial".to_owned(), Some(65)));
    let nowhere = with(&by_serial, |code| code.server = format!("localhost:{}", support::free_port()));
    assert_eq!(board.refused(&nowhere), ("connect_refused".to_owned(), Some(75)));
    for (outcome, count) in [("revoked", 1), ("unknown", 1), ("user_exists", 1), ("no_serial", 1), ("enrolled", 0)] {
        assert!(stage.shown(outcome) >= count, "{outcome}");
    }
    board.enrols(&by_serial);
    assert_eq!(stage.shown("enrolled"), 1);
}

#[test]
fn of_two_devices_that_come_for_the_last_use_one_gets_in_and_the_same_one_may_come_again() {
    let stage = Stage::new();
    let code = stage.code(&["--user", "kiosk-{device}"]);
    let boards = [stage.board("a", "SN-10001"), stage.board("b", "SN-10002")];
    let entered: Vec<bool> = std::thread::scope(|scope| {
        let homes = boards.iter().map(|board| board.agent.home.clone());
        let tries: Vec<_> = homes
            .map(|home| {
                scope.spawn(|| impush(&{ home }).args(["enrol", &code]).output().expect("ran").status.success())
            })
            .collect();
        tries.into_iter().map(|one| one.join().expect("ran")).collect()
    });
    assert_eq!(entered.iter().filter(|entered| **entered).count(), 1, "{entered:?}");
    let (winner, loser) = if entered[0] { (&boards[0], &boards[1]) } else { (&boards[1], &boards[0]) };
    assert_eq!(loser.refused(&code), refusal("used_up"));
    // As one whose answer was lost.
    winner.agent.ok(&["logout"]);
    winner.enrols(&code);
    assert_eq!(stage.codes()[0]["devices"].as_array().expect("a list").len(), 1);
}

#[test]
fn a_configured_agent_enrols_too_and_its_configuration_has_the_last_word() {
    let stage = Stage::new();
    let home = stage.dir.path().join("a");
    let url = format!("mqtts://127.0.0.1:{}", stage.gateway.port());
    Agent::configure(&home, &url, Path::new(stage.gateway.ca()), "");
    let mut agent = Agent::start(&home);
    let output = agent.run(&["enrol", &stage.code(&["--user", "kiosk-{device}"])]);
    assert!(output.status.success(), "{output:?}");
    let noted = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(noted.contains(&format!("server.url stays {url}")), "{noted}");
    assert_eq!(agent.process.event("link.up")["server"], url.as_str());
    agent.ok(&["logout"]);
    let other = with(&stage.code(&["--user", "x"]), |code| {
        code.app = "org#other".to_owned().try_into().expect("an app");
    });
    assert_eq!(agent.run(&["enrol", &other]).status.code(), Some(78), "another app");
}

#[test]
fn a_device_that_logs_out_may_enrol_elsewhere_and_trusts_the_new_authority_alone() {
    let stage = Stage::new();
    let other = Gateway::start(&stage.dir.path().join("other"), "");
    let mut board = stage.board("a", "SN-10001");
    board.enrols(&stage.code(&["--user", "kiosk-{serial}"]));
    board.agent.process.event("link.up");
    board.agent.ok(&["logout"]);
    let code = other.ok(&["enrol-code", "create", "--app", "org/app"]);
    let said = board.enrols(&code);
    assert!(said.contains("enrolled as SN-10001 ") && said.contains(&other.port()), "{said}");
    let up = board.agent.process.event("link.up");
    assert_eq!(up["server"], format!("mqtts://localhost:{}", other.port()));
    let id = other.ok(&["send", "--app", "org/app", "SN-10001", "hello"]);
    assert_eq!(board.agent.process.event("message.received")["id"], id.as_str());
}

#[test]
fn an_agent_that_is_configured_without_an_authority_takes_the_codes() {
    let stage = Stage::new();
    let home = stage.dir.path().join("a");
    let server = format!("[server]\nurl = 'mqtts://localhost:{}'\napp = 'org#app'\n", stage.gateway.port());
    Board::prepare(&home, "SN-10001", &server);
    let mut agent = Agent::start(&home);
    let output = agent.run(&["enrol", &stage.code(&["--user", "kiosk-{serial}"])]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    agent.process.event("link.up");
    assert!(agent.status()["trusted"]["source"].as_str().expect("a file").ends_with("enrolled-ca.pem"));
}

#[test]
fn a_connection_that_enrols_says_nothing_else_and_is_over_soon_though_nobody_subscribes() {
    let stage = Stage::new();
    let code = EnrolCode::read(&stage.code(&["--user", "kiosk-{device}"])).expect("a code");
    let endpoint: Endpoint = format!("mqtts://localhost:{}", stage.gateway.port()).parse().expect("an address");
    let tls = client_config(Some(Path::new(stage.gateway.ca())), None).expect("an authority");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let options = |client: &str| ConnectOptions {
        client_id: client.to_owned(),
        user_name: "enrol".to_owned(),
        password: code.secret.clone(),
        keep_alive_s: 3600,
        session_expiry_s: 0,
        clean_start: true,
        will: None,
    };
    let enter = async |client: &str| {
        let stream = dial(&endpoint, None, &Names::default(), &tls, support::LIMIT).await.expect("connected");
        handshake(stream, &options(client), support::LIMIT).await.map(|(connection, _)| connection)
    };
    runtime.block_on(async {
        let refused = enter(&format!("-:~{}@org%23app", "0".repeat(32))).await.map(drop).expect_err("a digest");
        assert!(refused.detail.contains("client id"), "{refused:?}");
        let mut connection = enter("-:board@org%23app").await.expect("let in");
        let up = "im/v1/org%23app/kiosk-board/board/up";
        connection.publish(up, b"{}".as_slice(), false).await.expect("sent");
        let answer = connection.next().await.expect("answered");
        assert!(matches!(answer, Incoming::Published { refused: Some(_), .. }), "{answer:?}");
        let end = tokio::time::timeout(support::LIMIT, connection.next()).await.expect("it is closed");
        assert!(end.is_err(), "{end:?}");
    });
    assert_eq!(stage.codes()[0]["uses_left"], 0);
}

/// Written from docs/protocol.md alone, with somebody else's MQTT client.
#[test]
fn any_mqtt_client_enrols_as_the_document_says() {
    let test = "any_mqtt_client_enrols_as_the_document_says";
    if !support::has("mosquitto_sub") {
        return support::skipped(test, "mosquitto's clients are not installed");
    }
    let stage = Stage::new();
    let code = EnrolCode::read(&stage.code(&["--user", "kiosk-{serial}"])).expect("a code");
    let enrol = |device: &str, topic: &str, secret: &str| {
        let client = format!("SN-7:{device}@org%23app");
        let mut command = stage.gateway.mosquitto("mosquitto_sub", &client, "enrol", secret);
        let output = command.args(["-W", "20", "-t", topic]).output().expect("ran");
        String::from_utf8(output.stdout).expect("text")
    };
    let (own, secret) = ("im/v1/org%23app/SN-7/board/down", code.secret.expose());
    // The client comes back after the gateway has closed, as it does, and is told the same; each time a login anew.
    let read = |said: &str| -> Value { serde_json::from_str(said.lines().next().unwrap_or_default()).expect("JSON") };
    let answer = read(&enrol("board", own, secret));
    assert_eq!((&answer["type"], &answer["user"], &answer["v"]), (&json!("enrolled"), &json!("kiosk-SN-7"), &json!(1)));
    assert!(answer["ca"].as_str().expect("a text").contains("BEGIN CERTIFICATE"));
    let wrong = read(&enrol("board", own, &"0".repeat(32)));
    assert_eq!((&wrong["type"], &wrong["code"]), (&json!("refused"), &json!("unknown")));
    let late = read(&enrol("tablet", "im/v1/org%23app/SN-7/tablet/down", secret));
    assert_eq!(late["code"], "used_up");
    let token = answer["token"].as_str().expect("a token");
    let mut enters =
        stage.gateway.mosquitto("mosquitto_pub", "kiosk-SN-7:board@org%23app", "org%23app/kiosk-SN-7", token);
    let state = r#"{"v":1,"online":true,"nonce":"n"}"#;
    let output = enters.args(["-t", "im/v1/org%23app/kiosk-SN-7/board/state", "-m", state]).output().expect("ran");
    assert!(output.status.success(), "{output:?}");
    let mut other =
        stage.gateway.mosquitto("mosquitto_pub", "kiosk-SN-7:tablet@org%23app", "org%23app/kiosk-SN-7", token);
    assert!(!other.args(["-t", "x", "-m", "y"]).output().expect("ran").status.success(), "for this device alone");
}

#[test]
fn an_agent_that_waits_takes_a_configuration_as_well_and_stops_when_it_is_told() {
    let stage = Stage::new();
    let home = stage.dir.path().join("a");
    let mut board = stage.board("a", "SN-10001");
    Agent::configure(&home, &format!("mqtts://localhost:{}", stage.gateway.port()), Path::new(stage.gateway.ca()), "");
    board.agent.process.signal(rustix::process::Signal::HUP);
    board.agent.process.event("agent.started");
    assert!(board.agent.process.terminate().success());
    let other = stage.dir.path().join("b");
    Board::prepare(&other, "SN-10002", "");
    let check = |more: &[&str]| impush(&other).args([&["config", "check"], more].concat()).output().expect("ran");
    assert!(check(&["--may-enrol"]).status.success());
    assert_eq!(check(&[]).status.code(), Some(78));
    let mut waiting = Board::waiting(&other);
    assert!(waiting.agent.process.terminate().success());
    assert!(!other.join("s").exists(), "its socket goes with it");
}

#[test]
fn whoever_guesses_codes_is_held_back_by_address_and_nobody_else_is() {
    let stage = Stage::new();
    let code = EnrolCode::read(&stage.code(&["--uses", "9", "--user", "kiosk-{device}"])).expect("a code");
    let show = |secret: &str, device: &str, from: &str| {
        let body = json!({"secret": secret, "device_id": device, "serial": ""});
        let url = format!("{}/enrol", stage.rest.base);
        let (status, answer) = stage.rest.ask_with("POST", &url, &[("x-forwarded-for", from)], Some(&body));
        (status, answer["error"].as_str().unwrap_or_default().to_owned())
    };
    let mut guesses = 0;
    while show(&format!("{guesses:032x}"), "d", "192.0.2.1") == (401, "unknown".to_owned()) {
        guesses += 1;
        assert!(guesses < 200);
    }
    assert_eq!(guesses, 101);
    assert_eq!(show(code.secret.expose(), "d", "192.0.2.1"), (429, "held_back".to_owned()), "the right one neither");
    assert_eq!(show(code.secret.expose(), "d", "192.0.2.2").0, 200);
    // At the gateway's own endpoint the address is the peer's.
    for guess in 0..guesses {
        show(&format!("{guess:032x}"), "d", "127.0.0.1");
    }
    let board = stage.board("a", "SN-10001");
    let text = code.write().expect("a code");
    assert_eq!(board.refused(text.expose()), ("held_back".to_owned(), Some(75)));
}

#[test]
fn a_program_makes_codes_for_its_own_app_and_a_reader_only_sees_them() {
    let stage = Stage::new();
    let token_of = |scope: &str| {
        let made = stage.rest.ok("POST", "clients", Some(&json!({"name": scope, "scope": scope})));
        let data = &made["data"];
        let grant = json!({"grant_type": "client_credentials", "client_id": data["client_id"], "client_secret": data["client_secret"]});
        let answer = stage.rest.ok("POST", "token", Some(&grant));
        (answer["access_token"].as_str().expect("a token").to_owned(), data["client_id"].clone())
    };
    let ((app, id), (reader, _)) = (token_of("app"), token_of("read"));
    let url = format!("{}/enrol-codes", stage.rest.base);
    let body = json!({"user": "kiosk-{serial}", "uses": 3});
    let (status, made) = stage.rest.ask_as(&app, "POST", &url, Some(&body));
    assert_eq!((status, &made["data"]["created_by"]), (200, &id));
    assert_eq!(stage.rest.ask_as(&reader, "POST", &url, Some(&body)).0, 403);
    let (status, listed) = stage.rest.ask_as(&reader, "GET", &url, None);
    assert_eq!(status, 200);
    assert!(!listed.to_string().contains("impush-enrol-1."), "{listed}");
    let other = url.replace("/org/app/", "/org/other/");
    assert_eq!(stage.rest.ask_as(&app, "POST", &other, Some(&body)).0, 403);
    for bad in [
        json!({"user": "kiosk", "uses": 2}),
        json!({"user": "{imei}"}),
        json!({"user": "{serial}", "uses": 0}),
        json!({"user": "{serial}", "server": "mqtt://a"}),
        json!({"user": "{serial}", "rest": "http://a"}),
        json!({"user": "{serial}", "ca": "no certificate"}),
        json!({"user": "{serial}", "expires_s": 0}),
    ] {
        assert_eq!(stage.rest.ask_as(&app, "POST", &url, Some(&bad)).0, 400, "{bad}");
    }
    let revoked = format!("{url}/{}", made["data"]["id"].as_str().expect("an id"));
    assert_eq!(stage.rest.ask_as(&reader, "DELETE", &revoked, None).0, 403);
    assert_eq!(stage.rest.ask_as(&app, "DELETE", &revoked, None).0, 200);
}

/// What stands before the REST API in earnest: TLS in, plain HTTP out.
struct Front {
    port: u16,
    _runtime: tokio::runtime::Runtime,
}

impl Front {
    fn start(made: &Certificates, api: &str) -> Self {
        use rustls::pki_types::pem::PemObject as _;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        // The authority comes along, as nginx's ssl_certificate has it when it is pinned.
        let chain = [&made.chain, &made.ca].map(|path| CertificateDer::from_pem_file(path).expect("a certificate"));
        let key = PrivateKeyDer::from_pem_file(&made.key).expect("a key");
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(chain.to_vec(), key)
            .expect("a pair");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("made");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("bound");
        let (port, api) = (listener.local_addr().expect("an address").port(), api.replace("http://", ""));
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, api) = (acceptor.clone(), api.clone());
                tokio::spawn(async move {
                    let (Ok(mut inside), Ok(mut outside)) =
                        (acceptor.accept(socket).await, tokio::net::TcpStream::connect(api).await)
                    else {
                        return;
                    };
                    drop(tokio::io::copy_bidirectional(&mut inside, &mut outside).await);
                });
            }
        });
        Self { port, _runtime: runtime }
    }
}

#[test]
fn where_the_broker_is_somebody_elses_a_code_is_exchanged_over_rest_with_tls() {
    if !support::has("mosquitto") {
        return support::skipped("where_the_broker_is_somebody_elses", "mosquitto is not installed");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let directory = |name: &str| -> PathBuf {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).expect("made");
        path
    };
    let (certified, elsewhere) = (directory("certified"), directory("elsewhere"));
    let (made, other) = (certificates(&certified, Flaw::None), certificates(&elsewhere, Flaw::None));
    let broker = Mosquitto::start(&certified, &made);
    let url = format!("mqtts://localhost:{}", broker.tls);
    let home = dir.path().join("g");
    std::fs::create_dir(&home).expect("made");
    std::fs::write(
        home.join("gateway.toml"),
        format!(
            "[api]\nlisten = '127.0.0.1:{}'\n[broker]\nurl = '{url}'\nca_file = '{}'\n[paths]\nstate = '{}'\n",
            support::free_port(),
            made.ca.display(),
            home.join("state").display(),
        ),
    )
    .expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
    let mut process =
        Process::start(command.arg("--config").arg(home.join("gateway.toml")).args(["serve", "--announce"]), false);
    let reach: Value = process.wait_for("the addresses", |line| serde_json::from_str(line).ok());
    let gateway = Gateway { process, home, reach };
    let api = gateway.reach["api"].as_str().expect("an address");
    let (front, impostor) = (Front::start(&made, api), Front::start(&other, api));
    let refused = gateway.run(&["enrol-code", "create", "--app", "org/app"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("https://"), "{refused:?}");
    let rest = |front: &Front| format!("https://localhost:{}", front.port);
    let ca = made.ca.to_str().expect("a path");
    let make = |front: &Front| {
        gateway.ok(&["enrol-code", "create", "--app", "org/app", "--rest", &rest(front), "--ca-file", ca])
    };
    let mut board = Board::start(&dir.path().join("a"), "S-42");
    assert_eq!(board.refused(&make(&impostor)), ("tls_untrusted".to_owned(), Some(76)));
    let code = make(&front);
    assert_eq!(EnrolCode::read(&code).expect("a code").url(), url);
    let said = board.enrols(&code);
    assert!(said.contains("enrolled as S-42 "), "{said}");
    assert_eq!(board.agent.process.event("link.up")["server"], url.as_str());
    let next = Board::start(&dir.path().join("b"), "S-43");
    assert_eq!(next.refused(&code), refusal("used_up"));
}
