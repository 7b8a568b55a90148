//! A message's first step: stored, and decided for each of its receiver's devices.

use super::bindings::is_usable;
use super::ends::evict;
use super::known::Known;
use super::pairs::{self, Place, Recall};
use super::presence::{self, OfUser, Which};
use super::ready::{Due, Turn, VendorJob};
use super::room::Room;
use super::sql::{OptionalExtension as _, Transaction, params};
use super::surroundings::{Surroundings, Wanted};
use super::together::Together;
use super::value::{Bound, Param as _};
use super::{Store, StoreError, Work, address, as_i64, flow, users, whose};
use crate::delivery::policy::{ONLINE_ONLY, Stop};
use crate::delivery::{Act, Device, Event, Hop, Line, Pair, Rules, Standing, State, Step, kept_until, step};
use crate::ids::MessageId;
use crate::protocol::{Address, Message};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A message to accept.
#[derive(Debug, Clone)]
pub struct NewMessage {
    pub app: String,
    pub message: Arc<Message>,
    /// Its [`Message::to_json`].
    pub json: Arc<str>,
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
        let all = jobs.iter().flat_map(|job| job.messages.iter().map(move |new| (job, new)));
        let new: Vec<(&Self, &NewMessage)> =
            all.zip(&new_here).filter_map(|(new, is_new)| is_new.then_some(new)).collect();
        let devices = devices_of(t, new.iter().map(|(_, new)| new.whose()))?;
        let receivers =
            new.iter().flat_map(|(job, new)| found_for(&devices, new).iter().map(move |found| (*job, *new, found)));
        let wanted: Vec<Wanted<'_>> =
            receivers.filter_map(|(job, new, (address, device))| job.wants(new, address, device)).collect();
        let Some(first) = jobs.first() else { return Ok(Vec::new()) };
        let around = Surroundings::look(t, &first.known, &wanted)?;
        let accepted = jobs.iter().map(|job| {
            let mut accepting = Accepting { t, job, around: &around, reach: job.reach };
            let new_here = new_here.drain(..job.messages.len());
            let all = job.messages.iter().zip(new_here).map(|(new, new_here)| match new_here {
                true => accepting.accept(new, found_for(&devices, new)),
                false => known_already(t, new),
            });
            all.collect()
        });
        accepted.collect()
    }
}

impl NewMessage {
    #[cfg(test)]
    pub(super) fn of(app: &str, message: Arc<Message>, expires_ms: u64) -> Self {
        let json = message.to_json().into();
        Self { app: app.to_owned(), message, json, expires_ms, idempotency: None }
    }

    /// App and user of its receiver.
    fn whose(&self) -> (&str, &str) {
        (&self.app, &self.message.to)
    }
}

impl Accept {
    /// Whether the device's binding decides on the first step.
    fn binding_decides(&self, device: &Device) -> bool {
        match device.online {
            true => !device.attached || !self.reach.broker,
            false => device.may_be_back(self.rules.reconnect_grace_ms, self.now_ms),
        }
    }

    /// What is to be known of a device, unless the message goes to its connection alone.
    fn wants<'a>(&self, new: &'a NewMessage, address: &'a Address, device: &Device) -> Option<Wanted<'a>> {
        let may_be_sent = !device.online && self.reach.calls > 0;
        let wanted = Wanted { address, message: &new.message, policy: self.rules.policy, new: true };
        (may_be_sent || self.binding_decides(device)).then_some(wanted)
    }
}

/// Devices of a message's receiver.
fn found_for<'d>(devices: &'d Devices<'_>, new: &'d NewMessage) -> &'d [(Address, Device)] {
    devices.get(&new.whose()).map_or(&[], Vec::as_slice)
}

/// Stores what is not stored yet; which that is.
fn insert(t: &Transaction<'_>, jobs: &[Accept]) -> Result<Vec<bool>, StoreError> {
    macro_rules! columns {
        () => {
            "messages (id, app, user, message, accepted_ms, expires_ms, idempotency)"
        };
    }
    const ONE: &str = concat!("INSERT OR IGNORE INTO ", columns!(), " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)");
    const ALL: &str = concat!(
        "INSERT INTO ",
        columns!(),
        // No index is unique over all days; the user's lock is held.
        " SELECT * FROM unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS text[]), CAST(?4 AS text[]),
         CAST(?5 AS bigint[]), CAST(?6 AS bigint[]), CAST(?7 AS text[])) AS u (id, app, user, message, accepted_ms, expires_ms, idempotency)
         WHERE u.idempotency IS NULL OR NOT EXISTS (SELECT 1 FROM messages m WHERE m.app = u.app AND m.user = u.user
         AND m.idempotency = u.idempotency) ON CONFLICT DO NOTHING RETURNING id"
    );
    let all = || jobs.iter().flat_map(|job| job.messages.iter().map(|new| (new, as_i64(job.now_ms))));
    let mut keys = HashSet::new();
    // Two of one key may be of two days.
    let mut first = |new: &NewMessage| {
        let NewMessage { app, message, idempotency, .. } = new;
        idempotency.is_none() || keys.insert((app.clone(), message.to.clone(), idempotency.clone()))
    };
    let rows = all().filter(|(new, _)| first(new)).map(|(new, accepted_ms)| {
        let NewMessage { app, message, json, expires_ms, idempotency } = new;
        let mut row = [&*message.id, app, &*message.to, json].map(Bound::Text).to_vec();
        row.extend([accepted_ms, as_i64(*expires_ms)].map(Bound::Integer));
        row.push(idempotency.bound());
        row
    });
    let mut inserted: HashSet<String> = t.add_rows((ONE, ALL), rows)?.into_iter().collect();
    // One that comes twice is stored once.
    Ok(all().map(|(new, _)| inserted.remove(&*new.message.id)).collect())
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

/// A call's messages, as they are accepted.
struct Accepting<'a, 't> {
    t: &'a Transaction<'t>,
    job: &'a Accept,
    around: &'a Surroundings<'a>,
    /// What is left of it.
    reach: Reach,
}

impl Accepting<'_, '_> {
    fn accept(&mut self, new: &NewMessage, found: &[(Address, Device)]) -> Result<Accepted, StoreError> {
        let mut accepted = Accepted::new(new.message.id.clone());
        if found.is_empty() {
            // The user is held: nobody comes in meanwhile.
            self.to_nobody(new, users::is_known(self.t, &new.app, &new.message.to)?, &mut accepted)?;
        }
        for (address, device) in found {
            self.to(new, address, device.clone(), &mut accepted)?;
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
            Stop::OnlineOnly => step(&standing, Event::Accepted, &self.job.rules, self.job.now_ms),
            _ => step(&standing, Event::Adopted, &self.job.rules, self.job.now_ms),
        };
        if stop != Stop::OnlineOnly {
            let whom = if known { "for the user's next login" } else { "for the user, who is not known yet" };
            step.lines.push(Line::new(Hop::Waiting, format!("{whom}{}", kept_until(new.expires_ms))));
        }
        let Accept { room, rules, now_ms, .. } = self.job;
        pairs::put(self.t, place, &message.id, &standing.pair, &step, *now_ms)?;
        if step.pair.state != State::Done && !room.take(place) {
            accepted.recalls.extend(evict(self.t, room, (place, &device), *rules, *now_ms)?);
        }
        Ok(())
    }

    fn standing(&self, new: &NewMessage, device: Device, bound: bool) -> Standing {
        Standing {
            pair: Pair::new(),
            device,
            bound,
            broker: self.reach.broker,
            accepted_ms: self.job.now_ms,
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
        let Accept { known, room, node, rules, now_ms, .. } = self.job;
        let (t, rules, now_ms) = (self.t, *rules, *now_ms);
        let bound = self.job.binding_decides(&device) && is_usable(t, known, address, self.around.newest(address))?;
        let mut standing = self.standing(new, device, bound);
        let first = step(&standing, Event::Accepted, &rules, now_ms);
        let (mut step, mut lines) = (first, Vec::new());
        if step.act == Act::Publish {
            let at = &standing.device.node;
            if **at == **node {
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
            let waiting = self.around.one_more(address);
            if room.take(address.into()) {
                return Ok(());
            }
            if let Some(left) = waiting.and_then(|waiting| rules.keep_most.checked_sub(waiting)) {
                room.counted(address.into(), left);
                return Ok(());
            }
            accepted.recalls.extend(evict(t, room, (address.into(), &standing.device), rules, now_ms)?);
            self.around.count_again(address);
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
        let Accept { known, rules, now_ms, .. } = self.job;
        let (t, now_ms, address, message) = (self.t, *now_ms, address.clone(), message.clone());
        let due = Due { address, message, attempts: 0, accepted_ms: now_ms, expires_ms: *expires_ms };
        let turn = Turn::look((t, known), self.around, due, *rules, now_ms)?;
        let step = step(standing, Event::Turn { facts: turn.facts(), unanswered: false }, rules, now_ms);
        if step.act == Act::Push
            && let Some(mut job) = turn.job(t, known)?
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
type Devices<'a> = HashMap<(&'a str, &'a str), Vec<(Address, Device)>>;

fn devices_of<'a>(
    t: &Transaction<'_>,
    users: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Devices<'a>, StoreError> {
    let mut wanted: Vec<(&str, &str)> = users.collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut devices = Devices::new();
    for OfUser { place, device, is, .. } in presence::of_users(t, Which::LoggedIn, &wanted)? {
        let (app, user) = wanted[place];
        devices.entry((app, user)).or_default().push((address(app, user, &device)?, is));
    }
    Ok(devices)
}
