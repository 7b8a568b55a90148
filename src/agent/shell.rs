//! Carries a session's actions out: sockets, files, streams. It decides nothing.

use super::clock;
use super::config::{Config, Ready};
use super::control::{Apps, Refusal, Reply};
use super::disk::{OnDisk, blocking};
use super::enrol::Enrolling;
use super::given;
use super::network::{self, Towards};
use super::power;
use super::side::{Running, Way};
use super::trust::Trust;
use super::wake_app::Waking;
use super::wake_lock::WakeLock;
use crate::ids::Nonce;
use crate::keepalive::constants::CONNECT_TIMEOUT;
use crate::keepalive::{Failure, Tried};
use crate::mqtt::{
    Asked, ConnectOptions, Connection, Dialled as Established, Endpoint, Incoming, Landed, Route, Stream, Will,
    establish,
};
use crate::names::Names;
use crate::protocol::{Leg, SESSION_EXPIRY_S, State as Announced};
use crate::session::{
    Action, Broker, Dial, Event, Goodbye, LinkStanding, Now, Packet, RequestId, Server, Session, Sight, Write,
    user_name,
};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

/// How long a goodbye may take.
const FAREWELL: Duration = Duration::from_millis(1200);

/// How an attempt ended.
pub(super) struct Dialled {
    pub standing: Result<(Connection<Stream>, Box<LinkStanding>), Failure>,
    /// Where it was made.
    pub network: Option<String>,
    pub tried: Vec<Tried>,
}

/// An attempt under way.
pub(super) struct Dialling {
    pub nonce: Nonce,
    pub run: Pin<Box<dyn Future<Output = Dialled>>>,
}

/// Why local apps' streams ended, and how often one has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamsEnd {
    pub times: u64,
    pub word: String,
    pub detail: String,
}

/// Everything that touches the machine.
pub(super) struct Shell {
    pub config: Config,
    pub ready: Ready,
    pub trust: Trust,
    pub names: Names,
    pub session: Session,
    pub disk: OnDisk,
    pub connection: Option<Connection<Stream>>,
    /// The far end of the last connection.
    pub last_peer: Option<SocketAddr>,
    pub dialling: Option<Dialling>,
    pub enrolling: Option<Enrolling>,
    pub sides: Vec<Running>,
    /// Who waits for an answer.
    pub replies: BTreeMap<RequestId, oneshot::Sender<Result<Reply, Refusal>>>,
    /// Where the system has one, and lets the agent take it.
    pub wake_lock: Option<WakeLock>,
    /// Apps that are being started.
    pub waking: Waking,
    /// Changes whenever the inbox has something new.
    pub arrived: watch::Sender<u64>,
    pub ended: watch::Sender<StreamsEnd>,
    /// Who may ask over the loopback port.
    pub apps: watch::Sender<Arc<Apps>>,
}

/// Now, by both clocks.
pub(super) fn now() -> Now {
    Now { at: clock::now(), wall_ms: clock::wall_ms() }
}

impl Shell {
    /// One event, what follows it, and what follows that.
    pub async fn feed(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.session.on_event(now(), event) {
                events.extend(self.carry_out(action).await);
            }
        }
    }

    async fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Dial(dial) => {
                self.look_at_trust().await;
                return Some(self.dial(*dial).await);
            }
            Action::CancelDial => self.dialling = None,
            Action::Write(write) => return self.write(write).await,
            Action::Close(goodbye) => self.close(goodbye).await,
            Action::Abandon => self.connection = None,
            Action::Persist { change, version } => {
                let kind = change.kind();
                let outcome = self.disk.run(move |disk| disk.apply(change)).await;
                return Some(Event::persisted(kind, version, outcome));
            }
            Action::Keep { message, packet_id } => {
                let (id, from) = (message.id.clone(), message.from.clone());
                let kept = self.disk.run(move |disk| disk.keep(*message)).await;
                if kept == crate::session::Kept::New {
                    self.arrived.send_modify(|n| *n += 1);
                    if let Some(lock) = &mut self.wake_lock {
                        lock.app_told(clock::now());
                    }
                }
                return Some(Event::Kept { id, from, packet_id, kept });
            }
            Action::LookAtNetwork => return self.sight().await.map(Event::NetworkSeen),
            Action::LookAtBattery => return Some(Event::BatterySeen(power::look(self.config.device.root.as_deref()))),
            Action::StartSide(side) => {
                self.look_at_trust().await;
                let servers = self.resolved(self.session.servers());
                let route = self.route(&servers, self.session.network());
                let way = Way { route, topics: self.ready.topics.clone() };
                self.sides.push(Running::start(*side, way));
            }
            Action::CancelSide(kind) => self.sides.retain(|side| side.kind != kind),
            Action::Answer { id, answer } => {
                if let Some(reply) = self.replies.remove(&id) {
                    // A peer that went away no longer wants its answer.
                    drop(reply.send(answer.map(Reply::Json)));
                }
            }
            Action::OpenInbox { user } => {
                let lost = self.disk.run(move |disk| disk.open_inbox(&user)).await;
                return lost.then_some(Event::InboxLost);
            }
            Action::WakeApp { app, how, uid, id, from } => self.waking.start(app, how, uid, &id, &from),
            Action::KeepAuthority { pem } => self.keep_authority(pem).await,
            Action::LocalAppsChanged => drop(self.apps.send(Arc::new(self.session.local_apps().clone()))),
            Action::UnlinkInbox => self.disk.run(|disk| disk.unlink_inbox()).await,
            Action::EndStreams { word, detail } => {
                self.ended.send_modify(|end| *end = StreamsEnd { times: end.times + 1, word, detail });
            }
        }
        None
    }

    /// What the next connection is checked against.
    async fn look_at_trust(&mut self) {
        self.trust.floor.set(self.session.earliest_ms(now()));
        self.trust.look_again().await;
    }

    async fn keep_authority(&mut self, pem: String) {
        let Some(path) = self.config.server.ca_given.clone() else { return };
        match blocking(move || given::keep(&path, &pem)).await {
            Ok(false) => {}
            Ok(true) => info!(
                event = "tls.authority_given",
                "the server has told of an authority that its certificate will be of; it is trusted beside the others"
            ),
            Err(error) => {
                warn!(event = "tls.authority_not_kept", %error, "the server has told of an authority that cannot be kept");
            }
        }
    }

    /// The same without an attempt, which follows if they did change.
    pub async fn look_at_changed_trust(&mut self) {
        if self.trust.look_again().await {
            self.feed(Event::TrustChanged).await;
        }
    }

    async fn dial(&mut self, dial: Dial) -> Event {
        let own = dial.nonce.clone();
        let servers = self.resolved(dial.servers);
        let way = network::way(Towards::Anybody { last: self.last_peer }).await.ok().flatten();
        let network = way.as_ref().map(|way| way.ground.0.clone());
        self.names.on_network(network.as_deref());
        let route = self.route(&servers, network.as_deref());
        let down = self.ready.topics.topic(&dial.address, Leg::Down);
        let state = self.ready.topics.topic(&dial.address, Leg::State);
        let (nonce, kept) = (dial.nonce.clone(), dial.subscribed);
        let nonce_of = move |ordinal: u32| match ordinal {
            0 => nonce.clone(),
            later => nonce.later(later),
        };
        let run = Box::pin(async move {
            let options = |ordinal| ConnectOptions {
                client_id: dial.address.client_id(),
                user_name: user_name(&dial.address, &dial.password),
                password: dial.password.clone(),
                keep_alive_s: dial.keep_alive_s,
                session_expiry_s: SESSION_EXPIRY_S,
                clean_start: dial.clean_start,
                will: Some(Will {
                    topic: state.clone(),
                    payload: Announced { online: false, nonce: nonce_of(ordinal) }.encode(),
                    retain: dial.broker.retain,
                    at_least_once: dial.broker.at_least_once,
                }),
            };
            let asked = Asked { options: &options, topic: Some(&down), kept };
            let Established { result, tried } = establish(&route, &asked, CONNECT_TIMEOUT).await;
            let landed = match result {
                Ok(landed) => landed,
                Err(failure) => {
                    route.names.doubt();
                    return Dialled { standing: Err(failure), network, tried };
                }
            };
            let Landed { server, connection, connected, round_trip, ordinal } = landed;
            let ground = match connection.stream().peer_address() {
                Some(peer) => network::way(Towards::Peer(peer)).await.ok().flatten().map(|way| way.ground),
                None => None,
            };
            let (server, endpoint) = &servers[server];
            let standing = LinkStanding {
                nonce: nonce_of(ordinal),
                server: server.clone(),
                server_name: endpoint.to_string(),
                session_present: connected.session_present,
                verified: connection.stream().is_verified(),
                server_keep_alive_s: connected.server_keep_alive_s,
                broker: Broker { retain: connected.retain, at_least_once: connected.at_least_once },
                round_trip,
                ground,
            };
            Dialled { standing: Ok((connection, Box::new(standing))), network, tried }
        });
        self.dialling = Some(Dialling { nonce: own, run });
        Event::DialStarted { ground: way.filter(|way| way.carrier).map(|way| way.ground) }
    }

    fn resolved(&self, servers: Vec<Server>) -> Vec<(Server, Endpoint)> {
        let endpoint = |server: Server| {
            let endpoint = match &server {
                Server::Configured(at) => self.ready.endpoints.get(*at)?.clone(),
                // What a server named may be no address; the others are there.
                Server::Named(text) => format!("mqtts://{text}").parse().ok()?,
            };
            Some((server, endpoint))
        };
        servers.into_iter().filter_map(endpoint).collect()
    }

    fn route(&self, servers: &[(Server, Endpoint)], network: Option<&str>) -> Route {
        let (ways, at) = (self.session.ways(), clock::now());
        Route {
            endpoints: servers.iter().map(|(_, endpoint)| endpoint.clone()).collect(),
            proxy: self.ready.proxy.clone(),
            names: self.names.clone(),
            tls: self.trust.credentials.config.clone(),
            behind: ways.behind(at, network),
            small_segments: ways.small_segments(at, network),
        }
    }

    pub async fn on_dialled(&mut self, nonce: Nonce, outcome: Dialled) {
        self.dialling = None;
        self.feed(Event::Tried { nonce: nonce.clone(), network: outcome.network, ways: outcome.tried }).await;
        match outcome.standing {
            Ok((connection, standing)) => {
                self.last_peer = connection.stream().peer_address();
                if let Some(lock) = &self.wake_lock {
                    lock.watch(connection.stream().descriptor());
                }
                self.connection = Some(connection);
                self.feed(Event::Dialled { nonce, standing }).await;
            }
            Err(failure) => self.feed(Event::DialFailed { nonce, failure }).await,
        }
    }

    pub async fn on_incoming(&mut self, incoming: Result<Incoming, Failure>) {
        let event = match incoming {
            Ok(Incoming::Publish { payload, packet_id, .. }) => {
                Event::Heard(Packet::Publish { payload: payload.into(), packet_id })
            }
            Ok(Incoming::Published { refused, .. }) => {
                Event::Heard(Packet::Published { refused: refused.map(|error| error.detail) })
            }
            Ok(Incoming::Subscribed { refused, .. }) => Event::Heard(Packet::Subscribed { refused }),
            Ok(Incoming::Pong) => Event::Heard(Packet::Pong),
            Err(failure) => {
                self.connection = None;
                Event::Lost(failure)
            }
        };
        self.feed(event).await;
    }

    async fn write(&mut self, write: Write) -> Option<Event> {
        let connection = self.connection.as_mut()?;
        let written = match write {
            Write::Publish { topic, payload, retain } => connection.publish(&topic, payload, retain).await.map(drop),
            Write::Acknowledge(packet_id) => connection.ack(packet_id).await,
            // The session counts its own pings.
            Write::Ping => match connection.ping().await {
                Ok(()) => return None,
                Err(failure) => Err(failure),
            },
            Write::Queued => connection.send_queued().await,
        };
        Some(match written {
            Ok(()) => Event::Written { unanswered: connection.unacknowledged() },
            Err(failure) => {
                self.connection = None;
                Event::Lost(failure)
            }
        })
    }

    async fn close(&mut self, goodbye: Goodbye) {
        let Some(mut connection) = self.connection.take() else { return };
        let said = async {
            if let Some((topic, payload)) = goodbye.offline {
                connection.publish(&topic, payload, true).await?;
            }
            connection.disconnect(goodbye.end_session).await
        };
        let clean = tokio::time::timeout(FAREWELL, said).await.is_ok_and(|said| said.is_ok());
        let cause = goodbye.cause;
        info!(event = "link.closed", cause = cause.as_str(), number = cause.number(), clean, "{}", cause.text());
    }

    /// `None`: nothing could be seen.
    async fn sight(&self) -> Option<Sight> {
        let stream = self.connection.as_ref().map(Connection::stream);
        let own = stream.and_then(Stream::local_address);
        let towards = match stream.and_then(Stream::peer_address) {
            Some(peer) => Towards::Peer(peer),
            None => Towards::Anybody { last: self.last_peer },
        };
        let way = network::way(towards).await.ok()?;
        Some(Sight {
            carrier: way.as_ref().is_none_or(|way| way.carrier),
            ground: way.map(|way| way.ground),
            address_gone: own.is_some_and(|address| !network::has_address(address)),
        })
    }
}
