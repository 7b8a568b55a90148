//! What RMQTT asks before it lets a device in: its `rmqtt-auth-http` plugin's two questions, each a form
//! with the plugin's default names, each answered `allow` or `deny`; or `ignore` about a gateway's own
//! connection, which the broker's own rules let in by the account they name.
//!
//! Source: the plugin's README, "Variable Placeholders" and "Authentication Flow".

use super::asked::{ByBroker, let_in};
use super::{ApiError, State};
use crate::protocol::GATEWAY_CLIENT_PREFIX;
use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::extract::{Path, State as Shared};
use serde::Deserialize;
use std::sync::Arc;

/// The fields the two questions have, each with some of them.
#[derive(Deserialize)]
pub(super) struct Question {
    #[serde(default)]
    clientid: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    /// `1`: subscribe, `2`: publish.
    #[serde(default)]
    access: String,
    #[serde(default)]
    topic: String,
}

pub(super) async fn ask(
    _: ByBroker,
    Shared(state): Shared<Arc<State>>,
    Path(about): Path<String>,
    form: Result<Form<Question>, FormRejection>,
) -> Result<&'static str, ApiError> {
    let Form(Question { clientid, username, password, access, topic }) =
        form.map_err(|e| ApiError::illegal(e.body_text()))?;
    if clientid.starts_with(GATEWAY_CLIENT_PREFIX) {
        return Ok("ignore");
    }
    let allowed = match (about.as_str(), access.as_str()) {
        ("auth", _) => let_in(&state, &clientid, &username, &password).await,
        ("acl", "1") => state.door.may_subscribe(&clientid, &topic),
        ("acl", "2") => state.door.may_publish(&clientid, &topic),
        ("acl", _) => false,
        _ => return Err(ApiError::not_found("it asks about auth or acl")),
    };
    Ok(if allowed { "allow" } else { "deny" })
}
