//! Push certificates: a vendor's credentials under the name devices bind to.

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
    pub fn fields_text(&self) -> String {
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
