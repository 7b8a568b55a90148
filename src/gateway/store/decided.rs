//! A device's pairs: which of them something happens to, what is decided of each, and what follows written.

use super::pairs::{self, Pairs, Place, Recall, columns};
use super::sql::{Transaction, params};
use super::{StoreError, as_i64};
use crate::delivery::{Device, Event, Pair, Rules, Standing, step};
use crate::ids::{MessageId, Nonce};
use crate::protocol::Message;

/// Messages under way to a device that are not acknowledged. A broker may lose an acknowledgement, so the next
/// ones do not wait for the last: half of these are enough.
pub(super) const WINDOW: u32 = 500;

/// A device, and what is decided of the pairs that are its.
pub(super) struct Of<'a, 't> {
    pub t: &'a Transaction<'t>,
    pub place: Place<'a>,
    pub device: Device,
    pub bound: bool,
    pub rules: Rules,
    pub now_ms: u64,
}

/// What was decided of several pairs.
#[derive(Debug, Default)]
pub(super) struct Each {
    pub recalls: Vec<Recall>,
    /// More may be under way to the device than before.
    pub makes_room: bool,
}

impl<'a> Of<'a, '_> {
    /// Decides on a pair and writes what follows. When the message came and goes matters only to the vendor's turn.
    pub fn step(&self, id: &MessageId, pair: &Pair, event: Event<'_>) -> Result<Option<Recall>, StoreError> {
        self.moved(id, pair, event).map(|(_, recall)| recall)
    }

    /// The same, with what the pair is now.
    fn moved(&self, id: &MessageId, pair: &Pair, event: Event<'_>) -> Result<(Pair, Option<Recall>), StoreError> {
        let (device, bound) = (self.device.clone(), self.bound);
        let (pair, accepted_ms, expires_ms) = (pair.clone(), 0, u64::MAX);
        let standing = Standing { pair, device, bound, broker: true, accepted_ms, expires_ms, online_only: false };
        let step = step(&standing, event, &self.rules, self.now_ms);
        let recall = pairs::put(self.t, self.place, id, &standing.pair, &step, self.now_ms)?;
        Ok((step.pair, recall))
    }

    /// The same for several that are stored; those that are not are passed over.
    pub fn each<'e>(
        &self,
        pairs: &mut Pairs<'a>,
        ids: &'a [MessageId],
        event: impl Fn(&MessageId) -> Event<'e>,
    ) -> Result<Each, StoreError> {
        let mut each = Each { makes_room: ids.is_empty(), ..Each::default() };
        for id in ids {
            let pair = pairs.get(self.place, id);
            // Its acknowledgement has looked already.
            each.makes_room |= pair.is_none_or(|p| p.acked_ms.is_none() || p.under_way.is_some());
            if let Some(pair) = pair {
                let (pair, recall) = self.moved(id, pair, event(id))?;
                each.recalls.extend(recall);
                pairs.moved(self.place, id, pair);
            }
        }
        Ok(each)
    }

    /// The same of one.
    pub fn only(&self, id: &MessageId, event: Event<'_>) -> Result<(), StoreError> {
        let pair = pairs::load(self.t, self.place, id)?;
        pair.map_or(Ok(()), |pair| self.step(id, &pair, event).map(drop))
    }

    /// What waits for the device, oldest first, sent over this connection; without what is under way to the
    /// connection `but`, and without what lies on the disk of its login.
    pub fn drain(&self, nonce: &Nonce, but: &str, most: u32) -> Result<Vec<Message>, StoreError> {
        let Place { app, user, device } = self.place;
        let rows: Vec<(MessageId, String, Pair)> = self
            .t
            .prepare_cached(concat!(
                "SELECT m.id, m.message, ",
                columns!(),
                " FROM deliveries d JOIN messages m ON m.id = d.message
                 WHERE d.app = ?1 AND d.user = ?2 AND d.device = ?3 AND d.open IN (1, 2) AND m.expires_ms > ?4
                 AND (d.nonce <> ?6 OR ?6 = '') AND (d.acked_by IS NULL OR d.acked_by <> ?7)
                 ORDER BY m.accepted_ms, m.id LIMIT ?5"
            ))?
            .query_map(params![app, user, device, as_i64(self.now_ms), most, but, self.device.login], |r| {
                Ok((r.get(0)?, r.get(1)?, pairs::read(r, 2)?))
            })?
            .collect::<Result<_, _>>()?;
        let mut messages = Vec::new();
        for (id, body, pair) in rows {
            let Ok(mut message) = serde_json::from_str::<Message>(&body) else {
                self.step(&id, &pair, Event::Unreadable)?;
                continue;
            };
            message.offline = true;
            self.step(&id, &pair, Event::Sent { nonce: nonce.clone() })?;
            messages.push(message);
        }
        Ok(messages)
    }

    /// What the device is sent next, once it has most of what it was sent.
    pub fn more(&self) -> Result<Vec<Message>, StoreError> {
        let Place { app, user, device } = self.place;
        let Some(nonce) = self.device.connection() else { return Ok(Vec::new()) };
        let under_way: u32 = self
            .t
            .prepare_cached(
                "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE app = ?1 AND user = ?2 AND device = ?3 AND open = 1
                 AND acked_by IS NULL AND nonce = ?4 LIMIT ?5) AS u",
            )?
            .query_row(params![app, user, device, nonce, WINDOW], |r| r.get(0))?;
        match WINDOW - under_way {
            room if room >= WINDOW / 2 => self.drain(nonce, nonce, room),
            _ => Ok(Vec::new()),
        }
    }

    /// What was published to this connection will not be acknowledged. Returns how much it was.
    pub fn lost(&self, nonce: &Nonce, why: &'static str) -> Result<usize, StoreError> {
        let Place { app, user, device } = self.place;
        let under_way: Vec<(MessageId, Pair)> = self
            .t
            .prepare_cached(concat!(
                "SELECT d.message, ",
                columns!(),
                " FROM deliveries d WHERE d.app = ?1 AND d.user = ?2 AND d.device = ?3 AND d.open = 1
                 AND d.acked_by IS NULL AND d.nonce = ?4"
            ))?
            .query_map(params![app, user, device, nonce], |r| Ok((r.get(0)?, pairs::read(r, 1)?)))?
            .collect::<Result<_, _>>()?;
        for (id, pair) in &under_way {
            self.step(id, pair, Event::Lost { why })?;
        }
        Ok(under_way.len())
    }

    /// Everything that is not done, decided on by the same event. Returns the notifications to take back.
    pub fn all<'e>(&self, event: impl Fn() -> Event<'e>) -> Result<Vec<Recall>, StoreError> {
        let Place { app, user, device } = self.place;
        let open: Vec<(MessageId, Pair)> = self
            .t
            .prepare_cached(concat!(
                "SELECT d.message, ",
                columns!(),
                " FROM deliveries d WHERE d.app = ?1 AND d.user = ?2 AND d.device = ?3 AND d.open IN (1, 2)"
            ))?
            .query_map(params![app, user, device], |r| Ok((r.get(0)?, pairs::read(r, 1)?)))?
            .collect::<Result<_, _>>()?;
        let mut recalls = Vec::new();
        for (id, pair) in &open {
            recalls.extend(self.step(id, pair, event())?);
        }
        Ok(recalls)
    }

    /// What waited for the user's first device, or, on a new one, what no device of the user has: it may be the
    /// user's old one, wiped.
    pub fn adopt(&self, new: bool) -> Result<(), StoreError> {
        let Place { app, user, device } = self.place;
        let mut waiting: Vec<MessageId> = self
            .t
            .prepare_cached("SELECT message FROM deliveries WHERE app = ?1 AND user = ?2 AND device = '' AND open = 1")?
            .query_map(params![app, user], |r| r.get(0))?
            .collect::<Result<_, _>>()?;
        let waited = !waiting.is_empty();
        if new {
            let elsewhere: Vec<MessageId> = self
                .t
                .prepare_cached(
                    "SELECT DISTINCT d.message FROM deliveries d WHERE d.app = ?1 AND d.user = ?2 AND d.device <> ?3 AND d.device <> '' AND d.open = 1
                     AND NOT EXISTS (SELECT 1 FROM deliveries o WHERE o.message = d.message
                                     AND (o.acked_ms IS NOT NULL OR o.taken_ms IS NOT NULL OR o.nonce <> ''))
                     ORDER BY d.message DESC LIMIT ?4",
                )?
                .query_map(params![app, user, device, self.rules.keep_most], |r| r.get(0))?
                .collect::<Result<_, _>>()?;
            waiting.extend(elsewhere);
        }
        for id in &waiting {
            self.step(id, &Pair::new(), Event::Adopted)?;
        }
        if waited {
            self.t
                .prepare_cached("DELETE FROM deliveries WHERE app = ?1 AND user = ?2 AND device = '' AND open = 1")?
                .execute(params![app, user])?;
        }
        Ok(())
    }
}
