//! Reports of vendor sends to an app's own server: one POST each, one more try, and a pause that grows
//! when that server does not take them.

use crate::delivery::policy::{Signature, Webhook};
use crate::http::Http;
use crate::secret::hex;
use md5::{Digest as _, Md5};
use ring::hmac;
use serde_json::{Value as Json, json};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{info, warn};

/// Reports that wait; more are lost and counted, for a push must not wait for an app's server.
const DEPTH: usize = 4096;
/// The documented ladder: so many failures within half a minute stop a rule for so many minutes.
const FAILURES: usize = 90;
const WITHIN_MS: u64 = 30_000;
const BAN_MINUTES: [u64; 5] = [5, 10, 15, 20, 25];
/// Bans older than this no longer count.
const FORGET_MS: u64 = 86_400_000;

/// One vendor send's report.
#[derive(Debug, Clone)]
pub struct Report {
    pub app: String,
    pub to: Webhook,
    pub body: Json,
}

/// Whether an app's server is left alone.
#[derive(Debug, Default)]
struct Ban {
    failures: Vec<u64>,
    bans: Vec<u64>,
    until_ms: u64,
}

impl Ban {
    fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.until_ms
    }

    /// Returns for how many minutes it is left alone now, when this failure was one too many.
    fn on_failure(&mut self, now_ms: u64) -> Option<u64> {
        self.failures.retain(|at| now_ms.saturating_sub(*at) < WITHIN_MS);
        self.failures.push(now_ms);
        if self.failures.len() < FAILURES {
            return None;
        }
        self.failures.clear();
        self.bans.retain(|at| now_ms.saturating_sub(*at) < FORGET_MS);
        let minutes = BAN_MINUTES[self.bans.len().min(BAN_MINUTES.len() - 1)];
        self.bans.push(now_ms);
        self.until_ms = now_ms + minutes * 60_000;
        Some(minutes)
    }
}

/// Takes reports; clones share the queue.
#[derive(Debug, Clone)]
pub struct Reports(mpsc::Sender<Report>);

impl Reports {
    /// Starts the task that sends them.
    pub fn start(http: Http) -> Self {
        let (sender, mut queue) = mpsc::channel::<Report>(DEPTH);
        tokio::spawn(async move {
            let mut bans: HashMap<String, Ban> = HashMap::new();
            while let Some(report) = queue.recv().await {
                let ban = bans.entry(report.app.clone()).or_default();
                let now_ms = super::clock::now_ms();
                if !ban.is_over(now_ms) {
                    continue;
                }
                if !sent(&http, &report, now_ms).await
                    && let Some(minutes) = ban.on_failure(now_ms)
                {
                    warn!(event = "webhook.banned", app = %report.app, minutes, "the app's server takes no reports; it is left alone");
                }
            }
        });
        Self(sender)
    }

    pub fn send(&self, report: Report) {
        if self.0.try_send(report).is_err() {
            info!(event = "webhook.dropped", "too many reports wait; this one is lost");
        }
    }
}

/// Two tries, one right after the other.
async fn sent(http: &Http, report: &Report, now_ms: u64) -> bool {
    let (signature, body) = signed(report, now_ms);
    let mut headers = vec![("content-type", "application/json")];
    if let Some(signature) = &signature {
        headers.push(("x-impush-signature", signature));
    }
    for _ in 0..2 {
        let answer = http.call("POST", &report.to.url, &headers, body.clone().into_bytes());
        if answer.await.is_ok_and(|(status, _)| status.as_u16() == 200) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

/// The header's signature, where there is one, and the body.
fn signed(report: &Report, now_ms: u64) -> (Option<String>, String) {
    let mut body = report.body.clone();
    body["timestamp"] = json!(now_ms);
    let secret = report.to.secret.expose();
    match report.to.signature {
        Signature::Md5 => {
            let call = body["callId"].as_str().unwrap_or_default();
            body["security"] = json!(hex(&Md5::digest(format!("{call}{secret}{now_ms}"))));
            (None, body.to_string())
        }
        Signature::Hmac => {
            let text = body.to_string();
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            (Some(format!("sha256={}", hex(hmac::sign(&key, text.as_bytes()).as_ref()))), text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn a_server_that_fails_is_left_alone_ever_longer_and_is_forgiven_after_a_day() {
        let mut ban = Ban::default();
        let fail = |ban: &mut Ban, from: u64| (0..FAILURES as u64).find_map(|n| ban.on_failure(from + n));
        assert_eq!(fail(&mut ban, 0), Some(5));
        assert!(!ban.is_over(1000) && ban.is_over(400_000));
        assert_eq!(fail(&mut ban, 400_000), Some(10));
        for expected in [15, 20, 25, 25] {
            let from = ban.until_ms;
            assert_eq!(fail(&mut ban, from), Some(expected));
        }
        assert_eq!(fail(&mut ban, 3 * FORGET_MS), Some(5));
        // Failures far apart are no outage.
        assert!((0..1000).all(|n| ban.on_failure(4 * FORGET_MS + n * 1000).is_none()));
    }

    #[test]
    fn a_report_is_signed_in_the_form_the_app_chose() {
        let report = |signature| Report {
            app: "o#a".into(),
            to: Webhook { url: "https://x".into(), secret: Secret::new("s"), signature },
            body: json!({"callId": "o#a_m1"}),
        };
        let (header, body) = signed(&report(Signature::Hmac), 7);
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"s");
        assert_eq!(header, Some(format!("sha256={}", hex(hmac::sign(&key, body.as_bytes()).as_ref()))));
        let (header, body) = signed(&report(Signature::Md5), 7);
        let body: Json = serde_json::from_str(&body).expect("JSON");
        assert_eq!((header, &body["security"]), (None, &json!(hex(&Md5::digest("o#a_m1s7")))));
    }
}
