//! Meizu Flyme push.

#[cfg(feature = "gateway")]
mod call;
#[cfg(feature = "gateway")]
mod certificate;
#[cfg(feature = "gateway")]
mod ext;
#[cfg(feature = "gateway")]
mod receipt;
mod rom;

use super::Vendor;
use super::facts::Facts;
use super::facts::any_name;
#[cfg(feature = "gateway")]
use super::facts::{Cloud, Receipts, android};
use super::token::{TokenShapeError, within};

pub(super) static FACTS: Facts = Facts {
    name: "meizu",
    title: "Meizu Flyme push",
    certificate_key: "MEIZUCertificateName",
    certificate_name: "AppID",
    check_name: any_name,
    check_token,
    any_case: false,
    rom: rom::ROM,
    #[cfg(feature = "gateway")]
    cloud: Cloud {
        hosts: call::HOSTS,
        fields: certificate::FIELDS,
        ext: android,
        ext_objects: ext::OBJECTS,
        protocol: call::protocol,
        receipts: Some(Receipts { proof_header: None, prove: receipt::prove, read: receipt::read }),
    },
};

/// 45 characters in samples.
fn check_token(token: &str) -> Result<(), TokenShapeError> {
    within(Vendor::Meizu, token, (32, 64), |c| c.is_ascii_alphanumeric())
}
