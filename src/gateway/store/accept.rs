//! A message's first step: stored, and decided for each of its receiver's devices.

use super::known::Known;
use super::ready::{Due, VendorJob, ready, usable};
use super::room::Room;
use super::sql::{OptionalExtension as _, Transaction, params};
use super::traces::note;
use super::{Store, StoreError, address, as_i64, users};
use crate::gateway::delivery::{Hop, Presence, Rules, State};
use crate::gateway::policy::{ONLINE_ONLY, Stop};
use crate::ids::MessageId;
use crate::protocol::{Address, Message};
use std::sync::Arc;

/// A message to accept.
#[derive(Debug, Clone)]
pub struct NewMessage {
    pub app: String,
    pub message: Arc<Message>,
    pub expires_ms: u64,
    pub idempotency: Option<String>,
}

/// What accepting a message led to.
#[derive(Debug)]
pub struct Accepted {
    pub id: MessageId,
    /// Devices to publish to now.
    pub live: Vec<Address>,
    /// Vendor sends that are claimed with it.
    pub jobs: Vec<VendorJob>,
    /// More vendor sends are due than could be claimed.
    pub more: bool,
}

impl Accepted {
    fn new(id: MessageId) -> Self {
        Self { id, live: Vec::new(), jobs: Vec::new(), more: false }
    }
}

impl Store {
    /// Stores messages and decides each device's first step: all of them or none. The answer means they
    /// will not be lost. Claims up to `most` of the vendor sends at once, under the same lease as
    /// [`Self::claim`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn accept(
        &self,
        messages: Vec<NewMessage>,
        rules: Rules,
        most: usize,
        now_ms: u64,
    ) -> Result<Vec<Accepted>, StoreError> {
        let (room, known) = (self.room.clone(), self.known.clone());
        self.run(move |t| {
            let mut accepting = Accepting { t, room: &room, known: &known, rules, now_ms, most };
            messages.into_iter().map(|new| accepting.accept(&new)).collect()
        })
        .await
    }
}

/// Messages that are accepted together.
struct Accepting<'a, 't> {
    t: &'a Transaction<'t>,
    room: &'a Room,
    known: &'a Known,
    rules: Rules,
    now_ms: u64,
    /// Vendor sends that may still be claimed.
    most: usize,
}

impl Accepting<'_, '_> {
    fn accept(&mut self, new: &NewMessage) -> Result<Accepted, StoreError> {
        let (t, now_ms) = (self.t, self.now_ms);
        let NewMessage { app, message, expires_ms, idempotency } = new;
        let (id, user) = (&message.id, &message.to);
        let body = serde_json::to_string(&**message).map_err(|e| StoreError::Corrupt(e.to_string()))?;
        let new_here = t
            .prepare_cached(
                "INSERT OR IGNORE INTO messages (id, app, user, message, accepted_ms, expires_ms, idempotency) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![id, app, user, body, as_i64(now_ms), as_i64(*expires_ms), idempotency])?;
        if new_here == 0 {
            let known = t
                .prepare_cached("SELECT id FROM messages WHERE app = ?1 AND user = ?2 AND idempotency = ?3")?
                .query_row(params![app, user, idempotency], |r| r.get(0))
                .optional()?;
            let id = known.ok_or_else(|| StoreError::Corrupt(format!("the message id {id} is taken")))?;
            return Ok(Accepted::new(id));
        }
        let mut found = devices(t, app, user)?;
        let mut known = true;
        if found.is_empty() {
            // One that comes in at this moment through another gateway is either seen now, or sees this.
            known = users::hold(t, app, user, false)?;
            found = devices(t, app, user)?;
        }
        let mut accepted = Accepted::new(id.clone());
        let online_only = message.ext[ONLINE_ONLY] == true;
        if found.is_empty() {
            note(t, id, "", now_ms, Hop::Stopped, if known { Stop::NoBinding } else { Stop::NoSuchUser }.text())?;
            if !known || !online_only {
                wait_for_a_device(t, self.room, id, app, user, self.rules, now_ms)?;
            }
        }
        for Receiver { device, online, nonce, attached } in found {
            let address = address(app, user, &device)?;
            let bound = online && !attached && usable(t, self.known, &address)?;
            let lingers = Presence { connected: online, attached, bound }.lingers();
            if lingers && !online_only && self.vendor(new, &device, &mut accepted)?.is_none() {
                note(t, id, &device, now_ms, Hop::Published, "to the connection and the vendor; no app is attached")?;
                accepted.live.push(address.clone());
                evict(t, self.room, (app, user, &device), self.rules.keep_most, now_ms)?;
            } else if online {
                self.insert(new, &device, State::Live, &nonce, 0, Some(now_ms + self.rules.ack_deadline_ms))?;
                note(t, id, &device, now_ms, Hop::Published, "to the connection")?;
                accepted.live.push(address.clone());
                evict(t, self.room, (app, user, &device), self.rules.keep_most, now_ms)?;
            } else if online_only {
                note(t, id, &device, now_ms, Hop::Stopped, Stop::OnlineOnly.text())?;
            } else {
                self.offline(new, &device, &mut accepted)?;
                evict(t, self.room, (app, user, &device), self.rules.keep_most, now_ms)?;
            }
        }
        Ok(accepted)
    }

    /// To a device that is not connected: its vendor's turn, at once where a send may be claimed.
    fn offline(&mut self, new: &NewMessage, device: &str, accepted: &mut Accepted) -> Result<(), StoreError> {
        match self.vendor(new, device, accepted)? {
            None => Ok(()),
            Some(_) => self.insert(new, device, State::Waiting, "", 0, None),
        }
    }

    /// The vendor's turn, or why it has none; then nothing stands in the store yet.
    fn vendor(&mut self, new: &NewMessage, device: &str, accepted: &mut Accepted) -> Result<Option<Stop>, StoreError> {
        let now_ms = self.now_ms;
        if self.most == 0 {
            accepted.more = true;
            self.insert(new, device, State::Vendor, "", 0, Some(now_ms))?;
            return Ok(None);
        }
        let NewMessage { app, message, expires_ms, .. } = new;
        let address = address(app, &message.to, device)?;
        let due = Due { address, message: message.clone(), attempts: 0, accepted_ms: now_ms, expires_ms: *expires_ms };
        match ready(self.t, self.known, due, self.rules, now_ms)? {
            Ok(mut job) => {
                // It was not there when they were counted.
                job.setting.waiting += 1;
                self.most -= 1;
                accepted.jobs.push(job);
                self.insert(new, device, State::Vendor, "", 1, Some(now_ms + self.rules.lease_ms))?;
                Ok(None)
            }
            Err(stop) => {
                note(self.t, &message.id, device, now_ms, Hop::Stopped, stop.text())?;
                Ok(Some(stop))
            }
        }
    }

    fn insert(
        &self,
        new: &NewMessage,
        device: &str,
        state: State,
        nonce: &str,
        attempts: u32,
        due_ms: Option<u64>,
    ) -> Result<(), StoreError> {
        let NewMessage { app, message, .. } = new;
        let due = due_ms.map(as_i64);
        self.t
            .prepare_cached(
                "INSERT INTO deliveries (message, app, user, device, state, nonce, attempts, due_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![message.id, app, message.to, device, state.as_str(), nonce, attempts, due])?;
        Ok(())
    }
}

/// A device the user is logged in on.
struct Receiver {
    device: String,
    online: bool,
    /// The connection it is or was last on.
    nonce: String,
    attached: bool,
}

fn devices(t: &Transaction<'_>, app: &str, user: &str) -> Result<Vec<Receiver>, StoreError> {
    t.prepare_cached(
        "SELECT device, online, nonce, attached FROM devices WHERE app = ?1 AND user = ?2 AND logged_in = 1 /* share */",
    )?
    .query_map(params![app, user], |r| {
        Ok(Receiver { device: r.get(0)?, online: r.get(1)?, nonce: r.get(2)?, attached: r.get(3)? })
    })?
    .collect()
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
        .execute(params![message, app, user])?;
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
            "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE app = ?1 AND user = ?2 AND device = ?3 AND open = 1
             LIMIT (?4 + 0)) AS w",
        )?
        .query_row(params![app, user, device, keep_most.saturating_add(1)], |r| r.get(0))?;
    if waiting <= keep_most {
        room.counted(app, user, device, keep_most - waiting);
        return Ok(());
    }
    let oldest: Vec<String> = t
        .prepare_cached(
            // An id begins with its moment.
            "SELECT message FROM deliveries WHERE app = ?1 AND user = ?2 AND device = ?3 AND open = 1
             ORDER BY message DESC LIMIT 1000 OFFSET (?4 + 0)",
        )?
        .query_map(params![app, user, device, keep_most - keep_most / 10], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    for id in oldest {
        let gone = t
            .prepare_cached(
                "UPDATE deliveries SET state = 'done', open = NULL, nonce = '', due_ms = NULL
                 WHERE message = ?1 AND device = ?2 AND state IN ('pushed', 'waiting')",
            )?
            .execute([id.as_str(), device])?;
        if gone > 0 {
            let why = format!("more than {keep_most} messages waited for this device");
            note(t, &id, device, now_ms, Hop::Evicted, &why)?;
        }
    }
    room.counted(app, user, device, keep_most / 10);
    Ok(())
}
