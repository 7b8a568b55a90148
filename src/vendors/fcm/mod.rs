//! Google's Firebase Cloud Messaging.

#[cfg(feature = "gateway")]
mod call;
#[cfg(feature = "gateway")]
mod certificate;
#[cfg(feature = "gateway")]
mod ext;
mod rom;

use super::Vendor;
use super::facts::Facts;
use super::facts::any_name;
#[cfg(feature = "gateway")]
use super::facts::{Cloud, android};
use super::token::{TokenShapeError, within};

pub(super) static FACTS: Facts = Facts {
    name: "fcm",
    title: "Firebase Cloud Messaging",
    certificate_key: "FCMCertificateName",
    certificate_name: "sender id (project number)",
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
        receipts: None,
    },
};

/// Opaque by Firebase's word ("Manage FCM registration tokens"); `...:APA91b...` of about 160 characters today.
fn check_token(token: &str) -> Result<(), TokenShapeError> {
    within(Vendor::Fcm, token, (20, 4096), |c| c.is_ascii_graphic())
}
