//! What differs between the vendors, as plain values: how a credential is had, what is asked, what an answer means.

use super::certificate::Certificate;
use super::lenient;
use super::notification::{Accepted, Notification};
use super::text::bytes;
use crate::http::Repeat;
use crate::secret::{Secret, fingerprint};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

/// The most bytes of a vendor's message id. Theirs have up to a hundred.
const LONGEST_ID: usize = 512;

/// What a code of a vendor's table asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    Ok,
    TokenDead,
    /// The token is dead, or the certificate is for the vendor's other environment.
    TokenDeadOrEnvironment,
    TokenSoftDead,
    Auth,
    LimitedShort,
    LimitedToday,
    /// Held over the night.
    LimitedMorning,
    Retry,
    Unknown,
    Request,
    Certificate,
}

/// An access token and the moment it should be replaced, in milliseconds since the Unix epoch.
#[derive(Debug, Clone)]
pub struct Credential {
    pub value: Secret,
    pub renew_at_ms: u64,
}

/// One HTTP call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub url: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Call {
    pub fn form(url: String, fields: &[(&str, &str)]) -> Self {
        // Texts in a list of pairs can always be written.
        let body = serde_urlencoded::to_string(fields).unwrap_or_default().into_bytes();
        let headers = vec![("content-type", "application/x-www-form-urlencoded;charset=UTF-8".to_owned())];
        Self { url, headers, body }
    }

    pub fn json(url: String, body: &serde_json::Value) -> Self {
        let headers = vec![("content-type", "application/json; charset=UTF-8".to_owned())];
        Self { url, headers, body: bytes(body) }
    }

    pub fn with(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// How a credential for the calls is had.
pub enum Grant {
    /// The calls prove themselves.
    None,
    /// Made here.
    Made(Credential),
    /// The vendor is asked for it.
    Ask(Call),
}

/// Why there is no credential.
#[derive(Debug, PartialEq, Eq)]
pub enum NoCredential {
    /// The vendor refuses the certificate, or it is unusable.
    Refused { code: String, reason: String },
    /// It may be had later.
    Later { code: String, reason: String },
}

/// One push: the same notification to some tokens.
#[derive(Debug, Clone, Copy)]
pub struct Push<'a> {
    pub certificate: &'a Certificate,
    /// The credential, where the vendor has one.
    pub access: &'a str,
    pub tokens: &'a [&'a str],
    pub notification: &'a Notification,
    pub now_ms: u64,
}

impl Push<'_> {
    /// The message's own value wins over the certificate's.
    pub fn setting(&self, of_message: &str, of_certificate: &str) -> Option<String> {
        let own = match &self.notification.vendor_ext[of_message] {
            serde_json::Value::String(text) if !text.is_empty() => Some(text.clone()),
            serde_json::Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        own.or_else(|| self.certificate.field(of_certificate))
    }

    /// The notification id the vendors take: positive, 31 bits.
    pub fn notify_id(&self) -> u32 {
        notify_id(self.notification.collapse_id)
    }

    /// Seconds the vendor should keep it, within `least` and `most`.
    pub fn life_s(&self, least: u64, most: u64) -> u64 {
        self.notification.time_to_live.as_secs().clamp(least, most)
    }
}

pub fn notify_id(collapse_id: u32) -> u32 {
    (collapse_id & 0x7fff_ffff).max(1)
}

/// A vendor's answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
    /// The header in which some answer with the message's id.
    pub id_header: Option<&'a str>,
}

impl Answer<'_> {
    /// # Errors
    /// A reading by the status alone, when the body is not this vendor's JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Reading> {
        // A list would be taken for an object's values in their order.
        let json: Json = serde_json::from_slice(self.body).map_err(|_| self.by_status())?;
        let object = Some(json).filter(Json::is_object).ok_or_else(|| self.by_status())?;
        serde_json::from_value(object).map_err(|_| self.by_status())
    }

    /// What an answer without the vendor's JSON means: a proxy's page, a broken server.
    pub fn by_status(&self) -> Reading {
        let is_page = self.body.trim_ascii_start().starts_with(b"<");
        let meaning = match self.status {
            401 | 403 => Meaning::Auth,
            // Vendors answer such calls in JSON: it is something between, which knows no vendor, or a wrong host. Neither
            // is this notification's fault.
            404 | 405 if is_page => Meaning::Retry,
            400 | 404 | 405 | 413 => Meaning::Request,
            429 | 503 => Meaning::LimitedShort,
            _ => Meaning::Retry,
        };
        // None of the body: it may hold an access token, or what was sent.
        let form = if is_page { "a page" } else { "text" };
        let reason = format!("not the vendor's JSON: {} bytes of {form}", self.body.len());
        Reading::all(meaning, self.status.to_string(), reason)
    }
}

/// What an answer means for one token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub meaning: Meaning,
    pub code: String,
    pub reason: String,
}

/// What an answer means: for all tokens of the call, except those named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub rest: Verdict,
    pub except: Vec<(String, Verdict)>,
    /// The vendor's id of the accepted message.
    pub vendor_id: Option<String>,
    /// When the token died, where the vendor says it (milliseconds since the Unix epoch).
    pub dead_since_ms: Option<u64>,
    /// How long to wait, where the vendor says it.
    pub after_ms: Option<u64>,
}

impl Reading {
    pub fn all(meaning: Meaning, code: impl Into<String>, reason: impl Into<String>) -> Self {
        let rest = Verdict { meaning, code: code.into(), reason: reason.into() };
        Self { rest, except: Vec::new(), vendor_id: None, dead_since_ms: None, after_ms: None }
    }

    pub fn id(mut self, vendor_id: Option<String>) -> Self {
        // A longer text is no id, and would be kept for each device.
        self.vendor_id = vendor_id.filter(|id| id.len() <= LONGEST_ID);
        self
    }

    /// These tokens fared otherwise.
    pub fn but(mut self, tokens: impl IntoIterator<Item = String>, meaning: Meaning, code: &str, reason: &str) -> Self {
        let verdict = Verdict { meaning, code: code.to_owned(), reason: reason.to_owned() };
        self.except.extend(tokens.into_iter().map(|token| (token, verdict.clone())));
        self
    }

    /// No credential and no token stands in a reason, and none is long: vendors repeat what they were sent.
    pub fn without(mut self, credential: &str, tokens: &[&str]) -> Self {
        let reason = std::mem::take(&mut self.rest.reason);
        self.rest.reason = tokens.iter().fold(hidden(reason, credential), |reason, token| hidden(reason, token));
        self.rest.reason = bounded(std::mem::take(&mut self.rest.reason));
        for (token, verdict) in &mut self.except {
            let reason = hidden(std::mem::take(&mut verdict.reason), credential);
            verdict.reason = bounded(hidden(reason, token));
        }
        self
    }

    pub fn of(&self, token: &str) -> &Verdict {
        self.except.iter().find(|(t, _)| t == token).map_or(&self.rest, |(_, verdict)| verdict)
    }
}

/// The most characters of a vendor's words.
const LONGEST_REASON: usize = 300;

fn bounded(reason: String) -> String {
    match reason.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason,
    }
}

fn hidden(reason: String, secret: &str) -> String {
    if secret.is_empty() || !reason.contains(secret) { reason } else { reason.replace(secret, &fingerprint(secret)) }
}

/// A push that the vendor would refuse for its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// In bytes, as the vendor counts.
    pub size: usize,
    pub most: usize,
}

impl TooLarge {
    /// Of a document with at most `most` bytes.
    pub fn of(document: &Json, most: usize) -> Option<Self> {
        let size = bytes(document).len();
        (size > most).then_some(Self { size, most })
    }
}

/// One vendor's protocol.
pub trait Protocol: Send + Sync + std::fmt::Debug {
    /// Tokens one call takes at most.
    fn batch(&self) -> usize;

    /// Whether a push may reach the vendor twice, where the first one's answer was lost.
    fn repeat(&self) -> Repeat;

    /// The header in which an answer bears the accepted message's id.
    fn id_header(&self) -> Option<&'static str> {
        None
    }

    /// # Errors
    /// When the certificate's key cannot be used.
    fn grant(&self, _certificate: &Certificate, _now_ms: u64) -> Result<Grant, NoCredential> {
        Ok(Grant::None)
    }

    /// Reads the answer to [`Grant::Ask`].
    ///
    /// # Errors
    /// [`NoCredential`] with the vendor's words.
    fn granted(&self, answer: &Answer<'_>, _now_ms: u64) -> Result<Credential, NoCredential> {
        let verdict = answer.by_status().rest;
        Err(NoCredential::Later { code: verdict.code, reason: verdict.reason })
    }

    /// A call that must come before this push, whose answer's handle the push refers to.
    fn before(&self, _push: &Push<'_>) -> Option<Call> {
        None
    }

    /// Reads that handle.
    ///
    /// # Errors
    /// What the answer means instead.
    fn handle(&self, answer: &Answer<'_>) -> Result<String, Reading> {
        Err(answer.by_status())
    }

    fn request(&self, push: &Push<'_>, handle: Option<&str>) -> Call;

    /// By how much a push is larger than the vendor takes, its texts shortened as far as they can be.
    fn too_large(&self, _push: &Push<'_>) -> Option<TooLarge> {
        None
    }

    /// Takes an accepted push back, where the vendor says how. A credential goes with it as its bearer.
    fn recall(&self, _certificate: &Certificate, _accepted: &Accepted<'_>) -> Option<Call> {
        None
    }

    fn read(&self, answer: &Answer<'_>) -> Reading;
}

/// An OAuth 2 answer (RFC 6749, sections 5.1 and 5.2).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Granted {
    #[serde(deserialize_with = "lenient::or_default")]
    access_token: Secret,
    #[serde(deserialize_with = "lenient::some_number")]
    expires_in: Option<i64>,
    #[serde(deserialize_with = "lenient::text")]
    error: String,
    #[serde(deserialize_with = "lenient::text")]
    error_description: String,
}

/// Life of an access token that does not say it, in seconds.
const AN_HOUR: u64 = 3600;

/// An access token is replaced this long before its end.
const RENEW_EARLY_MS: u64 = 300_000;

/// Finds a code in a vendor's table; one that is not there is unknown.
pub fn meaning_of<C: PartialEq>(codes: &[(C, Meaning)], code: &C) -> Meaning {
    codes.iter().find(|(known, _)| known == code).map_or(Meaning::Unknown, |(_, meaning)| *meaning)
}

/// Reads an OAuth 2 answer.
///
/// # Errors
/// [`NoCredential::Refused`] for a client error: the id or secret is wrong.
pub fn oauth_granted(answer: &Answer<'_>, now_ms: u64) -> Result<Credential, NoCredential> {
    let (granted, form) = match answer.json::<Granted>() {
        Ok(granted) => (granted, String::new()),
        Err(reading) => (Granted::default(), reading.rest.reason),
    };
    // The words that are meant for it, and never the body: it may hold the token.
    let words = [granted.error, granted.error_description, form].join(" ");
    let reason = bounded(format!("{}: {}", answer.status, words.trim()));
    if matches!(answer.status, 400 | 401 | 403) {
        return Err(NoCredential::Refused { code: "oauth".into(), reason });
    }
    if !(200..300).contains(&answer.status) || granted.access_token.is_empty() {
        return Err(NoCredential::Later { code: "oauth".into(), reason });
    }
    let life_s = granted.expires_in.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(AN_HOUR);
    let life_ms = life_s.saturating_mul(1000);
    // A token of a few minutes must not be fetched for every send.
    Ok(Credential {
        value: granted.access_token,
        renew_at_ms: now_ms.saturating_add(life_ms - RENEW_EARLY_MS.min(life_ms / 2)),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::notification::Content;
    use super::*;
    use crate::vendors::Vendor;
    use serde_json::json;
    use std::time::Duration;

    /// What a vendor's answer means.
    pub fn answered(protocol: &dyn Protocol, status: u16, body: &Json) -> Reading {
        let body = body.to_string();
        protocol.read(&Answer { status, body: body.as_bytes(), id_header: None })
    }

    /// A push of this text to these tokens.
    pub fn pushing(text: &str, tokens: &[&str], look: impl FnOnce(&Push<'_>)) {
        let certificate = Certificate::new("o#a".into(), "1#k".into(), Vendor::Apns, json!({}));
        let notification = Notification {
            content: Content { title: "t".into(), body: text.into(), payload: json!({"m": "1"}) },
            collapse_id: 1,
            time_to_live: Duration::from_secs(60),
            vendor_ext: Json::Null,
            receipt_param: "p".into(),
            receipt_url: None,
            badge: None,
            sound: None,
        };
        look(&Push { certificate: &certificate, access: "", tokens, notification: &notification, now_ms: 0 });
    }

    fn granted(status: u16, body: &str) -> Result<Credential, NoCredential> {
        oauth_granted(&Answer { status, body: body.as_bytes(), id_header: None }, 1000)
    }

    #[test]
    fn an_access_token_is_had_however_its_life_is_written() {
        for (life, renew_at_ms) in
            [("3600", 3_301_000), ("\"3600\"", 3_301_000), ("null", 3_301_000), ("[]", 3_301_000)]
        {
            let body = format!(r#"{{"access_token":"SECRET","expires_in":{life}}}"#);
            let credential = granted(200, &body).expect("a credential");
            assert_eq!((credential.value.expose(), credential.renew_at_ms), ("SECRET", renew_at_ms), "{life}");
        }
    }

    #[test]
    fn no_answer_about_a_credential_is_repeated_but_its_words() {
        for status in [200, 302, 400, 401, 403, 500, 503] {
            for body in [
                r#"{"token":"SECRET"}"#,
                r#"{"access_token":{"value":"SECRET"}}"#,
                r#"["SECRET"]"#,
                "SECRET",
                "<html>SECRET",
                r#"{"access_token":"SECRET","#,
            ] {
                let why = format!("{:?}", granted(status, body).expect_err("none"));
                assert!(!why.contains("SECRET"), "{status} {body}: {why}");
                let answer = Answer { status, body: body.as_bytes(), id_header: None };
                assert!(!answer.by_status().rest.reason.contains("SECRET"));
            }
        }
        let refused = granted(401, r#"{"error":"invalid_client","error_description":"no such app"}"#);
        let reason = "401: invalid_client no such app".to_owned();
        assert_eq!(refused.expect_err("none"), NoCredential::Refused { code: "oauth".into(), reason });
    }

    #[test]
    fn a_vendors_words_never_hold_a_token_and_are_not_long() {
        let long = format!("TOKEN-A is bad, so is TOKEN-B under BEARER {}", "x".repeat(1000));
        let reading = Reading::all(Meaning::Request, "c", long)
            .but(["TOKEN-C".to_owned()], Meaning::TokenDead, "c", "TOKEN-C is no id")
            .without("BEARER", &["TOKEN-A", "TOKEN-B", "TOKEN-C"]);
        for reason in [&reading.rest.reason, &reading.except[0].1.reason] {
            assert!(!reason.contains("TOKEN-") && !reason.contains("BEARER"), "{reason}");
            assert!(reason.contains("is ") && reason.chars().count() <= LONGEST_REASON + 1, "{reason}");
        }
    }

    #[test]
    fn an_answer_that_is_no_json_is_judged_by_its_status() {
        for (status, meaning) in
            [(200, Meaning::Retry), (401, Meaning::Auth), (413, Meaning::Request), (429, Meaning::LimitedShort)]
        {
            let answer = Answer { status, body: b"<html>", id_header: None };
            assert_eq!(answer.json::<Json>().expect_err("no JSON").rest.meaning, meaning);
        }
        for (body, meaning) in [(&b"<html>"[..], Meaning::Retry), (b"", Meaning::Request), (b"no", Meaning::Request)] {
            assert_eq!(Answer { status: 404, body, id_header: None }.by_status().rest.meaning, meaning);
        }
    }
}
