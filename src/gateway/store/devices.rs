//! Devices, their connections and their bindings.

use super::sql::{OptionalExtension as _, params};
use super::{Store, StoreError, address, as_i64, as_u64, presence, turn_of, whose};
use crate::delivery::presence::Event as Presence;
use crate::ids::{DeviceId, Nonce};
use crate::protocol::Address;
use serde::Serialize;

/// A binding as the REST API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Binding {
    pub device_id: String,
    pub device_token: String,
    pub notifier_name: String,
    /// Since when the vendor calls the token dead, in milliseconds since the Unix epoch: nothing is pushed to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_ms: Option<u64>,
    /// The vendor's code for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_code: Option<String>,
}

/// A device as the REST API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceRow {
    pub device_id: String,
    pub logged_in: bool,
    pub online: bool,
    pub channel: String,
    pub platform: String,
    pub model: Option<String>,
    pub seen_ms: u64,
    /// Two machines greet as this device in turn.
    pub cloned: bool,
    /// The name of the gateway that holds its connection, where several share the store.
    #[serde(skip)]
    pub gateway: Option<String>,
}

impl Store {
    /// # Errors
    /// [`StoreError`].
    pub async fn bindings(
        &self,
        app: String,
        user: String,
        device: Option<String>,
    ) -> Result<Vec<Binding>, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            let rows = t
                .prepare_cached(
                    "SELECT device, token, notifier, dead_ms, dead_code FROM bindings WHERE app = ?1 AND user = ?2 AND (CAST(?3 AS TEXT) IS NULL OR device = ?3) ORDER BY device, notifier",
                )?
                .query_map(params![app, user, device], |r| {
                    Ok(Binding {
                        device_id: r.get(0)?,
                        device_token: r.get(1)?,
                        notifier_name: r.get(2)?,
                        dead_ms: r.get::<Option<i64>>(3)?.map(as_u64),
                        dead_code: r.get(4)?,
                    })
                })?
                .collect::<Result<_, _>>()?;
            Ok(rows)
        })
        .await
    }

    /// # Errors
    /// [`StoreError`].
    pub async fn devices(&self, app: String, user: String) -> Result<Vec<DeviceRow>, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            let rows = t
                .prepare_cached(
                    "SELECT device, logged_in, online, channel, platform, model, seen_ms, turns,
                     (SELECT name FROM nodes WHERE nodes.node = devices.node) FROM devices WHERE app = ?1 AND user = ?2 ORDER BY device",
                )?
                .query_map(params![&app, &user], |r| {
                    Ok(DeviceRow {
                        device_id: r.get(0)?,
                        logged_in: r.get(1)?,
                        online: r.get(2)?,
                        channel: r.get(3)?,
                        platform: r.get(4)?,
                        model: r.get(5)?,
                        seen_ms: as_u64(r.get(6)?),
                        cloned: super::clones::is_cloned(r.get(7)?),
                        gateway: r.get(8)?,
                    })
                })?
                .collect::<Result<_, _>>()?;
            Ok(rows)
        })
        .await
    }

    /// Forgets a device of a user, whose logins were ended before, and its bindings.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_device(&self, app: String, user: String, device: String) -> Result<(), StoreError> {
        self.run_for(whose(&app, &user), move |t| {
            for table in ["bindings", "devices"] {
                let sql = format!("DELETE FROM {table} WHERE app = ?1 AND user = ?2 AND device = ?3");
                t.execute(&sql, params![app, user, device])?;
            }
            Ok(())
        })
        .await
    }

    /// Whether the store holds the device as connected; with a nonce, over that connection.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_connected(&self, address: Address, nonce: Option<Nonce>) -> Result<bool, StoreError> {
        self.run_in(turn_of(&address.app), move |t| {
            let Address { app, user, device } = &address;
            let current: Option<String> = t
                .prepare_cached(
                    "SELECT nonce FROM devices WHERE app = ?1 AND user = ?2 AND device = ?3 AND online = 1",
                )?
                .query_row(params![app, user, device], |r| r.get(0))
                .optional()?;
            Ok(current.is_some_and(|current| nonce.is_none_or(|nonce| nonce == *current)))
        })
        .await
    }

    /// Devices with a login that did not greet since that moment, from one on, in their order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn not_heard_since(
        &self,
        after: Option<Address>,
        since_ms: u64,
        most: usize,
    ) -> Result<Vec<Address>, StoreError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        self.run(move |t| {
            let (app, user, device) =
                after.as_ref().map_or(("", "", ""), |a| (a.app.as_str(), a.user.as_str(), a.device.as_str()));
            let rows = t
                .prepare_cached(
                    "SELECT app, user, device FROM devices
                     WHERE (app, user, device) > (?1, ?2, ?3) AND logged_in = 1 AND (online = 0 OR seen_ms < ?4)
                     ORDER BY app, user, device LIMIT ?5",
                )?
                .query_map(params![app, user, device, as_i64(since_ms), most], |r| {
                    Ok(Address { app: r.get(0)?, user: r.get(1)?, device: r.get(2)? })
                })?
                .collect::<Result<_, _>>()?;
            Ok(rows)
        })
        .await
    }

    /// An app's devices that are connected to this gateway, or to its broker, from one on, in their order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn connected_of(
        &self,
        app: String,
        after: Option<Address>,
        most: usize,
    ) -> Result<Vec<Address>, StoreError> {
        let (most, node) = (i64::try_from(most).unwrap_or(i64::MAX), self.node().clone());
        self.run_in(turn_of(&app), move |t| {
            let (user, device) = after.as_ref().map_or(("", ""), |a| (a.user.as_str(), a.device.as_str()));
            let rows = t
                .prepare_cached(
                    "SELECT app, user, device FROM devices
                     WHERE app = ?1 AND (user, device) > (?2, ?3) AND logged_in = 1 AND online = 1 AND node = ?5
                     ORDER BY user, device LIMIT ?4",
                )?
                .query_map(params![app, user, device, most, *node], |r| {
                    Ok(Address { app: r.get(0)?, user: r.get(1)?, device: r.get(2)? })
                })?
                .collect::<Result<_, _>>()?;
            Ok(rows)
        })
        .await
    }

    /// How many devices have a login and were not heard since, and how many have one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn absent_since(&self, since_ms: u64) -> Result<(u64, u64), StoreError> {
        self.run(move |t| {
            let counted: (i64, i64) = t.query_row(
                "SELECT count(CASE WHEN seen_ms < ?1 THEN 1 END), count(*) FROM devices WHERE logged_in = 1",
                params![as_i64(since_ms)],
                |r| Ok((r.get(0)?, r.get(1)?)),
            )?;
            Ok((as_u64(counted.0), as_u64(counted.1)))
        })
        .await
    }

    /// No device is connected: the gateway's own endpoint has just started. Those that were may be back in a moment.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn all_offline(&self, now_ms: u64) -> Result<(), StoreError> {
        self.run_alone(move |t| {
            let connected: Vec<(String, String, DeviceId)> = t
                .prepare_cached("SELECT app, user, device FROM devices WHERE online = 1")?
                .query_map(params![], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
                .collect::<Result<_, _>>()?;
            let restarted = |(app, user, device): (String, String, DeviceId)| {
                Ok((address(&app, &user, &device)?, Presence::Restarted))
            };
            let restarted = connected.into_iter().map(restarted).collect::<Result<_, StoreError>>()?;
            presence::apply_all(t, restarted, now_ms)
        })
        .await
    }
}
