//! Which installation a store is: an id of its own, made once, which what its gateways leave elsewhere bears. No secret.

use super::sql::Transaction;
use super::{Store, StoreError};
use crate::secret::random_hex;

const KEY: &str = "installation";

/// Where several gateways begin at once, one of them makes it.
fn of(t: &Transaction<'_>) -> Result<String, StoreError> {
    t.execute("INSERT OR IGNORE INTO meta (key, value) VALUES (?1, ?2)", [KEY, &random_hex::<8>()])?;
    t.query_row("SELECT value FROM meta WHERE key = ?1", [KEY], |r| r.get(0))
}

impl Store {
    /// 16 hexadecimal digits, the same for as long as the database lives, and in its copies.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn installation(&self) -> Result<String, StoreError> {
        self.run(of).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::Vault;
    use super::*;

    #[tokio::test]
    async fn a_store_is_the_same_installation_at_each_start_and_no_other_store_is_it() {
        let homes = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
        let store = |home: &tempfile::TempDir| {
            let vault = Vault::open(&home.path().join("key"), true).expect("a key");
            Store::open(&home.path().join("db"), vault).expect("a store")
        };
        let first = store(&homes[0]).installation().await.expect("made");
        assert_eq!(store(&homes[0]).installation().await.expect("read"), first);
        assert_ne!(store(&homes[1]).installation().await.expect("made"), first);
    }
}
