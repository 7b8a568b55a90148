//! The agent's start: what stops it and may pass is tried again, and whoever asks meanwhile hears the reason.

use super::clock;
use super::config::Config;
use super::control::{self, Door, Refusal};
use super::daemon;
use super::reload::Reload;
use super::run_error::RunError;
use crate::service::Service;
use crate::settings::SettingsError;
use crate::{logs, terminal};
use std::future::Future;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;
use tracing::error;

/// Between a start that failed and the next; doubles to the most.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long a start that will not be tried again tells whoever asks. Each question may be a start, so this also bounds
/// how often there is one.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// A peer that caused the start is waiting already.
const WAITING: Duration = Duration::from_millis(50);

/// Which starts are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Retry {
    /// What time may mend; a configuration that is not good ends the agent with 78
    Passing,
    /// A configuration that is not good, too: for a supervisor that knows no exit codes
    Always,
}

/// Runs the agent until it is asked to stop. `source` reads its configuration, for each start anew; `config` is for what
/// is needed before.
///
/// # Errors
/// [`RunError`] of a start that is not tried again.
pub fn run(
    config: &Config,
    retry: Option<Retry>,
    source: impl Fn() -> Result<Config, SettingsError>,
) -> Result<(), RunError> {
    let state = config.state_directory();
    let levels = logs::init(&config.log, logs::Program { name: "impush", state: Some(&state) });
    let socket_error = |source| RunError::Socket { path: config.socket(), source };
    let mut starts = Starts::new(retry).map_err(socket_error)?;
    // One thread for the loop; blocking threads end as soon as they are idle. A name server that is a
    // black hole holds one for each attempt, and the disk must still find another.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .thread_keep_alive(Duration::from_millis(100))
        .build()
        .map_err(RunError::Runtime)?;
    let result = runtime.block_on(async {
        let mut asked = terminal::asked_to_reload().map_err(RunError::Runtime)?;
        let mut stop = terminal::asked_to_stop().map_err(RunError::Runtime)?;
        let mut shutdown = std::pin::pin!(stop());
        loop {
            let start = async {
                let config = source()?;
                let given = starts.given().map_err(socket_error)?;
                let reload = Reload { levels: levels.clone(), source: &source, asked: &mut asked };
                Box::pin(daemon::run(config, given, reload, &mut shutdown)).await
            };
            let Err(error) = start.await else { return Ok(()) };
            if !starts.again(&error) {
                let told = starts.end(&error).await;
                // An edit that came meanwhile, and `systemctl start` after it, must not fail for what was before.
                if told && matches!(error, RunError::Settings(_)) && source().is_ok_and(|new| new.check().is_ok()) {
                    continue;
                }
                return Err(error);
            }
            let sooner = async {
                tokio::select! {
                    () = asked() => false,
                    () = &mut shutdown => true,
                }
            };
            if starts.wait(config, &error, sooner).await == Some(true) {
                return Ok(());
            }
        }
    });
    // A lookup that hangs must not hold the exit.
    runtime.shutdown_timeout(Duration::from_millis(200));
    logs::finish();
    result
}

/// The starts of one process.
#[derive(Debug)]
struct Starts {
    retry: Option<Retry>,
    /// The control socket, where the service manager has bound it.
    given: Option<UnixListener>,
    service: Service,
    pause: Duration,
    said: String,
}

impl Starts {
    /// Before any thread starts: the environment variables that name the manager's socket are removed.
    ///
    /// # Errors
    /// The system's error, where what they name is no such socket.
    fn new(retry: Option<Retry>) -> io::Result<Self> {
        let service = Service::from_environment();
        Ok(Self { retry, given: control::given()?, service, pause: FIRST_PAUSE, said: String::new() })
    }

    /// The manager's socket, for one start.
    ///
    /// # Errors
    /// The system's error: out of descriptors.
    fn given(&self) -> io::Result<Option<UnixListener>> {
        self.given.as_ref().map(UnixListener::try_clone).transpose()
    }

    fn again(&self, error: &RunError) -> bool {
        match self.retry {
            None => false,
            // A file that the configuration names may still come.
            Some(Retry::Passing) => !matches!(error, RunError::Settings(_)),
            Some(Retry::Always) => true,
        }
    }

    /// Waits out the pause after a start that failed, or until `sooner`, whose word is given back.
    async fn wait<T>(
        &mut self,
        config: &Config,
        why: &dyn std::fmt::Display,
        sooner: impl Future<Output = T>,
    ) -> Option<T> {
        let (why, seconds) = (why.to_string(), self.pause.as_secs());
        if self.said != why {
            error!(
                event = "agent.start_failed",
                error = why,
                next_attempt_s = seconds,
                "the agent cannot start; it is tried again by itself"
            );
        }
        self.service.ready();
        self.service.status(format!("cannot start: {why}"));
        self.service.alive(clock::now());
        let refusal = refusal(&format!("{why}; tried again within {seconds} s"));
        let path = config.socket();
        let door = self.door(&path, config.paths.socket_group.as_deref());
        let refusing = async {
            if let Some(door) = &door {
                door.refuse(&refusal).await;
            }
            std::future::pending::<()>().await;
        };
        let said = tokio::select! {
            () = tokio::time::sleep(self.pause) => None,
            () = refusing => None,
            said = sooner => Some(said),
        };
        if let Some(socket) = door.and_then(|door| door.own) {
            socket.remove();
        }
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.said = why;
        said
    }

    /// The last start has failed: whoever caused it by asking hears why. Whether somebody did.
    async fn end(&self, why: &dyn std::fmt::Display) -> bool {
        match self.given.is_some().then(|| self.door(Path::new(""), None)).flatten() {
            Some(door) => door.refuse_waiting(&refusal(&why.to_string()), WAITING, LAST_WORDS).await,
            None => false,
        }
    }

    /// A way to be asked, where no other agent answers there.
    fn door(&self, path: &Path, group: Option<&str>) -> Option<Door> {
        let given = self.given().ok()?;
        if given.is_none() && UnixStream::connect(path).is_ok() {
            return None;
        }
        control::bind(given, path, group).ok()
    }
}

fn refusal(why: &str) -> Refusal {
    Refusal::new(503, "not_started", format!("the agent cannot start: {why}"))
}
