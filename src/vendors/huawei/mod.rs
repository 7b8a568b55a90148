//! Huawei Push Kit.

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
use super::facts::{Cloud, Receipts};
use super::token::{TokenShapeError, within};

pub(super) static FACTS: Facts = Facts {
    name: "huawei",
    title: "Huawei Push Kit",
    certificate_key: "HMSCertificateName",
    certificate_name: "App ID (client ID)",
    check_name: in_a_path,
    check_token,
    any_case: false,
    rom: rom::ROM,
    #[cfg(feature = "gateway")]
    cloud: Cloud {
        hosts: call::HOSTS,
        fields: certificate::FIELDS,
        ext: call::ext,
        ext_objects: ext::OBJECTS,
        protocol: call::protocol,
        receipts: Some(Receipts {
            proof_header: Some("x-huawei-callback-id"),
            prove: receipt::prove,
            read: receipt::read,
        }),
    },
};

/// About 130 characters in HMS samples; HarmonyOS ones start and run differently.
fn check_token(token: &str) -> Result<(), TokenShapeError> {
    within(Vendor::Huawei, token, (32, 512), |c| c.is_ascii_alphanumeric() || "_.=-".contains(c))
}
