//! What a gateway is to do with connections of its own, by the word of another: stored with what it follows from, so that
//! a notice that is lost costs only the time until the next look.

use super::sql::{Row, Transaction, params};
use super::{Kick, Store, StoreError, as_i64};
use crate::ids::{MessageId, Nonce};
use crate::protocol::{Address, Message};
use serde::{Deserialize, Serialize};

/// Most orders carried out at a time, and most messages looked up.
const MOST: u32 = 1000;

/// A device as it stands in an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    app: String,
    user: String,
    device: String,
}

impl Who {
    fn new(address: &Address) -> Self {
        let Address { app, user, device } = address;
        Self { app: app.to_string(), user: user.to_string(), device: device.to_string() }
    }

    /// `None`: another version wrote it.
    pub fn address(&self) -> Option<Address> {
        Address::new(&self.app, &self.user, &self.device).ok()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Order {
    /// A login has ended: the device is told, where it was logged in, and cut off.
    Cut { who: Who, code: u16, by: Option<String>, known: bool },
    /// The device has come in elsewhere: this connection of it is closed.
    Close { who: Who, nonce: String },
    /// What the bindings of an app's devices stand on has changed: they are asked to greet again.
    Ask { app: String },
    /// A message goes to its devices that are here once more.
    Publish { message: String },
}

impl Order {
    pub(super) fn moved(address: &Address, nonce: &Nonce) -> Self {
        Self::Close { who: Who::new(address), nonce: nonce.to_string() }
    }

    fn text(&self) -> Result<String, StoreError> {
        serde_json::to_string(self).map_err(|error| StoreError::Corrupt(error.to_string()))
    }
}

/// Leaves an order to a gateway. `false`: there is none of that name.
///
/// # Errors
/// [`StoreError`].
pub(super) fn put(t: &Transaction<'_>, node: &str, order: &Order) -> Result<bool, StoreError> {
    let put = t
        .prepare_cached(
            "INSERT INTO orders (node, what) SELECT n.node, CAST(?2 AS TEXT) FROM nodes n WHERE n.node = ?1",
        )?
        .execute(params![node, order.text()?])?;
    Ok(put > 0)
}

/// Leaves an order to every gateway but this one.
fn put_elsewhere(t: &Transaction<'_>, here: &str, order: &Order) -> Result<(), StoreError> {
    t.prepare_cached(
        "INSERT INTO orders (node, what) SELECT n.node, CAST(?2 AS TEXT) FROM nodes n WHERE n.node <> ?1",
    )?
    .execute(params![here, order.text()?])?;
    Ok(())
}

/// Logins that have ended may be connected anywhere, also ones that have not greeted yet.
///
/// # Errors
/// [`StoreError`].
pub(super) fn cut_elsewhere(t: &Transaction<'_>, here: &str, kicked: &[Kick]) -> Result<(), StoreError> {
    if here.is_empty() {
        return Ok(());
    }
    for Kick { address, code, by, known, .. } in kicked {
        let (who, code) = (Who::new(address), u16::from(*code));
        put_elsewhere(t, here, &Order::Cut { who, code, by: by.clone(), known: *known })?;
    }
    Ok(())
}

fn message(r: &mut Row) -> Result<(Address, String), StoreError> {
    Ok((Address { app: r.get(0)?, user: r.get(1)?, device: r.get(2)? }, r.get(3)?))
}

/// A row that cannot be read must not stop the others; the claim ends what it is of.
fn readable(rows: Vec<(Address, String)>) -> Vec<(Address, Message)> {
    rows.into_iter().filter_map(|(address, body)| Some((address, serde_json::from_str(&body).ok()?))).collect()
}

impl Store {
    /// What others have left to this gateway; it is its to carry out from now on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn take_orders(&self) -> Result<Vec<Order>, StoreError> {
        let node = self.node().clone();
        self.run(move |t| {
            let rows: Vec<(i64, String)> = t
                .prepare_cached("SELECT number, what FROM orders WHERE node = ?1 ORDER BY number LIMIT ?2 /* lock */")?
                .query_map(params![*node, MOST], |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect::<Result<_, _>>()?;
            for (number, _) in &rows {
                t.prepare_cached("DELETE FROM orders WHERE number = ?1")?.execute(params![number])?;
            }
            Ok(rows.iter().filter_map(|(_, what)| serde_json::from_str(what).ok()).collect())
        })
        .await
    }

    /// Leaves an order to every other gateway.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn order_elsewhere(&self, order: Order) -> Result<(), StoreError> {
        let node = self.node().clone();
        self.run(move |t| put_elsewhere(t, &node, &order)).await
    }

    /// Messages of these ids for devices that are connected here and have not acknowledged them. Only where the store is
    /// shared.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn for_here(&self, ids: &[MessageId]) -> Result<Vec<(Address, Message)>, StoreError> {
        let (node, ids) = (self.node().clone(), ids.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(","));
        let rows = self.run(move |t| {
            t.prepare_cached(
                "SELECT d.app, d.user, d.device, m.message FROM messages m JOIN deliveries d ON d.message = m.id
                 JOIN devices v ON v.app = d.app AND v.user = d.user AND v.device = d.device
                 WHERE m.id = ANY(string_to_array(?1, ',')) AND d.open = 1 AND d.acked_ms IS NULL
                 AND v.online = 1 AND v.node = ?2 ORDER BY m.accepted_ms, m.id",
            )?
            .query_map(params![ids, *node], message)?
            .collect::<Result<_, _>>()
        });
        rows.await.map(readable)
    }

    /// Messages accepted since that moment for devices that are connected here, under way and not acknowledged: whose
    /// notices may not have come.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn under_way_here(&self, since_ms: u64) -> Result<Vec<(Address, Message)>, StoreError> {
        let (node, since) = (self.node().clone(), MessageId::from_ms(since_ms));
        let rows = self.run(move |t| {
            t.prepare_cached(
                "SELECT d.app, d.user, d.device, m.message FROM deliveries d JOIN messages m ON m.id = d.message
                 JOIN devices v ON v.app = d.app AND v.user = d.user AND v.device = d.device
                 WHERE d.message > ?1 AND m.accepted_ms > ?4 AND d.open = 1 AND d.acked_by IS NULL AND d.nonce <> '' AND d.nonce = v.nonce
                 AND d.acked_ms IS NULL
                 AND v.online = 1 AND v.node = ?2 ORDER BY d.message LIMIT ?3",
            )?
            .query_map(params![since, *node, MOST, as_i64(since_ms)], message)?
            .collect::<Result<_, _>>()
        });
        rows.await.map(readable)
    }
}
