//! One table of everything that is due, one entry for each thing.

use crate::keepalive::Moment;
use std::collections::BTreeMap;

/// What can be due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The next attempt at a connection.
    Attempt,
    /// The link's next ping, or the end of its patience.
    Link,
    /// An unanswered bind or unbind is said again.
    Binding,
    /// The connection may rest.
    Linger,
    /// The gateway is greeted again.
    Greeting,
    /// The login's token is asked to be renewed.
    Renewal,
    /// The bindings are asked about again over the connection.
    Recheck,
    /// The gateway is asked how the channel that is rested on does.
    Check,
    /// The next side probe may start.
    Search,
    /// The network is looked at.
    NetworkLook,
    /// A logout has waited long enough.
    Logout,
    /// A login's caller has waited long enough.
    Login,
    /// A logout that is owed is tried again.
    Owed,
    /// An app that did not come is woken again.
    Wake,
    /// What the disk refused is tried again.
    Persist,
}

/// Moments of CLOCK_BOOTTIME.
#[derive(Debug, Default)]
pub struct Timers(BTreeMap<Timer, Moment>);

impl Timers {
    pub fn get(&self, timer: Timer) -> Option<Moment> {
        self.0.get(&timer).copied()
    }

    pub(super) fn set(&mut self, timer: Timer, at: Moment) {
        self.0.insert(timer, at);
    }

    pub(super) fn put(&mut self, timer: Timer, at: Option<Moment>) {
        match at {
            Some(at) => self.set(timer, at),
            None => self.clear(timer),
        }
    }

    pub(super) fn clear(&mut self, timer: Timer) {
        self.0.remove(&timer);
    }

    /// Takes a timer out of the table if it is due.
    pub(super) fn due(&mut self, timer: Timer, now: Moment) -> bool {
        let due = self.get(timer).is_some_and(|at| at <= now);
        if due {
            self.clear(timer);
        }
        due
    }

    pub(super) fn others(&self, not: Timer) -> impl Iterator<Item = Moment> {
        self.0.iter().filter(move |(timer, _)| **timer != not).map(|(_, at)| *at)
    }
}
