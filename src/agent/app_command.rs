//! `impush app`: local apps that are added, listed and removed.

use super::control::{Client, ClientError};
use crate::untrusted::shown;
use clap::Subcommand;
use serde_json::{Value as Json, json};

#[derive(Debug, Subcommand)]
pub(super) enum AppCommand {
    /// Add a local app, or give it another secret; the secret is shown once
    #[command(after_help = "Example: impush app add chat --wake unit:chat.service\n\n\
        The app asks at http://127.0.0.1:8682 with `Authorization: Bearer SECRET`, as over the control socket.")]
    Add {
        /// 1 to 64 of A-Z a-z 0-9 . _ -
        #[arg(value_name = "NAME")]
        app: String,
        /// A web page's origin that may ask in its name, such as `https://app.example`; `null` for a web view's own page
        #[arg(long, value_name = "ORIGIN")]
        origin: Vec<String>,
        /// How it is started when a message waits for it: unit:NAME.service, command:/PATH or android:PACKAGE/COMPONENT
        #[arg(long, value_name = "HOW")]
        wake: Option<String>,
    },
    /// The apps that were added
    List {
        #[arg(long)]
        json: bool,
    },
    /// Forget an app; its secret is good for nothing from here on
    Remove {
        #[arg(value_name = "NAME")]
        app: String,
    },
}

/// What is to be printed.
///
/// # Errors
/// [`ClientError`].
pub(super) async fn execute(client: &Client, command: &AppCommand) -> Result<String, ClientError> {
    match command {
        AppCommand::Add { app, origin, wake } => {
            let body = json!({ "name": app, "origins": origin, "wake": wake });
            let answer = client.call("POST", "/v1/apps", Some(&body)).await?;
            Ok(answer["secret"].as_str().unwrap_or_default().to_owned())
        }
        AppCommand::List { json } => {
            let apps = client.call("GET", "/v1/apps", None).await?;
            Ok(if *json { apps.to_string() } else { table(&apps) })
        }
        AppCommand::Remove { app } => {
            client.call("DELETE", &format!("/v1/apps/{app}"), None).await?;
            Ok(format!("{app} is forgotten"))
        }
    }
}

fn table(apps: &Json) -> String {
    let lines: Vec<String> = apps
        .as_array()
        .into_iter()
        .flatten()
        .map(|app| {
            let text = |key: &str| shown(app[key].as_str().unwrap_or("-")).to_string();
            let attached = if app["attached"] == true { "attached" } else { "not running" };
            let origins: Vec<_> = app["origins"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
            let of = if origins.is_empty() { String::new() } else { format!(", for {}", shown(origins.join(" "))) };
            format!("{}  {attached}, woken {} times by {}{of}", text("name"), app["wakes"], text("wake"))
        })
        .collect();
    if lines.is_empty() { "no app was added".to_owned() } else { lines.join("\n") }
}
