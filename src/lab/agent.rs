//! A real agent as a process of the lab's, with a home of its own, asked over its control socket.

use super::process::Process;
use super::rig::Rig;
use super::socket;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_secs(30);

pub(super) struct Agent {
    pub process: Process,
    pub socket: PathBuf,
}

impl Agent {
    /// Starts it on the rig's gateway; `more` follows in its configuration.
    ///
    /// # Errors
    /// A sentence when its socket does not appear.
    pub async fn start(rig: &Rig, program: &Path, name: &str, more: &str) -> Result<Self, String> {
        let said = |key: &str| rig.reach[key].as_str().unwrap_or_default().to_owned();
        let port = said("broker").rsplit(':').next().unwrap_or_default().to_owned();
        let server = format!("url = 'mqtts://localhost:{port}'\nca_file = '{}'\n", said("ca_file"));
        Self::at(rig.home.path(), program, name, &server, more).await
    }

    /// The same on any server, given as the `[server]` section without its app.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn at(home: &Path, program: &Path, name: &str, server: &str, more: &str) -> Result<Self, String> {
        let (socket, config) = (home.join(format!("{name}.sock")), home.join(format!("{name}.toml")));
        let text = format!(
            "[server]\napp = 'o#a'\n{server}[paths]\nstate = '{}'\nsocket = '{}'\n[log]\nlevel = 'warn'\n{more}",
            home.join(format!("{name}-state")).display(),
            socket.display()
        );
        std::fs::write(&config, text).map_err(|e| format!("{}: {e}", config.display()))?;
        // The last one's: a start is over when the new one is there.
        drop(std::fs::remove_file(&socket));
        let process = Process::start(name, program, &["--config", config.to_str().unwrap_or_default(), "run"], home)?;
        let deadline = Instant::now() + LIMIT;
        // The file is there a moment before it listens.
        while UnixStream::connect(&socket).await.is_err() {
            if Instant::now() > deadline {
                return Err(format!("the agent {name} did not start"));
            }
            sleep(Duration::from_micros(500)).await;
        }
        Ok(Self { process, socket })
    }

    /// # Errors
    /// When it has ended.
    pub fn pid(&self) -> Result<u32, String> {
        self.process.id().ok_or_else(|| "the agent ended".to_owned())
    }

    /// # Errors
    /// The agent's refusal.
    pub async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        socket::call(&self.socket, method, path, body).await
    }

    /// # Errors
    /// The agent's refusal.
    pub async fn login(&self, user: &str, password: &str) -> Result<(), String> {
        self.ask("POST", "/v1/login", Some(&json!({ "user": user, "password": password }))).await.map(drop)
    }

    /// Asks for the status until it is the wanted one.
    ///
    /// # Errors
    /// A sentence with the last status.
    pub async fn until(&self, what: &str, done: impl Fn(&Value) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.ask("GET", "/v1/status", None).await?;
            if done(&status) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("no {what}: {status}"));
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// # Errors
    /// As [`Self::until`].
    pub async fn online(&self) -> Result<(), String> {
        self.until("connection", |status| status["state"] == "online").await
    }

    /// # Errors
    /// As [`Self::until`].
    pub async fn bound(&self) -> Result<(), String> {
        self.until("binding", |status| status["binding"]["state"] == "bound").await
    }
}
