//! The keys that sign tokens, for the operator: which there are, another one, one less.

use super::who::AdminRequest;
use super::{ApiError, State};
use crate::gateway::clock::now_ms;
use crate::gateway::keyring::{KeyError, Keyring};
use crate::gateway::tokens::GRACE_S;
use axum::Json;
use axum::extract::State as Shared;
use serde_json::{Value, json};
use std::sync::Arc;
use tracing::info;

/// Changes the keys in the store, and takes what came of it over.
async fn change(
    state: &State,
    change: impl FnOnce(&mut Keyring, u64) -> Result<(), KeyError> + Send + 'static,
) -> Result<Keyring, ApiError> {
    let now_s = now_ms() / 1000;
    let done = state
        .store
        .change_own("token_key", move |stored| {
            let Some(mut keys) = Keyring::parse(&stored) else { return (None, Err(KeyError::Unknown)) };
            match change(&mut keys, now_s) {
                Ok(()) => (Some(keys.text()), Ok(keys)),
                Err(error) => (None, Err(error)),
            }
        })
        .await?;
    let keys = done.map_err(|error| match error {
        KeyError::Unknown => ApiError::not_found(error.to_string()),
        KeyError::Signs | KeyError::JustMade => ApiError::forbidden(error.to_string()),
    })?;
    state.tokens.set_keys(keys.clone());
    Ok(keys)
}

pub(super) async fn list(
    AdminRequest(request): AdminRequest,
    Shared(state): Shared<Arc<State>>,
) -> Result<Json<Value>, ApiError> {
    let stored = state.store.own_secret("token_key").await?;
    let keys = Keyring::parse(&stored).ok_or_else(|| ApiError::unavailable("the signing keys cannot be read"))?;
    Ok(request.envelope("get", "entities", json!(keys.reports(now_ms() / 1000))))
}

/// Another key signs from a minute on; what was signed before is taken until it is over.
pub(super) async fn rotate(
    AdminRequest(request): AdminRequest,
    Shared(state): Shared<Arc<State>>,
) -> Result<Json<Value>, ApiError> {
    let most_s = state.user_token_s + GRACE_S;
    let keys = change(&state, move |keys, now_s| keys.rotate(now_s, most_s)).await?;
    info!(event = "signing_key.rotated", "another key signs tokens from a minute on");
    Ok(request.envelope("post", "entities", json!(keys.reports(now_ms() / 1000))))
}

/// Every login whose token it signed has to be made again.
pub(super) async fn remove(
    AdminRequest(request): AdminRequest,
    Shared(state): Shared<Arc<State>>,
) -> Result<Json<Value>, ApiError> {
    let id = request.variable("key");
    let removed = id.clone();
    let keys = change(&state, move |keys, now_s| keys.remove(&removed, now_s)).await?;
    info!(event = "signing_key.removed", key = id, "tokens of a signing key are taken no more");
    Ok(request.envelope("delete", "entities", json!(keys.reports(now_ms() / 1000))))
}
