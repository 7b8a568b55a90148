//! Vendor work: what is overdue, and what is claimed under a lease.

use super::accept::Reach;
use super::bindings::{self, is_usable};
use super::known::Known;
use super::orders::{self, Order};
use super::pairs::{self, WIDTH, columns};
use super::presence::{self, device_columns};
use super::ready::{Due, Turn, VendorJob};
use super::sql::{Transaction, params};
use super::surroundings::{Surroundings, Wanted};
use super::value::{Bound, Param as _};
use super::{Store, StoreError, as_i64, as_u64, whose};
use crate::delivery::{Act, Event, Pair, Rules, Standing, State, Step, step};
use crate::ids::{MessageId, Nonce};
use crate::protocol::{Address, Message};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Pairs looked at in one transaction.
const CLAIM: u32 = 256;

/// What is to be done now.
#[derive(Debug, Default)]
pub struct Claimed {
    pub jobs: Vec<VendorJob>,
    /// To be published to their devices again.
    pub again: Vec<(Address, Arc<Message>)>,
    /// Other gateways that were left the same to do.
    pub elsewhere: BTreeSet<String>,
    /// Connections that owe an acknowledgement.
    pub silent: Vec<(Address, Nonce)>,
}

/// A message that waits for its next try on a device's vendor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub message: MessageId,
    pub address: Address,
    /// The last try. If there is a newer one, it waits no more.
    pub attempt: u32,
}

/// A pair that is due, as stored.
struct Row {
    id: MessageId,
    address: Address,
    body: String,
    standing: Standing,
}

/// Pairs of one state that are due, the longest first; of those that are due at the same moment, as once their vendor
/// serves again, the oldest: an id begins with its moment.
fn due(t: &Transaction<'_>, state: State, broker: bool, most: u32, now_ms: u64) -> Result<Vec<Row>, StoreError> {
    if most == 0 {
        return Ok(Vec::new());
    }
    // They are chosen, and held, before anything is joined to them: else all that is due would be looked up and sorted.
    t.prepare_cached(concat!(
        "SELECT d.app, d.user, d.device, m.message, m.accepted_ms, m.expires_ms, m.id, ",
        columns!(),
        ", ",
        device_columns!(),
        " FROM (SELECT * FROM deliveries d WHERE d.state = ?1 AND d.due_ms <= ?2 ORDER BY d.due_ms, d.message LIMIT ?3 /* claim */) AS d
         JOIN messages m ON m.id = d.message
         LEFT JOIN devices v ON v.app = d.app AND v.user = d.user AND v.device = d.device ORDER BY d.due_ms, d.message"
    ))?
    .query_map(params![state.as_str(), as_i64(now_ms), most], |r| {
        let standing = Standing {
            pair: pairs::read(r, 7)?,
            device: presence::read(r, 7 + WIDTH)?,
            bound: false,
            broker,
            accepted_ms: as_u64(r.get(4)?),
            expires_ms: as_u64(r.get(5)?),
            online_only: false,
        };
        let address = Address { app: r.get(0)?, user: r.get(1)?, device: r.get(2)? };
        Ok(Row { id: r.get(6)?, address, body: r.get(3)?, standing })
    })?
    .collect()
}

/// A claim under way.
struct Claiming<'a, 't> {
    t: &'a Transaction<'t>,
    known: &'a Known,
    /// This gateway's.
    node: &'a str,
    rules: Rules,
    now_ms: u64,
    /// Vendor sends that may be claimed.
    most: usize,
    claimed: Claimed,
}

impl Claiming<'_, '_> {
    fn put(&self, row: &Row, step: &Step) -> Result<(), StoreError> {
        let place = (&row.address).into();
        pairs::put(self.t, place, &row.id, &row.standing.pair, step, self.now_ms).map(drop)
    }

    /// The message; one row that cannot be read must not stop all others.
    fn message(&self, row: &Row) -> Result<Option<Arc<Message>>, StoreError> {
        if let Ok(message) = serde_json::from_str::<Message>(&row.body) {
            return Ok(Some(Arc::new(message)));
        }
        self.put(row, &step(&row.standing, Event::Unreadable, &self.rules, self.now_ms))?;
        Ok(None)
    }

    /// What connections owe. Returns what was not acknowledged in time: it is its vendor's turn.
    fn all_live(&mut self, rows: Vec<Row>) -> Result<Vec<Row>, StoreError> {
        // It is looked up only where it decides.
        let decides = |row: &Row| row.standing.pair.under_way.is_none() && row.standing.pair.acked_by.is_none();
        let deciding = rows.iter().filter(|row| decides(row)).map(|row| &row.address);
        let bindings = bindings::of_all(self.t, deciding)?;
        let mut bound = Vec::with_capacity(rows.len());
        for row in &rows {
            let newest = bindings.get(&row.address).filter(|_| decides(row));
            bound.push(newest.map_or(Ok(false), |newest| is_usable(self.t, self.known, &row.address, newest))?);
        }
        let mut late = Vec::new();
        for (mut row, bound) in rows.into_iter().zip(bound) {
            row.standing.bound = bound;
            late.extend(self.live(row)?);
        }
        Ok(late)
    }

    /// Vendors' turns. `unanswered`: connections have just owed these.
    fn all_turns(&mut self, rows: Vec<Row>, unanswered: bool) -> Result<(), StoreError> {
        let mut readable = Vec::with_capacity(rows.len());
        for row in rows {
            readable.extend(self.message(&row)?.map(|message| (row, message)));
        }
        let policy = self.rules.policy;
        let wanted =
            readable.iter().map(|(Row { address, .. }, message)| Wanted { address, message, policy, new: false });
        let around = Surroundings::look(self.t, self.known, &wanted.collect::<Vec<_>>())?;
        readable.iter().try_for_each(|row| self.turn(&around, row, unanswered))
    }

    /// The connection's gateway publishes. That it is to is stored: a notice alone may be lost, and the next look is far.
    fn publish(&mut self, row: &Row, message: Arc<Message>) -> Result<(), StoreError> {
        let Row { id, address, standing, .. } = row;
        let at = &standing.device.node;
        if at == self.node {
            self.claimed.again.push((address.clone(), message));
        } else if orders::put(self.t, at, &Order::Publish { message: id.to_string() })? {
            self.claimed.elsewhere.insert(at.clone());
        }
        Ok(())
    }

    /// What a connection owes, as in [`Self::all_live`].
    fn live(&mut self, mut row: Row) -> Result<Option<Row>, StoreError> {
        let step = step(&row.standing, Event::Due, &self.rules, self.now_ms);
        self.put(&row, &step)?;
        row.standing.pair = step.pair;
        if step.act == Act::Publish {
            let Some(message) = self.message(&row)? else { return Ok(None) };
            self.publish(&row, message)?;
        } else if row.standing.pair.state == State::Vendor {
            self.claimed.silent.extend(step.silent.map(|nonce| (row.address.clone(), nonce)));
            return Ok(Some(row));
        }
        Ok(None)
    }

    /// Vendor sends that may be claimed still.
    fn left(&self) -> usize {
        self.most.saturating_sub(self.claimed.jobs.len())
    }

    /// A vendor's turn; with no send left to claim, what is to be sent stays due. `unanswered`: a connection has just owed it.
    fn turn(
        &mut self,
        around: &Surroundings<'_>,
        (row, message): &(Row, Arc<Message>),
        unanswered: bool,
    ) -> Result<(), StoreError> {
        let Standing { pair: Pair { attempts, .. }, accepted_ms, expires_ms, .. } = row.standing;
        let due = Due { address: row.address.clone(), message: message.clone(), attempts, accepted_ms, expires_ms };
        let turn = Turn::look((self.t, self.known), around, due, self.rules, self.now_ms)?;
        let step = step(&row.standing, Event::Turn { facts: turn.facts(), unanswered }, &self.rules, self.now_ms);
        if step.act == Act::Push && self.left() == 0 {
            return Ok(());
        }
        self.put(row, &step)?;
        match step.act {
            Act::Push => self.claimed.jobs.extend(turn.job(self.t, self.known)?),
            Act::Publish => self.publish(row, message.clone())?,
            Act::Nothing => {}
        }
        Ok(())
    }
}

impl Store {
    /// Moves what is overdue, then claims the vendor sends that are due. A claim is a lease: if this
    /// gateway dies the work comes due again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn claim(&self, rules: Rules, reach: Reach, now_ms: u64) -> Result<Claimed, StoreError> {
        let (known, node) = (self.known.clone(), self.node().clone());
        self.run_alone(move |t| {
            let (most, claimed) = (reach.calls.min(CLAIM as usize), Claimed::default());
            let mut claiming = Claiming { t, known: &known, node: &node, rules, now_ms, most, claimed };
            let late = claiming.all_live(due(t, State::Live, reach.broker, CLAIM, now_ms)?)?;
            // Whoever has no vendor is told again at once and in order, however few sends may be claimed.
            claiming.all_turns(late, true)?;
            for state in [State::Held, State::Vendor] {
                let left = u32::try_from(claiming.left()).unwrap_or(CLAIM);
                claiming.all_turns(due(t, state, reach.broker, left, now_ms)?, false)?;
            }
            Ok(claiming.claimed)
        })
        .await
    }

    /// There is a connection to the broker again: what waits for one is due. Returns whether anything was.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn broker_is_back(&self, now_ms: u64) -> Result<bool, StoreError> {
        self.run_alone(move |t| {
            let due = t.execute(
                "UPDATE deliveries SET due_ms = ?2 WHERE state = ?1 AND due_ms > ?2 AND nonce = '' AND acked_by IS NULL",
                params![State::Live.as_str(), as_i64(now_ms)],
            )?;
            Ok(due > 0)
        })
        .await
    }

    /// Makes due now what waits for a vendor. What is done, or on its way again, stays as it is.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn wake(&self, waiting: Vec<Waiting>, now_ms: u64) -> Result<(), StoreError> {
        let users = waiting.iter().flat_map(|w| whose(&w.address.app, &w.address.user)).collect();
        self.run_for(users, move |t| {
            const ONE: &str = "UPDATE deliveries SET due_ms = ?1 WHERE message = ?2 AND device = ?3 AND state = ?4
                 AND attempts = ?5 AND due_ms > ?1";
            const ALL: &str = "UPDATE deliveries d SET due_ms = u.due_ms
                 FROM unnest(CAST(?1 AS bigint[]), CAST(?2 AS text[]), CAST(?3 AS text[]), CAST(?4 AS text[]), CAST(?5 AS bigint[]))
                 AS u (due_ms, message, device, state, attempts) WHERE d.message = u.message AND d.device = u.device
                 AND d.state = u.state AND d.attempts = u.attempts AND d.due_ms > u.due_ms";
            let mut waiting: Vec<&Waiting> = waiting.iter().collect();
            // Rows are held in the order of their messages, as by everybody.
            waiting.sort_unstable_by_key(|one| (&*one.message, &*one.address.device));
            let (now_ms, state) = (as_i64(now_ms), State::Vendor.as_str());
            let rows = waiting.into_iter().map(|Waiting { message, address, attempt }| {
                [Bound::Integer(now_ms), Bound::Text(message), Bound::Text(&address.device), Bound::Text(state), attempt.bound()]
            });
            t.execute_rows((ONE, ALL), rows.map(|row| row.to_vec()))
        })
        .await
    }

    /// When [`Self::claim`] has work next.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn next_due(&self) -> Result<Option<u64>, StoreError> {
        self.run(|t| {
            // One state after the other: each is one step into its index.
            macro_rules! first {
                ($state:literal) => {
                    concat!("(SELECT min(due_ms) FROM deliveries WHERE state = ", $state, " AND due_ms IS NOT NULL)")
                };
            }
            const FIRST: &str = concat!("SELECT ", first!("?1"), ", ", first!("?2"), ", ", first!("?3"));
            let states = [State::Live, State::Vendor, State::Held].map(State::as_str);
            let first: [Option<i64>; 3] =
                t.prepare_cached(FIRST)?.query_row(states, |r| Ok([r.get(0)?, r.get(1)?, r.get(2)?]))?;
            Ok(first.into_iter().flatten().min().map(as_u64))
        })
        .await
    }
}
