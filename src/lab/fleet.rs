//! One emulated phone of every maker, all at once, on one gateway: each recognises its maker, binds its token,
//! gets a message over its connection and, when its agent is killed, the next one through its maker's cloud.

use super::account::Account;
use super::agent::Agent;
use super::device::write_tree;
use super::process::{Process, sibling};
use super::rig::Rig;
use super::show::line;
use crate::vendors::Vendor;
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use std::time::Duration;

const START: Duration = Duration::from_secs(30);

/// A phone with its agent.
struct Phone {
    account: Account,
    user: String,
    agent: Agent,
    /// Speaks of its token and of each notification in its tray.
    tray: Process,
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
    try_join_all(phones.iter().map(|phone| phone.agent.until("message", one))).await?;
    for phone in &mut phones {
        phone.agent.process.kill().await?;
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
            let text = format!(
                "{vendor:<8} recognised, bound, reached over its connection, and through its cloud: {}",
                notification["title"]
            );
            crate::terminal::print(&text).map_err(|e| e.to_string())?;
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
        let (account, home) = (crate::lab::cloud::account(vendor)?, rig.home.path());
        rig.register(&account).await?;
        let user = format!("owner-of-a-{vendor}");
        let password = rig.user(&user).await?;
        let tree = home.join(format!("{vendor}-tree"));
        write_tree(vendor, &tree).map_err(|e| e.to_string())?;
        let more = format!(
            "[certificates]\n{} = '{}'\n[device]\nroot = '{}'\n",
            vendor.certificate_key(),
            account.certificate,
            tree.display()
        );
        let agent = Agent::start(rig, &sibling("impush")?, vendor.as_str(), &more).await?;
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
            agent.socket.to_str().unwrap_or_default(),
        ];
        let tray = Process::start("tray", &sibling("impush-lab")?, &arguments, home)?;
        agent.login(&user, &password).await?;
        Ok(Self { account, user, agent, tray })
    }

    async fn bound(&self) -> Result<(), String> {
        let vendor = self.account.vendor.as_str();
        self.agent.until("channel", |status| status["channel"] == vendor).await?;
        self.agent.bound().await
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
