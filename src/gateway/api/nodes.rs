//! The gateways that share the database, for the operator.

use super::who::AdminRequest;
use super::{ApiError, State};
use crate::gateway::clock::now_ms;
use axum::Json;
use axum::extract::State as Shared;
use serde_json::{Value, json};
use std::sync::Arc;

/// Nobody where the gateway has its store to itself, or all use one broker.
pub(super) async fn list(
    AdminRequest(request): AdminRequest,
    Shared(state): Shared<Arc<State>>,
) -> Result<Json<Value>, ApiError> {
    let nodes = state.store.nodes(now_ms()).await?;
    Ok(request.envelope("get", "entities", json!(nodes)))
}
