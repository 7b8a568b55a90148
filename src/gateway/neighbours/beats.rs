//! The lease, renewed at every beat, and what is done about gateways that do not renew theirs.

use super::{BEAT, Inner, locked};
use crate::gateway::clock::now_ms;
use crate::gateway::dispatch::Dispatch;
use crate::gateway::mending;
use crate::gateway::metrics::Metrics;
use crate::gateway::store::{Beat, Dead, LEASE_MS, Node, Store};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How often devices are looked for that are at no gateway, in beats.
const ORPHANS: u64 = 300;
/// Dead gateways whose devices are taken offline at once.
const AT_ONCE: usize = 4;

pub(super) struct Beats {
    pub inner: Arc<Inner>,
    pub node: Node,
    pub store: Store,
    pub dispatch: Dispatch,
    pub metrics: Metrics,
}

impl Beats {
    /// Until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut beats = tokio::time::interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut number, mut held_since) = (0_u64, Instant::now());
        let mut mixed = false;
        let mut burying: Vec<(String, JoinHandle<()>)> = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beats.tick() => {}
            }
            let listens = self.inner.listens.load(Ordering::Relaxed);
            let Beat { lapsed, dead, alive, beside_broker } = match self.store.beat(&self.node, listens, now_ms()).await
            {
                Ok(beat) => beat,
                Err(error) => {
                    error.tell("the lease could not be renewed; it is tried again");
                    continue;
                }
            };
            self.metrics.neighbours(alive, listens);
            if beside_broker && !mixed {
                error!(
                    event = "store.mixed",
                    others = "gateways with broker.url",
                    "two kinds of gateways serve one database, and take each other's devices for gone: stop one of them"
                );
            }
            mixed = beside_broker;
            if lapsed {
                held_since = Instant::now();
                warn!(
                    event = "node.lapsed",
                    "this gateway was not heard of for so long that others took it for dead; its devices are asked to greet again"
                );
                let wire = self.dispatch.wire.clone();
                tokio::spawn(async move { mending::ask_here(&wire).await });
            }
            locked(&self.inner.heard).orders = true;
            self.inner.hears.notify_one();
            number += 1;
            if number.is_multiple_of(ORPHANS)
                && let Err(error) = self.store.find_orphans().await
            {
                error.tell("devices at no gateway could not be looked for");
            }
            burying.retain(|(_, task)| !task.is_finished());
            // After an outage of the database nobody's lease is good: who comes back first judges nobody.
            let may_judge = held_since.elapsed() >= Duration::from_millis(LEASE_MS);
            for dead in dead {
                let known = burying.iter().any(|(node, _)| *node == dead.node);
                if burying.len() < AT_ONCE && !known && (may_judge || dead.left) {
                    let (store, dispatch) = (self.store.clone(), self.dispatch.clone());
                    burying.push((dead.node.clone(), tokio::spawn(bury(store, dispatch, dead))));
                }
            }
        }
    }
}

async fn bury(store: Store, dispatch: Dispatch, dead: Dead) {
    let Dead { node, name, left } = dead;
    let mut devices = 0;
    loop {
        match store.bury(node.clone(), now_ms()).await {
            Ok(Some((count, more))) => {
                devices += count;
                if count > 0 {
                    dispatch.on_due();
                }
                if !more {
                    break;
                }
            }
            Ok(None) => return,
            Err(error) => return error.tell("a dead gateway's devices could not be taken offline; it is tried again"),
        }
    }
    if left {
        info!(event = "node.left", name, node, devices, "a gateway has ended; its devices are offline");
    } else {
        warn!(
            event = "node.dead",
            name, node, devices, "a gateway was not heard of for its lease; its devices are offline"
        );
    }
}
