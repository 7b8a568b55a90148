//! What RabbitMQ asks before it lets a device in: its `rabbitmq_auth_backend_http` plugin's four questions,
//! each a form, each answered `allow` or `deny`.
//!
//! Source: the plugin's README, "What must my web server do?". RabbitMQ writes an MQTT topic with `.` for
//! `/`; our ids never hold a dot, since the topic's alphabet has none.

use super::asked::{ByBroker, let_in};
use super::{ApiError, State};
use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::extract::{Path, State as Shared};
use serde::Deserialize;
use std::sync::Arc;

/// The fields the four questions have, each with some of them.
#[derive(Deserialize)]
pub(super) struct Question {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    client_id: String,
    /// `exchange`, `queue` or `topic`.
    #[serde(default)]
    resource: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    permission: String,
    #[serde(default)]
    routing_key: String,
    #[serde(default, rename = "variable_map.client_id")]
    connected_as: String,
}

/// What MQTT connections use of the broker.
const EXCHANGE: &str = "amq.topic";
const QUEUE: &str = "mqtt-";

pub(super) async fn ask(
    _: ByBroker,
    Shared(state): Shared<Arc<State>>,
    Path(about): Path<String>,
    form: Result<Form<Question>, FormRejection>,
) -> Result<&'static str, ApiError> {
    let Form(question) = form.map_err(|e| ApiError::illegal(e.body_text()))?;
    let Question { username, password, client_id, resource, name, permission, routing_key, connected_as } = question;
    let allowed = match about.as_str() {
        "user" => let_in(&state, &client_id, &username, &password).await,
        "vhost" => true,
        "resource" => match resource.as_str() {
            "queue" => name.starts_with(QUEUE),
            "exchange" => name == EXCHANGE && permission != "configure",
            _ => false,
        },
        "topic" => {
            let topic = routing_key.replace('.', "/");
            match permission.as_str() {
                "write" => state.door.may_publish(&connected_as, &topic),
                "read" => state.door.may_subscribe(&connected_as, &topic),
                _ => false,
            }
        }
        _ => return Err(ApiError::not_found("it asks about user, vhost, resource or topic")),
    };
    Ok(if allowed { "allow" } else { "deny" })
}
