//! An operator's words on enrolment codes.

use super::{CommandError, Config, Operator, Target, encode, print, read};
use crate::terminal;
use crate::untrusted::shown;
use clap::Subcommand;
use serde_json::{Value as Json, json};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum EnrolCommand {
    /// Make a code; it is printed this once. Whoever has it can enrol a device
    #[command(
        after_help = "Example: impush-gateway enrol-code create --app org/app --uses 500 --expires 30d --user kiosk-{serial}\n\nThe device: impush enrol CODE"
    )]
    Create {
        #[command(flatten)]
        to: Target,
        /// How a device's user is called: `{serial}` is its serial number, `{device}` its device id
        #[arg(long, value_name = "NAME", default_value = "{serial}")]
        user: String,
        /// Devices that may enrol with it
        #[arg(long, value_name = "N", default_value_t = 1)]
        uses: u32,
        /// How long it is good: `30d`, `12h`, `45m`, `90s`
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = seconds)]
        expires: u64,
        /// Where devices reach the server [default: the first of broker.names that is not this machine's alone, or
        /// broker.url]
        #[arg(long, value_name = "HOST:PORT")]
        server: Option<String>,
        /// Where devices reach the REST API, with TLS: needed where the broker is not the gateway's own
        #[arg(long, value_name = "URL")]
        rest: Option<String>,
        /// PEM file of the authorities that devices are to trust, and check the first connection against [default: the
        /// gateway's own, or broker.ca_file]
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
    },
    /// The codes, each with the newest 100 devices that enrolled with it
    List {
        #[command(flatten)]
        to: Target,
    },
    /// No device enrols with this code any more; those that have stay logged in
    Revoke {
        #[command(flatten)]
        to: Target,
        id: String,
    },
}

fn seconds(text: &str) -> Result<u64, String> {
    let wanted = || "write 30d, 12h, 45m or 90s".to_owned();
    let unit = text.chars().next_back().ok_or_else(wanted)?;
    let times: u64 = match unit {
        'd' => 86_400,
        'h' => 3600,
        'm' => 60,
        's' => 1,
        _ => return Err(wanted()),
    };
    let number = text[..text.len() - unit.len_utf8()].parse::<u64>().map_err(|_| wanted())?;
    number.checked_mul(times).ok_or_else(wanted)
}

pub(super) async fn execute(config: &Config, command: EnrolCommand) -> Result<(), CommandError> {
    match command {
        EnrolCommand::Create { to, user, uses, expires, server, rest, ca_file } => {
            let ca = ca_file.as_deref().map(read).transpose()?;
            let body = json!({
                "user": user, "uses": uses, "expires_s": expires, "server": server, "rest": rest, "ca": ca,
            });
            let answer = Operator::new(config, &to).await?.call("POST", "enrol-codes", Some(body)).await?;
            let data = &answer["data"];
            // Beside the code, which may go into a file or a picture.
            terminal::note(&format!("{}; server {}", line(data), shown(data["server"].as_str().unwrap_or_default())));
            print(&shown(data["code"].as_str().unwrap_or_default()))
        }
        EnrolCommand::List { to } => {
            let answer = Operator::new(config, &to).await?.call("GET", "enrol-codes", None).await?;
            for code in answer["entities"].as_array().into_iter().flatten() {
                print(&line(code))?;
                for device in code["devices"].as_array().into_iter().flatten() {
                    let text = |key: &str| shown(device[key].as_str().unwrap_or_default());
                    print(&format!("  {} {} since {}", text("device_id"), text("user"), moment(&device["at_ms"])))?;
                }
            }
            Ok(())
        }
        EnrolCommand::Revoke { to, id } => {
            let path = format!("enrol-codes/{}", encode(&id));
            Operator::new(config, &to).await?.call("DELETE", &path, None).await?;
            print(&format!("code {id} is revoked; devices that enrolled with it stay logged in"))
        }
    }
}

fn line(code: &Json) -> String {
    let text = |key: &str| shown(code[key].as_str().unwrap_or_default());
    let state = match &code["revoked_ms"] {
        Json::Null => format!("until {}", moment(&code["expires_ms"])),
        at => format!("revoked {}", moment(at)),
    };
    let (left, uses) = (&code["uses_left"], &code["uses"]);
    format!("{} {} {left} of {uses} left, {state}, by {}", text("id"), text("user"), text("created_by"))
}

fn moment(ms: &Json) -> String {
    let at = ms.as_i64().and_then(|ms| jiff::Timestamp::from_second(ms / 1000).ok());
    at.map_or_else(|| "-".to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!((seconds("30d"), seconds("90s")), (Ok(2_592_000), Ok(90)));
        assert!(["", "30", "d", "-1d", "1w", "99999999999999999999d", "1日"].iter().all(|text| seconds(text).is_err()));
    }
}
