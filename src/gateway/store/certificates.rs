//! Push certificates: a vendor's credentials under the name devices bind to.

use super::{Store, StoreError, as_i64};
use crate::vendor::Vendor;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};
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
}

impl Certificate {
    pub fn new(app: String, name: String, vendor: Vendor, fields: Json) -> Self {
        Self { app, name, vendor, enabled: true, fields }
    }

    /// An optional field; an empty one counts as absent.
    pub fn field(&self, key: &str) -> Option<String> {
        self.fields[key].as_str().filter(|v| !v.is_empty()).map(str::to_owned)
    }

    /// A required field; validated on entry, so it is there.
    pub fn secret(&self, key: &str) -> &str {
        self.fields[key].as_str().unwrap_or_default()
    }

    /// The fields this vendor's certificates must have, and which of them are secrets.
    pub const fn required(vendor: Vendor) -> &'static [&'static str] {
        match vendor {
            Vendor::Xiaomi | Vendor::Meizu => &["app_secret", "package"],
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
            map.retain(|key, _| !key.contains("secret") && key != "key" && key != "password");
        }
        serde_json::json!({ "name": self.name, "vendor": self.vendor, "enabled": self.enabled, "fields": fields })
    }

    /// # Errors
    /// A sentence that names what is missing or malformed.
    pub fn check(&self) -> Result<(), String> {
        self.vendor.check_certificate_name(&self.name)?;
        let Some(map) = self.fields.as_object() else { return Err("fields must be an object of texts".to_owned()) };
        if let Some((key, _)) = map.iter().find(|(_, value)| !value.is_string()) {
            return Err(format!("field `{key}` must be a text"));
        }
        match Self::required(self.vendor).iter().find(|key| self.field(key).is_none()) {
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

fn read(row: &Row<'_>) -> rusqlite::Result<(String, String, String, String, bool)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

fn built(
    (app, name, vendor, fields, enabled): (String, String, String, String, bool),
) -> Result<Certificate, StoreError> {
    Ok(Certificate {
        vendor: vendor.parse().map_err(|e: crate::vendor::UnknownVendor| StoreError::Corrupt(e.to_string()))?,
        fields: serde_json::from_str(&fields).map_err(|e| StoreError::Corrupt(e.to_string()))?,
        app,
        name,
        enabled,
    })
}

pub(super) fn find(t: &Transaction<'_>, app: &str, name: &str) -> Result<Option<Certificate>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM certificates WHERE app = ?1 AND name = ?2");
    t.prepare_cached(&sql)?.query_row([app, name], read).optional()?.map(built).transpose()
}

impl Store {
    /// Adds a certificate, or replaces the one of that name without a gap.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put_certificate(&self, certificate: Certificate, now_ms: u64) -> Result<(), StoreError> {
        self.run(move |t| {
            t.execute(
                "INSERT INTO certificates (app, name, vendor, fields, enabled, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (app, name) DO UPDATE SET vendor = excluded.vendor, fields = excluded.fields, enabled = excluded.enabled",
                params![
                    certificate.app, certificate.name, certificate.vendor.as_str(), certificate.fields.to_string(),
                    certificate.enabled, as_i64(now_ms)
                ],
            )?;
            Ok(())
        })
        .await
    }

    /// # Errors
    /// [`StoreError`].
    pub async fn certificates(&self, app: String) -> Result<Vec<Certificate>, StoreError> {
        self.run(move |t| {
            let sql = format!("SELECT {COLUMNS} FROM certificates WHERE app = ?1 ORDER BY name");
            let rows = t.prepare_cached(&sql)?.query_map([&app], read)?.collect::<Result<Vec<_>, _>>()?;
            rows.into_iter().map(built).collect()
        })
        .await
    }

    /// Returns whether there was one. Its bindings stay: a certificate put back finds them again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_certificate(&self, app: String, name: String) -> Result<bool, StoreError> {
        self.run(move |t| Ok(t.execute("DELETE FROM certificates WHERE app = ?1 AND name = ?2", [&app, &name])? > 0))
            .await
    }
}
