//! An operator's words on users, their devices and their logins.

use super::{CommandError, Config, Operator, Target, encode, print, read};
use crate::untrusted::shown;
use clap::Subcommand;
use serde_json::{Value as Json, json};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum UsersCommand {
    /// Create a user
    User {
        #[command(flatten)]
        to: Target,
        user: String,
        /// File with the password, of 8 characters at least; `-` is standard input
        #[arg(long, value_name = "FILE")]
        password_file: PathBuf,
    },
    /// The app's users
    Users {
        #[command(flatten)]
        to: Target,
    },
    /// Give a user another password, which ends every login
    Password {
        #[command(flatten)]
        to: Target,
        user: String,
        /// File with the password, of 8 characters at least; `-` is standard input
        #[arg(long, value_name = "FILE")]
        password_file: PathBuf,
    },
    /// Keep a user from logging in, and end every login
    Deactivate {
        #[command(flatten)]
        to: Target,
        user: String,
    },
    /// Let a user log in again
    Activate {
        #[command(flatten)]
        to: Target,
        user: String,
    },
    /// Delete a user and all that is the user's
    RemoveUser {
        #[command(flatten)]
        to: Target,
        user: String,
    },
    /// A user's devices
    Devices {
        #[command(flatten)]
        to: Target,
        user: String,
    },
    /// A user's device: since when it is connected, when it was heard, how fast, and how its last connection ended
    Device {
        #[command(flatten)]
        to: Target,
        user: String,
        device: String,
    },
    /// Forget a device of a user, and end its logins
    RemoveDevice {
        #[command(flatten)]
        to: Target,
        user: String,
        device: String,
    },
    /// The logins a user's devices have entered with
    Logins {
        #[command(flatten)]
        to: Target,
        user: String,
    },
    /// End a user's logins: on every device, on one, or one of them
    Kick {
        #[command(flatten)]
        to: Target,
        user: String,
        #[arg(long, conflicts_with = "login")]
        device: Option<String>,
        /// Its id, as `logins` shows it
        #[arg(long)]
        login: Option<String>,
    },
}

pub(super) async fn execute(config: &Config, command: UsersCommand) -> Result<(), CommandError> {
    match command {
        UsersCommand::User { to, user, password_file } => {
            let body = json!({ "username": user, "password": read(&password_file)? });
            let answer = Operator::new(config, &to).await?.call("POST", "users", Some(body)).await?;
            let new = answer["entities"].as_array().is_some_and(|e| !e.is_empty());
            print(&match new {
                true => format!("{user} created"),
                false => format!("{user} exists already; the password is unchanged (`impush-gateway password`)"),
            })
        }
        UsersCommand::Users { to } => {
            let operator = Operator::new(config, &to).await?;
            let mut cursor = String::new();
            loop {
                let path = format!("users?limit=100&cursor={}", encode(&cursor));
                let answer = operator.call("GET", &path, None).await?;
                list(&answer)?;
                match answer["cursor"].as_str() {
                    Some(next) => next.clone_into(&mut cursor),
                    None => return Ok(()),
                }
            }
        }
        UsersCommand::Password { to, user, password_file } => {
            let body = json!({ "newpassword": read(&password_file)? });
            at(config, &to, "PUT", &user, "/password", Some(body)).await?;
            print(&format!("{user} has another password; every login has ended"))
        }
        UsersCommand::Deactivate { to, user } => {
            at(config, &to, "POST", &user, "/deactivate", None).await?;
            print(&format!("{user} may not log in; every login has ended"))
        }
        UsersCommand::Activate { to, user } => {
            at(config, &to, "POST", &user, "/activate", None).await?;
            print(&format!("{user} may log in"))
        }
        UsersCommand::RemoveUser { to, user } => {
            at(config, &to, "DELETE", &user, "", None).await?;
            print(&format!("{user} is deleted"))
        }
        UsersCommand::Devices { to, user } => list(&at(config, &to, "GET", &user, "/devices", None).await?),
        UsersCommand::Device { to, user, device } => {
            list(&at(config, &to, "GET", &user, &format!("/devices/{}", encode(&device)), None).await?)
        }
        UsersCommand::RemoveDevice { to, user, device } => {
            at(config, &to, "DELETE", &user, &format!("/devices/{}", encode(&device)), None).await?;
            print(&format!("{user} has no device {device} any more"))
        }
        UsersCommand::Logins { to, user } => list(&at(config, &to, "GET", &user, "/logins", None).await?),
        UsersCommand::Kick { to, user, device, login } => {
            let path = match (device, login) {
                (Some(device), _) => format!("/disconnect/{}", encode(&device)),
                (None, Some(login)) => format!("/logins/{}", encode(&login)),
                (None, None) => "/disconnect".to_owned(),
            };
            let answer = at(config, &to, "DELETE", &user, &path, None).await?;
            let devices = answer["data"]["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
            let names: Vec<String> = devices.iter().map(|name| shown(name.as_str().unwrap_or_default())).collect();
            print(&match names.is_empty() {
                true => format!("{user} was logged in nowhere; tokens that were issued are not taken any more"),
                false => format!("{user} is logged out on {}", names.join(", ")),
            })
        }
    }
}

/// A call about one user.
async fn at(
    config: &Config,
    to: &Target,
    method: &str,
    user: &str,
    path: &str,
    body: Option<Json>,
) -> Result<Json, CommandError> {
    Operator::new(config, to).await?.call(method, &format!("users/{}{path}", encode(user)), body).await
}

/// One line of JSON for each.
fn list(answer: &Json) -> Result<(), CommandError> {
    answer["entities"].as_array().into_iter().flatten().try_for_each(|entity| print(&entity.to_string()))
}
