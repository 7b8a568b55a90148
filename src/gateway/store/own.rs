//! The gateway's own secrets, sealed as certificates are, and when the key for that may be made.

use super::sql::{OptionalExtension as _, Transaction, params};
use super::vault::SEALED;
use super::{Store, StoreError, Vault};
use crate::secret::{Secret, random_hex};
use std::io::ErrorKind;

/// What its rows begin with in `meta`; the names below follow.
fn place(name: &str) -> String {
    format!("meta/{name}")
}

/// Those that end with the sealing key, each with what that means.
const NAMES: [(&str, &str); 6] = [
    ("token_key", "logins: every device and app logs in again"),
    ("admin_secret", "the operator's secret, in admin.secret"),
    ("receipt_key", "the addresses that vendors send receipts to"),
    ("ticket_key", "TLS tickets"),
    ("authority", "the authority of the endpoint's certificate: its certificate stays until its end"),
    ("authority_next", "the authority that was to follow it: `impush-gateway authority renew`"),
];

/// A key may be made only where nothing was sealed with another.
///
/// # Errors
/// [`StoreError::Sealed`]: something was. [`StoreError::Key`]: it cannot be read or written.
pub(super) fn with_key(t: &Transaction<'_>, vault: &Vault) -> Result<(), StoreError> {
    if vault.has_key() {
        return Ok(());
    }
    let failed = |source| StoreError::Key { path: vault.path().to_owned(), source };
    match vault.look_again() {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        looked => return looked.map_err(failed),
    }
    for sql in
        ["SELECT 1 FROM certificates WHERE fields LIKE ?1 LIMIT 1", "SELECT 1 FROM meta WHERE value LIKE ?1 LIMIT 1"]
    {
        if t.query_row(sql, params![format!("{SEALED}%")], |_| Ok(())).optional()?.is_some() {
            return Err(vault.lost());
        }
    }
    vault.make().map_err(failed)
}

fn read(t: &Transaction<'_>, name: &str) -> Result<Option<String>, StoreError> {
    t.query_row("SELECT value FROM meta WHERE key = ?1 /* lock */", [name], |r| r.get(0)).optional()
}

fn write(t: &Transaction<'_>, vault: &Vault, name: &str, text: &str) -> Result<(), StoreError> {
    let sealed = vault.seal(text, &place(name))?;
    t.execute("UPDATE meta SET value = ?2 WHERE key = ?1", params![name, sealed])?;
    Ok(())
}

/// The text of this name; where several gateways begin at once, one of them makes it.
fn own(t: &Transaction<'_>, vault: &Vault, name: &str, make: impl FnOnce() -> String) -> Result<Secret, StoreError> {
    let found = match read(t, name)? {
        Some(found) => found,
        None => {
            with_key(t, vault)?;
            let made = vault.seal(&make(), &place(name))?;
            t.execute("INSERT OR IGNORE INTO meta (key, value) VALUES (?1, ?2)", params![name, made])?;
            read(t, name)?.ok_or(StoreError::NoRow)?
        }
    };
    if found.starts_with(SEALED) {
        return vault.open_text(&found, &place(name)).map(Secret::new);
    }
    // Of before they were sealed. A disk that takes no key now does not keep the gateway from its work.
    if let Err(error) = with_key(t, vault).and_then(|()| write(t, vault, name, &found)) {
        tracing::warn!(event = "secret.not_sealed", name, %error, "a secret of the gateway stays in clear text in its store");
    }
    Ok(Secret::new(found))
}

impl Store {
    /// A text of the gateway's own, made on first use.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Sealed`] when nothing opens it.
    pub async fn own_text(
        &self,
        name: &'static str,
        make: impl FnOnce() -> String + Send + 'static,
    ) -> Result<Secret, StoreError> {
        let vault = self.vault.clone();
        self.run(move |t| own(t, &vault, name, make)).await
    }

    /// The same, 32 random bytes in hexadecimal.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Sealed`] when nothing opens it.
    pub async fn own_secret(&self, name: &'static str) -> Result<Secret, StoreError> {
        self.own_text(name, random_hex::<32>).await
    }

    /// Whether there is one of this name, readable or not.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn has_own(&self, name: &'static str) -> Result<bool, StoreError> {
        self.run(move |t| Ok(read(t, name)?.is_some())).await
    }

    /// Puts one in another's place. `false`: there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn promote_own(&self, name: &'static str, to: &'static str) -> Result<bool, StoreError> {
        let vault = self.vault.clone();
        self.run(move |t| {
            let Some(found) = read(t, name)? else { return Ok(false) };
            let text = vault.open_text(&found, &place(name))?;
            let sealed = vault.seal(&text, &place(to))?;
            t.execute("DELETE FROM meta WHERE key = ?1 OR key = ?2", params![name, to])?;
            t.execute("INSERT INTO meta (key, value) VALUES (?1, ?2)", params![to, sealed])?;
            Ok(true)
        })
        .await
    }

    /// Changes one that is there, against all other gateways.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn change_own<T: Send + 'static>(
        &self,
        name: &'static str,
        change: impl FnOnce(Secret) -> (Option<String>, T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let vault = self.vault.clone();
        self.run(move |t| {
            let (new, result) = change(own(t, &vault, name, random_hex::<32>)?);
            if let Some(new) = new {
                write(t, &vault, name, &new)?;
            }
            Ok(result)
        })
        .await
    }

    /// Removes those that the sealing key does not open, so that the next start makes them anew. Returns what that means,
    /// a line each.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_unreadable(&self) -> Result<Vec<&'static str>, StoreError> {
        let vault = self.vault.clone();
        self.run(move |t| {
            let mut gone = Vec::new();
            for (name, meaning) in NAMES {
                let Some(text) = read(t, name)? else { continue };
                if matches!(vault.open_text(&text, &place(name)), Err(StoreError::Sealed(_))) {
                    t.execute("DELETE FROM meta WHERE key = ?1", [name])?;
                    gone.push(meaning);
                }
            }
            Ok(gone)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(home: &std::path::Path) -> Store {
        let vault = Vault::open(&home.join("key"), true).expect("a key");
        Store::open(&home.join("db"), vault).expect("a store")
    }

    async fn stored(store: &Store, name: &'static str) -> String {
        store.run(move |t| Ok(read(t, name)?.unwrap_or_default())).await.expect("read")
    }

    #[tokio::test]
    async fn secrets_of_the_gateway_are_sealed_and_those_of_before_are_when_they_are_first_read() {
        let home = tempfile::tempdir().expect("a directory");
        let of_before = "INSERT INTO meta (key, value) VALUES ('admin_secret', 'in clear text')";
        store(home.path()).run(move |t| t.execute_batch(of_before)).await.expect("stored");
        let store = store(home.path());
        assert_eq!(store.own_secret("admin_secret").await.expect("read").expose(), "in clear text");
        let new = store.own_secret("token_key").await.expect("made");
        for name in ["admin_secret", "token_key"] {
            let stored = stored(&store, name).await;
            assert!(stored.starts_with(SEALED) && !stored.contains(new.expose()), "{name}: {stored}");
        }
        assert_eq!(store.own_secret("token_key").await.expect("read"), new);
        let changed = store.change_own("token_key", |old| (Some(format!("{}+", old.expose())), 7)).await;
        assert_eq!(changed.expect("changed"), 7);
        assert_eq!(store.own_secret("token_key").await.expect("read").expose(), format!("{}+", new.expose()));
    }

    #[tokio::test]
    async fn the_store_is_nobody_elses_to_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let home = tempfile::tempdir().expect("a directory");
        std::fs::write(home.path().join("db"), "").expect("of an earlier version");
        let store = store(home.path());
        store.own_secret("token_key").await.expect("made");
        for file in std::fs::read_dir(home.path()).expect("listed") {
            let file = file.expect("a file");
            let mode = file.metadata().expect("known").permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", file.file_name());
        }
    }

    #[tokio::test]
    async fn without_their_key_they_are_not_made_anew_but_by_command() {
        let home = tempfile::tempdir().expect("a directory");
        let first = store(home.path()).own_secret("token_key").await.expect("made");
        let key = std::fs::read(home.path().join("key")).expect("a key");
        std::fs::remove_file(home.path().join("key")).expect("removed");
        for name in ["token_key", "receipt_key"] {
            let lost = store(home.path()).own_secret(name).await;
            assert!(matches!(lost, Err(StoreError::Sealed(_))), "{name}: {lost:?}");
        }
        std::fs::write(home.path().join("key"), &key).expect("put back");
        assert_eq!(store(home.path()).own_secret("token_key").await.expect("read"), first);
        assert!(store(home.path()).forget_unreadable().await.expect("looked").is_empty());

        std::fs::write(home.path().join("key"), "5a".repeat(32)).expect("another key");
        let store = store(home.path());
        let gone = store.forget_unreadable().await.expect("removed");
        assert!(gone.len() == 1 && gone[0].starts_with("logins"), "{gone:?}");
        assert_ne!(store.own_secret("token_key").await.expect("made"), first);
    }
}
