//! What a notification says: title, text and the payload for the app.

use crate::protocol::Message;
use serde_json::{Value as Json, json};

/// The default strings of the original system's simple banner.
const DEFAULT_TITLE: &str = "You have a new message";
const DEFAULT_BODY: &str = "Please check";

/// What is shown, before any vendor's limits are applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    pub title: String,
    pub body: String,
    /// For the app: `t` receiver, `f` sender, `m` message id, `g` group, `e` custom.
    pub payload: Json,
}

/// The sender's own title and content win over the default banner.
pub fn compose(message: &Message) -> Content {
    let text = |object: &str, key: &str| {
        message.ext[object][key].as_str().map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned)
    };
    let title = text("em_push_ext", "title").or_else(|| text("em_apns_ext", "em_push_title"));
    let body = text("em_push_ext", "content").or_else(|| text("em_apns_ext", "em_push_content"));
    let mut payload = json!({ "t": message.to, "f": message.from, "m": message.id });
    if let Some(group) = &message.group {
        payload["g"] = json!(group);
    }
    if message.ext["em_push_ext"]["custom"].is_object() {
        payload["e"] = message.ext["em_push_ext"]["custom"].clone();
    }
    Content {
        title: title.unwrap_or_else(|| DEFAULT_TITLE.to_owned()),
        body: body.unwrap_or_else(|| DEFAULT_BODY.to_owned()),
        payload,
    }
}

/// A sound of the app's own.
pub fn sound(message: &Message) -> Option<String> {
    message.ext["em_apns_ext"]["em_push_sound"].as_str().filter(|s| !s.is_empty()).map(str::to_owned)
}

/// The number at the app's icon, where the sender names one.
pub fn badge(message: &Message) -> Option<u32> {
    message.ext["em_apns_ext"]["em_push_badge"].as_u64().and_then(|badge| u32::try_from(badge).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(ext: Json) -> Message {
        Message {
            id: "m1".into(),
            from: "bob".into(),
            to: "ann".into(),
            chat_type: "chat".into(),
            group: None,
            sent_at_ms: 0,
            offline: true,
            body: json!({"msg": "secret text"}),
            ext,
        }
    }

    #[test]
    fn the_message_text_is_not_shown_unless_the_sender_says_so() {
        let content = compose(&message(json!({})));
        assert_eq!((content.title.as_str(), content.body.as_str()), (DEFAULT_TITLE, DEFAULT_BODY));
        assert_eq!(content.payload, json!({"t": "ann", "f": "bob", "m": "m1"}));
        let named = compose(&message(json!({"em_push_ext": {"title": "Bob", "content": "hi", "custom": {"k": 1}}})));
        assert_eq!((named.title.as_str(), named.body.as_str(), &named.payload["e"]["k"]), ("Bob", "hi", &json!(1)));
    }
}
