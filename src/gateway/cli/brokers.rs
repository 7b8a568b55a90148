//! An operator's question how a broker of theirs lets in this gateway's logins and nobody else.

use super::new_directory::NewDirectory;
use super::{CommandError, Config, print};
use crate::access::Account;
use crate::gateway::recipes::{self, Listener};
use crate::secret::{Secret, random_hex};
use clap::Subcommand;
use std::io;
use std::path::{Path, PathBuf};

/// mosquitto's files, and the gateway's lines.
const CONFIG: &str = "mosquitto.conf";
const ACCOUNTS: &str = "dynamic-security.json";
const GATEWAY: &str = "gateway.toml";

#[derive(Debug, Subcommand)]
pub(super) enum BrokerCommand {
    /// Write what a mosquitto needs into a new directory, which becomes its own
    #[command(
        after_help = "Example: impush-gateway broker-config mosquitto /var/lib/mosquitto/impush --name push.example.com --certificate /etc/mosquitto/certs/server.pem --key /etc/mosquitto/certs/server.key\n\nThe gateway keeps an account for each login in mosquitto's dynamic security plugin. Devices need an agent that takes the user name of its token, and tokens that name their device (`impush-gateway token --device`, `device_id`, or an enrolment code)."
    )]
    Mosquitto {
        directory: PathBuf,
        /// The broker's name, as its certificate has it
        #[arg(long, value_name = "HOST", default_value = "localhost")]
        name: String,
        #[arg(long, default_value_t = 8883)]
        port: u16,
        /// PEM file of its certificate chain
        #[arg(long, value_name = "FILE")]
        certificate: PathBuf,
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// PEM file of the authorities that the gateway trusts for it [default: the system's]
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
        /// mosquitto_dynamic_security.so [default: where Debian's package has it]
        #[arg(long, value_name = "FILE")]
        plugin: Option<PathBuf>,
    },
    /// Print what EMQX 5 needs; it holds broker.ask_secret
    #[command(
        after_help = "EMQX asks the gateway about each CONNECT and topic. On another machine set broker.ask_secret first, and give --api."
    )]
    Emqx {
        /// Where EMQX reaches the gateway's REST API [default: api.listen of the configuration]
        #[arg(long, value_name = "URL")]
        api: Option<String>,
    },
}

pub(super) fn execute(config: &Config, command: BrokerCommand) -> Result<(), CommandError> {
    match command {
        BrokerCommand::Emqx { api } => {
            let api = api.unwrap_or_else(|| format!("http://{}", config.api.listen));
            print(recipes::emqx(api.trim_end_matches('/'), config.broker.ask_secret.as_ref()).trim_end())
        }
        BrokerCommand::Mosquitto { directory, name, port, certificate, key, ca_file, plugin } => {
            // mosquitto reads the paths from elsewhere.
            let directory = std::path::absolute(directory)?;
            let [certificate, key] = [std::path::absolute(certificate)?, std::path::absolute(key)?];
            let ca_file = ca_file.map(std::path::absolute).transpose()?;
            let password = Secret::new(random_hex::<32>());
            let accounts = recipes::accounts(&password, &config.broker.prefix).map_err(CommandError::Refused)?;
            let listener = Listener { port, certificate: &certificate, key: &key };
            let text = recipes::mosquitto(&plugin.unwrap_or_else(installed), &directory.join(ACCOUNTS), &listener);
            let gateways =
                recipes::gateway_on_mosquitto(&format!("mqtts://{name}:{port}"), ca_file.as_deref(), &password);
            // Nothing that is there is written over: accounts may stand in it.
            let made = NewDirectory::make(&directory).map_err(file_error(&directory))?;
            let written =
                |name: &str, text: &str| made.write(name.as_ref(), text).map_err(file_error(&directory.join(name)));
            written(GATEWAY, &gateways)?;
            let its = [written(CONFIG, &text)?, written(ACCOUNTS, &format!("{accounts:#}\n"))?];
            // The plugin writes its file anew beside the old one. It is the user that Debian's mosquitto runs as.
            let given = Account::named("mosquitto").and_then(|user| made.give(&its, user.uid, user.gid)).is_ok();
            let shown = directory.display();
            if !given {
                print(&format!("chown -R mosquitto {shown}    # it must be able to write there"))?;
            }
            print(&format!(
                "1. include_dir {shown} in mosquitto.conf, or start it with -c {shown}/{CONFIG}\n\
                 2. move the lines of {shown}/{GATEWAY} into the gateway's configuration; they hold its password\n\
                 3. restart both"
            ))
        }
    }
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> CommandError {
    let path = path.to_owned();
    |source| CommandError::File { path, source }
}

fn installed() -> PathBuf {
    PathBuf::from(format!("/usr/lib/{}-linux-gnu/mosquitto_dynamic_security.so", std::env::consts::ARCH))
}
