//! Apple's APNs: HTTP/2, a token made from a key and used for most of an hour, one device a call.
//! Sources: developer.apple.com, "Establishing a token-based connection to APNs" and "Handling
//! notification responses from APNs".

use super::super::call::{
    Answer, Call, Credential, Grant, Meaning, NoCredential, Protocol, Push, Reading, TooLarge, meaning_of,
};
use super::super::certificate::Certificate;
use super::super::ext::is_set;
use super::super::facts::{Host, Hosts};
use super::super::jwt::{Algorithm, sign};
use super::super::lenient;
use super::super::text::shrink;
use crate::http::Repeat;
use crate::secret::Secret;
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// Bytes of a payload.
const MAX_PAYLOAD: usize = 4096;
/// Days a notification is kept at most; Apple names no number.
const MAX_LIFE_S: u64 = 30 * 86_400;
/// One token is used for most of its hour; renewing more often than every 20 minutes is refused.
const RENEW_AFTER_MS: u64 = 50 * 60_000;

const REASONS: &[(&str, Meaning)] = &[
    ("BadDeviceToken", Meaning::TokenDeadOrEnvironment),
    ("Unregistered", Meaning::TokenDead),
    ("ExpiredToken", Meaning::TokenDead),
    ("DeviceTokenNotForTopic", Meaning::Request),
    ("ExpiredProviderToken", Meaning::Auth),
    ("InvalidProviderToken", Meaning::Auth),
    ("MissingProviderToken", Meaning::Auth),
    ("TooManyRequests", Meaning::LimitedShort),
    ("TooManyProviderTokenUpdates", Meaning::LimitedShort),
    ("BadCollapseId", Meaning::Request),
    ("BadExpirationDate", Meaning::Request),
    ("BadMessageId", Meaning::Request),
    ("BadPriority", Meaning::Request),
    ("BadTopic", Meaning::Certificate),
    ("BadPath", Meaning::Request),
    ("BadEnvironmentKeyInToken", Meaning::Certificate),
    ("BadEnvironmentKeyIdInToken", Meaning::Certificate),
    ("UnrelatedKeyIdInToken", Meaning::Certificate),
    ("BadCertificate", Meaning::Certificate),
    ("BadCertificateEnvironment", Meaning::Certificate),
    ("DuplicateHeaders", Meaning::Request),
    ("Forbidden", Meaning::Certificate),
    ("IdleTimeout", Meaning::Retry),
    ("InternalServerError", Meaning::Retry),
    ("InvalidPushType", Meaning::Request),
    ("MethodNotAllowed", Meaning::Request),
    ("MissingDeviceToken", Meaning::Request),
    ("MissingTopic", Meaning::Certificate),
    ("PayloadEmpty", Meaning::Request),
    ("PayloadTooLarge", Meaning::Request),
    ("ServiceUnavailable", Meaning::Retry),
    ("Shutdown", Meaning::Retry),
    ("TopicDisallowed", Meaning::Certificate),
];

/// A key of Apple's newer kind is for one environment alone. Both spellings are seen.
const OTHER_ENVIRONMENT: &[&str] = &["BadEnvironmentKeyInToken", "BadEnvironmentKeyIdInToken"];

#[derive(Debug, Deserialize)]
struct Said {
    #[serde(deserialize_with = "lenient::code")]
    reason: String,
    /// When the token stopped being valid, in milliseconds.
    #[serde(default, deserialize_with = "lenient::some_number")]
    timestamp: Option<i64>,
}

const APNS: Host = Host { key: "apns_url", url: "https://api.push.apple.com" };
const APNS_SANDBOX: Host = Host { key: "apns_sandbox_url", url: "https://api.sandbox.push.apple.com" };
pub(super) const HOSTS: &[Host] = &[APNS, APNS_SANDBOX];

pub(super) fn protocol(hosts: &Hosts) -> Box<dyn Protocol> {
    Box::new(Apns::new(hosts.at(&APNS), hosts.at(&APNS_SANDBOX)))
}

#[derive(Debug)]
struct Apns {
    production: String,
    development: String,
}

impl Apns {
    fn new(production: &str, development: &str) -> Self {
        let url = |url: &str| format!("{}/3/device/", url.trim_end_matches('/'));
        Self { production: url(production), development: url(development) }
    }
}

impl Protocol for Apns {
    fn batch(&self) -> usize {
        1
    }

    /// The second takes the first's place, by `apns-collapse-id`.
    fn repeat(&self) -> Repeat {
        Repeat::Harmless
    }

    fn id_header(&self) -> Option<&'static str> {
        Some("apns-id")
    }

    fn grant(&self, certificate: &Certificate, now_ms: u64) -> Result<Grant, NoCredential> {
        let claims = json!({ "iss": certificate.secret("team_id"), "iat": now_ms / 1000 });
        let made = sign(Algorithm::Es256, certificate.secret("key"), certificate.secret("key_id"), &claims)
            .map_err(|reason| NoCredential::Refused { code: "key".into(), reason })?;
        Ok(Grant::Made(Credential { value: Secret::new(made), renew_at_ms: now_ms + RENEW_AFTER_MS }))
    }

    fn request(&self, push: &Push<'_>, _handle: Option<&str>) -> Call {
        let host = match push.certificate.field("environment").as_deref() {
            Some("development") => &self.development,
            _ => &self.production,
        };
        let topic = push.certificate.secret("bundle_id").to_owned();
        let voip = topic.ends_with(".voip");
        Call::json(format!("{host}{}", push.tokens.first().copied().unwrap_or_default()), &payload(push))
            .with("authorization", format!("bearer {}", push.access))
            .with("apns-topic", topic)
            .with("apns-push-type", if voip { "voip" } else { "alert" }.to_owned())
            .with("apns-priority", "10".to_owned())
            .with("apns-expiration", (push.now_ms / 1000 + push.life_s(0, MAX_LIFE_S)).to_string())
            .with("apns-collapse-id", format!("{:08x}", push.notification.collapse_id))
    }

    fn too_large(&self, push: &Push<'_>) -> Option<TooLarge> {
        TooLarge::of(&payload(push), MAX_PAYLOAD)
    }

    fn read(&self, answer: &Answer<'_>) -> Reading {
        if answer.status == 200 {
            // Apple says no more than the status; a page is from something between.
            return match answer.json::<Json>() {
                Err(reading) if !answer.body.is_empty() => reading,
                _ => Reading::all(Meaning::Ok, "200", "").id(answer.id_header.map(str::to_owned)),
            };
        }
        let said: Said = match answer.json() {
            Ok(said) => said,
            Err(reading) => return reading,
        };
        let meaning = match meaning_of(REASONS, &said.reason.as_str()) {
            // Whatever it is called, what is forbidden is the certificate's.
            Meaning::Unknown if answer.status == 403 => Meaning::Certificate,
            meaning => meaning,
        };
        let words = if OTHER_ENVIRONMENT.contains(&said.reason.as_str()) {
            "403, the key is for the other environment".to_owned()
        } else {
            answer.status.to_string()
        };
        let mut reading = Reading::all(meaning, said.reason, words);
        reading.dead_since_ms = said.timestamp.and_then(|at| u64::try_from(at).ok());
        reading
    }
}

fn payload(push: &Push<'_>) -> Json {
    let notification = push.notification;
    let ext = &notification.vendor_ext;
    let mut alert = json!({ "title": notification.content.title, "body": notification.content.body });
    if let Some(subtitle) = ext["em_alert_subTitle"].as_str() {
        alert["subtitle"] = json!(subtitle);
    }
    let sound = notification.sound.clone().or_else(|| push.certificate.field("sound"));
    let mut aps = json!({ "alert": alert, "sound": sound.unwrap_or_else(|| "default".to_owned()) });
    if let Some(badge) = notification.badge {
        aps["badge"] = json!(badge);
    }
    for (from, to) in [("em_push_category", "category"), ("thread_id", "thread-id")] {
        if let Some(text) = ext[from].as_str() {
            aps[to] = json!(text);
        }
    }
    for (from, to) in
        [("em_push_mutable_content", "mutable-content"), ("em_push_content_available", "content-available")]
    {
        if is_set(&ext[from]) {
            aps[to] = json!(1);
        }
    }
    let mut payload = notification.content.payload.clone();
    payload["aps"] = aps;
    // Apple counts the bytes of all of it; the texts give way.
    shrink(&mut payload, &["/aps/alert/body", "/aps/alert/subtitle", "/aps/alert/title"], MAX_PAYLOAD);
    payload
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vendors::call::tests::{answered, pushing};

    #[test]
    fn a_dead_token_carries_the_moment_it_died() {
        let read = |status, body| answered(&Apns::new("https://a", "https://s"), status, &body);
        let gone = read(410, json!({"reason": "Unregistered", "timestamp": 7}));
        assert_eq!((gone.rest.meaning, gone.dead_since_ms), (Meaning::TokenDead, Some(7)));
        assert_eq!(read(403, json!({"reason": "ExpiredProviderToken"})).rest.meaning, Meaning::Auth);
        for reason in ["BadEnvironmentKeyInToken", "BadEnvironmentKeyIdInToken"] {
            let refused = read(403, json!({ "reason": reason })).rest;
            assert_eq!(refused.meaning, Meaning::Certificate);
            assert!(refused.reason.contains("the key is for the other environment"));
        }
        for reason in ["UnrelatedKeyIdInToken", "SomethingNew"] {
            assert_eq!(read(403, json!({ "reason": reason })).rest.meaning, Meaning::Certificate);
        }
        let odd = read(410, json!({"reason": "Unregistered", "timestamp": null}));
        assert_eq!((odd.rest.meaning, odd.dead_since_ms), (Meaning::TokenDead, None));
        assert_eq!(read(410, json!({"reason": "Unregistered", "timestamp": "7"})).dead_since_ms, Some(7));
        assert_eq!(read(503, json!({"reason": "Shutdown"})).rest.meaning, Meaning::Retry);
        assert_eq!(read(400, json!({"reason": "Whatever"})).rest.meaning, Meaning::Unknown);
    }

    #[test]
    fn only_apples_own_200_is_a_success() {
        let apns = Apns::new("https://a", "https://s");
        let read = |body: &[u8]| apns.read(&Answer { status: 200, body, id_header: Some("id") });
        for own in [&b""[..], b"{}"] {
            assert_eq!((read(own).rest.meaning, read(own).vendor_id.as_deref()), (Meaning::Ok, Some("id")));
        }
        for other in [&b"<html>Sign in</html>"[..], b"{\"code\": 0, ", b"OK"] {
            assert_eq!(read(other).rest.meaning, Meaning::Retry);
        }
    }

    #[test]
    fn a_long_text_gives_way_until_the_payload_fits() {
        pushing(&"消".repeat(3000), &["t"], |push| {
            let payload = payload(push);
            assert!(payload.to_string().len() <= MAX_PAYLOAD);
            assert!(payload["aps"]["alert"]["body"].as_str().expect("a text").ends_with('…'));
        });
    }
}
