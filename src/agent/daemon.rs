//! The loop that turns events into deeds: one task, which owns everything.

use super::clock::{self, ClockStep, Timer};
use super::config::Config;
use super::control::{self, Ask, Refusal, Reply, Request};
use super::disk::{Disk, LOCAL_APP, blocking};
use super::network::Watch;
use super::state::{Daemon, RunError};
use crate::device;
use crate::keepalive::{Attempt, Cause, Moment, next_wake};
use crate::mqtt::{MqttError, client_config};
use crate::protocol::Up;
use crate::store::{Batch, Store};
use serde_json::json;
use std::future::Future;
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
    let app = ready.app.clone();
    let (disk, profile) = blocking(move || -> Result<_, RunError> {
        let mut disk = Disk { store: Store::open(&state_directory)?, inbox: None };
        disk.open_inbox(&app)?;
        let profile = device::detect(root.as_deref())?;
        Ok((disk, profile))
    })
    .await?;
    let path = config.socket();
    let door = control::bind(&path, config.paths.socket_group.as_deref())
        .map_err(|source| RunError::Socket { path: path.clone(), source })?;
    let own_socket = door.own;
    let (sender, requests) = mpsc::channel(REQUEST_DEPTH);
    let (arrived, arrivals) = watch::channel(0);
    let server = tokio::spawn(control::Server { door, requests: sender, arrivals }.run());
    let mut daemon = Daemon::new(config, ready, tls, disk, profile, arrived);
    info!(
        event = "agent.started", version = env!("CARGO_PKG_VERSION"), device = daemon.disk.store.device_id(),
        candidate = daemon.profile.channel.map_or("none", |v| v.as_str()), socket = %path.display(),
        "agent started"
    );
    daemon.service.ready();
    let result = daemon.serve(requests, shutdown).await;
    server.abort();
    if own_socket {
        drop(std::fs::remove_file(&path));
    }
    info!(event = "agent.stopped", "agent stopped");
    result
}

impl Daemon {
    async fn serve(
        &mut self,
        mut requests: mpsc::Receiver<Request>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        tokio::pin!(shutdown);
        self.bind_wanted().await?;
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
            self.service.alive(clock::now());
            let headline = self.headline();
            self.service.status(headline);
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
                    // Without a connection nothing is gained by waiting for the burst to end.
                    let wait = if self.online.is_some() { DEBOUNCE } else { Duration::ZERO };
                    self.network_check = Some(clock::now() + wait);
                }
                () = step.stepped() => self.on_clock_step(),
                () = timer.until(deadline) => self.on_deadline().await?,
            }
            self.notice_sleep();
        }
        self.service.stopping();
        // Two seconds are the service's promise; the pieces inside are shorter.
        drop(tokio::time::timeout(Duration::from_millis(1500), self.part(Cause::Shutdown, false)).await);
        Ok(())
    }

    fn next_deadline(&self) -> Moment {
        let pulse = self.online.as_ref().map(|online| online.link.next_deadline());
        let others = [
            self.next_attempt.filter(|_| self.connecting.is_none() && self.online.is_none()).map(|attempt| attempt.at),
            self.binding.next_deadline().filter(|_| self.online.is_some()),
            self.linger_until.filter(|_| self.online.is_some()),
            self.logout.as_ref().map(|logout| logout.deadline),
            self.search.next.filter(|_| self.online.is_some() && self.search.probe.is_none()),
            self.network_check,
            self.owed_until.filter(|_| self.online.is_some()),
            self.hello_at.filter(|_| self.online.is_some()),
            self.service.deadline(),
        ]
        .into_iter()
        .flatten();
        next_wake(pulse, others, self.saving && self.logout.is_none() && self.network_check.is_none())
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
        if self.owed_until.is_some_and(|at| at <= now) {
            self.owed_until = None;
            self.lose(MqttError::new(Cause::AckLost, "the gateway did not answer an old logout")).await;
        }
        if self.hello_at.is_some_and(|at| at <= now) && self.online.is_some() {
            self.hello_at = None;
            self.say_hello().await;
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
            Ask::Messages { after } => {
                let batch = self.disk.run(move |disk| match &mut disk.inbox {
                    Some(inbox) => inbox.messages(LOCAL_APP, after, 64),
                    None => Ok(Batch::default()),
                });
                batch
                    .await
                    .map(|batch| Reply::Messages(batch.entries))
                    .map_err(|error| Refusal::new(503, "inbox_unreadable", error.to_string()))
            }
            Ask::Ack { ids } => {
                let taken = self
                    .disk
                    .run(move |disk| disk.inbox.as_mut().map_or(0, |inbox| inbox.take(LOCAL_APP, &ids).len()))
                    .await;
                if self.starved && taken > 0 {
                    self.starved = false;
                    self.say_hello().await;
                }
                Ok(Reply::Json(json!({ "acked": taken })))
            }
            Ask::Reconnect => self.reconnect_now().await,
            Ask::Power { mode } => {
                self.power_mode = mode;
                self.check_power();
                Ok(Reply::Json(json!({ "saving": self.saving })))
            }
            Ask::Init => Ok(Reply::Json(self.plugin_init())),
            Ask::UsePlugin { config } => self.use_plugin(*config).await?,
            Ask::UnbindPushToken => self.unbind_push_token().await?,
            Ask::Receipt { id, event } => self.tell_receipt(id, event).await,
            Ask::Metrics => Ok(Reply::Text(super::metrics::text(&self.status(), &self.counts))),
            Ask::Attach => {
                // A peer that left before it was attached never detaches.
                if reply.send(Ok(Reply::Json(json!({})))).is_ok() {
                    self.attached += 1;
                    self.linger_until = None;
                    self.want_connection();
                }
                return Ok(());
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

    /// A person saw or opened a notification. Told now or not at all: an old click is worth nothing.
    async fn tell_receipt(&mut self, id: String, event: String) -> Result<Reply, Refusal> {
        if !["arrived", "clicked"].contains(&event.as_str()) || id.is_empty() || id.len() > 128 {
            return Err(Refusal::new(400, "bad_receipt", "`event` is arrived or clicked, `id` a message's id"));
        }
        let told = self.online.is_some();
        self.send(&Up::Receipt { id, event }).await;
        Ok(Reply::Json(json!({ "told": told })))
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
}
