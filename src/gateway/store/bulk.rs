//! Jobs of one transaction that are carried out together with others of their kind: each kind loads what it needs at once,
//! decides one after the other, and leaves its rows to be written together.

use super::accept::Accept;
use super::acks::Had;
use super::sql::Transaction;
use super::turns::SLICE;
use super::{Finish, StoreError};
use tokio::sync::oneshot;

/// From so many messages or deliveries on, what was gathered is carried out, and the clock is looked at.
const MOST: usize = 128;

/// A job that others of its kind are carried out with.
pub(super) trait Together: Sized + Send + 'static {
    type Done: Send + 'static;

    /// How many rows of messages or deliveries it is about.
    fn weight(&self) -> usize;

    /// Carries all out, or none.
    ///
    /// # Errors
    /// [`StoreError`].
    fn carry_out(t: &Transaction<'_>, jobs: &[Self]) -> Result<Vec<Self::Done>, StoreError>;
}

/// A job, and who waits for what became of it.
pub(super) type Asked<J> = (J, oneshot::Sender<Result<<J as Together>::Done, StoreError>>);

/// Jobs of those kinds that are not carried out yet. They may overtake one another: an acknowledgement is of what was
/// accepted in an earlier transaction.
#[derive(Default)]
pub(super) struct Bulk {
    accepts: Vec<Asked<Accept>>,
    had: Vec<Asked<Had>>,
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

    /// It is enough for one go. `among_apps`: others may wait for their turn.
    pub const fn is_full(&self, among_apps: bool) -> bool {
        self.weight >= if among_apps { SLICE } else { MOST }
    }

    /// Carries all of it out.
    pub fn carry_out(&mut self, t: &Transaction<'_>, finishes: &mut Vec<Finish>) {
        self.weight = 0;
        all(t, &mut self.accepts, finishes);
        all(t, &mut self.had, finishes);
    }
}

fn all<J: Together>(t: &Transaction<'_>, asked: &mut Vec<Asked<J>>, finishes: &mut Vec<Finish>) {
    if asked.is_empty() {
        return;
    }
    let (jobs, answers): (Vec<J>, Vec<_>) = asked.drain(..).unzip();
    let done: Vec<Result<J::Done, StoreError>> = match t.job(|t| written(t, J::carry_out(t, &jobs)?)) {
        Ok(done) => done.into_iter().map(Ok).collect(),
        Err(error) if jobs.len() == 1 => vec![Err(error)],
        // What one of them cannot have must not be refused to the others.
        Err(_) => jobs.iter().map(|job| t.job(|t| one(t, job))).collect(),
    };
    for (result, answer) in done.into_iter().zip(answers) {
        finishes.push(Box::new(move |committed| {
            // The caller may have given up waiting.
            drop(answer.send(super::after(result, committed)));
        }));
    }
}

fn one<J: Together>(t: &Transaction<'_>, job: &J) -> Result<J::Done, StoreError> {
    written(t, J::carry_out(t, std::slice::from_ref(job))?)?.pop().ok_or(StoreError::NoRow)
}

/// What the jobs have left to write is theirs to fail by.
fn written<D>(t: &Transaction<'_>, done: D) -> Result<D, StoreError> {
    t.unwritten.write(t).map(|()| done)
}
