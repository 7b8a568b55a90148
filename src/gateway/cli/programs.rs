//! An operator's words on apps' programs, on the keys that sign tokens, and on gateways that share a database.

use super::{CommandError, Config, Operator, Target, encode, print};
use crate::gateway::store::ClientScope;
use crate::untrusted::shown;
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

#[derive(Debug, Subcommand)]
pub(super) enum AppCommand {
    /// Begin an app, or give it one more program: prints the client id and the secret, which is shown this once
    #[command(
        after_help = "Example: impush-gateway app create --app org/app\n\nThe program asks for a token with them: POST /org/app/token {\"grant_type\": \"client_credentials\", \"client_id\": \"...\", \"client_secret\": \"...\"}"
    )]
    Create {
        #[command(flatten)]
        to: Target,
        /// What the program is called in lists and logs
        #[arg(default_value = "server")]
        name: String,
        /// What it may
        #[arg(long, value_enum, default_value_t)]
        scope: ClientScope,
    },
    /// The app's programs
    List {
        #[command(flatten)]
        to: Target,
    },
    /// Give a program another secret; the one before is good no longer
    NewSecret {
        #[command(flatten)]
        to: Target,
        client_id: String,
    },
    /// Take a program's access away, and the tokens it has
    Remove {
        #[command(flatten)]
        to: Target,
        client_id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// The keys, which of them signs, and when older ones end
    List {
        #[command(flatten)]
        to: Anywhere,
    },
    /// Sign with a new key from a minute on; what older ones have signed is taken until it is over
    Rotate {
        #[command(flatten)]
        to: Anywhere,
    },
    /// Take nothing any more that a key has signed: its devices and apps log in again
    Remove {
        #[command(flatten)]
        to: Anywhere,
        key: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Anywhere {
    /// The gateway's REST API [default: api.listen of the configuration]
    #[arg(long, value_name = "URL")]
    api: Option<String>,
}

impl Anywhere {
    /// The keys are every app's.
    async fn operator(self, config: &Config) -> Result<Operator, CommandError> {
        Operator::new(config, &Target { app: "any/app".to_owned(), api: self.api }).await
    }
}

pub(super) async fn apps(config: &Config, command: AppCommand) -> Result<(), CommandError> {
    match command {
        AppCommand::Create { to, name, scope } => {
            let body = json!({ "name": name, "scope": scope });
            let answer = Operator::new(config, &to).await?.call("POST", "clients", Some(body)).await?;
            secret(&answer)
        }
        AppCommand::List { to } => {
            let answer = Operator::new(config, &to).await?.call("GET", "clients", None).await?;
            for client in answer["entities"].as_array().into_iter().flatten() {
                print(&client.to_string())?;
            }
            Ok(())
        }
        AppCommand::NewSecret { to, client_id } => {
            let path = format!("clients/{}/secret", encode(&client_id));
            secret(&Operator::new(config, &to).await?.call("POST", &path, None).await?)
        }
        AppCommand::Remove { to, client_id } => {
            let path = format!("clients/{}", encode(&client_id));
            Operator::new(config, &to).await?.call("DELETE", &path, None).await?;
            print(&format!("program {client_id} removed"))
        }
    }
}

/// One line each: who lives, and how many devices are connected to it.
pub(super) async fn gateways(config: &Config, to: Anywhere, json: bool) -> Result<(), CommandError> {
    let answer = to.operator(config).await?.call("GET", "gateways", None).await?;
    let all = answer["entities"].as_array().map_or(&[][..], Vec::as_slice);
    if json {
        return print(&json!({ "gateways": all }).to_string());
    }
    for gateway in all {
        let text = |key: &str| shown(gateway[key].as_str().unwrap_or_default());
        let lives = if gateway["alive"] == true { "lives" } else { "is dead" };
        let here = if gateway["here"] == true { " (this one)" } else { "" };
        let hears = if gateway["listens"] == true { "" } else { ", hears no notices" };
        let (version, devices) = (text("version"), &gateway["devices"]);
        print(&format!(
            "{} {}{here} {lives}, {devices} devices, version {version}{hears}",
            text("name"),
            text("node")
        ))?;
    }
    Ok(())
}

fn secret(answer: &Json) -> Result<(), CommandError> {
    let text = |key: &str| shown(answer["data"][key].as_str().unwrap_or_default());
    print(&format!("client_id={}\nclient_secret={}", text("client_id"), text("client_secret")))
}

pub(super) async fn keys(config: &Config, command: KeyCommand) -> Result<(), CommandError> {
    let answer = match command {
        KeyCommand::List { to } => to.operator(config).await?.call("GET", "signing-keys", None).await?,
        KeyCommand::Rotate { to } => to.operator(config).await?.call("POST", "signing-keys", None).await?,
        KeyCommand::Remove { to, key } => {
            to.operator(config).await?.call("DELETE", &format!("signing-keys/{}", encode(&key)), None).await?
        }
    };
    for key in answer["entities"].as_array().into_iter().flatten() {
        let at = |name: &str| key[name].as_i64().and_then(|s| jiff::Timestamp::from_second(s).ok());
        let until = at("until_s").map_or_else(String::new, |until| format!(", good until {until}"));
        let from = at("from_s").filter(|from| from.as_second() > 0);
        let from = from.map_or_else(String::new, |from| format!(", signs from {from}"));
        let signs = if key["signs"] == true { ", signs now" } else { "" };
        print(&format!("{}{from}{signs}{until}", shown(key["id"].as_str().unwrap_or_default())))?;
    }
    Ok(())
}
