//! A vendor's access token: fetched once for everybody who waits, and again a while before it ends.

use crate::secret::Secret;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::Mutex;

/// An access token and the moment it should be replaced, in milliseconds since the Unix epoch.
#[derive(Debug, Clone)]
pub struct Credential {
    pub value: Secret,
    pub renew_at_ms: u64,
}

/// One slot per certificate. The slot's lock is held over the fetch, so that a thousand sends that
/// find it empty make one request.
#[derive(Debug, Default)]
pub struct Credentials {
    slots: Mutex<HashMap<String, Arc<Mutex<Option<Credential>>>>>,
}

impl Credentials {
    /// The current token, fetched if there is none or it is due. `stale` names one the vendor has just
    /// refused: it is replaced, unless somebody already did.
    ///
    /// # Errors
    /// What `fetch` says.
    pub async fn get<E, F: Future<Output = Result<Credential, E>>>(
        &self,
        key: &str,
        now_ms: u64,
        stale: Option<&Secret>,
        fetch: impl FnOnce() -> F,
    ) -> Result<Secret, E> {
        let slot = self.slots.lock().await.entry(key.to_owned()).or_default().clone();
        let mut held = slot.lock().await;
        if let Some(credential) = held.as_ref()
            && credential.renew_at_ms > now_ms
            && stale != Some(&credential.value)
        {
            return Ok(credential.value.clone());
        }
        *held = None;
        let fresh = fetch().await?;
        let value = fresh.value.clone();
        *held = Some(fresh);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

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
                    Ok::<_, ()>(Credential { value: Secret::new(format!("t{n}")), renew_at_ms: 100 })
                };
                credentials.get("c", 0, stale.as_ref(), fetch).await.expect("a token")
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
}
