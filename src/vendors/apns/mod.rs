//! Apple's APNs.

#[cfg(feature = "gateway")]
mod call;
#[cfg(feature = "gateway")]
mod certificate;
#[cfg(feature = "gateway")]
mod ext;
mod rom;

use super::Vendor;
#[cfg(feature = "gateway")]
use super::facts::Cloud;
use super::facts::Facts;
use super::facts::any_name;
use super::token::{TokenShapeError, within};

pub(super) static FACTS: Facts = Facts {
    name: "apns",
    title: "Apple's APNs",
    certificate_key: "APNsCertificateName",
    certificate_name: "of your choice",
    check_name: any_name,
    check_token,
    any_case: true,
    rom: rom::ROM,
    #[cfg(feature = "gateway")]
    cloud: Cloud {
        hosts: call::HOSTS,
        fields: certificate::FIELDS,
        ext: |_| "em_apns_ext",
        ext_objects: ext::OBJECTS,
        protocol: call::protocol,
        receipts: None,
    },
};

/// Hexadecimal of a variable number of bytes; Apple says not to fix the length.
fn check_token(token: &str) -> Result<(), TokenShapeError> {
    within(Vendor::Apns, token, (64, 200), |c| c.is_ascii_hexdigit())?;
    if token.len().is_multiple_of(2) {
        Ok(())
    } else {
        Err(TokenShapeError::Form("an apns token has an even number of hexadecimal digits"))
    }
}
