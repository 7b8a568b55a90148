//! An app's account at each vendor, in the vendor's cloud and at the gateway: made up, but whole.

use crate::vendors::{Hosts, Vendor};
use serde_json::{Value, json};
use std::path::Path;

pub const PACKAGE: &str = "com.acme.demo";
pub const SECRET: &str = "lab-app-secret";

/// A key for service accounts, of 2048 bits; good for nothing else, for everybody can read it.
pub fn rsa_key() -> &'static str {
    include_str!("rsa.pem")
}

/// Where any vendor will do.
pub const ANY: Vendor = Vendor::ORDER[0];

/// One app at one vendor.
pub struct Account {
    pub vendor: Vendor,
    /// The certificate's name at the gateway and in the agent's configuration.
    pub certificate: String,
    /// What the cloud knows the app by.
    pub app_id: String,
    /// The certificate's fields.
    pub fields: Value,
    /// What the cloud is told of the app.
    pub registration: Value,
}

impl Account {
    /// `keys`: what else the cloud knows the app by.
    pub fn new(vendor: Vendor, certificate: &str, app_id: &str, fields: Value, secret: &str, keys: &Value) -> Self {
        let registration =
            json!({ "vendor": vendor, "id": app_id, "secret": secret, "package": PACKAGE, "keys": keys });
        Self { vendor, certificate: certificate.to_owned(), app_id: app_id.to_owned(), fields, registration }
    }
}

/// The gateway's `[vendors]` section: every vendor is at the emulated clouds.
pub(super) fn vendors_section(clouds: &str, ca_file: &Path) -> String {
    let hosts = Hosts::default();
    let urls: String = hosts.iter().map(|(key, _)| format!("{key} = '{clouds}'\n")).collect();
    format!("[vendors]\n{urls}ca_file = '{}'\n", ca_file.display())
}
