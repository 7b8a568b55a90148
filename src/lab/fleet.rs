//! One emulated phone of every maker, all at once, on one gateway: each recognises its maker, binds its token,
//! gets a message over its connection and, when its agent is killed, the next one through its maker's cloud.

use super::account::Account;
use super::device::write_tree;
use super::process::{Process, sibling};
use super::rig::Rig;
use super::show::line;
use super::socket;
use crate::vendor::Vendor;
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const START: Duration = Duration::from_secs(30);

/// A phone with its agent.
struct Phone {
    account: Account,
    user: String,
    agent: Process,
    /// Speaks of its token and of each notification in its tray.
    tray: Process,
    socket: PathBuf,
}

/// Plays it; one line a maker.
///
/// # Errors
/// A sentence about the first phone that did not do its part.
pub(super) async fn run(json: bool) -> Result<(), String> {
    let rig = Rig::start(false, START).await?;
    let mut phones = try_join_all(Vendor::ORDER.map(|vendor| Phone::start(&rig, vendor))).await?;
    try_join_all(phones.iter().map(Phone::bound)).await?;
    for phone in &phones {
        send(&rig, phone, "over the connection").await?;
    }
    let one = |status: &Value| status["inbox"] == 1;
    try_join_all(phones.iter().map(|phone| phone.until("message", one))).await?;
    for phone in &mut phones {
        phone.agent.kill().await?;
    }
    for phone in &phones {
        send(&rig, phone, "through the cloud").await?;
    }
    for phone in &mut phones {
        let notification = phone.notification().await?;
        let Account { vendor, certificate, .. } = &phone.account;
        let said = json!({ "vendor": vendor, "certificate": certificate, "bound": true, "live": true, "pushed": notification });
        if json {
            line(&said).map_err(|e| e.to_string())?;
        } else {
            println!(
                "{vendor:<8} recognised, bound, reached over its connection, and through its cloud: {}",
                notification["title"]
            );
        }
    }
    Ok(())
}

async fn send(rig: &Rig, phone: &Phone, text: &str) -> Result<(), String> {
    let body = json!({ "to": [phone.user], "from": "bob", "type": "txt", "body": { "msg": text } });
    rig.ask("POST", "messages/users", Some(body)).await.map(drop)
}

impl Phone {
    async fn start(rig: &Rig, vendor: Vendor) -> Result<Self, String> {
        let (account, home) = (Account::new(vendor)?, rig.home.path());
        rig.register(&account).await?;
        let user = format!("owner-of-a-{vendor}");
        rig.ask("POST", "users", Some(json!({ "username": user, "password": "a password" }))).await?;
        let grant = json!({ "grant_type": "password", "username": user, "password": "a password" });
        let password = rig.ask("POST", "token", Some(grant)).await?["access_token"].clone();
        let (tree, socket) = (home.join(format!("{vendor}-tree")), home.join(format!("{vendor}.sock")));
        write_tree(vendor, &tree).map_err(|e| e.to_string())?;
        let said = |key: &str| rig.reach[key].as_str().unwrap_or_default().to_owned();
        let text = format!(
            "[server]\nurl = 'mqtts://localhost:{}'\napp = 'o#a'\nca_file = '{}'\n[certificates]\n{} = '{}'\n\
             [device]\nroot = '{}'\n[paths]\nstate = '{}'\nsocket = '{}'\n[log]\nlevel = 'warn'\n",
            said("broker").rsplit(':').next().unwrap_or_default(),
            said("ca_file"),
            vendor.certificate_key(),
            account.certificate,
            tree.display(),
            home.join(format!("{vendor}-state")).display(),
            socket.display()
        );
        let config = home.join(format!("{vendor}.toml"));
        std::fs::write(&config, text).map_err(|e| e.to_string())?;
        let agent = Process::start(
            vendor.as_str(),
            &sibling("impush")?,
            &["--config", config.to_str().unwrap_or_default(), "run"],
            home,
        )?;
        let arguments = [
            "device",
            "--vendor",
            vendor.as_str(),
            "--name",
            vendor.as_str(),
            "--app-id",
            &account.app_id,
            "--clouds",
            &rig.clouds,
            "--ca-file",
            rig.ca.to_str().unwrap_or_default(),
            "--socket",
            socket.to_str().unwrap_or_default(),
        ];
        let tray = Process::start("tray", &sibling("impush-lab")?, &arguments, home)?;
        let phone = Self { account, user, agent, tray, socket };
        let deadline = Instant::now() + START;
        while !phone.socket.exists() && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
        let login = json!({ "user": phone.user, "password": password });
        socket::call(&phone.socket, "POST", "/v1/login", Some(&login)).await?;
        Ok(phone)
    }

    async fn bound(&self) -> Result<(), String> {
        let vendor = self.account.vendor.as_str().to_owned();
        let bound = move |status: &Value| status["channel"] == vendor.as_str() && status["binding"]["state"] == "bound";
        self.until("binding", bound).await
    }

    async fn until(&self, what: &str, done: impl Fn(&Value) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + START;
        loop {
            let status = socket::call(&self.socket, "GET", "/v1/status", None).await?;
            if done(&status) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{}: no {what}: {status}", self.account.vendor));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn notification(&mut self) -> Result<Value, String> {
        loop {
            let said = self.tray.next(START).await.map_err(|e| format!("{}: {e}", self.account.vendor))?;
            if said["event"] == "notification" {
                return Ok(said["notification"].clone());
            }
        }
    }
}
