//! Push certificates over REST. Secrets go in and never come out.

use super::super::clock::{message_id, now_ms};
use super::super::store::Unreadable;
use super::who::AppRequest;
use super::{ApiError, Body, State};
use crate::delivery::content;
use crate::protocol::Message;
use crate::vendors::Vendor;
use crate::vendors::certificate::Certificate;
use axum::Json;
use axum::extract::State as Shared;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Most notifications of one test, and most of them under way at once.
const MAX_COUNT: usize = 100_000;
const MAX_CONCURRENCY: usize = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCertificate {
    name: String,
    vendor: Vendor,
    fields: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    enabled: bool,
}

#[derive(Deserialize)]
pub(super) struct Test {
    token: String,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    content: Option<String>,
    /// The sender's `ext` object, for the vendor's own fields.
    #[serde(default)]
    ext: Map<String, Value>,
    /// More than one measures the way to the vendor.
    #[serde(default = "once")]
    count: usize,
    #[serde(default = "once")]
    concurrency: usize,
}

fn once() -> usize {
    1
}

pub(super) async fn add(
    request: AppRequest,
    Shared(state): Shared<Arc<State>>,
    Body(body): Body<NewCertificate>,
) -> Result<Json<Value>, ApiError> {
    let certificate = Certificate::entered(request.app.clone(), &body.name, body.vendor, &body.fields);
    let certificate = certificate.map_err(ApiError::illegal)?;
    state.store.put_certificate(certificate.clone(), now_ms()).await?;
    state.push.senders.anew(&certificate);
    state.dispatch.on_serving(&request.app, &certificate.name).await;
    let shown = shown(&state, &certificate);
    state.asking.changed(&request.app);
    Ok(request.envelope("post", "entities", json!([shown])))
}

pub(super) async fn list(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let certificates = state.store.certificates(request.app.clone()).await?;
    let listed = |found: Result<Certificate, Unreadable>| match found {
        Ok(certificate) => shown(&state, &certificate),
        Err(Unreadable { name, vendor, enabled, why, .. }) => {
            json!({ "name": name, "vendor": vendor, "enabled": enabled, "unreadable": why })
        }
    };
    let shown: Vec<_> = certificates.into_iter().map(listed).collect();
    Ok(request.envelope("get", "entities", json!(shown)))
}

/// Switches a certificate on or off. Its bindings stay.
pub(super) async fn change(
    request: AppRequest,
    Shared(state): Shared<Arc<State>>,
    Body(Change { enabled }): Body<Change>,
) -> Result<Json<Value>, ApiError> {
    let name = request.variable("name");
    if !state.store.enable_certificate(request.app.clone(), name.clone(), enabled).await? {
        return Err(unknown(&name));
    }
    // One that nothing opens cannot be tried.
    if enabled && let Ok(Some(certificate)) = state.store.certificate(request.app.clone(), name.clone()).await {
        state.push.senders.anew(&certificate);
        state.dispatch.on_serving(&request.app, &name).await;
    }
    state.asking.changed(&request.app);
    Ok(request.envelope("patch", "entities", json!([{ "name": name, "enabled": enabled }])))
}

/// Sends to a raw token and tells what the vendor said.
pub(super) async fn test(
    request: AppRequest,
    Shared(state): Shared<Arc<State>>,
    Body(test): Body<Test>,
) -> Result<Json<Value>, ApiError> {
    if !(1..=MAX_COUNT).contains(&test.count) || !(1..=MAX_CONCURRENCY).contains(&test.concurrency) {
        return Err(ApiError::illegal(format!("count is 1 to {MAX_COUNT}, concurrency 1 to {MAX_CONCURRENCY}")));
    }
    content::check(&Value::Object(test.ext.clone())).map_err(ApiError::illegal)?;
    let name = request.variable("name");
    let found = state.store.certificate(request.app.clone(), name.clone()).await?;
    let certificate = found.ok_or_else(|| unknown(&name))?;
    certificate.vendor.check_token(&test.token).map_err(|e| ApiError::illegal(e.to_string()))?;
    let started = Instant::now();
    let sends = stream::iter(0..test.count).map(|_| {
        let (push, certificate, message, token) = (&state.push, &certificate, message(&test), test.token.as_str());
        async move {
            let began = Instant::now();
            (push.test(certificate, token, &message).await, began.elapsed())
        }
    });
    let done: Vec<_> = sends.buffer_unordered(test.concurrency).collect().await;
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    for (outcome, _) in &done {
        *outcomes.entry(outcome.as_str().to_owned()).or_default() += 1;
    }
    let mut times: Vec<f64> = done.iter().map(|(_, took)| took.as_secs_f64() * 1000.0).collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get(((times.len() - 1) as f64 * share) as usize).copied().unwrap_or_default();
    let last = done.last().map(|(outcome, _)| outcome);
    let answer = json!({
        "outcome": last.map(|outcome| outcome.as_str()), "detail": last.map(|outcome| outcome.detail()),
        "outcomes": outcomes, "seconds": started.elapsed().as_secs_f64(), "p50_ms": at(0.5), "p99_ms": at(0.99),
    });
    Ok(request.envelope("post", "data", answer))
}

pub(super) async fn remove(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let name = request.variable("name");
    if !state.store.remove_certificate(request.app.clone(), name.clone()).await? {
        return Err(unknown(&name));
    }
    state.asking.changed(&request.app);
    Ok(request.envelope("delete", "entities", json!([{ "name": name }])))
}

fn unknown(name: &str) -> ApiError {
    ApiError::not_found(format!("no certificate is named `{name}`"))
}

/// Without its secrets; with where its receipts go, and why it is not used now.
fn shown(state: &State, certificate: &Certificate) -> Value {
    let mut shown = certificate.shown();
    shown["receipts_url"] = json!(state.push.receipt_url(certificate));
    if let Some(open) = state.push.open(certificate) {
        shown["out_of_use"] = json!({ "until_ms": open.until_ms, "reason": open.reason });
    }
    if let Some(all) = state.push.rejecting(certificate) {
        shown["rejecting"] = json!({ "count": all.count, "since_ms": all.since_ms, "reason": all.reason });
    }
    shown
}

fn message(test: &Test) -> Message {
    let mut ext = Value::Object(test.ext.clone());
    let text = |given: &Option<String>, default: &str| given.clone().unwrap_or_else(|| default.to_owned());
    ext["em_push_ext"] = json!({
        // Some vendors refuse texts that look like tests.
        "title": text(&test.title, "推送服务已连接"), "content": text(&test.content, "这台设备可以收到通知。"),
    });
    Message {
        id: message_id(now_ms()),
        from: "admin".to_owned(),
        to: "test".to_owned(),
        chat_type: "chat".to_owned(),
        group: None,
        sent_at_ms: now_ms(),
        offline: true,
        body: Arc::new(json!({})),
        ext: Arc::new(ext),
    }
}
