//! What devices cost a gateway that does nothing for them, and how soon one that has silently vanished is
//! reached through its vendor.

use super::account::{ANY, Account};
use super::rig::Rig;
use super::usage::resident_kib;
use crate::ids::Nonce;
use crate::mqtt::{ConnectOptions, client_config, dial, handshake};
use crate::names::Names;
use crate::protocol::{Address, DEFAULT_PREFIX, Hello, Leg, Topics, Up};
use crate::secret::Secret;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const CALL: Duration = Duration::from_secs(30);
/// Users, and devices of each.
const USERS: usize = 200;
const DEVICES: usize = 100;
/// The gateway's default acknowledgement deadline, in milliseconds.
const DEADLINE_MS: f64 = 5000.0;
/// Messages to the device that has vanished.
const MESSAGES: usize = 10;

/// The figures.
pub(super) struct Idle {
    /// Bytes of resident memory a bound device adds.
    pub bytes_per_device: f64,
    pub devices: usize,
    /// Seconds beyond the acknowledgement deadline until the vendor had the message, at worst.
    pub vanished_s: f64,
}

/// # Errors
/// A sentence when a program cannot be started, or a call is refused.
pub(super) async fn measure() -> Result<Idle, String> {
    let rig = Rig::start(false, CALL).await?;
    let pid = rig.gateway.id().ok_or("the gateway ended")?;
    let account = crate::lab::cloud::account(ANY)?;
    rig.register(&account).await?;
    let users: Vec<String> = (0..USERS).map(|n| format!("user-{n}")).collect();
    let bar = ProgressBar::new((USERS * DEVICES) as u64).with_message("binding");
    rig.bound_users(&account, &users).await?;
    let bind = async |user: &str, device: usize| {
        let token = rig.install(&account, &format!("{user}-{device}")).await?;
        let body =
            json!({ "device_id": format!("d{device}"), "device_token": token, "notifier_name": account.certificate });
        rig.ask("PUT", &format!("users/{user}/push/binding"), Some(body)).await
    };
    // One round fills what is filled once: caches, buffers, connections.
    for device in 1..10 {
        for user in &users {
            bind(user, device).await?;
            bar.inc(1);
        }
    }
    let before = resident_kib(pid)?;
    for device in 10..DEVICES {
        for user in &users {
            bind(user, device).await?;
            bar.inc(1);
        }
    }
    let devices = USERS * (DEVICES - 10);
    let grown = resident_kib(pid)? as f64 - before as f64;
    bar.finish_and_clear();
    Ok(Idle { bytes_per_device: grown * 1024.0 / devices as f64, devices, vanished_s: vanished(&rig, &account).await? })
}

async fn vanished(rig: &Rig, account: &Account) -> Result<f64, String> {
    let fail = |e: crate::mqtt::MqttError| e.detail;
    let user = "vanisher";
    let password = rig.user(user).await?;
    let address = Address::new("o#a", user, "d").map_err(|e| e.to_string())?;
    let said = |key: &str| rig.reach[key].as_str().unwrap_or_default().to_owned();
    let port = said("broker").rsplit(':').next().unwrap_or_default().to_owned();
    let endpoint = format!("mqtts://localhost:{port}").parse().map_err(|e| format!("{e}"))?;
    let tls = client_config(Some(Path::new(&said("ca_file"))), None).map_err(|e| e.to_string())?;
    let topics = Topics::new(DEFAULT_PREFIX).map_err(|e| e.to_string())?;
    let options = ConnectOptions {
        client_id: address.client_id(),
        user_name: address.user_name(),
        password: Secret::new(password),
        keep_alive_s: 600,
        session_expiry_s: 0,
        clean_start: true,
        will: None,
    };
    let stream = dial(&endpoint, None, &Names::default(), &tls, CALL).await.map_err(fail)?;
    let (mut connection, _) = handshake(stream, &options, CALL).await.map_err(fail)?;
    connection.subscribe(&topics.topic(&address, Leg::Down)).await.map_err(fail)?;
    let hello = Up::Hello(Hello {
        nonce: Nonce::from_number(1),
        agent: "lab".to_owned(),
        channel: ANY.to_string(),
        platform: "android".to_owned(),
        model: None,
        login: None,
        check: false,
        instance: None,
        binding: None,
    });
    connection.publish(&topics.topic(&address, Leg::Up), hello.encode(), false).await.map_err(fail)?;
    let token = rig.install(account, user).await?;
    let body = json!({ "device_id": "d", "device_token": token, "notifier_name": account.certificate });
    rig.ask("PUT", &format!("users/{user}/push/binding"), Some(body)).await?;
    let deadline = Instant::now() + CALL;
    let online =
        |devices: &Value| devices["entities"].as_array().is_some_and(|all| all.iter().any(|d| d["online"] == true));
    while !online(&rig.ask("GET", &format!("users/{user}/devices"), None).await?) {
        // The broker answers only while it is listened to.
        drop(tokio::time::timeout(Duration::from_millis(50), connection.next()).await);
        if Instant::now() > deadline {
            return Err("the device never came online".to_owned());
        }
    }
    // From here on it neither reads nor answers, and its socket stays open: as a phone in a tunnel.
    let mut ids = Vec::new();
    for n in 0..MESSAGES {
        let body = json!({ "to": [user], "type": "txt", "body": { "msg": n.to_string() } });
        let answer = rig.ask("POST", "messages/users", Some(body)).await?;
        ids.push(answer["data"][user].as_str().unwrap_or_default().to_owned());
        sleep(Duration::from_millis(137)).await;
    }
    let mut worst = 0.0_f64;
    for id in ids {
        let deadline = Instant::now() + CALL;
        let took = loop {
            let trace = rig.ask("GET", &format!("messages/{id}/trace"), None).await?;
            let at =
                |hop: &str| trace["entities"].as_array()?.iter().find(|line| line["hop"] == hop)?["at_ms"].as_f64();
            if let (Some(accepted), Some(sent)) = (at("accepted"), at("vendor_sent")) {
                break sent - accepted;
            }
            if Instant::now() > deadline {
                return Err(format!("{id} never reached the vendor"));
            }
            sleep(Duration::from_millis(50)).await;
        };
        worst = worst.max((took - DEADLINE_MS) / 1000.0);
    }
    drop(connection);
    Ok(worst)
}
