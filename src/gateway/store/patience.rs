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
/// So often at a time for one commit. A server that takes the connection and says nothing keeps each of those threads for good, since
/// nothing ends a `cancel_query` from outside.
const CANCELS: usize = 4;

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
    /// What ends it, when it has lasted for too long, and again while that does nothing.
    fn overdue(&mut self, now: Instant) -> Option<Token> {
        let (begun, token) = self.begun.as_ref()?;
        let due = self.asked.map_or(*begun + PATIENCE, |asked| asked + CANCEL);
        (now >= due).then(|| {
            self.asked = Some(now);
            token.clone()
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
    let mut cancels: Vec<Vec<JoinHandle<()>>> = Vec::new();
    while let Some(commits) = commits.upgrade() {
        cancels.resize_with(commits.0.len(), Vec::new);
        for (wait, under_way) in commits.0.iter().zip(&mut cancels) {
            under_way.retain(|cancel| !cancel.is_finished());
            if under_way.len() >= CANCELS {
                continue;
            }
            let overdue = locked(wait).overdue(Instant::now());
            if let Some(token) = overdue {
                let tls = tls.clone();
                let thread = std::thread::Builder::new().name("cancel".to_owned());
                // Where nobody listens any more the connection ends by itself.
                under_way.extend(thread.spawn(move || drop(token.cancel_query(tls))).ok());
            }
        }
        drop(commits);
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_the_server_does_not_end_is_asked_for_again_and_one_that_is_over_is_not() {
        let begun = Instant::now();
        let mut wait = Wait { begun: Some((begun, "token")), asked: None };
        let mut asked = Vec::new();
        for half_seconds in 0..30 {
            let now = begun + half_seconds * LOOK;
            asked.extend(wait.overdue(now).map(|_| (now - begun).as_secs()));
        }
        assert_eq!(asked, [4, 9, 14]);
        assert!(wait.is_given_up());
        let mut over = Wait::<()>::default();
        assert_eq!((over.overdue(begun + 2 * PATIENCE), over.is_given_up()), (None, false));
    }
}
