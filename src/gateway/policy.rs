//! Whether a message may become a notification at all, and on which devices; every stop has a name.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// Which devices are pushed to when a user has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MultiDevice {
    /// Each device that is offline itself.
    AnyOffline,
    /// None, while any device of the user is online.
    AllOffline,
}

/// Why no notification goes out. The texts of the first ones are the original system's webhook
/// details, so that a reader of those knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    Expired,
    OnlineOnly,
    IgnoreFlag,
    NoSuchUser,
    AnotherDeviceOnline,
    NoBinding,
    NoCertificate,
    CertificateDisabled,
    CertificateUnreadable,
    SwitchedOff,
    InvalidMessage,
}

impl Stop {
    pub const fn text(self) -> &'static str {
        match self {
            Self::Expired => "expire message",
            Self::OnlineOnly => "online only message",
            Self::IgnoreFlag => "message ignore push",
            Self::NoSuchUser => "no user exist",
            Self::AnotherDeviceOnline => "another device online",
            Self::NoBinding => "no push binding",
            Self::NoCertificate => "no notifier exist",
            Self::CertificateDisabled => "notifier disabled",
            Self::CertificateUnreadable => "notifier unreadable",
            Self::SwitchedOff => "notifications switched off on the device",
            Self::InvalidMessage => "invalid message",
        }
    }
}

/// The facts about one (message, device) pair at the moment of the vendor leg.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub ext: &'a Json,
    pub age_s: u64,
    pub push_life_s: u64,
    pub policy: MultiDevice,
    pub others_online: bool,
    pub bound: bool,
    /// The vendor reported that the device's user switched notifications off.
    pub switched_off: bool,
    pub certificate: CertificateState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateState {
    Missing,
    Disabled,
    Ready,
}

/// The first reason not to push, in the documented order of checks.
pub fn stop(facts: &Facts<'_>) -> Option<Stop> {
    let flag = |name: &str| facts.ext[name].as_bool().unwrap_or(false);
    let checks = [
        (facts.age_s > facts.push_life_s, Stop::Expired),
        (flag("em_deliver_online_only"), Stop::OnlineOnly),
        (flag("em_ignore_notification"), Stop::IgnoreFlag),
        (facts.policy == MultiDevice::AllOffline && facts.others_online, Stop::AnotherDeviceOnline),
        (!facts.bound, Stop::NoBinding),
        (facts.switched_off, Stop::SwitchedOff),
        (facts.certificate == CertificateState::Missing, Stop::NoCertificate),
        (facts.certificate == CertificateState::Disabled, Stop::CertificateDisabled),
    ];
    checks.into_iter().find(|(stops, _)| *stops).map(|(_, stop)| stop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NO_EXT: Json = Json::Null;

    fn facts(ext: &Json) -> Facts<'_> {
        Facts {
            ext,
            age_s: 10,
            push_life_s: 86_400,
            policy: MultiDevice::AnyOffline,
            others_online: true,
            bound: true,
            switched_off: false,
            certificate: CertificateState::Ready,
        }
    }

    #[test]
    fn a_message_with_binding_and_certificate_is_pushed() {
        assert_eq!(stop(&facts(&NO_EXT)), None);
    }

    #[test]
    fn each_obstacle_has_its_own_name_and_the_first_one_counts() {
        let ignore = json!({"em_ignore_notification": true});
        assert_eq!(stop(&facts(&ignore)), Some(Stop::IgnoreFlag));
        assert_eq!(stop(&Facts { age_s: 86_401, ..facts(&ignore) }), Some(Stop::Expired));
        let unbound = Facts { bound: false, certificate: CertificateState::Missing, ..facts(&NO_EXT) };
        assert_eq!(stop(&unbound), Some(Stop::NoBinding));
        assert_eq!(
            stop(&Facts { certificate: CertificateState::Missing, ..facts(&NO_EXT) }),
            Some(Stop::NoCertificate)
        );
        assert_eq!(
            stop(&Facts { certificate: CertificateState::Disabled, ..facts(&NO_EXT) }),
            Some(Stop::CertificateDisabled)
        );
    }

    #[test]
    fn all_offline_stops_while_another_device_is_online() {
        let all = Facts { policy: MultiDevice::AllOffline, ..facts(&NO_EXT) };
        assert_eq!(stop(&all), Some(Stop::AnotherDeviceOnline));
        assert_eq!(stop(&Facts { others_online: false, ..all }), None);
    }
}
