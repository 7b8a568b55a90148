//! Every vendor against its emulated cloud, through a whole gateway: what goes well, and each way in
//! which it goes wrong, seen in the trace, the binding and the tray.

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use support::{Gateway, Process, Rest, eventually, free_port};

const VENDORS: [&str; 8] = ["xiaomi", "huawei", "meizu", "oppo", "vivo", "honor", "apns", "fcm"];
const PACKAGE: &str = "com.example.app";

struct Clouds {
    _process: Process,
    url: String,
    ca: PathBuf,
}

impl Clouds {
    fn start(dir: &Path) -> Self {
        let ca = dir.join("clouds.pem");
        let mut command = Command::new(env!("CARGO_BIN_EXE_impush-lab"));
        command.args(["clouds", "--listen", "127.0.0.1:0", "--ca-file"]).arg(&ca);
        let mut process = Process::start(&mut command, false);
        let said: Value = process.wait_for("the address", |line| serde_json::from_str(line).ok());
        Self { _process: process, url: said["clouds"].as_str().expect("an address").to_owned(), ca }
    }
}

/// A gateway whose vendors are all at the clouds.
fn gateway(dir: &Path, clouds: &Clouds) -> Gateway {
    gateway_with(dir, clouds, "timeout_ms = 700")
}

/// ... with more settings of the vendors.
fn gateway_with(dir: &Path, clouds: &Clouds, more: &str) -> Gateway {
    gateway_in(dir, clouds, more, &[])
}

/// ... and more variables in its environment.
fn gateway_in(dir: &Path, clouds: &Clouds, more: &str, environment: &[(&str, &str)]) -> Gateway {
    let (port, ca, urls) = (free_port(), clouds.ca.display(), urls(&clouds.url));
    let extra = format!(
        "[vendors]\n{more}\n{urls}ca_file = '{ca}'\nreceipts_url = 'http://127.0.0.1:{port}'\n[log]\nlevel = 'warn'\n"
    );
    Gateway::start_in(dir, port, &extra, environment)
}

/// Every vendor's hosts at the clouds.
fn urls(clouds: &str) -> String {
    let hosts = [
        "xiaomi_url",
        "huawei_oauth_url",
        "huawei_push_url",
        "meizu_url",
        "oppo_url",
        "vivo_url",
        "honor_oauth_url",
        "honor_push_url",
        "apns_url",
        "apns_sandbox_url",
        "fcm_oauth_url",
        "fcm_url",
    ];
    hosts.iter().map(|key| format!("{key} = '{clouds}'\n")).collect()
}

/// Where gateway and clouds are.
struct At {
    reach: Value,
    clouds: String,
    ca: PathBuf,
}

impl At {
    fn new(gateway: &Gateway, clouds: &Clouds) -> Self {
        Self { reach: gateway.reach.clone(), clouds: clouds.url.clone(), ca: clouds.ca.clone() }
    }
}

/// One vendor's account, a user, and what they can be asked.
struct Case {
    vendor: &'static str,
    certificate: String,
    cloud_id: String,
    fields: Value,
    rest: Rest,
    clouds: String,
    devices: u32,
}

impl Case {
    fn new(vendor: &'static str, at: &At) -> Self {
        let rest = Rest::new(&at.reach, &at.ca);
        let (name, cloud_id, fields, keys) = match vendor {
            "xiaomi" | "meizu" => {
                ("288001", "288001", json!({"app_secret": "s", "package": PACKAGE}), json!({"callback_token": "ct"}))
            }
            "huawei" => (
                "104001",
                "104001",
                json!({"client_secret": "s", "callback_user": "u", "callback_secret": "cs"}),
                json!({"callback_user": "u", "callback_secret": "cs"}),
            ),
            "oppo" => ("oppokey", "oppokey", json!({"master_secret": "s"}), json!({})),
            "vivo" => ("10001#key", "10001#key", json!({"app_secret": "s"}), json!({})),
            "honor" => ("90001", "90001", json!({"client_id": "c", "client_secret": "s"}), json!({"client_id": "c"})),
            "fcm" => {
                let key = include_str!("../src/lab/rsa.pem");
                let fields =
                    json!({"private_key": key, "private_key_id": "k", "client_email": "e@p", "project_id": "p1"});
                ("338001", "p1", fields, json!({"private_key_id": "k", "client_email": "e@p"}))
            }
            _ => {
                let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
                let fields = json!({"key": key, "key_id": "KEY1234567", "team_id": "TEAM123456", "bundle_id": PACKAGE});
                ("apple", PACKAGE, fields, json!({"key_id": "KEY1234567", "team_id": "TEAM123456"}))
            }
        };
        // One name belongs to one certificate of an app.
        let name = if vendor == "meizu" { "110001" } else { name };
        let cloud_id = if vendor == "meizu" { "110001" } else { cloud_id };
        let mut fields = fields;
        if vendor == "meizu" {
            fields["callback_token"] = json!("ct");
        }
        let secret = fields["key"].as_str().or(fields["private_key"].as_str()).unwrap_or("s").to_owned();
        let case = Self {
            vendor,
            certificate: name.to_owned(),
            cloud_id: cloud_id.to_owned(),
            fields,
            rest,
            clouds: at.clouds.clone(),
            devices: 0,
        };
        let stored = case.store_certificate(0);
        // Huawei's and Honor's consoles are told where receipts go; the others read it in each message.
        let receipts = stored["entities"][0]["receipts_url"].clone();
        case.lab("apps", &json!({
            "vendor": vendor, "id": cloud_id, "secret": secret, "package": PACKAGE, "keys": keys, "receipts_url": receipts,
        }));
        case.rest.ok("POST", "users", Some(&json!({"username": case.user(), "password": "a password"})));
        case
    }

    fn user(&self) -> String {
        format!("user-{}", self.vendor)
    }

    /// Another `label` makes it another certificate: a closed circuit, no credential.
    fn store_certificate(&self, label: u32) -> Value {
        let mut fields = self.fields.clone();
        fields["label"] = json!(label.to_string());
        let body = json!({"vendor": self.vendor, "name": self.certificate, "fields": fields});
        self.rest.ok("POST", "certificates", Some(&body))
    }

    fn lab(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.rest.ask("POST", &format!("{}/_lab/{path}", self.clouds), Some(body));
        assert!((200..300).contains(&status), "{path} {body}: {status}");
        answer
    }

    fn fault(&self, fault: &str, times: u32) {
        self.lab("faults", &json!({"vendor": self.vendor, "fault": fault, "times": times}));
    }

    fn counts(&self) -> Value {
        let (_, counts) = self.rest.ask("GET", &format!("{}/_lab/counts?vendor={}", self.clouds, self.vendor), None);
        counts
    }

    /// Notifications asked for at the vendor.
    fn calls(&self) -> u64 {
        self.counts()["calls"].as_u64().expect("a number")
    }

    /// Installs the app on a new device and binds its token.
    fn device(&mut self) -> String {
        self.devices += 1;
        let device = format!("device-{}", self.devices);
        let token = self.lab("installs", &json!({"vendor": self.vendor, "id": self.cloud_id, "device": device}));
        let token = token["token"].as_str().expect("a token").to_owned();
        let body = json!({"device_id": device, "device_token": token, "notifier_name": self.certificate});
        self.rest.ok("PUT", &format!("users/{}/push/binding", self.user()), Some(&body));
        token
    }

    /// The newest device has the message over its connection.
    fn acknowledge(&self, gateway: &Gateway, id: &str) {
        let (user, device) = (self.user(), format!("device-{}", self.devices));
        let grant = json!({"grant_type": "password", "username": user, "password": "a password"});
        let (_, answer) = self.rest.ask("POST", &format!("{}/token", self.rest.base), Some(&grant));
        let token = answer["access_token"].as_str().expect("a token");
        let client = format!("{user}:{device}@org%23app");
        let ack = json!({"v": 1, "type": "ack", "ids": [id]}).to_string();
        let done = gateway
            .mosquitto("mosquitto_pub", &client, &format!("org%23app/{user}"), token)
            .args(["-t", &format!("im/v1/org%23app/{user}/{device}/up"), "-m", &ack])
            .output()
            .expect("published");
        assert!(done.status.success(), "{done:?}");
    }

    /// Takes every device away again.
    fn no_devices(&self) {
        for token in self.bound() {
            let (device, name) = (token["device_id"].clone(), &self.certificate);
            let body = json!({"device_id": device, "device_token": "", "notifier_name": name});
            self.rest.ok("PUT", &format!("users/{}/push/binding", self.user()), Some(&body));
        }
        assert!(self.bound().is_empty());
    }

    fn bound(&self) -> Vec<Value> {
        let answer = self.rest.ok("GET", &format!("users/{}/push/binding", self.user()), None);
        answer["entities"].as_array().expect("a list").clone()
    }

    /// Under a token that its vendor does not call dead.
    fn is_bound(&self, token: &str) -> bool {
        self.bound().iter().any(|binding| binding["device_token"] == token && binding["dead_ms"].is_null())
    }

    fn send(&self, title: &str, text: &str) -> String {
        let ext = json!({"em_push_ext": {"title": title, "content": text}});
        let body = json!({"to": [self.user()], "type": "txt", "body": {"msg": text}, "ext": ext});
        self.rest.ok("POST", "messages/users", Some(&body))["data"][self.user()].as_str().expect("an id").to_owned()
    }

    fn tray(&self, token: &str) -> Vec<Value> {
        let query = format!("vendor={}&token={}&wait_ms=1", self.vendor, token.replace('+', "%2B").replace('/', "%2F"));
        let (_, shown) = self.rest.ask("GET", &format!("{}/_lab/tray?{query}", self.clouds), None);
        shown.as_array().expect("a list").clone()
    }
}

const TITLE: &str = "新消息";
const TEXT: &str = "你好，会议改到下午三点。";

/// Runs the same story for all vendors at once: faults are each vendor's own.
fn for_each_vendor(story: impl Fn(Case) + Sync) {
    for_each_vendor_with("timeout_ms = 700", story);
}

/// ... with these settings of the vendors.
fn for_each_vendor_with(settings: &str, story: impl Fn(Case) + Sync) {
    let dir = tempfile::tempdir().expect("a directory");
    let clouds = Clouds::start(dir.path());
    let gateway = gateway_with(dir.path(), &clouds, settings);
    let at = At::new(&gateway, &clouds);
    std::thread::scope(|scope| {
        let stories: Vec<_> = VENDORS
            .iter()
            .map(|vendor| {
                let (story, at) = (&story, &at);
                (vendor, scope.spawn(move || story(Case::new(vendor, at))))
            })
            .collect();
        for (vendor, story) in stories {
            assert!(story.join().is_ok(), "{vendor}: see above");
        }
    });
}

#[test]
fn a_notification_reaches_the_tray_and_its_receipts_the_trace() {
    for_each_vendor(|mut case| {
        let token = case.device();
        let id = case.send(TITLE, TEXT);
        case.rest.traced(&id, &[&format!("vendor_sent: {}: delivered", case.vendor)]);
        let shown = case.tray(&token);
        assert_eq!((shown.len(), &shown[0]["title"], &shown[0]["body"]), (1, &json!(TITLE), &json!(TEXT)));
        assert!(shown[0]["payload"].as_str().expect("a payload").contains(&id), "{shown:?}");
        if !["apns", "fcm"].contains(&case.vendor) {
            case.rest.traced(&id, &["receipt: arrived"]);
        }
        if ["xiaomi", "meizu", "honor"].contains(&case.vendor) {
            case.lab("clicks", &json!({"vendor": case.vendor, "token": token, "number": 1}));
            case.rest.traced(&id, &["receipt: clicked"]);
        }
    });
}

#[test]
fn a_batch_that_is_partly_dead_is_split_by_token() {
    for_each_vendor(|mut case| {
        let first = case.device();
        // Apple's word for a bad token is believed once the certificate has carried one.
        let id = case.send(TITLE, TEXT);
        case.rest.traced(&id, &["vendor_sent"]);
        let (second, dead) = (case.device(), case.device());
        case.lab("tokens", &json!({"vendor": case.vendor, "token": dead, "state": "dead"}));
        let id = case.send(TITLE, TEXT);
        // Two calls, for the first device has one message more that waits: their answers come in any order.
        let mut trace = Vec::new();
        support::eventually("two are sent", || {
            trace = case.rest.traced(&id, &["vendor_refused"]);
            trace.iter().filter(|line| line.starts_with("vendor_sent")).count() == 2
        });
        assert!(trace.iter().any(|line| line.contains("token_dead")), "{trace:?}");
        assert!(case.is_bound(&first) && case.is_bound(&second) && !case.is_bound(&dead));
        assert_eq!((case.tray(&first).len(), case.tray(&second).len()), (2, 1));
    });
}

#[test]
fn a_dead_token_marks_its_binding_and_a_switched_off_one_does_not() {
    for_each_vendor(|mut case| {
        let token = case.device();
        let id = case.send(TITLE, TEXT);
        case.rest.traced(&id, &["vendor_sent"]);
        case.lab("tokens", &json!({"vendor": case.vendor, "token": token, "state": "off"}));
        let id = case.send(TITLE, TEXT);
        match case.vendor {
            // They say it at once, in the receipt, or (Apple, Google) not at all.
            "apns" | "fcm" => drop(case.rest.traced(&id, &["vendor_sent"])),
            "oppo" | "meizu" => drop(case.rest.traced(&id, &["token_soft_dead"])),
            "vivo" => drop(case.rest.traced(&id, &["vendor_refused"])),
            _ => {
                case.rest.traced(&id, &["receipt: switched_off"]);
                let next = case.send(TITLE, TEXT);
                case.rest.traced(&next, &["stopped: notifications switched off"]);
            }
        }
        assert!(case.is_bound(&token));
        case.no_devices();
        let token = case.device();
        case.lab("tokens", &json!({"vendor": case.vendor, "token": token, "state": "dead"}));
        let id = case.send(TITLE, TEXT);
        case.rest.traced(&id, &["token_dead"]);
        assert!(!case.is_bound(&token));
        assert!(case.bound().iter().any(|binding| binding["device_token"] == token.as_str()));
        let next = case.send(TITLE, TEXT);
        case.rest.traced(&next, &["stopped: push token dead"]);
    });
}

#[test]
fn an_expired_credential_is_renewed_once_and_a_refused_one_touches_no_binding() {
    for_each_vendor(|mut case| {
        let token = case.device();
        case.fault("auth_expired", 1);
        let id = case.send(TITLE, TEXT);
        let refused = if ["xiaomi", "meizu"].contains(&case.vendor) {
            // Their secret is static: there is nothing to renew.
            case.rest.traced(&id, &["vendor_retry"]);
            id
        } else {
            let trace = case.rest.traced(&id, &["vendor_sent"]);
            assert!(!trace.iter().any(|line| line.starts_with("vendor_retry")), "{trace:?}");
            case.fault("auth_expired", 2);
            let id = case.send(TITLE, TEXT);
            case.rest.traced(&id, &["vendor_retry"]);
            id
        };
        assert!(case.is_bound(&token));
        // The circuit is open: the next one does not even ask.
        let held = case.send(TITLE, TEXT);
        case.rest.traced(&held, &["circuit_open"]);
        let listed = case.rest.ok("GET", "certificates", None);
        let own =
            listed["entities"].as_array().expect("a list").iter().find(|c| c["name"] == case.certificate.as_str());
        assert!(own.expect("listed")["out_of_use"]["reason"].is_string(), "{listed}");
        let counted = |count| {
            let line = format!("certificates_out_of_use{{vendor=\"{}\"}} {count}", case.vendor);
            let metrics = case.rest.text("/metrics");
            assert!(metrics.contains(&line), "{line}: {metrics}");
        };
        counted(1);
        // A certificate put in anew works at once, be it the same, and for those too that wait minutes for it.
        case.store_certificate(0);
        let id = case.send(TITLE, TEXT);
        for id in [&refused, &held, &id] {
            case.rest.traced(id, &["vendor_sent"]);
        }
        counted(0);
    });
}

/// An HTTP proxy that opens ways for one user: its address, and how many it has opened.
fn proxy() -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (port, opened) = (listener.local_addr().expect("an address").port(), Arc::new(AtomicU32::new(0)));
    let count = opened.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let count = count.clone();
            std::thread::spawn(move || {
                if let Some((client, server)) = open_way(client) {
                    count.fetch_add(1, Ordering::SeqCst);
                    let (mut from, mut to) = (client.try_clone().expect("a copy"), server.try_clone().expect("a copy"));
                    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                    drop(std::io::copy(&mut { server }, &mut { client }));
                }
            });
        }
    });
    (port, opened)
}

fn open_way(mut client: TcpStream) -> Option<(TcpStream, TcpStream)> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).ok()?;
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).ok()?;
    let target = request.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
    if !request.contains(&format!("Basic {}", STANDARD.encode("ann:pass"))) {
        client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").ok()?;
        return None;
    }
    let server = TcpStream::connect(target.replace("localhost", "127.0.0.1")).ok()?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    Some((client, server))
}

#[test]
fn vendors_are_reached_through_a_proxy_and_named_hosts_straight() {
    let (port, opened) = proxy();
    let tried = |settings: &str, wanted: &str| {
        let dir = tempfile::tempdir().expect("a directory");
        let clouds = Clouds::start(dir.path());
        let gateway = gateway_with(dir.path(), &clouds, &format!("timeout_ms = 700\n{settings}"));
        let mut case = Case::new("honor", &At::new(&gateway, &clouds));
        case.device();
        let before = opened.load(Ordering::SeqCst);
        let id = case.send(TITLE, TEXT);
        let trace = case.rest.traced(&id, &[wanted]).join("\n");
        assert!(!trace.contains("pass"), "{trace}");
        opened.load(Ordering::SeqCst) - before
    };
    assert!(tried(&format!("proxy = 'http://ann:pass@127.0.0.1:{port}'"), "vendor_sent") > 0);
    let straight = format!("proxy = 'http://ann:pass@127.0.0.1:{port}'\nno_proxy = ['localhost']");
    assert_eq!(tried(&straight, "vendor_sent"), 0);
    assert_eq!(tried(&format!("proxy = 'http://ann:wrong@127.0.0.1:{port}'"), "407"), 0);
    assert_eq!(tried("proxy = 'direct'", "vendor_sent"), 0);
}

#[test]
fn check_says_which_vendors_hosts_are_reached_and_by_which_way() {
    let (port, opened) = proxy();
    let dir = tempfile::tempdir().expect("a directory");
    let clouds = Clouds::start(dir.path());
    let checked = |settings: &str| {
        let config = dir.path().join("check.toml");
        let state = dir.path().join("checked");
        let (urls, ca) = (urls(&clouds.url), clouds.ca.display());
        let text = format!("paths.state = '{}'\n[vendors]\n{settings}\n{urls}ca_file = '{ca}'\n", state.display());
        std::fs::write(&config, text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
        let output = command.arg("--config").arg(config).args(["check", "--vendors"]).output().expect("ran");
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(!said.contains("pass"), "{said}");
        (output.status.code(), said)
    };
    let straight = checked("proxy = 'direct'");
    assert!(straight.0 == Some(0) && straight.1.matches(" straight: answered 404 in ").count() == 12, "{straight:?}");
    let by_proxy = checked(&format!("proxy = 'http://ann:pass@127.0.0.1:{port}'"));
    let line = format!(" by http://127.0.0.1:{port}: answered 404 in ");
    assert!(by_proxy.0 == Some(0) && by_proxy.1.matches(&line).count() == 12, "{by_proxy:?}");
    assert!(opened.load(Ordering::SeqCst) > 0);
    let refused = checked(&format!("proxy = 'http://ann:wrong@127.0.0.1:{port}'"));
    assert!(refused.0 == Some(69) && refused.1.matches("407").count() == 12, "{refused:?}");
}

#[test]
fn an_answer_that_nobody_asked_to_be_coded_is_read_and_comes_once() {
    for_each_vendor(|mut case| {
        let token = case.device();
        case.fault("gzip", 20);
        let id = case.send(TITLE, TEXT);
        let trace = case.rest.traced(&id, &["vendor_sent"]);
        assert!(!trace.iter().any(|line| line.starts_with("vendor_retry")), "{trace:?}");
        assert_eq!(case.tray(&token).len(), 1);
    });
}

#[test]
fn a_pause_that_is_named_as_a_date_is_kept_and_a_clock_far_away_is_named() {
    for_each_vendor(|mut case| {
        let token = case.device();
        let id = case.send(TITLE, TEXT);
        case.rest.traced(&id, &["vendor_sent"]);
        case.fault("retry_date", 1);
        let id = case.send(TITLE, TEXT);
        case.rest.traced(&id, &["vendor_retry", "vendor_sent"]);
        assert!(case.is_bound(&token));
        if ["xiaomi", "meizu"].contains(&case.vendor) {
            return;
        }
        case.fault("auth_expired", 2);
        case.fault("clock_ahead", 20);
        let id = case.send(TITLE, TEXT);
        let trace = case.rest.traced(&id, &["vendor_retry"]);
        assert!(trace.iter().any(|line| line.contains("s ahead of this machine's")), "{trace:?}");
    });
}

#[test]
fn a_quota_and_a_rate_limit_wait_for_their_end() {
    for_each_vendor(|mut case| {
        let token = case.device();
        for fault in ["quota", "rate_limit"] {
            case.fault(fault, 1);
            let id = case.send(TITLE, TEXT);
            case.rest.traced(&id, &[&format!("vendor_retry: {}: limited", case.vendor)]);
        }
        assert!(case.is_bound(&token));
        let id = case.send(TITLE, TEXT);
        case.rest.traced(&id, &["vendor_sent"]);
    });
}

#[test]
fn what_waited_for_a_vendor_goes_on_when_its_circuit_closes() {
    for_each_vendor(|mut case| {
        let token = case.device();
        case.fault("server_error", 5);
        let mut ids: Vec<String> = (0..5).map(|_| case.send(TITLE, TEXT)).collect();
        ids.iter().for_each(|id| drop(case.rest.traced(id, &["vendor_retry"])));
        let asked_not: Vec<String> = (0..5).map(|_| case.send(TITLE, TEXT)).collect();
        asked_not.iter().for_each(|id| drop(case.rest.traced(id, &["circuit_open"])));
        ids.extend(asked_not);
        // One trial sets all of them free, and each is shown once.
        ids.iter().for_each(|id| drop(case.rest.traced(id, &["vendor_sent"])));
        assert_eq!(case.tray(&token).len(), ids.len());
    });
}

#[test]
fn what_passes_by_itself_is_tried_again_and_arrives_once() {
    for_each_vendor(|mut case| {
        let token = case.device();
        for (count, fault) in ["server_error", "hang", "bad_json", "broken_answer"].iter().enumerate() {
            case.fault(fault, 1);
            let id = case.send(TITLE, TEXT);
            let trace = case.rest.traced(&id, &["vendor_sent"]);
            let waited = trace.iter().any(|line| line.starts_with("vendor_retry") && line.contains(": retry"));
            // A lost connection is no reason to wait: the call went again on another at once.
            assert_eq!(waited, *fault != "broken_answer", "{fault}: {trace:?}");
            assert_eq!(case.tray(&token).len(), count + 1, "{fault}");
        }
        assert!(case.is_bound(&token));
    });
}

#[test]
fn a_success_is_a_success_whatever_its_answer_leaves_out_or_writes_otherwise() {
    for_each_vendor(|mut case| {
        let token = case.device();
        for (sent, fault) in [(1, "nulls"), (2, "other_types")] {
            // Credentials too are read out of such answers.
            case.store_certificate(sent);
            case.fault(fault, 20);
            let id = case.send(TITLE, TEXT);
            let trace = case.rest.traced(&id, &["vendor_sent"]);
            case.fault(fault, 0);
            assert!(!trace.iter().any(|line| line.starts_with("vendor_retry")), "{fault}: {trace:?}");
            assert_eq!((case.tray(&token).len(), case.calls()), (sent as usize, sent.into()), "{fault}");
        }
        assert!(case.is_bound(&token));
    });
}

#[test]
fn a_page_of_something_between_is_no_success_and_what_it_held_up_arrives_once() {
    for_each_vendor(|mut case| {
        let token = case.device();
        // In place of a credential, where the vendor gives one; then of the answer to the notification.
        for sent in 1..=2 {
            case.fault("html", 1);
            let id = case.send(TITLE, TEXT);
            let trace = case.rest.traced(&id, &["vendor_retry", "vendor_sent"]);
            assert!(trace.iter().any(|line| line.contains("a page")), "{trace:?}");
            assert_eq!((case.tray(&token).len(), case.calls()), (sent, sent as u64));
        }
        assert!(case.is_bound(&token));
    });
}

#[test]
fn a_slow_answer_is_waited_for_within_its_time_and_one_beyond_it_asked_for_again() {
    for (timeout_ms, beyond) in [(6000, false), (700, true)] {
        for_each_vendor_with(&format!("timeout_ms = {timeout_ms}"), |mut case| {
            let token = case.device();
            let id = case.send(TITLE, TEXT);
            case.rest.traced(&id, &["vendor_sent"]);
            case.fault("slow", 1);
            let id = case.send(TITLE, TEXT);
            let trace = case.rest.traced(&id, &["vendor_sent"]);
            assert_eq!(trace.iter().any(|line| line.starts_with("vendor_retry")), beyond, "{trace:?}");
            // The vendor had taken it: the second takes the first's place.
            let tray = case.tray(&token);
            let replaced = tray.iter().filter(|shown| shown["replaced"] == true).count();
            assert_eq!((tray.len() - replaced, replaced), (2, usize::from(beyond)), "{tray:?}");
        });
    }
}

#[test]
fn one_apps_notification_is_not_behind_all_of_another_apps() {
    let dir = tempfile::tempdir().expect("a directory");
    let clouds = Clouds::start(dir.path());
    let environment = [("IMPUSH_GATEWAY_DELIVERY_CONCURRENCY", "8")];
    let gateway = gateway_in(dir.path(), &clouds, "timeout_ms = 6000", &environment);
    let mut many = Case::new("xiaomi", &At::new(&gateway, &clouds));
    many.device();
    let quiet = many.rest.base.replace("/org/app", "/org/quiet");
    let secret = std::fs::read_to_string(gateway.reach["admin_secret_file"].as_str().expect("a file")).expect("read");
    let grant = json!({"grant_type": "client_credentials", "client_id": "admin", "client_secret": secret});
    let (_, answer) = many.rest.ask("POST", &format!("{quiet}/token"), Some(&grant));
    let bearer = answer["access_token"].as_str().expect("a token");
    let ask = |method: &str, path: &str, body: Value| {
        let (status, answer) = many.rest.ask_as(bearer, method, &format!("{quiet}/{path}"), Some(&body));
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    };
    let token = many.lab("installs", &json!({"vendor": "xiaomi", "id": many.cloud_id, "device": "quiet"}));
    ask("POST", "certificates", json!({"vendor": "xiaomi", "name": many.certificate, "fields": many.fields}));
    ask("POST", "users", json!({"username": "ann", "password": "a password"}));
    let binding = json!({"device_id": "d", "device_token": token["token"], "notifier_name": many.certificate});
    ask("PUT", "users/ann/push/binding", binding);

    // Each call takes a second, and eight are made at once.
    many.fault("slow", 1000);
    let last = (0..60).map(|_| many.send(TITLE, TEXT)).last().expect("an id");
    let answer = ask("POST", "messages/users", json!({"to": ["ann"], "body": {"msg": TEXT}}));
    let id = answer["data"]["ann"].as_str().expect("an id").to_owned();
    let trace = |bearer: &str, app: &str, id: &str| {
        let (_, answer) = many.rest.ask_as(bearer, "GET", &format!("{app}/messages/{id}/trace"), None);
        answer["entities"].as_array().expect("lines").iter().any(|line| line["hop"] == "vendor_sent")
    };
    eventually("the quiet app's notification is with its vendor", || trace(bearer, &quiet, &id));
    let (_, answer) = many.rest.ask("GET", &format!("{}/messages/{last}/trace", many.rest.base), None);
    assert!(!answer.to_string().contains("vendor_sent"), "the other app's sixty were all before it: {answer}");
}

#[test]
fn an_idle_connection_that_its_server_closes_costs_the_next_call_nothing() {
    for http1 in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        let clouds = Clouds::start(dir.path());
        let gateway = gateway(dir.path(), &clouds);
        let at = At::new(&gateway, &clouds);
        for vendor in VENDORS.into_iter().filter(|vendor| !(http1 && *vendor == "apns")) {
            let mut case = Case::new(vendor, &at);
            case.lab("connections", &json!({"http1": http1}));
            let token = case.device();
            let id = case.send(TITLE, TEXT);
            case.rest.traced(&id, &["vendor_sent"]);
            let before = case.counts();
            case.fault("idle_close", 1);
            let id = case.send(TITLE, TEXT);
            case.rest.traced(&id, &["vendor_sent"]);
            support::eventually("closed", || case.counts()["idle_closed"] != before["idle_closed"]);
            let id = case.send(TITLE, TEXT);
            let trace = case.rest.traced(&id, &["vendor_sent"]);
            assert!(!trace.iter().any(|line| line.starts_with("vendor_retry")), "{vendor}: {trace:?}");
            let (after, tray) = (case.counts(), case.tray(&token));
            let made = after["connections"].as_u64().zip(before["connections"].as_u64()).map(|(after, b)| after - b);
            assert_eq!((tray.len(), made), (3, Some(1)), "{vendor}: another connection took its place");
        }
    }
}

#[test]
fn an_unknown_code_is_tried_a_few_times_counted_and_given_up() {
    for_each_vendor(|mut case| {
        let token = case.device();
        case.fault("unknown", 3);
        let id = case.send(TITLE, TEXT);
        let trace = case.rest.traced(&id, &["vendor_refused"]);
        assert_eq!(trace.iter().filter(|line| line.contains("unknown")).count(), 3, "{trace:?}");
        assert!(case.is_bound(&token) && case.tray(&token).is_empty());
    });
}

#[test]
fn a_text_too_long_is_cut_by_the_vendors_own_counting() {
    for_each_vendor(|mut case| {
        let token = case.device();
        let long = format!("{}👨‍👩‍👧", "会议改到下午三点，".repeat(400));
        let id = case.send(&long[..300], &long);
        case.rest.traced(&id, &["vendor_sent"]);
        let shown = case.tray(&token);
        let body = shown[0]["body"].as_str().expect("a text");
        assert!(body.ends_with('…') && body.starts_with("会议改到"), "{body}");
    });
}

#[test]
fn apple_may_end_its_connections_and_nothing_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let clouds = Clouds::start(dir.path());
    let gateway = gateway(dir.path(), &clouds);
    let mut case = Case::new("apns", &At::new(&gateway, &clouds));
    let token = case.device();
    let ids: Vec<String> = (0..40)
        .map(|n| {
            if n % 10 == 5 {
                case.lab("connections", &json!({"blow": "goaway"}));
            }
            case.send(TITLE, &format!("{TEXT}{n}"))
        })
        .collect();
    for id in ids {
        case.rest.traced(&id, &["vendor_sent"]);
    }
    assert_eq!(case.tray(&token).iter().filter(|shown| shown["replaced"] == false).count(), 40);
}

#[test]
fn a_certificate_is_checked_on_entry_sealed_at_rest_and_tested_on_a_raw_token() {
    let dir = tempfile::tempdir().expect("a directory");
    let clouds = Clouds::start(dir.path());
    let gateway = gateway(dir.path(), &clouds);
    let mut case = Case::new("apns", &At::new(&gateway, &clouds));
    let url = format!("{}/certificates", case.rest.base);
    for (fields, named) in [
        (json!({"key": "no key", "key_id": "k", "team_id": "t", "bundle_id": "b"}), "PKCS #8"),
        (json!({"key_id": "k", "team_id": "t", "bundle_id": "b"}), "`key`"),
        (
            json!({"key": case.fields["key"], "key_id": "k", "team_id": "t", "bundle_id": "b", "environment": "x"}),
            "production or development",
        ),
    ] {
        let (status, answer) =
            case.rest.ask("POST", &url, Some(&json!({"vendor": "apns", "name": "n", "fields": fields})));
        assert_eq!(status, 400, "{answer}");
        assert!(answer["error_description"].as_str().expect("a reason").contains(named), "{answer}");
    }
    let listed = case.rest.ok("GET", "certificates", None).to_string();
    assert!(listed.contains("KEY1234567") && !listed.contains("PRIVATE"), "{listed}");
    let stored = std::fs::read(dir.path().join("state/gateway.sqlite")).expect("read");
    let wal = std::fs::read(dir.path().join("state/gateway.sqlite-wal")).unwrap_or_default();
    for bytes in [stored, wal] {
        assert!(!String::from_utf8_lossy(&bytes).contains("PRIVATE KEY"));
    }
    let token = case.device();
    let said = gateway.ok(&["certificate", "test", "--app", "org/app", "apple", &token]);
    assert!(said.contains("delivered"), "{said}");
    assert_eq!(case.tray(&token).len(), 1);
    let never_issued = json!({"token": "ab".repeat(32)});
    let (_, answer) =
        case.rest.ask("POST", &format!("{}/certificates/apple/test", case.rest.base), Some(&never_issued));
    assert!(answer.to_string().contains("BadDeviceToken"), "{answer}");
    gateway.ok(&["certificate", "disable", "--app", "org/app", "apple"]);
    let id = case.send(TITLE, TEXT);
    case.rest.traced(&id, &["stopped: notifier disabled"]);
    gateway.ok(&["certificate", "enable", "--app", "org/app", "apple"]);
    let id = case.send(TITLE, TEXT);
    case.rest.traced(&id, &["vendor_sent"]);
}

#[test]
fn a_receipt_nobody_could_have_sent_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let clouds = Clouds::start(dir.path());
    let gateway = gateway(dir.path(), &clouds);
    let case = Case::new("huawei", &At::new(&gateway, &clouds));
    let api = gateway.reach["api"].as_str().expect("an address");
    let listed = case.rest.ok("GET", "certificates", None);
    let url = listed["entities"][0]["receipts_url"].as_str().expect("a URL").to_owned();
    let forged = json!({"statuses": [{"token": "t", "status": 2, "biTag": "x"}]});
    assert_eq!(case.rest.ask("POST", &format!("{api}/receipts/huawei/000000000000000000000000"), Some(&forged)).0, 404);
    let (status, answer) = case.rest.ask("POST", &url, Some(&forged));
    assert_eq!(status, 400, "{answer}");
    assert!(answer["error_description"].as_str().expect("a reason").contains("not signed"), "{answer}");
}

#[test]
fn custom_data_too_large_for_a_vendor_is_refused_and_long_texts_are_cut() {
    let dir = tempfile::tempdir().expect("a directory");
    let clouds = Clouds::start(dir.path());
    let gateway = gateway(dir.path(), &clouds);
    for vendor in ["apns", "huawei", "fcm"] {
        let mut case = Case::new(vendor, &At::new(&gateway, &clouds));
        let token = case.device();
        let send = |ext: Value| {
            let body = json!({"to": [case.user()], "body": {"msg": TEXT}, "ext": ext});
            case.rest.ask("POST", &format!("{}/messages/users", case.rest.base), Some(&body))
        };
        let custom = |bytes: usize| json!({"em_push_ext": {"title": TITLE, "content": TEXT, "custom": {"k": "x".repeat(bytes)}}});
        let (status, answer) = send(custom(5000));
        let why = answer["error_description"].as_str().unwrap_or_default();
        assert!(status == 400 && why.contains("bytes") && why.contains("at most 4096"), "{vendor}: {answer}");
        let mut id = Value::Null;
        for ext in [custom(2000), json!({"em_push_ext": {"title": "消".repeat(5000), "content": "息".repeat(5000)}})]
        {
            let (status, answer) = send(ext);
            assert_eq!(status, 200, "{vendor}: {answer}");
            id = answer["data"][case.user()].clone();
            case.rest.traced(id.as_str().expect("an id"), &["vendor_sent"]);
        }
        let shown = case.tray(&token).last().expect("shown").clone();
        assert!(shown["title"].as_str().is_some_and(|title| title.ends_with('…')), "{vendor} {id}: {shown}");
        case.no_devices();
        case.rest.ok("DELETE", &format!("certificates/{}", case.certificate), None);
    }
}

#[test]
fn a_field_for_notifications_of_a_wrong_type_is_refused_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let clouds = Clouds::start(dir.path());
    let gateway = gateway(dir.path(), &clouds);
    let case = Case::new("apns", &At::new(&gateway, &clouds));
    let ext = json!({"em_apns_ext": {"em_push_badge": "many"}});
    let body = json!({"to": [case.user()], "body": {"msg": TEXT}, "ext": ext});
    let (status, answer) = case.rest.ask("POST", &format!("{}/messages/users", case.rest.base), Some(&body));
    assert_eq!(status, 400);
    assert!(answer["error_description"].as_str().is_some_and(|why| why.contains("em_push_badge")), "{answer}");
}

/// Huawei's header for a callback, with the key and user of [`Case::new`].
fn huawei_proof(at_ms: u128, nonce: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"cs");
    let value = STANDARD.encode(ring::hmac::sign(&key, format!("{at_ms}{nonce}u").as_bytes()));
    format!("timestamp={at_ms}; nonce={nonce}; value={value}")
}

#[test]
fn a_receipts_signature_serves_no_other_body() {
    let dir = tempfile::tempdir().expect("a directory");
    let clouds = Clouds::start(dir.path());
    let gateway = gateway(dir.path(), &clouds);
    let mut case = Case::new("huawei", &At::new(&gateway, &clouds));
    let token = case.device();
    let listed = case.rest.ok("GET", "certificates", None);
    let url = listed["entities"][0]["receipts_url"].as_str().expect("a URL").to_owned();
    let now_ms = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let told = |proof: &str, status: u32| {
        let said = json!({"statuses": [{"token": token, "status": status, "biTag": "x"}]});
        case.rest.ask_with("POST", &url, &[("x-huawei-callback-id", proof)], Some(&said)).0
    };
    let proof = huawei_proof(now_ms(), "1");
    assert_eq!((told(&proof, 0), told(&proof, 0)), (200, 200), "a repeat is answered like the first");
    assert_eq!(told(&proof, 2), 400);
    let (at, rest) = proof.split_once(';').expect("parts");
    assert_eq!(told(&format!("{rest} ;{at}"), 2), 400, "however the header is written");
    assert!(case.is_bound(&token), "no death was believed");
    assert_eq!(told(&huawei_proof(now_ms(), "2"), 2), 200);
    assert!(!case.is_bound(&token));
    let metrics = case.rest.text("/metrics");
    assert_eq!(received(&metrics, "huawei", "arrived"), 1, "{metrics}");
}

/// How often a receipt was counted.
fn received(metrics: &str, vendor: &str, event: &str) -> u32 {
    let named = |line: &&str| {
        line.contains("receipts_total")
            && line.contains(&format!("\"{vendor}\""))
            && line.contains(&format!("\"{event}\""))
    };
    metrics.lines().find(named).and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

#[test]
fn a_receipt_that_comes_twice_counts_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let clouds = Clouds::start(dir.path());
    let gateway = gateway(dir.path(), &clouds);
    let mut case = Case::new("honor", &At::new(&gateway, &clouds));
    let token = case.device();
    let click = |number| case.lab("clicks", &json!({"vendor": "honor", "token": token, "number": number}));
    let first = case.send(TITLE, TEXT);
    case.rest.traced(&first, &["receipt: arrived"]);
    (0..3).for_each(|_| drop(click(1)));
    // They come in their order.
    let second = case.send(TITLE, TEXT);
    case.rest.traced(&second, &["receipt: arrived"]);
    click(2);
    case.rest.traced(&second, &["receipt: clicked"]);
    let trace = case.rest.traced(&first, &[]);
    assert_eq!(trace.iter().filter(|line| line.starts_with("receipt: clicked")).count(), 1, "{trace:#?}");
    let metrics = case.rest.text("/metrics");
    assert_eq!((received(&metrics, "honor", "clicked"), received(&metrics, "honor", "arrived")), (2, 2), "{metrics}");
}

#[test]
fn whoever_guesses_paths_of_receipts_is_told_to_wait_and_costs_nobody_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let clouds = Clouds::start(dir.path());
    let gateway = gateway(dir.path(), &clouds);
    let case = Case::new("honor", &At::new(&gateway, &clouds));
    let listed = case.rest.ok("GET", "certificates", None);
    let url = listed["entities"][0]["receipts_url"].as_str().expect("a URL").to_owned();
    let other = url.replace("/honor/", "/huawei/");
    let said = json!({"statuses": []});
    assert_eq!(case.rest.ask("POST", &other, Some(&said)).0, 404, "another vendor's");
    let answers = std::thread::scope(|scope| {
        let guess = || (0..200).map(|_| case.rest.ask("POST", &other, Some(&said)).0).collect::<Vec<_>>();
        let all: Vec<_> = (0..8).map(|_| scope.spawn(guess)).collect();
        all.into_iter().flat_map(|guesses| guesses.join().expect("asked")).collect::<Vec<_>>()
    });
    assert!(answers.iter().all(|status| [404, 429].contains(status)));
    case.rest.ok("GET", "certificates", None);
}

#[test]
fn a_thousand_statuses_come_in_one_callback() {
    let dir = tempfile::tempdir().expect("a directory");
    let clouds = Clouds::start(dir.path());
    let gateway = gateway(dir.path(), &clouds);
    let case = Case::new("honor", &At::new(&gateway, &clouds));
    let listed = case.rest.ok("GET", "certificates", None);
    let url = listed["entities"][0]["receipts_url"].as_str().expect("a URL").to_owned();
    let said = |number: u32| json!({"token": format!("{number:0130}"), "status": 40_000_001, "biTag": "x".repeat(120)});
    let statuses = json!({"statuses": (0..1000).map(said).collect::<Vec<_>>()});
    assert!(statuses.to_string().len() > 290_000);
    let (status, answer) = case.rest.ask("POST", &url, Some(&statuses));
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn harmony_os_next_is_reached_with_a_service_account_and_its_notifications_taken_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let made =
        Command::new("openssl").args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]).output();
    let (Ok(made), true) = (made, support::has("mosquitto_pub")) else {
        let name = "harmony_os_next_is_reached_with_a_service_account_and_its_notifications_taken_back";
        return support::skipped(name, "openssl or mosquitto's clients are not installed");
    };
    let key = String::from_utf8(made.stdout).expect("PEM");
    let clouds = Clouds::start(dir.path());
    let gateway = gateway(dir.path(), &clouds);
    let mut case = Case::new("huawei", &At::new(&gateway, &clouds));
    case.fields =
        json!({"private_key": key, "project_id": "p1", "key_id": "k1", "sub_account": "a1", "category": "IM"});
    case.store_certificate(1);
    let keys = json!({"project_id": "p1", "key_id": "k1", "sub_account": "a1"});
    case.lab("apps", &json!({"vendor": "huawei", "id": case.cloud_id, "secret": key, "keys": keys}));
    let token = case.device();
    let id = case.send(TITLE, TEXT);
    case.rest.traced(&id, &["vendor_sent"]);
    assert_eq!(case.tray(&token)[0]["body"], TEXT);
    case.acknowledge(&gateway, &id);
    case.rest.traced(&id, &["acked", "recalled: huawei: delivered"]);
    assert_eq!(case.tray(&token)[0]["recalled"], true);
    case.lab("tokens", &json!({"vendor": "huawei", "token": token, "state": "dead"}));
    let id = case.send(TITLE, TEXT);
    case.rest.traced(&id, &["token_dead"]);
}
