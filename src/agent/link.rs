//! The agent's side of one connection: how it is made, what comes over it, how it ends.

use super::state::{Daemon, HELLO_PAUSE, Online, Purpose, RunError};
use super::status::State;
use super::{clock, network};
use crate::binding::{Action, Event};
use crate::keepalive::constants::CONNECT_TIMEOUT;
use crate::keepalive::{Cause, Link, LinkAction, Moment, Recovery};
use crate::mqtt::{ConnectOptions, Connection, Incoming, MqttError, Stream, Will, dial_first, handshake};
use crate::protocol::{Address, Down, Hello, Leg, Message, SESSION_EXPIRY_S, State as Announced, Up, decode_down};
use crate::secret::{Secret, random_hex};
use crate::store::InboxError;
use std::time::Duration;
use tracing::{debug, info};

/// The longest pause before the gateway is greeted again.
const HELLO_PAUSE_MOST: Duration = Duration::from_secs(600);
/// When the gateway is greeted again after it refused, or the disk failed.
const HELLO_AGAIN: Duration = Duration::from_secs(30);
/// ... and after the answer to an earlier connection's: what is under way settles first.
const HELLO_OVERTAKEN: Duration = Duration::from_secs(1);
/// How soon resting is thought of again while the binding is not confirmed.
const UNBOUND_LINGER: Duration = Duration::from_secs(5);

impl Daemon {
    /// Starts an attempt: for a logout that is owed first, then for the login.
    pub fn connect(&mut self) {
        let owed = self.binding.owed().map(|t| (t.user.clone(), t.password.clone()));
        let (user, password, purpose) = match (owed, self.disk.store.login()) {
            (Some((user, password)), _) => (user.clone(), password, Purpose::Owed { user }),
            (None, Some(login)) => (login.user.clone(), login.password.clone(), Purpose::Login),
            (None, None) => {
                self.next_attempt = None;
                return self.set_state(State::LoggedOut);
            }
        };
        let address = match Address::new(&self.ready.app, user, self.disk.store.device_id()) {
            Ok(address) => address,
            // Login and configuration refuse such ids; one on disk is from another version.
            Err(error) => match purpose {
                Purpose::Owed { user } => {
                    self.binding.settle(&user);
                    return self.connect();
                }
                Purpose::Login => return self.on_down(MqttError::new(Cause::ClientIdRefused, error.to_string())),
            },
        };
        self.set_state(State::Connecting);
        let nonce = random_hex::<8>();
        let options = self.options(&address, password, &purpose, &nonce);
        let (endpoints, proxy, tls) = (self.endpoints(), self.ready.proxy.clone(), self.tls.clone());
        self.tried = network::ground(network::key());
        let interval = self.heartbeat.interval();
        self.connecting = Some(Box::pin(async move {
            let started = clock::now();
            let (endpoint, stream) = dial_first(&endpoints, proxy.as_ref(), &tls, CONNECT_TIMEOUT).await?;
            let asked = clock::now();
            let left = CONNECT_TIMEOUT.saturating_sub(asked.saturating_sub(started)).max(Duration::from_secs(1));
            let (connection, connected) = handshake(stream, &options, left).await?;
            let now = clock::now();
            let link = Link::new(now, interval, now.saturating_sub(asked));
            Ok(Online { connection, link, address, purpose, nonce, connected, endpoint, server_limit: None })
        }));
    }

    fn options(&self, address: &Address, password: Secret, purpose: &Purpose, nonce: &str) -> ConnectOptions {
        let login = *purpose == Purpose::Login;
        let will = login.then(|| Will {
            topic: self.ready.topics.topic(address, Leg::State),
            payload: Announced { online: false, nonce: nonce.to_owned() }.encode(),
            retain: true,
        });
        // Asking for the longest heartbeat leaves the search free.
        let ceiling = self.longest_heartbeat_s();
        ConnectOptions {
            client_id: address.client_id(),
            user_name: address.user_name(),
            password,
            keep_alive_s: u16::try_from(ceiling).unwrap_or(u16::MAX),
            session_expiry_s: if login { SESSION_EXPIRY_S } else { 0 },
            clean_start: !login || self.poisoned,
            will,
        }
    }

    pub async fn on_connected(&mut self, outcome: Result<Online, MqttError>) -> Result<(), RunError> {
        let mut online = match outcome {
            Ok(online) => online,
            Err(error) => return self.on_refused(error).await,
        };
        let now = clock::now();
        self.prefer(&online.endpoint);
        if let Some(seconds) = online.connected.server_keep_alive_s.filter(|s| *s > 0) {
            // The server's word wins (MQTT 5, section 3.2.2.3.14); a little below it stays inside.
            let limit = Duration::from_secs(u64::from(seconds)).mul_f64(0.9).max(Duration::from_secs(1));
            online.server_limit = Some(limit);
        }
        self.reconnect.on_up(now);
        self.counts.connections += 1;
        self.next_attempt = None;
        self.poisoned = false;
        let was_down = self.cause.take();
        info!(
            event = "link.up", server = %online.endpoint, session_present = online.connected.session_present,
            round_trip_ms = online.link.round_trip().map(|d| d.as_millis() as u64),
            after = was_down.map(|e| e.cause.as_str()), "connected"
        );
        self.set_state(State::Online);
        let down = self.ready.topics.topic(&online.address, Leg::Down);
        let state = self.ready.topics.topic(&online.address, Leg::State);
        let announced = Announced { online: true, nonce: online.nonce.clone() }.encode();
        let purpose = online.purpose.clone();
        let session_present = online.connected.session_present;
        self.online = Some(online);
        self.heart_up().await?;
        let address = self.online.as_ref().map(|online| online.address.clone());
        if !session_present || self.subscribed != address {
            self.subscribed = None;
            self.wire(async |c| c.subscribe(&down).await.map(drop)).await;
        }
        match purpose {
            Purpose::Login => {
                self.wire(async |c| c.publish(&state, announced, true, None).await).await;
                self.hello_pause = HELLO_PAUSE;
                self.say_hello().await;
                self.linger();
                self.bind_event(Event::Connected).await
            }
            Purpose::Owed { .. } => self.pay_owed().await,
        }
    }

    /// Asks the gateway for what was missed; again, ever more rarely, until it has answered: the first may
    /// have come while no gateway listened.
    pub async fn say_hello(&mut self) {
        let Some(online) = &self.online else { return };
        self.hello_overtaken = false;
        let hello = Up::Hello(Hello {
            nonce: online.nonce.clone(),
            agent: format!("impush/{}", env!("CARGO_PKG_VERSION")),
            channel: self.choice.active.map_or("none", |v| v.as_str()).to_owned(),
            platform: self.profile.platform.clone(),
            model: self.profile.model.clone(),
            login: self.disk.store.login().map(|login| login.id.clone()).filter(|id| !id.is_empty()),
            check: false,
            instance: None,
            binding: None,
        });
        self.hello_at = Some(clock::now() + self.hello_pause);
        self.hello_pause = (self.hello_pause * 2).min(HELLO_PAUSE_MOST);
        self.send(&hello).await;
    }

    pub async fn on_incoming(&mut self, incoming: Result<Incoming, MqttError>) -> Result<(), RunError> {
        let incoming = match incoming {
            Ok(incoming) => incoming,
            Err(error) => {
                self.lose(error).await;
                return Ok(());
            }
        };
        let now = clock::now();
        match incoming {
            Incoming::Publish { payload, packet_id, .. } => {
                self.on_payload(&payload).await?;
                // After the message is on disk, or was refused for good: either way the broker need
                // not send it again, and a bad one must not come back for ever.
                if let Some(packet_id) = packet_id {
                    self.wire(async |c| c.ack(packet_id).await).await;
                }
            }
            Incoming::Published { refused, .. } => {
                self.heard(now).await?;
                self.wire(async |c| c.send_queued().await).await;
                if let Some(why) = refused {
                    // Perhaps nobody heard the greeting.
                    self.hello_at = Some(now + HELLO_AGAIN);
                    self.count_refused("publish_refused", &why);
                }
            }
            Incoming::Subscribed { refused, .. } => {
                self.heard(now).await?;
                self.subscribed = self.online.as_ref().map(|online| online.address.clone());
                if let Some(why) = refused {
                    self.subscribed = None;
                    self.lose(MqttError::new(Cause::NotAuthorized, format!("the subscription was refused: {why}")))
                        .await;
                }
            }
            Incoming::Pong => self.heard(now).await?,
        }
        Ok(())
    }

    async fn on_payload(&mut self, payload: &[u8]) -> Result<(), RunError> {
        match decode_down(payload) {
            Ok(Down::Message(message)) => self.on_message(message).await,
            Ok(Down::Bound { sequence, result, reason }) => {
                if let Some(user) = self.owed_user() {
                    return self.owed_answered(&user, sequence, result).await;
                }
                self.bind_event(Event::Answered { sequence, result, reason }).await
            }
            Ok(Down::Kick { code, replaced_by }) => match self.owed_user() {
                // The old login is over, which is all that was wanted.
                Some(user) => self.owed_settled(&user).await,
                None => self.on_kick(code, replaced_by).await,
            },
            Ok(Down::Settings { nonce, heartbeat_ceiling_s, .. }) => {
                self.welcomed(nonce.as_deref());
                if let (Some(seconds), Some(online)) = (heartbeat_ceiling_s.filter(|s| *s >= 5), self.online.as_mut()) {
                    let ceiling = Duration::from_secs(u64::from(seconds));
                    online.server_limit = Some(online.server_limit.map_or(ceiling, |limit| limit.min(ceiling)));
                    online.link.set_interval(online.link.interval().min(ceiling));
                }
                Ok(())
            }
            Err(error) => {
                self.count_refused(error.as_str(), &error);
                Ok(())
            }
        }
    }

    /// A gateway has heard a `hello`. One of an earlier connection may have overtaken this one's, and then the
    /// gateway takes the end of that connection for the device's.
    fn welcomed(&mut self, nonce: Option<&str>) {
        let own = self.online.as_ref().map(|online| online.nonce.as_str());
        if nonce.is_some() && nonce != own {
            self.hello_overtaken = true;
            self.hello_at = Some(clock::now() + HELLO_OVERTAKEN);
        } else if !self.hello_overtaken {
            self.hello_at = None;
        }
    }

    async fn on_message(&mut self, message: Message) -> Result<(), RunError> {
        let id = message.id.clone();
        let appended = self.disk.run(move |disk| disk.inbox.as_mut().map(|inbox| inbox.append(&[message]))).await;
        // Nobody is logged in any more: it waits at the gateway.
        let Some(appended) = appended else { return Ok(()) };
        match appended {
            Ok(appended) => {
                if appended.new.is_empty() {
                    debug!(event = "message.duplicate", id, "already in the inbox");
                } else {
                    self.counts.messages += 1;
                    info!(event = "message.received", id, "message is on disk");
                    self.arrived.send_modify(|n| *n += 1);
                }
                self.send(&Up::Ack { ids: vec![id], attached: None }).await;
                Ok(())
            }
            Err(InboxError::Full) => {
                self.starved = true;
                self.count_refused("inbox_full", &InboxError::Full);
                Ok(())
            }
            Err(error @ InboxError::TooLarge { .. }) => {
                self.count_refused("too_large", &error);
                Ok(())
            }
            Err(error @ InboxError::Io { .. }) => {
                // Not acknowledged: the gateway keeps it. A full disk passes; the daemon goes on.
                self.hello_at = Some(clock::now() + HELLO_AGAIN);
                self.count_refused("inbox_unwritable", &error);
                Ok(())
            }
        }
    }

    pub async fn tick_link(&mut self, now: Moment) -> Result<(), RunError> {
        let Some(online) = self.online.as_mut() else { return Ok(()) };
        match online.link.on_tick(now) {
            LinkAction::Nothing => {}
            LinkAction::Ping => {
                self.check_power();
                let Some(online) = self.online.as_mut() else { return Ok(()) };
                online.link.on_ping_sent(now);
                self.wire(async |c| c.ping().await).await;
            }
            LinkAction::Dead(cause) => {
                let idle = online.link.idle(now).as_secs();
                self.lose(MqttError::new(cause, format!("not answered after {idle} s of idleness"))).await;
            }
        }
        Ok(())
    }

    /// Publishes to the gateway. A failure loses the link, and with it the need to report here.
    pub async fn send(&mut self, up: &Up) {
        let Some(online) = &self.online else { return };
        let topic = self.ready.topics.topic(&online.address, Leg::Up);
        let payload = up.encode();
        self.wire(async |c| c.publish(&topic, payload, false, None).await).await;
    }

    /// One write on the connection, with the bookkeeping every write needs.
    async fn wire(&mut self, write: impl AsyncFnOnce(&mut Connection<Stream>) -> Result<(), MqttError>) {
        let Some(online) = self.online.as_mut() else { return };
        match write(&mut online.connection).await {
            Ok(()) if online.connection.unacknowledged() > 0 => online.link.on_written(clock::now()),
            Ok(()) => {}
            Err(error) => self.lose(error).await,
        }
    }

    async fn heard(&mut self, now: Moment) -> Result<(), RunError> {
        let idle = self.online.as_mut().and_then(|online| online.link.on_answer(now));
        match idle {
            Some(idle) => self.heart_answered(idle).await,
            None => Ok(()),
        }
    }

    /// The link broke, or is declared dead.
    pub async fn lose(&mut self, error: MqttError) {
        let Some(online) = self.online.take() else { return };
        self.heart_lost(error.cause, online.link.idle(clock::now()));
        let purpose = online.purpose.clone();
        // Dropping the socket is all: the peer of a dead link cannot be told.
        drop(online);
        // A disconnection neither sends nor persists anything.
        let actions = self.binding.on_event(clock::now(), Event::Disconnected);
        debug_assert!(actions.is_empty());
        self.owed_until = None;
        if let Purpose::Owed { user } = &purpose
            && error.cause.recovery() == Recovery::Stop
        {
            // That login has ended by itself; it must not stand in the next one's way.
            self.binding.settle(user);
            self.cause = Some(error);
            return self.want_connection();
        }
        if error.cause == Cause::Kicked || error.cause == Cause::TakenOver {
            debug!(event = "link.ended_by_server", cause = error.cause.as_str());
        }
        self.on_down(error);
    }

    /// Ends the connection on purpose: says so, then disconnects.
    pub async fn part(&mut self, cause: Cause, end_session: bool) {
        let Some(mut online) = self.online.take() else { return };
        self.search.probe = None;
        self.search.doubted = None;
        self.owed_until = None;
        drop(self.binding.on_event(clock::now(), Event::Disconnected));
        let topic = self.ready.topics.topic(&online.address, Leg::State);
        let offline = Announced { online: false, nonce: online.nonce.clone() }.encode();
        let said = async {
            if online.purpose == Purpose::Login {
                online.connection.publish(&topic, offline, true, None).await?;
            }
            online.connection.disconnect(end_session).await
        };
        let clean = tokio::time::timeout(Duration::from_millis(1200), said).await.is_ok_and(|said| said.is_ok());
        info!(event = "link.closed", cause = cause.as_str(), number = cause.number(), clean, "{}", cause.text());
        self.cause = Some(MqttError::new(cause, cause.text()));
        self.next_attempt = None;
        self.linger_until = None;
    }

    /// Starts the linger time when the vendor channel could deliver and no app is attached.
    pub fn linger(&mut self) {
        let may_rest = self.choice.active.is_some() && self.attached == 0 && self.online.is_some();
        self.linger_until = may_rest.then(|| clock::now() + Duration::from_secs(self.config.channel.linger_s));
    }

    /// Closes the connection so that the vendor channel delivers.
    pub async fn rest(&mut self) {
        self.linger_until = None;
        // Only a confirmed binding can replace the connection.
        if *self.binding.standing() != crate::binding::Standing::Bound {
            self.linger_until = Some(clock::now() + UNBOUND_LINGER);
            return;
        }
        self.part(Cause::LingerOver, false).await;
        self.set_state(State::Resting);
    }

    pub async fn bind_event(&mut self, event: Event) -> Result<(), RunError> {
        let actions = self.binding.on_event(clock::now(), event);
        for action in actions {
            match action {
                Action::Persist => self.save_ledger().await?,
                Action::Send(up) => self.send(&up).await,
                Action::Unbound => self.on_unbound().await?,
            }
        }
        Ok(())
    }

    pub async fn save_ledger(&mut self) -> Result<(), RunError> {
        let ledger = self.binding.ledger().clone();
        Ok(self.disk.run(move |disk| disk.store.set_ledger(ledger)).await?)
    }
}
