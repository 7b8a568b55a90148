//! Which push channel is in use, and why each of the others is not.
//!
//! A channel becomes active only when the device can carry it, its certificate is configured and a token is in hand.
//! Until then, and whenever none qualifies, the long connection is kept. What the device can carry is a guess: the
//! operator's word overrules it, and so does an app that has a token of a vendor whose certificate is configured.

use crate::vendors::Vendor;
use crate::vendors::rom::Confidence;
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
    /// The operator named another channel.
    AnotherForced,
    /// It would do, but another that is surer or stands before it is active.
    AnotherActive,
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
            Self::AnotherForced => "the configuration forces another channel",
            Self::AnotherActive => "another channel is active",
        })
    }
}

/// What the choice is made from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The channel this device's ROM can carry, and how sure that is.
    pub candidate: Option<(Vendor, Confidence)>,
    /// The channel the operator named, whatever the device looks like.
    pub forced: Option<Vendor>,
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
    /// What makes the active one this device's.
    pub confidence: Option<Confidence>,
    /// One entry for each vendor that is not active, in the documented order.
    pub why_not: Vec<(Vendor, WhyNot)>,
}

/// Chooses the forced channel, else the device's own, else the first of the order of which a token is in hand.
pub fn choose(facts: &Facts<'_>) -> Choice {
    let confidence = |vendor: Vendor| match (facts.forced, facts.candidate) {
        (Some(forced), _) => (forced == vendor).then_some(Confidence::Forced),
        (None, Some((candidate, confidence))) if candidate == vendor => Some(confidence),
        _ => (facts.tokens.contains(&vendor) || facts.dead.contains(&vendor)).then_some(Confidence::Token),
    };
    let obstacle = |vendor: Vendor| {
        if confidence(vendor) != Some(Confidence::Forced) && !facts.order.contains(&vendor) {
            return Some(WhyNot::NotInOrder);
        }
        if let Some(name) = facts.certificates.get(&vendor)
            && vendor.check_certificate_name(name).is_err()
        {
            return Some(WhyNot::BadCertificateName);
        }
        match (confidence(vendor), facts.certificates.get(&vendor)) {
            (None, _) if facts.forced.is_some() => Some(WhyNot::AnotherForced),
            (None, _) | (Some(Confidence::Token), None) => Some(WhyNot::NotThisDevice),
            (Some(_), None) => Some(WhyNot::NoCertificate),
            (Some(_), Some(_)) if facts.dead.contains(&vendor) => Some(WhyNot::TokenDead),
            (Some(_), Some(_)) if !facts.tokens.contains(&vendor) => Some(WhyNot::NoToken),
            (Some(_), Some(_)) => None,
        }
    };
    let own = facts.forced.or(facts.candidate.map(|(vendor, _)| vendor));
    let active = own.into_iter().chain(facts.order.iter().copied()).find(|vendor| obstacle(*vendor).is_none());
    let why_not = Vendor::ORDER
        .into_iter()
        .filter(|vendor| Some(*vendor) != active)
        .map(|vendor| (vendor, obstacle(vendor).unwrap_or(WhyNot::AnotherActive)))
        .collect();
    Choice { active, confidence: active.and_then(confidence), why_not }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(candidate: Option<Vendor>, certificate: Option<&str>, tokens: &[Vendor]) -> Choice {
        let certificates = certificate.map(|name| (Vendor::Vivo, name.to_owned())).into_iter().collect();
        let candidate = candidate.map(|vendor| (vendor, Confidence::Rom));
        choose(&Facts {
            candidate,
            forced: None,
            order: &Vendor::ORDER,
            certificates: &certificates,
            tokens,
            dead: &[],
        })
    }

    fn why(choice: &Choice, vendor: Vendor) -> Option<WhyNot> {
        choice.why_not.iter().find(|(v, _)| *v == vendor).map(|(_, why)| *why)
    }

    #[test]
    fn a_channel_is_active_only_with_device_certificate_and_token() {
        let all = chosen(Some(Vendor::Vivo), Some("1#k"), &[Vendor::Vivo]);
        assert_eq!(all.active, Some(Vendor::Vivo));
        assert_eq!(all.why_not.len(), Vendor::ORDER.len() - 1);
        let no_token = chosen(Some(Vendor::Vivo), Some("1#k"), &[]);
        assert_eq!((no_token.active, why(&no_token, Vendor::Vivo)), (None, Some(WhyNot::NoToken)));
        let no_certificate = chosen(Some(Vendor::Vivo), None, &[Vendor::Vivo]);
        assert_eq!(why(&no_certificate, Vendor::Vivo), Some(WhyNot::NoCertificate));
        let bad_name = chosen(Some(Vendor::Vivo), Some("1"), &[Vendor::Vivo]);
        assert_eq!(why(&bad_name, Vendor::Vivo), Some(WhyNot::BadCertificateName));
        let other_device = chosen(Some(Vendor::Oppo), Some("1#k"), &[]);
        assert_eq!((other_device.active, why(&other_device, Vendor::Vivo)), (None, Some(WhyNot::NotThisDevice)));
    }

    #[test]
    fn a_token_in_hand_overrules_the_guess_where_a_certificate_is_configured() {
        for candidate in [None, Some(Vendor::Oppo)] {
            let choice = chosen(candidate, Some("1#k"), &[Vendor::Vivo]);
            assert_eq!((choice.active, choice.confidence), (Some(Vendor::Vivo), Some(Confidence::Token)));
            let no_certificate = chosen(candidate, None, &[Vendor::Vivo]);
            assert_eq!(why(&no_certificate, Vendor::Vivo), Some(WhyNot::NotThisDevice));
        }
        let certificates = BTreeMap::from([(Vendor::Vivo, "1#k".to_owned()), (Vendor::Xiaomi, "1".to_owned())]);
        let both = |candidate: Vendor| {
            choose(&Facts {
                candidate: Some((candidate, Confidence::Brand)),
                forced: None,
                order: &Vendor::ORDER,
                certificates: &certificates,
                tokens: &[Vendor::Xiaomi, Vendor::Vivo],
                dead: &[],
            })
        };
        let own = both(Vendor::Vivo);
        assert_eq!((own.active, why(&own, Vendor::Xiaomi)), (Some(Vendor::Vivo), Some(WhyNot::AnotherActive)));
        assert_eq!(both(Vendor::Meizu).active, Some(Vendor::Xiaomi), "the first of the order");
    }

    #[test]
    fn a_forced_channel_is_the_only_one() {
        let certificates = BTreeMap::from([(Vendor::Apns, "apple".to_owned()), (Vendor::Xiaomi, "1".to_owned())]);
        let forced = |tokens: &[Vendor]| {
            choose(&Facts {
                candidate: Some((Vendor::Xiaomi, Confidence::Rom)),
                forced: Some(Vendor::Apns),
                order: &[Vendor::Xiaomi],
                certificates: &certificates,
                tokens,
                dead: &[],
            })
        };
        let choice = forced(&[Vendor::Xiaomi, Vendor::Apns]);
        assert_eq!((choice.active, choice.confidence), (Some(Vendor::Apns), Some(Confidence::Forced)));
        let waits = forced(&[Vendor::Xiaomi]);
        assert_eq!((waits.active, why(&waits, Vendor::Xiaomi)), (None, Some(WhyNot::AnotherForced)));
        assert_eq!(why(&waits, Vendor::Apns), Some(WhyNot::NoToken));
    }

    #[test]
    fn a_certificate_name_that_cannot_be_used_is_named_on_every_device() {
        let placeholder = chosen(Some(Vendor::Oppo), Some("xxxxxx"), &[]);
        assert_eq!(why(&placeholder, Vendor::Vivo), Some(WhyNot::BadCertificateName));
    }

    #[test]
    fn a_vendor_outside_the_configured_order_is_never_chosen() {
        let certificates = BTreeMap::from([(Vendor::Vivo, "1#k".to_owned())]);
        let choice = choose(&Facts {
            candidate: Some((Vendor::Vivo, Confidence::Rom)),
            forced: None,
            order: &[Vendor::Xiaomi],
            certificates: &certificates,
            tokens: &[Vendor::Vivo],
            dead: &[],
        });
        assert_eq!((choice.active, why(&choice, Vendor::Vivo)), (None, Some(WhyNot::NotInOrder)));
    }
}
