//! Huawei Push Kit, HMS (v1): an OAuth token for an hour, a JSON message, one JSON answer.
//! Sources: developer.huawei.com, HMSCore-References `https-send-api-0001050986197`, and the codes of
//! HMS-Core/hms-push-serverdemo-java.

use super::credential::{Credential, Credentials};
use super::{Http, HttpError, Meaning, Notification, Outcome, http_outcome, outcome};
use crate::gateway::store::Certificate;
use crate::secret::Secret;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::time::Duration;

/// Fifteen days.
const MAX_LIFE: Duration = Duration::from_secs(1_296_000);
/// The whole body without the tokens, in bytes.
const MAX_BODY: usize = 4096;
/// An access token is replaced this long before its end.
const RENEW_EARLY_MS: u64 = 300_000;

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
    ("80300007", Meaning::TokenDead),
    ("80300008", Meaning::Request),
    ("80300010", Meaning::Request),
    ("80300011", Meaning::Certificate),
    ("80600003", Meaning::Retry),
    ("81000001", Meaning::Retry),
];

#[derive(Debug, Deserialize)]
struct Answer {
    code: String,
    #[serde(default)]
    msg: String,
    #[serde(default, rename = "requestId")]
    request_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Partial {
    #[serde(default)]
    illegal_tokens: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Granted {
    access_token: Secret,
    expires_in: u64,
}

/// Why no access token could be had.
enum NoToken {
    Http(HttpError),
    /// The vendor refused the client id or secret.
    Refused(String),
    Odd(String),
}

#[derive(Debug)]
pub(super) struct Huawei {
    http: Http,
    oauth_url: String,
    push_url: String,
    credentials: Credentials,
}

impl Huawei {
    pub fn new(http: Http, oauth_url: &str, push_url: &str) -> Self {
        Self {
            http,
            oauth_url: format!("{}/oauth2/v3/token", oauth_url.trim_end_matches('/')),
            push_url: push_url.trim_end_matches('/').to_owned(),
            credentials: Credentials::default(),
        }
    }

    pub async fn send(
        &self,
        certificate: &Certificate,
        token: &str,
        notification: &Notification,
        now_ms: u64,
    ) -> Outcome {
        let body = body(certificate, token, notification);
        let url = format!("{}/v1/{}/messages:send", self.push_url, certificate.name);
        let mut stale = None;
        // Once with what is cached, once with a fresh one: after that the certificate is at fault.
        for _ in 0..2 {
            let access = match self.access(certificate, now_ms, stale.as_ref()).await {
                Ok(access) => access,
                Err(NoToken::Http(error)) => return http_outcome(&error),
                Err(NoToken::Refused(reason)) => {
                    return Outcome::Refused { code: "oauth".into(), reason, certificate: true };
                }
                Err(NoToken::Odd(reason)) => {
                    return Outcome::RetryAfter { after_ms: None, code: "oauth".into(), reason };
                }
            };
            let bearer = format!("Bearer {}", access.expose());
            let headers = [("authorization", bearer.as_str()), ("content-type", "application/json; charset=UTF-8")];
            match self.http.call("POST", &url, &headers, body.clone().into_bytes()).await {
                Err(error) => return http_outcome(&error),
                Ok((status, answer)) => {
                    let (meaning, code, reason, id) = read(status.as_u16(), &answer, token);
                    if meaning != Meaning::Auth || stale.is_some() {
                        return outcome(meaning, code, reason, now_ms, id);
                    }
                    stale = Some(access);
                }
            }
        }
        Outcome::Refused { code: "oauth".into(), reason: "a fresh access token was refused".into(), certificate: true }
    }

    async fn access(&self, certificate: &Certificate, now_ms: u64, stale: Option<&Secret>) -> Result<Secret, NoToken> {
        let key = format!("{}/{}", certificate.app, certificate.name);
        self.credentials.get(&key, now_ms, stale, || self.grant(certificate, now_ms)).await
    }

    async fn grant(&self, certificate: &Certificate, now_ms: u64) -> Result<Credential, NoToken> {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &certificate.name),
            ("client_secret", certificate.secret("client_secret")),
        ];
        let form = serde_urlencoded::to_string(form).map_err(|e| NoToken::Odd(e.to_string()))?;
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let (status, body) =
            self.http.call("POST", &self.oauth_url, &headers, form.into_bytes()).await.map_err(NoToken::Http)?;
        if status.is_client_error() {
            return Err(NoToken::Refused(format!("{status}: {}", short(&body))));
        }
        let granted: Granted = serde_json::from_slice(&body).map_err(|e| NoToken::Odd(format!("{status}: {e}")))?;
        let life_ms = granted.expires_in.saturating_mul(1000);
        // A token of a few minutes must not be fetched for every send.
        let early = RENEW_EARLY_MS.min(life_ms / 2);
        Ok(Credential { value: granted.access_token, renew_at_ms: now_ms + life_ms - early })
    }
}

fn body(certificate: &Certificate, token: &str, notification: &Notification) -> String {
    let ext = &notification.vendor_ext;
    let text = |key: &str| ext[key].as_str().map(str::to_owned);
    let click = match text("huawei_click_action").or_else(|| certificate.field("action")) {
        Some(action) => json!({ "type": 1, "action": action }),
        None => json!({ "type": 3 }),
    };
    let mut shown = json!({
        "title": notification.content.title,
        "body": notification.content.body,
        "click_action": click,
        "notify_id": notification.collapse_id & 0x7fff_ffff,
        "foreground_show": false,
    });
    if let Some(channel) = text("huawei_channel_id") {
        shown["channel_id"] = json!(channel);
    }
    let life = notification.time_to_live.min(MAX_LIFE);
    let mut android = json!({ "ttl": format!("{}s", life.as_secs().max(1)), "notification": shown });
    if let Some(category) = text("huawei_category").or_else(|| certificate.field("category")) {
        android["category"] = json!(category);
    }
    if let Some(kind) = ext["huawei_target_user_type"].as_u64() {
        android["target_user_type"] = json!(kind);
    }
    let mut message = json!({ "validate_only": false, "message": { "data": notification.content.payload.to_string(), "android": android } });
    shrink(&mut message);
    message["message"]["token"] = json!([token]);
    message.to_string()
}

/// Shortens the text until the body without the tokens fits; the vendor counts bytes.
fn shrink(message: &mut Json) {
    loop {
        let over = message.to_string().len().saturating_sub(MAX_BODY);
        let Some(text) = message.pointer_mut("/message/android/notification/body") else { return };
        let current = text.as_str().unwrap_or_default().to_owned();
        if over == 0 || current.chars().count() <= 1 {
            return;
        }
        let keep = current.len().saturating_sub(over + '…'.len_utf8());
        let end = (0..=keep).rev().find(|at| current.is_char_boundary(*at)).unwrap_or(0);
        *text = json!(format!("{}…", &current[..end]));
    }
}

fn read(status: u16, body: &[u8], token: &str) -> (Meaning, String, String, Option<String>) {
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
        let meaning = match status {
            401 => Meaning::Auth,
            400 | 404 => Meaning::Request,
            503 => Meaning::LimitedShort,
            _ => Meaning::Retry,
        };
        return (meaning, status.to_string(), short(body), None);
    };
    if answer.code == "80100000" {
        // The message is itself JSON and lists the tokens that failed.
        let partial = serde_json::from_str::<Partial>(&answer.msg);
        if partial.is_ok_and(|p| p.illegal_tokens.iter().any(|t| t == token)) {
            return (Meaning::TokenDead, answer.code, "listed among the illegal tokens".into(), None);
        }
    }
    let meaning = CODES.iter().find(|(code, _)| *code == answer.code).map(|(_, meaning)| *meaning);
    let group = answer.code.starts_with("820");
    let meaning = meaning.unwrap_or(if group { Meaning::Request } else { Meaning::Retry });
    (meaning, answer.code, answer.msg, answer.request_id)
}

fn short(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(status: u16, body: &Json) -> Meaning {
        read(status, body.to_string().as_bytes(), "tok").0
    }

    #[test]
    fn answers_are_read_by_the_vendors_codes() {
        assert_eq!(meaning(200, &json!({"code": "80000000", "msg": "Success"})), Meaning::Ok);
        assert_eq!(meaning(200, &json!({"code": "80300007", "msg": "All tokens invalid"})), Meaning::TokenDead);
        assert_eq!(meaning(200, &json!({"code": "80200003", "msg": "expired"})), Meaning::Auth);
        assert_eq!(meaning(200, &json!({"code": "12345678"})), Meaning::Retry, "an unknown code");
        assert_eq!(read(401, b"<html>", "tok").0, Meaning::Auth);
        assert_eq!(read(503, b"", "tok").0, Meaning::LimitedShort);
    }

    #[test]
    fn a_partial_success_is_split_by_token() {
        let body = json!({"code": "80100000", "msg": "{\"success\":1,\"failure\":1,\"illegal_tokens\":[\"tok\"]}"});
        assert_eq!(meaning(200, &body), Meaning::TokenDead);
        assert_eq!(read(200, body.to_string().as_bytes(), "other").0, Meaning::Ok);
    }

    #[test]
    fn a_text_too_long_for_the_vendor_is_cut_at_a_character() {
        let mut message = json!({"message": {"android": {"notification": {"body": "消".repeat(3000)}}}});
        shrink(&mut message);
        assert!(message.to_string().len() <= MAX_BODY);
        let text = message["message"]["android"]["notification"]["body"].as_str().expect("text").to_owned();
        assert!(text.ends_with('…') && text.chars().count() > 1000);
    }
}
