//! Honor Push.

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
use super::facts::in_a_path;
#[cfg(feature = "gateway")]
use super::facts::{Cloud, Receipts, android};
#[cfg(feature = "gateway")]
use super::receipt::unproven;
use super::token::{TokenShapeError, within};

pub(super) static FACTS: Facts = Facts {
    name: "honor",
    title: "Honor Push",
    certificate_key: "HONORCertificateName",
    certificate_name: "App ID",
    check_name: in_a_path,
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
        receipts: Some(Receipts { proof_header: None, prove: unproven, read: receipt::read }),
    },
};

/// No public sample: anything printable without a space.
fn check_token(token: &str) -> Result<(), TokenShapeError> {
    within(Vendor::Honor, token, (20, 512), |c| c.is_ascii_graphic())
}
