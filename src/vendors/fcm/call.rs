//! FCM's HTTP v1: an OAuth token for a service account's JWT, one JSON message to one device, errors with details.
//! Sources: firebase.google.com/docs/reference/fcm/rest/v1/projects.messages and .../ErrorCode; RFC 7523.

use super::super::call::{
    Answer, Call, Credential, Grant, Meaning, NoCredential, Protocol, Push, Reading, TooLarge, meaning_of,
    oauth_granted,
};
use super::super::certificate::Certificate;
use super::super::facts::{Host, Hosts};
use super::super::jwt::{Algorithm, sign};
use super::super::lenient;
use super::super::text::shrink;
use crate::http::Repeat;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

/// Bytes of a message.
const MAX_MESSAGE: usize = 4096;
/// Four weeks, in seconds.
const MAX_LIFE_S: u64 = 28 * 86_400;
/// Life of the JWT that is given for an access token, in seconds.
const ASSERTION_S: u64 = 3600;
/// Whom it is for, wherever the host's setting leads.
const AUDIENCE: &str = "https://oauth2.googleapis.com/token";
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
/// The least pause after a quota is used up that names none, in milliseconds.
const QUOTA_PAUSE_MS: u64 = 60_000;
/// How the details of FCM's own error are marked.
const FCM_ERROR: &str = "type.googleapis.com/google.firebase.fcm.v1.FcmError";

/// FCM's error codes, and what Google's common ones say where there is none.
const CODES: &[(&str, Meaning)] = &[
    ("UNREGISTERED", Meaning::TokenDead),
    ("SENDER_ID_MISMATCH", Meaning::Certificate),
    ("INVALID_ARGUMENT", Meaning::Request),
    ("QUOTA_EXCEEDED", Meaning::LimitedShort),
    ("RESOURCE_EXHAUSTED", Meaning::LimitedShort),
    ("UNAVAILABLE", Meaning::Retry),
    ("INTERNAL", Meaning::Retry),
    ("DEADLINE_EXCEEDED", Meaning::Retry),
    ("THIRD_PARTY_AUTH_ERROR", Meaning::Certificate),
    ("UNAUTHENTICATED", Meaning::Auth),
    ("PERMISSION_DENIED", Meaning::Certificate),
    ("NOT_FOUND", Meaning::Certificate),
];

#[derive(Debug, Deserialize)]
struct Sent {
    #[serde(default, deserialize_with = "lenient::some_text")]
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Failed {
    error: Fault,
}

#[derive(Debug, Deserialize)]
struct Fault {
    #[serde(default, deserialize_with = "lenient::text")]
    status: String,
    #[serde(default, deserialize_with = "lenient::text")]
    message: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    details: Vec<Json>,
}

const OAUTH: Host = Host { key: "fcm_oauth_url", url: "https://oauth2.googleapis.com" };
const SEND: Host = Host { key: "fcm_url", url: "https://fcm.googleapis.com" };
pub(super) const HOSTS: &[Host] = &[OAUTH, SEND];

pub(super) fn protocol(hosts: &Hosts) -> Box<dyn Protocol> {
    Box::new(Fcm::new(hosts.at(&OAUTH), hosts.at(&SEND)))
}

#[derive(Debug)]
struct Fcm {
    oauth_url: String,
    url: String,
}

impl Fcm {
    fn new(oauth_url: &str, url: &str) -> Self {
        Self { oauth_url: format!("{oauth_url}/token"), url: url.to_owned() }
    }
}

impl Protocol for Fcm {
    fn batch(&self) -> usize {
        1
    }

    /// The second takes the first's place, by `tag`.
    fn repeat(&self) -> Repeat {
        Repeat::Harmless
    }

    fn grant(&self, certificate: &Certificate, now_ms: u64) -> Result<Grant, NoCredential> {
        let now_s = now_ms / 1000;
        let claims = json!({
            "iss": certificate.secret("client_email"), "scope": SCOPE, "aud": AUDIENCE, "iat": now_s, "exp": now_s + ASSERTION_S,
        });
        let key = (certificate.secret("private_key"), certificate.secret("private_key_id"));
        let assertion = sign(Algorithm::Rs256, key.0, key.1, &claims)
            .map_err(|reason| NoCredential::Refused { code: "key".into(), reason })?;
        let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &assertion)];
        Ok(Grant::Ask(Call::form(self.oauth_url.clone(), &form)))
    }

    fn granted(&self, answer: &Answer<'_>, now_ms: u64) -> Result<Credential, NoCredential> {
        oauth_granted(answer, now_ms)
    }

    fn request(&self, push: &Push<'_>, _handle: Option<&str>) -> Call {
        let project = push.certificate.secret("project_id");
        Call::json(format!("{}/v1/projects/{project}/messages:send", self.url), &message(push))
            .with("authorization", format!("Bearer {}", push.access))
    }

    fn too_large(&self, push: &Push<'_>) -> Option<TooLarge> {
        TooLarge::of(&message(push), MAX_MESSAGE)
    }

    fn read(&self, answer: &Answer<'_>) -> Reading {
        if answer.status == 200 {
            return match answer.json::<Sent>() {
                Ok(sent) => Reading::all(Meaning::Ok, "200", "").id(sent.name),
                Err(reading) => reading,
            };
        }
        let Fault { status, message, details } = match answer.json::<Failed>() {
            Ok(failed) => failed.error,
            Err(reading) => return reading,
        };
        let own = details.iter().find(|detail| detail["@type"] == FCM_ERROR).and_then(|d| d["errorCode"].as_str());
        let code = own.unwrap_or(&status);
        let mut meaning = meaning_of(CODES, &code);
        // FCM's own word about the token; a field's violation is the message's fault.
        if own == Some("INVALID_ARGUMENT") && details.len() == 1 && message.contains("registration token") {
            meaning = Meaning::TokenDeadOrEnvironment;
        }
        let mut reading = Reading::all(meaning, code, message);
        reading.after_ms = (meaning == Meaning::LimitedShort).then_some(QUOTA_PAUSE_MS);
        reading
    }
}

fn message(push: &Push<'_>) -> Json {
    let notification = push.notification;
    // Every value is a text.
    let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let payload = notification.content.payload.as_object();
    let data: Map<String, Json> =
        payload.into_iter().flatten().map(|(key, value)| (key.clone(), text(value).into())).collect();
    let place = format!("{:08x}", notification.collapse_id);
    let mut shown = json!({ "tag": place });
    if let Some(channel) = push.setting("fcm_channel_id", "channel_id") {
        shown["channel_id"] = json!(channel);
    }
    if let Some(action) = push.setting("fcm_click_action", "action") {
        shown["click_action"] = json!(action);
    }
    if let Some(badge) = notification.badge {
        shown["notification_count"] = json!(badge);
    }
    if let Some(sound) = &notification.sound {
        shown["sound"] = json!(sound);
    }
    let priority = push.certificate.field("priority").unwrap_or_else(|| "high".to_owned());
    let mut body = json!({ "message": {
        "token": push.tokens.first(),
        "notification": { "title": notification.content.title, "body": notification.content.body },
        "data": data,
        "android": {
            "ttl": format!("{}s", push.life_s(0, MAX_LIFE_S)), "priority": priority, "collapse_key": place, "notification": shown,
        },
    } });
    shrink(&mut body, &["/message/notification/body", "/message/notification/title"], MAX_MESSAGE);
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vendors::call::tests::{answered, pushing};

    fn read(status: u16, body: &Json) -> Reading {
        answered(&Fcm::new("https://o", "https://f"), status, body)
    }

    fn failed(status: &str, own: Option<&str>, message: &str) -> Json {
        let details: Vec<Json> = own.iter().map(|code| json!({"@type": FCM_ERROR, "errorCode": code})).collect();
        json!({"error": {"code": 400, "status": status, "message": message, "details": details}})
    }

    #[test]
    fn fcms_own_code_decides_and_googles_where_there_is_none() {
        let sent = read(200, &json!({"name": "projects/p/messages/1"}));
        assert_eq!((sent.rest.meaning, sent.vendor_id.as_deref()), (Meaning::Ok, Some("projects/p/messages/1")));
        for (http, status, own, meaning) in [
            (404, "NOT_FOUND", Some("UNREGISTERED"), Meaning::TokenDead),
            (404, "NOT_FOUND", None, Meaning::Certificate),
            (403, "PERMISSION_DENIED", Some("SENDER_ID_MISMATCH"), Meaning::Certificate),
            (401, "UNAUTHENTICATED", Some("THIRD_PARTY_AUTH_ERROR"), Meaning::Certificate),
            (401, "UNAUTHENTICATED", None, Meaning::Auth),
            (429, "RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED"), Meaning::LimitedShort),
            (503, "UNAVAILABLE", Some("UNAVAILABLE"), Meaning::Retry),
            (400, "SOMETHING_NEW", None, Meaning::Unknown),
        ] {
            assert_eq!(read(http, &failed(status, own, "")).rest.meaning, meaning, "{status} {own:?}");
        }
        for odd in [json!({}), json!({"name": null}), json!({"name": 7, "more": []})] {
            assert_eq!(read(200, &odd).rest.meaning, Meaning::Ok, "{odd}");
        }
        let odd = json!({"error": {"code": "503", "status": "UNAVAILABLE", "message": null, "details": null}});
        assert_eq!(read(503, &odd).rest.meaning, Meaning::Retry);
        assert_eq!(read(429, &failed("RESOURCE_EXHAUSTED", None, "")).after_ms, Some(QUOTA_PAUSE_MS));
    }

    #[test]
    fn a_bad_argument_is_the_tokens_only_where_fcm_says_so() {
        let said = "The registration token is not a valid FCM registration token";
        let bad = failed("INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), said);
        assert_eq!(read(400, &bad).rest.meaning, Meaning::TokenDeadOrEnvironment);
        let mut field = bad.clone();
        let violation = json!({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": "message.android.ttl"}]});
        field["error"]["details"].as_array_mut().expect("a list").push(violation);
        assert_eq!(read(400, &field).rest.meaning, Meaning::Request);
        assert_eq!(read(400, &failed("INVALID_ARGUMENT", None, said)).rest.meaning, Meaning::Request);
    }

    #[test]
    fn a_long_text_gives_way_until_the_message_fits() {
        pushing(&"消".repeat(3000), &["t"], |push| {
            let message = message(push);
            assert!(message.to_string().len() <= MAX_MESSAGE);
            assert!(message["message"]["notification"]["body"].as_str().expect("a text").ends_with('…'));
        });
    }
}
