//! The story of the product on one machine, as separate processes over real sockets and TLS.

mod stage;

use super::account::Account;
use super::cloud;
use super::device::call_as;
use super::process::{Process, output};
use super::show::Steps;
use crate::http::Http;
use crate::vendors::Vendor;
use serde_json::{Value, json};
use stage::{start, status, text, until, write};
use std::path::{Path, PathBuf};
use std::time::Duration;

const APP: &str = "acme/demo";
const PHONE_USER: &str = "安";
const BOARD_USER: &str = "kiosk/7";
/// The gateway waits this long for an acknowledgement; short, so that the story is.
const ACK_DEADLINE_MS: u64 = 2000;
/// Starting a process on a busy machine.
const START: Duration = Duration::from_secs(15);
/// Anything that should happen promptly.
const SOON: Duration = Duration::from_secs(10);
/// Finding a dead link: a five-second heartbeat, its pong, a reconnection.
const FOUND: Duration = Duration::from_secs(45);

/// Everything that runs. Dropping it kills what is left.
struct Stage {
    /// The phone's maker, and the app's account there.
    account: Account,
    home: PathBuf,
    http: Http,
    api: String,
    token: String,
    agent: PathBuf,
    clouds: Process,
    cloud_url: String,
    gateway: Process,
    network: Process,
    phone: Process,
    phone_agent: Process,
    board_agent: Process,
    phone_watch: Process,
    board_watch: Process,
}

/// Plays the story with a phone of each of these makers. `true` only if every step of all held.
pub(super) async fn run(json: bool, vendors: &[Vendor]) -> Result<bool, String> {
    let mut all = true;
    for vendor in vendors {
        if vendors.len() > 1 && !json {
            println!("\n{vendor}");
        }
        all &= play(json, *vendor).await?;
    }
    Ok(all)
}

async fn play(json: bool, vendor: Vendor) -> Result<bool, String> {
    let steps = Steps::new(json);
    let home = tempfile::Builder::new().prefix("impush-demo-").tempdir().map_err(|e| e.to_string())?;
    let result = story(&steps, home.path(), crate::lab::cloud::account(vendor)?).await;
    match result {
        Ok(()) => {
            if !json {
                println!("all of it held, in {:.1} s", steps.elapsed().as_secs_f32());
            }
            Ok(true)
        }
        Err(why) => {
            let kept = home.keep();
            crate::terminal::note(&format!("impush-lab: {why}\nlogs and state are kept in {}", kept.display()));
            Ok(false)
        }
    }
}

/// Runs one step and shows it; the story ends at the first that fails.
macro_rules! step {
    ($steps:expr, $name:literal, $text:expr, $work:expr) => {{
        let step = $steps.begin($name, $text);
        match $work.await {
            Ok((value, note)) => {
                $steps.end(step, Ok(note));
                value
            }
            Err(why) => {
                let why: String = why;
                $steps.end(step, Err(&why));
                return Err(format!("step `{}`: {why}", $name));
            }
        }
    }};
}

async fn story(steps: &Steps, home: &Path, account: Account) -> Result<(), String> {
    let mut stage = step!(steps, "start", "vendor clouds, gateway, a phone and a board start", start(home, account));
    step!(steps, "login", "the phone with its maker's tree and the board with no maker log in", stage.login());
    step!(steps, "bind", "the phone binds its token, the board holds the connection", stage.bind());
    step!(steps, "live", "a message reaches both over the connection", stage.live());
    step!(
        steps,
        "app",
        "the phone's app is killed; a message sent in the same second is in the tray, until the app has it",
        stage.app()
    );
    step!(steps, "kill", "the phone's agent is killed (SIGKILL)", stage.kill());
    step!(steps, "push", "the next message reaches the phone's tray through its maker's cloud", stage.push());
    step!(steps, "resync", "the phone's agent restarts, rebinds from disk and syncs what it missed", stage.resync());
    let id = step!(steps, "hole", "the board's network is cut silently; a message goes into the hole", stage.hole());
    step!(steps, "back", "the network is back and the message arrives", stage.back(&id));
    if let Some(devices) = &cloud::of(stage.account.vendor).without_agent {
        step!(
            steps,
            "unattended",
            "a phone of this maker on which no agent runs is bound over REST and pushed",
            stage.unattended(devices)
        );
    }
    step!(steps, "logout", "logout unbinds, and the next message stops with a reason", stage.logout());
    step!(steps, "stop", "all processes stop cleanly", stage.stop());
    Ok(())
}

type Told = Result<((), String), String>;

impl Stage {
    async fn api(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, String> {
        let url = format!("{}/{APP}/{path}", self.api);
        call_as(&self.http, method, &url, Some(&self.token), body).await
    }

    async fn status(&self, name: &str) -> Result<Value, String> {
        status(&self.agent, &self.home, name).await
    }

    async fn command(&self, name: &str, arguments: &[&str]) -> Result<String, String> {
        let config = self.home.join(format!("{name}.toml"));
        let mut all = vec!["--config", text(&config)];
        all.extend(arguments);
        output(&self.agent, &all, SOON).await
    }

    /// Sends one message to both users and returns its ids, the phone's first.
    async fn send(&self, words: &str) -> Result<(String, String), String> {
        let body = json!({ "from": "ops", "to": [PHONE_USER, BOARD_USER], "type": "txt", "body": { "msg": words },
            "ext": { "em_push_ext": { "title": "ops", "content": words } } });
        let answer = self.api("POST", "messages/users", Some(body)).await?;
        let id = |user: &str| answer["data"][user].as_str().unwrap_or_default().to_owned();
        Ok((id(PHONE_USER), id(BOARD_USER)))
    }

    /// The trace of a message as `hop: detail` lines.
    async fn trace(&self, id: &str) -> Result<Value, String> {
        let answer = self.api("GET", &format!("messages/{id}/trace"), None).await?;
        let lines = answer["entities"].as_array().cloned().unwrap_or_default();
        Ok(json!(
            lines
                .iter()
                .map(|l| format!("{}: {}", l["hop"].as_str().unwrap_or(""), l["detail"].as_str().unwrap_or("")))
                .collect::<Vec<_>>()
        ))
    }

    async fn traced(&self, id: &str, wanted: &[&str], limit: Duration) -> Result<Vec<String>, String> {
        let has = |trace: &Value| {
            let lines: Vec<&str> = trace.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            wanted.iter().all(|w| lines.iter().any(|line| line.contains(w)))
        };
        let trace = until(limit, || self.trace(id), has).await?;
        Ok(trace.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    async fn login(&mut self) -> Told {
        let users: Vec<Value> =
            [PHONE_USER, BOARD_USER].iter().map(|u| json!({ "username": u, "password": "a demo password" })).collect();
        self.api("POST", "users", Some(json!(users))).await?;
        let Account { vendor, certificate, fields, .. } = &self.account;
        let certificate = json!({ "vendor": vendor, "name": certificate, "fields": fields });
        self.api("POST", "certificates", Some(certificate)).await?;
        for (name, user) in [("phone", PHONE_USER), ("board", BOARD_USER)] {
            let grant = json!({ "grant_type": "password", "username": user, "password": "a demo password" });
            let answer = self.api("POST", "token", Some(grant)).await?;
            let file = self.home.join(format!("{name}.jwt"));
            write(&file, answer["access_token"].as_str().unwrap_or_default())?;
            self.command(name, &["login", user, "--password-file", text(&file)]).await?;
        }
        for name in ["phone", "board"] {
            until(SOON, || self.status(name), |status| status["state"] == "online").await?;
        }
        Ok(((), format!("{PHONE_USER} and {BOARD_USER} are online over MQTT 5")))
    }

    async fn bind(&mut self) -> Told {
        let handed = self.phone.next(START).await?;
        if handed["event"] != "token" {
            return Err(format!("the phone said {handed}"));
        }
        let phone = until(SOON, || self.status("phone"), |status| status["binding"]["state"] == "bound").await?;
        let board = self.status("board").await?;
        if phone["channel"] != self.account.vendor.as_str() || board["channel"] != "none" || board["state"] != "online"
        {
            return Err(format!("phone {phone}, board {board}"));
        }
        let path = format!(
            "users/{}/push/binding",
            percent_encoding::utf8_percent_encode(PHONE_USER, percent_encoding::NON_ALPHANUMERIC)
        );
        let bound = self.api("GET", &path, None).await?;
        let count = bound["entities"].as_array().map_or(0, Vec::len);
        if count != 1 {
            return Err(format!("the gateway knows {count} bindings"));
        }
        Ok((
            (),
            format!(
                "token {} bound to certificate {}; the board: {}",
                phone["token"],
                self.account.certificate,
                board["why_not"][self.account.vendor.as_str()]
            ),
        ))
    }

    async fn live(&mut self) -> Told {
        let (phone, board) = self.send("first: over the connection").await?;
        for (watch, id) in [(&mut self.phone_watch, &phone), (&mut self.board_watch, &board)] {
            let message = watch.next(SOON).await?;
            if message["id"] != id.as_str() {
                return Err(format!("another message: {message}"));
            }
        }
        for id in [&phone, &board] {
            self.traced(id, &["published", "acked: over the connection"], SOON).await?;
        }
        Ok(((), "both acknowledged over the connection; nothing went to the vendor".to_owned()))
    }

    async fn app(&mut self) -> Told {
        self.phone_watch.kill().await?;
        let (phone, board) = self.send("now: the app is closed").await?;
        let sent = tokio::time::Instant::now();
        let event = self.phone.next(SOON).await?;
        let shown_ms = sent.elapsed().as_millis();
        if event["notification"]["body"] != "now: the app is closed" {
            return Err(format!("the tray shows {event}"));
        }
        let message = self.board_watch.next(SOON).await?;
        if message["id"] != board.as_str() {
            return Err(format!("the board got {message}"));
        }
        let config = self.home.join("phone.toml");
        self.phone_watch =
            Process::start("phone-watch", &self.agent, &["--config", text(&config), "watch", "--json"], &self.home)?;
        let message = self.phone_watch.next(SOON).await?;
        if message["id"] != phone.as_str() {
            return Err(format!("the app got {message}"));
        }
        // Only some vendors can take a notification back.
        let gone = cloud::of(self.account.vendor).takes_back;
        let wanted: &[&str] =
            if gone { &["acked", "vendor_sent", "taken", "recalled"] } else { &["acked", "vendor_sent", "taken"] };
        let trace = self.traced(&phone, wanted, SOON).await?;
        Ok(((), format!("in the tray after {shown_ms} ms, the connection standing; trace: {}", trace.join(" > "))))
    }

    async fn kill(&mut self) -> Told {
        let id = self.phone_agent.id();
        self.phone_agent.kill().await?;
        Ok(((), format!("pid {} is gone without a goodbye", id.unwrap_or_default())))
    }

    async fn push(&mut self) -> Told {
        let (phone, board) = self.send("second: through the vendor").await?;
        let event = self.phone.next(SOON).await?;
        let notification = &event["notification"];
        if notification["body"] != "second: through the vendor" {
            return Err(format!("the tray shows {event}"));
        }
        let message = self.board_watch.next(SOON).await?;
        if message["id"] != board.as_str() {
            return Err(format!("the board got {message}"));
        }
        let trace = self.traced(&phone, &["vendor_sent"], SOON).await?;
        Ok(((), format!("in the tray: {}; trace: {}", notification["body"], trace.join(" > "))))
    }

    async fn resync(&mut self) -> Told {
        let config = self.home.join("phone.toml");
        self.phone_agent = Process::start("phone-agent", &self.agent, &["--config", text(&config), "run"], &self.home)?;
        // No app is attached yet: the binding comes from disk alone.
        let status = until(START, || self.status("phone"), |status| status["binding"]["state"] == "bound").await?;
        self.phone_watch =
            Process::start("phone-watch", &self.agent, &["--config", text(&config), "watch", "--json"], &self.home)?;
        let message = self.phone_watch.next(SOON).await?;
        if message["body"]["msg"] != "second: through the vendor" {
            return Err(format!("synced {message}"));
        }
        // A second copy would come before the next message.
        let (phone, _) = self.send("third: live again").await?;
        let next = self.phone_watch.next(SOON).await?;
        if next["id"] != phone.as_str() {
            return Err(format!("not exactly once: {next}"));
        }
        self.board_watch.next(SOON).await?;
        Ok(((), format!("rebound token {} with no app present; the missed message came exactly once", status["token"])))
    }

    async fn hole(&mut self) -> Result<(String, String), String> {
        self.network.tell("cut").await?;
        let (_, board) = self.send("fourth: into the hole").await?;
        self.phone_watch.next(SOON).await?;
        let trace = self.traced(&board, &["no_ack", "published: to the connection again"], SOON).await?;
        Ok((board, format!("nobody closed the socket; trace: {}", trace.join(" > "))))
    }

    async fn back(&mut self, id: &str) -> Told {
        self.network.tell("mend").await?;
        let message = self.board_watch.next(FOUND).await?;
        if message["id"] != id {
            return Err(format!("the board got {message}"));
        }
        let trace = self.traced(id, &["no_ack", "synced", "acked"], SOON).await?;
        Ok(((), format!("not lost; trace: {}", trace.join(" > "))))
    }

    async fn unattended(&self, devices: &cloud::WithoutAgent) -> Told {
        let Account { vendor, certificate, app_id, fields, registration } = (devices.account)()?;
        let lab = async |method: &str, path: &str, body: Option<Value>| {
            call_as(&self.http, method, &format!("{}/_lab/{path}", self.cloud_url), None, body).await
        };
        lab("POST", "apps", Some(registration)).await?;
        let stored = json!({ "vendor": vendor, "name": certificate, "fields": fields });
        self.api("POST", "certificates", Some(stored)).await?;
        self.api("POST", "users", Some(json!({ "username": "next", "password": "a demo password" }))).await?;
        let installed = json!({ "vendor": vendor, "id": app_id, "device": "next-1" });
        let token = lab("POST", "installs", Some(installed)).await?["token"].as_str().unwrap_or_default().to_owned();
        let bound = json!({ "device_id": "next-1", "device_token": token, "notifier_name": certificate });
        self.api("PUT", "users/next/push/binding", Some(bound)).await?;
        let body = json!({ "from": "ops", "to": ["next"], "type": "txt", "body": { "msg": "no agent here" },
            "ext": { "em_push_ext": { "title": "ops", "content": "no agent here" }, devices.ext: { "notify_id": 77 } } });
        self.api("POST", "messages/users", Some(body)).await?;
        let query = serde_urlencoded::to_string([("vendor", vendor.as_str()), ("token", &token), ("wait_ms", "5000")]);
        let tray = lab("GET", &format!("tray?{}", query.map_err(|e| e.to_string())?), None).await?;
        if tray[0]["body"] != "no agent here" || tray[0]["notify_id"] != "77" {
            return Err(format!("the tray shows {tray}"));
        }
        Ok(((), format!("in the tray, placed by the sender's {}", devices.ext)))
    }

    async fn logout(&mut self) -> Told {
        let said = self.command("phone", &["logout"]).await?;
        let (phone, _) = self.send("fifth: to nobody").await?;
        self.traced(&phone, &["waiting: for the user's next login"], SOON).await?;
        Ok(((), format!("{said}; the next message waits for the user's next login")))
    }

    async fn stop(self) -> Told {
        let limit = Duration::from_secs(5);
        // Watchers end by themselves when their agent does.
        drop((self.phone_watch, self.board_watch));
        let mut ended = Vec::new();
        for (name, process) in [
            ("phone agent", self.phone_agent),
            ("board agent", self.board_agent),
            ("gateway", self.gateway),
            ("clouds", self.clouds),
        ] {
            let status = process.stop(limit).await?;
            if !status.success() {
                return Err(format!("the {name} ended with {status}"));
            }
            ended.push(name);
        }
        drop((self.phone, self.network));
        Ok(((), format!("{} ended with status 0", ended.join(", "))))
    }
}
