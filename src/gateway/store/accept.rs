//! A message's first step: stored, and decided for each of its receiver's devices.

use super::ends::evict;
use super::known::Known;
use super::pairs::{self, Place, Recall};
use super::presence::{self, device_columns};
use super::ready::{Due, Turn, VendorJob, usable};
use super::room::Room;
use super::sql::{OptionalExtension as _, Transaction, params};
use super::together::Together;
use super::value::{Bound, Param as _};
use super::{Store, StoreError, Work, address, as_i64, flow, users, whose};
use crate::delivery::policy::{ONLINE_ONLY, Stop};
use crate::delivery::{Act, Device, Event, Hop, Line, Pair, Rules, Standing, State, Step, kept_until, step};
use crate::ids::{DeviceId, MessageId};
use crate::protocol::{Address, Message};
use std::collections::{HashMap, HashSet};
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
    /// Other gateways that hold connections of such devices.
    pub elsewhere: Vec<String>,
    /// Vendor sends that are claimed with it.
    pub jobs: Vec<VendorJob>,
    /// When something of it comes due that was not claimed.
    pub due_ms: Option<u64>,
    /// Notifications of what had to make room.
    pub recalls: Vec<Recall>,
}

impl Accepted {
    const fn new(id: MessageId) -> Self {
        Self { id, live: Vec::new(), elsewhere: Vec::new(), jobs: Vec::new(), due_ms: None, recalls: Vec::new() }
    }
}

/// How much may be done with a message at once.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// There is a connection to the broker.
    pub broker: bool,
    /// Vendor sends that may be claimed.
    pub calls: usize,
}

impl Store {
    /// Stores messages and decides each device's first step: all of them or none. The answer means they
    /// will not be lost. Claims vendor sends at once, as many as there are calls, under the same lease as
    /// [`Self::claim`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn accept(
        &self,
        messages: Vec<NewMessage>,
        rules: Rules,
        reach: Reach,
        now_ms: u64,
    ) -> Result<Vec<Accepted>, StoreError> {
        let users: Vec<String> = messages.iter().flat_map(|new| whose(&new.app, &new.message.to)).collect();
        let (room, known, node) = (self.room.clone(), self.known.clone(), self.node().clone());
        let accept = Accept { messages, rules, reach, now_ms, room, known, node };
        self.ask((flow(&users), users, false), |answer| Work::Accept((accept, answer))).await
    }
}

/// Messages of one call.
pub(super) struct Accept {
    messages: Vec<NewMessage>,
    rules: Rules,
    reach: Reach,
    now_ms: u64,
    room: Room,
    known: Known,
    /// This gateway's.
    node: Arc<str>,
}

impl Together for Accept {
    type Done = Vec<Accepted>;

    fn weight(&self) -> usize {
        self.messages.len()
    }

    fn carry_out(t: &Transaction<'_>, jobs: &[Self]) -> Result<Vec<Vec<Accepted>>, StoreError> {
        let mut new_here = insert(t, jobs)?;
        let receivers = jobs.iter().flat_map(|job| &job.messages).zip(&new_here);
        let receivers = receivers.filter(|(_, new_here)| **new_here).map(|(new, _)| (&*new.app, &*new.message.to));
        let devices = devices_of(t, receivers)?;
        let accepted = jobs.iter().map(|job| {
            let Self { room, known, node, rules, now_ms, reach, .. } = job;
            let (rules, now_ms, reach) = (*rules, *now_ms, *reach);
            let mut accepting = Accepting { t, room, known, node, rules, now_ms, reach };
            let new_here = new_here.drain(..job.messages.len());
            let all = job.messages.iter().zip(new_here).map(|(new, new_here)| match new_here {
                true => accepting.accept(new, &devices),
                false => known_already(t, new),
            });
            all.collect()
        });
        accepted.collect()
    }
}

/// Stores what is not stored yet; which that is.
fn insert(t: &Transaction<'_>, jobs: &[Accept]) -> Result<Vec<bool>, StoreError> {
    macro_rules! columns {
        () => {
            "messages (id, app, user, message, accepted_ms, expires_ms, idempotency)"
        };
    }
    const ONE: &str =
        concat!("INSERT OR IGNORE INTO ", columns!(), " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING id");
    const ALL: &str = concat!(
        "INSERT INTO ",
        columns!(),
        " SELECT * FROM unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS text[]), CAST(?4 AS text[]),
         CAST(?5 AS bigint[]), CAST(?6 AS bigint[]), CAST(?7 AS text[])) ON CONFLICT DO NOTHING RETURNING id"
    );
    let all = || jobs.iter().flat_map(|job| job.messages.iter().map(|new| (new, as_i64(job.now_ms))));
    let body = |(new, _): (&NewMessage, _)| serde_json::to_string(&*new.message);
    let bodies: Vec<String> =
        all().map(body).collect::<Result<_, _>>().map_err(|e| StoreError::Corrupt(e.to_string()))?;
    let rows = all().zip(&bodies).map(|((new, accepted_ms), body)| {
        let NewMessage { app, message, expires_ms, idempotency } = new;
        let mut row = [&*message.id, app, &*message.to, body].map(Bound::Text).to_vec();
        row.extend([accepted_ms, as_i64(*expires_ms)].map(Bound::Integer));
        row.push(idempotency.bound());
        row
    });
    let mut inserted: HashSet<MessageId> = t.with_rows((ONE, ALL), rows, |r| r.get(0))?.into_iter().collect();
    // One that comes twice is stored once.
    Ok(all().map(|(new, _)| inserted.remove(&new.message.id)).collect())
}

/// It was accepted before, and the answer was lost.
fn known_already(t: &Transaction<'_>, new: &NewMessage) -> Result<Accepted, StoreError> {
    let NewMessage { app, message, idempotency, .. } = new;
    let (id, user) = (&message.id, &message.to);
    let known = t
        .prepare_cached("SELECT id FROM messages WHERE app = ?1 AND user = ?2 AND (id = ?3 OR idempotency = ?4)")?
        .query_row(params![app, user, id, idempotency], |r| r.get(0))
        .optional()?;
    let id = known.ok_or_else(|| StoreError::Corrupt(format!("the message id {id} is taken")))?;
    if t.is_shared() {
        // It was found, and a standby may not have it: the commit of a write waits until it has both.
        let sql = "UPDATE messages SET accepted_ms = accepted_ms WHERE id = ?1";
        t.prepare_cached(sql)?.execute(params![id])?;
    }
    Ok(Accepted::new(id))
}

/// Messages that are accepted together.
struct Accepting<'a, 't> {
    t: &'a Transaction<'t>,
    room: &'a Room,
    known: &'a Known,
    /// This gateway's.
    node: &'a str,
    rules: Rules,
    now_ms: u64,
    reach: Reach,
}

impl Accepting<'_, '_> {
    fn accept(&mut self, new: &NewMessage, devices: &Devices<'_>) -> Result<Accepted, StoreError> {
        let NewMessage { app, message, .. } = new;
        let user = &message.to;
        let mut known = true;
        let late;
        let mut found = devices.get(&(&**app, &**user)).map_or(&[][..], Vec::as_slice);
        if found.is_empty() {
            // One that comes in at this moment through another gateway is either seen now, or sees this.
            known = users::hold(self.t, app, user, false)?;
            late = devices_of(self.t, std::iter::once((&**app, &**user)))?.into_values().next().unwrap_or_default();
            found = &late;
        }
        let mut accepted = Accepted::new(message.id.clone());
        if found.is_empty() {
            self.to_nobody(new, known, &mut accepted)?;
        }
        for (device_id, device) in found {
            self.to(new, &address(app, user, device_id)?, device.clone(), &mut accepted)?;
        }
        Ok(accepted)
    }

    /// The user has no device: it waits for the first.
    fn to_nobody(&self, new: &NewMessage, known: bool, accepted: &mut Accepted) -> Result<(), StoreError> {
        let NewMessage { app, message, .. } = new;
        let place = Place { app, user: &message.to, device: "" };
        let stop = match known {
            _ if message.ext[ONLINE_ONLY] == true => Stop::OnlineOnly,
            true => Stop::NoBinding,
            false => Stop::NoSuchUser,
        };
        let device = Device::default();
        let standing = self.standing(new, device.clone(), false);
        let mut step = match stop {
            Stop::OnlineOnly => step(&standing, Event::Accepted, &self.rules, self.now_ms),
            _ => step(&standing, Event::Adopted, &self.rules, self.now_ms),
        };
        if stop != Stop::OnlineOnly {
            let whom = if known { "for the user's next login" } else { "for the user, who is not known yet" };
            step.lines.push(Line::new(Hop::Waiting, format!("{whom}{}", kept_until(new.expires_ms))));
        }
        pairs::put(self.t, place, &message.id, &standing.pair, &step, self.now_ms)?;
        if step.pair.state != State::Done {
            accepted.recalls.extend(evict(self.t, self.room, (place, &device), self.rules, self.now_ms)?);
        }
        Ok(())
    }

    fn standing(&self, new: &NewMessage, device: Device, bound: bool) -> Standing {
        Standing {
            pair: Pair::new(),
            device,
            bound,
            broker: self.reach.broker,
            accepted_ms: self.now_ms,
            expires_ms: new.expires_ms,
            online_only: new.message.ext[ONLINE_ONLY] == true,
        }
    }

    fn to(
        &mut self,
        new: &NewMessage,
        address: &Address,
        device: Device,
        accepted: &mut Accepted,
    ) -> Result<(), StoreError> {
        let (t, now_ms) = (self.t, self.now_ms);
        // It is looked up only where it decides.
        let decides = match device.online {
            true => !device.attached || !self.reach.broker,
            false => device.may_be_back(self.rules.reconnect_grace_ms, now_ms),
        };
        let bound = decides && usable(t, self.known, address)?;
        let mut standing = self.standing(new, device, bound);
        let first = step(&standing, Event::Accepted, &self.rules, now_ms);
        let (mut step, mut lines) = (first, Vec::new());
        if step.act == Act::Publish {
            let at = &standing.device.node;
            if at == self.node {
                accepted.live.push(address.clone());
            } else if !accepted.elsewhere.contains(at) {
                accepted.elsewhere.push(at.clone());
            }
        }
        let is_due = step.pair.due_ms.is_some_and(|due_ms| due_ms <= now_ms);
        if step.pair.state == State::Vendor && is_due && self.reach.calls > 0 {
            lines = std::mem::take(&mut step.lines);
            standing.pair = step.pair;
            step = self.turn(new, address, &standing, accepted)?;
        }
        step.lines.splice(0..0, lines);
        let due_ms = step.pair.due_ms.filter(|_| step.act != Act::Push);
        accepted.due_ms = [accepted.due_ms, due_ms].into_iter().flatten().min();
        pairs::put(t, address.into(), &new.message.id, &Pair::new(), &step, now_ms)?;
        if step.pair.state != State::Done {
            let evicted = evict(t, self.room, (address.into(), &standing.device), self.rules, now_ms)?;
            accepted.recalls.extend(evicted);
        }
        Ok(())
    }

    /// The vendor's turn, at once.
    fn turn(
        &mut self,
        new: &NewMessage,
        address: &Address,
        standing: &Standing,
        accepted: &mut Accepted,
    ) -> Result<Step, StoreError> {
        let NewMessage { message, expires_ms, .. } = new;
        let (t, now_ms, address, message) = (self.t, self.now_ms, address.clone(), message.clone());
        let due = Due { address, message, attempts: 0, accepted_ms: now_ms, expires_ms: *expires_ms };
        let turn = Turn::look(t, self.known, due, self.rules, now_ms)?;
        let step = step(standing, Event::Turn { facts: turn.facts(), unanswered: false }, &self.rules, now_ms);
        if step.act == Act::Push
            && let Some(mut job) = turn.job(t, self.known)?
        {
            // It was not there when they were counted.
            job.setting.waiting += 1;
            self.reach.calls -= 1;
            accepted.jobs.push(job);
        }
        Ok(step)
    }
}

/// The devices that users are logged in on, by app and user.
type Devices<'a> = HashMap<(&'a str, &'a str), Vec<(DeviceId, Device)>>;

fn devices_of<'a>(
    t: &Transaction<'_>,
    users: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Devices<'a>, StoreError> {
    const ONE: &str = concat!(
        "SELECT v.device, ",
        device_columns!(),
        ", ?3 FROM devices v WHERE v.app = ?1 AND v.user = ?2 AND v.logged_in = 1"
    );
    const ALL: &str = concat!(
        "SELECT v.device, ",
        device_columns!(),
        ", u.place FROM unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS bigint[])) AS u (app, user, place)
         JOIN devices v ON v.app = u.app AND v.user = u.user WHERE v.logged_in = 1 /* share */"
    );
    let mut wanted: Vec<(&str, &str)> = users.collect();
    wanted.sort_unstable();
    wanted.dedup();
    let rows = wanted.iter().map(|(app, user)| [*app, user]);
    let mut devices = Devices::new();
    for (place, device) in t.for_rows((ONE, ALL), rows, |r| Ok((r.get(0)?, presence::read(r, 1)?)))? {
        devices.entry(wanted[place]).or_default().push(device);
    }
    Ok(devices)
}
