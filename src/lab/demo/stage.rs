//! Everything the story needs, started and waited for.

use super::super::account::{Account, vendors_section};
use super::super::device::{call, write_tree};
use super::super::process::{Process, output, sibling};
use super::{ACK_DEADLINE_MS, APP, SOON, START, Stage};
use crate::http::Http;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

pub(super) fn write(path: &Path, content: &str) -> Result<(), String> {
    std::fs::write(path, content).map_err(|e| format!("{}: {e}", path.display()))
}

/// Starts clouds, gateway, network, agents, watchers and the phone.
///
/// # Errors
/// A sentence about the first that did not come up.
pub(super) async fn start(home: &Path, account: Account) -> Result<(Stage, String), String> {
    let (agent, gateway, lab) = (sibling("impush")?, sibling("impush-gateway")?, sibling("impush-lab")?);
    let cloud_ca = home.join("clouds-ca.pem");
    let mut clouds =
        Process::start("clouds", &lab, &["clouds", "--listen", "127.0.0.1:0", "--ca-file", text(&cloud_ca)], home)?;
    let cloud_url = clouds.next(START).await?["clouds"].as_str().unwrap_or_default().to_owned();

    let gateway_config = home.join("gateway.toml");
    write(
        &gateway_config,
        &format!(
            "[api]\nlisten = '127.0.0.1:0'\n[broker]\nlisten = '127.0.0.1:0'\n[delivery]\nack_deadline_ms = {ACK_DEADLINE_MS}\n\
             {}[paths]\nstate = '{}'\n",
            vendors_section(&cloud_url, &cloud_ca),
            text(&home.join("gateway"))
        ),
    )?;
    let mut gateway =
        Process::start("gateway", &gateway, &["--config", text(&gateway_config), "serve", "--announce"], home)?;
    let reach = gateway.next(START).await?;
    let api = reach["api"].as_str().unwrap_or_default().to_owned();
    let broker = reach["broker"].as_str().unwrap_or_default().to_owned();
    let ca_file = reach["ca_file"].as_str().unwrap_or_default().to_owned();
    let secret_file = reach["admin_secret_file"].as_str().unwrap_or_default().to_owned();

    let mut network = Process::start("network", &lab, &["network", "--listen", "127.0.0.1:0", "--to", &broker], home)?;
    let relay = network.next(START).await?["network"].as_str().unwrap_or_default().to_owned();

    // The API speaks plain HTTP on loopback; the clouds speak HTTPS.
    let http = Http::new(Some(&cloud_ca), SOON)?;
    call(&http, "POST", &format!("{cloud_url}/_lab/apps"), Some(account.registration.clone())).await?;
    let secret = std::fs::read_to_string(&secret_file).map_err(|e| format!("{secret_file}: {e}"))?;
    let grant = json!({ "grant_type": "client_credentials", "client_id": "admin", "client_secret": secret.trim() });
    let answer = call(&http, "POST", &format!("{api}/{APP}/token"), Some(grant)).await?;
    let token = answer["access_token"].as_str().unwrap_or_default().to_owned();

    let phone_tree = home.join("phone-tree");
    write_tree(account.vendor, &phone_tree).map_err(|e| e.to_string())?;
    let board_tree = home.join("board-tree");
    std::fs::create_dir_all(board_tree.join("proc/device-tree")).map_err(|e| e.to_string())?;
    write(&board_tree.join("proc/device-tree/model"), "Lab Board 1\0")?;
    let certificates = format!("[certificates]\n{} = '{}'\n", account.vendor.certificate_key(), account.certificate);
    for (name, port, tree, extra) in [
        ("phone", broker.rsplit(':').next(), &phone_tree, certificates),
        ("board", relay.rsplit(':').next(), &board_tree, "[keep_alive]\nstart_s = 5\nfloor_s = 5\n".to_owned()),
    ] {
        write(
            &home.join(format!("{name}.toml")),
            &format!(
                "[server]\nurl = 'mqtts://localhost:{}'\napp = 'acme#demo'\nca_file = '{ca_file}'\n[device]\nroot = '{}'\n\
                 [paths]\nstate = '{}'\nsocket = '{}'\n{extra}",
                port.unwrap_or_default(),
                text(tree),
                text(&home.join(format!("{name}-state"))),
                text(&home.join(format!("{name}.sock")))
            ),
        )?;
    }
    let run = |name, config: &str| Process::start(name, &agent, &["--config", text(&home.join(config)), "run"], home);
    let phone_agent = run("phone-agent", "phone.toml")?;
    let board_agent = run("board-agent", "board.toml")?;
    for name in ["phone", "board"] {
        until(START, || status(&agent, home, name), |status| status["state"] == "logged_out").await?;
    }
    let watch = |name, config: &str| {
        Process::start(name, &agent, &["--config", text(&home.join(config)), "watch", "--json"], home)
    };
    let phone_watch = watch("phone-watch", "phone.toml")?;
    let board_watch = watch("board-watch", "board.toml")?;
    let phone = Process::start(
        "phone",
        &lab,
        &[
            "device",
            "--vendor",
            account.vendor.as_str(),
            "--name",
            "phone-1",
            "--app-id",
            &account.app_id,
            "--clouds",
            &cloud_url,
            "--ca-file",
            text(&cloud_ca),
            "--socket",
            text(&home.join("phone.sock")),
        ],
        home,
    )?;
    let note = format!("gateway {api}, broker {broker} (TLS 1.3), clouds {cloud_url}");
    let home = home.to_owned();
    Ok((
        Stage {
            account,
            home,
            http,
            api,
            token,
            agent,
            clouds,
            cloud_url,
            gateway,
            network,
            phone,
            phone_agent,
            board_agent,
            phone_watch,
            board_watch,
        },
        note,
    ))
}

pub(super) async fn status(agent: &Path, home: &Path, name: &str) -> Result<Value, String> {
    let config = home.join(format!("{name}.toml"));
    let printed = output(agent, &["--config", text(&config), "status", "--json"], SOON).await?;
    serde_json::from_str(&printed).map_err(|e| e.to_string())
}

/// Asks until the answer is the wanted one, or the time is up.
pub(super) async fn until<F: Future<Output = Result<Value, String>>>(
    limit: Duration,
    mut ask: impl FnMut() -> F,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value, String> {
    let deadline = Instant::now() + limit;
    loop {
        let answer = ask().await;
        match &answer {
            Ok(value) if wanted(value) => return answer,
            _ if Instant::now() < deadline => sleep(Duration::from_millis(50)).await,
            Ok(value) => return Err(format!("still {value} after {} s", limit.as_secs())),
            Err(_) => return answer,
        }
    }
}
