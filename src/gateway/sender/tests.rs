//! Each vendor's answers, one by one: which keep a binding, which soften it, and which end it.

use super::{next_in_china, outcome};
use crate::delivery::outcome::{Limit, Outcome};
use crate::delivery::{AfterVendor, Luck, after_vendor};
use crate::vendors::call::{Answer, Meaning, Reading};
use crate::vendors::{Hosts, Vendor};
use serde_json::{Value as Json, json};

const NOW_MS: u64 = 1_795_363_199_000;

/// What an answer does to the binding of the token `t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The notification is there; the binding is good.
    Shown,
    /// This notification is given up or tried again, the binding is used for the next one.
    Kept,
    /// As [`Fate::Kept`], and the trace says that the token does not work now.
    Soft,
    /// Marked dead.
    Killed,
    /// The certificate is out of use; its notifications wait and no binding is touched.
    Certificate,
}
use Fate::{Certificate, Kept, Killed, Shown, Soft};

fn fate(vendor: Vendor, status: u16, body: &str, proven: bool) -> Fate {
    let protocol = (vendor.cloud().protocol)(&Hosts::default());
    let reading = protocol.read(&Answer { status, body: body.as_bytes(), id_header: None });
    let outcome = outcome(&reading, reading.of("t"), proven, NOW_MS);
    let fate = match outcome {
        Outcome::Delivered { .. } => Shown,
        Outcome::TokenDead { .. } => Killed,
        Outcome::TokenSoftDead { .. } => Soft,
        Outcome::Refused { certificate: true, .. } => Certificate,
        _ => Kept,
    };
    let after = after_vendor(&outcome, 1, NOW_MS, Luck::of("m", 1));
    assert_eq!(matches!(after, AfterVendor::GiveUp { dead_since_ms: Some(_) }), fate == Killed, "{after:?}");
    fate
}

fn holds(vendor: Vendor, table: &[(u16, Json, Fate)]) {
    for (status, body, expected) in table {
        let found = fate(vendor, *status, &body.to_string(), true);
        assert_eq!(found, *expected, "{vendor} {status} {body}");
        // A certificate that never worked ends no binding that one which works would keep.
        let unproven = fate(vendor, *status, &body.to_string(), false);
        assert!(
            unproven == *expected || (*expected, unproven) == (Killed, Soft),
            "{vendor} {status} {body}: {unproven:?}"
        );
    }
}

/// Of all these codes only the ones named end a binding.
fn kills_only(vendor: Vendor, codes: impl Iterator<Item = i64>, body: impl Fn(i64) -> Json, deadly: &[i64]) {
    let found: Vec<i64> = codes.filter(|code| fate(vendor, 200, &body(*code).to_string(), true) == Killed).collect();
    assert_eq!(found, deadly, "{vendor}");
}

#[test]
fn xiaomis_answers() {
    let said = |code: i64, data: Json| json!({"result": "x", "code": code, "data": data});
    holds(
        Vendor::Xiaomi,
        &[
            (200, said(0, json!({"id": "i"})), Shown),
            (200, said(0, json!(null)), Shown),
            (200, said(0, json!({"id": "i", "bad_regids": "u,t"})), Killed),
            (200, said(0, json!({"id": "i", "bad_regids": "u"})), Shown),
            (200, said(20_301, json!(null)), Soft),
            (200, said(10_029, json!(null)), Soft),
            (200, said(65_003, json!(null)), Soft),
            (200, said(26_003, json!(null)), Kept),
            (200, said(10_027, json!(null)), Kept),
            (200, said(200_001, json!(null)), Kept),
            (200, said(66_666, json!(null)), Kept),
            (200, said(21_301, json!(null)), Certificate),
            (200, said(22_022, json!(null)), Certificate),
        ],
    );
    kills_only(Vendor::Xiaomi, -10..70_000, |code| said(code, json!(null)), &[]);
}

#[test]
fn huaweis_answers() {
    let said = |code: &str, msg: Json| json!({"code": code, "msg": msg, "requestId": "r"});
    let illegal = |tokens: Json| json!(json!({"success": 1, "failure": 1, "illegal_tokens": tokens}).to_string());
    let reasons = |reason: &str| json!(json!({"illegalTokens": {reason: ["t"]}}).to_string());
    holds(
        Vendor::Huawei,
        &[
            (200, said("80000000", json!("Success")), Shown),
            (200, said("80000000", json!(null)), Shown),
            (200, said("80100000", illegal(json!(["t"]))), Killed),
            (200, said("80100000", illegal(json!(["u"]))), Shown),
            (200, said("80300007", json!("all tokens are invalid")), Killed),
            (200, said("80300007", reasons("noRight")), Killed),
            (200, said("80300007", reasons("tokenFormatError")), Killed),
            (200, said("80300007", reasons("tokenPlatformNotSupport")), Kept),
            (200, said("80300007", reasons("countryNotSupport")), Kept),
            (200, said("80300007", reasons("noPushTypeRight")), Certificate),
            (200, said("80300007", reasons("disableSendHuaweiMsgBecauseOfPenalty")), Certificate),
            (200, said("80300007", reasons("appinfoError")), Certificate),
            (200, said("80100003", json!("bad")), Kept),
            (200, said("80300008", json!("too large")), Kept),
            (200, said("80300013", json!("receipt")), Kept),
            (200, said("81000001", json!("internal")), Kept),
            (200, said("80999999", json!("new")), Kept),
            (503, said("80999999", json!("flow control")), Kept),
            (200, said("80200003", json!("expired")), Certificate),
            (200, said("80300002", json!("no permission")), Certificate),
        ],
    );
    // It is the same for both environments of a certificate that never worked.
    assert_eq!(fate(Vendor::Huawei, 200, &said("80300007", json!("all")).to_string(), false), Soft);
    let codes = [80_000_000..80_000_100, 80_100_000..80_100_100, 80_200_000..80_200_100, 80_300_000..80_300_100];
    kills_only(Vendor::Huawei, codes.into_iter().flatten(), |code| said(&code.to_string(), json!("m")), &[80_300_007]);
}

#[test]
fn honors_answers() {
    let said = |code: i64, data: Json| json!({"code": code, "message": "m", "data": data});
    holds(
        Vendor::Honor,
        &[
            (200, said(200, json!({"sendResult": true, "requestId": "r"})), Shown),
            (200, said(200, json!({"sendResult": true, "expireTokens": ["t"]})), Killed),
            (200, said(200, json!({"sendResult": true, "failTokens": ["t"]})), Kept),
            (200, said(200, json!(null)), Shown),
            (200, said(80_300_007, json!(null)), Killed),
            (200, said(80_100_003, json!(null)), Kept),
            (200, said(429, json!(null)), Kept),
            (200, said(81_000_001, json!(null)), Kept),
            (200, said(12_345, json!(null)), Kept),
            (200, said(80_200_003, json!(null)), Certificate),
        ],
    );
    let codes = [0..1000, 80_000_000..80_400_000];
    kills_only(Vendor::Honor, codes.into_iter().flatten(), |code| said(code, json!(null)), &[80_300_007]);
}

#[test]
fn oppos_answers() {
    let said = |code: i64, data: Json| json!({"code": code, "message": "m", "data": data});
    holds(
        Vendor::Oppo,
        &[
            (200, said(0, json!({"messageId": "i"})), Shown),
            (200, said(0, json!([{"registrationId": "t", "messageId": "i"}])), Shown),
            (200, said(0, json!([{"registrationId": "t", "errorCode": 10_000, "errorMessage": "m"}])), Killed),
            (200, said(0, json!([{"registrationId": "u", "errorCode": 10_000, "errorMessage": "m"}])), Shown),
            (200, said(10_000, json!(null)), Killed),
            (200, said(10_001, json!(null)), Soft),
            (200, said(31, json!(null)), Shown),
            (200, said(13, json!(null)), Kept),
            (200, said(33, json!(null)), Kept),
            (200, said(67, json!(null)), Kept),
            (200, said(-1, json!(null)), Kept),
            (200, said(4711, json!(null)), Kept),
            (200, said(11, json!(null)), Certificate),
            (200, said(14, json!(null)), Certificate),
        ],
    );
    kills_only(Vendor::Oppo, -10..20_000, |code| said(code, json!(null)), &[10_000]);
}

#[test]
fn vivos_answers() {
    let said = |result: i64, more: Json| {
        let mut said = json!({"result": result, "desc": "d", "taskId": "i"});
        said.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        said
    };
    let invalid = |status: i64| json!({"invalidUsers": [{"userid": "t", "status": status}]});
    holds(
        Vendor::Vivo,
        &[
            (200, said(0, json!({})), Shown),
            (200, said(0, json!({"invalidUsers": null})), Shown),
            (200, said(0, invalid(1)), Killed),
            (200, said(0, invalid(2)), Soft),
            (200, said(0, invalid(3)), Killed),
            (200, said(0, invalid(4)), Kept),
            (200, said(0, invalid(9)), Kept),
            (200, said(10_302, json!({})), Killed),
            (200, said(10_302, json!({"invalidUser": {"userid": "t", "status": 2}})), Soft),
            (200, said(10_054, json!({})), Killed),
            (200, said(10_070, json!({})), Kept),
            (200, said(10_071, json!({})), Kept),
            (200, said(10_096, json!({})), Kept),
            (200, said(10_999, json!({})), Kept),
            (200, said(10_000, json!({})), Certificate),
            (200, said(10_200, json!({})), Certificate),
        ],
    );
    kills_only(Vendor::Vivo, -10..12_000, |code| said(code, json!({})), &[10_054, 10_302]);
}

#[test]
fn meizus_answers() {
    let said = |code: &str, value: Json| json!({"code": code, "message": "m", "value": value, "msgId": "i"});
    let of = |code: &str| said("200", json!({code: ["t"]}));
    holds(
        Vendor::Meizu,
        &[
            (200, said("200", json!({})), Shown),
            (200, said("200", json!("")), Shown),
            (200, json!({"code": 200, "value": null, "msgId": null, "message": null}), Shown),
            (200, of("110002"), Killed),
            (200, of("110003"), Killed),
            (200, of("110005"), Soft),
            (200, of("110010"), Soft),
            (200, of("110011"), Kept),
            (200, of("501"), Kept),
            (200, of("4711"), Kept),
            (200, said("200", json!({"110002": ["u"]})), Shown),
            (200, said("110010", json!("")), Kept),
            (200, said("110019", json!("")), Kept),
            (200, said("1005", json!("")), Kept),
            (200, said("4711", json!("")), Kept),
            (200, said("1006", json!("")), Certificate),
            (200, said("110001", json!("")), Certificate),
        ],
    );
    let codes = [0..2000, 109_000..112_000];
    kills_only(Vendor::Meizu, codes.into_iter().flatten(), |code| said(&code.to_string(), json!("")), &[]);
}

#[test]
fn apples_answers() {
    let said = |reason: &str| json!({ "reason": reason });
    assert_eq!(fate(Vendor::Apns, 200, "", true), Shown);
    holds(
        Vendor::Apns,
        &[
            (410, json!({"reason": "Unregistered", "timestamp": 1_700_000_000_000_u64}), Killed),
            (410, said("ExpiredToken"), Killed),
            (400, said("BadDeviceToken"), Killed),
            (400, said("DeviceTokenNotForTopic"), Kept),
            (413, said("PayloadTooLarge"), Kept),
            (429, said("TooManyRequests"), Kept),
            (500, said("InternalServerError"), Kept),
            (503, said("Shutdown"), Kept),
            (400, said("SomethingNew"), Kept),
            (403, said("SomethingNew"), Certificate),
            (403, said("ExpiredProviderToken"), Certificate),
            (403, said("InvalidProviderToken"), Certificate),
            (403, said("BadEnvironmentKeyInToken"), Certificate),
            (403, said("UnrelatedKeyIdInToken"), Certificate),
            (400, said("BadTopic"), Certificate),
        ],
    );
    assert_eq!(fate(Vendor::Apns, 400, &said("BadDeviceToken").to_string(), false), Soft);
}

#[test]
fn googles_answers() {
    let said = |status: &str, own: Option<&str>, message: &str| {
        let kind = "type.googleapis.com/google.firebase.fcm.v1.FcmError";
        let details: Vec<Json> = own.iter().map(|code| json!({"@type": kind, "errorCode": code})).collect();
        json!({"error": {"code": 400, "status": status, "message": message, "details": details}})
    };
    let bad_token = "The registration token is not a valid FCM registration token";
    holds(
        Vendor::Fcm,
        &[
            (200, json!({"name": "projects/p/messages/1"}), Shown),
            (404, said("NOT_FOUND", Some("UNREGISTERED"), ""), Killed),
            (400, said("INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), bad_token), Killed),
            (400, said("INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), "bad ttl"), Kept),
            (400, said("INVALID_ARGUMENT", None, bad_token), Kept),
            (429, said("RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED"), ""), Kept),
            (503, said("UNAVAILABLE", Some("UNAVAILABLE"), ""), Kept),
            (500, said("INTERNAL", Some("INTERNAL"), ""), Kept),
            (400, said("SOMETHING_NEW", None, ""), Kept),
            (403, said("PERMISSION_DENIED", Some("SENDER_ID_MISMATCH"), ""), Certificate),
            (401, said("UNAUTHENTICATED", Some("THIRD_PARTY_AUTH_ERROR"), ""), Certificate),
            (404, said("NOT_FOUND", None, ""), Certificate),
        ],
    );
}

#[test]
fn what_is_no_vendors_answer_never_ends_a_binding() {
    for vendor in Vendor::ORDER {
        for status in (201..=599).filter(|status| *status != 304) {
            for body in ["", "<html>Bad Gateway</html>", "{}", "[]", "null", "{\"code\":", "\"t\""] {
                let found = fate(vendor, status, body, true);
                assert!(![Killed, Soft].contains(&found), "{vendor} {status} {body}: {found:?}");
            }
        }
    }
}

#[test]
fn a_day_ends_at_midnight_in_china_and_a_night_at_seven() {
    // 2026-11-22 15:59:59 UTC is 23:59:59 in China.
    assert_eq!(next_in_china(0, 1_795_363_199_000), 1_795_363_200_000);
    assert_eq!(next_in_china(0, 1_795_363_200_000), 1_795_363_200_000 + 86_400_000);
    assert_eq!(next_in_china(7, 1_795_363_200_000), 1_795_363_200_000 + 7 * 3_600_000);
}

#[test]
fn a_quota_is_the_certificates_where_the_whole_call_was_refused_and_else_the_tokens() {
    let reading = Reading::all(Meaning::LimitedToday, "c", "").but(["t".into()], Meaning::LimitedToday, "d", "");
    for (token, expected) in [("t", Limit::Device), ("u", Limit::Certificate)] {
        let limited = outcome(&reading, reading.of(token), true, 1_795_363_199_000);
        assert!(matches!(limited, Outcome::LimitedUntil { limit, .. } if limit == expected));
    }
}

#[test]
fn a_bad_token_is_dead_only_under_a_certificate_that_has_worked() {
    let reading = Reading::all(Meaning::TokenDeadOrEnvironment, "BadDeviceToken", "");
    assert!(matches!(outcome(&reading, &reading.rest, false, 5), Outcome::TokenSoftDead { .. }));
    assert!(matches!(outcome(&reading, &reading.rest, true, 5), Outcome::TokenDead { since_ms: 5, .. }));
}
