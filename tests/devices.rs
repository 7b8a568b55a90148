//! The gateway's own MQTT endpoint, from outside: peers that say nothing or nonsense, foreign clients, and its end.

mod support;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use support::{Agent, Flaw, Gateway, Process, Rest, certificates, has, skipped};

/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(30);

fn tcp(port: &str) -> TcpStream {
    let stream = TcpStream::connect(format!("127.0.0.1:{port}")).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

fn tls(port: &str, ca: &Path) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).expect("a file") {
        roots.add(certificate.expect("a certificate")).expect("an authority");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).expect("a client"), tcp(port))
}

/// Settings for a gateway that logs into a file of its home.
fn logging(home: &Path, level: &str) -> String {
    format!("[log]\nlevel = '{level}'\nfile = '{}'\n", home.join("log").display())
}

fn log_of(gateway: &Gateway) -> String {
    std::fs::read_to_string(gateway.home.join("log")).unwrap_or_default()
}

/// What comes until the other side closes.
fn answer(port: &str, ca: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = tls(port, ca);
    stream.write_all(bytes).expect("written");
    stream.flush().expect("written");
    let mut answer = Vec::new();
    // A close without TLS's own goodbye is a close.
    drop(stream.read_to_end(&mut answer));
    answer
}

#[test]
fn silent_connections_stop_no_login_and_a_look_at_the_port_is_no_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut gateway = Gateway::start(&dir.path().join("g"), &logging(&dir.path().join("g"), "info"));
    let port = gateway.port();
    let silent: Vec<TcpStream> = (0..300).map(|_| tcp(&port)).collect();
    let half: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = tls(&port, Path::new(gateway.ca()));
            stream.flush().expect("a handshake begun");
            stream
        })
        .collect();
    drop(tcp(&port));
    let home = dir.path().join("a");
    Agent::configure(&home, &format!("mqtts://localhost:{port}"), Path::new(gateway.ca()), "");
    let agent = Agent::start(&home);
    agent.login("ann", &gateway.user("ann"));
    let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
    let body = json!({"to": ["ann"], "body": {"type": "txt", "msg": "beside the silent"}});
    let id = rest.ok("POST", "messages/users", Some(&body))["data"]["ann"].as_str().expect("an id").to_owned();
    rest.traced(&id, &["acked"]);
    drop((silent, half));
    gateway.process.terminate();
    let log = log_of(&gateway);
    assert!(log.contains("gateway.stopped") && !log.contains("ERROR"), "{log}");
}

#[test]
fn what_is_no_client_of_mqtt_5_is_told_so_in_its_own_words() {
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(&dir.path().join("g"), "");
    let (port, ca) = (gateway.port(), Path::new(gateway.ca()));
    let old = [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 1, b'c'];
    assert_eq!(answer(&port, ca, &old), [0x20, 2, 0, 1]);
    let endless = answer(&port, ca, &[0x30, 0x80, 0x84, 0xaf, 0x5f]);
    assert_eq!((endless[0], endless[3]), (0x20, 0x95), "{endless:?}");
    let zero = [0x10, 17, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 3, 0x21, 0, 0, 0, 1, b'c'];
    let refused = answer(&port, ca, &zero);
    assert_eq!((refused[0], refused[3]), (0x20, 0x82), "{refused:?}");
    assert_eq!(answer(&port, ca, &[0xc0, 0]), [0_u8; 0], "a ping before CONNECT");
    let web = answer(&port, ca, b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    assert!(String::from_utf8_lossy(&web).starts_with("HTTP/1.1 404"), "{}", String::from_utf8_lossy(&web));
    let rest = Rest::new(&gateway.reach, ca);
    let metrics = rest.text("/metrics");
    for why in
        ["MQTT before version 5", "a packet that is too large", "a receive maximum of 0", "code=\"PacketTooLarge\""]
    {
        assert!(metrics.contains(why), "{why} is not counted: {metrics}");
    }
}

#[test]
fn a_device_comes_in_through_a_websocket_of_the_same_port() {
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(&dir.path().join("g"), "");
    let home = dir.path().join("a");
    let url = format!("wss://localhost:{}/mqtt", gateway.port());
    Agent::configure(&home, &url, Path::new(gateway.ca()), "");
    let agent = Agent::start(&home);
    agent.login("ann", &gateway.user("ann"));
    let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
    let body = json!({"to": ["ann"], "body": {"type": "txt", "msg": "through the web"}});
    let id = rest.ok("POST", "messages/users", Some(&body))["data"]["ann"].as_str().expect("an id").to_owned();
    rest.traced(&id, &["acked"]);
}

fn subscriber(gateway: &Gateway, token: &str) -> Process {
    let plain = gateway.mosquitto("mosquitto_sub", "ann:phone@org%23app", "org%23app/ann", token);
    // Into a pipe it would say everything at its end.
    let mut command = Command::new("stdbuf");
    command.args(["-oL", "mosquitto_sub"]).args(plain.get_args());
    Process::start(command.args(["-d", "-t", "im/v1/org%23app/ann/phone/down"]), false)
}

#[test]
fn a_later_connection_takes_a_devices_place_and_the_gateways_end_is_said() {
    if !has("mosquitto_sub") {
        let test = "a_later_connection_takes_a_devices_place_and_the_gateways_end_is_said";
        return skipped(test, "mosquitto's clients are not installed");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut gateway = Gateway::start(&dir.path().join("g"), "");
    let token = gateway.user("ann");
    let mut first = subscriber(&gateway, &token);
    first.wait_for("SUBACK", |line| line.contains("received SUBACK").then_some(()));
    let mut second = subscriber(&gateway, &token);
    second.wait_for("SUBACK", |line| line.contains("received SUBACK").then_some(()));
    // mosquitto's client numbers the reason: 142 is 0x8E, session taken over; 139 is 0x8B, server shutting down.
    first.wait_for("the takeover", |line| line.contains("Received DISCONNECT (142)").then_some(()));
    gateway.process.terminate();
    second.wait_for("the goodbye", |line| line.contains("Received DISCONNECT (139)").then_some(()));
}

#[test]
fn a_replaced_certificate_is_served_after_a_hangup_and_a_broken_one_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(&path).expect("made");
        path
    };
    let files = certificates(&place("one"), Flaw::None);
    let home = dir.path().join("g");
    std::fs::create_dir_all(&home).expect("made");
    let config = home.join("gateway.toml");
    let port = support::free_port().to_string();
    let text = format!(
        "[api]\nlisten = '127.0.0.1:0'\n[broker]\nlisten = '127.0.0.1:{port}'\ncertificate = '{}'\nkey = '{}'\n\
         [paths]\nstate = '{}'\n[log]\nformat = 'json'\n",
        files.chain.display(),
        files.key.display(),
        home.join("state").display()
    );
    std::fs::write(&config, text).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
    let mut gateway = Process::start(command.arg("--config").arg(&config).arg("serve"), true);
    gateway.event("gateway.started");
    let answers = |ca: &Path| !answer(&port, ca, &[0x30, 0x80, 0x84, 0xaf, 0x5f]).is_empty();
    assert!(answers(&files.ca));
    let other = certificates(&place("two"), Flaw::None);
    std::fs::copy(&other.chain, &files.chain).expect("copied");
    std::fs::copy(&other.key, &files.key).expect("copied");
    gateway.signal(rustix::process::Signal::HUP);
    gateway.event("endpoint.certificate_reloaded");
    assert!(answers(&other.ca));
    std::fs::write(&files.chain, "nothing").expect("written");
    gateway.signal(rustix::process::Signal::HUP);
    gateway.event("endpoint.certificate_refused");
    assert!(answers(&other.ca), "the one before stays");
}

#[test]
fn a_device_that_says_too_much_is_read_more_slowly_and_nobody_else_notices() {
    if !has("mosquitto_pub") {
        let test = "a_device_that_says_too_much_is_read_more_slowly_and_nobody_else_notices";
        return skipped(test, "mosquitto's clients are not installed");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(&dir.path().join("g"), "");
    let home = dir.path().join("a");
    Agent::configure(&home, &format!("mqtts://localhost:{}", gateway.port()), Path::new(gateway.ca()), "");
    let agent = Agent::start(&home);
    agent.login("ann", &gateway.user("ann"));
    let mut flood = gateway.mosquitto("mosquitto_pub", "eve:phone@org%23app", "org%23app/eve", &gateway.user("eve"));
    flood.args(["-q", "0", "-t", "im/v1/org%23app/eve/phone/up", "-l"]).stdin(std::process::Stdio::piped());
    let mut flood = flood.spawn().expect("started");
    let mut words = flood.stdin.take().expect("piped");
    let feeder = std::thread::spawn(move || {
        let word = json!({"v": 1, "type": "presence", "presence": "attached"}).to_string();
        // Until it takes no more, or is ended.
        while writeln!(words, "{word}").is_ok() {}
    });
    let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
    let pauses = || {
        let metrics = rest.text("/metrics");
        let line = metrics.lines().find(|line| line.contains("read more slowly"));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    };
    // Each but the first comes after a pause that has ended.
    support::eventually("the flood is read more slowly", || pauses() >= 3.0);
    let body = json!({"to": ["ann"], "body": {"type": "txt", "msg": "beside the flood"}});
    let id = rest.ok("POST", "messages/users", Some(&body))["data"]["ann"].as_str().expect("an id").to_owned();
    rest.traced(&id, &["acked"]);
    drop(flood.kill());
    drop(flood.wait());
    drop(feeder.join());
}

#[test]
fn what_is_known_of_a_connection_stands_beside_its_device_and_in_the_metrics() {
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(&dir.path().join("g"), "");
    let home = dir.path().join("a");
    Agent::configure(&home, &format!("mqtts://localhost:{}", gateway.port()), Path::new(gateway.ca()), "");
    let mut agent = Agent::start(&home);
    let before = now_ms();
    agent.login("ann", &gateway.user("ann"));
    agent.process.event("link.up");
    let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
    let id = gateway.ok(&["send", "--app", "org/app", "ann", "timed"]);
    rest.traced(&id, &["acked"]);
    let device = || rest.ok("GET", "users/ann/devices", None)["entities"][0].clone();
    support::eventually("its round trip is known", || device()["connection"]["round_trip_ms"].is_number());
    let known = device();
    let connection = &known["connection"];
    let number = |of: &Value, key: &str| of[key].as_u64().unwrap_or_else(|| panic!("{key} of {of}"));
    assert_eq!(connection["held_by"], "here");
    assert!(before <= number(connection, "since_ms"), "{connection}");
    assert!(number(connection, "since_ms") <= number(connection, "heard_ms"), "{connection}");
    assert!(number(connection, "heard_ms") <= now_ms() && known["last_end"].is_null(), "{known}");
    assert!(number(connection, "bytes_in") > 100 && number(connection, "bytes_out") > 100, "{connection}");
    assert!(connection["round_trip_ms"].as_f64().is_some_and(|ms| ms > 0.0 && ms < 30_000.0), "{connection}");
    let name = known["device_id"].as_str().expect("an id");
    let shown: Value =
        serde_json::from_str(&gateway.ok(&["device", "--app", "org/app", "ann", name])).expect("one line of JSON");
    assert_eq!(shown["connection"]["since_ms"], connection["since_ms"]);
    assert_eq!(rest.ask("GET", &format!("{}/users/ann/devices/nobody", rest.base), None).0, 404);
    agent.process.kill();
    support::eventually("its end is known", || device()["last_end"]["cause"].is_string());
    let known = device();
    assert_eq!(known["last_end"]["cause"], "the client closed without a goodbye", "{known}");
    assert!(number(&known["last_end"], "at_ms") >= number(&known["last_end"], "since_ms"));
    support::eventually("it is offline", || device()["connection"].is_null());
    let mut agent = Agent::start(&home);
    agent.process.event("link.up");
    support::eventually("it is back", || device()["connection"]["held_by"] == "here");
    assert_eq!(device()["last_end"], known["last_end"]);
    gateway.ok(&["kick", "--app", "org/app", "ann"]);
    support::eventually("its login's end is known", || device()["last_end"]["cause"] == "its login ended");
    let metrics = rest.text("/metrics");
    for line in [
        "impush_gateway_connections 0",
        "impush_gateway_connections_ended_total{cause=\"its login ended\"} 1",
        "impush_gateway_connections_ended_total{cause=\"the client closed without a goodbye\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains("impush_gateway_connection_round_trip_seconds_count 0"), "{metrics}");
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    u64::try_from(since.as_millis()).expect("a time")
}

/// A header of the PROXY protocol for 192.0.2.7:40000, or, as a load balancer's own check, for nobody.
fn proxy_header(command: u8, more: &[u8]) -> Vec<u8> {
    let addresses = [192, 0, 2, 7, 192, 0, 2, 1, 0x9c, 0x40, 0x22, 0xb3];
    let length = u16::try_from(addresses.len() + more.len()).expect("short").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, 0x11][..], &length, &addresses, more].concat()
}

/// Before the gateway, as a load balancer is: says for whom it comes, in pieces, and passes on what follows.
fn balancer(to: String) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let mut far = tcp(&to);
            far.set_nodelay(true).expect("set");
            far.set_read_timeout(None).expect("set");
            for piece in proxy_header(0x21, &[4, 0, 2, 0, 0]).chunks(5) {
                far.write_all(piece).expect("written");
            }
            for (from, to) in [(&near, &far), (&far, &near)] {
                let (mut from, mut to) = (from.try_clone().expect("cloned"), to.try_clone().expect("cloned"));
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    port
}

/// A gateway to which everybody on this machine is a load balancer.
fn behind(home: &Path, level: &str) -> Gateway {
    let environment = [("IMPUSH_GATEWAY_BROKER_PROXY_FROM", "127.0.0.0/8")];
    Gateway::start_in(home, support::free_port(), &logging(home, level), &environment)
}

#[test]
fn a_device_behind_a_load_balancer_comes_in_under_its_own_address() {
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = behind(&dir.path().join("g"), "debug");
    let (home, ca) = (dir.path().join("a"), Path::new(gateway.ca()).to_owned());
    Agent::configure(&home, &format!("mqtts://localhost:{}", balancer(gateway.port())), &ca, "");
    let agent = Agent::start(&home);
    agent.login("ann", &gateway.user("ann"));
    let rest = Rest::new(&gateway.reach, &ca);
    let id = gateway.ok(&["send", "--app", "org/app", "ann", "through a balancer"]);
    rest.traced(&id, &["acked"]);
    let mut broken = tcp(&gateway.port());
    broken.write_all(&[&proxy_header(0x21, &[])[..], b"no TLS at all"].concat()).expect("written");
    drop(broken.read_to_end(&mut Vec::new()));
    support::eventually("the device's own address", || {
        log_of(&gateway).lines().any(|line| line.contains("endpoint.handshake") && line.contains("192.0.2.7:40000"))
    });
}

#[test]
fn a_load_balancer_says_for_whom_it_comes_and_nobody_else_may() {
    let dir = tempfile::tempdir().expect("a directory");
    let behind = behind(&dir.path().join("behind"), "info");
    let open = Gateway::start(&dir.path().join("open"), "");
    let refused = |gateway: &Gateway, bytes: &[u8], why: &str| {
        let mut stream = tcp(&gateway.port());
        stream.write_all(bytes).expect("written");
        let mut answer = Vec::new();
        // What was not read makes it a reset.
        drop(stream.read_to_end(&mut answer));
        assert_eq!(answer, [0_u8; 0], "{why}");
        let line = format!("impush_gateway_input_refused_total{{from=\"connection\",reason=\"{why}\"}} 1");
        let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
        support::eventually(why, || rest.text("/metrics").lines().any(|found| found == line));
    };
    let tls_hello = [0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0];
    refused(&behind, &tls_hello, "no PROXY header");
    refused(&behind, b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 8883\r\n", "a PROXY header of version 1");
    refused(&behind, b"\r\n\r\nQUIT this is no header", "a malformed PROXY header");
    refused(&behind, &proxy_header(0x21, &[0; 5000]), "a PROXY header that is too large");
    refused(&open, &proxy_header(0x21, &[]), "a PROXY header that is not taken from there");
    let cut = tcp(&behind.port());
    (&cut).write_all(&proxy_header(0x21, &[])[..20]).expect("written");
    cut.shutdown(std::net::Shutdown::Write).expect("half closed");
    let rest = Rest::new(&behind.reach, Path::new(behind.ca()));
    support::eventually("a cut header", || rest.text("/metrics").contains("a PROXY header that is cut short"));
}

#[test]
fn a_load_balancers_look_at_the_port_is_neither_counted_nor_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut gateway = behind(&dir.path().join("g"), "info");
    let looks: Vec<_> = (0..5)
        .flat_map(|_| {
            let mut check = tcp(&gateway.port());
            check.write_all(&proxy_header(0x20, &[])).expect("written");
            [check, tcp(&gateway.port())]
        })
        .collect();
    for look in &looks {
        look.shutdown(std::net::Shutdown::Write).expect("half closed");
    }
    // Each is answered with the gateway's own close.
    for mut look in looks {
        drop(look.read_to_end(&mut Vec::new()));
    }
    let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
    let metrics = rest.text("/metrics");
    assert!(!metrics.contains("input_refused_total{from=\"connection\""), "{metrics}");
    gateway.process.terminate();
    let log = log_of(&gateway);
    assert!(log.contains("gateway.stopped") && !log.contains("input.refused"), "{log}");
}
