//! The gateways that share a store, each with connections of its own: who lives, and what becomes of a dead one's devices.

use super::kinds::{self, LEASE_MS};
use super::sql::{OptionalExtension as _, Transaction, params};
use super::{Store, StoreError, address, as_i64, as_u64, presence};
use crate::delivery::presence::Event;
use crate::ids::{DeviceId, Nonce};
use serde::Serialize;
use std::sync::Arc;

/// Devices taken offline in one transaction.
const PAGE: u32 = 200;

/// One start of a gateway.
#[derive(Debug, Clone)]
pub struct Node {
    /// Never the same twice.
    pub id: Arc<str>,
    /// Stays the same from start to start.
    pub name: String,
}

/// A gateway as the REST API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeRow {
    pub name: String,
    pub node: String,
    pub version: String,
    pub started_ms: u64,
    /// Until when it counts as alive, unless it is heard of again.
    pub lease_ms: u64,
    pub alive: bool,
    /// Notices of others reach it at once.
    pub listens: bool,
    /// The one that answers.
    pub here: bool,
    /// Devices connected to it.
    pub devices: u64,
}

/// What a renewal of the lease has shown.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// The lease was over, and others may have taken this gateway's devices offline.
    pub lapsed: bool,
    /// Gateways whose lease is over.
    pub dead: Vec<Dead>,
    /// Gateways that live, this one counted.
    pub alive: usize,
    /// Gateways beside a broker serve too, which should not be.
    pub beside_broker: bool,
}

/// A gateway whose lease is over.
#[derive(Debug, PartialEq, Eq)]
pub struct Dead {
    pub node: String,
    pub name: String,
    /// It ended its lease itself, or its next start did.
    pub left: bool,
}

/// The channel on which a gateway hears notices.
pub(in crate::gateway) fn channel(node: &str) -> String {
    format!("impush_{node}")
}

fn insert(t: &Transaction<'_>, node: &Node, now_ms: u64) -> Result<(), StoreError> {
    t.execute(
        "INSERT INTO nodes (node, name, version, started_ms, lease_ms) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (node) DO UPDATE SET lease_ms = excluded.lease_ms",
        params![*node.id, node.name, env!("CARGO_PKG_VERSION"), as_i64(now_ms), as_i64(now_ms + LEASE_MS)],
    )?;
    Ok(())
}

/// Devices whose gateway is in no row are a dead one's, and so are orders.
fn find_orphans(t: &Transaction<'_>) -> Result<(), StoreError> {
    t.execute(
        "INSERT OR IGNORE INTO nodes (node, name, version, started_ms, lease_ms)
         SELECT DISTINCT v.node, '', '', CAST(0 AS BIGINT), CAST(0 AS BIGINT) FROM devices v
         WHERE v.online = 1 AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.node = v.node)",
        params![],
    )?;
    t.execute("DELETE FROM orders WHERE NOT EXISTS (SELECT 1 FROM nodes n WHERE n.node = orders.node)", params![])?;
    Ok(())
}

impl Store {
    /// What this start of the gateway is called in the store; empty where a broker holds the connections.
    pub(in crate::gateway) fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// This start begins. Earlier ones of the same name are over, whatever their lease says. Returns how many of those
    /// seemed to live.
    ///
    /// # Errors
    /// [`StoreError::Version`]: gateways beside a broker serve; and every other.
    pub async fn enter(&mut self, node: &Node, now_ms: u64) -> Result<usize, StoreError> {
        self.node = node.id.clone();
        let node = node.clone();
        self.run_alone(move |t| {
            kinds::refuse_beside_broker(t, now_ms)?;
            let sql = "UPDATE nodes SET lease_ms = 0 WHERE name = ?1 AND lease_ms >= ?2";
            let before = t.execute(sql, params![node.name, as_i64(now_ms)])?;
            insert(t, &node, now_ms)?;
            find_orphans(t)?;
            Ok(before)
        })
        .await
    }

    /// Renews the lease, and says on the gateway's own channel that it did: who hears that hears notices, too.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn beat(&self, node: &Node, listens: bool, now_ms: u64) -> Result<Beat, StoreError> {
        let node = node.clone();
        self.run_alone(move |t| {
            let held = t
                .prepare_cached("UPDATE nodes SET lease_ms = ?2, listens = ?3 WHERE node = ?1 AND lease_ms >= ?4")?
                .execute(params![*node.id, as_i64(now_ms + LEASE_MS), listens, as_i64(now_ms)])?;
            if held == 0 {
                insert(t, &node, now_ms)?;
            }
            t.prepare_cached("SELECT pg_notify(?1, 'beat')")?.execute(params![channel(&node.id)])?;
            let all: Vec<(String, String, i64)> = t
                .prepare_cached("SELECT node, name, lease_ms FROM nodes")?
                .query_map(params![], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
                .collect::<Result<_, _>>()?;
            let (alive, dead): (Vec<_>, Vec<_>) = all.into_iter().partition(|(.., lease)| as_u64(*lease) >= now_ms);
            let dead = dead.into_iter().map(|(node, name, lease)| Dead { node, name, left: lease == 0 }).collect();
            let beside_broker = kinds::broker_lease(t, now_ms)?.is_some();
            Ok(Beat { lapsed: held == 0, dead, alive: alive.len(), beside_broker })
        })
        .await
    }

    /// Devices and orders of gateways that nothing is known of are given to a dead one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn find_orphans(&self) -> Result<(), StoreError> {
        self.run_alone(find_orphans).await
    }

    /// Takes some of a dead gateway's devices offline, and forgets it when none is left. `None`: it lives, or somebody
    /// else is at it; else how many there were, and whether there are more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn bury(&self, node: String, now_ms: u64) -> Result<Option<(usize, bool)>, StoreError> {
        self.run_alone(move |t| {
            let lease: Option<i64> = t
                .prepare_cached("SELECT d.lease_ms FROM nodes d WHERE d.node = ?1 /* claim */")?
                .query_row(params![node], |r| r.get(0))
                .optional()?;
            if lease.is_none_or(|lease| as_u64(lease) >= now_ms) {
                return Ok(None);
            }
            // The index is of those that are at a gateway.
            let sql = if node.is_empty() {
                "SELECT app, user, device, nonce FROM devices WHERE online = 1 AND node = ?1 LIMIT ?2"
            } else {
                "SELECT app, user, device, nonce FROM devices WHERE online = 1 AND node <> '' AND node = ?1 LIMIT ?2"
            };
            let connected: Vec<(String, String, DeviceId, Nonce)> = t
                .prepare_cached(sql)?
                .query_map(params![node, PAGE], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))?
                .collect::<Result<_, _>>()?;
            // Before anything of theirs is held, as everybody does.
            let users: Vec<String> = connected.iter().map(|(app, user, ..)| format!("{app}/{user}")).collect();
            t.hold(users.iter().map(String::as_str).collect())?;
            let more = connected.len() == PAGE as usize;
            let count = connected.len();
            let ended = |(app, user, device, nonce): (String, String, DeviceId, Nonce)| {
                Ok((address(&app, &user, &device)?, Event::Ended { nonce }))
            };
            let ended = connected.into_iter().map(ended).collect::<Result<_, StoreError>>()?;
            presence::apply_all(t, ended, now_ms)?;
            if !more {
                t.execute("DELETE FROM orders WHERE node = ?1", params![node])?;
                t.execute("DELETE FROM nodes WHERE node = ?1", params![node])?;
            }
            Ok(Some((count, more)))
        })
        .await
    }

    /// This start is over, and nobody is connected to it any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leave(&self) -> Result<(), StoreError> {
        let node = self.node.clone();
        if node.is_empty() {
            return Ok(());
        }
        let over = "UPDATE nodes SET lease_ms = 0 WHERE node = ?1";
        self.run_alone(move |t| t.execute(over, params![*node]).map(drop)).await
    }

    /// Every gateway that shares the store, the oldest start first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn nodes(&self, now_ms: u64) -> Result<Vec<NodeRow>, StoreError> {
        let here = self.node.clone();
        self.run(move |t| {
            t.prepare_cached(
                "SELECT n.name, n.node, n.version, n.started_ms, n.lease_ms, n.listens,
                 (SELECT count(*) FROM devices v WHERE v.node = n.node AND v.online = 1 AND v.node <> '')
                 FROM nodes n ORDER BY n.started_ms, n.node",
            )?
            .query_map(params![], |r| {
                let (node, lease_ms): (String, u64) = (r.get(1)?, as_u64(r.get(4)?));
                Ok(NodeRow {
                    name: r.get(0)?,
                    here: *here == *node,
                    node,
                    version: r.get(2)?,
                    started_ms: as_u64(r.get(3)?),
                    lease_ms,
                    alive: lease_ms >= now_ms,
                    listens: r.get(5)?,
                    devices: as_u64(r.get(6)?),
                })
            })?
            .collect()
        })
        .await
    }
}
