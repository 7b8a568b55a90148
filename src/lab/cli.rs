//! The `impush-lab` command line.

use super::device::{self, Phone};
use super::{cloud, demo, network};
use crate::logs;
use crate::vendor::Vendor;
use clap::{Parser, Subcommand};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// The whole system on one machine without an account.
#[derive(Debug, Parser)]
#[command(name = "impush-lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell the product's story with real processes, sockets and TLS; exit 0 only if all of it held
    Demo {
        /// One JSON line a step
        #[arg(long)]
        json: bool,
    },
    /// Serve the emulated vendor clouds over HTTPS until stopped
    Clouds {
        #[arg(long, default_value = "127.0.0.1:8690")]
        listen: SocketAddr,
        /// Where to write the certificate to trust
        #[arg(long, value_name = "FILE")]
        ca_file: PathBuf,
    },
    /// Emulate a phone: a token from its cloud, handed to an agent, and a notification tray
    Device {
        #[arg(long)]
        vendor: Vendor,
        /// Tells this phone from others of the same maker
        #[arg(long, default_value = "phone-1")]
        name: String,
        /// The app at the vendor
        #[arg(long)]
        app_id: String,
        /// The clouds' address
        #[arg(long, value_name = "URL")]
        clouds: String,
        /// The clouds' certificate
        #[arg(long, value_name = "FILE")]
        ca_file: PathBuf,
        /// The agent's control socket
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
        /// Lay this maker's property tree out below this directory first
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
    },
    /// Relay one address to another; `cut` and `mend` on standard input are the weather
    Network {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        to: SocketAddr,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 64 } else { 0 };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    logs::init(logs::Format::Text, "warn");
    drop(rustls::crypto::ring::default_provider().install_default());
    match execute(cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            drop(writeln!(io::stderr(), "impush-lab: {error}"));
            ExitCode::from(69)
        }
    }
}

fn execute(command: Command) -> Result<bool, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    runtime.block_on(async {
        match command {
            Command::Demo { json } => demo::run(json).await,
            Command::Clouds { listen, ca_file } => {
                cloud::serve(listen, &ca_file, stopped()?).await.map_err(|e| format!("{listen}: {e}"))?;
                Ok(true)
            }
            Command::Device { vendor, name, app_id, clouds, ca_file, socket, root } => {
                if let Some(root) = root {
                    device::write_tree(vendor, &root).map_err(|e| format!("{}: {e}", root.display()))?;
                }
                let phone =
                    Phone { vendor, name, app_id, clouds: clouds.trim_end_matches('/').to_owned(), ca_file, socket };
                device::live(&phone).await?;
                Ok(true)
            }
            Command::Network { listen, to } => {
                network::serve(listen, to).await.map_err(|e| format!("{listen}: {e}"))?;
                Ok(true)
            }
        }
    })
}

fn stopped() -> Result<impl Future<Output = ()>, String> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
