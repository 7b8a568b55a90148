//! Sending messages, and asking what became of one.

use super::super::clock::{message_id, now_ms};
use super::who::AppRequest;
use super::{ApiError, Body, State};
use crate::delivery::content;
use crate::input::LONGEST_WORD;
use crate::protocol::{Address, Down, MAX_PAYLOAD, Message};
use crate::vendors::call::TooLarge;
use axum::Json;
use axum::extract::{FromRequestParts, State as Shared};
use axum::http::request::Parts;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;

/// Receivers of one call, as in the original system.
const MAX_RECEIVERS: usize = 600;
/// Receivers after which other requests have their turn.
const YIELD: usize = 16;
/// A message's `ext` of so many bytes leaves room in every vendor's 4,096 for what else is sent.
const SURELY_FITS: usize = 1000;
/// Longest idempotency key, in bytes.
const MAX_KEY: usize = 128;

#[derive(Deserialize)]
pub(super) struct NewMessage {
    #[serde(default)]
    from: Option<String>,
    to: Vec<String>,
    #[serde(default)]
    body: Value,
    /// `txt`, `img`, `cmd`, `custom`...: kept in the body for the receiving app.
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    ext: Value,
}

/// The header that makes a repeat of a call do nothing; not checked yet.
pub(super) struct IdempotencyKey(Option<String>);

impl FromRequestParts<Arc<State>> for IdempotencyKey {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<State>) -> Result<Self, Infallible> {
        let key = parts.headers.get("idempotency-key");
        Ok(Self(key.map(|value| value.to_str().unwrap_or_default().to_owned())))
    }
}

/// Answers when every message is stored. A repeat with the same `Idempotency-Key` header answers
/// with the first one's ids and sends nothing.
pub(super) async fn send(
    request: AppRequest,
    Shared(state): Shared<Arc<State>>,
    IdempotencyKey(key): IdempotencyKey,
    Body(new): Body<NewMessage>,
) -> Result<Json<Value>, ApiError> {
    if new.to.is_empty() || new.to.len() > MAX_RECEIVERS {
        return Err(ApiError::illegal(format!("`to` has 1 to {MAX_RECEIVERS} users")));
    }
    if !new.ext.is_null() && !new.ext.is_object() {
        return Err(ApiError::illegal("`ext` must be an object"));
    }
    content::check(&new.ext).map_err(ApiError::illegal)?;
    if key.as_ref().is_some_and(|key| key.is_empty() || key.len() > MAX_KEY) {
        return Err(ApiError::illegal(format!("Idempotency-Key has 1 to {MAX_KEY} visible ASCII characters")));
    }
    if new.from.as_ref().is_some_and(|from| from.is_empty() || from.len() > LONGEST_WORD) {
        return Err(ApiError::illegal(format!("`from` has 1 to {LONGEST_WORD} bytes")));
    }
    let mut body = new.body;
    if let (Some(kind), Value::Object(map)) = (new.kind, &mut body) {
        map.entry("type").or_insert(json!(kind));
    }
    let (body, ext) = (Arc::new(body), Arc::new(new.ext));
    let (mut messages, mut bytes) = (Vec::with_capacity(new.to.len()), 0);
    let mut named = HashSet::new();
    for (n, to) in new.to.into_iter().enumerate() {
        if n % YIELD == YIELD - 1 {
            tokio::task::yield_now().await;
        }
        // A user named twice gets one message.
        if !named.insert(to.clone()) {
            continue;
        }
        Address::new(&request.app, &to, "device").map_err(|e| ApiError::illegal(e.to_string()))?;
        let message = Message {
            id: message_id(now_ms()),
            from: new.from.clone().unwrap_or_else(|| "admin".to_owned()),
            to,
            chat_type: "chat".to_owned(),
            group: None,
            sent_at_ms: now_ms(),
            offline: false,
            body: body.clone(),
            ext: ext.clone(),
        };
        let json = message.to_json();
        let size = Down::message_size(&json);
        if size > MAX_PAYLOAD {
            return Err(ApiError::illegal(format!("the message is {size} bytes; at most {MAX_PAYLOAD}")));
        }
        bytes += size;
        messages.push((message, json));
    }
    if let Some((first, _)) = messages.first() {
        fits(&state, &request.app, first).await?;
    }
    state.limits.admit_messages(&request.app, messages.len(), bytes)?;
    let to: Vec<String> = messages.iter().map(|(message, _)| message.to.clone()).collect();
    let ids = state.dispatch.accept(&request.app, messages, key.as_deref()).await?;
    let data: Map<String, Value> = to.into_iter().zip(ids).map(|(to, id)| (to, json!(id))).collect();
    Ok(request.envelope("post", "data", Value::Object(data)))
}

/// Refuses what a vendor would refuse for good: custom data is never cut. All receivers' messages are alike in it.
async fn fits(state: &State, app: &str, message: &Message) -> Result<(), ApiError> {
    // Written as a text into JSON again it is at most twice as long.
    if message.ext.to_string().len() <= SURELY_FITS {
        return Ok(());
    }
    // In a box: it is rare, and would be room in each call's future.
    for certificate in Box::pin(state.store.known_certificates(app.to_owned())).await?.iter() {
        if let Some(TooLarge { size, most }) = state.push.too_large(certificate, message) {
            let (vendor, name) = (certificate.vendor, &certificate.name);
            return Err(ApiError::illegal(format!(
                "the notification is {size} bytes for {vendor} (certificate `{name}`), with its texts cut to nothing; at most {most}: \
                 `em_push_ext.custom` is never cut"
            )));
        }
    }
    Ok(())
}

pub(super) async fn trace(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let id = request.variable("id");
    let lines = state.store.trace(request.app.clone(), id.clone()).await?;
    if lines.is_empty() {
        return Err(ApiError::not_found(format!("no trace of message `{id}`; it never was, or is long gone")));
    }
    Ok(request.envelope("get", "entities", json!(lines)))
}
