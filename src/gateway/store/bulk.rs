//! What a transaction has gathered of jobs that are carried out together with others of their kind.

use super::Finish;
use super::accept::Accept;
use super::acks::Had;
use super::results::Answered;
use super::sql::Transaction;
use super::together::{Asked, Together as _, all};
use super::turns::SLICE;

/// From so many messages or deliveries on, what was gathered is carried out, and the clock is looked at.
const MOST: usize = 128;

/// Jobs of those kinds that are not carried out yet. They may overtake one another: an acknowledgement is of what was
/// accepted in an earlier transaction, and so is a vendor's answer.
#[derive(Default)]
pub(super) struct Bulk {
    accepts: Vec<Asked<Accept>>,
    had: Vec<Asked<Had>>,
    answered: Vec<Asked<Answered>>,
    weight: usize,
}

impl Bulk {
    pub fn accept(&mut self, asked: Asked<Accept>) {
        self.weight += asked.0.weight();
        self.accepts.push(asked);
    }

    pub fn had(&mut self, asked: Asked<Had>) {
        self.weight += asked.0.weight();
        self.had.push(asked);
    }

    pub fn answered(&mut self, asked: Asked<Answered>) {
        self.weight += asked.0.weight();
        self.answered.push(asked);
    }

    /// It is enough for one go. `among_apps`: others may wait for their turn.
    pub const fn is_full(&self, among_apps: bool) -> bool {
        self.weight >= if among_apps { SLICE } else { MOST }
    }

    /// Carries all of it out.
    pub fn carry_out(&mut self, t: &Transaction<'_>, finishes: &mut Vec<Finish>) {
        self.weight = 0;
        all(t, &mut self.accepts, finishes);
        all(t, &mut self.had, finishes);
        all(t, &mut self.answered, finishes);
    }
}
