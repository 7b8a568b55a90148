//! Which kind of gateways a shared store serves: ones with devices of their own, each of which holds a lease in `nodes`, or ones beside
//! a broker, which hold one lease together. Side by side they would take each other's devices for gone, so who comes second does not
//! start. Once the others have ended it does.

use super::sql::{OptionalExtension as _, Transaction, params};
use super::{Store, StoreError, as_i64};

/// A gateway that is not heard of for so long is dead. In milliseconds.
pub(in crate::gateway) const LEASE_MS: u64 = 10_000;
/// Until when gateways beside a broker serve, in milliseconds.
const LEASE: &str = "broker_lease_ms";

/// Until when gateways beside a broker serve, if that is not over.
///
/// # Errors
/// [`StoreError`].
pub(super) fn broker_lease(t: &Transaction<'_>, now_ms: u64) -> Result<Option<u64>, StoreError> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    let until: Option<String> = t.prepare_cached(sql)?.query_row(params![LEASE], |r| r.get(0)).optional()?;
    Ok(until.and_then(|until| until.parse().ok()).filter(|until| *until >= now_ms))
}

/// Of two that start at once one comes second.
fn hold(t: &Transaction<'_>) -> Result<(), StoreError> {
    t.hold(vec!["kinds"])
}

/// A gateway with devices of its own is about to begin.
///
/// # Errors
/// [`StoreError::Version`]: gateways beside a broker serve.
pub(super) fn refuse_beside_broker(t: &Transaction<'_>, now_ms: u64) -> Result<(), StoreError> {
    hold(t)?;
    let Some(until) = broker_lease(t, now_ms)? else { return Ok(()) };
    let ago_s = LEASE_MS.saturating_sub(until - now_ms) / 1000;
    Err(StoreError::Version(format!(
        "gateways with broker.url serve it, heard of {ago_s} s ago, and this one has no broker.url: the two do not go together. Set the same \
         broker.url here, or stop them, and this one starts {} s later",
        LEASE_MS / 1000
    )))
}

fn nodes(t: &Transaction<'_>, lives: bool, now_ms: u64) -> Result<Vec<(String, String)>, StoreError> {
    let sql = if lives {
        "SELECT node, name FROM nodes WHERE lease_ms >= ?1 ORDER BY name"
    } else {
        "SELECT node, name FROM nodes WHERE lease_ms < ?1 ORDER BY name"
    };
    t.prepare_cached(sql)?.query_map(params![as_i64(now_ms)], |r| Ok((r.get(0)?, r.get(1)?)))?.collect()
}

/// Devices at gateways that are in no row are a dead one's; others are at a broker.
fn find_orphans_of_nodes(t: &Transaction<'_>) -> Result<(), StoreError> {
    let sql = "INSERT OR IGNORE INTO nodes (node, name, version, started_ms, lease_ms)
         SELECT DISTINCT v.node, '', '', CAST(0 AS BIGINT), CAST(0 AS BIGINT) FROM devices v
         WHERE v.online = 1 AND v.node <> '' AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.node = v.node)";
    t.execute(sql, params![]).map(drop)
}

fn renew(t: &Transaction<'_>, now_ms: u64) -> Result<(), StoreError> {
    let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    t.prepare_cached(sql)?.execute(params![LEASE, (now_ms + LEASE_MS).to_string()]).map(drop)
}

impl Store {
    /// A gateway beside a broker begins. Devices that gateways of the other kind have left behind are offline after it.
    ///
    /// # Errors
    /// [`StoreError::Version`]: gateways with devices of their own serve; and every other.
    pub async fn enter_beside_broker(&self, now_ms: u64) -> Result<(), StoreError> {
        let left = self
            .run_alone(move |t| {
                hold(t)?;
                let others: Vec<String> = nodes(t, true, now_ms)?.into_iter().map(|(_, name)| name).collect();
                if !others.is_empty() {
                    return Err(StoreError::Version(format!(
                        "gateways with devices of their own serve it ({}), and this one has broker.url: the two do not go together. Leave \
                         broker.url out here, or stop them first",
                        others.join(", ")
                    )));
                }
                renew(t, now_ms)?;
                find_orphans_of_nodes(t)?;
                nodes(t, false, now_ms)
            })
            .await?;
        // The empty one's devices are at the broker.
        for (node, _) in left.into_iter().filter(|(node, _)| !node.is_empty()) {
            while let Some((_, true)) = self.bury(node.clone(), now_ms).await? {}
        }
        Ok(())
    }

    /// Gateways beside a broker go on. Returns the names of those of the other kind, of which none should live.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn renew_beside_broker(&self, now_ms: u64) -> Result<Vec<String>, StoreError> {
        self.run_alone(move |t| {
            renew(t, now_ms)?;
            Ok(nodes(t, true, now_ms)?.into_iter().map(|(_, name)| name).collect())
        })
        .await
    }
}
