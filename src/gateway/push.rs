//! From claimed vendor work to what came of it: the notification, the call, the next step.

use super::clock::now_ms;
use super::metrics::Metrics;
use super::proof::Proof;
use super::sender::{InTrouble, Open, Rejections, Senders};
use super::store::{Limited, Recall, Store, StoreError, VendorJob, VendorResult};
use super::webhook::{Report, Reports};
use crate::delivery::content::{Setting, badge, compose, sound};
use crate::delivery::outcome::{Limit, Outcome};
use crate::delivery::{AfterVendor, Hop, Luck, Rules, after_vendor};
use crate::ids::MessageId;
use crate::protocol::Message;
use crate::secret::fingerprint;
use crate::vendors::Vendor;
use crate::vendors::call::TooLarge;
use crate::vendors::certificate::Certificate;
use crate::vendors::notification::{Accepted, Notification};
use serde_json::{Value as Json, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, info, warn};

/// How long whoever reads the counters waits for the store; Prometheus gives up after 10 s.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);

/// What a push needs; clones share it.
#[derive(Debug, Clone)]
pub struct Push {
    pub senders: Arc<Senders>,
    pub metrics: Metrics,
    pub proof: Proof,
    /// Where vendors reach this gateway with their receipts.
    pub receipts_url: Option<String>,
    pub rules: watch::Receiver<Rules>,
    pub reports: Reports,
}

/// Jobs that one call can carry: the same message under the same certificate, shown in the same way.
pub fn together(jobs: Vec<VendorJob>) -> Vec<Vec<VendorJob>> {
    let mut groups: Vec<Vec<VendorJob>> = Vec::new();
    let mut at: HashMap<(String, String, MessageId, u32), usize> = HashMap::new();
    for job in jobs {
        let (app, name) = (job.certificate.app.clone(), job.certificate.name.clone());
        let key = (app, name, job.message.id.clone(), job.setting.waiting);
        match at.get(&key) {
            Some(index) => groups[*index].push(job),
            None => {
                at.insert(key, groups.len());
                groups.push(vec![job]);
            }
        }
    }
    groups
}

impl Push {
    /// Sends jobs that [`together`] put in one group.
    pub async fn push(&self, jobs: Vec<VendorJob>) -> Vec<(VendorJob, VendorResult)> {
        let Some(first) = jobs.first() else { return Vec::new() };
        let life = Duration::from_millis(first.expires_ms.saturating_sub(now_ms()));
        let notification = self.notification(&first.certificate, &first.message, &first.setting, life);
        let tokens: Vec<&str> = jobs.iter().map(|job| job.token.as_str()).collect();
        let outcomes = self.call(&first.certificate, &tokens, &notification).await;
        let mut results = Vec::new();
        for (job, outcome) in jobs.iter().zip(&outcomes) {
            if let Some(to) = &job.webhook {
                self.reports.send(Report {
                    app: job.address.app.to_string(),
                    to: to.clone(),
                    body: report(job, outcome),
                });
            }
            let mut result = result(job, outcome);
            // A push that went to several devices can only be taken back from all of them.
            if let (Outcome::Delivered { vendor_id }, 1) = (outcome, jobs.len()) {
                result.vendor_id.clone_from(vendor_id);
            }
            self.metrics.hop(result.hop.as_str());
            results.push(result);
        }
        jobs.into_iter().zip(results).collect()
    }

    /// Sends a notification to a raw token: no binding, no message, no second try.
    pub async fn test(&self, certificate: &Certificate, token: &str, message: &Message) -> Outcome {
        let notification = self.notification(certificate, message, &Setting::default(), Duration::from_secs(3600));
        let none = || Outcome::Unknown { code: String::new(), reason: "no answer".to_owned() };
        self.call(certificate, &[token], &notification).await.pop().unwrap_or_else(none)
    }

    /// Takes back a push whose message has reached the device after all. `None`: the vendor cannot.
    pub async fn recall(&self, certificate: &Certificate, recall: &Recall) -> Option<String> {
        let Recall { message, token, vendor_id, .. } = recall;
        let accepted = Accepted { token, collapse_id: collapse_id(message), vendor_id };
        let outcome = self.senders.recall(certificate, &accepted, now_ms()).await?;
        self.metrics.hop(Hop::Recalled.as_str());
        Some(format!("{}: {} {}", certificate.vendor, outcome.as_str(), outcome.detail()))
    }

    /// Whether the certificate's vendor would refuse this message for its size: what it carries beside its texts.
    pub fn too_large(&self, certificate: &Certificate, message: &Message) -> Option<TooLarge> {
        let notification = self.notification(certificate, message, &Setting::default(), Duration::ZERO);
        self.senders.too_large(certificate, &notification)
    }

    /// Why this certificate is not used now.
    pub fn open(&self, certificate: &Certificate) -> Option<Open> {
        self.senders.open(certificate)
    }

    /// What its vendor refuses for good, again and again.
    pub fn rejecting(&self, certificate: &Certificate) -> Option<Rejections> {
        self.senders.rejecting(certificate)
    }

    /// Why this certificate has not been usable for ten minutes or more.
    pub fn failing(&self, certificate: &Certificate) -> Option<Open> {
        self.senders.failing(certificate, now_ms())
    }

    /// Counts the certificates that are in trouble now. Which they are the list of an app's certificates says.
    pub async fn count_certificates(&self, store: &Store) {
        let (counted, gone) = known(self.senders.in_trouble(), |app| store.known_certificates(app)).await;
        gone.iter().for_each(|(vendor, one)| self.senders.forget(*vendor, &one.identity));
        let counted: Vec<_> = counted.iter().map(|(vendor, one)| (*vendor, one.out_of_use, one.rejecting)).collect();
        self.metrics.certificates(&counted);
    }

    /// Whether that is so of any.
    pub fn any_failing(&self) -> bool {
        self.senders.any_failing(now_ms())
    }

    /// Where the certificate's vendor should send its receipts.
    pub fn receipt_url(&self, certificate: &Certificate) -> Option<String> {
        certificate.vendor.cloud().receipts.as_ref()?;
        let path = self.proof.path(&certificate.app, &certificate.name);
        let base = self.receipts_url.as_ref()?.trim_end_matches('/');
        Some(format!("{base}/receipts/{}/{path}", certificate.vendor))
    }

    async fn call(&self, certificate: &Certificate, tokens: &[&str], notification: &Notification) -> Vec<Outcome> {
        let started = Instant::now();
        let outcomes = self.senders.send(certificate, tokens, notification, now_ms()).await;
        self.metrics.called(started.elapsed());
        for outcome in &outcomes {
            self.metrics.answered(certificate.vendor.as_str(), outcome.as_str(), outcome.code());
        }
        outcomes
    }

    fn notification(
        &self,
        certificate: &Certificate,
        message: &Message,
        setting: &Setting,
        life: Duration,
    ) -> Notification {
        Notification {
            content: compose(message, setting),
            collapse_id: collapse_id(&message.id),
            time_to_live: life.min(Duration::from_secs(self.rules.borrow().push_life_s)),
            vendor_ext: message.ext[(certificate.vendor.cloud().ext)(certificate)].clone(),
            receipt_param: self.proof.param(&message.id),
            receipt_url: self.receipt_url(certificate),
            badge: badge(message, setting),
            sound: sound(message),
        }
    }
}

fn result(job: &VendorJob, outcome: &Outcome) -> VendorResult {
    // Devices of one message stay together: one call may carry them.
    let after = after_vendor(outcome, job.attempts, now_ms(), Luck::of(&job.message.id, job.attempts));
    let (vendor, detail) = (job.certificate.vendor.as_str(), outcome.detail());
    let hop = match (outcome, &after) {
        (Outcome::Delivered { .. }, _) => Hop::VendorSent,
        (_, AfterVendor::Again { .. }) => Hop::VendorRetry,
        _ => Hop::VendorRefused,
    };
    let name = &job.certificate.name;
    if let Outcome::Refused { certificate: true, .. } = outcome {
        warn!(event = "certificate.refused", vendor, certificate = %name, detail, "the vendor refuses this certificate; no binding is touched");
    } else if let Outcome::Delivered { .. } = outcome {
        // The trace has it; a line for each would be most of the log.
        debug!(event = "vendor.answered", vendor, message = %job.message.id, token = fingerprint(&job.token), outcome = outcome.as_str(), detail, attempts = job.attempts, "vendor answered");
    } else {
        info!(event = "vendor.answered", vendor, message = %job.message.id, token = fingerprint(&job.token), outcome = outcome.as_str(), detail, attempts = job.attempts, "vendor answered");
    }
    let code = outcome.code().to_owned();
    let limited = match outcome {
        Outcome::LimitedUntil { limit, until_ms, .. } => Some(Limited { limit: *limit, until_ms: *until_ms }),
        _ => None,
    };
    let detail = format!("{vendor}: {} {detail}", outcome.as_str());
    // Not what the vendor gave this one an end for.
    let held = matches!(
        outcome,
        Outcome::LimitedUntil { limit: Limit::Circuit, .. }
            | Outcome::Refused { certificate: true, .. }
            | Outcome::RetryAfter { after_ms: None, .. }
    ) && matches!(after, AfterVendor::Again { .. });
    VendorResult { after, hop, detail, code, limited, vendor_id: None, held }
}

/// The original system's report of one vendor send.
fn report(job: &VendorJob, outcome: &Outcome) -> Json {
    let (status, detail) = match outcome {
        Outcome::Delivered { .. } => ("success", String::new()),
        Outcome::Refused { certificate: true, .. } => ("fail", "get push token fail".to_owned()),
        Outcome::RetryAfter { .. } | Outcome::LimitedUntil { .. } | Outcome::TooFast { .. } => {
            ("error", outcome.detail())
        }
        _ => ("fail", "push yet but fail".to_owned()),
    };
    let message = &job.message;
    json!({
        "callId": format!("{}_{}", job.address.app, message.id), "appkey": job.address.app, "channel": job.certificate.vendor,
        "chat_type": message.chat_type, "device_id": job.address.device, "device_token": job.token, "msg_id": message.id,
        "notifier_name": job.certificate.name, "from": message.from, "target": message.to, "group_id": message.group,
        "step": "push", "status": status, "detail": detail, "data": outcome.detail(),
    })
}

/// The same id for every try of one message, so that a repeat replaces and does not add (FNV-1a).
fn collapse_id(message: &str) -> u32 {
    message.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

type Troubled = Vec<(Vendor, InTrouble)>;

/// Certificates in trouble that are still in use, and those that were replaced or taken away meanwhile.
async fn known<F: Future<Output = Result<Arc<[Arc<Certificate>]>, StoreError>>>(
    in_trouble: impl Iterator<Item = (Vendor, InTrouble)>,
    certificates: impl Fn(String) -> F,
) -> (Troubled, Troubled) {
    let mut in_trouble: Troubled = in_trouble.collect();
    let mut gone = Vec::new();
    let look = async {
        let mut looked_at = 0;
        while let Some((_, one)) = in_trouble.get(looked_at) {
            let is_same = |known: &Arc<Certificate>| known.name == one.name && known.identity() == one.identity;
            match certificates(one.app.clone()).await {
                Ok(known) if !known.iter().any(is_same) => gone.push(in_trouble.remove(looked_at)),
                // A store that is away for now makes no certificate well.
                Ok(_) | Err(_) => looked_at += 1,
            }
        }
    };
    // The same of one that does not answer.
    drop(timeout(KNOWN_WITHIN, look).await);
    (in_trouble, gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_trouble(app: &str) -> (Vendor, InTrouble) {
        let [app, name, identity] = [app, "x", "1"].map(str::to_owned);
        (Vendor::Xiaomi, InTrouble { app, name, identity, out_of_use: true, rejecting: false })
    }

    #[tokio::test(start_paused = true)]
    async fn certificates_of_which_the_store_says_nothing_count_as_they_did_and_nobody_waits_for_each() {
        let all = ["o#gone", "o#silent", "o#behind"].map(in_trouble);
        let started = tokio::time::Instant::now();
        let answer = |app: String| async move {
            match app.as_str() {
                "o#gone" => Ok(Vec::new().into()),
                _ => std::future::pending().await,
            }
        };
        let (counted, gone) = known(all.clone().into_iter(), answer).await;
        assert_eq!((counted.as_slice(), gone.as_slice()), (&all[1..], &all[..1]));
        assert_eq!(started.elapsed(), KNOWN_WITHIN);
        let away = |_| async { Err(StoreError::Closed) };
        assert_eq!(known(all.clone().into_iter(), away).await, (all.to_vec(), Vec::new()));
    }
}
