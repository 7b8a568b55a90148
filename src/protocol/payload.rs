//! From bytes to a payload and back, and how a bad one is refused: what is not JSON of this protocol, and what no
//! word of a device may be.

use super::message::{Down, Held, Message, State, Up};
use super::{MAX_PAYLOAD, VERSION};
use crate::input::{self, Refused};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Why a payload was refused. The reader counts it, acknowledges the packet so that it does not
/// come again for ever, and goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    #[error("payload of {0} bytes; at most {MAX_PAYLOAD} are read")]
    TooLarge(usize),
    #[error("payload is not the JSON of this protocol: {0}")]
    Malformed(String),
    #[error("payload speaks major version {0}; this side speaks {VERSION}")]
    Version(u32),
    #[error("unknown message type `{0}`")]
    UnknownType(String),
    /// Well-formed, and nothing that is taken in.
    #[error("{why}")]
    Refused {
        why: Refused,
        /// Of the `bind` or `unbind` that it stands in: the device is told.
        sequence: Option<u64>,
    },
}

impl PayloadError {
    /// The word used in log events and metric labels.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too_large",
            Self::Malformed(_) => "malformed",
            Self::Version(_) => "version",
            Self::UnknownType(_) => "unknown_type",
            Self::Refused { why, .. } => why.as_str(),
        }
    }
}

/// What stands before a message's fields.
const MESSAGE: &str = r#"{"v":1,"type":"message","#;

#[derive(Serialize)]
struct Versioned<'a, T> {
    v: u32,
    #[serde(flatten)]
    payload: &'a T,
}

impl Down {
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// The same as [`Self::encode`] of a [`Self::Message`], from its [`Message::to_json`].
    pub fn encode_message(json: &str) -> Vec<u8> {
        let fields = json.get(1..).unwrap_or_default();
        let mut payload = Vec::with_capacity(MESSAGE.len() + fields.len());
        payload.extend_from_slice(MESSAGE.as_bytes());
        payload.extend_from_slice(fields.as_bytes());
        payload
    }

    /// The bytes of [`Self::encode_message`].
    pub const fn message_size(json: &str) -> usize {
        MESSAGE.len() + json.len().saturating_sub(1)
    }
}

impl Message {
    /// As it is stored, and as the devices are told it but for what stands before it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Up {
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

impl Up {
    /// Every text but the ids, which were checked when they became ids.
    fn check(&self) -> Result<(), Refused> {
        let optional = |text: &Option<String>, what| text.as_deref().map_or(Ok(()), |text| input::word(text, what));
        match self {
            Self::Hello(hello) => {
                input::word(&hello.agent, "the agent")?;
                input::word(&hello.channel, "the channel")?;
                input::word(&hello.platform, "the platform")?;
                optional(&hello.model, "the model")?;
                optional(&hello.login, "the login's name")?;
                optional(&hello.instance, "the instance")?;
                match &hello.binding {
                    Some(Held::Bound { notifier, token }) => {
                        input::word(notifier, "the notifier")?;
                        input::word(token, "the token's fingerprint")
                    }
                    Some(Held::None) | None => Ok(()),
                }
            }
            Self::Bind { notifier, token, .. } => {
                input::word(notifier, "the notifier")?;
                input::token(token.expose())
            }
            Self::Unbind { notifier, .. } => optional(notifier, "the notifier"),
            Self::Receipt { event, .. } => input::word(event, "the event"),
            Self::Ack { .. } | Self::Taken { .. } | Self::Renew | Self::Presence { .. } => Ok(()),
        }
    }

    const fn sequence(&self) -> Option<u64> {
        match self {
            Self::Bind { sequence, .. } | Self::Unbind { sequence, .. } => Some(*sequence),
            _ => None,
        }
    }
}

impl State {
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

fn encode<T: Serialize>(payload: &T) -> Vec<u8> {
    // Serialization of these plain types has no failing case; an empty payload would be refused as
    // malformed by the peer rather than bring this side down.
    serde_json::to_vec(&Versioned { v: VERSION, payload }).unwrap_or_default()
}

/// # Errors
/// [`PayloadError`] for anything but a well-formed version 1 message to a device.
pub fn decode_down(bytes: &[u8]) -> Result<Down, PayloadError> {
    decode(bytes, &["message", "bound", "kick", "settings"])
}

/// # Errors
/// [`PayloadError`] for anything but a well-formed version 1 message to the gateway.
pub fn decode_up(bytes: &[u8]) -> Result<Up, PayloadError> {
    let up: Up = decode(bytes, &["hello", "bind", "unbind", "ack", "taken", "renew", "receipt", "presence"])?;
    up.check().map_err(|why| PayloadError::Refused { why, sequence: up.sequence() })?;
    Ok(up)
}

/// # Errors
/// [`PayloadError`] for anything but a well-formed version 1 state.
pub fn decode_state(bytes: &[u8]) -> Result<State, PayloadError> {
    decode(bytes, &[])
}

fn decode<T: DeserializeOwned>(bytes: &[u8], types: &[&str]) -> Result<T, PayloadError> {
    #[derive(Deserialize)]
    struct Head {
        v: u32,
        #[serde(default, rename = "type")]
        kind: Option<String>,
    }
    if bytes.len() > MAX_PAYLOAD {
        return Err(PayloadError::TooLarge(bytes.len()));
    }
    let malformed = |e: serde_json::Error| PayloadError::Malformed(e.to_string());
    let head: Head = serde_json::from_slice(bytes).map_err(malformed)?;
    if head.v != VERSION {
        return Err(PayloadError::Version(head.v));
    }
    match head.kind {
        Some(kind) if !types.is_empty() && !types.contains(&kind.as_str()) => Err(PayloadError::UnknownType(kind)),
        _ => serde_json::from_slice(bytes).map_err(malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::super::KickCode;
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let bind = Up::Bind { sequence: 7, notifier: "n".into(), token: Secret::new("t") };
        assert_eq!(decode_up(&bind.encode()), Ok(bind));
        let kick = Down::Kick { code: KickCode::Kicked, replaced_by: None };
        assert_eq!(decode_down(&kick.encode()), Ok(kick));
        let state = State { online: true, nonce: "n".into() };
        assert_eq!(decode_state(&state.encode()), Ok(state));
    }

    #[test]
    fn a_message_is_one_text_whether_it_was_given_away_or_lent() {
        let message: Message = serde_json::from_value(serde_json::json!({
            "id": "0123456789abcdef0123", "from": "admin", "to": "ann", "chat_type": "chat", "sent_at_ms": 5,
            "body": {"type": "txt"}, "ext": {"b": 1, "a": 2},
        }))
        .expect("a message");
        let json = message.to_json();
        let payload = Down::encode_message(&json);
        assert_eq!(payload.len(), Down::message_size(&json));
        assert_eq!(payload, Down::Message(message).encode());
    }

    #[test]
    fn what_a_device_says_has_its_bounds_whatever_it_is() {
        let hello = |field: &str, value: &str| {
            let mut hello = serde_json::json!({
                "v": 1, "type": "hello", "nonce": "n", "agent": "a", "channel": "none", "platform": "linux",
                "binding": {"held": "none"},
            });
            hello[field] = value.into();
            decode_up(hello.to_string().as_bytes())
        };
        assert!(hello("model", "小米 14").is_ok());
        for field in ["agent", "channel", "platform", "model", "login", "instance"] {
            for (bad, kind) in [("a\0", "control_character"), (&*"m".repeat(6000), "length")] {
                let error = hello(field, bad).expect_err(field);
                assert_eq!(error.as_str(), kind, "{field}");
            }
        }
        assert_eq!(hello("nonce", &"n".repeat(6000)).expect_err("a nonce").as_str(), "malformed");
        let bind = |notifier: &str, token: &str| {
            decode_up(&Up::Bind { sequence: 7, notifier: notifier.into(), token: Secret::new(token) }.encode())
        };
        for (notifier, token) in [("n\0", "t"), ("n", "t\0"), ("n", &*"t".repeat(6000))] {
            let error = bind(notifier, token).expect_err("a bind");
            assert!(matches!(error, PayloadError::Refused { sequence: Some(7), .. }), "{error:?}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_unknown_types_named() {
        assert!(decode_up(br#"{"v":1,"type":"ack","ids":["a"],"colour":"red"}"#).is_ok());
        assert_eq!(decode_up(br#"{"v":1,"type":"dance"}"#), Err(PayloadError::UnknownType("dance".into())));
    }

    #[test]
    fn a_bad_payload_is_refused_with_its_reason() {
        assert_eq!(decode_up(br#"{"v":2,"type":"ack","ids":[]}"#), Err(PayloadError::Version(2)));
        assert!(matches!(decode_up(b"\xff\xfe"), Err(PayloadError::Malformed(_))));
        assert!(matches!(decode_up(b"[]"), Err(PayloadError::Malformed(_))));
        assert!(matches!(decode_up(br#"{"v":1,"type":"ack","ids":"a"}"#), Err(PayloadError::Malformed(_))));
        assert_eq!(decode_up(&vec![b' '; MAX_PAYLOAD + 1]), Err(PayloadError::TooLarge(MAX_PAYLOAD + 1)));
    }

    #[test]
    fn a_kick_code_of_a_newer_gateway_still_ends_the_login() {
        let kick = decode_down(br#"{"v":1,"type":"kick","code":999}"#);
        assert_eq!(kick, Ok(Down::Kick { code: KickCode::Other(999), replaced_by: None }));
    }
}
