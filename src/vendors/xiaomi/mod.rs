//! Xiaomi MiPush.

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
    name: "xiaomi",
    title: "Xiaomi MiPush",
    certificate_key: "MICertificateName",
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
        receipts: Some(Receipts { proof_header: None, prove: unproven, read: receipt::read }),
    },
};

/// 64 characters of standard base64 in samples, `+` and `/` included.
fn check_token(token: &str) -> Result<(), TokenShapeError> {
    within(Vendor::Xiaomi, token, (20, 255), |c| c.is_ascii_alphanumeric() || "+/=".contains(c))
}
