//! A scripted broker that does what real ones have done to real clients: each fault here once broke
//! one.

mod support;

use impush::keepalive::Cause;
use impush::mqtt::{ConnectOptions, Endpoint, Incoming, client_config, dial, handshake};
use impush::names::Names;
use impush::secret::Secret;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;
use support::{Agent, Flaw, LIMIT, certificates};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

const CONNACK: &[u8] = &[0x20, 0x03, 0x00, 0x00, 0x00];
const CONNACK_SESSION_PRESENT: &[u8] = &[0x20, 0x03, 0x01, 0x00, 0x00];
const TAKEN_OVER: &[u8] = &[0xe0, 0x01, 0x8e];
const SERVER_SHUTTING_DOWN: &[u8] = &[0xe0, 0x01, 0x8b];

/// CONNACK with a server keep alive (property 19) of so many seconds.
fn connack_keep_alive(seconds: u16) -> Vec<u8> {
    let [high, low] = seconds.to_be_bytes();
    vec![0x20, 0x06, 0x00, 0x00, 0x03, 0x13, high, low]
}

struct Script {
    listener: TcpListener,
}

struct Peer(TcpStream);

impl Script {
    fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").expect("a port") }
    }

    fn agent(&self, dir: &Path, extra: &str) -> Agent {
        let port = self.listener.local_addr().expect("an address").port();
        Agent::configure(&dir.join("a"), &format!("mqtt://127.0.0.1:{port}"), &certificates(dir, Flaw::None).ca, extra);
        let agent = Agent::start(&dir.join("a"));
        agent.login("ann", "secret");
        agent
    }

    fn accept(&self) -> Peer {
        let (stream, _) = self.listener.accept().expect("accepted");
        stream.set_read_timeout(Some(LIMIT)).expect("set");
        Peer(stream)
    }
}

impl Peer {
    /// Type and body of the next packet.
    fn packet(&mut self) -> (u8, Vec<u8>) {
        let mut byte = [0];
        self.0.read_exact(&mut byte).expect("a packet");
        let kind = byte[0] >> 4;
        let (mut length, mut shift) = (0, 0);
        loop {
            self.0.read_exact(&mut byte).expect("a length");
            length |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a body");
        (kind, body)
    }

    fn expect(&mut self, kind: u8) -> Vec<u8> {
        let (found, body) = self.packet();
        assert_eq!(found, kind, "packet type");
        body
    }

    /// Takes the subscription, without which no link stands.
    fn subscribe(&mut self) {
        let subscribe = self.expect(8);
        self.say(&[0x90, 0x04, subscribe[0], subscribe[1], 0x00, 0x01]);
    }

    fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("written");
    }
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[test]
fn a_broker_that_never_answers_a_ping_is_left_by_that_name() {
    let (script, dir) = (Script::new(), dir());
    let mut agent = script.agent(dir.path(), "[keep_alive]\nstart_s = 5\nfloor_s = 5\n");
    let mut peer = script.accept();
    peer.expect(1);
    peer.say(CONNACK_SESSION_PRESENT);
    // Everything but the ping is answered.
    let subscribe = peer.expect(8);
    peer.say(&[0x90, 0x04, subscribe[0], subscribe[1], 0x00, 0x01]);
    for _ in 0..2 {
        let body = peer.expect(3);
        let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
        peer.say(&[0x40, 0x02, body[2 + topic], body[3 + topic]]);
    }
    peer.expect(12);
    let event = agent.process.event("link.down");
    assert_eq!((&event["cause"], &event["number"]), (&json!("pong_lost"), &json!(1)));
    script.accept();
}

#[test]
fn a_broker_that_closes_what_it_accepted_is_tried_ever_more_slowly() {
    let (script, dir) = (Script::new(), dir());
    let mut agent = script.agent(dir.path(), "");
    let mut last = 0.0;
    for round in 0..3 {
        let mut peer = script.accept();
        peer.expect(1);
        peer.say(CONNACK);
        peer.subscribe();
        drop(peer);
        let event = agent.process.wait_for("a plan", |line| {
            let value: serde_json::Value = serde_json::from_str(line).ok()?;
            (value["event"] == "link.down").then_some(value)
        });
        assert_eq!(event["cause"], "peer_closed");
        let pause = event["next_attempt_s"].as_f64().expect("a pause");
        assert!(pause >= last, "round {round}: {pause} after {last}");
        last = pause;
    }
    assert!(last >= 30.0, "three links that fell at once point to the server: {last}");
}

#[test]
fn a_server_keep_alive_of_seven_is_obeyed_and_zero_starts_no_storm() {
    for (seconds, low, high) in [(7, 1.0, 7.0), (0, 45.0, 45.0)] {
        let (script, dir) = (Script::new(), dir());
        let mut agent = script.agent(dir.path(), "");
        let mut peer = script.accept();
        peer.expect(1);
        peer.say(&connack_keep_alive(seconds));
        peer.subscribe();
        agent.process.event("link.up");
        let heartbeat = agent.status()["heartbeat_s"].as_f64().expect("a number");
        assert!((low..=high).contains(&heartbeat), "server said {seconds}, heartbeat {heartbeat}");
        // The next CONNECT asks for the agent's own again: a server's word holds for one connection.
        peer.say(SERVER_SHUTTING_DOWN);
        drop(peer);
        agent.process.event("link.down");
        let mut peer = script.accept();
        let connect = peer.expect(1);
        assert_eq!(u16::from_be_bytes([connect[8], connect[9]]), 1680);
    }
}

#[test]
fn a_kept_session_saves_the_subscription_and_a_lost_one_is_subscribed_again() {
    let (script, dir) = (Script::new(), dir());
    let mut agent = script.agent(dir.path(), "");
    let mut peer = script.accept();
    peer.expect(1);
    // A session this process knows nothing of may have lost its subscription.
    peer.say(CONNACK_SESSION_PRESENT);
    peer.subscribe();
    for (connack, first) in [(CONNACK_SESSION_PRESENT, 3), (CONNACK, 8)] {
        agent.process.event("link.up");
        peer.expect(3);
        peer.say(SERVER_SHUTTING_DOWN);
        drop(peer);
        agent.process.event("link.down");
        peer = script.accept();
        peer.expect(1);
        peer.say(connack);
        peer.expect(first);
    }
}

#[test]
fn a_message_too_large_to_read_ends_the_session_that_would_send_it_for_ever() {
    let (script, dir) = (Script::new(), dir());
    let mut agent = script.agent(dir.path(), "");
    let mut peer = script.accept();
    let connect = peer.expect(1);
    assert_eq!(connect[7] & 0x02, 0, "a session is asked for");
    peer.say(CONNACK_SESSION_PRESENT);
    // A PUBLISH that announces two million bytes.
    peer.say(&[0x32, 0xff, 0xff, 0x7f]);
    let event = agent.process.event("link.down");
    assert_eq!(event["cause"], "protocol_error");
    assert!(event["next_attempt_s"].as_f64().expect("a pause") >= 30.0, "no storm: {event}");
    agent.ok(&["reconnect"]);
    let connect = script.accept().expect(1);
    assert_eq!(connect[7] & 0x02, 0x02, "the poisoned session is given up");
}

#[test]
fn a_connection_taken_over_is_not_fought_for() {
    let (script, dir) = (Script::new(), dir());
    let mut agent = script.agent(dir.path(), "");
    let mut peer = script.accept();
    peer.expect(1);
    peer.say(CONNACK);
    peer.say(TAKEN_OVER);
    assert_eq!(agent.process.event("link.down")["cause"], "taken_over");
    let status = agent.status();
    // Whoever took over is left alone for minutes; the login itself is as good as before.
    assert_eq!(status["state"], "waiting");
    assert!(status["next_attempt"]["base_s"].as_f64().is_some_and(|base| base >= 60.0), "{status}");
    agent.ok(&["reconnect"]);
    script.accept().expect(1);
}

#[test]
fn an_old_broker_and_a_refused_password_are_named() {
    for (answer, cause, event) in [
        (&[0x20, 0x02, 0x00, 0x01][..], "not_mqtt5", "link.down"),
        (&[0x20, 0x03, 0x00, 0x86, 0x00], "bad_credentials", "link.stopped"),
    ] {
        let (script, dir) = (Script::new(), dir());
        let mut agent = script.agent(dir.path(), "");
        let mut peer = script.accept();
        peer.expect(1);
        peer.say(answer);
        assert_eq!(agent.process.event(event)["cause"], cause);
    }
}

fn options() -> ConnectOptions {
    ConnectOptions {
        client_id: "c".into(),
        user_name: "u".into(),
        password: Secret::new("p"),
        keep_alive_s: 60,
        session_expiry_s: 0,
        clean_start: true,
        will: None,
    }
}

/// The far end of an in-memory pipe that has accepted the connection.
async fn accepted(buffer: usize, connack: &'static [u8]) -> (impush::mqtt::Connection<DuplexStream>, DuplexStream) {
    let (near, mut far) = tokio::io::duplex(buffer);
    let accept = async move {
        let mut bytes = vec![0; 1024];
        let _ = far.read(&mut bytes).await.expect("CONNECT");
        far.write_all(connack).await.expect("CONNACK");
        far
    };
    let options = options();
    let (connected, far) = tokio::join!(handshake(near, &options, LIMIT), accept);
    (connected.expect("connected").0, far)
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_reading_cannot_hang_the_agent() {
    let (mut connection, _far) = accepted(256, CONNACK).await;
    let error = loop {
        match connection.publish("t", vec![0; 100], false).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.cause, Cause::WriteStalled);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_accepts_and_says_nothing_ends_in_a_connect_timeout() {
    let (near, _far) = tokio::io::duplex(4096);
    let error = handshake(near, &options(), Duration::from_secs(20)).await.expect_err("no answer");
    assert_eq!(error.cause, Cause::ConnectTimeout);
}

#[tokio::test]
async fn a_small_receive_window_is_never_overrun_and_everything_is_sent_in_the_end() {
    // CONNACK with receive maximum (property 33) of 2.
    let (mut connection, mut far) = accepted(65_536, &[0x20, 0x06, 0x00, 0x00, 0x03, 0x21, 0x00, 0x02]).await;
    for n in 0..5_u8 {
        connection.publish("t", vec![n], false).await.expect("sent or queued");
    }
    let mut received = Vec::new();
    let mut bytes = [0; 1024];
    while received.len() < 5 {
        let read = far.read(&mut bytes).await.expect("read");
        // Each PUBLISH: 32 len 00 01 't' id id 00 payload.
        let packets: Vec<&[u8]> = bytes[..read].chunks(9).collect();
        assert!(packets.len() <= 2, "{} at once", packets.len());
        for packet in packets {
            received.push(packet[8]);
            far.write_all(&[0x40, 0x02, packet[5], packet[6]]).await.expect("PUBACK");
            let heard = connection.next().await.expect("heard");
            assert!(matches!(heard, Incoming::Published { refused: None, .. }));
            connection.send_queued().await.expect("sent");
        }
    }
    assert_eq!(received, [0, 1, 2, 3, 4]);
    assert_eq!(connection.unacknowledged(), 0);
}

#[tokio::test]
async fn a_server_that_never_finishes_the_tls_handshake_is_left_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let dir = dir();
    let tls = client_config(Some(&certificates(dir.path(), Flaw::None).ca), None).expect("a configuration");
    let endpoint = Endpoint {
        host: "localhost".into(),
        port: listener.local_addr().expect("an address").port(),
        tls: true,
        path: None,
    };
    let error =
        dial(&endpoint, None, &Names::default(), &tls, Duration::from_millis(200)).await.expect_err("no handshake");
    assert_eq!(error.cause, Cause::ConnectTimeout);
}

#[test]
fn a_server_that_names_another_is_followed_and_a_fallback_joins_when_the_first_is_silent() {
    let (script, other, dir) = (Script::new(), Script::new(), dir());
    // It accepts, and never says a word of TLS.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let dead = silent.local_addr().expect("an address").port();
    let port = |script: &Script| script.listener.local_addr().expect("an address").port();
    let ca = certificates(dir.path(), Flaw::None).ca;
    // The fallback answers and sends the device to a third.
    Agent::configure(&dir.path().join("a"), &format!("mqtts://localhost:{dead}"), &ca, "");
    let file = dir.path().join("a/impush.toml");
    let text = std::fs::read_to_string(&file).expect("read");
    let text =
        text.replacen("[server]", &format!("[server]\nfallback_urls = ['mqtt://127.0.0.1:{}']", port(&script)), 1);
    std::fs::write(&file, text).expect("written");
    let mut agent = Agent::start(&dir.path().join("a"));
    agent.login("ann", "secret");
    let mut peer = script.accept();
    peer.expect(1);
    // CONNACK 0x9C with a server reference (property 28).
    let reference = format!("127.0.0.1:{}", port(&other));
    let mut answer = vec![0x20, 0, 0x00, 0x9c, 3 + reference.len() as u8, 0x1c, 0, reference.len() as u8];
    answer.extend(reference.as_bytes());
    answer[1] = answer.len() as u8 - 2;
    peer.say(&answer);
    let event = agent.process.event("server.redirected");
    assert_eq!(event["to"], format!("mqtts://{reference}"));
    // It speaks TLS there: the first byte of a handshake record.
    let mut byte = [0];
    other.accept().0.read_exact(&mut byte).expect("a TLS record");
    assert_eq!(byte[0], 0x16);
}

/// A proxy that opens one way and relays it; answers in its protocol's words.
async fn proxy(listener: tokio::net::TcpListener, socks: bool) -> Vec<u8> {
    let (mut device, _) = listener.accept().await.expect("accepted");
    let mut bytes = [0; 1024];
    let target = if socks {
        // Greeting with the password method, the login, the request for a name.
        let _ = device.read(&mut bytes).await.expect("a greeting");
        device.write_all(&[5, 2]).await.expect("method");
        let _ = device.read(&mut bytes).await.expect("a login");
        device.write_all(&[1, 0]).await.expect("welcome");
        let read = device.read(&mut bytes).await.expect("a request");
        let port = u16::from_be_bytes([bytes[read - 2], bytes[read - 1]]);
        device.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.expect("opened");
        port
    } else {
        let read = device.read(&mut bytes).await.expect("a request");
        let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
        assert!(text.contains("Proxy-Authorization: Basic YW5uOnNlY3JldA=="), "{text}");
        device.write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n").await.expect("opened");
        text.split([':', ' ']).nth(2).and_then(|port| port.parse().ok()).expect("a port")
    };
    let mut server = tokio::net::TcpStream::connect(("127.0.0.1", target)).await.expect("connected");
    let _ = tokio::io::copy_bidirectional(&mut device, &mut server).await;
    bytes.to_vec()
}

#[tokio::test]
async fn both_kinds_of_proxy_lead_to_the_server_and_a_refusal_is_named() {
    let dir = dir();
    let tls = client_config(Some(&certificates(dir.path(), Flaw::None).ca), None).expect("a configuration");
    for (scheme, socks) in [("http", false), ("socks5", true)] {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let way = format!("{scheme}://ann:secret@127.0.0.1:{}", listener.local_addr().expect("an address").port());
        let way = way.parse().expect("a proxy");
        tokio::spawn(proxy(listener, socks));
        let endpoint = Endpoint {
            host: "localhost".into(),
            port: server.local_addr().expect("an address").port(),
            tls: false,
            path: None,
        };
        let accept = async {
            let (mut far, _) = server.accept().await.expect("accepted");
            let mut bytes = vec![0; 1024];
            let _ = far.read(&mut bytes).await.expect("CONNECT");
            far.write_all(CONNACK).await.expect("CONNACK");
            far
        };
        let connect = async {
            let stream = dial(&endpoint, Some(&way), &Names::default(), &tls, LIMIT).await.expect("a way through");
            handshake(stream, &options(), LIMIT).await.expect("connected")
        };
        tokio::join!(connect, accept);
    }
    let refusing = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let way =
        format!("http://127.0.0.1:{}", refusing.local_addr().expect("an address").port()).parse().expect("a proxy");
    tokio::spawn(async move {
        let (mut device, _) = refusing.accept().await.expect("accepted");
        let mut bytes = [0; 1024];
        let _ = device.read(&mut bytes).await;
        let _ = device.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
    });
    let endpoint = Endpoint { host: "localhost".into(), port: 1, tls: false, path: None };
    let error = dial(&endpoint, Some(&way), &Names::default(), &tls, LIMIT).await.expect_err("refused");
    assert_eq!(error.cause, Cause::ProxyRefused);
    assert!(error.detail.contains("407"), "{error}");
}

#[test]
fn a_hangup_changes_the_log_level_names_the_rest_and_refuses_a_broken_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = dir.path().join("a");
    let certificates = certificates(dir.path(), Flaw::None);
    Agent::configure(&home, "mqtts://localhost:1", &certificates.ca, "");
    let mut agent = Agent::start(&home);
    let file = home.join("impush.toml");
    let old = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, format!("level = [{old}")).expect("written");
    agent.process.signal(rustix::process::Signal::HUP);
    agent.process.event("config.refused");
    let new = old.replace("level = 'debug'", "level = 'warn'");
    std::fs::write(&file, format!("{new}\n[keep_alive]\nceiling_s = 200\n")).expect("written");
    agent.process.signal(rustix::process::Signal::HUP);
    assert_eq!(agent.process.event("config.reloaded")["level"], "warn");
    assert_eq!(agent.process.event("config.needs_restart")["keys"], "keep_alive.ceiling_s");
    agent.run(&["logout"]);
    agent.process.terminate();
    let quiet = agent.process.rest();
    let last = quiet.iter().rposition(|line| line.contains("config.needs_restart")).expect("it was said");
    assert!(quiet[last + 1..].iter().all(|line| !line.contains("\"INFO\"")), "{:#?}", &quiet[last..]);
}
