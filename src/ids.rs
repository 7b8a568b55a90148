//! Names of things that are easily taken for one another: each has a type, says what it accepts, and refuses
//! the rest where it comes in.

use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

/// Longest id in bytes.
const MAX_ID: usize = 256;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("{what} is empty or longer than {MAX_ID} bytes")]
    Length { what: &'static str },
    #[error("{what} holds a control character")]
    Control { what: &'static str },
    #[error("app id `{0}` has more than one `#` or `/`; it is an organisation and an app, org#app")]
    Separators(String),
}

fn checked(text: String, what: &'static str) -> Result<String, IdError> {
    if text.is_empty() || text.len() > MAX_ID {
        return Err(IdError::Length { what });
    }
    if text.chars().any(char::is_control) {
        return Err(IdError::Control { what });
    }
    Ok(text)
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $what:literal),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.0 == *other
            }
        }
    )*};
}

ids! {
    /// An IM app of an organisation. `org/app` and `org#app` are the same one, kept as `org#app`; a second
    /// separator is refused, so that no two pairs of organisation and app are confused.
    AppId "app id",
    /// A user of an IM app.
    UserId "user id",
    /// A device of a user.
    DeviceId "device id",
    /// A message, as the gateway named it when it accepted it.
    MessageId "message id",
    /// One connection of a device, or one question to the gateway: random, and the answer bears it.
    Nonce "nonce",
}

impl TryFrom<String> for AppId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        let text = checked(text, "app id")?;
        if text.matches(['#', '/']).count() > 1 {
            return Err(IdError::Separators(text));
        }
        Ok(Self(text.replacen('/', "#", 1)))
    }
}

macro_rules! plain_ids {
    ($($name:ident $what:literal),* $(,)?) => {$(
        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                checked(text, $what).map(Self)
            }
        }

        #[cfg(test)]
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::try_from(text.to_owned()).expect("an id")
            }
        }
    )*};
}

impl Nonce {
    /// The sixteen hexadecimal digits of a random number.
    pub fn from_number(random: u64) -> Self {
        Self(format!("{random:016x}"))
    }

    /// Of a later try within the same attempt.
    pub fn later(&self, ordinal: u32) -> Self {
        Self(format!("{}-{ordinal}", self.0))
    }

    /// Of no connection: a device that hears it greets again.
    pub fn foreign() -> Self {
        Self("ask".to_owned())
    }
}

impl MessageId {
    /// The millisecond and chance, 20 hexadecimal digits. Ids made one after the other stand together in a
    /// database, which random ones would scatter over all of it.
    pub fn made(ms: u64, random: [u8; 4]) -> Self {
        Self(format!("{}{:08x}", Self::from_ms(ms), u32::from_be_bytes(random)))
    }

    /// What the ids of that millisecond begin with: every earlier id is less.
    pub fn from_ms(ms: u64) -> String {
        format!("{:012x}", ms & 0xffff_ffff_ffff)
    }
}

plain_ids! { UserId "user id", DeviceId "device id", MessageId "message id", Nonce "nonce" }

#[cfg(test)]
mod tests {
    use super::*;

    fn app(text: &str) -> Result<AppId, IdError> {
        AppId::try_from(text.to_owned())
    }

    #[test]
    fn an_app_has_one_spelling_and_no_two_are_confused() {
        assert_eq!(app("org/app"), app("org#app"));
        assert_eq!(app("org/app").expect("an app"), "org#app");
        for confused in ["a#b/c", "a/b#c", "a#b#c", "a/b/c"] {
            assert!(matches!(app(confused), Err(IdError::Separators(_))), "{confused}");
        }
    }

    #[test]
    fn what_is_no_id_is_refused_with_its_reason() {
        assert_eq!(UserId::try_from(String::new()), Err(IdError::Length { what: "user id" }));
        assert_eq!(DeviceId::try_from("d".repeat(257)), Err(IdError::Length { what: "device id" }));
        assert_eq!(UserId::try_from("a\u{1b}[2J".to_owned()), Err(IdError::Control { what: "user id" }));
        assert!(serde_json::from_str::<UserId>("\"\"").is_err());
    }
}
