//! The shape of what is known about one vendor.

use super::TokenShapeError;
#[cfg(feature = "gateway")]
use super::call::Protocol;
#[cfg(feature = "gateway")]
use super::certificate::{Certificate, Field};
#[cfg(feature = "gateway")]
use super::ext::Object;
#[cfg(feature = "gateway")]
use super::receipt::{Incoming, Receipt, Refused};
use super::rom::Rom;
#[cfg(feature = "gateway")]
use serde::{Deserialize, Serialize};
#[cfg(feature = "gateway")]
use std::collections::BTreeMap;

/// One vendor.
pub struct Facts {
    /// As it is written everywhere: in lower case.
    pub name: &'static str,
    /// As people write it, with what the service is called.
    pub title: &'static str,
    /// The plugin's key for the certificate's name.
    pub certificate_key: &'static str,
    /// What that name is at this vendor.
    pub certificate_name: &'static str,
    /// Whether the vendor's rule can produce the name.
    pub check_name: fn(&str) -> Result<(), &'static str>,
    pub check_token: fn(&str) -> Result<(), TokenShapeError>,
    /// A token is the same in capital and in small letters.
    pub any_case: bool,
    pub rom: Rom,
    #[cfg(feature = "gateway")]
    pub cloud: Cloud,
}

/// For a vendor in whose addresses the name stands.
pub(super) fn in_a_path(name: &str) -> Result<(), &'static str> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if plain { Ok(()) } else { Err("this vendor's certificate name is an id of letters and digits") }
}

/// The sender's object for Android.
#[cfg(feature = "gateway")]
pub(super) fn android(_certificate: &Certificate) -> &'static str {
    "em_android_push_ext"
}

/// For a vendor whose certificates may have any name.
pub(super) const fn any_name(_name: &str) -> Result<(), &'static str> {
    Ok(())
}

/// The vendor's servers, and how they are spoken to.
#[cfg(feature = "gateway")]
pub struct Cloud {
    pub hosts: &'static [Host],
    /// What a certificate holds beside its name.
    pub fields: &'static [Field],
    /// The sender's object in a message's `ext` that is for what this certificate reaches.
    pub ext: fn(&Certificate) -> &'static str,
    /// What a sender may say there.
    pub ext_objects: &'static [Object],
    /// The calls, to these hosts.
    pub protocol: fn(&Hosts) -> Box<dyn Protocol>,
    pub receipts: Option<Receipts>,
}

/// How a vendor reports what became of a notification.
#[cfg(feature = "gateway")]
pub struct Receipts {
    /// The header with its proof.
    pub proof_header: Option<&'static str>,
    /// Whether the vendor sent it. What is given is the proof itself, where no two callbacks have the same.
    pub prove: fn(&Certificate, &Incoming<'_>) -> Result<Option<String>, Refused>,
    /// `None`: not in this vendor's form.
    pub read: fn(&Incoming<'_>) -> Option<Vec<Receipt>>,
}

/// One server of a vendor: the setting's key below `vendors`, and its production address in mainland China.
#[cfg(feature = "gateway")]
pub struct Host {
    pub key: &'static str,
    pub url: &'static str,
}

/// Where the vendors' servers are, by the settings' keys.
#[cfg(feature = "gateway")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, String>")]
pub struct Hosts(BTreeMap<String, String>);

#[cfg(feature = "gateway")]
impl Default for Hosts {
    fn default() -> Self {
        let hosts = super::Vendor::ORDER.into_iter().flat_map(|vendor| vendor.cloud().hosts);
        Self(hosts.map(|host| (host.key.to_owned(), host.url.to_owned())).collect())
    }
}

#[cfg(feature = "gateway")]
impl From<BTreeMap<String, String>> for Hosts {
    fn from(given: BTreeMap<String, String>) -> Self {
        let mut all = Self::default();
        all.0.extend(given);
        all
    }
}

#[cfg(feature = "gateway")]
impl Hosts {
    /// The address without a slash at its end; the vendor's own where none is set.
    pub fn at(&self, host: &Host) -> &str {
        self.0.get(host.key).map_or(host.url, String::as_str).trim_end_matches('/')
    }

    /// Every setting and its value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, url)| (key.as_str(), url.as_str()))
    }
}
