//! Presence events as bad brokers give them: those of the devices again, late, twice and out of order.

use crate::mqtt::{ConnectOptions, Connection, Incoming, MqttError, Stream, client_config, dial, handshake};
use crate::names::Names;
use crate::protocol::{DEFAULT_PREFIX, GATEWAY_CLIENT_PREFIX, Leg, Topics};
use crate::secret::Secret;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The nodes of a broker, one URL each, and an account there that may do everything.
#[derive(Debug, Clone)]
pub(super) struct Brokers {
    pub urls: Vec<String>,
    pub user: String,
    pub password: String,
    /// It has shared subscriptions.
    pub shared: bool,
    /// It tells of its clients' connections.
    pub client_events: bool,
}

const CONNECT: Duration = Duration::from_secs(10);
/// A pause between two replays.
const PAUSE: Duration = Duration::from_millis(50);
/// Events remembered.
const REMEMBERED: usize = 64;

/// Until `stop`, publishes what was heard of devices again, each time twice. Returns how many.
///
/// # Errors
/// A sentence when no node of the broker takes the connection for long.
pub(super) async fn replay(brokers: Brokers, stop: Arc<AtomicBool>) -> Result<u64, String> {
    let (mut heard, mut replayed): (Vec<(String, Bytes)>, u64) = (Vec::new(), 0);
    let (mut failures, mut node) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        match session(&brokers, node, &stop, &mut heard, &mut replayed).await {
            Ok(()) => break,
            // A node that was killed; the next one then.
            Err(_) if failures < 500 => {
                failures += 1;
                node += 1;
                sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(format!("no node of the broker: {}", error.detail)),
        }
    }
    Ok(replayed)
}

async fn session(
    brokers: &Brokers,
    node: usize,
    stop: &AtomicBool,
    heard: &mut Vec<(String, Bytes)>,
    replayed: &mut u64,
) -> Result<(), MqttError> {
    let mut connection = connect(brokers, node).await?;
    let mut next = Instant::now() + PAUSE;
    let mut turn = 0_usize;
    while !stop.load(Ordering::Relaxed) {
        tokio::select! {
            incoming = connection.next() => match incoming? {
                Incoming::Publish { topic, payload, packet_id } => {
                    if let Some(id) = packet_id {
                        connection.ack(id).await?;
                    }
                    if heard.len() == REMEMBERED {
                        heard.remove(0);
                    }
                    heard.push((topic, payload));
                }
                Incoming::Published { .. } => connection.send_queued().await?,
                Incoming::Subscribed { .. } | Incoming::Pong => {}
            },
            () = tokio::time::sleep_until(next) => {
                next = Instant::now() + PAUSE;
                // Steps through them backwards and unevenly.
                turn = turn.wrapping_add(heard.len().saturating_sub(7).max(1));
                if let Some((topic, payload)) = heard.get(turn % heard.len().max(1)).cloned() {
                    for _ in 0..2 {
                        connection.publish(&topic, payload.to_vec(), false).await?;
                        *replayed += 1;
                    }
                }
            }
        }
    }
    Ok(())
}

async fn connect(brokers: &Brokers, node: usize) -> Result<Connection<Stream>, MqttError> {
    let wrong = |e: &dyn std::fmt::Display| MqttError::new(crate::keepalive::Cause::ProtocolError, e.to_string());
    let endpoint = brokers.urls[node % brokers.urls.len()].parse().map_err(|e| wrong(&e))?;
    let topics = Topics::new(DEFAULT_PREFIX).map_err(|e| wrong(&e))?;
    let tls = client_config(None, None).map_err(|e| wrong(&e))?;
    let options = ConnectOptions {
        client_id: format!("{GATEWAY_CLIENT_PREFIX}noise"),
        user_name: brokers.user.clone(),
        password: Secret::new(brokers.password.clone()),
        keep_alive_s: 30,
        session_expiry_s: 0,
        clean_start: true,
        will: None,
    };
    let stream = dial(&endpoint, None, &Names::default(), &tls, CONNECT).await?;
    let (mut connection, _) = handshake(stream, &options, CONNECT).await?;
    connection.subscribe(&topics.everyone(Leg::State)).await?;
    Ok(connection)
}
