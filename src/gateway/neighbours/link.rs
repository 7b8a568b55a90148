//! The connection over which notices go and come. It does nothing else, and is made again when it brings nothing.

use super::notice::ALL;
use super::{HEARS, Inner, locked};
use crate::gateway::store::channel;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Config, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// An answer may take so long.
const ANSWER: Duration = Duration::from_secs(5);
/// Pause before the next connection, and the longest: a pooler that keeps no session is tried ever more rarely.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often it is looked whether beats come.
const LOOK: Duration = Duration::from_millis(500);

type Connection = tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// A connection, and the task that reads from it.
struct Link {
    client: Client,
    reads: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reads.abort();
    }
}

/// Until `stop`. Without a `session` of its own the connection tells, and hears nothing: a LISTEN would stay on a connection
/// that others are given.
pub(super) async fn keep(
    inner: Arc<Inner>,
    (mut config, tls): (Config, MakeRustlsConnect),
    (node, session): (Arc<str>, bool),
    stop: CancellationToken,
) {
    // What the operator sees in pg_stat_activity.
    let own = config.get_application_name().unwrap_or("impush-gateway").to_owned();
    config.application_name(format!("{own} notices"));
    let work = async {
        let mut pause = PAUSE;
        let mut deaf = false;
        if !session {
            tell_deaf(&mut deaf);
        }
        loop {
            *locked(&inner.beat) = None;
            let channels = session.then(|| [channel(&node), channel(ALL)]);
            match timeout(ANSWER * 2, open(&inner, &config, &tls, channels)).await {
                Ok(Ok(link)) => {
                    // What was said while nobody listened.
                    locked(&inner.heard).look = true;
                    inner.hears.notify_one();
                    let heard = serve(&inner, link, session, &mut deaf).await;
                    pause = if heard || !session { PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
                }
                Ok(Err(error)) => debug!(event = "node.link_failed", %error, "no connection for notices"),
                Err(_) => debug!(event = "node.link_failed", error = "no answer in time", "no connection for notices"),
            }
            inner.listens.store(false, Ordering::Relaxed);
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

async fn open(
    inner: &Arc<Inner>,
    config: &Config,
    tls: &MakeRustlsConnect,
    channels: Option<[String; 2]>,
) -> Result<Link, tokio_postgres::Error> {
    let (client, connection) = config.connect(tls.clone()).await?;
    let link = Link { client, reads: tokio::spawn(read(connection, inner.clone())) };
    if let Some([own, all]) = channels {
        // Names are hexadecimal; a channel cannot be a parameter.
        link.client.batch_execute(&format!("LISTEN {own}; LISTEN {all}")).await?;
    }
    Ok(link)
}

async fn read(mut connection: Connection, inner: Arc<Inner>) {
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        let AsyncMessage::Notification(notice) = message else { continue };
        if notice.payload() == "beat" {
            *locked(&inner.beat) = Some(Instant::now());
        } else {
            locked(&inner.heard).add(notice.payload());
            inner.hears.notify_one();
        }
    }
}

/// To the connection's end. Returns whether it ever brought anything.
async fn serve(inner: &Inner, mut link: Link, session: bool, deaf: &mut bool) -> bool {
    let (began, mut looks) = (Instant::now(), tokio::time::interval(LOOK));
    let mut heard = false;
    loop {
        tokio::select! {
            _ = &mut link.reads => return heard,
            () = inner.told.notified() => {
                let notices = locked(&inner.out).take();
                if !tell(&link.client, notices).await {
                    return heard;
                }
            }
            _ = looks.tick(), if session => {
                let last = *locked(&inner.beat);
                let listens = last.is_some_and(|last| last.elapsed() < HEARS);
                heard |= listens;
                inner.listens.store(listens, Ordering::Relaxed);
                if listens && std::mem::take(deaf) {
                    info!(event = "node.hears", "notices of other gateways come at once again");
                }
                if !listens && last.unwrap_or(began).elapsed() >= HEARS {
                    tell_deaf(deaf);
                    return heard;
                }
            }
        }
    }
}

fn tell_deaf(deaf: &mut bool) {
    if !std::mem::replace(deaf, true) {
        warn!(
            event = "node.deaf",
            "notices of other gateways do not come; the database is looked through twice a second instead. A pooler in transaction mode keeps no LISTEN: set store.notices_url"
        );
    }
}

async fn tell(client: &Client, notices: Vec<(String, String)>) -> bool {
    let (nodes, said): (Vec<String>, Vec<String>) =
        notices.into_iter().map(|(node, said)| (channel(&node), said)).unzip();
    // In one round trip, which a pooler takes too.
    let sql = "SELECT count(pg_notify(c, p)) FROM unnest($1::text[], $2::text[]) AS n (c, p)";
    let told = async { client.query_typed(sql, &[(&nodes, Type::TEXT_ARRAY), (&said, Type::TEXT_ARRAY)]).await };
    matches!(timeout(ANSWER, told).await, Ok(Ok(_)))
}
