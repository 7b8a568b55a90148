//! What devices have: messages that are acknowledged, and those that an app has taken.

use super::bindings::{self, Newest, is_usable};
use super::decided::Of;
use super::known::Known;
use super::pairs::{Pairs, Place, Recall};
use super::presence;
use super::sql::Transaction;
use super::together::Together;
use super::{Store, StoreError, Work, flow, whose};
use crate::delivery::presence::Event as Presence;
use crate::delivery::{Device, Event, Rules};
use crate::ids::MessageId;
use crate::protocol::{Address, Message};

/// What an acknowledgement led to.
#[derive(Debug, Clone, PartialEq)]
pub struct Acked {
    /// What the device is sent next.
    pub more: Vec<Message>,
    pub recalls: Vec<Recall>,
}

/// What a device says of messages.
pub(super) enum Word {
    /// They are on its disk. Whether an app is attached, where it says so.
    Acked { attached: Option<bool> },
    /// A local app has them; these it was woken for.
    Taken { woke: Vec<MessageId> },
}

/// A device has messages.
pub(super) struct Had {
    address: Address,
    ids: Vec<MessageId>,
    word: Word,
    known: Known,
    rules: Rules,
    now_ms: u64,
}

impl Had {
    fn heard(&self) -> Presence {
        match self.word {
            Word::Acked { attached: Some(attached) } => Presence::Attached(attached),
            _ => Presence::Heard,
        }
    }

    fn event(&self, id: &MessageId) -> Event<'static> {
        match &self.word {
            Word::Acked { attached } => Event::Acked { attached: *attached },
            Word::Taken { woke } => Event::Taken { woke: woke.contains(id) },
        }
    }

    /// Whether the device's binding decides on what it has.
    const fn binding_decides(&self) -> bool {
        matches!(self.word, Word::Acked { attached: Some(_) })
    }

    fn of<'a, 't>(
        &'a self,
        t: &'a Transaction<'t>,
        device: Device,
        newest: Option<&Newest>,
    ) -> Result<Of<'a, 't>, StoreError> {
        let newest = newest.filter(|_| self.binding_decides());
        let bound = newest.map_or(Ok(false), |newest| is_usable(t, &self.known, &self.address, newest))?;
        Ok(Of { t, place: (&self.address).into(), device, bound, rules: self.rules, now_ms: self.now_ms })
    }
}

impl Together for Had {
    type Done = Acked;

    fn weight(&self) -> usize {
        self.ids.len()
    }

    fn carry_out(t: &Transaction<'_>, jobs: &[Self]) -> Result<Vec<Acked>, StoreError> {
        let mut devices = presence::load_all(t, jobs.iter().map(|had| &had.address))?;
        let bound = jobs.iter().filter(|had| had.binding_decides()).map(|had| &had.address);
        let bindings = bindings::of_all(t, bound)?;
        // What is decided of devices may change deliveries, so those are loaded after it.
        let mut heard = Vec::with_capacity(jobs.len());
        for had in jobs {
            let device = devices.entry(&had.address).or_default();
            *device = presence::decide(t, &had.address, device, had.heard(), had.now_ms)?.device;
            heard.push(had.of(t, device.clone(), bindings.get(&had.address))?);
        }
        let ids = jobs.iter().flat_map(|had| had.ids.iter().map(|id| ((&had.address).into(), id)));
        let mut pairs = Pairs::load(t, ids)?;
        let mut done = Vec::with_capacity(jobs.len());
        let mut may_have_more = Vec::new();
        for (had, of) in jobs.iter().zip(heard) {
            let each = of.each(&mut pairs, &had.ids, |id| had.event(id))?;
            if each.makes_room {
                may_have_more.push((done.len(), of));
            }
            done.push(Acked { more: Vec::new(), recalls: each.recalls });
        }
        for (job, of) in waiting(t, &may_have_more)? {
            done[*job].more = of.more()?;
        }
        Ok(done)
    }
}

/// Those jobs' devices that something waits for that is not under way.
fn waiting<'j, 'o, 't>(
    t: &Transaction<'_>,
    devices: &'j [(usize, Of<'o, 't>)],
) -> Result<Vec<&'j (usize, Of<'o, 't>)>, StoreError> {
    // One step into the index for each part: neither what is under way nor what lies on the device is walked through.
    macro_rules! any {
        ($such:literal) => {
            concat!(
                "EXISTS (SELECT 1 FROM deliveries d WHERE d.app = u.app AND d.user = u.user AND d.device = u.device
                 AND ",
                $such,
                ")"
            )
        };
    }
    macro_rules! question {
        ($devices:literal, $before:literal, $after:literal) => {
            concat!(
                "SELECT u.place FROM ",
                $devices,
                " WHERE ",
                $before,
                any!("d.open = 1 AND d.acked_by IS NULL AND d.nonce < u.nonce"),
                " OR ",
                any!("d.open = 1 AND d.acked_by IS NULL AND d.nonce > u.nonce"),
                " OR ",
                any!("d.open = 2 AND d.acked_by < u.login"),
                " OR ",
                any!("d.open = 2 AND d.acked_by > u.login"),
                $after
            )
        };
    }
    const ONE: &str =
        question!("(SELECT ?1 AS app, ?2 AS user, ?3 AS device, ?4 AS nonce, ?5 AS login, ?6 AS place) AS u", "", "");
    const ALL: &str = question!(
        "unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS text[]), CAST(?4 AS text[]), CAST(?5 AS text[]),
         CAST(?6 AS bigint[])) AS u (app, user, device, nonce, login, place)",
        // Each step is one into every partition. Mostly nothing is open, which one tells. If it merely existed PostgreSQL would
        // read all that is open, of everybody.
        "CASE WHEN (SELECT d.open FROM deliveries d WHERE d.app = u.app AND d.user = u.user AND d.device = u.device
         AND d.open = 1 LIMIT 1) = 1 THEN ",
        " ELSE FALSE END"
    );
    let connected = devices.iter().filter_map(|device| Some((device, device.1.device.connection()?)));
    let connected: Vec<_> = connected.collect();
    let rows = connected.iter().map(|((_, of), connection)| {
        let Place { app, user, device } = of.place;
        [app, user, device, connection, &of.device.login]
    });
    let found = t.for_rows((ONE, ALL), rows, |_| Ok(()))?;
    Ok(found.into_iter().map(|(place, ())| connected[place].0).collect())
}

impl Store {
    /// These messages are on the device's disk. Once it has most of what it was sent, returns the next that
    /// wait; and the pushes that need not be seen any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn acked(
        &self,
        address: Address,
        ids: Vec<MessageId>,
        attached: Option<bool>,
        rules: Rules,
        now_ms: u64,
    ) -> impl Future<Output = Result<Acked, StoreError>> {
        self.had(address, ids, Word::Acked { attached }, (rules, now_ms))
    }

    /// A local app has these messages. Returns the same as [`Self::acked`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn taken(
        &self,
        address: Address,
        (ids, woke): (Vec<MessageId>, Vec<MessageId>),
        rules: Rules,
        now_ms: u64,
    ) -> impl Future<Output = Result<Acked, StoreError>> {
        self.had(address, ids, Word::Taken { woke }, (rules, now_ms))
    }

    fn had(
        &self,
        address: Address,
        ids: Vec<MessageId>,
        word: Word,
        (rules, now_ms): (Rules, u64),
    ) -> impl Future<Output = Result<Acked, StoreError>> {
        let users = whose(&address.app, &address.user);
        let had = Had { address, ids, word, known: self.known.clone(), rules, now_ms };
        self.ask((flow(&users), users, false), |answer| Work::Had((had, answer)))
    }
}
