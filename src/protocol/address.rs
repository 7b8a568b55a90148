//! Who a topic or a client id speaks of, and how any id in any script is written into one.
//!
//! An id is percent-encoded except for `[A-Za-z0-9_-]`, so `/ + # @ $` and
//! every non-ASCII character leave the alphabet of topic syntax: no id can name another's topic, be
//! a wildcard, or start a `$` topic, and one id has one spelling.

use crate::ids::{AppId, DeviceId, IdError, UserId};
use crate::secret::hex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use ring::digest;
use std::fmt;

const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-');
/// Longest part of a client id: three of them, their separators and the suffix make 128 bytes, which
/// is the most that common brokers take.
const MAX_CLIENT_PART: usize = 40;
/// A client id with this ending asks how long a network keeps an idle connection: it may connect and
/// ping, and nothing else.
pub const PROBE_SUFFIX: &str = "~probe";
/// Client ids that start so are the gateway's own; no device id can, since `$` is encoded.
pub const GATEWAY_CLIENT_PREFIX: &str = "$gateway:";

/// One device of one user of one app.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    pub app: AppId,
    pub user: UserId,
    pub device: DeviceId,
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("`{0}` is not a topic or client id of this protocol")]
    Form(String),
}

/// The last level of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leg {
    Down,
    Up,
    State,
}

impl Leg {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Up => "up",
            Self::State => "state",
        }
    }
}

impl Address {
    /// # Errors
    /// [`AddressError::Id`] when an id is refused.
    pub fn new(
        app: impl Into<String>,
        user: impl Into<String>,
        device: impl Into<String>,
    ) -> Result<Self, AddressError> {
        Ok(Self { app: app.into().try_into()?, user: user.into().try_into()?, device: device.into().try_into()? })
    }

    /// `{user}:{device}@{app}`, at most 128 bytes with [`PROBE_SUFFIX`]. No slash, no dots: brokers
    /// that keep a session's files under its client id refuse them.
    pub fn client_id(&self) -> String {
        format!("{}:{}@{}", client_part(&self.user), client_part(&self.device), client_part(&self.app))
    }

    /// The address whose client id this is; `None` where an id stands in it by its digest, and for what
    /// [`Self::client_id`] cannot have written.
    pub fn from_client_id(text: &str) -> Option<Self> {
        let ClientId { user, device, app } = ClientId::parse(text).ok()?;
        let whole = |part| decode(part, text).ok();
        let address = Self::new(whole(app)?, whole(user)?, whole(device)?).ok()?;
        (address.client_id() == text).then_some(address)
    }

    /// `{app}/{user}`, each part encoded: the MQTT user name.
    pub fn user_name(&self) -> String {
        user_name(&self.app, &self.user)
    }
}

/// How an id stands in a client id: encoded, or by the start of its SHA-256 when that is too long.
/// `~` is in no encoded id, so the two forms cannot be mistaken for each other.
pub fn client_part(id: &str) -> String {
    let encoded = encode(id);
    if encoded.len() <= MAX_CLIENT_PART {
        return encoded;
    }
    let digest = digest::digest(&digest::SHA256, id.as_bytes());
    format!("~{}", hex(&digest.as_ref()[..16]))
}

/// `{app}/{user}`, each part encoded.
pub fn user_name(app: &str, user: &str) -> String {
    format!("{}/{}", encode(app), encode(user))
}

/// The parts of a client id, as [`client_part`] writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientId<'a> {
    pub user: &'a str,
    pub device: &'a str,
    pub app: &'a str,
}

impl<'a> ClientId<'a> {
    /// # Errors
    /// [`AddressError::Form`] for a text that is not `{user}:{device}@{app}`.
    pub fn parse(text: &'a str) -> Result<Self, AddressError> {
        let form = || AddressError::Form(text.to_owned());
        let (user, rest) = text.split_once(':').ok_or_else(form)?;
        let (device, app) = rest.split_once('@').ok_or_else(form)?;
        let well_formed = |part: &str| {
            (1..=MAX_CLIENT_PART).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"%_-~".contains(&b))
        };
        if [user, device, app].into_iter().all(well_formed) { Ok(Self { user, device, app }) } else { Err(form()) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.client_id())
    }
}

/// Writes and reads topics under one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    prefix: String,
}

impl Default for Topics {
    fn default() -> Self {
        Self { prefix: super::DEFAULT_PREFIX.to_owned() }
    }
}

impl Topics {
    /// # Errors
    /// [`AddressError::Form`] for a prefix that is empty, has an empty level, or holds a wildcard or `$`.
    pub fn new(prefix: &str) -> Result<Self, AddressError> {
        let bad = prefix.is_empty() || prefix.contains(['+', '#', '$', '\0']) || prefix.split('/').any(str::is_empty);
        if bad { Err(AddressError::Form(prefix.to_owned())) } else { Ok(Self { prefix: prefix.to_owned() }) }
    }

    pub fn topic(&self, address: &Address, leg: Leg) -> String {
        format!(
            "{}/{}/{}/{}/{}",
            self.prefix,
            encode(&address.app),
            encode(&address.user),
            encode(&address.device),
            leg.as_str()
        )
    }

    /// The filter that matches `leg` of every device.
    pub fn everyone(&self, leg: Leg) -> String {
        format!("{}/+/+/+/{}", self.prefix, leg.as_str())
    }

    /// # Errors
    /// [`AddressError::Form`] for a topic that [`Self::topic`] cannot have written.
    pub fn parse(&self, topic: &str) -> Result<(Address, Leg), AddressError> {
        let form = || AddressError::Form(topic.to_owned());
        let rest = topic.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix('/')).ok_or_else(form)?;
        let mut levels = rest.split('/');
        let mut next = || levels.next().ok_or_else(form);
        let (app, user, device, leg) = (next()?, next()?, next()?, next()?);
        if levels.next().is_some() {
            return Err(form());
        }
        let leg = match leg {
            "down" => Leg::Down,
            "up" => Leg::Up,
            "state" => Leg::State,
            _ => return Err(form()),
        };
        let address = Address::new(decode(app, topic)?, decode(user, topic)?, decode(device, topic)?)?;
        if self.topic(&address, leg) == topic { Ok((address, leg)) } else { Err(form()) }
    }
}

fn encode(id: &str) -> String {
    utf8_percent_encode(id, KEEP).to_string()
}

fn decode(level: &str, whole: &str) -> Result<String, AddressError> {
    percent_decode_str(level).decode_utf8().map(Into::into).map_err(|_| AddressError::Form(whole.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: [&str; 14] = [
        "用户",
        "a/b",
        "+",
        "#",
        "$SYS",
        "a@b",
        "a%2Fb",
        "..",
        "пользователь 1",
        "🚗",
        "a+b#c",
        "%",
        "down",
        "\u{200f}rtl",
    ];

    #[test]
    fn every_hostile_id_comes_back_from_topic_and_client_id_unchanged() {
        let topics = Topics::new("im/v1").expect("a prefix");
        for user in HOSTILE {
            for device in HOSTILE {
                let address = Address::new("org#app", user, device).expect("an address");
                let topic = topics.topic(&address, Leg::Down);
                assert_eq!(topics.parse(&topic), Ok((address.clone(), Leg::Down)));
                let client_id = address.client_id();
                let parts = ClientId::parse(&client_id).expect(&client_id);
                assert_eq!((parts.user, parts.device), (client_part(user).as_str(), client_part(device).as_str()));
                let whole = !client_id.contains('~');
                assert_eq!(Address::from_client_id(&client_id), whole.then_some(address));
            }
        }
    }

    #[test]
    fn no_two_addresses_share_a_topic_and_none_is_a_wildcard() {
        let topics = Topics::new("im/v1").expect("a prefix");
        let mut seen = std::collections::HashSet::new();
        for user in HOSTILE {
            for device in HOSTILE {
                let topic = topics.topic(&Address::new("a", user, device).expect("an address"), Leg::Up);
                assert_eq!(topic.split('/').count(), 6, "{topic}");
                assert!(!topic.contains(['+', '#', '$']), "{topic}");
                assert!(seen.insert(topic));
            }
        }
    }

    #[test]
    fn the_longest_ids_fit_a_client_id_and_stay_apart() {
        let long = |end: &str| {
            Address::new("用".repeat(80), format!("{}{end}", "户".repeat(80)), "d".repeat(256)).expect("an address")
        };
        let (one, other) = (long("a").client_id(), long("b").client_id());
        assert!(format!("{one}{PROBE_SUFFIX}").len() <= 128, "{one}");
        assert_ne!(one, other);
        assert!(ClientId::parse(&one).is_ok());
        assert_eq!(Address::from_client_id(&one), None);
    }

    #[test]
    fn a_second_spelling_of_a_topic_is_refused() {
        let topics = Topics::new("im/v1").expect("a prefix");
        for topic in [
            "im/v1/a/u/d%2d/up",
            "im/v1/a/../d/up",
            "im/v1/a/u%2/d/up",
            "im/v1/a/u/d/up/x",
            "im/v1/a//d/up",
            "im/v2/a/u/d/up",
            "im/v1/a/u/d/left",
            "im/v1/a/%ff/d/up",
        ] {
            assert!(topics.parse(topic).is_err(), "{topic}");
        }
    }

    #[test]
    fn an_id_that_cannot_be_is_refused() {
        assert!(Address::new("a", "", "d").is_err());
        assert!(Address::new("a", "u\0", "d").is_err());
        assert!(Address::new("a", "u".repeat(257), "d").is_err());
    }
}
