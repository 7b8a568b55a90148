//! Vendors' receipts over HTTP. The path cannot be guessed, and names the certificate.

use super::super::clock::now_ms;
use super::asked::Origin;
use super::replays::{Before, Callback};
use super::{ApiError, State};
use crate::input;
use crate::vendors::Vendor;
use crate::vendors::certificate::Certificate;
use crate::vendors::receipt::{Believed, Incoming, Receipt, Refused, read};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequestParts, Path, State as Shared};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use tracing::{debug, warn};

/// Largest callback, in bytes: a thousand statuses with room.
pub(super) const MAX_BODY: usize = 1024 * 1024;

/// The certificate to whose receipts the path leads: looked for before the body is read, and not at all for an
/// address that asks too often.
pub(super) struct Named(Arc<Certificate>);

impl FromRequestParts<Arc<State>> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, ApiError> {
        let Ok(Origin(address)) = Origin::from_request_parts(parts, state).await;
        if !state.limits.admits_from(address) {
            return Err(ApiError::held_back(1000, "too many callbacks from this address; again in 1 s"));
        }
        let nowhere = || ApiError::not_found("no such path");
        let Path((vendor, path)) =
            Path::<(String, String)>::from_request_parts(parts, state).await.map_err(|_| nowhere())?;
        let vendor: Vendor = vendor.parse().map_err(|_| nowhere())?;
        let proof = state.push.proof.clone();
        let found = state.store.certificate_by_path(path, move |app, name| proof.path(app, name)).await?;
        found.filter(|certificate| certificate.vendor == vendor).map(Self).ok_or_else(nowhere)
    }
}

/// Takes one vendor's report. The answer is what the vendors' own examples give.
pub(super) async fn receive(
    Shared(state): Shared<Arc<State>>,
    Named(certificate): Named,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let (vendor, now_ms) = (certificate.vendor, now_ms());
    let taken = || Ok(Json(json!({ "code": "0", "message": "success" })));
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_form = header("content-type").is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let form = if is_form { serde_urlencoded::from_bytes(&body).unwrap_or_default() } else { Default::default() };
    let incoming = Incoming {
        proof: vendor.cloud().receipts.as_ref().and_then(|receipts| receipts.proof_header).and_then(header),
        form,
        body: serde_json::from_slice(&body).unwrap_or_default(),
        now_ms,
    };
    let refused = |error: Refused| {
        state.push.metrics.received(vendor.as_str(), "refused");
        warn!(event = "receipt.refused", %vendor, certificate = %certificate.name, %error, "a receipt is not believed");
        ApiError::illegal(error.to_string())
    };
    let Believed { receipts, proof } = read(&certificate, &incoming).map_err(refused)?;
    let callback = Callback::new(&certificate.app, &certificate.name, proof.as_deref(), &body);
    match state.replays.look(&callback, now_ms) {
        Before::Never => {}
        Before::Same => return taken(),
        Before::Otherwise => return Err(refused(Refused::Replayed)),
    }
    for Receipt { token, code, .. } in &receipts {
        input::token(token).and_then(|()| input::word(code, "the code")).inspect_err(|_| {
            state.push.metrics.received(vendor.as_str(), "refused");
        })?;
    }
    let events: Vec<_> = receipts.iter().map(|receipt| receipt.event).collect();
    let named: Vec<(Receipt, Option<String>)> = receipts
        .into_iter()
        .map(|receipt| {
            let message = state.push.proof.message(&receipt.param).map(str::to_owned);
            (receipt, message)
        })
        .collect();
    let count = named.len();
    let (bound, new) = state.store.receipts(certificate.app.clone(), certificate.name.clone(), named, now_ms).await?;
    for (event, _) in events.iter().zip(&new).filter(|(_, new)| **new) {
        state.push.metrics.received(vendor.as_str(), event.as_str());
    }
    state.replays.taken(callback, now_ms);
    debug!(event = "receipt.taken", %vendor, count, bound, "receipts noted");
    taken()
}

/// What is counted, for Prometheus.
pub(super) async fn metrics(
    Shared(state): Shared<Arc<State>>,
) -> (StatusCode, [(&'static str, &'static str); 1], String) {
    state.push.count_certificates(&state.store).await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (StatusCode::OK, [("content-type", kind)], state.push.metrics.text(state.store.used()))
}
