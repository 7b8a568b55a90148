//! Enrolment: the code an operator hands out, as one word that can be pasted, and what a device is answered for it.

use super::{Address, Leg, Topics};
use crate::ids::AppId;
use crate::secret::{Secret, hex};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

/// The MQTT user name of a device that enrols; its password is the code's secret. No user's name is without a slash.
pub const ENROL_USER: &str = "enrol";
/// With this protocol name (RFC 7301) a device that enrols asks for the authority's certificate in the server's chain.
/// The server takes it as a hint, and agrees on no protocol.
pub const ENROL_ALPN: &[u8] = b"impush-enrol";
/// What a device without a serial number writes in its place.
pub const NO_SERIAL: &str = "-";
/// Longest serial number in a user name and in a client id.
const LONGEST_SERIAL: usize = 40;

const NAME: &str = "impush-enrol-";
const VERSION: &str = "1.";
/// A server and a REST address have so many bytes at most.
const LONGEST_PART: usize = 255;
const SECRET: usize = 16;
const FINGERPRINT: usize = 32;
/// Of a SHA-256 over what stands before it: it finds a letter that was left out or changed, and is no protection.
const CHECK: usize = 4;
const HAS_AUTHORITY: u8 = 1;
const HAS_REST: u8 = 2;

/// What a code says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolCode {
    pub app: AppId,
    /// `host:port`, TLS, or a whole address of another kind (`wss://...`).
    pub server: String,
    /// Where the code is exchanged, if not at the server itself: the gateway's REST API, `https://...`.
    pub rest: Option<String>,
    /// SHA-256 of the authority's certificate that the first connection is checked against; without one the device's own
    /// authorities are.
    pub authority: Option<[u8; FINGERPRINT]>,
    /// 128 bits, in hexadecimal.
    pub secret: Secret,
    /// When it was made, in seconds since the Unix epoch: a device without a clock checks certificates against it.
    pub made_s: u32,
}

/// Why a text is no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    #[error("this is no enrolment code; one begins with `{NAME}{VERSION}`")]
    NoCode,
    #[error("this enrolment code is of another version; install a newer impush")]
    Version,
    #[error("this enrolment code is not whole, or a letter of it is wrong; copy all of it again")]
    Damaged,
    #[error(
        "an enrolment code cannot hold this: the server's and the REST address have at most {LONGEST_PART} bytes each"
    )]
    TooLong,
}

impl EnrolCode {
    /// The word that is handed out. It holds the secret.
    ///
    /// # Errors
    /// [`CodeError::TooLong`].
    pub fn write(&self) -> Result<Secret, CodeError> {
        let mut bytes =
            vec![u8::from(self.authority.is_some()) * HAS_AUTHORITY + u8::from(self.rest.is_some()) * HAS_REST];
        bytes.extend(unhex(self.secret.expose()).ok_or(CodeError::Damaged)?);
        bytes.extend(self.made_s.to_be_bytes());
        bytes.extend(self.authority.iter().flatten());
        for part in [Some(self.app.as_str()), Some(&self.server), self.rest.as_deref()].into_iter().flatten() {
            bytes.push(u8::try_from(part.len()).map_err(|_| CodeError::TooLong)?);
            bytes.extend(part.as_bytes());
        }
        bytes.extend(check(&bytes));
        Ok(Secret::new(format!("{NAME}{VERSION}{}", URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// Spaces and line ends that came with the copying are passed over.
    ///
    /// # Errors
    /// [`CodeError`].
    pub fn read(text: &str) -> Result<Self, CodeError> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let rest = text.strip_prefix(NAME).ok_or(CodeError::NoCode)?;
        let rest = rest.strip_prefix(VERSION).ok_or(CodeError::Version)?;
        let bytes = URL_SAFE_NO_PAD.decode(rest).map_err(|_| CodeError::Damaged)?;
        let said = bytes.len().checked_sub(CHECK).ok_or(CodeError::Damaged)?;
        let (said, checked) = bytes.split_at(said);
        if check(said) != checked {
            return Err(CodeError::Damaged);
        }
        Self::parts(said).ok_or(CodeError::Damaged)
    }

    fn parts(mut bytes: &[u8]) -> Option<Self> {
        let mut take = |count: usize| {
            let (taken, rest) = bytes.split_at_checked(count)?;
            bytes = rest;
            Some(taken)
        };
        let flags = take(1)?[0];
        if flags & !(HAS_AUTHORITY | HAS_REST) != 0 {
            return None;
        }
        let secret = Secret::new(hex(take(SECRET)?));
        let made_s = u32::from_be_bytes(take(size_of::<u32>())?.try_into().ok()?);
        let authority = match flags & HAS_AUTHORITY {
            0 => None,
            _ => Some(take(FINGERPRINT)?.try_into().ok()?),
        };
        let mut word = || {
            let length = usize::from(take(1)?[0]);
            String::from_utf8(take(length)?.to_vec()).ok()
        };
        let (app, server) = (word()?.try_into().ok()?, word()?);
        let rest = match flags & HAS_REST {
            0 => None,
            _ => Some(word()?),
        };
        bytes.is_empty().then_some(Self { app, server, rest, authority, secret, made_s })
    }

    /// The server as `server.url` has it.
    pub fn url(&self) -> String {
        if self.server.contains("://") { self.server.clone() } else { format!("mqtts://{}", self.server) }
    }
}

fn check(bytes: &[u8]) -> [u8; CHECK] {
    let mut first = [0; CHECK];
    first.copy_from_slice(&digest(&SHA256, bytes).as_ref()[..CHECK]);
    first
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    digits.collect::<Option<Vec<u8>>>().filter(|bytes| bytes.len() == SECRET)
}

/// A serial number as it stands in a user name: letters, digits, `_` and `-`, and nothing but those. `None`: nothing is
/// left of it.
pub fn serial_word(serial: &str) -> Option<String> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let word: String = serial.trim().chars().map(plain).collect();
    let word = word.trim_matches('-');
    let word = &word[..word.len().min(LONGEST_SERIAL)];
    (!word.is_empty()).then(|| word.to_owned())
}

/// What a device that shows a code is answered, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EnrolAnswer {
    Enrolled {
        user: String,
        /// As `/token` gives it, for this device alone.
        token: Secret,
        /// The authorities to trust from now on, as PEM; without them the device's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ca: Option<String>,
        /// First levels of every topic.
        prefix: String,
    },
    Refused {
        code: EnrolRefusal,
        message: String,
    },
}

impl EnrolAnswer {
    pub fn refused(code: EnrolRefusal) -> Self {
        Self::Refused { code, message: code.to_string() }
    }

    pub fn json(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).unwrap_or_default();
        json["v"] = super::VERSION.into();
        json
    }

    /// As it stands in a payload.
    pub fn encode(&self) -> Vec<u8> {
        self.json().to_string().into_bytes()
    }

    /// `None`: it is no answer of this version.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let json: serde_json::Value = serde_json::from_slice(payload).ok()?;
        (json["v"] == super::VERSION).then(|| serde_json::from_value(json).ok()).flatten()
    }
}

/// Where a device that enrols hears the answer: below the default prefix, since it knows no other yet. Its serial number
/// stands in the user's place, as in its client id.
pub fn enrol_topic(address: &Address) -> String {
    Topics::default().topic(address, Leg::Down)
}

/// Why a code was not exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum EnrolRefusal {
    #[error("the gateway does not know this code")]
    Unknown,
    #[error("this code has expired; ask for a new one")]
    Expired,
    #[error("this code is used up: as many devices have enrolled with it as may; ask for a new one")]
    UsedUp,
    #[error("this code was revoked; ask for a new one")]
    Revoked,
    #[error(
        "the user this code makes for this device exists already, and this device did not enrol it; the operator removes \
         the user, or makes a code with another user name"
    )]
    UserExists,
    #[error("this code makes users by serial number, and this device has none that can be read")]
    NoSerial,
    #[error("the user name that this code makes for this device is none: it is empty or too long")]
    BadUser,
    #[error("the device's client id is not `{{serial number}}:{{device id}}@{{app}}`")]
    BadDevice,
    #[error("the user of this device is deactivated")]
    NotActive,
    #[error("too many wrong codes came from this address; try again later")]
    HeldBack,
    #[error("the gateway cannot enrol devices now; try again later")]
    Unavailable,
    /// Of a gateway that knows more reasons.
    #[error("refused")]
    #[serde(other)]
    Other,
}

impl EnrolRefusal {
    /// The word in answers, log events and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::UsedUp => "used_up",
            Self::Revoked => "revoked",
            Self::UserExists => "user_exists",
            Self::NoSerial => "no_serial",
            Self::BadUser => "bad_user",
            Self::BadDevice => "bad_device",
            Self::NotActive => "not_active",
            Self::HeldBack => "held_back",
            Self::Unavailable => "unavailable",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> EnrolCode {
        EnrolCode {
            app: "org#app".to_owned().try_into().expect("an app"),
            server: "push.example:8883".to_owned(),
            rest: Some("https://gateway.example/push".to_owned()),
            authority: Some([7; 32]),
            secret: Secret::new("00ff".repeat(8)),
            made_s: 1_764_000_000,
        }
    }

    #[test]
    fn a_code_is_one_word_that_says_what_was_put_into_it() {
        for code in [
            code(),
            EnrolCode { rest: None, ..code() },
            EnrolCode { authority: None, ..code() },
            EnrolCode { rest: None, authority: None, server: "wss://push.example/mqtt".to_owned(), ..code() },
        ] {
            let text = code.write().expect("written");
            assert!(text.expose().starts_with("impush-enrol-1."), "{}", text.expose());
            assert!(text.expose().bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
            assert_eq!(EnrolCode::read(text.expose()), Ok(code.clone()));
            let (first, last) = text.expose().split_at(20);
            assert_eq!(EnrolCode::read(&format!(" {first}\n  {last}\r\n")), Ok(code.clone()), "as it was pasted");
            assert!(!format!("{code:?} {text:?}").contains("00ff"), "the secret prints nowhere");
        }
        assert_eq!(code().url(), "mqtts://push.example:8883");
    }

    #[test]
    fn what_is_no_code_or_not_all_of_one_is_refused_with_its_reason() {
        let text = code().write().expect("written");
        let text = text.expose();
        for at in 15..text.len() {
            assert_eq!(EnrolCode::read(&text[..at]), Err(CodeError::Damaged), "cut at {at}");
            let other = if &text[at..=at] == "A" { "B" } else { "A" };
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert_eq!(EnrolCode::read(&changed), Err(CodeError::Damaged), "{changed}");
        }
        assert_eq!(EnrolCode::read("impush-enrol-2.AAAA"), Err(CodeError::Version));
        assert_eq!(EnrolCode::read("hunter2"), Err(CodeError::NoCode));
        assert_eq!(EnrolCode::read(""), Err(CodeError::NoCode));
        let long = EnrolCode { server: "a".repeat(256), ..code() };
        assert_eq!(long.write().map(drop), Err(CodeError::TooLong));
    }

    #[test]
    fn of_a_serial_number_only_letters_and_digits_come_into_a_name() {
        for (serial, word) in [
            ("R58M12ABCDE", Some("R58M12ABCDE")),
            (" 10:00/54e3 c1b2\0", Some("10-00-54e3-c1b2")),
            ("../../etc", Some("etc")),
            ("日本", None),
            ("", None),
            ("--", None),
        ] {
            assert_eq!(serial_word(serial).as_deref(), word, "{serial}");
        }
        assert_eq!(serial_word(&"a".repeat(300)).map(|word| word.len()), Some(40));
    }

    #[test]
    fn a_reason_of_a_newer_gateway_is_a_refusal_all_the_same() {
        let said = r#"{"type":"refused","code":"phase_of_the_moon","message":"later"}"#;
        assert_eq!(EnrolAnswer::decode(said.as_bytes()), None, "of no version");
        let said = said.replace('{', "{\"v\":1,");
        let answer = EnrolAnswer::decode(said.as_bytes()).expect("read");
        assert_eq!(EnrolAnswer::decode(&answer.encode()), Some(answer.clone()));
        assert_eq!(answer, EnrolAnswer::Refused { code: EnrolRefusal::Other, message: "later".to_owned() });
        for code in [EnrolRefusal::UsedUp, EnrolRefusal::HeldBack, EnrolRefusal::NoSerial] {
            assert_eq!(serde_json::to_value(code).expect("a word"), code.as_str());
        }
    }
}
