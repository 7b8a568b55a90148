//! Drives a dial's race: lookups, sockets and handshakes run here, what they mean is decided in
//! [`crate::keepalive::race`].

use super::addresses::addresses;
use super::connection::{ConnectOptions, Connected, Connection, handshake};
use super::dial::{Stream, connect, secure};
use super::{Endpoint, MqttError, Proxy};
use crate::keepalive::race::{Outcome, Race, RaceAction, RaceEvent, Step, others_may_do_better};
use crate::keepalive::{Cause, Tried};
use crate::names::Names;
use rustls::ClientConfig;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Where a dial goes.
#[derive(Debug, Clone)]
pub struct Route {
    /// In the order in which they join the race.
    pub endpoints: Vec<Endpoint>,
    pub proxy: Option<Proxy>,
    pub names: Names,
    pub tls: Arc<ClientConfig>,
    /// Servers with the address, or the lookup, that stalled lately: they go behind the others.
    pub behind: Vec<(String, Option<IpAddr>)>,
    /// The path loses large packets.
    pub small_segments: bool,
}

/// What is said on a way that was reached.
pub struct Asked<'a> {
    /// Of the first CONNECT, the second and so on: each with a will of its own.
    pub options: &'a dyn Fn(u32) -> ConnectOptions,
    /// The topic without which the connection is of no use, if there is one.
    pub topic: Option<&'a str>,
    /// A session that the broker has kept holds the subscription.
    pub kept: bool,
}

/// A connection that may be used.
#[derive(Debug)]
pub struct Landed {
    /// The server's place in the route.
    pub server: usize,
    pub connection: Connection<Stream>,
    pub connected: Connected,
    /// From CONNECT to CONNACK.
    pub round_trip: Duration,
    /// Which CONNECT of the dial won, from 0.
    pub ordinal: u32,
}

/// How a dial ended.
#[derive(Debug)]
pub struct Dialled<T> {
    pub result: Result<T, MqttError>,
    /// What each way did, as far as it is known.
    pub tried: Vec<Tried>,
}

enum Report {
    Resolved(usize, Result<Vec<SocketAddr>, MqttError>),
    Opened(usize, Result<TcpStream, MqttError>),
    Secured(usize, Box<Result<Stream, MqttError>>),
    Connected(usize, Box<Result<(Connection<Stream>, Connected), MqttError>>),
    Subscribed(usize, Box<Result<Connection<Stream>, MqttError>>),
}

/// The way a task works for; lookups have none.
type Task<'a> = (Option<usize>, Pin<Box<dyn Future<Output = Report> + Send + 'a>>);

struct Driver<'a> {
    route: &'a Route,
    race: Race,
    started: Instant,
    addresses: Vec<SocketAddr>,
    streams: Vec<Option<Stream>>,
    causes: Vec<Option<Cause>>,
    tasks: Vec<Task<'a>>,
    /// The failure that came furthest.
    worst: Option<(Step, MqttError)>,
}

/// Connects within `timeout`, all steps together, to the first of the server's addresses that finishes TLS.
///
/// # Errors
/// [`MqttError`] with the cause of the failure that came furthest.
pub async fn dial(
    endpoint: &Endpoint,
    proxy: Option<&Proxy>,
    names: &Names,
    config: &Arc<ClientConfig>,
    timeout: Duration,
) -> Result<Stream, MqttError> {
    let (endpoints, proxy) = (vec![endpoint.clone()], proxy.cloned());
    let (names, tls) = (names.clone(), config.clone());
    let route = Route { endpoints, proxy, names, tls, behind: Vec::new(), small_segments: false };
    let mut driver = Driver::new(&route);
    let reached = tokio::time::timeout(timeout, driver.next_ready()).await;
    match reached {
        Ok(Ok(way)) => driver.streams[way].take().ok_or_else(|| driver.failure(timeout)),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(driver.failure(timeout)),
    }
}

/// Connects within `timeout` to the first way that answers CONNECT, and SUBSCRIBE where one is needed.
pub async fn establish(route: &Route, asked: &Asked<'_>, timeout: Duration) -> Dialled<Landed> {
    let mut driver = Driver::new(route);
    let landed = tokio::time::timeout(timeout, driver.land(asked)).await;
    let result = landed.unwrap_or_else(|_| Err(driver.failure(timeout)));
    Dialled { result, tried: driver.tried() }
}

impl<'a> Driver<'a> {
    fn new(route: &'a Route) -> Self {
        let behind = route.endpoints.iter().map(|endpoint| route.is_behind(endpoint, None));
        Self {
            route,
            race: Race::new(behind),
            started: Instant::now(),
            addresses: Vec::new(),
            streams: Vec::new(),
            causes: Vec::new(),
            tasks: Vec::new(),
            worst: None,
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Until a way is the one to send CONNECT on.
    async fn next_ready(&mut self) -> Result<usize, MqttError> {
        let mut actions = self.race.on_tick(self.now());
        loop {
            for action in actions {
                if let RaceAction::Connect(way) = action {
                    return Ok(way);
                }
                self.carry_out(action);
            }
            actions = match self.wait().await? {
                Some(report) => self.on_report(report)?,
                None => self.race.on_tick(self.now()),
            };
        }
    }

    async fn land(&mut self, asked: &Asked<'a>) -> Result<Landed, MqttError> {
        let mut actions = self.race.on_tick(self.now());
        // The way that is asked: its CONNECT's ordinal, when it went out, and what CONNACK said.
        let mut ordinal = 0;
        let mut sent = self.started;
        let mut answer: Option<(Connected, Duration)> = None;
        loop {
            for action in actions {
                let RaceAction::Connect(way) = action else {
                    self.carry_out(action);
                    continue;
                };
                let Some(stream) = self.streams[way].take() else { continue };
                (sent, answer) = (Instant::now(), None);
                let options = (asked.options)(ordinal);
                ordinal += 1;
                let run = async move {
                    Report::Connected(way, Box::new(handshake(stream, &options, Duration::MAX / 4).await))
                };
                self.tasks.push((Some(way), Box::pin(run)));
            }
            actions = match self.wait().await? {
                None => self.race.on_tick(self.now()),
                Some(Report::Connected(way, result)) => match *result {
                    Err(failure) => self.failed(way, failure)?,
                    Ok((connection, connected)) => {
                        let round_trip = sent.elapsed();
                        let Some(topic) = asked.topic.filter(|_| !(connected.session_present && asked.kept)) else {
                            return Ok(self.landed(way, connection, (connected, round_trip), ordinal));
                        };
                        answer = Some((connected, round_trip));
                        let (mut connection, topic) = (connection, topic.to_owned());
                        let run = async move {
                            let subscribed = connection.subscribed(&topic).await.map(|()| connection);
                            Report::Subscribed(way, Box::new(subscribed))
                        };
                        self.tasks.push((Some(way), Box::pin(run)));
                        self.race.on_event(self.now(), RaceEvent::Subscribing { way })
                    }
                },
                Some(Report::Subscribed(way, result)) => match (*result, answer.take()) {
                    (Ok(connection), Some(answer)) => return Ok(self.landed(way, connection, answer, ordinal)),
                    (Err(failure), _) => self.failed(way, failure)?,
                    (Ok(_), None) => self.race.on_tick(self.now()),
                },
                Some(report) => self.on_report(report)?,
            };
        }
    }

    fn landed(
        &mut self,
        way: usize,
        connection: Connection<Stream>,
        (connected, round_trip): (Connected, Duration),
        connects: u32,
    ) -> Landed {
        // Whatever else it asks for comes too late.
        drop(self.race.on_event(self.now(), RaceEvent::Won { way }));
        let server = self.race.server(way);
        Landed { server, connection, connected, round_trip, ordinal: connects.saturating_sub(1) }
    }

    /// The next report, or `None` when the race has something due.
    async fn wait(&mut self) -> Result<Option<Report>, MqttError> {
        if self.race.is_lost() {
            let nowhere = || MqttError::new(Cause::DnsFailed, "no server is configured");
            return Err(self.worst.take().map_or_else(nowhere, |(_, failure)| failure));
        }
        let due = self.race.next_deadline().map(|at| self.started + at);
        let tasks = &mut self.tasks;
        let report = poll_fn(|context| {
            for at in 0..tasks.len() {
                if let Poll::Ready(report) = tasks[at].1.as_mut().poll(context) {
                    drop(tasks.swap_remove(at));
                    return Poll::Ready(report);
                }
            }
            Poll::Pending
        });
        let pause = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        Ok(tokio::select! {
            report = report => Some(report),
            () = pause => None,
        })
    }

    fn carry_out(&mut self, action: RaceAction) {
        let route = self.route;
        match action {
            RaceAction::Lookup(server) => {
                let endpoint = &route.endpoints[server];
                let (host, port) = match &route.proxy {
                    Some(proxy) => (&proxy.host, proxy.port),
                    None => (&endpoint.host, endpoint.port),
                };
                let run = async move { Report::Resolved(server, addresses(&route.names, host, port).await) };
                self.tasks.push((None, Box::pin(run)));
            }
            RaceAction::Open(way) => {
                let (endpoint, address) = (&route.endpoints[self.race.server(way)], self.addresses[way]);
                let run = async move { Report::Opened(way, connect(address, endpoint, route.small_segments).await) };
                self.tasks.push((Some(way), Box::pin(run)));
            }
            RaceAction::GiveUp(way) => self.tasks.retain(|(of, _)| *of != Some(way)),
            RaceAction::Connect(_) => {}
        }
    }

    fn on_report(&mut self, report: Report) -> Result<Vec<RaceAction>, MqttError> {
        let now = self.now();
        let route = self.route;
        match report {
            Report::Resolved(server, Ok(found)) => {
                let endpoint = &route.endpoints[server];
                let behind: Vec<bool> =
                    found.iter().map(|address| route.is_behind(endpoint, Some(address.ip()))).collect();
                self.streams.extend(found.iter().map(|_| None));
                self.causes.extend(found.iter().map(|_| None));
                self.addresses.extend(found);
                Ok(self.race.on_event(now, RaceEvent::Resolved { server, behind: &behind }))
            }
            Report::Resolved(server, Err(failure)) => {
                self.note(Step::Lookup, failure);
                Ok(self.race.on_event(now, RaceEvent::LookupFailed { server }))
            }
            Report::Opened(way, Ok(tcp)) => {
                let endpoint = &route.endpoints[self.race.server(way)];
                let run = async move {
                    let secured = secure(tcp, endpoint, route.proxy.as_ref(), &route.tls).await;
                    Report::Secured(way, Box::new(secured))
                };
                self.tasks.push((Some(way), Box::pin(run)));
                Ok(self.race.on_event(now, RaceEvent::Opened { way }))
            }
            Report::Secured(way, result) => match *result {
                Ok(stream) => {
                    self.streams[way] = Some(stream);
                    Ok(self.race.on_event(now, RaceEvent::Ready { way }))
                }
                Err(failure) => self.failed(way, failure),
            },
            Report::Opened(way, Err(failure)) => self.failed(way, failure),
            Report::Connected(..) | Report::Subscribed(..) => Ok(self.race.on_tick(now)),
        }
    }

    fn failed(&mut self, way: usize, failure: MqttError) -> Result<Vec<RaceAction>, MqttError> {
        let step = self.race.step(way);
        self.causes[way] = Some(failure.cause);
        let actions = self.race.on_event(self.now(), RaceEvent::Failed { way });
        if !others_may_do_better(step, &failure) {
            return Err(failure);
        }
        self.note(step, failure);
        Ok(actions)
    }

    fn note(&mut self, step: Step, failure: MqttError) {
        if self.worst.as_ref().is_none_or(|(known, _)| *known <= step) {
            self.worst = Some((step, failure));
        }
    }

    /// The time is over: the failure that came furthest, or the silence.
    fn failure(&mut self, timeout: Duration) -> MqttError {
        let silent = self.race.ways(self.now()).filter(|(_, _, outcome)| *outcome == Outcome::Stalled);
        let step = silent.map(|(_, step, _)| step).max().unwrap_or(Step::Lookup);
        match self.worst.take() {
            Some((known, failure)) if known > step => failure,
            _ => {
                let named: Vec<String> = self.route.endpoints.iter().map(Endpoint::to_string).collect();
                let cause = if step == Step::Subscribe { Cause::AckLost } else { Cause::ConnectTimeout };
                let detail = format!(
                    "{} did not answer within {} s, silent at {}",
                    named.join(", "),
                    timeout.as_secs(),
                    step.as_str()
                );
                MqttError::new(cause, detail)
            }
        }
    }

    fn tried(&self) -> Vec<Tried> {
        let name = |server: usize| self.route.endpoints[server].to_string();
        let lookups = self.race.lookups(self.now()).map(|(server, outcome)| Tried {
            server: name(server),
            address: None,
            step: Step::Lookup,
            outcome,
            cause: (outcome == Outcome::Failed).then_some(Cause::DnsFailed),
        });
        let ways = self.race.ways(self.now()).map(|(way, step, outcome)| Tried {
            server: name(self.race.server(way)),
            address: Some(self.addresses[way].ip()),
            step,
            outcome,
            cause: self.causes[way],
        });
        lookups.chain(ways).collect()
    }
}

impl Route {
    fn is_behind(&self, endpoint: &Endpoint, address: Option<IpAddr>) -> bool {
        self.behind.iter().any(|(server, stalled)| *stalled == address && *server == endpoint.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keepalive::Ways;
    use crate::secret::Secret;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(20);
    /// CONNACK with Server unavailable (MQTT 5, section 3.2.2.2).
    const UNAVAILABLE: [u8; 5] = [0x20, 3, 0, 0x88, 0];

    /// A broker that takes connections and is silent from a step on; with an answer it refuses CONNECT.
    async fn broker(host: &str, silent: Option<Step>, refuses: Option<[u8; 5]>) -> Endpoint {
        let listener = TcpListener::bind((host, 0)).await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if matches!(silent, Some(Step::Tls | Step::Connect)) {
                    held.push(stream);
                    continue;
                }
                tokio::spawn(async move {
                    let mut packet = [0; 512];
                    let _ = stream.read(&mut packet).await;
                    let _ = stream.write_all(&refuses.unwrap_or([0x20, 3, 0, 0, 0])).await;
                    let _ = stream.read(&mut packet).await;
                    if silent.is_none() {
                        let _ = stream.write_all(&[0x90, 4, packet[2], packet[3], 0, 1]).await;
                    }
                    // Until the other end closes.
                    while stream.read(&mut packet).await.is_ok_and(|read| read > 0) {}
                });
            }
        });
        Endpoint { host: host.into(), port, tls: silent == Some(Step::Tls), path: None }
    }

    fn route(endpoints: Vec<Endpoint>, ways: &Ways) -> Route {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
        let config = config.expect("TLS 1.3").with_root_certificates(rustls::RootCertStore::empty());
        let tls = Arc::new(config.with_no_client_auth());
        let behind = ways.behind(Duration::ZERO, None);
        Route { endpoints, proxy: None, names: Names::new(None, Vec::new()), tls, behind, small_segments: true }
    }

    async fn established(route: &Route) -> (Dialled<Landed>, Duration) {
        let options = |ordinal: u32| ConnectOptions {
            client_id: "d".into(),
            user_name: format!("u{ordinal}"),
            password: Secret::new("p"),
            keep_alive_s: 60,
            session_expiry_s: 0,
            clean_start: true,
            will: None,
        };
        let started = Instant::now();
        let asked = Asked { options: &options, topic: Some("t"), kept: false };
        (establish(route, &asked, LIMIT).await, started.elapsed())
    }

    #[tokio::test]
    async fn a_server_that_is_silent_at_any_step_gives_way_to_the_next_and_goes_behind() {
        let cases = [Step::Tls, Step::Connect, Step::Subscribe].into_iter().flat_map(|step| {
            [(step, "127.0.0.1", "127.0.0.1"), (step, "::1", "127.0.0.1"), (step, "127.0.0.1", "::1")]
        });
        let all = cases.map(|(step, bad, good)| async move {
            let mut ways = Ways::default();
            let endpoints = vec![broker(bad, Some(step), None).await, broker(good, None, None).await];
            let (first, took) = established(&route(endpoints.clone(), &ways)).await;
            assert_eq!(first.result.expect("a connection").server, 1, "{step:?}");
            assert!(took < Duration::from_secs(3), "{step:?}: {took:?}");
            ways.on_tried(Duration::ZERO, None, first.tried);
            let stalled = ways.report(Duration::ZERO).into_iter().find(|way| way.outcome == Outcome::Stalled);
            assert_eq!(stalled.expect("what stalled").step, step);
            let (again, took) = established(&route(endpoints, &ways)).await;
            assert_eq!(again.result.expect("a connection").server, 1, "{step:?}");
            assert!(took < Duration::from_millis(500), "{step:?} again: {took:?}");
        });
        futures_util::future::join_all(all).await;
    }

    #[tokio::test]
    async fn a_server_that_is_not_available_does_not_delay_the_next() {
        let endpoints = vec![broker("127.0.0.1", None, Some(UNAVAILABLE)).await, broker("127.0.0.1", None, None).await];
        let (dialled, took) = established(&route(endpoints, &Ways::default())).await;
        let landed = dialled.result.expect("a connection");
        assert_eq!((landed.server, landed.ordinal), (1, 1));
        assert!(took < Duration::from_secs(1), "{took:?}");
    }

    #[tokio::test]
    async fn a_refusal_of_the_login_ends_the_attempt() {
        let refuses = Some([0x20, 3, 0, 0x87, 0]);
        let endpoints = vec![broker("127.0.0.1", None, refuses).await, broker("127.0.0.1", None, None).await];
        let (dialled, _) = established(&route(endpoints, &Ways::default())).await;
        assert_eq!(dialled.result.expect_err("refused").cause, Cause::NotAuthorized);
    }
}
