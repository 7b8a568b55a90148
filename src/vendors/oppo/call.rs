//! OPPO Push (HeyTap: OPPO, OnePlus, realme): a signed request for a token of a day, forms that hold JSON.
//! Sources: OPPO's page "call address, common parameters, return codes" and its server SDK, in public copies.

use super::super::call::{
    Answer, Call, Credential, Grant, Meaning, NoCredential, Protocol, Push, Reading, Verdict, meaning_of,
};
use super::super::certificate::Certificate;
use super::super::facts::{Host, Hosts};
use super::super::lenient;
use super::super::text::{Count, cut};
use crate::http::Repeat;
use crate::secret::{Secret, hex};
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Value as Json, json};

const MAX_TITLE: usize = 50;
/// 50 in the newer text, 200 in the older: the stricter one.
const MAX_CONTENT: usize = 50;
/// Three days in the older text, ten in the newer, in seconds; larger values are cut there.
const MAX_LIFE_S: u64 = 10 * 86_400;
/// A token lives 24 hours from its `create_time`; it is renewed after twenty.
const RENEW_AFTER_MS: u64 = 20 * 3_600_000;

const CODES: &[(i64, Meaning)] = &[
    (0, Meaning::Ok),
    (-2, Meaning::LimitedShort),
    (-1, Meaning::Retry),
    (11, Meaning::Auth),
    (12, Meaning::Request),
    (13, Meaning::LimitedShort),
    (14, Meaning::Certificate),
    (15, Meaning::Auth),
    (16, Meaning::Auth),
    (17, Meaning::Auth),
    (18, Meaning::Auth),
    (19, Meaning::Auth),
    (25, Meaning::Request),
    (26, Meaning::Certificate),
    (27, Meaning::Certificate),
    (28, Meaning::Certificate),
    (29, Meaning::Request),
    (30, Meaning::Certificate),
    // The same content or id again: it was sent.
    (31, Meaning::Ok),
    (32, Meaning::Ok),
    (33, Meaning::LimitedToday),
    (40, Meaning::Request),
    (41, Meaning::Request),
    (51, Meaning::Request),
    (55, Meaning::LimitedShort),
    (59, Meaning::Request),
    // Category and level, which one message may bring.
    (67, Meaning::Request),
    (10000, Meaning::TokenDead),
    (10001, Meaning::TokenSoftDead),
    (10004, Meaning::Request),
    (10005, Meaning::Request),
];

#[derive(Debug, Deserialize)]
struct Said {
    #[serde(deserialize_with = "lenient::number")]
    code: i64,
    #[serde(default, deserialize_with = "lenient::text")]
    message: String,
    #[serde(default)]
    data: Json,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    #[serde(default, deserialize_with = "lenient::text")]
    registration_id: String,
    #[serde(default, deserialize_with = "lenient::some_number")]
    error_code: Option<i64>,
    #[serde(default, deserialize_with = "lenient::text")]
    error_message: String,
}

const HOST: Host = Host { key: "oppo_url", url: "https://api.push.oppomobile.com" };
pub(super) const HOSTS: &[Host] = &[HOST];

pub(super) fn protocol(hosts: &Hosts) -> Box<dyn Protocol> {
    Box::new(Oppo::new(hosts.at(&HOST)))
}

#[derive(Debug)]
struct Oppo {
    url: String,
}

impl Oppo {
    fn new(url: &str) -> Self {
        Self { url: format!("{}/server/v1", url.trim_end_matches('/')) }
    }
}

impl Protocol for Oppo {
    fn batch(&self) -> usize {
        1000
    }

    /// The second is refused by its `app_message_id`, or takes the first's place by `notify_id`.
    fn repeat(&self) -> Repeat {
        Repeat::Harmless
    }

    fn grant(&self, certificate: &Certificate, now_ms: u64) -> Result<Grant, NoCredential> {
        let timestamp = now_ms.to_string();
        let signed = format!("{}{timestamp}{}", certificate.name, certificate.secret("master_secret"));
        let sign = hex(digest(&SHA256, signed.as_bytes()).as_ref());
        let form = [("app_key", certificate.name.as_str()), ("timestamp", &timestamp), ("sign", &sign)];
        Ok(Grant::Ask(Call::form(format!("{}/auth", self.url), &form)))
    }

    fn granted(&self, answer: &Answer<'_>, now_ms: u64) -> Result<Credential, NoCredential> {
        let later = |verdict: Verdict| NoCredential::Later { code: verdict.code, reason: verdict.reason };
        let said: Said = answer.json().map_err(|reading| later(reading.rest))?;
        match (said.code, said.data["auth_token"].as_str()) {
            (0, Some(token)) => {
                let made_ms =
                    lenient::as_number(&said.data["create_time"]).and_then(|made_ms| u64::try_from(made_ms).ok());
                let made_ms = made_ms.map_or(now_ms, |made_ms| made_ms.min(now_ms));
                Ok(Credential { value: Secret::new(token), renew_at_ms: made_ms + RENEW_AFTER_MS })
            }
            _ => {
                let (code, reason) = (said.code.to_string(), said.message);
                match meaning_of(CODES, &said.code) {
                    Meaning::Auth | Meaning::Certificate | Meaning::Request => {
                        Err(NoCredential::Refused { code, reason })
                    }
                    _ => Err(NoCredential::Later { code, reason }),
                }
            }
        }
    }

    fn request(&self, push: &Push<'_>, _handle: Option<&str>) -> Call {
        let shown = shown(push);
        let message = |token: &str| json!({ "target_type": 2, "target_value": token, "verify_registration_id": true, "notification": shown });
        let (path, name, value) = match push.tokens {
            [token] => ("unicast", "message", message(token).to_string()),
            many => {
                let all: Vec<Json> = many.iter().map(|token| message(token)).collect();
                ("unicast_batch", "messages", json!(all).to_string())
            }
        };
        let form = [(name, value.as_str()), ("auth_token", push.access)];
        Call::form(format!("{}/message/notification/{path}", self.url), &form)
    }

    fn read(&self, answer: &Answer<'_>) -> Reading {
        let said: Said = match answer.json() {
            Ok(said) => said,
            Err(reading) => return reading,
        };
        let id = lenient::some_text(&said.data["messageId"]).unwrap_or_default();
        let mut reading = Reading::all(meaning_of(CODES, &said.code), said.code.to_string(), said.message).id(id);
        let items: Vec<Item> = lenient::items(said.data).unwrap_or_default();
        for item in items {
            if let Some(code) = item.error_code.filter(|code| *code != 0) {
                let (tokens, code_) = ([item.registration_id], code.to_string());
                reading = reading.but(tokens, meaning_of(CODES, &code), &code_, &item.error_message);
            }
        }
        reading
    }
}

fn shown(push: &Push<'_>) -> Json {
    let notification = push.notification;
    let mut shown = json!({
        // The same id is pushed once per target, so that a retry is no second notification.
        "app_message_id": format!("{:08x}-{}", notification.collapse_id, notification.receipt_param),
        "style": 1,
        "title": cut(&notification.content.title, MAX_TITLE, Count::Characters),
        "content": cut(&notification.content.body, MAX_CONTENT, Count::Characters),
        "click_action_type": 0,
        "action_parameters": notification.content.payload.to_string(),
        "off_line": true,
        "off_line_ttl": push.life_s(1, MAX_LIFE_S),
        "notify_id": push.notify_id(),
    });
    if let Some(activity) = push.setting("oppo_click_activity", "activity") {
        shown["click_action_type"] = json!(4);
        shown["click_action_activity"] = json!(activity);
    }
    if let Some(channel) = push.setting("oppo_channel_id", "channel_id") {
        shown["channel_id"] = json!(channel);
    }
    if let Some(category) = push.setting("oppo_category", "category") {
        shown["category"] = json!(category);
        // It needs a category.
        if let Some(level) = push.setting("oppo_notify_level", "notify_level").and_then(|l| l.parse::<u64>().ok()) {
            shown["notify_level"] = json!(level);
        }
    }
    if let Some(url) = &notification.receipt_url {
        shown["call_back_url"] = json!(url);
        shown["call_back_parameter"] = json!(notification.receipt_param);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vendors::call::tests::answered;

    #[test]
    fn a_batch_is_split_by_its_items() {
        let read = |body| answered(&Oppo::new("https://o"), 200, &body);
        let data = json!([
            {"messageId": "1", "registrationId": "a"},
            {"registrationId": "b", "errorCode": 10000, "errorMessage": "invalid"},
            {"registrationId": "c", "errorCode": 10001},
        ]);
        let reading = read(json!({"code": 0, "message": "Success", "data": data}));
        let meanings: Vec<_> = ["a", "b", "c"].into_iter().map(|token| reading.of(token).meaning).collect();
        assert_eq!(meanings, [Meaning::Ok, Meaning::TokenDead, Meaning::TokenSoftDead]);
        for odd in [json!({"code": "0", "message": null, "data": null}), json!({"code": 0, "message": 1, "data": "x"})]
        {
            assert_eq!(read(odd).of("a").meaning, Meaning::Ok);
        }
        let odd = json!([{"registrationId": "b", "errorCode": "10000", "errorMessage": null}, null, 7]);
        assert_eq!(read(json!({"code": 0, "data": odd})).of("b").meaning, Meaning::TokenDead);
        assert_eq!(read(json!({"code": 67})).rest.meaning, Meaning::Request);
        assert_eq!(read(json!({"code": 33, "message": "", "data": {}})).rest.meaning, Meaning::LimitedToday);
        assert_eq!(read(json!({"code": 32, "message": "duplicate"})).rest.meaning, Meaning::Ok);
    }
}
