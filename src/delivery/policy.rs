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
    TokenDead,
    NoCertificate,
    CertificateDisabled,
    CertificateUnreadable,
    SwitchedOff,
    Silenced,
    Filtered,
    Command,
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
            Self::TokenDead => "push token dead",
            Self::NoCertificate => "no notifier exist",
            Self::CertificateDisabled => "notifier disabled",
            Self::CertificateUnreadable => "notifier unreadable",
            Self::SwitchedOff => "notifications switched off on the device",
            Self::Silenced => "user ignore push",
            Self::Filtered => "ignore push device id",
            Self::Command => "command message",
            Self::InvalidMessage => "invalid message",
        }
    }
}

/// An app's own rules, set over REST.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AppRules {
    /// Which devices are pushed to; unset: the gateway's `delivery.policy`.
    pub multi_device: Option<MultiDevice>,
    /// Whether a web or desktop session counts as a device that is online.
    pub count_web: bool,
    /// Devices of one platform a user may be logged in on. 1 to 100.
    pub device_limit: u32,
    /// Who yields when there is one too many.
    pub login: Login,
    /// Where a do-not-disturb interval that names no time zone is meant.
    pub time_zone: String,
    /// Where each vendor send is reported.
    pub webhook: Option<Webhook>,
}

impl Default for AppRules {
    fn default() -> Self {
        Self {
            multi_device: None,
            count_web: false,
            // The original system's default.
            device_limit: 4,
            login: Login::NewestWins,
            time_zone: "Asia/Shanghai".to_owned(),
            webhook: None,
        }
    }
}

/// Who yields when a user logs in on one device too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Login {
    /// The earliest login is kicked.
    NewestWins,
    /// The newcomer is refused.
    FirstWins,
}

/// Where and how vendor sends are reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    pub url: String,
    pub secret: crate::secret::Secret,
    #[serde(default)]
    pub signature: Signature,
}

/// How a report is signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signature {
    /// HMAC-SHA256 over the body, in the header `x-impush-signature`.
    #[default]
    Hmac,
    /// The original system's `security` field: MD5 of callId, secret and timestamp.
    Md5,
}

/// Platforms that do not hold a phone's notifications back, unless an app says so: `linux` is what this system's
/// own agent says on a computer or a board.
pub const WEB: [&str; 6] = ["web", "windows", "macos", "linux", "desktop", "pc"];

/// The facts about one (message, device) pair at the moment of the vendor leg.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub ext: &'a Json,
    /// A control message, which shows nothing.
    pub command: bool,
    pub device: &'a str,
    pub notifier: &'a str,
    pub age_s: u64,
    pub push_life_s: u64,
    pub policy: MultiDevice,
    /// Another device of the user proves that it is online, by [`super::Device::counts_as_online`].
    pub others_online: bool,
    /// Another device of the user has the message.
    pub has_it_elsewhere: bool,
    pub silenced: bool,
    pub bound: bool,
    /// Whatever is bound, its vendor calls dead.
    pub dead: bool,
    /// The vendor reported that the device's user switched notifications off.
    pub switched_off: bool,
    pub certificate: CertificateState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateState {
    Missing,
    Disabled,
    /// No key opens it.
    Unreadable,
    Ready,
}

/// The first reason not to push, in the documented order of checks. A forced message passes a user's
/// silence and nothing else; a message that is both forced and ignored is ignored.
pub fn stop(facts: &Facts<'_>) -> Option<Stop> {
    let flag = |name: &str| facts.ext[name].as_bool().unwrap_or(false);
    let forced = flag("em_force_notification");
    let checks = [
        (facts.age_s > facts.push_life_s, Stop::Expired),
        (flag(ONLINE_ONLY), Stop::OnlineOnly),
        (flag("em_ignore_notification"), Stop::IgnoreFlag),
        (facts.command && !forced, Stop::Command),
        (facts.silenced && !forced, Stop::Silenced),
        (facts.policy == MultiDevice::AllOffline && facts.others_online, Stop::AnotherDeviceOnline),
        (!facts.bound, Stop::NoBinding),
        (facts.dead, Stop::TokenDead),
        (filtered(&facts.ext["em_push_filter"], facts.device, facts.notifier), Stop::Filtered),
        (facts.switched_off, Stop::SwitchedOff),
        (facts.certificate == CertificateState::Missing, Stop::NoCertificate),
        (facts.certificate == CertificateState::Disabled, Stop::CertificateDisabled),
        (facts.certificate == CertificateState::Unreadable, Stop::CertificateUnreadable),
    ];
    checks.into_iter().find(|(stops, _)| *stops).map(|(_, stop)| stop)
}

/// The message is for connected devices only, and kept for nobody.
pub const ONLINE_ONLY: &str = "em_deliver_online_only";

/// Whether the sender's lists leave this device or certificate out.
fn filtered(filter: &Json, device: &str, notifier: &str) -> bool {
    let lists = |key: &str| filter[key].as_array().filter(|list| !list.is_empty());
    let accepts = |key: &str, value: &str| lists(key).is_none_or(|list| list.iter().any(|item| item == value));
    let ignores = |key: &str, value: &str| lists(key).is_some_and(|list| list.iter().any(|item| item == value));
    !accepts("accept_device_id", device)
        || !accepts("accept_notifier_name", notifier)
        || ignores("ignore_device_id", device)
        || ignores("ignore_notifier_name", notifier)
}

/// Whether the message names this user: a list of ids, or `all`.
pub fn mentions(ext: &Json, user: &str) -> bool {
    match &ext["em_at_list"] {
        Json::Array(list) => list.iter().any(|item| item == user),
        Json::String(word) => word.eq_ignore_ascii_case("all"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NO_EXT: Json = Json::Null;

    fn facts(ext: &Json) -> Facts<'_> {
        Facts {
            ext,
            command: false,
            device: "d1",
            notifier: "n1",
            silenced: false,
            age_s: 10,
            push_life_s: 86_400,
            policy: MultiDevice::AnyOffline,
            others_online: true,
            has_it_elsewhere: false,
            bound: true,
            dead: false,
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
        let dead = Facts { dead: true, certificate: CertificateState::Missing, ..facts(&NO_EXT) };
        assert_eq!(stop(&dead), Some(Stop::TokenDead));
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

    #[test]
    fn a_forced_message_passes_silence_and_nothing_else() {
        let force = json!({"em_force_notification": true});
        assert_eq!(stop(&Facts { silenced: true, ..facts(&NO_EXT) }), Some(Stop::Silenced));
        assert_eq!(stop(&Facts { silenced: true, ..facts(&force) }), None);
        assert_eq!(stop(&Facts { command: true, ..facts(&NO_EXT) }), Some(Stop::Command));
        assert_eq!(stop(&Facts { command: true, ..facts(&force) }), None);
        let both = json!({"em_force_notification": true, "em_ignore_notification": true});
        assert_eq!(stop(&facts(&both)), Some(Stop::IgnoreFlag));
    }

    #[test]
    fn the_senders_lists_choose_devices_and_certificates() {
        for (filter, stops) in [
            (json!({}), false),
            (json!({"accept_device_id": ["d1"]}), false),
            (json!({"accept_device_id": ["d2"]}), true),
            (json!({"ignore_device_id": ["d1"]}), true),
            (json!({"accept_notifier_name": ["n1"], "ignore_device_id": ["d2"]}), false),
            (json!({"ignore_notifier_name": ["n1"]}), true),
            (json!({"accept_device_id": "d2"}), false),
        ] {
            let ext = json!({ "em_push_filter": filter });
            assert_eq!(stop(&facts(&ext)), stops.then_some(Stop::Filtered), "{ext}");
        }
    }

    #[test]
    fn a_mention_is_a_list_or_everybody() {
        assert!(mentions(&json!({"em_at_list": ["ann", "bob"]}), "ann"));
        assert!(mentions(&json!({"em_at_list": "all"}), "ann"));
        assert!(!mentions(&json!({"em_at_list": ["bob"]}), "ann") && !mentions(&NO_EXT, "ann"));
    }
}
