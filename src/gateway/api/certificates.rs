//! Push certificates over REST. Secrets go in and never come out.

use super::super::clock::now_ms;
use super::super::sender::Senders;
use super::super::store::Certificate;
use super::{ApiError, AppRequest, State};
use crate::vendor::Vendor;
use axum::Json;
use axum::extract::State as Shared;
use axum::extract::rejection::JsonRejection;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
pub(super) struct NewCertificate {
    name: String,
    vendor: Vendor,
    fields: Value,
}

pub(super) async fn add(
    request: AppRequest,
    Shared(state): Shared<State>,
    body: Result<Json<NewCertificate>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(body) = body.map_err(|e| ApiError::illegal(e.body_text()))?;
    let certificate = Certificate::new(request.app.clone(), body.name, body.vendor, body.fields);
    certificate.check().map_err(ApiError::illegal)?;
    if !Senders::can_send(certificate.vendor) {
        return Err(ApiError::illegal(format!("this gateway cannot send through {} yet", certificate.vendor)));
    }
    let shown = certificate.shown();
    state.store.put_certificate(certificate, now_ms()).await?;
    Ok(request.envelope("post", "entities", json!([shown])))
}

pub(super) async fn list(request: AppRequest, Shared(state): Shared<State>) -> Result<Json<Value>, ApiError> {
    let certificates = state.store.certificates(request.app.clone()).await?;
    let shown: Vec<_> = certificates.iter().map(Certificate::shown).collect();
    Ok(request.envelope("get", "entities", json!(shown)))
}

pub(super) async fn remove(request: AppRequest, Shared(state): Shared<State>) -> Result<Json<Value>, ApiError> {
    let name = request.variable("name");
    if !state.store.remove_certificate(request.app.clone(), name.clone()).await? {
        return Err(ApiError::not_found(format!("no certificate is named `{name}`")));
    }
    Ok(request.envelope("delete", "entities", json!([{ "name": name }])))
}
