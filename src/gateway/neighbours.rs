//! The other gateways on the same database, where each has devices of its own: what they are told, and what is done here
//! when they tell.
//!
//! ```text
//! accepted here, connected there --notice (ids)--> NOTIFY --> the other's `hands` --store--> its connection
//! ended here, connected anywhere --order (a row) and a notice --> the same
//! ```
//!
//! A notice is a hint, sent after the commit it tells of. A lost one costs what the next look costs: orders are rows and are
//! looked for at every beat; a message whose acknowledgement does not come in time is claimed by whoever comes first, and
//! goes on as an order. Where no notices come at all (a pooler that keeps no session) the store is looked through instead.

mod beats;
mod hands;
mod link;
mod notice;

use super::database::Database;
use super::dispatch::Dispatch;
use super::mending::Asking;
use super::metrics::Metrics;
use super::store::{Node, Store};
use crate::ids::MessageId;
use hands::Recent;
use notice::{ALL, Heard, Notices};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;

/// How often the lease is renewed and orders are looked for: five times in one.
const BEAT: Duration = Duration::from_secs(2);
/// Notices come for as long as the last beat was heard so short a time ago.
const HEARS: Duration = Duration::from_secs(7);

/// Clones share it.
#[derive(Clone, Default)]
pub struct Neighbours(Option<Arc<Inner>>);

struct Inner {
    /// To be told to others.
    out: Mutex<Notices>,
    told: Notify,
    /// What others said.
    heard: Mutex<Heard>,
    hears: Notify,
    /// When the connection last brought this gateway's own beat.
    beat: Mutex<Option<Instant>>,
    /// Notices come.
    listens: AtomicBool,
}

impl Inner {
    /// Something may have been missed.
    fn look_at_all(&self) {
        let mut heard = locked(&self.heard);
        (heard.orders, heard.look) = (true, true);
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the tasks work with.
pub(super) struct Parts {
    pub node: Node,
    pub store: Store,
    pub dispatch: Dispatch,
    pub asking: Asking,
    pub metrics: Metrics,
    /// The same database as the store's, perhaps by another way.
    pub database: Database,
    pub tls: MakeRustlsConnect,
    /// What a connection there listens to is heard on it.
    pub session: bool,
}

impl Neighbours {
    /// There may be some.
    pub fn some() -> Self {
        Self(Some(Arc::new(Inner {
            out: Mutex::default(),
            told: Notify::new(),
            heard: Mutex::default(),
            hears: Notify::new(),
            beat: Mutex::default(),
            listens: AtomicBool::new(false),
        })))
    }

    /// That message is for devices at these gateways.
    pub fn publish(&self, nodes: Vec<String>, id: &MessageId) {
        let Some(inner) = self.0.as_ref().filter(|_| !nodes.is_empty()) else { return };
        let mut out = locked(&inner.out);
        nodes.into_iter().for_each(|node| out.message(node, id.clone()));
        drop(out);
        inner.told.notify_one();
    }

    /// There is an order for that gateway.
    pub fn look_at_orders(&self, node: &str) {
        if let Some(inner) = &self.0 {
            locked(&inner.out).orders(node);
            inner.told.notify_one();
        }
    }

    /// There are orders for every other gateway.
    pub fn all_look_at_orders(&self) {
        self.look_at_orders(ALL);
    }

    /// Starts what hears and tells; it ends with `stop`.
    pub(super) fn start(&self, parts: Parts, stop: &CancellationToken) {
        let Some(inner) = self.0.clone() else { return };
        let Parts { node, store, dispatch, asking, metrics, database, tls, session } = parts;
        tokio::spawn(link::keep(inner.clone(), (database.config, tls), (node.id.clone(), session), stop.child_token()));
        let hands =
            hands::Hands { store: store.clone(), dispatch: dispatch.clone(), asking, recent: Recent::default() };
        tokio::spawn(hands.run(inner.clone(), stop.child_token()));
        tokio::spawn(beats::Beats { inner, node, store, dispatch, metrics }.run(stop.child_token()));
    }
}
