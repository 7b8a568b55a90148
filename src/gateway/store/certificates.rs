//! Push certificates, stored sealed.

use super::edition;
use super::limits;
use super::sql::{OptionalExtension as _, Row, Transaction, params};
use super::{Store, StoreError, Vault, as_i64};
use crate::gateway::certificate::Certificate;
use crate::vendor::Vendor;

const COLUMNS: &str = "app, name, vendor, fields, enabled";

fn read(row: &mut Row) -> Result<(String, String, String, String, bool), StoreError> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

fn place(app: &str, name: &str) -> String {
    format!("{app}/{name}")
}

fn built(
    vault: &Vault,
    (app, name, vendor, fields, enabled): (String, String, String, String, bool),
) -> Result<Certificate, StoreError> {
    let vendor = vendor.parse().map_err(|e: crate::vendor::UnknownVendor| StoreError::Corrupt(e.to_string()))?;
    let fields = serde_json::from_str(&vault.open_text(&fields, &place(&app, &name))?)
        .map_err(|e| StoreError::Corrupt(e.to_string()))?;
    let mut certificate = Certificate::new(app, name, vendor, fields);
    certificate.enabled = enabled;
    Ok(certificate)
}

pub(super) fn find(
    t: &Transaction<'_>,
    vault: &Vault,
    app: &str,
    name: &str,
) -> Result<Option<Certificate>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM certificates WHERE app = ?1 AND name = ?2");
    t.prepare_cached(&sql)?.query_row(params![app, name], read).optional()?.map(|row| built(vault, row)).transpose()
}

impl Store {
    /// Adds a certificate, or replaces the one of that name without a gap.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put_certificate(&self, certificate: Certificate, now_ms: u64) -> Result<(), StoreError> {
        let vault = self.vault.clone();
        self.run(move |t| {
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

    /// # Errors
    /// [`StoreError`].
    pub async fn certificates(&self, app: String) -> Result<Vec<Certificate>, StoreError> {
        let vault = self.vault.clone();
        self.run(move |t| {
            let sql = format!("SELECT {COLUMNS} FROM certificates WHERE app = ?1 ORDER BY name");
            let rows = t.prepare_cached(&sql)?.query_map([&app], read)?.collect::<Result<Vec<_>, _>>()?;
            rows.into_iter().map(|row| built(&vault, row)).collect()
        })
        .await
    }

    /// # Errors
    /// [`StoreError`].
    pub async fn certificate(&self, app: String, name: String) -> Result<Option<Certificate>, StoreError> {
        let vault = self.vault.clone();
        self.run(move |t| find(t, &vault, &app, &name)).await
    }

    /// The certificates of a vendor, of all apps; those that cannot be read are left out.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn certificates_of(&self, vendor: Vendor) -> Result<Vec<Certificate>, StoreError> {
        let vault = self.vault.clone();
        self.run(move |t| {
            let sql = format!("SELECT {COLUMNS} FROM certificates WHERE vendor = ?1");
            let rows = t.prepare_cached(&sql)?.query_map([vendor.as_str()], read)?.collect::<Result<Vec<_>, _>>()?;
            Ok(rows.into_iter().filter_map(|row| built(&vault, row).ok()).collect())
        })
        .await
    }

    /// Returns whether there is one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn enable_certificate(&self, app: String, name: String, enabled: bool) -> Result<bool, StoreError> {
        self.run(move |t| {
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
        self.run(move |t| {
            let gone = t.execute("DELETE FROM certificates WHERE app = ?1 AND name = ?2", params![&app, &name])?;
            edition::next(t)?;
            Ok(gone > 0)
        })
        .await
    }
}
