//! The shell around the heartbeat search: side connections that idle, and what the main link's own
//! answers and losses teach.

use super::clock::{self, Timer};
use super::network;
use super::state::{Daemon, Probe, Purpose, RunError};
use crate::keepalive::constants::{CONNECT_TIMEOUT, PONG_MAX};
use crate::keepalive::{Cause, Moment, ProbeOutcome};
use crate::mqtt::{ConnectOptions, Incoming, MqttError, dial, handshake};
use crate::protocol::{Address, PROBE_SUFFIX};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

/// Pause before a probe that said nothing is tried again; it doubles up to the longest.
const PROBE_PAUSE: Duration = Duration::from_secs(30);
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(3600);
/// A lost link is idle-expiry evidence only if a new one stands this soon after.
const SUCCEEDS_AT_ONCE: Duration = Duration::from_secs(15);

impl Daemon {
    /// A connection stands: name the network, judge an earlier loss, set the interval.
    pub async fn heart_up(&mut self) -> Result<(), RunError> {
        let (now, wall) = (clock::now(), clock::wall_ms());
        let key = network::key();
        if let Some(key) = &key {
            self.heartbeat.on_network(key, wall);
        }
        if let Some((idle, at, network)) = self.search.suspect.take()
            && now.saturating_sub(at) <= SUCCEEDS_AT_ONCE
            && network == key
        {
            self.heartbeat.on_lost_after(idle, wall);
            info!(
                event = "heartbeat.lost",
                idle_s = idle.as_secs(),
                interval_s = self.heartbeat.interval().as_secs(),
                "this network cuts idle connections earlier than known"
            );
            self.save_heartbeat().await?;
        }
        self.network = key;
        self.check_power();
        self.search.pause = PROBE_PAUSE;
        self.search.next = Some(now + PROBE_PAUSE);
        Ok(())
    }

    /// The main link was lost. Only a loss after idleness says anything about the network.
    pub fn heart_lost(&mut self, cause: Cause, idle: Duration) {
        let now = clock::now();
        self.search.probe = None;
        self.search.doubted = None;
        self.search.suspect =
            matches!(cause, Cause::PongLost | Cause::AckLost).then(|| (idle, now, self.network.clone()));
    }

    /// The main link answered after `idle`.
    pub async fn heart_answered(&mut self, idle: Duration) -> Result<(), RunError> {
        let wall = clock::wall_ms();
        if let Some(tested) = self.search.doubted.take() {
            self.heart_probed(tested, ProbeOutcome::Lost).await?;
        }
        if self.heartbeat.on_answer_after(idle, wall) {
            debug!(
                event = "link.idle_survived",
                idle_s = idle.as_secs(),
                "the network kept an idle connection this long"
            );
            self.save_heartbeat().await?;
        }
        self.set_heartbeat();
        Ok(())
    }

    /// Starts a probe if one is wanted and its time has come.
    pub fn heart_probe(&mut self, now: Moment) {
        let due = self.search.next.is_some_and(|next| next <= now) && self.search.probe.is_none();
        if !due {
            return;
        }
        // A vendor channel that delivers needs no long heartbeat; the connection rests soon.
        let wanted = self.heartbeat.wanted_probe(clock::wall_ms()).filter(|_| self.choice.active.is_none());
        let (Some(tested), Some(online), Some(login)) = (wanted, &self.online, self.disk.store.login()) else {
            self.search.next = Some(now + PROBE_PAUSE_MAX);
            return;
        };
        self.search.next = None;
        // A connection that only pays an old logout is over soon.
        if online.purpose != Purpose::Login {
            return;
        }
        let together = Arc::new(Notify::new());
        let options = side_options(&online.address, login.password.clone(), tested);
        let (endpoint, proxy) = (self.endpoint(), self.ready.proxy.clone());
        let (tls, notify) = (self.tls.clone(), together.clone());
        debug!(
            event = "heartbeat.probe",
            tested_s = tested.as_secs(),
            "a side connection tests how long this network keeps it"
        );
        let run = Box::pin(async move {
            let outcome = match idle_then_ping(&endpoint, proxy.as_ref(), &tls, &options, tested, &notify).await {
                Ok(()) => ProbeOutcome::Survived,
                Err(outcome) => outcome,
            };
            (tested, outcome)
        });
        self.search.probe = Some(Probe { run, together });
    }

    /// A probe ended. A loss is believed only after the main link has answered a ping.
    pub async fn heart_probe_ended(&mut self, tested: Duration, outcome: ProbeOutcome) -> Result<(), RunError> {
        self.search.probe = None;
        if outcome == ProbeOutcome::Lost {
            self.search.doubted = Some(tested);
            if let Some(online) = self.online.as_mut() {
                online.link.ping_now();
            }
            return Ok(());
        }
        self.heart_probed(tested, outcome).await
    }

    async fn heart_probed(&mut self, tested: Duration, outcome: ProbeOutcome) -> Result<(), RunError> {
        let (now, wall) = (clock::now(), clock::wall_ms());
        let refused_before = self.heartbeat.side_refused();
        self.heartbeat.on_probe(tested, outcome, wall);
        self.search.next = Some(now + self.search.pause);
        if outcome == ProbeOutcome::Inconclusive {
            self.search.pause = (self.search.pause * 2).min(PROBE_PAUSE_MAX);
            return Ok(());
        }
        self.search.pause = Duration::ZERO;
        if outcome == ProbeOutcome::Refused && !refused_before {
            warn!(
                event = "heartbeat.side_refused",
                "the server allows no second connection; the main link is stretched in small steps instead"
            );
        }
        let record = self.heartbeat.current();
        let settled = record.is_some_and(|record| record.settled_ms.is_some());
        info!(
            event = if settled { "heartbeat.settled" } else { "heartbeat.probed" }, tested_s = tested.as_secs(), outcome = ?outcome,
            interval_s = self.heartbeat.interval().as_secs(), network = self.network, probes = record.map(|r| r.probes), "heartbeat search"
        );
        self.set_heartbeat();
        self.save_heartbeat().await
    }

    pub fn set_heartbeat(&mut self) {
        let interval = self.heartbeat.interval();
        if let Some(online) = self.online.as_mut() {
            online.link.set_interval(online.server_limit.map_or(interval, |limit| interval.min(limit)));
        }
    }

    async fn save_heartbeat(&mut self) -> Result<(), RunError> {
        let records = self.heartbeat.records().to_vec();
        Ok(self.disk.run(move |disk| disk.store.set_heartbeat(records)).await?)
    }

    /// An address, route or link changed: is the connection's ground still there?
    pub async fn on_network_change(&mut self) {
        let now = clock::now();
        let key = network::key();
        let changed = key != self.network;
        // A probe's idleness was disturbed; what it would say counts no more.
        if changed && self.search.probe.take().is_some() {
            self.search.next = Some(now + PROBE_PAUSE);
        }
        if changed {
            // What was known of the way to each server was known of the other network.
            self.endpoint = 0;
        }
        match self.online.as_mut() {
            Some(online) => {
                let gone =
                    online.connection.stream().local_address().is_some_and(|address| !network::has_address(address));
                let way = online.connection.stream().peer_address().and_then(network::source_towards);
                let same_way =
                    way.is_some() && way == online.connection.stream().local_address().map(|address| address.ip());
                if gone {
                    // Whatever comes next is new ground, even if it is the same network again.
                    self.tried = None;
                    self.lose(MqttError::new(Cause::AddressGone, "the network changed")).await;
                } else if same_way && !changed {
                    // Router advertisements and renewed leases ring the bell all day; a ping for each
                    // would cost more than the heartbeat.
                    debug!(event = "network.same", network = key, "a notice that changes nothing for the connection");
                } else {
                    debug!(event = "network.changed", network = key, "the network changed; the connection is probed");
                    online.link.probe_now();
                    self.network = key;
                }
            }
            None => self.on_ground_change(key),
        }
    }

    /// A notice came while there is no connection. Only ground that was not tried yet is worth an
    /// attempt: routers ring the bell all day, and a server that is down must not be tried each time.
    fn on_ground_change(&mut self, key: Option<String>) {
        let ground = network::ground(key);
        if ground.is_none() {
            self.tried = None;
        }
        if ground == self.tried {
            return;
        }
        if self.connecting.take().is_some() {
            debug!(event = "link.attempt_moved", "the attempt was made on a network that is gone");
            self.connect();
        } else {
            self.try_again_at_once(Cause::NetworkChanged);
        }
    }

    /// Cuts a pause short: what it waited for may have come.
    pub fn try_again_at_once(&mut self, why: Cause) {
        let Some(planned) = self.next_attempt.filter(|_| self.connecting.is_none() && self.online.is_none()) else {
            return;
        };
        let attempt = self.reconnect.at_once(clock::now(), why);
        if attempt.at < planned.at {
            info!(
                event = "link.retry_soon",
                why = why.as_str(),
                next_attempt_s = attempt.jitter.as_secs_f64(),
                "trying again without waiting for the pause to end"
            );
            self.next_attempt = Some(attempt);
        }
    }

    /// The device woke up after `gap`.
    pub fn on_wake(&mut self, gap: Duration) {
        info!(event = "device.woke", slept_s = gap.as_secs(), "the device slept");
        self.search.probe = None;
        self.search.suspect = None;
        self.search.next = Some(clock::now() + PROBE_PAUSE);
        match self.online.as_mut() {
            Some(online) => online.link.probe_now(),
            None => self.try_again_at_once(Cause::Suspended),
        }
    }

    /// Somebody set the wall clock: a certificate that was not valid yet may be now.
    pub fn on_clock_step(&mut self) {
        let clock_was_why =
            self.cause.as_ref().is_some_and(|e| matches!(e.cause, Cause::TlsNotYetValid | Cause::TlsExpired));
        if clock_was_why {
            self.try_again_at_once(Cause::TlsNotYetValid);
        }
    }
}

fn side_options(address: &Address, password: crate::secret::Secret, tested: Duration) -> ConnectOptions {
    ConnectOptions {
        client_id: format!("{}{PROBE_SUFFIX}", address.client_id()),
        user_name: address.user_name(),
        password,
        // The server must not cut it while it idles on purpose.
        keep_alive_s: u16::try_from(tested.as_secs().saturating_add(60)).unwrap_or(u16::MAX),
        session_expiry_s: 0,
        clean_start: true,
        will: None,
    }
}

async fn idle_then_ping(
    endpoint: &crate::mqtt::Endpoint,
    proxy: Option<&crate::mqtt::Proxy>,
    tls: &Arc<rustls::ClientConfig>,
    options: &ConnectOptions,
    tested: Duration,
    together: &Notify,
) -> Result<(), ProbeOutcome> {
    let inconclusive = |_| ProbeOutcome::Inconclusive;
    let stream = dial(endpoint, proxy, tls, CONNECT_TIMEOUT).await.map_err(inconclusive)?;
    let (mut connection, _) = handshake(stream, options, CONNECT_TIMEOUT).await.map_err(|error| match error.cause {
        Cause::NotAuthorized
        | Cause::BadCredentials
        | Cause::ClientIdRefused
        | Cause::Banned
        | Cause::Refused
        | Cause::QuotaExceeded => ProbeOutcome::Refused,
        _ => ProbeOutcome::Inconclusive,
    })?;
    let timer = Timer::new(false).map_err(|_| ProbeOutcome::Inconclusive)?;
    tokio::select! {
        () = timer.until(clock::now() + tested) => {}
        // A connection that is closed with a word did not expire. Two of the same user may be one
        // too many for this server.
        heard = connection.next() => return Err(match heard {
            Err(error) if matches!(error.cause, Cause::TakenOver | Cause::Kicked | Cause::NotAuthorized) => ProbeOutcome::Refused,
            _ => ProbeOutcome::Inconclusive,
        }),
    }
    together.notify_one();
    connection.ping().await.map_err(|_| ProbeOutcome::Lost)?;
    match tokio::time::timeout(PONG_MAX, connection.next()).await {
        Ok(Ok(Incoming::Pong)) => {
            // Its purpose is served; a server that does not hear this sees the socket close.
            let _ = connection.disconnect(true).await;
            Ok(())
        }
        // A reset after the ping is how some routers say that they have forgotten the flow.
        Ok(Err(_)) | Err(_) => Err(ProbeOutcome::Lost),
        Ok(Ok(_)) => Err(ProbeOutcome::Inconclusive),
    }
}
