//! Huawei Push Kit: an OAuth token for an hour or, for HarmonyOS NEXT (v3), a token made from a service
//! account's key; a JSON message, one JSON answer.
//! Sources: developer.huawei.com, HMSCore-References `https-send-api-0001050986197`,
//! `push-scenariozed-api-request-param` and `-response` (v3), and the codes of
//! HMS-Core/hms-push-serverdemo-java.

use super::super::call::{
    Answer, Call, Credential, Grant, Meaning, NoCredential, Protocol, Push, Reading, TooLarge, meaning_of, notify_id,
    oauth_granted,
};
use super::super::certificate::Certificate;
use super::super::ext::is_set;
use super::super::facts::{Host, Hosts};
use super::super::jwt::{Algorithm, sign};
use super::super::lenient;
use super::super::notification::Accepted;
use super::super::text::shrink;
use crate::http::Repeat;
use crate::secret::Secret;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// Fifteen days, in seconds.
const MAX_LIFE_S: u64 = 1_296_000;
/// The whole body without the tokens, in bytes.
const MAX_BODY: usize = 4096;
/// A service account's token lives this long, in seconds, and is made anew a while before.
const ACCOUNT_TOKEN_S: u64 = 3600;
const ACCOUNT_TOKEN_RENEW_S: u64 = 3300;
const ACCOUNT_AUDIENCE: &str = "https://oauth-login.cloud.huawei.com/oauth2/v3/token";

/// HMS-Core/hms-push-serverdemo-java; 80200005 is of v3.
const CODES: &[(&str, Meaning)] = &[
    ("80000000", Meaning::Ok),
    ("80100000", Meaning::Ok),
    ("80100001", Meaning::Request),
    ("80100002", Meaning::Request),
    ("80100003", Meaning::Request),
    ("80100004", Meaning::Request),
    ("80100013", Meaning::Request),
    ("80100016", Meaning::Request),
    ("80100017", Meaning::LimitedShort),
    ("80100018", Meaning::Request),
    ("80200001", Meaning::Auth),
    ("80200003", Meaning::Auth),
    ("80200005", Meaning::Auth),
    ("80300002", Meaning::Certificate),
    // All tokens are invalid, or the certificate is another project's.
    ("80300007", Meaning::TokenDeadOrEnvironment),
    ("80300008", Meaning::Request),
    ("80300010", Meaning::Request),
    ("80300011", Meaning::Certificate),
    // The receipt's address.
    ("80300013", Meaning::Request),
    ("80600003", Meaning::Retry),
    ("81000001", Meaning::Retry),
];

/// What v3's reasons for not taking a token say (`illegalTokens` of its message); one that is not here is the
/// token's and of now. `noRight` is also what a certificate with another project's id hears for each token.
const REASONS: &[(&str, Meaning)] = &[
    ("tokenFormatError", Meaning::TokenDead),
    ("noRight", Meaning::TokenDeadOrEnvironment),
    ("noPushTypeRight", Meaning::Certificate),
    ("disableSendHuaweiMsgBecauseOfPenalty", Meaning::Certificate),
    ("appinfoError", Meaning::Certificate),
];

fn reason_means(reason: &str) -> Meaning {
    match meaning_of(REASONS, &reason) {
        Meaning::Unknown => Meaning::Request,
        known => known,
    }
}

#[derive(Debug, Deserialize)]
struct Said {
    #[serde(deserialize_with = "lenient::code")]
    code: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    msg: Json,
    #[serde(default, rename = "requestId", deserialize_with = "lenient::some_text")]
    request_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Partial {
    #[serde(deserialize_with = "lenient::texts")]
    illegal_tokens: Vec<String>,
    /// v3: by reason.
    #[serde(rename = "illegalTokens", deserialize_with = "lenient::or_default")]
    by_reason: BTreeMap<String, Json>,
}

const HUAWEI_OAUTH: Host = Host { key: "huawei_oauth_url", url: "https://oauth-login.cloud.huawei.com" };
const HUAWEI_PUSH: Host = Host { key: "huawei_push_url", url: "https://push-api.cloud.huawei.com" };
pub(super) const HOSTS: &[Host] = &[HUAWEI_OAUTH, HUAWEI_PUSH];

pub(super) fn protocol(hosts: &Hosts) -> Box<dyn Protocol> {
    Box::new(Huawei::new(hosts.at(&HUAWEI_OAUTH), hosts.at(&HUAWEI_PUSH)))
}

#[derive(Debug)]
struct Huawei {
    oauth_url: String,
    push_url: String,
}

impl Huawei {
    fn new(oauth_url: &str, push_url: &str) -> Self {
        Self {
            oauth_url: format!("{}/oauth2/v3/token", oauth_url.trim_end_matches('/')),
            push_url: push_url.trim_end_matches('/').to_owned(),
        }
    }
}

/// A certificate with a service account is for HarmonyOS NEXT.
fn is_v3(certificate: &Certificate) -> bool {
    certificate.field("private_key").is_some()
}

pub(super) fn ext(certificate: &Certificate) -> &'static str {
    if is_v3(certificate) { "em_harmony_push_ext" } else { "em_android_push_ext" }
}

impl Protocol for Huawei {
    fn batch(&self) -> usize {
        1000
    }

    /// The second takes the first's place, by `notify_id` (`notifyId` on HarmonyOS NEXT).
    fn repeat(&self) -> Repeat {
        Repeat::Harmless
    }

    fn grant(&self, certificate: &Certificate, now_ms: u64) -> Result<Grant, NoCredential> {
        if !is_v3(certificate) {
            let form = [
                ("grant_type", "client_credentials"),
                ("client_id", certificate.name.as_str()),
                ("client_secret", certificate.secret("client_secret")),
            ];
            return Ok(Grant::Ask(Call::form(self.oauth_url.clone(), &form)));
        }
        let now_s = now_ms / 1000;
        let claims = json!({
            "iss": certificate.secret("sub_account"), "aud": ACCOUNT_AUDIENCE, "iat": now_s, "exp": now_s + ACCOUNT_TOKEN_S,
        });
        let made = sign(Algorithm::Ps256, certificate.secret("private_key"), certificate.secret("key_id"), &claims)
            .map_err(|reason| NoCredential::Refused { code: "key".into(), reason })?;
        let renew_at_ms = now_ms + ACCOUNT_TOKEN_RENEW_S * 1000;
        Ok(Grant::Made(Credential { value: Secret::new(made), renew_at_ms }))
    }

    fn granted(&self, answer: &Answer<'_>, now_ms: u64) -> Result<Credential, NoCredential> {
        oauth_granted(answer, now_ms)
    }

    fn request(&self, push: &Push<'_>, _handle: Option<&str>) -> Call {
        let (url, mut body, tokens_at) = if is_v3(push.certificate) {
            let project = push.certificate.secret("project_id");
            (format!("{}/v3/{project}/messages:send", self.push_url), body_v3(push), "/target")
        } else {
            (format!("{}/v1/{}/messages:send", self.push_url, push.certificate.name), body_v1(push), "/message")
        };
        if let Some(target) = body.pointer_mut(tokens_at) {
            target["token"] = json!(push.tokens);
        }
        let call = Call::json(url, &body).with("authorization", format!("Bearer {}", push.access));
        // 0: a notification with an alert.
        if is_v3(push.certificate) { call.with("push-type", "0".to_owned()) } else { call }
    }

    /// HarmonyOS NEXT's `push-msg-revoke`: by the token and the notification's id.
    fn recall(&self, certificate: &Certificate, accepted: &Accepted<'_>) -> Option<Call> {
        if !is_v3(certificate) || accepted.token.is_empty() {
            return None;
        }
        let url = format!("{}/v1/{}/messages:revoke", self.push_url, certificate.name);
        let body = json!({ "notifyId": notify_id(accepted.collapse_id), "token": [accepted.token] });
        Some(Call::json(url, &body).with("push-type", "0".to_owned()))
    }

    fn too_large(&self, push: &Push<'_>) -> Option<TooLarge> {
        let body = if is_v3(push.certificate) { body_v3(push) } else { body_v1(push) };
        TooLarge::of(&body, MAX_BODY)
    }

    fn read(&self, answer: &Answer<'_>) -> Reading {
        let said: Said = match answer.json() {
            Ok(said) => said,
            Err(reading) => return reading,
        };
        // The message is itself JSON and lists the tokens that failed.
        let partial: Option<Partial> = match &said.msg {
            Json::String(text) => serde_json::from_str(text).ok(),
            other => serde_json::from_value(other.clone()).ok(),
        };
        // A list of tokens is no words.
        let words = said.msg.as_str().filter(|_| partial.is_none()).unwrap_or_default();
        let code = said.code.as_str();
        let mut meaning = meaning_of(CODES, &code);
        // Group and topic management; HTTP's word for flow control wins over an unknown code.
        if meaning == Meaning::Unknown {
            meaning = match (code.starts_with("820"), answer.status) {
                (true, _) => Meaning::Request,
                (_, 503) => Meaning::LimitedShort,
                _ => Meaning::Unknown,
            };
        }
        let partial = partial.unwrap_or_default();
        let reasons = &partial.by_reason;
        let mut words = words.to_owned();
        // In v3 "all tokens invalid" may mean that the project lacks a right: only its reasons tell.
        if code == "80300007" && !reasons.is_empty() {
            let projects = reasons.keys().all(|reason| reason_means(reason) == Meaning::Certificate);
            meaning = if projects { Meaning::Certificate } else { Meaning::Request };
            words = reasons.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        }
        let mut reading = Reading::all(meaning, code, words).id(said.request_id);
        if code == "80100000" {
            reading = reading.but(partial.illegal_tokens, Meaning::TokenDead, code, "listed among the illegal tokens");
        }
        if matches!(code, "80100000" | "80300007") && meaning != Meaning::Certificate {
            for (reason, tokens) in partial.by_reason {
                let tokens = lenient::texts(tokens).unwrap_or_default();
                reading = reading.but(tokens, reason_means(&reason), code, &reason);
            }
        }
        reading
    }
}

fn body_v1(push: &Push<'_>) -> Json {
    let notification = push.notification;
    let click = match push.setting("huawei_click_action", "action") {
        Some(action) => json!({ "type": 1, "action": action }),
        None => json!({ "type": 3 }),
    };
    let mut shown = json!({
        "title": notification.content.title, "body": notification.content.body, "click_action": click,
        "notify_id": push.notify_id(), "foreground_show": false,
    });
    if let Some(channel) = push.setting("huawei_channel_id", "channel_id") {
        shown["channel_id"] = json!(channel);
    }
    if let (Some(badge), Some(class)) = (notification.badge, push.certificate.field("activity")) {
        shown["badge"] = json!({ "set_num": badge.min(99), "class": class });
    }
    if let Some(sound) = &notification.sound {
        shown["sound"] = json!(sound);
    }
    let mut android = json!({
        "ttl": format!("{}s", push.life_s(1, MAX_LIFE_S)), "bi_tag": notification.receipt_param, "notification": shown,
    });
    if let Some(category) = push.setting("huawei_category", "category") {
        android["category"] = json!(category);
    }
    if let Some(receipt) = push.setting("huawei_receipt_id", "receipt_id") {
        android["receipt_id"] = json!(receipt);
    }
    if let Some(kind) = notification.vendor_ext["huawei_target_user_type"].as_u64() {
        android["target_user_type"] = json!(kind);
    }
    let mut body = json!({
        "validate_only": false, "message": { "data": notification.content.payload.to_string(), "android": android },
    });
    shrink(&mut body, &["/message/android/notification/body", "/message/android/notification/title"], MAX_BODY);
    body
}

fn body_v3(push: &Push<'_>) -> Json {
    let notification = push.notification;
    let category = push.setting("category", "category").unwrap_or_else(|| "MARKETING".to_owned());
    let click = match push.setting("click_action", "action") {
        Some(action) => json!({ "actionType": 1, "action": action, "data": notification.content.payload }),
        None => json!({ "actionType": 0, "data": notification.content.payload }),
    };
    // The sender's own place in the tray: the same number replaces.
    let own = notification.vendor_ext["notify_id"].as_u64().filter(|id| *id <= 0x7fff_ffff);
    let mut shown = json!({
        "category": category, "title": notification.content.title, "body": notification.content.body,
        "clickAction": click, "notifyId": own.unwrap_or_else(|| push.notify_id().into()),
    });
    if let Some(badge) = notification.badge {
        shown["badge"] = json!({ "setNum": badge.min(99) });
    }
    let mut options = json!({ "ttl": push.life_s(1, MAX_LIFE_S), "biTag": notification.receipt_param });
    if let Some(receipt) = push.setting("receipt_id", "receipt_id") {
        options["receiptId"] = json!(receipt);
    }
    if is_set(&notification.vendor_ext["is_test_message"]) {
        options["testMessage"] = json!(true);
    }
    let mut body = json!({ "payload": { "notification": shown }, "target": {}, "pushOptions": options });
    shrink(&mut body, &["/payload/notification/body", "/payload/notification/title"], MAX_BODY);
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vendors::call::tests::answered;

    fn read(status: u16, body: Json) -> Reading {
        answered(&Huawei::new("https://o", "https://p"), status, &body)
    }

    #[test]
    fn answers_are_read_by_the_vendors_codes() {
        for (status, code, meaning) in [
            (200, "80000000", Meaning::Ok),
            (200, "80300007", Meaning::TokenDeadOrEnvironment),
            (400, "80300013", Meaning::Request),
            (200, "80200003", Meaning::Auth),
            (200, "82000003", Meaning::Request),
            (503, "99", Meaning::LimitedShort),
            (200, "12345678", Meaning::Unknown),
        ] {
            assert_eq!(read(status, json!({"code": code, "msg": ""})).rest.meaning, meaning, "{code}");
        }
    }

    #[test]
    fn an_accepted_push_is_accepted_whatever_else_the_answer_holds() {
        for body in [
            json!({"code": 80_000_000, "msg": null, "requestId": 5}),
            json!({"code": "80000000", "msg": {"a": 1}, "requestId": null}),
            json!({"code": "80100000", "msg": {"illegal_tokens": null, "illegalTokens": []}}),
        ] {
            assert_eq!(read(200, body.clone()).of("tok").meaning, Meaning::Ok, "{body}");
        }
    }

    #[test]
    fn a_reason_of_v3_that_is_the_tokens_stops_nobody_else() {
        for (reason, all, token) in [
            ("tokenPlatformNotSupport", Meaning::Request, Meaning::Request),
            ("countryNotSupport", Meaning::Request, Meaning::Request),
            ("noRight", Meaning::Request, Meaning::TokenDeadOrEnvironment),
            ("tokenFormatError", Meaning::Request, Meaning::TokenDead),
            ("appinfoError", Meaning::Certificate, Meaning::Certificate),
        ] {
            let msg = json!({"illegalTokens": {reason: ["tok"]}}).to_string();
            let reading = read(200, json!({"code": "80300007", "msg": msg}));
            assert_eq!((reading.rest.meaning, reading.of("tok").meaning), (all, token), "{reason}");
            assert!(!reading.rest.reason.contains("tok\""), "{}", reading.rest.reason);
        }
    }

    #[test]
    fn a_partial_success_is_split_by_token() {
        let msg = json!({"success": 1, "failure": 1, "illegal_tokens": ["tok"]}).to_string();
        let reading = read(200, json!({"code": "80100000", "msg": msg}));
        assert_eq!((reading.of("tok").meaning, reading.of("x").meaning), (Meaning::TokenDead, Meaning::Ok));
    }

    #[test]
    fn a_reason_of_v3_that_is_the_projects_fault_kills_no_token() {
        let msg = json!({"success": 0, "failure": 1, "illegalTokens": {"noPushTypeRight": ["tok"]}}).to_string();
        let all = read(200, json!({"code": "80300007", "msg": msg}));
        assert_eq!(all.of("tok").meaning, Meaning::Certificate);
        let msg = json!({"illegalTokens": {"tokenFormatError": ["a"], "countryNotSupport": ["b"]}}).to_string();
        let part = read(200, json!({"code": "80100000", "msg": msg}));
        assert_eq!((part.of("a").meaning, part.of("b").meaning), (Meaning::TokenDead, Meaning::Request));
    }
}
