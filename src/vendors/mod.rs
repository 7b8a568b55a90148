//! The push vendors: all that is true about each, as values, in a folder of its own.
//!
//! ```text
//! registry --> a folder each --> Facts { name, certificate key, token, ... Cloud { fields, call, receipts } }
//! ```
//!
//! Agent and gateway walk the list and read a vendor's [`Facts`]; nobody else tells one from another. What only
//! the gateway needs is not in the agent's build.

#[macro_use]
mod registry;
mod facts;
pub mod rom;
mod token;

#[cfg(feature = "gateway")]
pub mod call;
#[cfg(feature = "gateway")]
pub mod certificate;
#[cfg(feature = "gateway")]
pub mod ext;
#[cfg(feature = "gateway")]
mod jwt;
#[cfg(feature = "gateway")]
mod lenient;
#[cfg(feature = "gateway")]
pub mod notification;
#[cfg(feature = "gateway")]
pub mod receipt;
#[cfg(feature = "gateway")]
mod text;

pub use facts::Facts;
#[cfg(feature = "gateway")]
pub use facts::{Cloud, Host, Hosts};
#[cfg(feature = "lab")]
pub(crate) use registry::each_vendor;
pub use token::TokenShapeError;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! declare {
    ($($folder:ident $name:ident)*) => {
        $(mod $folder;)*

        /// A push service.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Vendor {
            $($name,)*
        }

        impl Vendor {
            /// The documented order in which a device's channels are tried.
            pub const ORDER: [Self; [$(stringify!($folder)),*].len()] = [$(Self::$name),*];

            /// What is true about it.
            pub const fn facts(self) -> &'static Facts {
                match self {
                    $(Self::$name => &$folder::FACTS,)*
                }
            }
        }
    };
}

each_vendor!(declare);

pub use registry::PARTED;

impl Vendor {
    pub const fn as_str(self) -> &'static str {
        self.facts().name
    }

    /// The key under which the uni-app plugin's option block names this vendor's certificate.
    pub const fn certificate_key(self) -> &'static str {
        self.facts().certificate_key
    }

    /// Refuses what can never be a device token of this vendor.
    ///
    /// # Errors
    /// [`TokenShapeError`] with the reason. The rules only exclude the impossible (wrong alphabet,
    /// absurd length): a guess that is too strict would lose devices.
    pub fn check_token(self, token: &str) -> Result<(), TokenShapeError> {
        (self.facts().check_token)(token)
    }

    /// The one way in which a token is kept and compared, however an app writes it.
    pub fn one_form(self, token: &str) -> String {
        if self.facts().any_case { token.to_ascii_lowercase() } else { token.to_owned() }
    }

    /// Refuses a certificate name that the vendor's rule cannot produce.
    ///
    /// # Errors
    /// A sentence that says what the name must look like.
    pub fn check_certificate_name(self, name: &str) -> Result<(), String> {
        if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
            return Err(format!("a {self} certificate name has 1 to 255 printable characters"));
        }
        (self.facts().check_name)(name).map_err(str::to_owned)
    }

    pub const fn rom(self) -> &'static rom::Rom {
        &self.facts().rom
    }

    #[cfg(feature = "gateway")]
    pub const fn cloud(self) -> &'static Cloud {
        &self.facts().cloud
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no vendor.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no push channel; one of {known}", known = Vendor::ORDER.map(Vendor::as_str).join(", "))]
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
