//! The `impush` command line: what each command asks, prints and exits with.

use super::app_command::{self, AppCommand};
use super::command_error::CommandError;
use super::config::{Config, Paths};
use super::control::{Client, ClientError, Reader};
use super::doctor::{self, Outcome};
use super::identity;
use super::inbox::{self, InboxCommand, InboxCommandError};
use super::loading::{good, load, socket_only, startable};
use super::name::AgentName;
use super::output::{self, Written};
use super::start::{self, Retry};
use super::{bundle, check, text};
use crate::access::Account;
use crate::logs;
use crate::terminal;
use crate::untrusted::shown;
use crate::vendors::Vendor;
use clap::{Args, Parser, Subcommand};
use serde_json::{Value as Json, json};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Keeps this device reachable: through its maker's push channel where there is one, over a kept-alive
/// long connection where there is none.
/// The most bytes of what `getprop` printed; a phone's has about 60 KiB, twice that in UTF-16.
const LARGEST_DUMP: u64 = 4 << 20;

#[derive(Debug, Parser)]
#[command(
    name = "impush",
    version,
    after_help = "Exit codes follow sysexits: 64 usage, 69 unavailable, 73 and 74 disk, 75 try later, 77 not permitted, 78 configuration."
)]
pub struct Cli {
    /// Which of several agents on this device: the one of unit impush@NAME, with /etc/impush/impush@NAME.toml
    #[arg(long, global = true, value_name = "NAME", default_value = "", hide_default_value = true)]
    name: AgentName,
    /// Configuration file [default: /etc/impush/impush.toml if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Control socket of the agent, instead of the configured one
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent in the foreground, as the system service does
    #[command(after_help = "Example: impush run --config /etc/impush/impush.toml")]
    Run {
        /// Try a start that failed again, with growing pauses, and say meanwhile why; without WHAT: passing
        #[arg(long, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "passing")]
        retry: Option<Retry>,
    },
    /// Say who made this device and which push channel its ROM can carry
    #[command(
        after_help = "Examples:\n  impush detect\n  impush detect --root /tmp/phone-dump --json\n  adb shell getprop | impush detect --getprop -"
    )]
    Detect {
        /// Read a file tree laid out as on a device instead of the running system
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
        /// Read what `getprop` printed on the device instead; `-` is standard input
        #[arg(long, value_name = "FILE", conflicts_with = "root")]
        getprop: Option<PathBuf>,
        #[arg(long)]
        json: bool,
    },
    /// Show the state, since when, why, and what happens next
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Log a user in; the password is a token the gateway issued
    #[command(
        after_help = "Example: impush login ann --password-file /run/secrets/ann.jwt\n\nThe file `-` is standard input."
    )]
    Login {
        user: String,
        /// File with the password; `-` is standard input
        #[arg(long, value_name = "FILE")]
        password_file: PathBuf,
        /// End as soon as the login is stored, not when a server has accepted it
        #[arg(long)]
        no_wait: bool,
        /// Print the answer, or the refusal, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Log this device in with an enrolment code, which also says where the server is and whom to trust
    #[command(
        after_help = "Example: impush enrol impush-enrol-1.AbC...\n\n`-` reads the code from standard input, which keeps it out of process lists. The code stays good for this device until it has expired: after an error, the same command again."
    )]
    Enrol {
        /// What `impush-gateway enrol-code create` printed; `-` is standard input
        code: String,
        /// End as soon as the login is stored, not when a server has accepted it
        #[arg(long)]
        no_wait: bool,
        /// Print the answer, or the refusal, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Log out; the device's token is unbound first
    Logout {
        /// Leave the token bound: notifications keep coming
        #[arg(long)]
        keep_binding: bool,
    },
    /// Hand over or take back a vendor's device token
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Print messages as they come; each is taken once it is printed
    Watch {
        #[arg(long)]
        json: bool,
        /// Leave the messages in the inbox
        #[arg(long)]
        peek: bool,
        /// As this local app, which keeps a place of its own; else as the user this command runs as
        #[arg(long, value_name = "NAME", conflicts_with = "peek")]
        app: Option<String>,
    },
    /// Check everything between this device and its messages, in order, with what to do
    #[command(after_help = "Exit 0 if nothing failed, 69 otherwise. Changes nothing.")]
    Doctor {
        #[arg(long)]
        json: bool,
    },
    /// Write what a supporter needs into one text file, without secrets
    #[command(after_help = "Example: impush support-bundle --output /tmp/impush.txt")]
    SupportBundle {
        /// `-` is standard output
        #[arg(long, value_name = "FILE", default_value = "-")]
        output: PathBuf,
    },
    /// Local apps: their secrets, and how they are started for a message
    App {
        #[command(subcommand)]
        command: AppCommand,
    },
    /// Make a new connection now
    Reconnect,
    /// Save power, or a metered network: longer heartbeats, fewer wakeups; until the agent restarts
    Power {
        #[arg(value_parser = ["auto", "normal", "low"])]
        mode: String,
    },
    /// The messages that no app has taken, without a running agent
    Inbox {
        #[command(subcommand)]
        command: InboxCommand,
    },
    /// Take a new device id at the next start: for a copied state directory; the login stays
    #[command(
        after_help = "The agent must be stopped. The old id is kept as identity.json.moved-N; push tokens are forgotten until apps hand them over again."
    )]
    ResetIdentity,
    /// Check or show the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Store a token
    Set(TokenArgs),
    /// Forget a channel's token
    Remove { channel: Vendor },
}

#[derive(Debug, Args)]
struct TokenArgs {
    channel: Vendor,
    /// The token; `-` reads it from standard input, which keeps it out of process lists
    token: String,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Exit 0 if the agent could start with it, 78 with the reasons if not
    #[command(after_help = "Looks at every file a start needs, as the user the service runs as.")]
    Check {
        /// Look as this user [default: the service's user, for root where a service manager starts it]
        #[arg(long, value_name = "USER")]
        as_user: Option<String>,
        /// Without a server it is good, too: the agent waits to be enrolled then
        #[arg(long)]
        may_enrol: bool,
    },
    /// Print every key with its value
    Show,
}
impl Command {
    const fn needs_the_socket_only(&self) -> bool {
        !matches!(
            self,
            Self::Run { .. }
                | Self::Doctor { .. }
                | Self::SupportBundle { .. }
                | Self::Config { .. }
                | Self::Inbox { .. }
                | Self::ResetIdentity
        )
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli: Cli = match terminal::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let serves = matches!(cli.command, Command::Run { .. });
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output left: `impush watch | head -1`.
        Err(CommandError::Output(error) | CommandError::Inbox(InboxCommandError::Output(error)))
            if error.kind() == io::ErrorKind::BrokenPipe =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            if serves {
                logs::failed("impush", &error);
            }
            // What the agent says may repeat what a server said.
            let said = match &error {
                CommandError::Client(client) => shown(client),
                other => other.to_string(),
            };
            terminal::complain("impush", &said);
            ExitCode::from(error.exit_code())
        }
    }
}

fn execute(cli: Cli) -> Result<(), CommandError> {
    // Detection asks nothing of the configuration, so a broken one does not stop it.
    if let Command::Detect { root, getprop, json } = &cli.command {
        return detect(root.as_deref(), getprop.as_deref(), *json);
    }
    let (file, name) = (cli.config.clone(), cli.name.clone());
    let runs = matches!(cli.command, Command::Run { .. });
    let only_socket = cli.command.needs_the_socket_only();
    let source = move || load(file.as_deref(), &name, only_socket);
    let config = match source() {
        // Its passwords are not everybody's, and what it says wrongly concerns the agent. Who may use the socket
        // needs nothing else of it.
        Err(error) if only_socket && (error.not_permitted() || error.is_broken_file()) => {
            if error.is_broken_file() {
                terminal::complain("impush", &error);
            }
            socket_only(cli.config.as_deref(), &cli.name)
        }
        // It is read again for each start, and the error told then to whoever asks for the agent.
        Err(_) if runs => Config { name: cli.name.clone(), ..Config::default() },
        loaded => loaded?,
    };
    let found = || if runs { config.socket() } else { config.agents_socket() };
    let socket = cli.socket.clone().unwrap_or_else(found);
    match cli.command {
        Command::Run { retry } => {
            let with_socket = move |config: Config| {
                let paths = Paths { socket: Some(socket.clone()), ..config.paths.clone() };
                Config { paths, ..config }
            };
            Ok(start::run(&with_socket(config), retry, move || source().map(&with_socket).and_then(startable))?)
        }
        Command::Config { command: ConfigCommand::Check { as_user, may_enrol } } => {
            let config = if may_enrol { startable(config) } else { good(config) }?;
            let account = match as_user {
                Some(name) => Some(Account::named(&name).map_err(CommandError::User)?),
                None => check::service_account(),
            };
            let system = cli.name.file();
            let file = cli.config.as_deref().or_else(|| system.exists().then_some(&*system));
            let obstacles = check::obstacles(file, &config, account.as_ref()).map_err(CommandError::User)?;
            if !obstacles.is_empty() {
                return Err(CommandError::CannotStart(obstacles));
            }
            print("configuration is good")
        }
        Command::Config { command: ConfigCommand::Show } => {
            print(&serde_json::to_string_pretty(&bundle::without_secrets(config))?)
        }
        Command::Inbox { command } => Ok(inbox::execute(&config.state_directory(), &command)?),
        Command::ResetIdentity => Ok(identity::reset(&config.state_directory())?),
        Command::Doctor { json } => in_runtime(async {
            let checks = doctor::examine(&config, &Client::onlooker(&socket)).await;
            if json {
                print(&serde_json::to_string(&checks)?)?;
            } else {
                print(&text::checks(&checks))?;
            }
            match checks.iter().filter(|check| check.outcome == Outcome::Failed).count() {
                0 => Ok(()),
                failed => Err(CommandError::Unhealthy { failed }),
            }
        }),
        Command::SupportBundle { output } => in_runtime(async {
            let text = bundle::collect(&config, &Client::onlooker(&socket)).await;
            match output::write(&output, text.trim_end().as_bytes())
                .map_err(|source| CommandError::File { path: output.clone(), source })?
            {
                Written::File => print(&format!("written to {}", output.display())),
                Written::Stream => Ok(()),
            }
        }),
        command => ask(&Client::new(&socket), command),
    }
}

fn in_runtime(work: impl Future<Output = Result<(), CommandError>>) -> Result<(), CommandError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn ask(client: &Client, command: Command) -> Result<(), CommandError> {
    in_runtime(async {
        match command {
            Command::Status { json } => {
                let status = client.call("GET", "/v1/status", None).await?;
                if json { print(&status.to_string()) } else { print(&text::status(&serde_json::from_value(status)?)) }
            }
            Command::Login { user, password_file, no_wait, json } => {
                let password = read_secret(&password_file)?;
                let body = json!({ "user": user, "password": password, "wait": !no_wait });
                let Some(answer) = logged_in(client, "/v1/login", body, json).await? else { return Ok(()) };
                print(&format!("logged in as {user} on device {}", field(&answer, "device_id")))
            }
            Command::Enrol { code, no_wait, json } => {
                let code = if code == "-" { read_secret(Path::new("-"))? } else { code };
                let body = json!({ "code": code, "wait": !no_wait });
                let Some(answer) = logged_in(client, "/v1/enrol", body, json).await? else { return Ok(()) };
                for note in answer["notes"].as_array().into_iter().flatten().filter_map(Json::as_str) {
                    terminal::note(&shown(note));
                }
                let text = |key| shown(field(&answer, key));
                print(&format!("enrolled as {} on device {} at {}", text("user"), text("device_id"), text("server")))
            }
            Command::Logout { keep_binding } => {
                let answer = client.call("POST", "/v1/logout", Some(&json!({ "keep_binding": keep_binding }))).await?;
                print(match (answer["unbound"].as_bool(), answer["owed"].as_bool()) {
                    (Some(true), _) => "logged out; the token is unbound",
                    (_, Some(true)) => "logged out; the gateway will be told when it can be reached",
                    _ => "logged out; the token stays bound",
                })
            }
            Command::Token { command: TokenCommand::Set(TokenArgs { channel, token }) } => {
                let token = if token == "-" { read_secret(Path::new("-"))? } else { token };
                let answer =
                    client.call("PUT", &format!("/v1/tokens/{channel}"), Some(&json!({ "token": token }))).await?;
                print(&match answer["why_not"].as_str() {
                    Some(why) => format!("{channel} token stored; the channel is not active: {}", shown(why)),
                    None => format!("{channel} token stored; the channel is active"),
                })
            }
            Command::Token { command: TokenCommand::Remove { channel } } => {
                client.call("DELETE", &format!("/v1/tokens/{channel}"), None).await?;
                print(&format!("{channel} token forgotten"))
            }
            Command::Watch { json, peek, app } => watch(client, json, peek, app.as_deref()).await,
            Command::App { command } => print(&app_command::execute(client, &command).await?),
            Command::Reconnect => {
                client.call("POST", "/v1/reconnect", None).await?;
                print("reconnecting")
            }
            Command::Power { mode } => {
                let answer = client.call("PUT", "/v1/power", Some(&json!({ "mode": mode }))).await?;
                print(if answer["saving"] == true { "power is saved" } else { "power is not saved" })
            }
            Command::Run { .. }
            | Command::Detect { .. }
            | Command::Config { .. }
            | Command::Inbox { .. }
            | Command::Doctor { .. }
            | Command::SupportBundle { .. }
            | Command::ResetIdentity => Ok(()),
        }
    })
}

/// The answer; as JSON it is printed already, and so is a refusal.
async fn logged_in(client: &Client, path: &str, body: Json, json: bool) -> Result<Option<Json>, CommandError> {
    let answer = client.call("POST", path, Some(&body)).await;
    if json && let Err(ClientError::Refused(refusal)) = &answer {
        print(&json!({ "error": refusal }).to_string())?;
    }
    let answer = answer?;
    if json {
        return print(&answer.to_string()).map(|()| None);
    }
    Ok(Some(answer))
}

async fn watch(client: &Client, json: bool, peek: bool, app: Option<&str>) -> Result<(), CommandError> {
    let reader = match app {
        _ if peek => Reader::Peek,
        Some(app) => Reader::App(app),
        None => Reader::User,
    };
    let mut messages = client.messages(0, reader).await?;
    while let Some(entry) = messages.next().await? {
        if let Some(end) = entry["end"].as_object() {
            let say = |key: &str| end.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
            return Err(CommandError::LoginEnded { word: shown(say("word")), detail: shown(say("detail")) });
        }
        if let Some(gap) = entry["gap"].as_u64() {
            terminal::note(&format!("{gap} messages were given up for want of room"));
            continue;
        }
        let message = &entry["message"];
        if json {
            print(&message.to_string())?;
        } else {
            let (id, from) = (shown(field(message, "id")), shown(field(message, "from")));
            print(&format!("{id} from {from}: {}", message["body"]))?;
        }
        if !peek {
            // Taken only now that the line has left this process.
            let taken = json!({ "ids": [message["id"]], "app": app });
            client.call("POST", "/v1/messages/ack", Some(&taken)).await?;
        }
    }
    Err(ClientError::Broken("the agent ended the message stream".to_owned()).into())
}

fn detect(root: Option<&Path>, getprop: Option<&Path>, json: bool) -> Result<(), CommandError> {
    let profile = match getprop {
        Some(path) => {
            let dump = terminal::read_bytes(path, LARGEST_DUMP);
            crate::device::from_getprop(&dump.map_err(|source| CommandError::File { path: path.to_owned(), source })?)?
        }
        None => crate::device::detect(root)?,
    };
    if json {
        return print(&serde_json::to_string(&profile)?);
    }
    print(&text::profile(&profile))
}

fn field<'a>(json: &'a Json, key: &str) -> &'a str {
    json[key].as_str().unwrap_or("-")
}

fn read_secret(path: &Path) -> Result<String, CommandError> {
    terminal::read_text(path, 16 * 1024).map_err(|source| CommandError::File { path: path.to_owned(), source })
}

fn print(line: &str) -> Result<(), CommandError> {
    Ok(terminal::print(line)?)
}
