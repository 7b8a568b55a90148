//! A vendor's access token: fetched once for everybody who waits, and again a while before it ends.

use super::failed::Failed;
use crate::secret::Secret;
use crate::vendors::call::Credential;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;

#[derive(Debug, Default)]
struct Slot {
    held: Mutex<Held>,
    /// Counts fetches that failed: who waited for one shares its failure instead of making another.
    failures: AtomicU64,
}

#[derive(Debug, Default)]
struct Held {
    credential: Option<Credential>,
    failure: Option<Failed>,
}

/// One slot per certificate. The slot's lock is held over the fetch, so that a thousand sends that
/// find it empty make one request.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

impl Credentials {
    /// The current token, fetched if there is none or it is due; `None` where the vendor has no such
    /// thing. `stale` names one the vendor has just refused: it is replaced, unless somebody already did.
    ///
    /// # Errors
    /// What `fetch` says, or said to somebody for whom this caller waited.
    pub async fn get<F: Future<Output = Result<Option<Credential>, Failed>>>(
        &self,
        key: &str,
        now_ms: u64,
        stale: Option<&Secret>,
        fetch: impl FnOnce() -> F,
    ) -> Result<Option<Secret>, Failed> {
        let slot = self.slots.lock().await.entry(key.to_owned()).or_default().clone();
        let failures = slot.failures.load(Ordering::SeqCst);
        let mut held = slot.held.lock().await;
        if let Some(credential) = held.credential.as_ref()
            && credential.renew_at_ms > now_ms
            && stale != Some(&credential.value)
        {
            return Ok(Some(credential.value.clone()));
        }
        if slot.failures.load(Ordering::SeqCst) != failures
            && let Some(failure) = &held.failure
        {
            return Err(failure.clone());
        }
        held.credential = None;
        match fetch().await {
            Ok(fresh) => {
                held.failure = None;
                held.credential.clone_from(&fresh);
                Ok(fresh.map(|credential| credential.value))
            }
            Err(failure) => {
                held.failure = Some(failure.clone());
                slot.failures.fetch_add(1, Ordering::SeqCst);
                Err(failure)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::outcome::Outcome;
    use std::sync::atomic::AtomicU32;

    #[tokio::test]
    async fn many_who_wait_make_one_fetch_and_a_refused_token_makes_one_more() {
        let credentials = Arc::new(Credentials::default());
        let fetches = Arc::new(AtomicU32::new(0));
        let get = |stale: Option<Secret>| {
            let (credentials, fetches) = (credentials.clone(), fetches.clone());
            tokio::spawn(async move {
                let fetch = || async {
                    let n = fetches.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    Ok(Some(Credential { value: Secret::new(format!("t{n}")), renew_at_ms: 100 }))
                };
                credentials.get("c", 0, stale.as_ref(), fetch).await.expect("fetched").expect("a token")
            })
        };
        let all: Vec<_> = (0..50).map(|_| get(None)).collect();
        for task in all {
            assert_eq!(task.await.expect("done").expose(), "t0");
        }
        let refused: Vec<_> = (0..50).map(|_| get(Some(Secret::new("t0")))).collect();
        for task in refused {
            assert_eq!(task.await.expect("done").expose(), "t1");
        }
        assert_eq!(fetches.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn who_waited_for_a_fetch_that_failed_does_not_make_the_same_one_again() {
        let credentials = Credentials::default();
        let fetches = AtomicU32::new(0);
        let fetch = || async {
            fetches.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Err(Failed::from(Outcome::RetryAfter { after_ms: None, code: "timeout".into(), reason: String::new() }))
        };
        let all = (0..50).map(|_| credentials.get("c", 0, None, fetch));
        assert!(futures_util::future::join_all(all).await.iter().all(Result::is_err));
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
        assert!(credentials.get("c", 0, None, fetch).await.is_err());
        assert_eq!(fetches.load(Ordering::SeqCst), 2, "a later one tries again");
    }
}
