//! Push certificates, stored sealed.

use super::edition;
use super::limits;
use super::own::with_key;
use super::sql::{OptionalExtension as _, Row, Transaction, params};
use super::{Store, StoreError, Vault, as_i64, turn_of};
use crate::vendors::Vendor;
use crate::vendors::certificate::Certificate;
use std::sync::Arc;

const UNREADABLE: &str = "the certificate cannot be read; see the log";
const COLUMNS: &str = "app, name, vendor, fields, enabled";

/// In the order of [`COLUMNS`].
type Stored = (String, String, String, String, bool);

fn read(row: &mut Row) -> Result<Stored, StoreError> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

fn place(app: &str, name: &str) -> String {
    format!("{app}/{name}")
}

/// A stored certificate that nothing opens: what the row itself says of it.
#[derive(Debug, Clone)]
pub struct Unreadable {
    pub app: String,
    pub name: String,
    pub vendor: String,
    pub enabled: bool,
    pub why: String,
}

fn built(vault: &Vault, (app, name, vendor, sealed, enabled): Stored) -> Result<Certificate, Unreadable> {
    let opened = || -> Result<_, String> {
        let vendor: Vendor = vendor.parse().map_err(|error: crate::vendors::UnknownVendor| error.to_string())?;
        let text = vault.open_text(&sealed, &place(&app, &name)).map_err(|error| error.to_string())?;
        Ok((vendor, serde_json::from_str(&text).map_err(|_| "its fields are not JSON".to_owned())?))
    };
    match opened() {
        Ok((vendor, fields)) => {
            let mut certificate = Certificate::new(app, name, vendor, fields);
            certificate.enabled = enabled;
            Ok(certificate)
        }
        Err(why) => Err(Unreadable { app, name, vendor, enabled, why }),
    }
}

pub(super) fn find(
    t: &Transaction<'_>,
    vault: &Vault,
    app: &str,
    name: &str,
) -> Result<Option<Certificate>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM certificates WHERE app = ?1 AND name = ?2");
    let row = t.prepare_cached(&sql)?.query_row(params![app, name], read).optional()?;
    row.map(|row| built(vault, row)).transpose().map_err(|unreadable| StoreError::Sealed(unreadable.why))
}

/// App and name of every certificate.
///
/// # Errors
/// [`StoreError`].
pub(super) fn names(t: &Transaction<'_>) -> Result<Vec<(String, String)>, StoreError> {
    let sql = "SELECT app, name FROM certificates";
    t.prepare_cached(sql)?.query_map([] as [&str; 0], |r| Ok((r.get(0)?, r.get(1)?)))?.collect()
}

/// The name of every certificate of an app, in their order.
///
/// # Errors
/// [`StoreError`].
pub(super) fn names_in(t: &Transaction<'_>, app: &str) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT name FROM certificates WHERE app = ?1 ORDER BY name";
    t.prepare_cached(sql)?.query_map([app], |r| r.get(0))?.collect()
}

impl Store {
    /// Adds a certificate, or replaces the one of that name without a gap. The first makes the key.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Sealed`] when others were sealed with a key that is gone.
    pub async fn put_certificate(&self, certificate: Certificate, now_ms: u64) -> Result<(), StoreError> {
        let vault = self.vault.clone();
        self.run_in(turn_of(&certificate.app), move |t| {
            with_key(t, &vault)?;
            let fields = vault.seal(&certificate.fields_text(), &place(&certificate.app, &certificate.name))?;
            t.execute(
                "INSERT INTO certificates (app, name, vendor, fields, enabled, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (app, name) DO UPDATE SET vendor = excluded.vendor, fields = excluded.fields, enabled = excluded.enabled",
                params![
                    certificate.app, certificate.name, certificate.vendor.as_str(), fields,
                    certificate.enabled, as_i64(now_ms)
                ],
            )?;
            limits::replaced(t, &certificate.app, &certificate.name)?;
            edition::next(t)
        })
        .await
    }

    /// An app's certificates, by name; those that nothing opens are among them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn certificates(&self, app: String) -> Result<Vec<Result<Certificate, Unreadable>>, StoreError> {
        let vault = self.vault.clone();
        self.run_in(turn_of(&app), move |t| {
            let sql = format!("SELECT {COLUMNS} FROM certificates WHERE app = ?1 ORDER BY name");
            let rows = t.prepare_cached(&sql)?.query_map([&app], read)?.collect::<Result<Vec<_>, _>>()?;
            Ok(rows.into_iter().map(|row| built(&vault, row)).collect())
        })
        .await
    }

    /// An app's certificates as they are used, by name; none is read or opened again until one is changed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn known_certificates(&self, app: String) -> Result<Arc<[Arc<Certificate>]>, StoreError> {
        let known = self.known.clone();
        self.run_in(turn_of(&app), move |t| known.certificates(t, &app)).await
    }

    /// Those of all apps that nothing opens.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn unreadable_certificates(&self) -> Result<Vec<Unreadable>, StoreError> {
        let vault = self.vault.clone();
        self.run(move |t| {
            let sql = format!("SELECT {COLUMNS} FROM certificates ORDER BY app, name");
            let rows = t.prepare_cached(&sql)?.query_map([] as [&str; 0], read)?.collect::<Result<Vec<_>, _>>()?;
            Ok(rows.into_iter().filter_map(|row| built(&vault, row).err()).collect())
        })
        .await
    }

    /// # Errors
    /// [`StoreError`]; [`StoreError::Sealed`] when nothing opens it.
    pub async fn certificate(&self, app: String, name: String) -> Result<Option<Certificate>, StoreError> {
        let vault = self.vault.clone();
        self.run_in(turn_of(&app), move |t| find(t, &vault, &app, &name)).await
    }

    /// The certificate whose receipts are sent to `path`, by the rule that makes such paths of app and name. Where no
    /// certificate's are, none is opened.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Sealed`] when nothing opens it.
    pub async fn certificate_by_path(
        &self,
        path: String,
        path_of: impl Fn(&str, &str) -> String + Send + 'static,
    ) -> Result<Option<Arc<Certificate>>, StoreError> {
        let known = self.known.clone();
        self.run(move |t| {
            let Some((app, name)) = known.by_path(t, &path, path_of)? else { return Ok(None) };
            known.certificate(t, &app, &name)?.map_err(|_| StoreError::Sealed(UNREADABLE.to_owned()))
        })
        .await
    }

    /// Returns whether there is one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn enable_certificate(&self, app: String, name: String, enabled: bool) -> Result<bool, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            let sql = "UPDATE certificates SET enabled = ?3 WHERE app = ?1 AND name = ?2";
            let changed = t.execute(sql, params![app, name, enabled])?;
            edition::next(t)?;
            Ok(changed > 0)
        })
        .await
    }

    /// Returns whether there was one. Its bindings stay: a certificate put back finds them again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_certificate(&self, app: String, name: String) -> Result<bool, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            let gone = t.execute("DELETE FROM certificates WHERE app = ?1 AND name = ?2", params![&app, &name])?;
            edition::next(t)?;
            Ok(gone > 0)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const APP: &str = "org#app";

    #[tokio::test]
    async fn certificates_are_opened_once_and_again_only_after_a_change() {
        let home = tempfile::tempdir().expect("a directory");
        let vault = Vault::open(&home.path().join("key"), true).expect("a key");
        let store = Store::open(&home.path().join("db"), vault).expect("a store");
        let put =
            |name: &str| store.put_certificate(Certificate::new(APP.into(), name.into(), Vendor::Honor, json!({})), 1);
        let known = || async { store.known_certificates(APP.into()).await.expect("read") };
        assert!(known().await.is_empty());
        put("b").await.expect("stored");
        let first = known().await;
        assert!(Arc::ptr_eq(&first[0], &known().await[0]), "nothing was opened again");
        put("a").await.expect("stored");
        let names: Vec<String> = known().await.iter().map(|certificate| certificate.name.clone()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(store.enable_certificate(APP.into(), "b".into(), false).await.expect("stored"));
        assert!(!known().await[1].enabled, "a change is seen");
        let spoil =
            |t: &Transaction<'_>| t.execute("UPDATE certificates SET fields = 'x' WHERE name = 'a'", [] as [&str; 0]);
        store.run(move |t| spoil(t).and_then(|_| edition::next(t))).await.expect("stored");
        assert_eq!(known().await.len(), 1, "one that cannot be opened hides no other");
        assert!(store.known_certificates("org#other".into()).await.expect("read").is_empty());
    }
}
