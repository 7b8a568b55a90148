//! Xiaomi MiPush: a static secret in a header, a url-encoded form, one JSON answer.
//! Source: dev.mi.com/xiaomihyperos/documentation, pages 1559 (server API) and 1560 (error codes).

use super::{Http, Meaning, Notification, Outcome, http_outcome, outcome};
use crate::gateway::content::cut;
use crate::gateway::store::Certificate;
use serde::Deserialize;
use std::time::Duration;

/// Titles are under 50 characters, descriptions under 128 (page 1559).
const MAX_TITLE: usize = 49;
const MAX_DESCRIPTION: usize = 127;
/// Offline life: the public class keeps a day, a private one ten.
const MAX_LIFE_PUBLIC: Duration = Duration::from_secs(86_400);
const MAX_LIFE_PRIVATE: Duration = Duration::from_secs(10 * 86_400);

/// Page 1560, and 1656 for 200001. 200002 was observed in public clients.
const CODES: &[(i64, Meaning)] = &[
    (0, Meaning::Ok),
    (-1, Meaning::Retry),
    (1, Meaning::Retry),
    (10001, Meaning::Retry),
    (10002, Meaning::Retry),
    (10003, Meaning::Retry),
    (10008, Meaning::Request),
    (10012, Meaning::Request),
    (10016, Meaning::Request),
    (10017, Meaning::Request),
    (10027, Meaning::LimitedShort),
    (10029, Meaning::TokenSoftDead),
    (10031, Meaning::Certificate),
    (10034, Meaning::LimitedToday),
    (10036, Meaning::Certificate),
    (10037, Meaning::Retry),
    (20301, Meaning::Retry),
    (20607, Meaning::Retry),
    // The secret is static: there is nothing to refresh, so wrong is wrong.
    (21301, Meaning::Certificate),
    (21302, Meaning::Certificate),
    (21303, Meaning::Certificate),
    (21305, Meaning::Request),
    (22000, Meaning::Certificate),
    (22006, Meaning::Certificate),
    (22007, Meaning::Certificate),
    (22022, Meaning::Certificate),
    (22102, Meaning::Retry),
    (26003, Meaning::Request),
    (26004, Meaning::LimitedShort),
    (26006, Meaning::Request),
    (27001, Meaning::Request),
    (65003, Meaning::TokenSoftDead),
    (65009, Meaning::Request),
    (65014, Meaning::Request),
    (65015, Meaning::Request),
    (65029, Meaning::Retry),
    (65036, Meaning::Request),
    (65037, Meaning::Request),
    (65038, Meaning::Request),
    (200_001, Meaning::LimitedToday),
    (200_002, Meaning::LimitedShort),
];

#[derive(Debug, Deserialize)]
struct Answer {
    code: i64,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Debug, Deserialize)]
struct Data {
    #[serde(default)]
    id: Option<String>,
    /// Ids the vendor would not take, joined by commas.
    #[serde(default)]
    bad_regids: Option<String>,
}

#[derive(Debug)]
pub(super) struct Xiaomi {
    http: Http,
    url: String,
}

impl Xiaomi {
    pub fn new(http: Http, url: &str) -> Self {
        Self { http, url: format!("{}/v3/message/regid", url.trim_end_matches('/')) }
    }

    pub async fn send(
        &self,
        certificate: &Certificate,
        token: &str,
        notification: &Notification,
        now_ms: u64,
    ) -> Outcome {
        let form = match serde_urlencoded::to_string(fields(certificate, token, notification)) {
            Ok(form) => form,
            Err(e) => return Outcome::Refused { code: "form".into(), reason: e.to_string(), certificate: false },
        };
        let key = format!("key={}", certificate.secret("app_secret"));
        let headers =
            [("authorization", key.as_str()), ("content-type", "application/x-www-form-urlencoded;charset=UTF-8")];
        match self.http.call("POST", &self.url, &headers, form.into_bytes()).await {
            Ok((status, body)) => match serde_json::from_slice::<Answer>(&body) {
                Ok(answer) => read(answer, token, now_ms),
                Err(e) => Outcome::RetryAfter {
                    after_ms: None,
                    code: status.as_str().to_owned(),
                    reason: format!("not the vendor's JSON: {e}"),
                },
            },
            Err(error) => http_outcome(&error),
        }
    }
}

fn fields(certificate: &Certificate, token: &str, notification: &Notification) -> Vec<(&'static str, String)> {
    let text = |key: &str| notification.vendor_ext[key].as_str().map(str::to_owned);
    let channel = text("xiaomi_channel_id").or_else(|| certificate.field("channel_id"));
    let life = notification.time_to_live.min(if channel.is_some() { MAX_LIFE_PRIVATE } else { MAX_LIFE_PUBLIC });
    let mut fields = vec![
        ("registration_id", token.to_owned()),
        ("restricted_package_name", certificate.field("package").unwrap_or_default()),
        ("pass_through", "0".to_owned()),
        ("title", cut(&notification.content.title, MAX_TITLE)),
        ("description", cut(&notification.content.body, MAX_DESCRIPTION)),
        ("payload", notification.content.payload.to_string()),
        ("notify_type", "-1".to_owned()),
        // 0 to 2147483647; the same value replaces the shown notification.
        ("notify_id", (notification.collapse_id & 0x7fff_ffff).to_string()),
        ("time_to_live", life.as_millis().to_string()),
    ];
    match text("xiaomi_click_action").or_else(|| certificate.field("action")) {
        Some(intent) => fields.extend([("extra.notify_effect", "2".to_owned()), ("extra.intent_uri", intent)]),
        None => fields.push(("extra.notify_effect", "1".to_owned())),
    }
    if let Some(channel) = channel {
        fields.push(("extra.channel_id", channel));
    }
    fields
}

fn read(answer: Answer, token: &str, now_ms: u64) -> Outcome {
    let data = answer.data;
    if data.as_ref().and_then(|d| d.bad_regids.as_deref()).is_some_and(|bad| bad.split(',').any(|id| id == token)) {
        return Outcome::TokenDead { code: answer.code.to_string(), reason: "the vendor lists the id as bad".into() };
    }
    let meaning = CODES.iter().find(|(code, _)| *code == answer.code).map_or(Meaning::Retry, |(_, meaning)| *meaning);
    let reason = answer.reason.or(answer.description).unwrap_or_default();
    outcome(meaning, answer.code.to_string(), reason, now_ms, data.and_then(|d| d.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answered(value: serde_json::Value) -> Outcome {
        read(serde_json::from_value(value).expect("an answer"), "tok", 0)
    }

    #[test]
    fn answers_are_read_by_the_vendors_codes() {
        assert_eq!(
            answered(json!({"result": "ok", "code": 0, "data": {"id": "x1"}})),
            Outcome::Delivered { vendor_id: Some("x1".into()) }
        );
        assert!(matches!(answered(json!({"code": 21301})), Outcome::Refused { certificate: true, .. }));
        assert!(matches!(answered(json!({"code": 200001})), Outcome::LimitedUntil { .. }));
        assert!(matches!(answered(json!({"code": 65003})), Outcome::TokenSoftDead { .. }));
        assert!(matches!(answered(json!({"code": 0, "data": {"bad_regids": "a,tok"}})), Outcome::TokenDead { .. }));
        assert!(matches!(answered(json!({"code": 424_242})), Outcome::RetryAfter { .. }), "an unknown code");
    }

    #[test]
    fn no_code_is_listed_twice() {
        let mut codes: Vec<_> = CODES.iter().map(|(code, _)| code).collect();
        codes.sort();
        codes.dedup();
        assert_eq!(codes.len(), CODES.len());
    }
}
