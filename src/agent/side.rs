//! Short connections beside the main one: each does one thing and ends.
//!
//! | side | does |
//! | --- | --- |
//! | probe | idles, then pings: how long does this network keep an idle connection? |
//! | check | asks the gateway how the bindings do, without presence, will or queue |
//! | unbind | tells a logout that was made without a network |

use super::clock::{self, Timer};
use crate::keepalive::constants::{CONNECT_TIMEOUT, PONG_MAX};
use crate::keepalive::{Cause, Failure, Moment, ProbeOutcome};
use crate::mqtt::{Asked, ConnectOptions, Connection, Incoming, Route, Stream, establish};
use crate::protocol::{Address, Down, Leg, PROBE_SUFFIX, Topics, Up, decode_down};
use crate::secret::Secret;
use crate::session::{Side, SideKind, SideOutcome, user_name};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How long the gateway may take to answer on a side connection.
const ANSWER: Duration = Duration::from_secs(15);

/// A side connection under way.
pub(super) struct Running {
    pub kind: SideKind,
    pub run: Pin<Box<dyn Future<Output = SideOutcome>>>,
    /// It is about to ping; the main link pings with it, so that the radio wakes once.
    pub about_to_ping: Arc<Notify>,
    /// The device must not fall asleep under it until then; nothing for a probe, which idles on purpose.
    pub awake_until: Option<Moment>,
}

/// The way to the servers.
#[derive(Clone)]
pub(super) struct Way {
    pub route: Route,
    pub topics: Topics,
}

impl Running {
    pub fn start(side: Side, way: Way) -> Self {
        let about_to_ping = Arc::new(Notify::new());
        let awake_until = Some(clock::now() + CONNECT_TIMEOUT + ANSWER);
        let notify = about_to_ping.clone();
        match side {
            Side::Probe { address, password, idle } => {
                let run = Box::pin(async move {
                    let outcome = match probe(&way, &address, password, idle, &notify).await {
                        Ok(()) => ProbeOutcome::Survived,
                        Err(outcome) => outcome,
                    };
                    SideOutcome::Probed { idle, outcome }
                });
                Self { kind: SideKind::Probe, run, about_to_ping, awake_until: None }
            }
            Side::Check { nonce, address, password, hello } => {
                let run = Box::pin(async move {
                    let welcome = |down: Down| match down {
                        Down::Settings { nonce: Some(answered), bindings, token, .. } if answered == nonce => {
                            Some(SideOutcome::Checked { bindings, token })
                        }
                        other => kicked(other),
                    };
                    asked(&way, &address, password, &hello, welcome).await
                });
                Self { kind: SideKind::Check, run, about_to_ping, awake_until }
            }
            Side::Unbind { address, password, sequence, unbind } => {
                let run = Box::pin(async move {
                    let answer = |down: Down| match down {
                        Down::Bound { sequence: answered, result, expected, .. } if answered == sequence => {
                            Some(SideOutcome::Unbound { result, expected })
                        }
                        other => kicked(other),
                    };
                    asked(&way, &address, password, &unbind, answer).await
                });
                Self { kind: SideKind::Unbind, run, about_to_ping, awake_until }
            }
        }
    }
}

fn kicked(down: Down) -> Option<SideOutcome> {
    match down {
        Down::Kick { code, replaced_by } => Some(SideOutcome::Kicked { code, replaced_by }),
        _ => None,
    }
}

/// Connects, says one thing, and waits for the answer to it.
async fn asked(
    way: &Way,
    address: &Address,
    password: Secret,
    up: &Up,
    answer: impl Fn(Down) -> Option<SideOutcome>,
) -> SideOutcome {
    let exchange = async {
        let options = options(address.client_id(), address, password, ANSWER);
        let mut connection = connected(way, &options, Some(&way.topics.topic(address, Leg::Down))).await?;
        connection.publish(&way.topics.topic(address, Leg::Up), up.encode(), false).await?;
        let outcome = tokio::time::timeout(ANSWER, heard(&mut connection, answer)).await;
        // Its purpose is served; a server that does not hear this sees the socket close.
        let _ = connection.disconnect(true).await;
        outcome.unwrap_or_else(|_| {
            Err(Failure::new(Cause::AckLost, format!("no gateway answered within {} s", ANSWER.as_secs())))
        })
    };
    exchange.await.unwrap_or_else(SideOutcome::Failed)
}

async fn heard(
    connection: &mut Connection<Stream>,
    answer: impl Fn(Down) -> Option<SideOutcome>,
) -> Result<SideOutcome, Failure> {
    loop {
        match connection.next().await? {
            Incoming::Publish { payload, packet_id, .. } => {
                let outcome = decode_down(&payload).ok().and_then(&answer);
                // A message that came along is not acknowledged to the gateway, and comes again.
                if let Some(packet_id) = packet_id {
                    connection.ack(packet_id).await?;
                }
                if let Some(outcome) = outcome {
                    return Ok(outcome);
                }
            }
            Incoming::Published { refused: Some(why), .. } => {
                return Err(Failure::new(Cause::NotAuthorized, why.detail));
            }
            Incoming::Subscribed { refused: Some(failure), .. } => return Err(failure),
            Incoming::Published { .. } => connection.send_queued().await?,
            Incoming::Subscribed { .. } | Incoming::Pong => {}
        }
    }
}

async fn connected(way: &Way, options: &ConnectOptions, topic: Option<&str>) -> Result<Connection<Stream>, Failure> {
    let asked = Asked { options: &|_| options.clone(), topic, kept: false };
    Ok(establish(&way.route, &asked, CONNECT_TIMEOUT).await.result?.connection)
}

fn options(client_id: String, address: &Address, password: Secret, idle: Duration) -> ConnectOptions {
    ConnectOptions {
        client_id,
        user_name: user_name(address, &password),
        password,
        // The server must not cut it while it idles on purpose.
        keep_alive_s: u16::try_from(idle.as_secs().saturating_add(60)).unwrap_or(u16::MAX),
        session_expiry_s: 0,
        clean_start: true,
        will: None,
    }
}

async fn probe(
    way: &Way,
    address: &Address,
    password: Secret,
    idle: Duration,
    about_to_ping: &Notify,
) -> Result<(), ProbeOutcome> {
    let options = options(format!("{}{PROBE_SUFFIX}", address.client_id()), address, password, idle);
    let mut connection = connected(way, &options, None).await.map_err(|failure| match failure.cause {
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
        () = timer.until(clock::now() + idle) => {}
        // A connection that is closed with a word did not expire. Two of the same user may be one
        // too many for this server.
        heard = connection.next() => return Err(match heard {
            Err(error) if matches!(error.cause, Cause::TakenOver | Cause::Kicked | Cause::NotAuthorized) => ProbeOutcome::Refused,
            _ => ProbeOutcome::Inconclusive,
        }),
    }
    about_to_ping.notify_one();
    connection.ping().await.map_err(|_| ProbeOutcome::Lost)?;
    match tokio::time::timeout(PONG_MAX, connection.next()).await {
        Ok(Ok(Incoming::Pong)) => {
            let _ = connection.disconnect(true).await;
            Ok(())
        }
        // A reset after the ping is how some routers say that they have forgotten the flow.
        Ok(Err(_)) | Err(_) => Err(ProbeOutcome::Lost),
        Ok(Ok(_)) => Err(ProbeOutcome::Inconclusive),
    }
}
