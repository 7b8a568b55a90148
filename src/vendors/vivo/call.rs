//! vivo Push (vivo, iQOO): a signed request for a token of a day; single sends, or a stored message and a list.
//! Sources: copies of vivo's server API v2.9.2 (dev.vivo.com.cn/documentCenter/doc/362).

use super::super::call::{
    Answer, Call, Credential, Grant, Meaning, NoCredential, Protocol, Push, Reading, Verdict, meaning_of,
};
use super::super::certificate::Certificate;
use super::super::facts::{Host, Hosts};
use super::super::lenient;
use super::super::text::{Count, cut};
use crate::http::Repeat;
use crate::secret::{Secret, hex};
use md5::{Digest as _, Md5};
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// 20 Chinese or 40 Latin characters, and 50 or 100.
const MAX_TITLE: usize = 40;
const MAX_CONTENT: usize = 100;
/// Seconds: at least a minute; the stricter of two documents' maxima is a day.
const LIFE_S: (u64, u64) = (60, 86_400);
/// A token lives a day; the page asks to renew it every one to two hours.
const RENEW_AFTER_MS: u64 = 2 * 3_600_000;

const CODES: &[(i64, Meaning)] = &[
    (0, Meaning::Ok),
    (10000, Meaning::Auth),
    (10040, Meaning::Retry),
    (10054, Meaning::TokenDead),
    (10070, Meaning::LimitedToday),
    (10071, Meaning::LimitedMorning),
    (10072, Meaning::LimitedShort),
    (10073, Meaning::LimitedToday),
    (10085, Meaning::Request),
    (10094, Meaning::Request),
    (10096, Meaning::Request),
    (10097, Meaning::Request),
    (10101, Meaning::Request),
    (10104, Meaning::Request),
    (10105, Meaning::Request),
    (10106, Meaning::Request),
    (10110, Meaning::Request),
    (10200, Meaning::Certificate),
    (10206, Meaning::Auth),
    (10207, Meaning::Auth),
    (10250, Meaning::LimitedShort),
    (10252, Meaning::LimitedShort),
    (10254, Meaning::LimitedShort),
    (10302, Meaning::TokenDead),
    (10303, Meaning::Request),
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    #[serde(deserialize_with = "lenient::number")]
    result: i64,
    #[serde(default, deserialize_with = "lenient::text")]
    desc: String,
    #[serde(default, deserialize_with = "lenient::some_text")]
    task_id: Option<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    auth_token: Option<Secret>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    invalid_user: Option<Invalid>,
    #[serde(default, deserialize_with = "lenient::items")]
    invalid_users: Vec<Invalid>,
}

#[derive(Debug, Deserialize)]
struct Invalid {
    #[serde(deserialize_with = "lenient::code")]
    userid: String,
    #[serde(deserialize_with = "lenient::number")]
    status: i64,
}

const HOST: Host = Host { key: "vivo_url", url: "https://api-push.vivo.com.cn" };
pub(super) const HOSTS: &[Host] = &[HOST];

pub(super) fn protocol(hosts: &Hosts) -> Box<dyn Protocol> {
    Box::new(Vivo::new(hosts.at(&HOST)))
}

#[derive(Debug)]
struct Vivo {
    url: String,
}

impl Vivo {
    fn new(url: &str) -> Self {
        Self { url: format!("{}/message", url.trim_end_matches('/')) }
    }
}

/// A certificate is named `appId#appKey`.
fn ids(certificate: &Certificate) -> (&str, &str) {
    certificate.name.split_once('#').unwrap_or((&certificate.name, ""))
}

impl Protocol for Vivo {
    fn batch(&self) -> usize {
        1000
    }

    /// The second takes the first's place, by `notifyId`.
    fn repeat(&self) -> Repeat {
        Repeat::Harmless
    }

    fn grant(&self, certificate: &Certificate, now_ms: u64) -> Result<Grant, NoCredential> {
        let (id, key) = ids(certificate);
        let signed = format!("{id}{key}{now_ms}{}", certificate.secret("app_secret").trim());
        let body = json!({ "appId": id, "appKey": key, "timestamp": now_ms, "sign": hex(&Md5::digest(signed)) });
        Ok(Grant::Ask(Call::json(format!("{}/auth", self.url), &body)))
    }

    fn granted(&self, answer: &Answer<'_>, now_ms: u64) -> Result<Credential, NoCredential> {
        let later = |verdict: Verdict| NoCredential::Later { code: verdict.code, reason: verdict.reason };
        let said: Said = answer.json().map_err(|reading| later(reading.rest))?;
        let (code, reason) = (said.result.to_string(), said.desc);
        match (said.result, said.auth_token) {
            (0, Some(value)) => Ok(Credential { value, renew_at_ms: now_ms + RENEW_AFTER_MS }),
            (code_, _) => match meaning_of(CODES, &code_) {
                Meaning::Auth | Meaning::Certificate | Meaning::Request => Err(NoCredential::Refused { code, reason }),
                _ => Err(NoCredential::Later { code, reason }),
            },
        }
    }

    fn before(&self, push: &Push<'_>) -> Option<Call> {
        // A list has two ids at least.
        (push.tokens.len() > 1).then(|| self.call(push, "saveListPayload", &message(push)))
    }

    fn handle(&self, answer: &Answer<'_>) -> Result<String, Reading> {
        let said: Said = answer.json()?;
        match said.task_id {
            Some(task) if said.result == 0 => Ok(task),
            // Stored under a name nobody knows: sent to no one.
            None if said.result == 0 => Err(Reading::all(Meaning::Retry, "0", "the answer names no taskId")),
            _ => Err(read(said)),
        }
    }

    fn request(&self, push: &Push<'_>, handle: Option<&str>) -> Call {
        let mut body = match handle {
            Some(task) => json!({ "taskId": task, "regIds": push.tokens, "pushMode": 0 }),
            None => {
                let mut body = message(push);
                body["regId"] = json!(push.tokens.first());
                body
            }
        };
        body["requestId"] = json!(request_id(push));
        self.call(push, if handle.is_some() { "pushToList" } else { "send" }, &body)
    }

    fn read(&self, answer: &Answer<'_>) -> Reading {
        answer.json().map_or_else(|reading| reading, read)
    }
}

impl Vivo {
    fn call(&self, push: &Push<'_>, path: &str, body: &Json) -> Call {
        let mut body = body.clone();
        let id = ids(push.certificate).0;
        body["appId"] = id.parse::<u64>().map_or_else(|_| json!(id), |id| json!(id));
        Call::json(format!("{}/{path}", self.url), &body).with("authtoken", push.access.to_owned())
    }
}

/// At most 64 characters, and the same for a repeat of the same push.
fn request_id(push: &Push<'_>) -> String {
    let tokens = hex(&Md5::digest(push.tokens.join(",")));
    format!("{:08x}{tokens}", push.notification.collapse_id)
}

fn message(push: &Push<'_>) -> Json {
    let notification = push.notification;
    let mut body = json!({
        "notifyType": 4,
        "title": cut(&notification.content.title, MAX_TITLE, Count::Width),
        "content": cut(&notification.content.body, MAX_CONTENT, Count::Width),
        "timeToLive": push.life_s(LIFE_S.0, LIFE_S.1),
        "skipType": 1,
        "networkType": -1,
        // 1: system messages, the original system's default.
        "classification": push.certificate.field("classification").and_then(|c| c.parse::<u64>().ok()).unwrap_or(1),
        "clientCustomMap": { "payload": notification.content.payload.to_string() },
        "requestId": request_id(push),
        "pushMode": 0,
        "notifyId": push.notify_id(),
    });
    if let Some(activity) = push.setting("vivo_click_activity", "activity") {
        body["skipType"] = json!(4);
        body["skipContent"] = json!(activity);
    }
    if let Some(category) = push.setting("vivo_category", "category") {
        body["category"] = json!(category);
    }
    if let Some(url) = &notification.receipt_url {
        body["extra"] = json!({ "callback": url, "callback.param": notification.receipt_param });
    }
    body
}

fn read(said: Said) -> Reading {
    let mut reading =
        Reading::all(meaning_of(CODES, &said.result), said.result.to_string(), said.desc).id(said.task_id);
    for Invalid { userid, status } in said.invalid_users.into_iter().chain(said.invalid_user) {
        let (meaning, why) = match status {
            1 => (Meaning::TokenDead, "unknown id"),
            2 => (Meaning::TokenSoftDead, "uninstalled, unsubscribed or its data cleared"),
            3 => (Meaning::TokenDead, "not connected for 90 days"),
            4 => (Meaning::Request, "no test user"),
            _ => (Meaning::Unknown, "invalid"),
        };
        reading = reading.but([userid], meaning, &format!("invalidUser {status}"), why);
    }
    reading
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vendors::call::tests::answered;

    #[test]
    fn an_accepted_push_is_accepted_whatever_else_the_answer_holds() {
        for body in [
            json!({"result": 0, "desc": null, "taskId": 7, "invalidUsers": null, "invalidUser": ""}),
            json!({"result": "0", "desc": {}, "taskId": "7", "invalidUsers": {}, "authToken": 3}),
            json!({"result": 0, "taskId": 7, "invalidUsers": [null, {"userid": 5}], "invalidUser": []}),
        ] {
            let reading = answered(&Vivo::new("https://v"), 200, &body);
            assert_eq!((reading.rest.meaning, reading.vendor_id.as_deref()), (Meaning::Ok, Some("7")), "{body}");
            assert_eq!(reading.of("t").meaning, Meaning::Ok);
        }
    }

    #[test]
    fn a_message_stored_without_a_task_was_sent_to_nobody() {
        let vivo = Vivo::new("https://v");
        let handle = |body: Json| {
            let body = body.to_string();
            vivo.handle(&Answer { status: 200, body: body.as_bytes(), id_header: None })
        };
        assert_eq!(handle(json!({"result": 0, "taskId": 7})).expect("a task"), "7");
        for odd in [json!({"result": 0}), json!({"result": 0, "taskId": null}), json!({"result": "0", "taskId": []})] {
            assert_eq!(handle(odd).expect_err("no task").rest.meaning, Meaning::Retry);
        }
        assert_eq!(handle(json!({"result": 10070})).expect_err("no task").rest.meaning, Meaning::LimitedToday);
    }

    #[test]
    fn a_list_is_split_by_its_invalid_users() {
        let users = json!([{"userid": "a", "status": 1}, {"userid": "b", "status": 2}]);
        let reading = answered(
            &Vivo::new("https://v"),
            200,
            &json!({"result": 0, "desc": "", "taskId": "t", "invalidUsers": users}),
        );
        let meanings: Vec<_> = ["a", "b", "c"].into_iter().map(|token| reading.of(token).meaning).collect();
        assert_eq!(meanings, [Meaning::TokenDead, Meaning::TokenSoftDead, Meaning::Ok]);
        let held = answered(&Vivo::new("https://v"), 200, &json!({"result": 10071, "desc": ""}));
        assert_eq!(held.rest.meaning, Meaning::LimitedMorning);
    }
}
