//! Tokens that were found good: an app's server shows the same one with each of its requests.

use super::tokens::Claims;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Of more than so many all are forgotten, and checked again as they come.
const MOST: usize = 1024;

/// What a token says, and the id of the key that signed it.
#[derive(Debug, Clone)]
pub(super) struct Signed {
    pub key: Arc<str>,
    pub claims: Arc<Claims>,
}

/// By their digests: this is no place where tokens lie.
#[derive(Default)]
pub(super) struct Checked(Mutex<HashMap<[u8; SHA256_OUTPUT_LEN], Signed>>);

impl Checked {
    fn all(&self) -> MutexGuard<'_, HashMap<[u8; SHA256_OUTPUT_LEN], Signed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn find(&self, token: &str) -> Option<Signed> {
        self.all().get(&digest_of(token)).cloned()
    }

    pub fn add(&self, token: &str, signed: Signed) {
        let mut all = self.all();
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(digest_of(token), signed);
    }
}

fn digest_of(token: &str) -> [u8; SHA256_OUTPUT_LEN] {
    let mut of = [0; SHA256_OUTPUT_LEN];
    of.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    of
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_tokens_are_remembered_than_so_many() {
        let checked = Checked::default();
        let claims: Claims = serde_json::from_str(r#"{"scope":"app","app":"o#a","exp":1}"#).expect("claims");
        let signed = Signed { key: "first".into(), claims: Arc::new(claims) };
        (0..=MOST).for_each(|n| checked.add(&n.to_string(), signed.clone()));
        assert_eq!(checked.all().len(), 1);
        assert!(checked.find(&MOST.to_string()).is_some() && checked.find("0").is_none());
    }
}
