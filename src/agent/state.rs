//! Everything the daemon's one task owns, and the small moves on it that every part needs.

use super::clock;
use super::config::{Config, Ready};
use super::control::{Refusal, Reply};
use super::disk::{Disk, OnDisk};
use super::metrics::Counts;
use super::network::Ground;
use super::status::State;
use crate::binding::Binding;
use crate::channel::{self, Choice};
use crate::device::{self, Profile};
use crate::keepalive::{Attempt, Bounds, Cause, Heartbeat, Link, Moment, PowerMode, ProbeOutcome, Reconnect, Verdict};
use crate::mqtt::{Connected, Connection, Endpoint, MqttError, Stream, TlsSetupError};
use crate::protocol::Address;
use crate::service::Service;
use crate::settings::SettingsError;
use crate::store::{InboxError, OpenError};
use rustls::ClientConfig;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use tracing::{info, warn};

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
    #[error(transparent)]
    Inbox(#[from] InboxError),
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
            Self::Inbox(_) | Self::Disk(_) => 74,
        }
    }
}

/// First pause before the gateway is greeted again.
pub(super) const HELLO_PAUSE: Duration = Duration::from_secs(15);

/// Whose connection this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The user who is logged in.
    Login,
    /// A user who logged out without a network: only to say so.
    Owed { user: String },
}

/// An attempt under way.
pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<Online, MqttError>>>>;

/// A connection that stands.
pub(super) struct Online {
    pub connection: Connection<Stream>,
    pub link: Link,
    pub address: Address,
    pub purpose: Purpose,
    pub nonce: String,
    pub connected: Connected,
    /// Which server it is.
    pub endpoint: Endpoint,
    /// The longest heartbeat the server's own keep alive allows.
    pub server_limit: Option<Duration>,
}

/// A side connection under way.
pub(super) struct Probe {
    pub run: Pin<Box<dyn Future<Output = (Duration, ProbeOutcome)>>>,
    /// The probe is about to ping; the main link pings with it, so that the radio wakes once.
    pub together: Arc<Notify>,
}

/// What the search remembers between events.
#[derive(Default)]
pub(super) struct Search {
    pub probe: Option<Probe>,
    /// When the next probe may start.
    pub next: Option<Moment>,
    pub pause: Duration,
    /// A probe was not answered: it counts once the main link has answered.
    pub doubted: Option<Duration>,
    /// The main link was lost after so long idle, at that moment, on that network.
    pub suspect: Option<(Duration, Moment, Option<String>)>,
}

/// A logout that waits for the gateway's answer.
pub(super) struct PendingLogout {
    pub deadline: Moment,
    pub reply: oneshot::Sender<Result<Reply, Refusal>>,
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
    pub network_check: Option<Moment>,
    /// What the last attempt was made on: without a change, a notice is no reason for another.
    pub tried: Option<Ground>,
    /// Who decides whether power is saved, and whether it is.
    pub power_mode: PowerMode,
    pub saving: bool,
    /// How long the device had slept when last looked.
    pub slept: Duration,
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
    /// Which of the configured addresses is tried first.
    pub endpoint: usize,
    /// Where the server sent this device; forgotten when it does not answer there.
    pub redirect: Option<Endpoint>,
    /// The session at the broker holds something this agent cannot read: the next connection ends it,
    /// or it would come again for ever. The gateway's store has every message.
    pub poisoned: bool,
    /// Whose subscription this process has seen confirmed; a session the broker kept from before may
    /// have none.
    pub subscribed: Option<Address>,
    /// When an old logout's connection is given up.
    pub owed_until: Option<Moment>,
    /// When the gateway is greeted again, because the last greeting may not have been heard.
    pub hello_at: Option<Moment>,
    /// ... and how long after that again.
    pub hello_pause: Duration,
    /// A gateway has answered an earlier connection's since this one's was said.
    pub hello_overtaken: bool,
    /// The inbox was full; the gateway is asked again when there is room.
    pub starved: bool,
    pub refused: BTreeMap<String, u64>,
    pub arrived: watch::Sender<u64>,
    pub counts: Counts,
    pub service: Service,
}

impl Daemon {
    pub fn new(
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
            tried: None,
            power_mode: config.keep_alive.low_power,
            saving: false,
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
            subscribed: None,
            owed_until: None,
            hello_at: None,
            hello_pause: HELLO_PAUSE,
            hello_overtaken: false,
            starved: false,
            refused: BTreeMap::new(),
            config,
            ready,
            tls,
            disk: OnDisk::new(disk),
            profile,
            arrived,
            counts: Counts::default(),
            service: Service::from_environment(),
        };
        daemon.choose_channel();
        daemon
    }

    /// Chooses the channel from what is known now, and says so when it changed.
    pub fn choose_channel(&mut self) {
        let tokens: Vec<_> = self.disk.store.tokens().keys().copied().collect();
        let choice = channel::choose(&channel::Facts {
            candidate: self.profile.channel,
            order: &self.config.channel.order,
            certificates: &self.certificates(),
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
            self.next_attempt = None;
            self.set_state(State::LoggedOut);
        }
    }

    /// The server that is spoken to, or that the next attempt tries first.
    pub fn endpoint(&self) -> Endpoint {
        let configured = &self.ready.endpoints;
        let next = || self.redirect.clone().unwrap_or_else(|| configured[self.endpoint % configured.len()].clone());
        self.online.as_ref().map_or_else(next, |online| online.endpoint.clone())
    }

    /// The servers of the next attempt, in the order in which they join the race.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let configured = &self.ready.endpoints;
        let in_turn = (0..configured.len()).map(|i| &configured[(self.endpoint + i) % configured.len()]);
        self.redirect.iter().chain(in_turn).cloned().collect()
    }

    /// This server won the race: the next attempt begins with it.
    pub fn prefer(&mut self, winner: &Endpoint) {
        if self.redirect.as_ref() != Some(winner) {
            self.redirect = None;
            self.endpoint = self.ready.endpoints.iter().position(|e| e == winner).unwrap_or(self.endpoint);
        }
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
        *self.counts.lost.entry(error.cause.as_str()).or_default() += 1;
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
