//! Honor Push: an OAuth token, one flat JSON message, one JSON answer.
//! Source: developer.honor.com/cn/docs/11002/reference/downlink-message, as public clients follow it (its
//! table of codes could not be read; the codes here are those several clients agree on).

use super::super::call::{
    Answer, Call, Credential, Grant, Meaning, NoCredential, Protocol, Push, Reading, oauth_granted,
};
use super::super::certificate::Certificate;
use super::super::facts::{Host, Hosts};
use super::super::lenient;
use super::super::text::{Count, cut};
use crate::http::Repeat;
use serde::Deserialize;
use serde_json::json;

/// Fifteen days, in seconds.
const MAX_LIFE_S: u64 = 1_296_000;
/// Not published; what the service it was part of takes, with room for the rest, in characters.
const MAX_TITLE: usize = 100;
const MAX_BODY: usize = 500;

#[derive(Debug, Deserialize)]
struct Said {
    #[serde(deserialize_with = "lenient::number")]
    code: i64,
    #[serde(default, deserialize_with = "lenient::text")]
    message: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    data: Data,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Data {
    #[serde(deserialize_with = "lenient::or_default")]
    send_result: Option<bool>,
    #[serde(deserialize_with = "lenient::some_text")]
    request_id: Option<String>,
    #[serde(deserialize_with = "lenient::texts")]
    fail_tokens: Vec<String>,
    #[serde(deserialize_with = "lenient::texts")]
    expire_tokens: Vec<String>,
}

const HONOR_OAUTH: Host = Host { key: "honor_oauth_url", url: "https://iam.developer.honor.com" };
const HONOR_PUSH: Host = Host { key: "honor_push_url", url: "https://push-api.cloud.honor.com" };
pub(super) const HOSTS: &[Host] = &[HONOR_OAUTH, HONOR_PUSH];

pub(super) fn protocol(hosts: &Hosts) -> Box<dyn Protocol> {
    Box::new(Honor::new(hosts.at(&HONOR_OAUTH), hosts.at(&HONOR_PUSH)))
}

#[derive(Debug)]
struct Honor {
    oauth_url: String,
    push_url: String,
}

impl Honor {
    fn new(oauth_url: &str, push_url: &str) -> Self {
        Self {
            oauth_url: format!("{}/auth/token", oauth_url.trim_end_matches('/')),
            push_url: push_url.trim_end_matches('/').to_owned(),
        }
    }
}

impl Protocol for Honor {
    fn batch(&self) -> usize {
        1000
    }

    /// The second takes the first's place, by `notifyId`.
    fn repeat(&self) -> Repeat {
        Repeat::Harmless
    }

    fn grant(&self, certificate: &Certificate, _now_ms: u64) -> Result<Grant, NoCredential> {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", certificate.secret("client_id")),
            ("client_secret", certificate.secret("client_secret")),
        ];
        Ok(Grant::Ask(Call::form(self.oauth_url.clone(), &form)))
    }

    fn granted(&self, answer: &Answer<'_>, now_ms: u64) -> Result<Credential, NoCredential> {
        oauth_granted(answer, now_ms)
    }

    fn request(&self, push: &Push<'_>, _handle: Option<&str>) -> Call {
        let notification = push.notification;
        let click = match push.setting("honor_click_action", "action") {
            Some(action) => json!({ "type": 1, "action": action }),
            None => json!({ "type": 3 }),
        };
        let importance = push.setting("honor_importance", "importance").unwrap_or_else(|| "NORMAL".to_owned());
        let mut shown = json!({
            "title": cut(&notification.content.title, MAX_TITLE, Count::Characters),
            "body": cut(&notification.content.body, MAX_BODY, Count::Characters),
            "clickAction": click, "importance": importance, "notifyId": push.notify_id(),
        });
        if let (Some(badge), Some(class)) = (notification.badge, push.certificate.field("badge_class")) {
            shown["badge"] = json!({ "setNum": badge.min(99), "badgeClass": class });
        }
        let mut android = json!({
            "ttl": format!("{}s", push.life_s(1, MAX_LIFE_S)), "biTag": notification.receipt_param, "notification": shown,
        });
        if let Some(kind) = notification.vendor_ext["honor_target_user_type"].as_u64() {
            android["targetUserType"] = json!(kind);
        }
        let body = json!({
            "data": notification.content.payload.to_string(), "android": android, "token": push.tokens,
        });
        Call::json(format!("{}/api/v1/{}/sendMessage", self.push_url, push.certificate.name), &body)
            .with("authorization", format!("Bearer {}", push.access))
            // Milliseconds; a client that sends seconds is refused.
            .with("timestamp", push.now_ms.to_string())
    }

    fn read(&self, answer: &Answer<'_>) -> Reading {
        let said: Said = match answer.json() {
            Ok(said) => said,
            Err(reading) => return reading,
        };
        let code = said.code.to_string();
        let sent = said.data.send_result == Some(true);
        let meaning = match said.code {
            200 | 80_000_000 | 80_100_000 => Meaning::Ok,
            _ if sent => Meaning::Ok,
            401 | 403 | 80_200_000..=80_299_999 => Meaning::Auth,
            80_300_007 => Meaning::TokenDead,
            80_100_001..=80_199_999 | 80_300_000..=80_399_999 | 400 | 404 => Meaning::Request,
            429 | 503 => Meaning::LimitedShort,
            500 | 502 | 81_000_000..=81_099_999 => Meaning::Retry,
            _ => Meaning::Unknown,
        };
        Reading::all(meaning, code.as_str(), said.message)
            .id(said.data.request_id)
            .but(said.data.expire_tokens, Meaning::TokenDead, &code, "listed among expireTokens")
            .but(said.data.fail_tokens, Meaning::Retry, &code, "listed among failTokens")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vendors::call::tests::answered;

    #[test]
    fn an_answer_is_split_by_expired_and_failed_tokens() {
        let data = json!({"sendResult": true, "requestId": "r", "expireTokens": ["a"], "failTokens": ["b"]});
        let reading =
            answered(&Honor::new("https://o", "https://p"), 200, &json!({"code": 200, "message": "", "data": data}));
        assert_eq!(reading.vendor_id.as_deref(), Some("r"));
        let meanings: Vec<_> = ["a", "b", "c"].into_iter().map(|token| reading.of(token).meaning).collect();
        assert_eq!(meanings, [Meaning::TokenDead, Meaning::Retry, Meaning::Ok]);
    }

    #[test]
    fn every_word_for_success_is_taken_and_an_unknown_code_is_unknown() {
        let read = |body| answered(&Honor::new("https://o", "https://p"), 200, &body).rest.meaning;
        assert_eq!(read(json!({"code": 80_000_000, "message": "Success"})), Meaning::Ok);
        let odd = json!({"sendResult": 1, "failTokens": null, "expireTokens": {}, "requestId": 5});
        for data in [json!(null), json!("x"), odd] {
            assert_eq!(read(json!({"code": "200", "message": null, "data": data})), Meaning::Ok);
        }
        assert_eq!(read(json!({"code": 80_100_003})), Meaning::Request);
        assert_eq!(read(json!({"code": 80_200_003})), Meaning::Auth);
        assert_eq!(read(json!({"code": 7})), Meaning::Unknown);
    }
}
