//! The loop: one task, which turns what happens on the machine into a session's events.

use super::awaiting::{Begun, until_enrolled};
use super::clock::{self, ClockStep, Timer};
use super::config::{Config, Ready};
use super::control::{Ask, Refusal, Reply, Request};
use super::disk::{Disk, OnDisk, blocking};
use super::enrol::{Granted, exchanged};
use super::enrolling::FirstLogin;
use super::file_watch::{FileWatch, ResolverWatch};
use super::front::Front;
use super::metrics;
use super::network::Watch;
use super::opening::Opening;
use super::reload::{Reload, Reloaded};
use super::run_error::RunError;
use super::shell::{Dialled, Shell, now};
use super::side::Running;
use super::trust::Trust;
use super::wake_app::{self, Waking};
use super::wake_lock::WakeLock;
use crate::device::{self, Machine, Profile};
use crate::ids::{MessageId, Nonce};
use crate::keepalive::{Bounds, Failure, Moment};
use crate::mqtt::{Incoming, Proxy, TimeFloor};
use crate::secret::random_hex;
use crate::service::Service;
use crate::session::{self, Changeable, Event, RequestId, Session, SideKind, SideOutcome};
use crate::settings::SettingsError;
use crate::store::{OpenError, Store};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, pending, poll_fn};
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

/// A shorter sleep endangers no connection.
const SLEEP_GAP: Duration = Duration::from_secs(5);
/// A deadline that is never reached.
const NEVER: Duration = Duration::from_secs(365 * 86_400);
/// The whole goodbye; two seconds are the service's promise.
const GOODBYE: Duration = Duration::from_millis(1500);

/// Runs the agent until `shutdown` is done, then disconnects cleanly. Reads its configuration again when `reload` is
/// asked to. `given`: the control socket, where the service manager has bound it.
///
/// # Errors
/// [`RunError`], before anything was connected.
pub async fn run(
    mut config: Config,
    mut given: Option<UnixListener>,
    mut reload: Reload<impl Fn() -> Result<Config, SettingsError>, impl AsyncFnMut()>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    tokio::pin!(shutdown);
    let mut service = Service::from_environment();
    let (mut opened, mut first_login) = (None, None);
    if config.awaits_enrolment() {
        let begun = until_enrolled(config, given.take(), &mut service, &mut reload, shutdown.as_mut());
        let Some(Begun { config: told, front, login }) = begun.await? else { return Ok(()) };
        (config, opened, first_login) = (told, Some(front), login);
    }
    let ready = config.check()?;
    let trust = Trust::read(&config.server, Arc::new(TimeFloor::new(clock::BUILT_MS)))?;
    let (state_directory, root) = (config.state_directory(), config.device.root.clone());
    let app = ready.app.clone();
    let (profile, machine) = blocking(move || device::examine(root.as_deref())).await?;
    let opening = Opening { state_directory, machine: machine.clone(), app };
    // Another agent's socket is left to it.
    let first = opening.once().await;
    if let Err(error @ OpenError::InUse { .. }) = first {
        return Err(error.into());
    }
    let front = match opened {
        Some(front) => front,
        None => Front::open(&config, given)?,
    };
    let Front { socket, mut requests, arrived, ended, apps } = front;
    let store = match first {
        Ok(store) => Ok(Some(store)),
        Err(error) => {
            service.ready();
            let again = opening.until_it_can(error, &mut service, &mut requests);
            tokio::select! {
                store = again => store.map(Some),
                () = &mut shutdown => Ok(None),
            }
        }
    };
    let store = match store {
        Ok(Some(store)) => store,
        ended => {
            socket.close();
            return ended.map(drop).map_err(RunError::from);
        }
    };
    info!(
        event = "agent.started", version = env!("CARGO_PKG_VERSION"), device = store.device_id(),
        candidate = profile.channel.map_or("none", |v| v.as_str()), socket = %socket.path.display(),
        "agent started"
    );
    let session = Session::new(settings(&config, &ready, (&profile, &machine), &store), store.saved(), now());
    let names = config.names(&ready);
    let disk =
        OnDisk::new(Disk { app: ready.app.clone(), store, inbox: None, unopened: None, attached: BTreeSet::new() });
    let wake_lock = wake_lock(&config).await;
    let mut shell = Shell {
        config,
        ready,
        trust,
        names,
        session,
        disk,
        connection: None,
        last_peer: None,
        dialling: None,
        enrolling: None,
        sides: Vec::new(),
        replies: BTreeMap::new(),
        wake_lock,
        waking: Waking::default(),
        arrived,
        ended,
        apps,
    };
    drop(shell.apps.send(Arc::new(shell.session.local_apps().clone())));
    service.ready();
    let result = shell.serve(&mut service, (requests, first_login), reload, shutdown).await;
    socket.close();
    info!(event = "agent.stopped", "agent stopped");
    result
}

/// Where the kernel has none, or lets only others take it, pings and messages do without.
async fn wake_lock(config: &Config) -> Option<WakeLock> {
    let (root, name) = (config.device.root.clone(), config.name.unit());
    match blocking(move || WakeLock::new(root.as_deref(), &name)).await {
        Ok(lock) => Some(lock),
        Err(error) => {
            debug!(event = "power.without_wake_lock", %error, "no wake lock is taken");
            None
        }
    }
}

fn settings(
    config: &Config,
    ready: &Ready,
    (profile, machine): (&Profile, &Machine),
    store: &Store,
) -> session::Settings {
    let seconds = Duration::from_secs;
    let beat = &config.keep_alive;
    session::Settings {
        app: ready.app.clone(),
        topics: ready.topics.clone(),
        device_id: store.device_id().to_owned(),
        device_id_is_stored: store.identity_is_stored(),
        instance: machine.fingerprint(),
        endpoints: ready.endpoints.iter().map(ToString::to_string).collect(),
        proxy: ready.proxy.as_ref().map(Proxy::to_string),
        order: config.channel.order.clone(),
        certificates: config.certificates.names(),
        candidate: profile.channel.map(|vendor| (vendor, profile.confidence)),
        forced: config.channel.forced(),
        platform: profile.platform.clone(),
        model: profile.model.clone(),
        linger: seconds(config.channel.linger_s),
        check_first: seconds(config.channel.check_first_s),
        check_most: seconds(config.channel.check_most_s),
        bounds: Bounds { floor: seconds(beat.floor_s), start: seconds(beat.start_s), ceiling: seconds(beat.ceiling_s) },
        low_power: beat.low_power,
        low_power_ceiling: seconds(beat.low_power_ceiling_s),
        built_ms: clock::BUILT_MS,
        entropy: u64::from_str_radix(&random_hex::<8>(), 16).unwrap_or_else(|_| now().wall_ms),
    }
}

/// What the loop woke for.
enum Woken {
    Shutdown,
    Request(Request),
    Dialled(Nonce, Box<Dialled>),
    Exchanged(Box<Result<Granted, Refusal>>),
    Heard(Result<Incoming, Failure>),
    Side(SideKind, SideOutcome),
    AboutToPing,
    Network,
    NameServers,
    Trust,
    ClockStepped,
    Reload,
    Timer,
}

impl Shell {
    async fn serve(
        &mut self,
        service: &mut Service,
        (mut requests, first_login): (mpsc::Receiver<Request>, Option<FirstLogin>),
        mut reload: Reload<impl Fn() -> Result<Config, SettingsError>, impl AsyncFnMut()>,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), RunError> {
        let mut slept = clock::slept();
        let mut next_id = 0_u64;
        self.feed(Event::Started).await;
        if let Some(login) = first_login {
            self.log_in_first(RequestId(next_id), login).await;
        }
        let timer = match Timer::new(self.config.keep_alive.wake_device) {
            Ok(timer) => timer,
            Err(error) => {
                warn!(event = "clock.no_wake_alarm", %error, "keep_alive.wake_device needs CAP_WAKE_ALARM; a sleeping device is not woken");
                Timer::new(false).map_err(RunError::Timer)?
            }
        };
        if let Some(lock) = &self.wake_lock {
            lock.watch(timer.descriptor());
        }
        let step = ClockStep::new().map_err(RunError::Timer)?;
        let watch = Watch::new()
            .inspect_err(|error| info!(event = "network.unwatched", %error, "network changes cannot be watched; pings notice them, later"))
            .ok();
        // The system's own refusal to watch is no fault of the agent: the next planned attempt asks again.
        let mut resolver = ResolverWatch::new(self.config.device.root.as_deref()).ok();
        let mut distrust: Option<FileWatch> = None;
        loop {
            if self.session.waits_for_trust() != distrust.is_some() {
                distrust = match self.session.waits_for_trust() {
                    true => FileWatch::new(self.trust.sources()).ok(),
                    false => None,
                };
                self.look_at_changed_trust().await;
            }
            service.alive(clock::now());
            service.status(self.session.headline());
            if let Some(lock) = &mut self.wake_lock {
                let sides = self.sides.iter().filter_map(|side| side.awake_until);
                lock.settle(clock::now(), sides.chain(self.session.awake_until()).max());
            }
            let deadline = self.deadline(service.deadline());
            let network = async {
                match &watch {
                    Some(watch) => watch.changed().await,
                    None => pending().await,
                }
            };
            let name_servers = async {
                match &mut resolver {
                    Some(resolver) => resolver.changed().await,
                    None => pending().await,
                }
            };
            let trusted = async {
                match &mut distrust {
                    Some(files) => files.rung().await,
                    None => pending().await,
                }
            };
            let woken = tokio::select! {
                () = &mut shutdown => Woken::Shutdown,
                Some(request) = requests.recv() => Woken::Request(request),
                woken = next_of(&mut self.dialling, &mut self.connection, &mut self.sides) => woken,
                outcome = exchanged(&mut self.enrolling) => Woken::Exchanged(Box::new(outcome)),
                () = network => Woken::Network,
                () = name_servers => Woken::NameServers,
                () = trusted => Woken::Trust,
                () = step.stepped() => Woken::ClockStepped,
                () = (reload.asked)() => Woken::Reload,
                () = timer.until(deadline) => Woken::Timer,
            };
            if let Some(lock) = &mut self.wake_lock {
                lock.woke(clock::now());
            }
            match woken {
                Woken::Shutdown => break,
                Woken::Request(request) => {
                    next_id += 1;
                    self.on_request(RequestId(next_id), request).await;
                }
                Woken::Exchanged(outcome) => {
                    next_id += 1;
                    self.on_exchanged(RequestId(next_id), *outcome, &reload).await;
                }
                Woken::Dialled(nonce, outcome) => self.on_dialled(nonce, *outcome).await,
                Woken::Heard(incoming) => self.on_incoming(incoming).await,
                Woken::Side(side, outcome) => self.feed(Event::SideEnded { side, outcome }).await,
                Woken::AboutToPing => self.feed(Event::SideAboutToPing).await,
                Woken::Network => self.feed(Event::NetworkNotice).await,
                Woken::NameServers => self.feed(Event::NameServersChanged).await,
                Woken::Trust => self.look_at_changed_trust().await,
                Woken::ClockStepped => self.feed(Event::ClockStepped).await,
                Woken::Reload => {
                    if let Some(reloaded) = reload.read(&self.config, self.trust.floor.clone()).await {
                        self.on_reloaded(reloaded).await;
                    }
                }
                Woken::Timer => self.feed(Event::Tick).await,
            }
            // A device that slept finds its timers late and its connection perhaps forgotten.
            let total = clock::slept();
            let gap = total.saturating_sub(slept);
            slept = total;
            if gap >= SLEEP_GAP {
                self.feed(Event::Woke { gap }).await;
            }
        }
        service.stopping();
        drop(tokio::time::timeout(GOODBYE, self.feed(Event::Shutdown)).await);
        Ok(())
    }

    pub(super) async fn on_reloaded(&mut self, new: Reloaded) {
        let trusts_others = self.trust.replace(new.trust);
        let way = (&new.ready.endpoints, &new.ready.proxy) != (&self.ready.endpoints, &self.ready.proxy);
        let asks_others = new.config.server.dns != self.config.server.dns;
        (self.config, self.ready) = (new.config, new.ready);
        self.names = self.config.names(&self.ready);
        let seconds = Duration::from_secs;
        let changeable = Changeable {
            endpoints: self.ready.endpoints.iter().map(ToString::to_string).collect(),
            proxy: self.ready.proxy.as_ref().map(Proxy::to_string),
            order: self.config.channel.order.clone(),
            forced: self.config.channel.forced(),
            certificates: self.config.certificates.names(),
            linger: seconds(self.config.channel.linger_s),
            check_first: seconds(self.config.channel.check_first_s),
            check_most: seconds(self.config.channel.check_most_s),
        };
        self.feed(Event::Reconfigured {
            changeable: Box::new(changeable),
            way_changed: way || trusts_others || asks_others,
        })
        .await;
    }

    fn deadline(&self, service: Option<Moment>) -> Moment {
        self.session.next_wake().into_iter().chain(service).min().unwrap_or_else(|| clock::now() + NEVER)
    }

    async fn on_request(&mut self, id: RequestId, request: Request) {
        let Request { ask, reply } = request;
        let answer = match ask {
            Ask::Session(ask) => {
                if let session::Ask::Detach { app } = &ask {
                    self.disk.in_memory().detach(app);
                }
                if let session::Ask::AddApp { app: session::LocalApp { wake: Some(how), uid, .. }, .. } = &ask
                    && let Err(refusal) = wake_app::check(how, *uid)
                {
                    drop(reply.send(Err(refusal)));
                    return;
                }
                if let session::Ask::RemoveApp { name } = &ask {
                    let name = name.clone();
                    self.disk.run(move |disk| disk.forget(&name)).await;
                }
                self.replies.insert(id, reply);
                return self.feed(Event::Request { id, ask }).await;
            }
            Ask::Enrol { code, patience } => return self.enrol(&code, patience, reply).await,
            Ask::Attach { app } => {
                let disk = self.disk.in_memory();
                disk.attach(&app);
                let epoch = disk.epoch();
                // A peer that left before it was attached never detaches.
                if reply.send(Ok(Reply::Json(json!({ "epoch": epoch })))).is_ok() {
                    self.feed(Event::Request { id, ask: session::Ask::Attach { app } }).await;
                }
                return;
            }
            Ask::Status => serde_json::to_value(self.status())
                .map(Reply::Json)
                .map_err(|e| Refusal::new(500, "internal", e.to_string())),
            Ask::Metrics => Ok(Reply::Text(metrics::text(&self.status(), self.session.counts()))),
            Ask::Messages { app, after } => {
                let found = self.disk.run(move |disk| {
                    let batch = disk.messages(app.as_deref(), after)?;
                    Ok::<_, crate::store::InboxError>(Reply::Messages { batch, epoch: disk.epoch() })
                });
                found.await.map_err(|e| Refusal::new(500, "inbox_unreadable", e.to_string()))
            }
            Ask::Ack { app, ids } => {
                self.feed(Event::AppCame { app: app.clone() }).await;
                Ok(self.taken(app, ids).await)
            }
            Ask::Apps => Ok(Reply::Json(self.session.local_apps_report())),
        };
        // A peer that went away no longer wants its answer.
        drop(reply.send(answer));
    }

    /// A local app has taken these messages.
    async fn taken(&mut self, app: String, ids: Vec<MessageId>) -> Reply {
        let first = self.disk.run(move |disk| disk.take(&app, &ids)).await;
        let answer = json!({ "acked": first.len() });
        if !first.is_empty() {
            self.feed(Event::Taken { ids: first }).await;
        }
        Reply::Json(answer)
    }

    fn status(&mut self) -> session::Status {
        let inbox = self.disk.in_memory().depth();
        session::Status {
            inbox,
            trusted: Some(self.trust.report()),
            names: self.names.told(),
            wake_lock: self.wake_lock.as_ref().map(|lock| lock.report(clock::now())),
            ..self.session.status(now())
        }
    }
}

/// The next thing from the attempt, the connection or the connections beside it.
async fn next_of(
    dialling: &mut Option<super::shell::Dialling>,
    connection: &mut Option<crate::mqtt::Connection<crate::mqtt::Stream>>,
    sides: &mut Vec<Running>,
) -> Woken {
    let dialled = async {
        match dialling {
            Some(dialling) => Woken::Dialled(dialling.nonce.clone(), Box::new(dialling.run.as_mut().await)),
            None => pending().await,
        }
    };
    let heard = async {
        match connection {
            Some(connection) => Woken::Heard(connection.next().await),
            None => pending().await,
        }
    };
    let notices: Vec<_> = sides.iter().map(|side| side.about_to_ping.clone()).collect();
    let about = async {
        let notified = notices.iter().map(|notify| Box::pin(notify.notified())).collect::<Vec<_>>();
        if notified.is_empty() {
            return pending().await;
        }
        futures_util::future::select_all(notified).await;
        Woken::AboutToPing
    };
    let side = poll_fn(|context| {
        for at in 0..sides.len() {
            if let Poll::Ready(outcome) = sides[at].run.as_mut().poll(context) {
                let kind = sides.swap_remove(at).kind;
                return Poll::Ready(Woken::Side(kind, outcome));
            }
        }
        Poll::Pending
    });
    tokio::select! {
        woken = dialled => woken,
        woken = heard => woken,
        woken = about => woken,
        woken = side => woken,
    }
}
