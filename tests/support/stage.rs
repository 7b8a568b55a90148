//! Several gateways on one PostgreSQL and one broker.

use super::{Certificates, Flaw, Gateway, Mosquitto, Postgres, Process, Rest, certificates, free_port, has, skipped};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// A PostgreSQL, a broker and the vendors' clouds, and gateways on them.
pub struct Stage {
    pub dir: tempfile::TempDir,
    pub certificates: Certificates,
    pub postgres: Postgres,
    pub broker: Mosquitto,
    _clouds: Process,
    pub clouds: String,
    clouds_ca: PathBuf,
    /// What every gateway's configuration says.
    pub common: String,
}

impl Stage {
    pub fn new(test: &str) -> Option<Self> {
        Self::with_broker(test, "")
    }

    /// With more lines in the broker's configuration.
    pub fn with_broker(test: &str, extra: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        if !has("mosquitto") {
            skipped(test, "mosquitto is not installed");
            return None;
        }
        let Some(postgres) = Postgres::start(dir.path()) else {
            skipped(test, "PostgreSQL is not installed");
            return None;
        };
        let certificates = certificates(dir.path(), Flaw::None);
        let broker = Mosquitto::start_with(dir.path(), &certificates, extra);
        let clouds_ca = dir.path().join("clouds.pem");
        let mut command = Command::new(env!("CARGO_BIN_EXE_impush-lab"));
        command.args(["clouds", "--listen", "127.0.0.1:0", "--ca-file"]).arg(&clouds_ca);
        let mut process = Process::start(&mut command, false);
        let said: Value = process.wait_for("the address", |line| serde_json::from_str(line).ok());
        let clouds = said["clouds"].as_str().expect("an address").to_owned();
        let key = dir.path().join("secrets.key");
        std::fs::write(&key, "5a".repeat(32)).expect("written");
        let common = format!(
            "secrets_key = '{}'\n[store]\nurl = '{}'\n[delivery]\nack_deadline_ms = 1000\n\
             [vendors]\nxiaomi_url = '{clouds}'\nca_file = '{}'\ntimeout_ms = 500\n[log]\nlevel = 'warn'\n",
            key.display(),
            postgres.url,
            clouds_ca.display()
        );
        let (ca, port) = (certificates.ca.display().to_string(), broker.tls);
        let common = common
            .replace("[store]", &format!("[broker]\nurl = 'mqtts://localhost:{port}'\nca_file = '{ca}'\n[store]"));
        Some(Self { dir, certificates, postgres, broker, _clouds: process, clouds, clouds_ca, common })
    }

    pub fn config(&self, name: &str) -> PathBuf {
        let home = self.dir.path().join(name);
        std::fs::create_dir_all(&home).expect("made");
        let file = home.join("gateway.toml");
        if !file.exists() {
            let state = home.join("state");
            let text = format!(
                "[api]\nlisten = '127.0.0.1:{}'\n[paths]\nstate = '{}'\n{}",
                free_port(),
                state.display(),
                self.common
            );
            std::fs::write(&file, text).expect("written");
        }
        file
    }

    /// Starts one that may not get as far as to serve; what it says on standard error is heard.
    pub fn started(&self, name: &str) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
        Process::start(command.arg("--config").arg(self.config(name)).arg("serve"), true)
    }

    /// Starts, or starts again at the same address.
    pub fn gateway(&self, name: &str) -> Gateway {
        self.gateway_in(name, &[])
    }

    /// With more variables in its environment.
    pub fn gateway_in(&self, name: &str, environment: &[(&str, &str)]) -> Gateway {
        let config = self.config(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
        command.envs(environment.iter().copied());
        command.arg("--config").arg(&config).args(["serve", "--announce"]);
        let mut process = Process::start(&mut command, false);
        let reach = process.wait_for("the addresses", |line| serde_json::from_str(line).ok());
        Gateway { process, home: config.parent().expect("a home").to_owned(), reach }
    }

    pub fn rest(&self, gateway: &Gateway) -> Rest {
        Rest::new(&gateway.reach, &self.clouds_ca)
    }

    /// An app, a user, and an offline phone bound to the token that is returned.
    pub fn phone(&self, rest: &Rest) -> String {
        let lab = |path: &str, body: &Value| rest.ask("POST", &format!("{}/_lab/{path}", self.clouds), Some(body)).1;
        lab("apps", &json!({"vendor": "xiaomi", "id": "288", "secret": "s", "package": "p", "daily_quota": 1_000_000}));
        let token = lab("installs", &json!({"vendor": "xiaomi", "id": "288", "device": "d"}))["token"].clone();
        let fields = json!({"app_secret": "s", "package": "p"});
        rest.ok("POST", "certificates", Some(&json!({"vendor": "xiaomi", "name": "288", "fields": fields})));
        rest.ok("POST", "users", Some(&json!({"username": "ann", "password": "a password"})));
        let binding = json!({"device_id": "phone", "device_token": token, "notifier_name": "288"});
        rest.ok("PUT", "users/ann/push/binding", Some(&binding));
        token.as_str().expect("a token").to_owned()
    }

    /// How often a gateway has connected to the broker.
    pub fn gateways_that_entered(&mut self) -> usize {
        // What the broker has said until it hears of this.
        let mark = format!("mark-{}", self.broker.process.seen.len());
        self.broker.publish(&mark, b"");
        self.broker.process.wait_for("the mark", |line| line.contains(&mark).then_some(()));
        let entered = |line: &&String| line.contains("New client connected") && line.contains("as $gateway:");
        self.broker.process.seen.iter().filter(entered).count()
    }

    /// How often each message was shown anew.
    pub fn shown(&self, rest: &Rest, token: &str) -> BTreeMap<String, u32> {
        let query = token.replace('+', "%2B").replace('/', "%2F");
        let (_, tray) =
            rest.ask("GET", &format!("{}/_lab/tray?vendor=xiaomi&wait_ms=1&token={query}", self.clouds), None);
        let mut shown = BTreeMap::new();
        for notification in tray.as_array().expect("a list").iter().filter(|n| n["replaced"] == false) {
            let payload: Value = serde_json::from_str(notification["payload"].as_str().expect("text")).expect("JSON");
            *shown.entry(payload["m"].as_str().expect("an id").to_owned()).or_default() += 1;
        }
        shown
    }
}

/// A message of an app's server; its id.
pub fn send(rest: &Rest, to: &str, n: u32) -> String {
    let body = json!({"to": [to], "body": {"type": "txt", "msg": format!("{n}")}});
    rest.ok("POST", "messages/users", Some(&body))["data"][to].as_str().expect("an id").to_owned()
}
