//! Vendors' receipts: what happened to a notification after the vendor had taken it, in one shape.

use super::Vendor;
use super::certificate::Certificate;
use serde_json::Value as Json;
use std::collections::HashMap;

/// What a receipt says of one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Arrived,
    Clicked,
    /// The token will never work again.
    Dead,
    /// The user switched notifications off, or the device was away too long: not now.
    Off,
    /// The device has had its share of today.
    Limited,
    /// It was not shown for another reason.
    Dropped,
}

impl Event {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Arrived => "arrived",
            Self::Clicked => "clicked",
            Self::Dead => "token_dead",
            Self::Off => "switched_off",
            Self::Limited => "limited",
            Self::Dropped => "dropped",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub token: String,
    pub event: Event,
    /// The vendor's word.
    pub code: String,
    /// Our own text, as it was sent.
    pub param: String,
    /// When it happened, in milliseconds since the Unix epoch, where the vendor says it.
    pub at_ms: Option<u64>,
}

/// What came in: the header with the proof, and the body as form or JSON.
#[derive(Debug)]
pub struct Incoming<'a> {
    pub proof: Option<&'a str>,
    pub form: HashMap<String, String>,
    pub body: Json,
    pub now_ms: u64,
}

/// Why a receipt is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the receipt is not signed as this certificate's callback_user and callback_secret ask")]
    Signature,
    #[error("the receipt was signed more than five minutes ago, or our clock is wrong")]
    Time,
    #[error("the receipt's signature was used before, for another body")]
    Replayed,
    #[error("the receipt's access_token is not this certificate's callback_token")]
    AccessToken,
    #[error("the receipt is not in {0}'s form")]
    Form(Vendor),
}

/// Receipts that are their vendor's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Believed {
    pub receipts: Vec<Receipt>,
    /// What proved it, where no two callbacks have the same.
    pub proof: Option<String>,
}

/// Reads a vendor's receipts.
///
/// # Errors
/// [`Refused`].
pub fn read(certificate: &Certificate, incoming: &Incoming<'_>) -> Result<Believed, Refused> {
    let form = Refused::Form(certificate.vendor);
    let Some(vendor) = certificate.vendor.cloud().receipts.as_ref() else { return Err(form) };
    let proof = (vendor.prove)(certificate, incoming)?;
    Ok(Believed { receipts: (vendor.read)(incoming).ok_or(form)?, proof })
}

/// For a vendor that proves nothing: the path alone does.
pub(super) fn unproven(_: &Certificate, _: &Incoming<'_>) -> Result<Option<String>, Refused> {
    Ok(None)
}

/// A time in milliseconds since the Unix epoch.
pub(super) fn time(json: &Json) -> Option<u64> {
    number(json).and_then(|at| u64::try_from(at).ok()).filter(|at| *at > 0)
}

pub(super) fn text<'a>(json: &'a Json, key: &str) -> &'a str {
    json[key].as_str().unwrap_or_default()
}

/// A number, or a text that holds one.
pub(super) fn number(json: &Json) -> Option<i64> {
    json.as_i64().or_else(|| json.as_str()?.parse().ok())
}

/// The same receipt for each of these tokens.
pub(super) fn each<'a>(
    tokens: impl Iterator<Item = &'a str>,
    event: Event,
    code: &str,
    said: &Json,
) -> impl Iterator<Item = Receipt> {
    let (code, param) = (code.to_owned(), text(said, "param").to_owned());
    let at_ms = ["timestamp", "eventTime", "ackTime"].iter().find_map(|key| time(&said[key]));
    tokens.map(move |token| Receipt { token: token.to_owned(), event, code: code.clone(), param: param.clone(), at_ms })
}

pub(super) fn listed(tokens: &str) -> impl Iterator<Item = &str> {
    tokens.split(',').map(str::trim).filter(|token| !token.is_empty())
}

/// `{statuses: [{token, biTag, status | deliveryStatus.result}]}`: a shape that two of them share.
pub(super) fn statuses(body: &Json, event: fn(i64) -> Event) -> Option<Vec<Receipt>> {
    let each = |said: &Json| {
        let status = number(&said["status"]).or_else(|| number(&said["deliveryStatus"]["result"]))?;
        Some(Receipt {
            token: said["token"].as_str()?.to_owned(),
            event: event(status),
            code: status.to_string(),
            param: text(said, "biTag").to_owned(),
            at_ms: time(&said["timestamp"]).or_else(|| time(&said["deliveryStatus"]["timestamp"])),
        })
    };
    body["statuses"].as_array()?.iter().map(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use ring::hmac;
    use serde_json::json;

    fn certificate(vendor: Vendor, fields: Json) -> Certificate {
        Certificate::new("o#a".into(), "1#k".into(), vendor, fields)
    }

    fn of(vendor: Vendor, form: &[(&str, Json)], body: Json) -> Result<Vec<(String, Event, String)>, Refused> {
        let form = form.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect();
        let incoming = Incoming { proof: None, form, body, now_ms: 0 };
        let believed = read(&certificate(vendor, json!({})), &incoming)?;
        Ok(believed.receipts.into_iter().map(|r| (r.token, r.event, r.param)).collect())
    }

    #[test]
    fn each_vendors_shape_is_read() {
        let expected = |event| vec![("t1".to_owned(), event, "p".to_owned())];
        let xiaomi = json!({"m1": {"param": "p", "type": 16, "targets": "t1"}});
        assert_eq!(of(Vendor::Xiaomi, &[("data", xiaomi)], Json::Null), Ok(expected(Event::Dead)));
        let v1 = json!({"statuses": [{"token": "t1", "biTag": "p", "status": 0}]});
        assert_eq!(of(Vendor::Huawei, &[], v1), Ok(expected(Event::Arrived)));
        let v2 = json!({"statuses": [{"token": "t1", "biTag": "p", "deliveryStatus": {"result": 6}}]});
        assert_eq!(of(Vendor::Huawei, &[], v2), Ok(expected(Event::Off)));
        let honor = json!({"statuses": [{"token": "t1", "biTag": "p", "status": "40000007"}]});
        assert_eq!(of(Vendor::Honor, &[], honor), Ok(expected(Event::Clicked)));
        let oppo = json!([{"registrationIds": "t1,", "eventType": "user_daily_limit", "param": "p"}]);
        assert_eq!(of(Vendor::Oppo, &[], oppo), Ok(expected(Event::Limited)));
        let vivo = json!({"task": {"targets": "t1", "param": "p", "ackType": "104", "subAckType": "2183"}});
        assert_eq!(of(Vendor::Vivo, &[], vivo), Ok(expected(Event::Dead)));
        let meizu = json!({"m-1": {"param": "p", "type": 1, "targets": ["t1"]}});
        assert_eq!(of(Vendor::Meizu, &[("cb", meizu)], Json::Null), Ok(expected(Event::Arrived)));
    }

    #[test]
    fn the_vendors_own_time_is_read_where_it_says_one() {
        let at = |vendor, form: &[(&str, Json)], body| {
            let form = form.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect();
            let incoming = Incoming { proof: None, form, body, now_ms: 0 };
            read(&certificate(vendor, json!({})), &incoming).expect("read").receipts[0].at_ms
        };
        let xiaomi = json!({"m": {"type": 16, "targets": "t", "timestamp": 17}});
        assert_eq!(at(Vendor::Xiaomi, &[("data", xiaomi)], Json::Null), Some(17));
        let v2 = json!({"statuses": [{"token": "t", "deliveryStatus": {"result": 2, "timestamp": "17"}}]});
        assert_eq!(at(Vendor::Huawei, &[], v2), Some(17));
        let honor = |time: Json| json!({"statuses": [{"token": "t", "status": 1, "timestamp": time}]});
        assert_eq!(at(Vendor::Honor, &[], honor(json!(17))), Some(17));
        for odd in [json!("soon"), json!(null), json!(-5), json!([])] {
            assert_eq!(at(Vendor::Honor, &[], honor(odd)), None);
        }
        let oppo = json!([{"registrationIds": "t", "eventType": "regid_invalid", "eventTime": "17"}]);
        assert_eq!(at(Vendor::Oppo, &[], oppo), Some(17));
        let vivo = json!({"task": {"targets": "t", "ackType": 0, "ackTime": 17}});
        assert_eq!(at(Vendor::Vivo, &[], vivo), Some(17));
    }

    #[test]
    fn what_is_not_in_the_vendors_form_is_refused() {
        for vendor in Vendor::ORDER {
            assert_eq!(of(vendor, &[], json!("text")), Err(Refused::Form(vendor)));
        }
        assert!(of(Vendor::Huawei, &[], json!({"statuses": [{"token": 7}]})).is_err());
    }

    #[test]
    fn a_receipt_of_huaweis_must_be_signed_where_a_secret_is_agreed() {
        let certificate = certificate(Vendor::Huawei, json!({"callback_user": "u", "callback_secret": "s"}));
        const NOW_MS: u64 = 1_795_363_199_000;
        let signed = |secret: &str, at: &str| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            let value = STANDARD.encode(hmac::sign(&key, format!("{at}nu").as_bytes()));
            format!("timestamp={at}; nonce=n; value={value}")
        };
        let read_with = |header: Option<&str>| {
            let (form, body) = (HashMap::new(), json!({"statuses": []}));
            read(&certificate, &Incoming { proof: header, form, body, now_ms: NOW_MS })
        };
        for at in ["1795363199000", "1795363199", "1795362900000", "1795363498"] {
            let believed = read_with(Some(&signed("s", at))).expect(at);
            assert!(believed.proof.is_some_and(|proof| signed("s", at).ends_with(&proof)), "{at}");
        }
        for at in ["1795362898000", "1795362898", "1795363500000", "17", "soon"] {
            assert_eq!(read_with(Some(&signed("s", at))), Err(Refused::Time), "{at}");
        }
        assert_eq!(read_with(Some(&signed("x", "1795363199000"))), Err(Refused::Signature));
        assert_eq!(read_with(None), Err(Refused::Signature));
    }
}
