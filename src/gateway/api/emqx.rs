//! What EMQX asks before it lets a device in: its HTTP authenticator's question and its HTTP authorizer's, each JSON of
//! the fields that `impush-gateway broker-config emqx` gives them.
//!
//! Source: <https://docs.emqx.com/en/emqx/latest/access-control/authn/http.html> and `authz/http.html` beside it. An
//! answer that is no success counts as `ignore` there, and a client that everybody ignores stays out.

use super::asked::{ByBroker, let_in, same};
use super::{ApiError, Body, State};
use crate::protocol::GATEWAY_CLIENT_PREFIX;
use crate::secret::Secret;
use axum::Json;
use axum::extract::{Path, State as Shared};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// The fields the two questions have, each with some of them. A client without one has the text `undefined` there.
#[derive(Deserialize)]
pub(super) struct Question {
    #[serde(default)]
    clientid: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: Secret,
    #[serde(default)]
    action: String,
    #[serde(default)]
    topic: String,
}

pub(super) async fn ask(
    _: ByBroker,
    Shared(state): Shared<Arc<State>>,
    Path(about): Path<String>,
    Body(Question { clientid, username, password, action, topic }): Body<Question>,
) -> Result<Json<Value>, ApiError> {
    let allowed = match (about.as_str(), action.as_str()) {
        // A gateway's own connection, which is asked about no topic.
        ("auth", _) if clientid.starts_with(GATEWAY_CLIENT_PREFIX) => {
            let account = state.broker_account.as_ref();
            let own = account.is_some_and(|(user, own)| *user == username && same(own.expose(), password.expose()));
            return Ok(Json(json!({ "result": if own { "allow" } else { "deny" }, "is_superuser": own })));
        }
        ("auth", _) => let_in(&state, &clientid, &username, password.expose()).await,
        ("acl", "publish") => state.door.may_publish(&clientid, &topic),
        ("acl", "subscribe") => state.door.may_subscribe(&clientid, &topic),
        ("acl", _) => false,
        _ => return Err(ApiError::not_found("it asks about auth or acl")),
    };
    Ok(Json(json!({ "result": if allowed { "allow" } else { "deny" } })))
}
