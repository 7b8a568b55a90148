//! Which push channel is in use, and why each of the others is not.
//!
//! A channel becomes active only when the device's ROM can carry it, its certificate is configured
//! and a token is in hand. Until then, and whenever none qualifies, the long connection is kept.

use crate::vendors::Vendor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Why a channel is not the active one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhyNot {
    /// The device's ROM belongs to another maker, or to none with a push service.
    NotThisDevice,
    /// No certificate name is configured for it.
    NoCertificate,
    /// The configured certificate name cannot be one of this vendor's.
    BadCertificateName,
    /// The device and the configuration would allow it; no token has arrived yet.
    NoToken,
    /// The vendor has called the token in hand dead; another one is awaited.
    TokenDead,
    /// The operator's order leaves it out.
    NotInOrder,
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotThisDevice => "not this device's maker",
            Self::NoCertificate => "no certificate configured",
            Self::BadCertificateName => "the certificate name is not of this vendor's form",
            Self::NoToken => "no token yet",
            Self::TokenDead => "the vendor says that the token is dead; a new one is awaited",
            Self::NotInOrder => "left out of the configured order",
        })
    }
}

/// What the choice is made from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The channel this device's ROM can carry.
    pub candidate: Option<Vendor>,
    pub order: &'a [Vendor],
    pub certificates: &'a BTreeMap<Vendor, String>,
    /// Vendors of which a token is in hand.
    pub tokens: &'a [Vendor],
    /// Vendors that called the token in hand dead.
    pub dead: &'a [Vendor],
}

/// The outcome of the choice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Choice {
    pub active: Option<Vendor>,
    /// One entry for each vendor that is not active, in the documented order.
    pub why_not: Vec<(Vendor, WhyNot)>,
}

/// Chooses the first channel of the order that qualifies.
pub fn choose(facts: &Facts<'_>) -> Choice {
    let obstacle = |vendor: Vendor| {
        if !facts.order.contains(&vendor) {
            return Some(WhyNot::NotInOrder);
        }
        if facts.candidate != Some(vendor) {
            return Some(WhyNot::NotThisDevice);
        }
        match facts.certificates.get(&vendor) {
            None => Some(WhyNot::NoCertificate),
            Some(name) if vendor.check_certificate_name(name).is_err() => Some(WhyNot::BadCertificateName),
            Some(_) if facts.dead.contains(&vendor) => Some(WhyNot::TokenDead),
            Some(_) if !facts.tokens.contains(&vendor) => Some(WhyNot::NoToken),
            Some(_) => None,
        }
    };
    let active = facts.order.iter().copied().find(|vendor| obstacle(*vendor).is_none());
    let why_not = Vendor::ORDER
        .into_iter()
        .filter(|vendor| Some(*vendor) != active)
        .map(|vendor| (vendor, obstacle(vendor).unwrap_or(WhyNot::NotInOrder)))
        .collect();
    Choice { active, why_not }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(candidate: Option<Vendor>, certificate: Option<&str>, tokens: &[Vendor]) -> Choice {
        let certificates = certificate.map(|name| (Vendor::Vivo, name.to_owned())).into_iter().collect();
        choose(&Facts { candidate, order: &Vendor::ORDER, certificates: &certificates, tokens, dead: &[] })
    }

    fn why(choice: &Choice, vendor: Vendor) -> Option<WhyNot> {
        choice.why_not.iter().find(|(v, _)| *v == vendor).map(|(_, why)| *why)
    }

    #[test]
    fn a_channel_is_active_only_with_device_certificate_and_token() {
        let all = chosen(Some(Vendor::Vivo), Some("1#k"), &[Vendor::Vivo]);
        assert_eq!(all.active, Some(Vendor::Vivo));
        assert_eq!(all.why_not.len(), 6);
        let no_token = chosen(Some(Vendor::Vivo), Some("1#k"), &[]);
        assert_eq!((no_token.active, why(&no_token, Vendor::Vivo)), (None, Some(WhyNot::NoToken)));
        let no_certificate = chosen(Some(Vendor::Vivo), None, &[Vendor::Vivo]);
        assert_eq!(why(&no_certificate, Vendor::Vivo), Some(WhyNot::NoCertificate));
        let bad_name = chosen(Some(Vendor::Vivo), Some("1"), &[Vendor::Vivo]);
        assert_eq!(why(&bad_name, Vendor::Vivo), Some(WhyNot::BadCertificateName));
        let other_device = chosen(Some(Vendor::Oppo), Some("1#k"), &[Vendor::Vivo]);
        assert_eq!((other_device.active, why(&other_device, Vendor::Vivo)), (None, Some(WhyNot::NotThisDevice)));
    }

    #[test]
    fn a_vendor_outside_the_configured_order_is_never_chosen() {
        let certificates = BTreeMap::from([(Vendor::Vivo, "1#k".to_owned())]);
        let choice = choose(&Facts {
            candidate: Some(Vendor::Vivo),
            order: &[Vendor::Xiaomi],
            certificates: &certificates,
            tokens: &[Vendor::Vivo],
            dead: &[],
        });
        assert_eq!((choice.active, why(&choice, Vendor::Vivo)), (None, Some(WhyNot::NotInOrder)));
    }
}
