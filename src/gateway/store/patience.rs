//! Commits that PostgreSQL does not answer: one that waits for a synchronous standby waits for ever, and no deadline of the server's ends
//! that, `statement_timeout` neither.

use super::StoreError;
use postgres::CancelToken;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio_postgres_rustls::MakeRustlsConnect;

/// So long a commit may take. What was accepted is then asked for over another connection, and both together take less than ten seconds.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(500);

/// How long the server may take to end one that it is asked to; then it is asked anew.
const CANCEL: Duration = Duration::from_secs(5);
/// So often at a time for one commit.
const CANCELS: usize = 4;
/// And for one connection's: nothing ends a `cancel_query` from outside, so that each keeps its thread for as long as a server takes the
/// connection and says nothing. One that is gone ends them by itself, as its connections are looked after ([`Database::parse`]).
///
/// [`Database::parse`]: crate::gateway::database::Database::parse
const UNANSWERED: usize = 16;

/// The commits under way, at most one a connection.
pub(super) struct Commits(Vec<Mutex<Wait<CancelToken>>>);

/// A connection's, with what ends it.
struct Wait<Token> {
    begun: Option<(Instant, Token)>,
    /// When the server was last asked to end it.
    asked: Option<Instant>,
}

impl<Token> Default for Wait<Token> {
    fn default() -> Self {
        Self { begun: None, asked: None }
    }
}

impl<Token: Clone> Wait<Token> {
    /// When it began and what ends it, when it has lasted for too long, and again while that does nothing. `unanswered`: when the commits
    /// began whose end the server was asked for without an answer yet.
    fn overdue(
        &mut self,
        now: Instant,
        unanswered: impl ExactSizeIterator<Item = Instant>,
    ) -> Option<(Instant, Token)> {
        let (begun, token) = self.begun.as_ref()?;
        let due = self.asked.map_or(*begun + PATIENCE, |asked| asked + CANCEL);
        // What was not answered for an earlier one says nothing of this.
        let may = unanswered.len() < UNANSWERED && unanswered.filter(|of| of == begun).count() < CANCELS;
        (now >= due && may).then(|| {
            self.asked = Some(now);
            (*begun, token.clone())
        })
    }

    const fn is_given_up(&self) -> bool {
        self.asked.is_some()
    }
}

fn locked<Token>(wait: &Mutex<Wait<Token>>) -> MutexGuard<'_, Wait<Token>> {
    wait.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Commits {
    /// Of so many connections.
    ///
    /// # Errors
    /// [`StoreError::Thread`].
    pub fn watch(connections: usize, tls: MakeRustlsConnect) -> Result<Arc<Self>, StoreError> {
        let commits = Arc::new(Self((0..connections).map(|_| Mutex::default()).collect()));
        let watched = Arc::downgrade(&commits);
        let thread = std::thread::Builder::new().name("commits".to_owned());
        thread.spawn(move || watch(&watched, &tls)).map_err(StoreError::Thread)?;
        Ok(commits)
    }

    /// Carries a commit of that connection out. One that is given up may have taken place all the same; its connection is not to be used
    /// again.
    ///
    /// # Errors
    /// The commit's, and [`StoreError::NotCommitted`] of one that was given up.
    pub fn commit(
        &self,
        connection: usize,
        token: CancelToken,
        commit: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let Some(wait) = self.0.get(connection) else { return commit() };
        *locked(wait) = Wait { begun: Some((Instant::now(), token)), asked: None };
        let committed = commit();
        if std::mem::take(&mut *locked(wait)).is_given_up() {
            // The server then says that it is done, and its standby does not have it.
            let seconds = PATIENCE.as_secs();
            return Err(StoreError::NotCommitted(format!("no answer to the commit within {seconds} s")));
        }
        committed
    }
}

#[allow(clippy::disallowed_methods, reason = "this thread has nothing else to do than to look now and then")]
fn watch(commits: &Weak<Commits>, tls: &MakeRustlsConnect) {
    let mut cancels: Vec<Vec<(Instant, JoinHandle<()>)>> = Vec::new();
    while let Some(commits) = commits.upgrade() {
        cancels.resize_with(commits.0.len(), Vec::new);
        for (wait, under_way) in commits.0.iter().zip(&mut cancels) {
            under_way.retain(|(_, cancel)| !cancel.is_finished());
            let unanswered = under_way.iter().map(|(of, _)| *of);
            let overdue = locked(wait).overdue(Instant::now(), unanswered);
            if let Some((begun, token)) = overdue {
                let tls = tls.clone();
                let thread = std::thread::Builder::new().name("cancel".to_owned());
                // Where nobody listens any more the connection ends by itself.
                let cancel = thread.spawn(move || drop(token.cancel_query(tls)));
                under_way.extend(cancel.ok().map(|cancel| (begun, cancel)));
            }
        }
        drop(commits);
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many seconds its end is asked for, while those before it are not answered.
    fn asked(wait: &mut Wait<&'static str>, unanswered: &mut Vec<Instant>) -> Vec<u64> {
        let (begun, _) = wait.begun.expect("begun");
        let mut asked = Vec::new();
        for half_seconds in 0..60 {
            let now = begun + half_seconds * LOOK;
            if let Some((of, _)) = wait.overdue(now, unanswered.clone().into_iter()) {
                unanswered.push(of);
                asked.push((now - begun).as_secs());
            }
        }
        asked
    }

    #[test]
    fn a_commit_that_the_server_does_not_end_is_asked_for_again_and_one_that_is_over_is_not() {
        let begun = Instant::now();
        let mut wait = Wait { begun: Some((begun, "token")), asked: None };
        assert_eq!(asked(&mut wait, &mut Vec::new()), [4, 9, 14, 19]);
        assert!(wait.is_given_up());
        let mut over = Wait::<()>::default();
        assert_eq!((over.overdue(begun + 2 * PATIENCE, [].into_iter()), over.is_given_up()), (None, false));
    }

    #[test]
    fn what_a_server_did_not_answer_for_one_commit_keeps_none_of_the_next_from_being_ended() {
        let (begun, mut unanswered) = (Instant::now(), Vec::new());
        for n in 0..4 {
            let mut wait = Wait { begun: Some((begun + n * Duration::from_secs(60), "token")), asked: None };
            assert_eq!(asked(&mut wait, &mut unanswered), [4, 9, 14, 19], "{n}");
        }
        let mut wait = Wait { begun: Some((begun + Duration::from_secs(600), "token")), asked: None };
        assert_eq!(asked(&mut wait, &mut unanswered), [0; 0], "so many threads are kept at most");
        unanswered.pop();
        assert_eq!(asked(&mut wait, &mut unanswered), [4]);
    }
}
