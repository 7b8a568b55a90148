//! The `impush-gateway` command line: the server, and an operator's questions to it.

mod authority;
mod brokers;
mod checking;
mod enrolments;
mod new_directory;
mod programs;
mod users;

use super::config::{Config, SYSTEM_FILE, VARIABLES};
use super::error::ServeError;
use super::opening::open;
use super::serve::{Start, serve};
use super::store::Vault;
use crate::http::Http;
use crate::logs;
use crate::settings::{self, SettingsError};
use crate::terminal;
use crate::untrusted::shown;
use crate::vendors::Vendor;
use clap::{Args, Parser, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value as Json, json};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Delivers messages to devices over their connection, and through their maker's push cloud when the
/// connection does not confirm in time.
#[derive(Debug, Parser)]
#[command(name = "impush-gateway", version)]
pub struct Cli {
    /// Configuration file [default: /etc/impush/gateway.toml if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve devices and the REST API until stopped
    Serve {
        /// Use this MQTT 5 broker instead of the gateway's own endpoint
        #[arg(long, value_name = "URL")]
        broker: Option<String>,
        /// Print one JSON line with the addresses once everything is up
        #[arg(long)]
        announce: bool,
    },
    #[command(flatten)]
    Users(users::UsersCommand),
    /// Print a token with which a device logs in
    Token {
        #[command(flatten)]
        to: Target,
        user: String,
        /// File with the user's password; `-` is standard input
        #[arg(long, value_name = "FILE")]
        password_file: PathBuf,
        /// Bind the token to one device
        #[arg(long)]
        device: Option<String>,
    },
    /// Apps' programs: who may call the REST API
    App {
        #[command(subcommand)]
        command: programs::AppCommand,
    },
    /// Codes with which devices enrol themselves: `impush enrol CODE`
    EnrolCode {
        #[command(subcommand)]
        command: enrolments::EnrolCommand,
    },
    /// The keys that sign tokens
    SigningKey {
        #[command(subcommand)]
        command: programs::KeyCommand,
    },
    /// The authority of the endpoint's certificate, where the gateway made it
    Authority {
        #[command(subcommand)]
        command: authority::AuthorityCommand,
    },
    /// How a broker of yours lets in this gateway's logins, and nobody else
    BrokerConfig {
        #[command(subcommand)]
        command: brokers::BrokerCommand,
    },
    /// Push certificates: a vendor's credentials under the name devices bind to
    Certificate {
        #[command(subcommand)]
        command: CertificateCommand,
    },
    /// The gateways that share the database: who lives, and how many devices each has
    Gateways {
        #[command(flatten)]
        to: programs::Anywhere,
        #[arg(long)]
        json: bool,
    },
    /// Send a message
    #[command(after_help = "Example: impush-gateway send --app org/app ann 'Hello' --title 'From Bob'")]
    Send {
        #[command(flatten)]
        to: Target,
        user: String,
        text: String,
        #[arg(long)]
        title: Option<String>,
    },
    /// Every hop of a message, with the reason it stopped or waited
    Trace {
        #[command(flatten)]
        to: Target,
        id: String,
    },
    /// Make a new key for the secrets in the store, where the old one is gone for good
    #[command(
        after_help = "What was sealed with the old key stays unreadable: put those certificates in again. The gateway makes its own secrets anew at its next start, and every device and app logs in again. Never overwrites a key."
    )]
    NewSecretsKey,
    /// Exit 0 if the gateway could start with this configuration, 78 with the reasons if not
    #[command(
        after_help = "Looks at every file a start needs, as the user the service runs as. --vendors takes HTTPS_PROXY and NO_PROXY from its own environment, the service from its unit's."
    )]
    Check {
        /// Look as this user [default: the service's user, for root where a service manager starts it]
        #[arg(long, value_name = "USER")]
        as_user: Option<String>,
        /// Then call each vendor's host by the proxy or straight, as it is set, and exit 69 if one is not reached
        #[arg(long)]
        vendors: bool,
    },
}

/// The longest an answer may take: a test of many notifications is one call.
const ANSWER: Duration = Duration::from_secs(300);

/// Which gateway and app a question is for.
#[derive(Debug, Args)]
struct Target {
    /// The app, as `org/app`
    #[arg(long, value_name = "ORG/APP")]
    app: String,
    /// The gateway's REST API [default: api.listen of the configuration]
    #[arg(long, value_name = "URL")]
    api: Option<String>,
}

#[derive(Debug, Subcommand)]
enum CertificateCommand {
    /// Add a certificate, or replace the one of that name
    #[command(
        after_help = "Example: impush-gateway certificate add --app org/app VENDOR NAME --fields-file fields.json\n\nThe file holds one JSON object: {\"app_secret\": \"...\", \"package\": \"com.example\"}"
    )]
    Add {
        #[command(flatten)]
        to: Target,
        vendor: Vendor,
        name: String,
        /// File with the vendor's fields as one JSON object; `-` is standard input
        #[arg(long, value_name = "FILE")]
        fields_file: PathBuf,
    },
    List {
        #[command(flatten)]
        to: Target,
    },
    Remove {
        #[command(flatten)]
        to: Target,
        name: String,
    },
    /// Use a certificate again
    Enable {
        #[command(flatten)]
        to: Target,
        name: String,
    },
    /// Stop using a certificate; its bindings stay
    Disable {
        #[command(flatten)]
        to: Target,
        name: String,
    },
    /// Send a notification to a raw device token and print what the vendor said
    #[command(after_help = "Exit 0 only if the vendor took it (all of them, with --count).")]
    Test {
        #[command(flatten)]
        to: Target,
        name: String,
        token: String,
        #[arg(long)]
        title: Option<String>,
        #[arg(long)]
        content: Option<String>,
        /// How many; more than one measures the way to the vendor
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// How many at once
        #[arg(long, default_value_t = 1)]
        concurrency: u32,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{}", .0.join("\nimpush-gateway: "))]
    CannotStart(Vec<String>),
    #[error("{}", .0.join("\nimpush-gateway: "))]
    NotReached(Vec<String>),
    #[error("cannot look as that user: {0}")]
    User(io::Error),
    #[error("--app is `org/app`")]
    App,
    #[error("no gateway answers at {url}: {why}")]
    Unreachable { url: String, why: String },
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl CommandError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(error) if error.not_permitted() => 77,
            Self::Settings(_) | Self::CannotStart(_) => 78,
            Self::User(error) if error.kind() == io::ErrorKind::PermissionDenied => 77,
            Self::User(_) => 67,
            Self::Serve(error) => error.exit_code(),
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 77,
            Self::File { .. } => 66,
            Self::App => 64,
            Self::Unreachable { .. } | Self::NotReached(_) => 69,
            Self::Refused(_) => 65,
            Self::Io(_) => 74,
        }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli: Cli = match terminal::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let serves = matches!(cli.command, Command::Serve { .. });
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if serves {
                logs::failed("impush-gateway", &error);
            }
            terminal::complain("impush-gateway", &error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn execute(cli: Cli) -> Result<(), CommandError> {
    let file = cli.config.clone();
    let mut config = load(file.as_deref())?;
    // Every TLS user in this process, the endpoint for devices included, uses the same cryptography.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match cli.command {
        Command::Serve { broker, announce } => {
            let source = move || {
                let mut config = load(file.as_deref())?;
                config.broker.url = broker.clone().or(config.broker.url);
                good(config)
            };
            config = source()?;
            let state = config.state_directory();
            let program = logs::Program { name: "impush-gateway", state: Some(&state) };
            let start = Start { announce, levels: logs::init(&config.log, program), source: Box::new(source) };
            let result = runtime.block_on(async {
                let (reloads, stops) = (terminal::asked_to_reload()?, terminal::asked_to_stop()?);
                Ok(Box::pin(serve(config, start, reloads, stops)).await?)
            });
            logs::finish();
            result
        }
        Command::Check { as_user, vendors } => {
            let config = good(config)?;
            checking::execute(file.as_deref(), &config, as_user.as_deref())?;
            if vendors { runtime.block_on(checking::vendors(&config)) } else { Ok(()) }
        }
        Command::NewSecretsKey => {
            let (path, _) = config.secrets_key();
            let failed = |source| CommandError::File { path: path.clone(), source };
            Vault::open(&path, true).and_then(|vault| vault.make()).map_err(failed)?;
            print(&format!("{} made; put the certificates in again", path.display()))?;
            let forgotten = runtime.block_on(forget_secrets(&config))?;
            if !forgotten.is_empty() {
                print(&format!("made anew with the gateway's next start: {}", forgotten.join("; ")))?;
            }
            Ok(())
        }
        Command::BrokerConfig { command } => brokers::execute(&config, command),
        command => runtime.block_on(ask(&config, command)),
    }
}

fn load(file: Option<&Path>) -> Result<Config, SettingsError> {
    let system = Path::new(SYSTEM_FILE);
    settings::load(file.or_else(|| system.exists().then_some(system)), VARIABLES, std::env::vars_os())
}

/// Checked, so that the variable is named where one is to blame.
fn good(config: Config) -> Result<Config, SettingsError> {
    config.check().map_err(|error| error.naming_variable(VARIABLES, std::env::vars_os()))?;
    Ok(config)
}

/// Those that the new sealing key does not open: a command may do what no start does in silence.
async fn forget_secrets(config: &Config) -> Result<Vec<&'static str>, CommandError> {
    let mut away = String::new();
    let opened = tokio::time::timeout(ANSWER, open(config, |error| away = error.to_string())).await;
    let store = opened.map_err(|_| CommandError::Refused(away))??;
    Ok(store.forget_unreadable().await.map_err(ServeError::from)?)
}

async fn ask(config: &Config, command: Command) -> Result<(), CommandError> {
    match command {
        Command::Users(command) => users::execute(config, command).await,
        Command::Token { to, user, password_file, device } => {
            let operator = Operator::new(config, &to).await?;
            let body = json!({ "grant_type": "password", "username": user, "password": read(&password_file)?, "device_id": device });
            let answer = operator.call("POST", "token", Some(body)).await?;
            print(answer["access_token"].as_str().unwrap_or_default())
        }
        Command::Authority { command } => authority::execute(config, command).await,
        Command::App { command } => programs::apps(config, command).await,
        Command::EnrolCode { command } => enrolments::execute(config, command).await,
        Command::SigningKey { command } => programs::keys(config, command).await,
        Command::Certificate { command } => certificate(config, command).await,
        Command::Gateways { to, json } => programs::gateways(config, to, json).await,
        Command::Send { to, user, text, title } => {
            let operator = Operator::new(config, &to).await?;
            let mut ext = json!({});
            if let Some(title) = title {
                ext = json!({ "em_push_ext": { "title": title, "content": text } });
            }
            let body = json!({ "to": [user], "type": "txt", "body": { "msg": text }, "ext": ext });
            let answer = operator.call("POST", "messages/users", Some(body)).await?;
            print(
                answer["data"]
                    .as_object()
                    .unwrap_or(&Map::new())
                    .values()
                    .filter_map(Json::as_str)
                    .next()
                    .unwrap_or_default(),
            )
        }
        Command::Trace { to, id } => {
            let operator = Operator::new(config, &to).await?;
            let answer = operator.call("GET", &format!("messages/{}/trace", encode(&id)), None).await?;
            let empty = Vec::new();
            let lines = answer["entities"].as_array().unwrap_or(&empty);
            let start = lines.first().and_then(|l| l["at_ms"].as_u64()).unwrap_or(0);
            for line in lines {
                let after = line["at_ms"].as_u64().unwrap_or(start).saturating_sub(start);
                let text = |key: &str| shown(line[key].as_str().unwrap_or_default());
                print(&format!("+{after:>7} ms  {:<15} {:<34} {}", text("hop"), text("device"), text("detail")))?;
            }
            Ok(())
        }
        Command::Serve { .. } | Command::Check { .. } | Command::NewSecretsKey | Command::BrokerConfig { .. } => Ok(()),
    }
}

async fn certificate(config: &Config, command: CertificateCommand) -> Result<(), CommandError> {
    match command {
        CertificateCommand::Add { to, vendor, name, fields_file } => {
            let operator = Operator::new(config, &to).await?;
            let fields: Json = serde_json::from_str(&read(&fields_file)?)
                .map_err(|e| CommandError::Refused(format!("{}: not a JSON object: {e}", fields_file.display())))?;
            operator
                .call("POST", "certificates", Some(json!({ "vendor": vendor, "name": name, "fields": fields })))
                .await?;
            print(&format!("{vendor} certificate {name} stored"))
        }
        CertificateCommand::List { to } => {
            let answer = Operator::new(config, &to).await?.call("GET", "certificates", None).await?;
            for certificate in answer["entities"].as_array().into_iter().flatten() {
                print(&certificate.to_string())?;
            }
            Ok(())
        }
        CertificateCommand::Remove { to, name } => {
            Operator::new(config, &to).await?.call("DELETE", &format!("certificates/{}", encode(&name)), None).await?;
            print(&format!("certificate {name} removed"))
        }
        CertificateCommand::Enable { to, name } => switch(config, &to, &name, true).await,
        CertificateCommand::Disable { to, name } => switch(config, &to, &name, false).await,
        CertificateCommand::Test { to, name, token, title, content, count, concurrency, json } => {
            let operator = Operator::new(config, &to).await?;
            let body = json!({ "token": token, "title": title, "content": content, "count": count, "concurrency": concurrency });
            let answer = operator.call("POST", &format!("certificates/{}/test", encode(&name)), Some(body)).await?;
            let data = &answer["data"];
            let text = |key: &str| shown(data[key].as_str().unwrap_or_default());
            if json {
                print(&data.to_string())?;
            } else {
                print(&format!("{}: {}", text("outcome"), text("detail")))?;
            }
            match data["outcomes"]["delivered"].as_u64() == Some(u64::from(count)) {
                true => Ok(()),
                false => Err(CommandError::Refused(format!("not delivered: {}", data["outcomes"]))),
            }
        }
    }
}

async fn switch(config: &Config, to: &Target, name: &str, enabled: bool) -> Result<(), CommandError> {
    let path = format!("certificates/{}", encode(name));
    Operator::new(config, to).await?.call("PATCH", &path, Some(json!({ "enabled": enabled }))).await?;
    print(&format!("certificate {name} is {}", if enabled { "in use" } else { "out of use" }))
}

/// An operator with the gateway's own secret, which lies in its state directory.
struct Operator {
    http: Http,
    base: String,
    token: String,
}

impl Operator {
    async fn new(config: &Config, target: &Target) -> Result<Self, CommandError> {
        let (org, app) = target.app.split_once('/').ok_or(CommandError::App)?;
        let api = target.api.clone().unwrap_or_else(|| format!("http://{}", config.api.listen));
        let secret = read(&config.state_directory().join("admin.secret"))?;
        let unreachable = |why| CommandError::Unreachable { url: api.clone(), why };
        let http = Http::new(None, ANSWER).map_err(unreachable)?;
        let base = format!("{}/{}/{}", api.trim_end_matches('/'), encode(org), encode(app));
        let mut operator = Self { http, base, token: String::new() };
        let grant = json!({ "grant_type": "client_credentials", "client_id": "admin", "client_secret": secret });
        let answer = operator.call("POST", "token", Some(grant)).await?;
        operator.token = answer["access_token"].as_str().unwrap_or_default().to_owned();
        Ok(operator)
    }

    async fn call(&self, method: &str, path: &str, body: Option<Json>) -> Result<Json, CommandError> {
        let url = format!("{}/{path}", self.base);
        let bearer = format!("Bearer {}", self.token);
        let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
        let body = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
        let (status, answer) = self
            .http
            .call(method, &url, &headers, body)
            .await
            .map_err(|e| CommandError::Unreachable { url: self.base.clone(), why: e.to_string() })?;
        let answer: Json = serde_json::from_slice(&answer).unwrap_or_default();
        if status.is_success() {
            return Ok(answer);
        }
        let why = shown(answer["error_description"].as_str().unwrap_or("no reason given"));
        Err(CommandError::Refused(format!("{status}: {why}")))
    }
}

fn encode(part: &str) -> String {
    utf8_percent_encode(part, NON_ALPHANUMERIC).to_string()
}

fn read(path: &Path) -> Result<String, CommandError> {
    terminal::read_text(path, 256 * 1024).map_err(|source| CommandError::File { path: path.to_owned(), source })
}

fn print(line: &str) -> Result<(), CommandError> {
    Ok(terminal::print(line)?)
}
