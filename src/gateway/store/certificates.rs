//! Push certificates: a vendor's credentials under the name devices bind to.

use super::edition;
use super::sql::{OptionalExtension as _, Row, Transaction, params};
use super::{Store, StoreError, Vault, as_i64};
use crate::secret::fingerprint;
use crate::vendor::Vendor;
use serde_json::Value as Json;
use std::fmt;

/// One vendor account of one app.
#[derive(Clone, PartialEq)]
pub struct Certificate {
    pub app: String,
    pub name: String,
    pub vendor: Vendor,
    pub enabled: bool,
    fields: Json,
    identity: String,
}

impl Certificate {
    pub fn new(app: String, name: String, vendor: Vendor, fields: Json) -> Self {
        let identity = format!("{app}/{name}/{}", fingerprint(&fields.to_string()));
        Self { app, name, vendor, enabled: true, fields, identity }
    }

    /// One that was replaced is another: this differs when any of its fields does.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// An optional field; an empty one counts as absent.
    pub fn field(&self, key: &str) -> Option<String> {
        self.fields[key].as_str().filter(|v| !v.is_empty()).map(str::to_owned)
    }

    /// A required field; validated on entry, so it is there.
    pub fn secret(&self, key: &str) -> &str {
        self.fields[key].as_str().unwrap_or_default()
    }

    /// All fields as one text. Never to be shown.
    fn fields_text(&self) -> String {
        self.fields.to_string()
    }

    /// The fields this vendor's certificates must have, and which of them are secrets.
    pub fn required(&self) -> &'static [&'static str] {
        match self.vendor {
            Vendor::Xiaomi | Vendor::Meizu => &["app_secret", "package"],
            // HarmonyOS NEXT: a service account instead of a client secret.
            Vendor::Huawei if self.field("private_key").is_some() => &["project_id", "key_id", "sub_account"],
            Vendor::Huawei => &["client_secret"],
            Vendor::Oppo => &["master_secret"],
            Vendor::Vivo => &["app_secret"],
            Vendor::Honor => &["client_id", "client_secret"],
            Vendor::Apns => &["key", "key_id", "team_id", "bundle_id"],
        }
    }

    /// What may be shown: every secret is left out.
    pub fn shown(&self) -> Json {
        let mut fields = self.fields.clone();
        if let Json::Object(map) = &mut fields {
            map.retain(|key, _| {
                !["secret", "private", "password", "token"].iter().any(|w| key.contains(w)) && key != "key"
            });
        }
        serde_json::json!({ "name": self.name, "vendor": self.vendor, "enabled": self.enabled, "fields": fields })
    }

    /// Only shape and presence; whether a key can sign is for who uses it.
    ///
    /// # Errors
    /// A sentence that names what is missing or malformed.
    pub fn check(&self) -> Result<(), String> {
        self.vendor.check_certificate_name(&self.name)?;
        let Some(map) = self.fields.as_object() else { return Err("fields must be an object of texts".to_owned()) };
        if let Some((key, _)) = map.iter().find(|(_, value)| !value.is_string()) {
            return Err(format!("field `{key}` must be a text"));
        }
        if let Some(environment) = self.field("environment")
            && !["production", "development"].contains(&environment.as_str())
        {
            return Err(format!("the field `environment` is `{environment}`; production or development"));
        }
        match self.required().iter().find(|key| self.field(key).is_none()) {
            Some(key) => Err(format!("a {} certificate needs the field `{key}`", self.vendor)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} {} {})", self.app, self.vendor, self.name)
    }
}

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
    Ok(Certificate { enabled, ..Certificate::new(app, name, vendor, fields) })
}

pub(super) fn find(
    t: &Transaction<'_>,
    vault: &Vault,
    app: &str,
    name: &str,
) -> Result<Option<Certificate>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM certificates WHERE app = ?1 AND name = ?2");
    t.prepare_cached(&sql)?.query_row([app, name], read).optional()?.map(|row| built(vault, row)).transpose()
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
            let gone = t.execute("DELETE FROM certificates WHERE app = ?1 AND name = ?2", [&app, &name])?;
            edition::next(t)?;
            Ok(gone > 0)
        })
        .await
    }
}
