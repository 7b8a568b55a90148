//! The one task that owns the agent's state, and the loop that turns events into deeds.

use super::clock::{self, ClockStep, Timer};
use super::config::{Config, Ready};
use super::control::{self, Ask, Refusal, Reply, Request};
use super::disk::{Disk, OnDisk, blocking};
use super::heart::Search;
use super::link::{Connecting, Online};
use super::login::PendingLogout;
use super::network::Watch;
use super::status::State;
use crate::binding::Binding;
use crate::channel::{self, Choice};
use crate::device::{self, Profile};
use crate::keepalive::{Attempt, Bounds, Cause, Heartbeat, Moment, Reconnect, Verdict};
use crate::mqtt::{Endpoint, MqttError, TlsSetupError, client_config};
use crate::settings::SettingsError;
use crate::store::{Inbox, OpenError, Store};
use rustls::ClientConfig;
use serde_json::json;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

/// Requests that wait for the daemon; a peer beyond that waits in its own task.
const REQUEST_DEPTH: usize = 16;
/// Notices of one change come in bursts; the look is taken when they have ended.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// A shorter sleep endangers no connection.
const SLEEP_GAP: Duration = Duration::from_secs(5);
/// A deadline that is never reached.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// Why the agent cannot run. Each has an exit code that tells a service manager whether to try again.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    State(#[from] OpenError),
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    #[error("device.root: {0}")]
    Device(#[from] device::PropertyError),
    #[error("cannot open the control socket {path}: {source}; its directory must be writable")]
    Socket { path: PathBuf, source: io::Error },
    #[error("the disk failed: {0}")]
    Disk(#[from] io::Error),
}

impl RunError {
    /// sysexits: 78 needs an edit, 75 may pass by itself, 74 is the disk.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Tls(_) | Self::Device(_) => 78,
            Self::State(OpenError::InUse { .. }) => 75,
            Self::State(OpenError::Io { .. }) | Self::Socket { .. } => 73,
            Self::Disk(_) => 74,
        }
    }
}

/// Runs the agent until `shutdown` is done, then disconnects cleanly.
///
/// # Errors
/// [`RunError`], before anything was connected or when the disk fails.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let ready = config.check()?;
    let tls = client_config(
        config.server.ca_file.as_deref(),
        config.server.client_certificate.as_deref().zip(config.server.client_key.as_deref()),
    )?;
    let (state_directory, root) = (config.state_directory(), config.device.root.clone());
    let (store, inbox, profile) = blocking(move || -> Result<_, RunError> {
        let store = Store::open(&state_directory)?;
        let inbox = Inbox::open(&state_directory.join("inbox.jsonl"))?;
        let profile = match root {
            Some(root) => device::detect_below(&root)?,
            None => device::detect_running()?,
        };
        Ok((store, inbox, profile))
    })
    .await?;
    let path = config.socket();
    let listener = control::bind(&path).map_err(|source| RunError::Socket { path: path.clone(), source })?;
    let (sender, requests) = mpsc::channel(REQUEST_DEPTH);
    let (arrived, arrivals) = watch::channel(0);
    let server = tokio::spawn(control::Server { listener, path: path.clone(), requests: sender, arrivals }.run());
    let mut daemon = Daemon::new(config, ready, tls, Disk { store, inbox }, profile, arrived);
    info!(
        event = "agent.started", version = env!("CARGO_PKG_VERSION"), device = daemon.disk.store.device_id(),
        candidate = daemon.profile.channel.map_or("none", |v| v.as_str()), socket = %path.display(),
        "agent started"
    );
    let result = daemon.serve(requests, shutdown).await;
    server.abort();
    drop(std::fs::remove_file(&path));
    info!(event = "agent.stopped", "agent stopped");
    result
}

pub(super) struct Daemon {
    pub config: Config,
    pub ready: Ready,
    pub tls: Arc<ClientConfig>,
    pub disk: OnDisk,
    pub profile: Profile,
    pub choice: Choice,
    pub binding: Binding,
    pub reconnect: Reconnect,
    pub heartbeat: Heartbeat,
    pub search: Search,
    /// The network the connection was made on.
    pub network: Option<String>,
    /// When the network is looked at: a little after the last of a burst of notices.
    network_check: Option<Moment>,
    /// How long the device had slept when last looked.
    slept: Duration,
    pub next_attempt: Option<Attempt>,
    pub online: Option<Online>,
    pub connecting: Option<Connecting>,
    pub logout: Option<PendingLogout>,
    pub state: State,
    /// When the state began: wall-clock milliseconds.
    pub since_ms: u64,
    pub cause: Option<MqttError>,
    /// Streams open on the control socket.
    pub attached: usize,
    /// When the connection may rest if no app comes.
    pub linger_until: Option<Moment>,
    /// Which of the configured addresses is tried.
    endpoint: usize,
    /// Where the server sent this device; forgotten when it does not answer there.
    redirect: Option<Endpoint>,
    /// The session at the broker holds something this agent cannot read: the next connection ends it,
    /// or it would come again for ever. The gateway's store has every message.
    pub poisoned: bool,
    /// The inbox was full; the gateway is asked again when there is room.
    pub starved: bool,
    pub refused: BTreeMap<String, u64>,
    pub arrived: watch::Sender<u64>,
}

impl Daemon {
    fn new(
        config: Config,
        ready: Ready,
        tls: Arc<ClientConfig>,
        disk: Disk,
        profile: Profile,
        arrived: watch::Sender<u64>,
    ) -> Self {
        // The seed is the device's own: a replayed device behaves the same, a fleet does not.
        let seed =
            u64::from_str_radix(&disk.store.device_id()[..disk.store.device_id().len().min(15)], 16).unwrap_or(0);
        let seconds = Duration::from_secs;
        let bounds = Bounds {
            floor: seconds(config.keep_alive.floor_s),
            start: seconds(config.keep_alive.start_s),
            ceiling: seconds(config.keep_alive.ceiling_s),
        };
        let mut daemon = Self {
            heartbeat: Heartbeat::new(bounds, disk.store.heartbeat().to_vec(), clock::wall_ms()),
            search: Search::default(),
            network: None,
            network_check: None,
            slept: clock::slept(),
            binding: Binding::new(disk.store.ledger().clone()),
            reconnect: Reconnect::new(seed),
            choice: Choice::default(),
            next_attempt: None,
            online: None,
            connecting: None,
            logout: None,
            state: State::LoggedOut,
            since_ms: clock::wall_ms(),
            cause: None,
            attached: 0,
            linger_until: None,
            endpoint: 0,
            redirect: None,
            poisoned: false,
            starved: false,
            refused: BTreeMap::new(),
            config,
            ready,
            tls,
            disk: OnDisk::new(disk),
            profile,
            arrived,
        };
        daemon.choose_channel();
        daemon
    }

    async fn serve(
        &mut self,
        mut requests: mpsc::Receiver<Request>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        tokio::pin!(shutdown);
        let choice = self.wanted();
        self.bind_event(crate::binding::Event::Want(choice)).await?;
        self.want_connection();
        let timer = match Timer::new(self.config.keep_alive.wake_device) {
            Ok(timer) => timer,
            Err(error) => {
                warn!(event = "clock.no_wake_alarm", %error, "keep_alive.wake_device needs CAP_WAKE_ALARM; a sleeping device is not woken");
                Timer::new(false)?
            }
        };
        let step = ClockStep::new()?;
        let watch = Watch::new()
            .inspect_err(|error| info!(event = "network.unwatched", %error, "network changes cannot be watched; pings notice them, later"))
            .ok();
        loop {
            let deadline = self.next_deadline();
            let together = self.search.probe.as_ref().map(|probe| probe.together.clone());
            tokio::select! {
                () = &mut shutdown => break,
                Some(request) = requests.recv() => self.on_request(request).await?,
                outcome = async { self.connecting.as_mut().expect("guarded").await }, if self.connecting.is_some() => {
                    self.connecting = None;
                    self.on_connected(outcome).await?;
                }
                incoming = async { self.online.as_mut().expect("guarded").connection.next().await }, if self.online.is_some() => {
                    self.on_incoming(incoming).await?;
                }
                (tested, outcome) = async { self.search.probe.as_mut().expect("guarded").run.as_mut().await }, if self.search.probe.is_some() => {
                    self.heart_probe_ended(tested, outcome).await?;
                }
                () = async { together.as_ref().expect("guarded").notified().await }, if together.is_some() => {
                    if let Some(online) = self.online.as_mut() {
                        online.link.ping_now();
                    }
                }
                () = async { watch.as_ref().expect("guarded").changed().await }, if watch.is_some() => {
                    self.network_check = Some(clock::now() + DEBOUNCE);
                }
                () = step.stepped() => self.on_clock_step(),
                () = timer.until(deadline) => self.on_deadline().await?,
            }
            self.notice_sleep();
        }
        // Two seconds are the service's promise; the pieces inside are shorter.
        drop(tokio::time::timeout(Duration::from_millis(1500), self.part(Cause::Shutdown, false)).await);
        Ok(())
    }

    fn next_deadline(&self) -> Moment {
        [
            self.online.as_ref().map(|online| online.link.next_deadline()),
            self.next_attempt.filter(|_| self.connecting.is_none() && self.online.is_none()).map(|attempt| attempt.at),
            self.binding.next_deadline().filter(|_| self.online.is_some()),
            self.linger_until.filter(|_| self.online.is_some()),
            self.logout.as_ref().map(|logout| logout.deadline),
            self.search.next.filter(|_| self.online.is_some() && self.search.probe.is_none()),
            self.network_check,
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or_else(|| clock::now() + NEVER)
    }

    async fn on_deadline(&mut self) -> Result<(), RunError> {
        let now = clock::now();
        if self.logout.as_ref().is_some_and(|logout| logout.deadline <= now) {
            self.finish_logout(false).await?;
        }
        if self.network_check.is_some_and(|at| at <= now) {
            self.network_check = None;
            self.on_network_change().await;
        }
        if self.online.is_some() {
            self.heart_probe(now);
            self.tick_link(now).await?;
            self.bind_event(crate::binding::Event::Tick).await?;
            if self.linger_until.is_some_and(|until| until <= now) {
                self.rest().await;
            }
        } else if self.connecting.is_none() && self.next_attempt.is_some_and(|attempt| attempt.at <= now) {
            self.connect();
        }
        Ok(())
    }

    /// A device that slept finds its timers late and its connection perhaps forgotten.
    fn notice_sleep(&mut self) {
        let slept = clock::slept();
        let gap = slept.saturating_sub(self.slept);
        self.slept = slept;
        if gap >= SLEEP_GAP {
            self.on_wake(gap);
        }
    }

    async fn on_request(&mut self, request: Request) -> Result<(), RunError> {
        let Request { ask, reply } = request;
        let answer = match ask {
            Ask::Status => serde_json::to_value(self.status())
                .map(Reply::Json)
                .map_err(|e| Refusal::new(500, "internal", e.to_string())),
            Ask::Login { user, password } => self.login(user, password).await?,
            Ask::Logout { keep_binding } => {
                self.start_logout(keep_binding, reply).await?;
                return Ok(());
            }
            Ask::SetToken { vendor, token } => self.set_token(vendor, Some(token)).await?,
            Ask::RemoveToken { vendor } => self.set_token(vendor, None).await?,
            Ask::Messages { after } => Ok(Reply::Messages(self.disk.inbox.pending_after(after).take(64).collect())),
            Ask::Ack { ids } => {
                let taken = self.disk.run(move |disk| disk.inbox.ack(&ids)).await?;
                if self.starved && taken > 0 {
                    self.starved = false;
                    self.say_hello().await;
                }
                Ok(Reply::Json(json!({ "acked": taken })))
            }
            Ask::Reconnect => self.reconnect_now().await,
            Ask::Attach => {
                self.attached += 1;
                self.linger_until = None;
                self.want_connection();
                Ok(Reply::Json(json!({})))
            }
            Ask::Detach => {
                self.attached = self.attached.saturating_sub(1);
                self.linger();
                Ok(Reply::Json(json!({})))
            }
        };
        // A peer that went away no longer wants its answer.
        drop(reply.send(answer));
        Ok(())
    }

    async fn reconnect_now(&mut self) -> Result<Reply, Refusal> {
        if self.disk.store.login().is_none() && self.binding.owed().is_none() {
            return Err(Refusal::new(409, "logged_out", "nobody is logged in; use `impush login`"));
        }
        if self.connecting.is_none() {
            if self.online.is_some() {
                self.part(Cause::Requested, false).await;
            }
            self.next_attempt = Some(Attempt {
                at: clock::now(),
                base: Duration::ZERO,
                jitter: Duration::ZERO,
                cause: Cause::Requested,
            });
            self.connect();
        }
        Ok(Reply::Json(json!({ "reconnecting": true })))
    }

    /// Chooses the channel from what is known now, and says so when it changed.
    pub fn choose_channel(&mut self) {
        let tokens: Vec<_> = self.disk.store.tokens().keys().copied().collect();
        let choice = channel::choose(&channel::Facts {
            candidate: self.profile.channel,
            order: &self.config.channel.order,
            certificates: &self.config.certificates.names(),
            tokens: &tokens,
        });
        if choice.active != self.choice.active || self.choice.why_not.is_empty() {
            info!(
                event = "channel.selected",
                channel = choice.active.map_or("none", |v| v.as_str()),
                "push channel chosen"
            );
        }
        self.choice = choice;
    }

    /// Plans a connection if one is needed and none is there, under way or planned.
    pub fn want_connection(&mut self) {
        let needed = self.binding.owed().is_some() || self.disk.store.login().is_some();
        if needed && self.online.is_none() && self.connecting.is_none() && self.state != State::Stopped {
            let now = clock::now();
            self.next_attempt =
                Some(Attempt { at: now, base: Duration::ZERO, jitter: Duration::ZERO, cause: Cause::Requested });
            self.set_state(State::Connecting);
            self.connect();
        } else if !needed {
            self.set_state(State::LoggedOut);
        }
    }

    /// Where the next attempt goes.
    pub fn endpoint(&self) -> Endpoint {
        let configured = &self.ready.endpoints;
        self.redirect.clone().unwrap_or_else(|| configured[self.endpoint % configured.len()].clone())
    }

    /// The server named another, or this one cannot be reached: the next attempt goes elsewhere.
    fn choose_endpoint(&mut self, error: &MqttError) {
        let reference = error.server_reference.as_deref().and_then(|text| text.split_whitespace().next());
        let sent = matches!(error.cause, Cause::UseAnotherServer | Cause::ServerMoved);
        match reference.filter(|_| sent).and_then(|text| format!("mqtts://{text}").parse().ok()) {
            Some(endpoint) => {
                info!(event = "server.redirected", to = %endpoint, "the server sends this device elsewhere");
                self.redirect = Some(endpoint);
            }
            // An attempt failed: where it was sent, or where it went by itself.
            None if self.state == State::Connecting && self.redirect.take().is_none() => {
                self.endpoint = self.endpoint.wrapping_add(1);
            }
            None => {}
        }
    }

    /// The link is gone, or an attempt failed: what now, and when.
    pub fn on_down(&mut self, error: MqttError) {
        let now = clock::now();
        self.poisoned |= error.cause == Cause::ProtocolError;
        self.choose_endpoint(&error);
        let changed = self.cause.as_ref().is_none_or(|known| known.cause != error.cause);
        match self.reconnect.on_down(now, error.cause) {
            Verdict::Retry(attempt) => {
                let (base, jitter) = (attempt.base.as_secs_f64(), attempt.jitter.as_secs_f64());
                // Each change once: a server that stays away must not fill the log.
                if changed {
                    warn!(event = "link.down", cause = error.cause.as_str(), number = error.cause.number(), detail = %error.detail,
                        next_attempt_s = base + jitter, base_s = base, jitter_s = jitter, "{}", error.cause.text());
                } else {
                    tracing::debug!(
                        event = "link.down",
                        cause = error.cause.as_str(),
                        next_attempt_s = base + jitter,
                        "still {}",
                        error.cause.text()
                    );
                }
                self.next_attempt = Some(attempt);
                self.set_state(State::Waiting);
            }
            Verdict::Stop(cause) => {
                warn!(event = "link.stopped", cause = cause.as_str(), number = cause.number(), detail = %error.detail, "{}", cause.text());
                self.next_attempt = None;
                self.set_state(State::Stopped);
            }
        }
        self.cause = Some(error);
    }

    pub fn set_state(&mut self, state: State) {
        if self.state != state {
            self.state = state;
            self.since_ms = clock::wall_ms();
        }
    }

    /// Counts bad input and logs its first time only.
    pub fn count_refused(&mut self, kind: &str, why: &dyn std::fmt::Display) {
        let count = self.refused.entry(kind.to_owned()).or_default();
        *count += 1;
        if *count == 1 {
            warn!(event = "input.refused", kind, %why, "bad input refused; more of this kind are only counted");
        }
    }
}
