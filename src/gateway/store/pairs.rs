//! Rows of deliveries: a pair is loaded, decided on by [`crate::delivery`] and written back in one transaction.

use super::pending::{DeliveryChange, NewDelivery};
use super::sql::{OptionalExtension as _, Row, Transaction, params};
use super::traces::note;
use super::{StoreError, address, as_i64, as_u64, binds};
use crate::delivery::{Pair, Shown, State, Step};
use crate::ids::{MessageId, Nonce};
use crate::protocol::Address;
use std::collections::HashMap;

/// A push whose message need not be seen any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recall {
    pub address: Address,
    pub message: MessageId,
    pub notifier: String,
    /// Empty where the device's binding is gone.
    pub token: String,
    pub vendor_id: String,
}

/// Whose a pair is: a device's, or, with an empty one, the first that its user will have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place<'a> {
    pub app: &'a str,
    pub user: &'a str,
    pub device: &'a str,
}

impl<'a> From<&'a Address> for Place<'a> {
    fn from(address: &'a Address) -> Self {
        Self { app: &address.app, user: &address.user, device: &address.device }
    }
}

/// What [`read`] reads, of a table named `d`.
macro_rules! columns {
    () => {
        "d.state, d.nonce, d.due_ms, d.attempts, d.acked_ms, d.acked_by, d.taken_ms, d.notifier, d.vendor_id"
    };
}
pub(super) use columns;

/// How many those are.
pub(super) const WIDTH: usize = 9;

/// Reads [`columns`], which begin at this column.
pub(super) fn read(r: &mut Row, from: usize) -> Result<Pair, StoreError> {
    let state: String = r.get(from)?;
    let state = State::parse(&state).ok_or_else(|| StoreError::Corrupt(format!("a delivery's state is `{state}`")))?;
    let time = |r: &mut Row, at: usize| Ok::<_, StoreError>(r.get::<Option<i64>>(at)?.map(as_u64));
    let shown = r.get::<Option<String>>(from + 7)?.zip(r.get::<Option<String>>(from + 8)?);
    Ok(Pair {
        state,
        under_way: Nonce::try_from(r.get::<String>(from + 1)?).ok(),
        due_ms: time(r, from + 2)?,
        attempts: r.get(from + 3)?,
        acked_ms: time(r, from + 4)?,
        acked_by: r.get(from + 5)?,
        taken_ms: time(r, from + 6)?,
        shown: shown.map(|(notifier, vendor_id)| Shown { notifier, vendor_id }),
    })
}

/// The pair of a message and this device; held against others until the transaction ends.
///
/// # Errors
/// [`StoreError`].
pub(super) fn load(t: &Transaction<'_>, place: Place<'_>, message: &str) -> Result<Option<Pair>, StoreError> {
    let Place { app, user, device } = place;
    t.prepare_cached(concat!(
        "SELECT ",
        columns!(),
        " FROM deliveries d WHERE d.message = ?1 AND d.device = ?2 AND d.app = ?3 AND d.user = ?4 /* lock */"
    ))?
    .query_row(params![message, device, app, user], |r| read(r, 0))
    .optional()
}

/// Pairs that were loaded at once, held against others until the transaction ends.
#[derive(Debug, Default)]
pub(super) struct Pairs<'a>(HashMap<(Place<'a>, &'a str), Pair>);

impl<'a> Pairs<'a> {
    /// Those of them that are stored.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn load(
        t: &Transaction<'_>,
        wanted: impl Iterator<Item = (Place<'a>, &'a MessageId)>,
    ) -> Result<Self, StoreError> {
        const ONE: &str = concat!(
            "SELECT ",
            columns!(),
            ", ?5 FROM deliveries d WHERE d.message = ?1 AND d.device = ?2 AND d.app = ?3 AND d.user = ?4"
        );
        const ALL: &str = concat!(
            "SELECT ",
            columns!(),
            ", u.place FROM unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS text[]), CAST(?4 AS text[]), CAST(?5 AS bigint[]))
             AS u (message, device, app, user, place) JOIN deliveries d
             ON d.message = u.message AND d.device = u.device AND d.app = u.app AND d.user = u.user /* lock */"
        );
        let mut wanted: Vec<(Place<'a>, &'a str)> = wanted.map(|(place, id)| (place, &**id)).collect();
        // Rows are held in the order of their messages, as by everybody.
        wanted.sort_unstable_by_key(|(place, id)| (*id, place.device));
        let rows = wanted.iter().map(|(Place { app, user, device }, id)| [*id, device, app, user]);
        let found = t.for_rows((ONE, ALL), rows, |r| read(r, 0))?;
        Ok(Self(found.into_iter().map(|(place, pair)| (wanted[place], pair)).collect()))
    }

    pub fn get(&self, place: Place<'a>, id: &'a MessageId) -> Option<&Pair> {
        self.0.get(&(place, &**id))
    }

    /// It is this now.
    pub fn moved(&mut self, place: Place<'a>, id: &'a MessageId, pair: Pair) {
        self.0.get_mut(&(place, &**id)).into_iter().for_each(|known| known.clone_from(&pair));
    }
}

/// Writes what a step made of a pair, and its trace. Returns the notification that nobody has to see any more.
///
/// # Errors
/// [`StoreError`].
pub(super) fn put(
    t: &Transaction<'_>,
    place: Place<'_>,
    message: &MessageId,
    before: &Pair,
    step: &Step,
    now_ms: u64,
) -> Result<Option<Recall>, StoreError> {
    let Place { app, user, device } = place;
    let Pair { state, under_way, due_ms, attempts, acked_ms, acked_by, taken_ms, shown } = &step.pair;
    let nonce = under_way.as_ref().map_or("", |nonce| nonce);
    let [due_ms, acked_ms, taken_ms] = [due_ms, acked_ms, taken_ms].map(|at| at.map(as_i64));
    let (notifier, vendor_id) = shown.as_ref().map(|s| (s.notifier.as_str(), s.vendor_id.as_str())).unzip();
    let (state, done) = (state.as_str(), *state == State::Done);
    if before.state != State::New && *before != step.pair {
        let text = |value: Option<&str>| value.map(str::to_owned);
        t.unwritten.changes.add(DeliveryChange {
            message: message.to_string(),
            device: device.to_owned(),
            state,
            due_ms,
            attempts: *attempts,
            acked_ms,
            taken_ms,
            notifier: text(notifier),
            vendor_id: text(vendor_id),
            place: ((&before.under_way, &before.acked_by) != (under_way, acked_by))
                .then(|| (nonce.to_owned(), acked_by.clone())),
            kept: acked_by.is_some().then(|| (app.to_owned(), user.to_owned())),
            done,
        });
    } else if before.state == State::New && !done {
        t.unwritten.deliveries.add(NewDelivery {
            message: message.to_string(),
            app: app.to_owned(),
            user: user.to_owned(),
            device: device.to_owned(),
            state,
            nonce: nonce.to_owned(),
            attempts: *attempts,
            due_ms,
        });
    }
    for line in &step.lines {
        note(t, message, device, now_ms, line.hop, &line.detail);
    }
    let Some(Shown { notifier, vendor_id }) = step.recall.clone() else { return Ok(None) };
    let address = address(app, user, device)?;
    let token = binds::token(t, &address, &notifier)?;
    Ok(Some(Recall { address, message: message.clone(), notifier, token, vendor_id }))
}
