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

/// What ends a connection's commit, under way in a thread of its own: a server that takes the connection and says nothing holds no
/// other connection's up.
type Cancel = Option<JoinHandle<()>>;

/// The commits under way, at most one a connection.
pub(super) struct Commits(Vec<Mutex<Wait>>);

#[derive(Default)]
struct Wait {
    begun: Option<(Instant, CancelToken)>,
    given_up: bool,
}

impl Wait {
    /// What ends it, once, when it has lasted for too long.
    fn overdue(&mut self, now: Instant) -> Option<CancelToken> {
        let (_, token) = self.begun.take_if(|(since, _)| now.duration_since(*since) >= PATIENCE)?;
        self.given_up = true;
        Some(token)
    }
}

fn locked(wait: &Mutex<Wait>) -> MutexGuard<'_, Wait> {
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
        *locked(wait) = Wait { begun: Some((Instant::now(), token)), given_up: false };
        let committed = commit();
        if std::mem::take(&mut *locked(wait)).given_up {
            // The server then says that it is done, and its standby does not have it.
            let seconds = PATIENCE.as_secs();
            return Err(StoreError::NotCommitted(format!("no answer to the commit within {seconds} s")));
        }
        committed
    }
}

#[allow(clippy::disallowed_methods, reason = "this thread has nothing else to do than to look now and then")]
fn watch(commits: &Weak<Commits>, tls: &MakeRustlsConnect) {
    let mut cancels: Vec<Cancel> = Vec::new();
    while let Some(commits) = commits.upgrade() {
        cancels.resize_with(commits.0.len(), || None);
        for (wait, cancel) in commits.0.iter().zip(&mut cancels) {
            if cancel.as_ref().is_some_and(|before| !before.is_finished()) {
                continue;
            }
            let overdue = locked(wait).overdue(Instant::now());
            if let Some(token) = overdue {
                let tls = tls.clone();
                let thread = std::thread::Builder::new().name("cancel".to_owned());
                // Where nobody listens any more the connection ends by itself.
                *cancel = thread.spawn(move || drop(token.cancel_query(tls))).ok();
            }
        }
        drop(commits);
        std::thread::sleep(LOOK);
    }
}
