//! vivo Push.

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
#[cfg(feature = "gateway")]
use super::facts::{Cloud, Receipts, android};
#[cfg(feature = "gateway")]
use super::receipt::unproven;
use super::token::{TokenShapeError, within};

pub(super) static FACTS: Facts = Facts {
    name: "vivo",
    title: "vivo Push",
    certificate_key: "VIVOCertificateName",
    certificate_name: "`appId#appKey`",
    check_name,
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

/// 23 digits (older), or `v2-` and more than 50 characters.
fn check_token(token: &str) -> Result<(), TokenShapeError> {
    match token.strip_prefix("v2-") {
        Some(rest) => within(Vendor::Vivo, rest, (48, 200), |c| c.is_ascii_alphanumeric() || "_-.=+/".contains(c)),
        None if token.len() == 23 && token.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        None => Err(TokenShapeError::Form("a vivo token has 23 digits, or starts with `v2-`")),
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    match name.split_once('#') {
        Some((id, key)) if !id.is_empty() && !key.is_empty() => Ok(()),
        _ => Err("a vivo certificate name is `appId#appKey`"),
    }
}
