//! OPPO Push.

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
#[cfg(feature = "gateway")]
use super::receipt::unproven;
use super::token::{TokenShapeError, within};

pub(super) static FACTS: Facts = Facts {
    name: "oppo",
    title: "OPPO Push",
    certificate_key: "OPPOCertificateName",
    certificate_name: "AppKey",
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
        receipts: Some(Receipts { proof_header: None, prove: unproven, read: receipt::read }),
    },
};

/// 32 hexadecimal digits, with an optional `CN_` or `OPPO_CN_` before them.
fn check_token(token: &str) -> Result<(), TokenShapeError> {
    let body = token.strip_prefix("OPPO_CN_").or_else(|| token.strip_prefix("CN_")).unwrap_or(token);
    within(Vendor::Oppo, body, (32, 128), |c| c.is_ascii_alphanumeric())
}
