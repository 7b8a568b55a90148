//! Messages on their way: accepting, publishing, acknowledgements, and what waits for a device.

use super::room::Room;
use super::sql::{OptionalExtension as _, Transaction, params};
use super::traces::note;
use super::{Kick, Recall, Store, StoreError, Welcome, as_i64, devices, kicks};
use crate::gateway::delivery::{Hop, State};
use crate::gateway::policy::{MultiDevice, ONLINE_ONLY, Stop};
use crate::protocol::{Address, Hello, KickCode, Message};

/// Messages a device is sent after one hello; it asks again when it has taken them.
const DRAIN: u32 = 500;

/// A message to accept.
#[derive(Debug, Clone)]
pub struct NewMessage {
    pub app: String,
    pub message: Message,
    pub expires_ms: u64,
    pub idempotency: Option<String>,
}

/// What accepting a message led to.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    pub id: String,
    /// Devices to publish to now.
    pub live: Vec<Address>,
}

/// What an acknowledgement led to.
#[derive(Debug, Clone, PartialEq)]
pub struct Acked {
    /// What the device is sent next.
    pub more: Vec<Message>,
    pub recalls: Vec<Recall>,
}

/// Settings the decisions need.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub ack_deadline_ms: u64,
    pub push_life_s: u64,
    /// Seconds a message waits for its devices.
    pub keep_s: u64,
    /// Messages kept for one device; more evict the oldest.
    pub keep_most: u32,
    /// A vendor send claimed by a gateway that then died is taken over after this: longer than any send
    /// can take.
    pub lease_ms: u64,
    pub policy: MultiDevice,
}

pub(super) fn set_state(
    t: &Transaction<'_>,
    message: &str,
    device: &str,
    state: State,
    nonce: &str,
    due_ms: Option<u64>,
) -> Result<(), StoreError> {
    t.prepare_cached("UPDATE deliveries SET state = ?3, nonce = ?4, due_ms = ?5 WHERE message = ?1 AND device = ?2")?
        .execute(params![message, device, state.as_str(), nonce, due_ms.map(as_i64)])?;
    Ok(())
}

impl Store {
    /// Stores messages and decides each device's first step: all of them or none. The answer means they
    /// will not be lost.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn accept(
        &self,
        messages: Vec<NewMessage>,
        rules: Rules,
        now_ms: u64,
    ) -> Result<Vec<Accepted>, StoreError> {
        let room = self.room.clone();
        self.run(move |t| messages.into_iter().map(|new| accept(t, &room, new, rules, now_ms)).collect()).await
    }

    /// A device connected: notes the connection and returns what it missed, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn hello(
        &self,
        address: Address,
        hello: Hello,
        rules: Rules,
        now_ms: u64,
    ) -> Result<Welcome, StoreError> {
        self.run(move |t| {
            if !devices::ensure(t, &address)? {
                return Ok(Welcome::Out(Kick { address, code: KickCode::TooManyDevices, by: None }));
            }
            let kicked = match kicks::admit(t, &address, &hello, now_ms)? {
                Ok(kicked) => kicked,
                Err(out) => return Ok(Welcome::Out(out)),
            };
            let Address { app, user, device } = &address;
            t.execute(
                "UPDATE devices SET logged_in = 1, online = 1, nonce = ?4, connection = connection + CASE WHEN nonce <> ?4 THEN 1 ELSE 0 END, channel = ?5,
                 platform = ?6, model = ?7, agent = ?8, seen_ms = ?9 WHERE app = ?1 AND user = ?2 AND device = ?3",
                params![app, user, device, hello.nonce, hello.channel, hello.platform, hello.model, hello.agent, as_i64(now_ms)],
            )?;
            // Messages that no device existed for when they were accepted.
            t.prepare_cached(
                "INSERT OR IGNORE INTO deliveries (message, app, user, device, state)
                 SELECT message, app, user, ?3, state FROM deliveries
                 WHERE app = ?1 AND user = ?2 AND device = '' AND state <> 'done'",
            )?
            .execute([app, user, device])?;
            t.prepare_cached("DELETE FROM deliveries WHERE app = ?1 AND user = ?2 AND device = '' AND state <> 'done'")?
                .execute([app, user])?;
            let missed = drain(t, &address, &hello.nonce, rules, now_ms)?;
            Ok(Welcome::In { missed, kicked })
        })
        .await
    }

    /// A connection ended. Only the current one's end counts: such notices come late and out of order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn went_offline(&self, address: Address, nonce: String, now_ms: u64) -> Result<bool, StoreError> {
        self.run(move |t| {
            let Address { app, user, device } = &address;
            let changed = t.execute(
                "UPDATE devices SET online = 0, seen_ms = ?5 WHERE app = ?1 AND user = ?2 AND device = ?3 AND nonce = ?4 AND online = 1",
                params![app, user, device, nonce, as_i64(now_ms)],
            )?;
            if changed == 0 {
                return Ok(false);
            }
            let live: Vec<String> = t
                .prepare_cached("SELECT message FROM deliveries WHERE app = ?1 AND user = ?2 AND device = ?3 AND state = 'live' AND state <> 'done' AND nonce = ?4")?
                .query_map([app, user, device, &nonce], |r| r.get(0))?
                .collect::<Result<_, _>>()?;
            for id in live {
                set_state(t, &id, device, State::Vendor, "", Some(now_ms))?;
                note(t, &id, device, now_ms, Hop::WentOffline, "the connection ended before an acknowledgement")?;
            }
            Ok(true)
        })
        .await
    }

    /// The device has these messages. Once it has all it was sent, returns the next that wait; and the
    /// pushes that need not be seen any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn acked(
        &self,
        address: Address,
        ids: Vec<String>,
        rules: Rules,
        now_ms: u64,
    ) -> Result<Acked, StoreError> {
        self.run(move |t| {
            let mut recalls = Vec::new();
            for id in ids {
                type Pushed = (String, Option<String>, Option<String>);
                let found: Option<Pushed> = t
                    .prepare_cached(
                        "SELECT state, notifier, vendor_id FROM deliveries WHERE message = ?1 AND device = ?2 AND app = ?3 AND user = ?4",
                    )?
                    .query_row([&id, &address.device, &address.app, &address.user], |r| {
                        Ok((r.get(0)?, r.get(1)?, r.get(2)?))
                    })
                    .optional()?;
                let Some((state, notifier, vendor_id)) = found else { continue };
                let Some(state) = State::parse(&state).filter(|s| *s != State::Done) else { continue };
                if let (State::Pushed, Some(notifier), Some(vendor_id)) = (state, notifier, vendor_id) {
                    recalls.push(Recall { address: address.clone(), message: id.clone(), notifier, vendor_id });
                }
                set_state(t, &id, &address.device, State::Done, "", None)?;
                let detail = if state == State::Pushed { "after the vendor had it" } else { "over the connection" };
                note(t, &id, &address.device, now_ms, Hop::Acked, detail)?;
            }
            let Address { app, user, device } = &address;
            let (online, nonce): (bool, String) = t
                .prepare_cached("SELECT online, nonce FROM devices WHERE app = ?1 AND user = ?2 AND device = ?3")?
                .query_row([app, user, device], |r| Ok((r.get(0)?, r.get(1)?)))
                .optional()?
                .unwrap_or_default();
            let under_way: bool = t
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM deliveries WHERE app = ?1 AND user = ?2 AND device = ?3 AND state IN ('live', 'pushed') AND state <> 'done')")?
                .query_row([app, user, device], |r| r.get(0))?;
            let more = if online && !under_way { drain(t, &address, &nonce, rules, now_ms)? } else { Vec::new() };
            Ok(Acked { more, recalls })
        })
        .await
    }

    /// A person saw or opened a message's notification, by the device's own word.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn seen(&self, address: Address, id: String, event: String, now_ms: u64) -> Result<bool, StoreError> {
        self.run(move |t| {
            let Address { app, user, device } = &address;
            let its_own: bool = t
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM deliveries WHERE message = ?1 AND device = ?2 AND app = ?3 AND user = ?4)",
                )?
                .query_row([&id, device, app, user], |r| r.get(0))?;
            if its_own {
                note(t, &id, device, now_ms, Hop::Receipt, &format!("{event} on the device"))?;
            }
            Ok(its_own)
        })
        .await
    }

    /// A notification was taken back.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn recalled(&self, recall: Recall, said: String, now_ms: u64) -> Result<(), StoreError> {
        self.run(move |t| note(t, &recall.message, &recall.address.device, now_ms, Hop::Recalled, &said)).await
    }

    /// The publish could not even be handed to the broker.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn not_published(
        &self,
        id: String,
        address: Address,
        why: String,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.run(move |t| {
            note(t, &id, &address.device, now_ms, Hop::WentOffline, &why)?;
            t.execute(
                "UPDATE deliveries SET state = 'vendor', due_ms = ?3 WHERE message = ?1 AND device = ?2 AND state = 'live'",
                params![id, address.device, as_i64(now_ms)],
            )?;
            Ok(())
        })
        .await
    }
}

fn accept(
    t: &Transaction<'_>,
    room: &Room,
    new: NewMessage,
    rules: Rules,
    now_ms: u64,
) -> Result<Accepted, StoreError> {
    let NewMessage { app, message, expires_ms, idempotency } = new;
    let user = message.to.clone();
    if let Some(key) = &idempotency {
        let known = t
            .query_row(
                "SELECT id FROM messages WHERE app = ?1 AND user = ?2 AND idempotency = ?3",
                [&app, &user, key],
                |r| r.get(0),
            )
            .optional()?;
        if let Some(id) = known {
            return Ok(Accepted { id, live: Vec::new() });
        }
    }
    let body = serde_json::to_string(&message).map_err(|e| StoreError::Corrupt(e.to_string()))?;
    t.prepare_cached(
        "INSERT INTO messages (id, app, user, message, accepted_ms, expires_ms, idempotency) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![message.id, app, user, body, as_i64(now_ms), as_i64(expires_ms), idempotency])?;
    note(t, &message.id, "", now_ms, Hop::Accepted, &format!("from {}", message.from))?;
    if !super::users::exists(t, &app, &user)? {
        note(t, &message.id, "", now_ms, Hop::Stopped, Stop::NoSuchUser.text())?;
        wait_for_a_device(t, room, &message.id, &app, &user, rules, now_ms)?;
        return Ok(Accepted { id: message.id, live: Vec::new() });
    }
    let found: Vec<(String, bool, String)> = t
        .prepare_cached(
            "SELECT device, online, nonce FROM devices WHERE app = ?1 AND user = ?2 AND logged_in = 1 /* lock */",
        )?
        .query_map([&app, &user], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let online_only = message.ext[ONLINE_ONLY] == true;
    if found.is_empty() {
        note(t, &message.id, "", now_ms, Hop::Stopped, Stop::NoBinding.text())?;
        if !online_only {
            wait_for_a_device(t, room, &message.id, &app, &user, rules, now_ms)?;
        }
    }
    let mut live = Vec::new();
    for (device, online, nonce) in found {
        if online_only && !online {
            note(t, &message.id, &device, now_ms, Hop::Stopped, Stop::OnlineOnly.text())?;
            continue;
        }
        let (state, due) = if online { (State::Live, now_ms + rules.ack_deadline_ms) } else { (State::Vendor, now_ms) };
        t.prepare_cached("INSERT INTO deliveries (message, app, user, device, state, nonce, due_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute(params![message.id, app, user, device, state.as_str(), nonce, as_i64(due)])?;
        if !online {
            evict(t, room, (&app, &user, &device), rules.keep_most, now_ms)?;
        }
        if online {
            note(t, &message.id, &device, now_ms, Hop::Published, "to the connection")?;
            live.push(Address { app: app.clone(), user: user.clone(), device });
        }
    }
    Ok(Accepted { id: message.id, live })
}

/// A message for a user without a device waits for the first that comes.
fn wait_for_a_device(
    t: &Transaction<'_>,
    room: &Room,
    message: &str,
    app: &str,
    user: &str,
    rules: Rules,
    now_ms: u64,
) -> Result<(), StoreError> {
    t.prepare_cached("INSERT INTO deliveries (message, app, user, device, state) VALUES (?1, ?2, ?3, '', 'waiting')")?
        .execute([message, app, user])?;
    evict(t, room, (app, user, ""), rules.keep_most, now_ms)
}

/// Lets the oldest go where more wait for a device than are kept; never one that is still on its way to
/// the device or its vendor. A tenth more goes at once, so that a full device does not pay for each message.
fn evict(
    t: &Transaction<'_>,
    room: &Room,
    (app, user, device): (&str, &str, &str),
    keep_most: u32,
    now_ms: u64,
) -> Result<(), StoreError> {
    if room.take(app, user, device) {
        return Ok(());
    }
    let waiting: u32 = t
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE app = ?1 AND user = ?2 AND device = ?3
             AND state IN ('pushed', 'waiting') AND state <> 'done' LIMIT (?4 + 0)) AS w",
        )?
        .query_row(params![app, user, device, keep_most.saturating_add(1)], |r| r.get(0))?;
    if waiting <= keep_most {
        room.counted(app, user, device, keep_most - waiting);
        return Ok(());
    }
    let oldest: Vec<String> = t
        .prepare_cached(
            // An id begins with its moment.
            "SELECT message FROM deliveries WHERE app = ?1 AND user = ?2 AND device = ?3 AND state IN ('pushed', 'waiting') AND state <> 'done'
             ORDER BY message DESC LIMIT 1000 OFFSET (?4 + 0)",
        )?
        .query_map(params![app, user, device, keep_most - keep_most / 10], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    for id in oldest {
        set_state(t, &id, device, State::Done, "", None)?;
        note(t, &id, device, now_ms, Hop::Evicted, &format!("more than {keep_most} messages waited for this device"))?;
    }
    Ok(())
}

/// What waits for a device, oldest first, marked as published to this connection.
fn drain(
    t: &Transaction<'_>,
    address: &Address,
    nonce: &str,
    rules: Rules,
    now_ms: u64,
) -> Result<Vec<Message>, StoreError> {
    let Address { app, user, device } = address;
    let rows: Vec<(String, String, String)> = t
        .prepare_cached(
            "SELECT d.message, d.state, m.message FROM deliveries d JOIN messages m ON m.id = d.message
             WHERE d.app = ?1 AND d.user = ?2 AND d.device = ?3 AND d.state <> 'done' AND m.expires_ms > ?4
             ORDER BY m.accepted_ms, m.id LIMIT (?5 + 0)",
        )?
        .query_map(params![app, user, device, as_i64(now_ms), DRAIN], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let mut messages = Vec::new();
    for (id, state, body) in rows {
        let Ok(mut message) = serde_json::from_str::<Message>(&body) else {
            set_state(t, &id, device, State::Done, "", None)?;
            note(t, &id, device, now_ms, Hop::Stopped, Stop::InvalidMessage.text())?;
            continue;
        };
        message.offline = true;
        // What the vendor has is not pushed again, whatever becomes of this connection.
        if State::parse(&state) != Some(State::Pushed) {
            set_state(t, &id, device, State::Live, nonce, Some(now_ms + rules.ack_deadline_ms))?;
        }
        note(t, &id, device, now_ms, Hop::Synced, "sent again after the device connected")?;
        messages.push(message);
    }
    Ok(messages)
}
