//! Meizu (Flyme): every request signed with MD5 over its fields, a form that holds JSON, one JSON answer.
//! Source: github.com/MEIZUPUSH/PushAPI, README (2025-04).

use super::super::call::{Answer, Call, Meaning, Protocol, Push, Reading, meaning_of};
use super::super::facts::{Host, Hosts};
use super::super::lenient;
use super::super::text::{Count, cut};
use crate::http::Repeat;
use crate::secret::hex;
use md5::{Digest as _, Md5};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

const MAX_TITLE: usize = 32;
const MAX_CONTENT: usize = 100;
/// Hours kept for an offline device: 1 to 72.
const MAX_LIFE_H: u64 = 72;

/// Codes of the whole answer. 110010 means another thing inside `value`.
const CODES: &[(&str, Meaning)] = &[
    ("200", Meaning::Ok),
    ("500", Meaning::Retry),
    ("1001", Meaning::Retry),
    ("1003", Meaning::Retry),
    ("1005", Meaning::Request),
    ("1006", Meaning::Certificate),
    ("110000", Meaning::Certificate),
    ("110001", Meaning::Certificate),
    ("110004", Meaning::Request),
    ("110009", Meaning::Certificate),
    ("110010", Meaning::LimitedShort),
    ("110019", Meaning::LimitedToday),
    ("110031", Meaning::Certificate),
    ("110032", Meaning::Certificate),
    ("110033", Meaning::Certificate),
    ("110051", Meaning::LimitedToday),
    ("110053", Meaning::Request),
];

/// Codes of single push ids, inside `value`.
const ID_CODES: &[(&str, Meaning)] = &[
    ("110002", Meaning::TokenDead),
    ("110003", Meaning::TokenDead),
    ("110005", Meaning::TokenSoftDead),
    ("110010", Meaning::TokenSoftDead),
    ("110011", Meaning::LimitedToday),
    ("201", Meaning::Certificate),
    ("501", Meaning::Retry),
    ("513", Meaning::Retry),
    ("518", Meaning::LimitedShort),
    ("519", Meaning::LimitedShort),
    ("520", Meaning::LimitedShort),
];

#[derive(Debug, Deserialize)]
struct Said {
    #[serde(deserialize_with = "lenient::code")]
    code: String,
    #[serde(default, deserialize_with = "lenient::text")]
    message: String,
    /// An object: code to list of push ids. Other shapes (empty text, null) name none.
    #[serde(default)]
    value: Json,
    #[serde(default, rename = "msgId", deserialize_with = "lenient::some_text")]
    id: Option<String>,
}

const HOST: Host = Host { key: "meizu_url", url: "https://server-api-push.meizu.com" };
pub(super) const HOSTS: &[Host] = &[HOST];

pub(super) fn protocol(hosts: &Hosts) -> Box<dyn Protocol> {
    Box::new(Meizu::new(hosts.at(&HOST)))
}

#[derive(Debug)]
struct Meizu {
    url: String,
}

impl Meizu {
    fn new(url: &str) -> Self {
        Self { url: format!("{}/garcia/api/server/push/varnished/pushByPushId", url.trim_end_matches('/')) }
    }
}

/// Lower-case hex MD5 over `name=value` of all fields in the order of their names, then the secret.
fn sign(fields: &[(&str, &str)], secret: &str) -> String {
    let mut sorted = fields.to_vec();
    sorted.sort_unstable();
    let mut digest = Md5::new();
    for (name, value) in sorted {
        digest.update(format!("{name}={value}"));
    }
    digest.update(secret);
    hex(&digest.finalize())
}

impl Protocol for Meizu {
    fn batch(&self) -> usize {
        100
    }

    /// The second takes the first's place, by `notifyKey`.
    fn repeat(&self) -> Repeat {
        Repeat::Harmless
    }

    fn request(&self, push: &Push<'_>, _handle: Option<&str>) -> Call {
        let notification = push.notification;
        let click = match push.setting("meizu_click_activity", "activity") {
            Some(activity) => {
                json!({ "clickType": 1, "activity": activity, "parameters": notification.content.payload })
            }
            None => json!({ "clickType": 0, "parameters": notification.content.payload }),
        };
        let kind: u64 = push.certificate.field("message_type").and_then(|kind| kind.parse().ok()).unwrap_or(1);
        let mut message = json!({
            "noticeBarInfo": {
                "noticeMsgType": kind, "noticeBarType": 0,
                "title": cut(&notification.content.title, MAX_TITLE, Count::Characters),
                "content": cut(&notification.content.body, MAX_CONTENT, Count::Characters),
            },
            "clickTypeInfo": click,
            "pushTimeInfo": { "offLine": 1, "validTime": push.life_s(1, MAX_LIFE_H * 3600).div_ceil(3600) },
            // Up to eight of [0-9A-Za-z_-].
            "advanceInfo": { "notifyKey": format!("{:08x}", notification.collapse_id), "clearNoticeBar": 1 },
        });
        if let Some(url) = &notification.receipt_url {
            message["extra"] = json!({
                "callback": url, "callback.param": notification.receipt_param, "callback.type": "3",
            });
        }
        let (ids, message) = (push.tokens.join(","), message.to_string());
        let mut fields = vec![("appId", push.certificate.name.as_str()), ("messageJson", &message), ("pushIds", &ids)];
        let package = push.certificate.field("package").map(|package| json!([package]).to_string());
        if let Some(package) = &package {
            fields.push(("restrictedPackageNames", package));
        }
        let signature = sign(&fields, push.certificate.secret("app_secret"));
        fields.push(("sign", &signature));
        Call::form(self.url.clone(), &fields)
    }

    fn read(&self, answer: &Answer<'_>) -> Reading {
        let said: Said = match answer.json() {
            Ok(said) => said,
            Err(reading) => return reading,
        };
        let mut reading =
            Reading::all(meaning_of(CODES, &said.code.as_str()), said.code.as_str(), said.message).id(said.id);
        for (code, ids) in said.value.as_object().unwrap_or(&Map::new()) {
            let ids = ids.as_array().into_iter().flatten().filter_map(Json::as_str).map(str::to_owned);
            reading = reading.but(ids, meaning_of(ID_CODES, &code.as_str()), code, "named in the answer");
        }
        reading
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vendors::call::tests::answered;

    #[test]
    fn the_signature_is_over_sorted_fields_and_the_secret() {
        // md5("a=1b=2s"), computed by coreutils' md5sum.
        assert_eq!(sign(&[("b", "2"), ("a", "1")], "s"), "7a6643dba2345e0f26b44b068e967357");
    }

    #[test]
    fn one_code_means_two_things_in_two_places() {
        let read = |body| answered(&Meizu::new("https://m"), 200, &body);
        assert_eq!(read(json!({"code": "110010", "message": ""})).rest.meaning, Meaning::LimitedShort);
        let partly = read(json!({"code": "200", "value": {"110010": ["off"], "110002": ["gone"]}, "msgId": "m1"}));
        let of = |token: &str| partly.of(token).meaning;
        assert_eq!((of("off"), of("gone"), of("fine")), (Meaning::TokenSoftDead, Meaning::TokenDead, Meaning::Ok));
        for odd in [
            json!({"code": "200", "value": ""}),
            json!({"code": 200, "message": null, "value": null, "msgId": 5}),
            json!({"code": "200", "message": 7, "value": {"110002": null}, "msgId": null, "redirect": {}}),
        ] {
            assert_eq!(read(odd).of("x").meaning, Meaning::Ok);
        }
    }
}
