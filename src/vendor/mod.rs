//! The seven push vendors: their names, their order, their certificate keys and token shapes.

mod token;

pub use token::TokenShapeError;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A maker's push service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    Xiaomi,
    Huawei,
    Meizu,
    Oppo,
    Vivo,
    Honor,
    Apns,
}

impl Vendor {
    /// The documented order in which a device's channels are tried.
    pub const ORDER: [Self; 7] =
        [Self::Xiaomi, Self::Huawei, Self::Meizu, Self::Oppo, Self::Vivo, Self::Honor, Self::Apns];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Xiaomi => "xiaomi",
            Self::Huawei => "huawei",
            Self::Meizu => "meizu",
            Self::Oppo => "oppo",
            Self::Vivo => "vivo",
            Self::Honor => "honor",
            Self::Apns => "apns",
        }
    }

    /// The key under which the uni-app plugin's option block names this vendor's certificate.
    pub const fn certificate_key(self) -> &'static str {
        match self {
            Self::Xiaomi => "MICertificateName",
            Self::Huawei => "HMSCertificateName",
            Self::Meizu => "MEIZUCertificateName",
            Self::Oppo => "OPPOCertificateName",
            Self::Vivo => "VIVOCertificateName",
            Self::Honor => "HONORCertificateName",
            Self::Apns => "APNsCertificateName",
        }
    }

    /// Refuses what can never be a device token of this vendor.
    ///
    /// # Errors
    /// [`TokenShapeError`] with the reason. The rules only exclude the impossible (wrong alphabet,
    /// absurd length): a guess that is too strict would lose devices.
    pub fn check_token(self, token: &str) -> Result<(), TokenShapeError> {
        token::check(self, token)
    }

    /// Refuses a certificate name that the vendor's rule cannot produce: vivo's is `appId#appKey`.
    ///
    /// # Errors
    /// A sentence that says what the name must look like.
    pub fn check_certificate_name(self, name: &str) -> Result<(), String> {
        if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
            return Err(format!("a {self} certificate name has 1 to 255 printable characters"));
        }
        if self == Self::Vivo && !name.split_once('#').is_some_and(|(id, key)| !id.is_empty() && !key.is_empty()) {
            return Err("a vivo certificate name is `appId#appKey`".to_owned());
        }
        Ok(())
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no vendor.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no push channel; one of xiaomi, huawei, meizu, oppo, vivo, honor, apns")]
pub struct UnknownVendor(String);

impl FromStr for Vendor {
    type Err = UnknownVendor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ORDER
            .into_iter()
            .find(|vendor| vendor.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownVendor(text.to_owned()))
    }
}
