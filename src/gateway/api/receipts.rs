//! Vendors' receipts over HTTP. The path cannot be guessed, and names the certificate.

use super::super::clock::now_ms;
use super::{ApiError, State};
use crate::input;
use crate::vendors::Vendor;
use crate::vendors::receipt::{Incoming, Receipt, read};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use tracing::{debug, warn};

/// Largest callback, in bytes: a thousand statuses with room.
pub(super) const MAX_BODY: usize = 1024 * 1024;

/// Takes one vendor's report. The answer is what the vendors' own examples give.
pub(super) async fn receive(
    Shared(state): Shared<Arc<State>>,
    Path((vendor, path)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let nowhere = || ApiError::not_found("no such path");
    let vendor: Vendor = vendor.parse().map_err(|_| nowhere())?;
    let certificates = state.store.certificates_of(vendor).await?;
    let owner = certificates.into_iter().find(|c| state.push.proof.path(&c.app, &c.name) == path);
    let certificate = owner.ok_or_else(nowhere)?;
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_form = header("content-type").is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let form = if is_form { serde_urlencoded::from_bytes(&body).unwrap_or_default() } else { Default::default() };
    let incoming = Incoming {
        proof: vendor.cloud().receipts.as_ref().and_then(|receipts| receipts.proof_header).and_then(header),
        form,
        body: serde_json::from_slice(&body).unwrap_or_default(),
        now_ms: now_ms(),
    };
    let receipts = read(&certificate, &incoming).map_err(|error| {
        state.push.metrics.received(vendor.as_str(), "refused");
        warn!(event = "receipt.refused", %vendor, certificate = %certificate.name, %error, "a receipt is not believed");
        ApiError::illegal(error.to_string())
    })?;
    for Receipt { token, code, .. } in &receipts {
        input::token(token).and_then(|()| input::word(code, "the code")).inspect_err(|_| {
            state.push.metrics.received(vendor.as_str(), "refused");
        })?;
    }
    for receipt in &receipts {
        state.push.metrics.received(vendor.as_str(), receipt.event.as_str());
    }
    let named: Vec<(Receipt, Option<String>)> = receipts
        .into_iter()
        .map(|receipt| {
            let message = state.push.proof.message(&receipt.param).map(str::to_owned);
            (receipt, message)
        })
        .collect();
    let count = named.len();
    let bound = state.store.receipts(certificate.app, certificate.name, named, now_ms()).await?;
    debug!(event = "receipt.taken", %vendor, count, bound, "receipts noted");
    Ok(Json(json!({ "code": "0", "message": "success" })))
}

/// What is counted, for Prometheus.
pub(super) async fn metrics(
    Shared(state): Shared<Arc<State>>,
) -> (StatusCode, [(&'static str, &'static str); 1], String) {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (StatusCode::OK, [("content-type", kind)], state.push.metrics.text())
}
