//! The gateway's own MQTT connection: what devices say comes in, what they are told goes out.

use super::accounts::{ANSWERS, Desk};
use super::broker::Access;
use super::dispatch::Dispatch;
use super::events;
use super::outgoing::{NotHanded, Outgoing, Wire};
use super::workers::{Heard, Said, Workers};
use crate::keepalive::constants::CONNECT_TIMEOUT;
use crate::keepalive::{Cause, Link, LinkAction, Reconnect, Verdict};
use crate::mqtt::{ConnectOptions, Connection, Incoming, MqttError, Stream, dial, handshake};
use crate::names::Names;
use crate::protocol::{Address, Leg, Topics};
use bytes::Bytes;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// The gateway sits beside its broker: a dead link is noticed quickly and cheaply.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// The task behind a [`super::outgoing::Wire`].
pub struct Driver {
    queue: mpsc::Receiver<Outgoing>,
    access: Access,
    topics: Topics,
    started: Instant,
    /// For what the workers answer.
    wire: Wire,
    /// Where the broker keeps an account for each login.
    accounts: Option<Desk>,
}

impl Driver {
    pub fn new(
        (wire, queue): (Wire, mpsc::Receiver<Outgoing>),
        access: Access,
        topics: Topics,
        accounts: Option<Desk>,
    ) -> Self {
        Self { queue, access, topics, started: Instant::now(), wire, accounts }
    }

    /// Connects and serves until `stop`.
    pub async fn run(mut self, dispatch: Dispatch, stop: CancellationToken) {
        let mut reconnect = Reconnect::new(u64::from(std::process::id()));
        loop {
            let error = tokio::select! {
                () = stop.cancelled() => return,
                error = self.serve(&dispatch, &mut reconnect, &stop) => error,
            };
            let Some(error) = error else { return };
            if let Some(desk) = &mut self.accounts {
                desk.on_disconnected();
            }
            // The broker is the gateway's own: every cause is retried, a refused password too, for an
            // operator may mend it there.
            let pause = match reconnect.on_down(self.started.elapsed(), error.cause) {
                Verdict::Retry(attempt) => attempt.at.saturating_sub(self.started.elapsed()),
                Verdict::Stop(_) => Duration::from_secs(30),
            }
            .min(Duration::from_secs(10));
            if self.wire.set_up(false) {
                warn!(event = "broker.down", cause = error.cause.as_str(), detail = %error.detail, next_attempt_s = pause.as_secs_f64(), "no connection to the broker: who has a vendor's binding is pushed to, and what else comes waits");
            } else {
                debug!(event = "broker.down", cause = error.cause.as_str(), detail = %error.detail, next_attempt_s = pause.as_secs_f64(), "still no connection to the broker");
            }
            self.refuse_until(pause, &stop).await;
        }
    }

    /// Answers waiting publishers that there is no connection, so that vendors take over at once.
    async fn refuse_until(&mut self, pause: Duration, stop: &CancellationToken) {
        let end = tokio::time::sleep(pause);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return,
                () = stop.cancelled() => return,
                Some(outgoing) = self.queue.recv() => { let _ = outgoing.done.send(Err(NotHanded::Away)); }
                asked = Desk::next(&mut self.accounts) => drop(asked),
            }
        }
    }

    async fn serve(
        &mut self,
        dispatch: &Dispatch,
        reconnect: &mut Reconnect,
        stop: &CancellationToken,
    ) -> Option<MqttError> {
        let (mut connection, events) = match self.connect().await {
            Ok(connection) => connection,
            Err(error) => return Some(error),
        };
        reconnect.on_up(self.started.elapsed());
        info!(event = "broker.up", broker = %self.access.endpoint, "connected to the broker");
        if self.wire.set_up(true) {
            dispatch.on_broker_up();
        }
        if let Some(desk) = &mut self.accounts {
            desk.on_connected();
        }
        let mut link = Link::new(self.started.elapsed(), HEARTBEAT, Duration::ZERO);
        // Messages the broker has not answered for.
        let mut under_way = HashMap::new();
        let (workers, mut finished) = Workers::start(dispatch);
        loop {
            let pause = link.next_deadline().saturating_sub(self.started.elapsed());
            let result = tokio::select! {
                () = stop.cancelled() => {
                    // The broker would notice anyway.
                    drop(connection.disconnect(true).await);
                    return None;
                }
                incoming = connection.next() => match incoming {
                    // They are only hints: it works without.
                    Ok(Incoming::Subscribed { packet_id, refused: Some(why) }) if events == Some(packet_id) => {
                        warn!(event = "broker.events_refused", %why, "the broker does not let the gateway hear of its clients' connections");
                        Ok(())
                    }
                    Ok(Incoming::Published { ordinal, refused }) => {
                        link.on_answer(self.started.elapsed());
                        let too_large = refused.filter(|error| error.cause == Cause::PacketTooLarge);
                        if let (Some((address, id)), Some(error)) = (under_way.remove(&ordinal), too_large) {
                            dispatch.refused_as_too_large(address, id, error.detail);
                        }
                        connection.send_queued().await
                    }
                    Ok(Incoming::Publish { topic, payload, packet_id }) if topic == ANSWERS => {
                        if let Some(desk) = &mut self.accounts {
                            desk.on_answer(&payload);
                        }
                        acknowledge(&mut connection, packet_id).await
                    }
                    Ok(incoming) => self.on_incoming(incoming, &mut connection, &mut link, (&workers, dispatch)).await,
                    Err(error) => Err(error),
                },
                Some(packet_id) = finished.recv() => acknowledge(&mut connection, packet_id).await,
                Some(outgoing) = self.queue.recv() => {
                    let topic = self.topics.topic(&outgoing.address, Leg::Down);
                    let written = connection.publish(&topic, outgoing.word.payload, false).await;
                    link.on_written(self.started.elapsed());
                    if let (Ok(ordinal), Some(id)) = (&written, outgoing.word.message) {
                        under_way.insert(*ordinal, (outgoing.address, id));
                    }
                    let (done, result) = match written {
                        Ok(_) => (Ok(()), Ok(())),
                        // Neither a large message nor a full window is the connection's end.
                        Err(error) if error.cause == Cause::PacketTooLarge => (Err(NotHanded::TooLarge(error.detail)), Ok(())),
                        Err(error) if error.cause == Cause::QuotaExceeded => (Err(NotHanded::Away), Ok(())),
                        Err(error) => (Err(NotHanded::Away), Err(error)),
                    };
                    let _ = outgoing.done.send(done);
                    result
                }
                asked = Desk::next(&mut self.accounts) => match &mut self.accounts {
                    Some(desk) => {
                        let (topic, payload) = desk.ask(asked);
                        let written = connection.publish(topic, payload, false).await;
                        link.on_written(self.started.elapsed());
                        match written {
                            // Whoever asked finds out by itself.
                            Err(error) if !matches!(error.cause, Cause::PacketTooLarge | Cause::QuotaExceeded) => Err(error),
                            _ => Ok(()),
                        }
                    }
                    None => Ok(()),
                },
                () = tokio::time::sleep(pause) => match link.on_tick(self.started.elapsed()) {
                    LinkAction::Ping => {
                        link.on_ping_sent(self.started.elapsed());
                        connection.ping().await
                    }
                    LinkAction::Dead(cause) => Err(MqttError::new(cause, "the broker is silent")),
                    LinkAction::Nothing => Ok(()),
                },
            };
            if let Err(error) = result {
                return Some(error);
            }
        }
    }

    /// The connection, and the packet that asks for the broker's events.
    async fn connect(&self) -> Result<(Connection<Stream>, Option<u16>), MqttError> {
        let options = ConnectOptions {
            client_id: self.access.client_id.clone(),
            user_name: self.access.user.clone(),
            password: self.access.password.clone(),
            keep_alive_s: 60,
            session_expiry_s: 0,
            clean_start: true,
            will: None,
        };
        let stream = dial(&self.access.endpoint, None, &Names::default(), &self.access.tls, CONNECT_TIMEOUT).await?;
        let (mut connection, _) = handshake(stream, &options, CONNECT_TIMEOUT).await?;
        let group = if self.access.shared { "$share/gateway/" } else { "" };
        for leg in [Leg::Up, Leg::State] {
            connection.subscribe(&format!("{group}{}", self.topics.everyone(leg))).await?;
        }
        if self.accounts.is_some() {
            connection.subscribe(ANSWERS).await?;
        }
        let events = match self.access.events {
            true => Some(connection.subscribe(&format!("{group}{}", events::FILTER)).await?),
            false => None,
        };
        Ok((connection, events))
    }

    async fn on_incoming(
        &self,
        incoming: Incoming,
        connection: &mut Connection<Stream>,
        link: &mut Link,
        (workers, dispatch): (&Workers, &Dispatch),
    ) -> Result<(), MqttError> {
        match incoming {
            Incoming::Publish { topic, payload, packet_id } => {
                let Some((address, said)) = self.understood(&topic, payload, dispatch) else {
                    return acknowledge(connection, packet_id).await;
                };
                if !workers.take(Heard { address, said, packet_id }) {
                    // The broker sent more than it was told it may.
                    return Err(MqttError::new(Cause::ProtocolError, "more unacknowledged publishes than agreed"));
                }
            }
            Incoming::Subscribed { refused: Some(why), .. } => {
                return Err(MqttError::new(
                    Cause::NotAuthorized,
                    format!("the broker refused the gateway's subscription: {why}"),
                ));
            }
            Incoming::Published { .. } | Incoming::Subscribed { .. } | Incoming::Pong => {
                link.on_answer(self.started.elapsed());
            }
        }
        Ok(())
    }

    /// `None` for what is nobody's word, and was said if it should not be.
    fn understood(&self, topic: &str, payload: Bytes, dispatch: &Dispatch) -> Option<(Address, Said)> {
        if self.access.events && events::is_event(topic) {
            let gone = events::gone(&payload);
            let gone = gone.inspect_err(|why| dispatch.on_refused("broker", "event", None, why)).ok()??;
            return Some((gone.address, Said::Gone { at_ms: gone.at_ms }));
        }
        let parsed = self.topics.parse(topic);
        match parsed.inspect_err(|why| dispatch.on_refused("device", "topic", None, why)).ok()? {
            (address, Leg::Up) => Some((address, Said::Up(payload))),
            (address, Leg::State) => Some((address, Said::State(payload))),
            (_, Leg::Down) => None,
        }
    }
}

async fn acknowledge(connection: &mut Connection<Stream>, packet_id: Option<u16>) -> Result<(), MqttError> {
    match packet_id {
        Some(packet_id) => connection.ack(packet_id).await,
        None => Ok(()),
    }
}
