//! A kind of job that is carried out together with others of its kind in one transaction: each loads what it needs at once,
//! decides one after the other, and leaves its rows to be written together.

use super::sql::Transaction;
use super::{Finish, StoreError};
use tokio::sync::oneshot;

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

/// Carries all out together; where that fails, one by one.
pub(super) fn all<J: Together>(t: &Transaction<'_>, asked: &mut Vec<Asked<J>>, finishes: &mut Vec<Finish>) {
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

/// What the jobs have left to write is theirs to fail by where others may hold those rows. SQLite has one writer: there all of
/// a transaction's jobs are written at its end.
fn written<D>(t: &Transaction<'_>, done: D) -> Result<D, StoreError> {
    if t.is_shared() {
        t.unwritten.write(t)?;
    }
    Ok(done)
}
