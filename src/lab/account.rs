//! An app's account at each vendor, in the vendor's cloud and at the gateway: made up, but whole.

use crate::vendor::Vendor;
use rcgen::KeyPair;
use serde_json::{Value, json};
use std::path::Path;

const PACKAGE: &str = "com.acme.demo";
const SECRET: &str = "lab-app-secret";

/// One app at one vendor.
pub(super) struct Account {
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
    /// # Errors
    /// When no key can be made.
    pub fn new(vendor: Vendor) -> Result<Self, String> {
        let (certificate, app_id, fields, keys) = match vendor {
            Vendor::Xiaomi => (
                "2882303761517000001",
                "2882303761517000001",
                json!({ "app_secret": SECRET, "package": PACKAGE }),
                json!({}),
            ),
            Vendor::Huawei => ("104412345", "104412345", json!({ "client_secret": SECRET }), json!({})),
            Vendor::Meizu => ("110440", "110440", json!({ "app_secret": SECRET, "package": PACKAGE }), json!({})),
            Vendor::Oppo => ("9f2c7a10b3d84e65", "9f2c7a10b3d84e65", json!({ "master_secret": SECRET }), json!({})),
            Vendor::Vivo => ("10004#25509283", "10004#25509283", json!({ "app_secret": SECRET }), json!({})),
            Vendor::Honor => (
                "104433221",
                "104433221",
                json!({ "client_id": "honor-client", "client_secret": SECRET }),
                json!({ "client_id": "honor-client" }),
            ),
            Vendor::Apns => {
                let key = KeyPair::generate().map_err(|e| e.to_string())?.serialize_pem();
                let fields =
                    json!({ "key": key, "key_id": "ABC123DEFG", "team_id": "DEF123GHIJ", "bundle_id": PACKAGE });
                ("acme-apns", PACKAGE, fields, json!({ "key_id": "ABC123DEFG", "team_id": "DEF123GHIJ" }))
            }
        };
        let secret = fields["key"].as_str().unwrap_or(SECRET);
        let registration =
            json!({ "vendor": vendor, "id": app_id, "secret": secret, "package": PACKAGE, "keys": keys });
        Ok(Self { vendor, certificate: certificate.to_owned(), app_id: app_id.to_owned(), fields, registration })
    }
}

/// The gateway's `[vendors]` section: every vendor is at the emulated clouds.
pub(super) fn vendors_section(clouds: &str, ca_file: &Path) -> String {
    let keys = [
        "xiaomi_url",
        "huawei_oauth_url",
        "huawei_push_url",
        "meizu_url",
        "oppo_url",
        "vivo_url",
        "honor_oauth_url",
        "honor_push_url",
        "apns_url",
        "apns_sandbox_url",
    ];
    let urls: String = keys.iter().map(|key| format!("{key} = '{clouds}'\n")).collect();
    format!("[vendors]\n{urls}ca_file = '{}'\n", ca_file.display())
}
