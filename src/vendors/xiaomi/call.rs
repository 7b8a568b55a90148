//! Xiaomi MiPush: a static secret in a header, a url-encoded form, one JSON answer.
//! Source: dev.mi.com/xiaomihyperos/documentation, pages 1559 (server API) and 1560 (error codes).

use super::super::call::{Answer, Call, Meaning, Protocol, Push, Reading, meaning_of};
use super::super::certificate::Certificate;
use super::super::facts::{Host, Hosts};
use super::super::lenient;
use super::super::notification::Accepted;
use super::super::text::{Count, cut};
use crate::http::Repeat;
use serde::Deserialize;

/// Titles are under 50 characters, descriptions under 128 (page 1559).
const MAX_TITLE: usize = 49;
const MAX_DESCRIPTION: usize = 127;
/// Offline life in seconds: the public class keeps a day, a private one ten.
const MAX_LIFE_PUBLIC: u64 = 86_400;
const MAX_LIFE_PRIVATE: u64 = 10 * 86_400;
/// Which receipts are asked for: arrived 1, clicked 2, target gone 16, switched off 32, filtered 64,
/// quota 128, out of time 1024 (page 1558).
const RECEIPTS: &str = "1267";

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
    // No valid target: of these tokens none lives, and the certificate is not at fault.
    (20301, Meaning::TokenSoftDead),
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
    (26003, Meaning::Retry),
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
struct Said {
    #[serde(deserialize_with = "lenient::number")]
    code: i64,
    #[serde(default, deserialize_with = "lenient::some_text")]
    reason: Option<String>,
    #[serde(default, deserialize_with = "lenient::some_text")]
    description: Option<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    data: Data,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Data {
    #[serde(deserialize_with = "lenient::some_text")]
    id: Option<String>,
    /// Ids the vendor would not take, joined by commas.
    #[serde(deserialize_with = "lenient::text")]
    bad_regids: String,
}

const HOST: Host = Host { key: "xiaomi_url", url: "https://api.xmpush.xiaomi.com" };
pub(super) const HOSTS: &[Host] = &[HOST];

pub(super) fn protocol(hosts: &Hosts) -> Box<dyn Protocol> {
    Box::new(Xiaomi::new(hosts.at(&HOST)))
}

#[derive(Debug)]
struct Xiaomi {
    url: String,
    revoke_url: String,
}

impl Xiaomi {
    fn new(url: &str) -> Self {
        let at = |path: &str| format!("{}{path}", url.trim_end_matches('/'));
        Self { url: at("/v3/message/regid"), revoke_url: at("/v2/message/revoke") }
    }
}

impl Protocol for Xiaomi {
    fn batch(&self) -> usize {
        1000
    }

    /// The second takes the first's place, by `notify_id`.
    fn repeat(&self) -> Repeat {
        Repeat::Harmless
    }

    fn request(&self, push: &Push<'_>, _handle: Option<&str>) -> Call {
        let content = &push.notification.content;
        let channel = push.setting("xiaomi_channel_id", "channel_id");
        let most = if channel.is_some() { MAX_LIFE_PRIVATE } else { MAX_LIFE_PUBLIC };
        let mut fields: Vec<(&str, String)> = vec![
            ("registration_id", push.tokens.join(",")),
            ("restricted_package_name", push.certificate.field("package").unwrap_or_default()),
            ("pass_through", "0".to_owned()),
            ("title", cut(&content.title, MAX_TITLE, Count::Characters)),
            ("description", cut(&content.body, MAX_DESCRIPTION, Count::Characters)),
            ("payload", content.payload.to_string()),
            ("notify_type", "-1".to_owned()),
            ("notify_id", push.notify_id().to_string()),
            ("time_to_live", (push.life_s(1, most) * 1000).to_string()),
        ];
        match push.setting("xiaomi_click_action", "action") {
            Some(intent) => fields.extend([("extra.notify_effect", "2".to_owned()), ("extra.intent_uri", intent)]),
            None => fields.push(("extra.notify_effect", "1".to_owned())),
        }
        if let Some(channel) = channel {
            fields.push(("extra.channel_id", channel));
        }
        if let Some(url) = &push.notification.receipt_url {
            fields.extend([
                ("extra.callback", url.clone()),
                ("extra.callback.param", push.notification.receipt_param.clone()),
                ("extra.callback.type", RECEIPTS.to_owned()),
            ]);
        }
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Call::form(self.url.clone(), &fields)
            .with("authorization", format!("key={}", push.certificate.secret("app_secret")))
    }

    /// `revoke` of page 1559.
    fn recall(&self, certificate: &Certificate, accepted: &Accepted<'_>) -> Option<Call> {
        let package = certificate.field("package").unwrap_or_default();
        let fields = [("msg_id", accepted.vendor_id), ("restricted_package_name", &package)];
        let call = Call::form(self.revoke_url.clone(), &fields);
        Some(call.with("authorization", format!("key={}", certificate.secret("app_secret"))))
    }

    fn read(&self, answer: &Answer<'_>) -> Reading {
        let said: Said = match answer.json() {
            Ok(said) => said,
            Err(reading) => return reading,
        };
        let reason = said.reason.or(said.description).unwrap_or_default();
        let bad = said.data.bad_regids.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let code = said.code.to_string();
        Reading::all(meaning_of(CODES, &said.code), code.as_str(), reason).id(said.data.id).but(
            bad,
            Meaning::TokenDead,
            &code,
            "the vendor lists the id as bad",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vendors::call::tests::answered;
    use serde_json::json;

    fn read(body: serde_json::Value) -> Reading {
        answered(&Xiaomi::new("https://x"), 200, &body)
    }

    #[test]
    fn answers_are_read_by_the_vendors_codes() {
        let good = read(json!({"result": "ok", "code": 0, "data": {"id": "x1"}}));
        assert_eq!((good.rest.meaning, good.vendor_id.as_deref()), (Meaning::Ok, Some("x1")));
        for (code, meaning) in [
            (21301, Meaning::Certificate),
            (200_001, Meaning::LimitedToday),
            (65003, Meaning::TokenSoftDead),
            (20301, Meaning::TokenSoftDead),
            (26003, Meaning::Retry),
            (424_242, Meaning::Unknown),
        ] {
            assert_eq!(read(json!({ "code": code })).rest.meaning, meaning, "{code}");
        }
        for odd in [
            json!({"code": "0", "reason": null, "description": 5, "data": null}),
            json!({"code": 0, "data": {"id": 7, "bad_regids": null}}),
            json!({"code": 0, "data": "x1"}),
        ] {
            assert_eq!(read(odd).of("tok").meaning, Meaning::Ok);
        }
        let partly = read(json!({"code": 0, "data": {"bad_regids": "a,tok"}}));
        assert_eq!((partly.of("tok").meaning, partly.of("b").meaning), (Meaning::TokenDead, Meaning::Ok));
    }

    #[test]
    fn no_code_is_listed_twice() {
        let mut codes: Vec<_> = CODES.iter().map(|(code, _)| code).collect();
        codes.sort();
        codes.dedup();
        assert_eq!(codes.len(), CODES.len());
    }
}
