//! The REST API: the original system's paths and JSON where it has them, our own beside them.
//!
//! `openapi.json` describes every path; it is served at `/openapi.json`, and a test holds the server to it.

mod allowance;
mod asked;
mod body;
mod certificates;
mod clients;
mod connections;
mod emqx;
mod enrolments;
mod error;
mod keys;
mod limits;
mod logins;
mod messages;
mod nodes;
mod rabbitmq;
mod receipts;
mod replays;
mod rmqtt;
mod settings;
mod users;
mod who;

use super::attempts::Attempts;
use super::dispatch::Dispatch;
use super::door::Door;
use super::drain::Drain;
use super::enrolment::Enrolment;
use super::mending::Asking;
use super::password::Passwords;
use super::push::Push;
use super::store::Store;
use super::timekeeping::Timekeeping;
use super::tokens::Tokens;
use crate::ids::AppId;
use crate::secret::Secret;
use crate::vendors::Vendor;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header::CONTENT_TYPE;
use axum::routing::{delete, get, post, put};
use body::{Body, MAX_BODY};
pub use clients::Clients;
pub use connections::serve;
pub(super) use error::ApiError;
pub use limits::Limits;
pub use replays::Replays;
use std::collections::HashMap;
use std::sync::Arc;

/// What the handlers share.
pub struct State {
    pub store: Store,
    pub tokens: Tokens,
    /// For a broker that asks who may enter.
    pub door: Door,
    pub dispatch: Dispatch,
    pub asking: Asking,
    pub push: Push,
    pub time: Timekeeping,
    pub drain: Drain,
    pub limits: Limits,
    pub replays: Replays,
    /// The operator's secret, for app tokens.
    pub admin: Secret,
    pub clients: Clients,
    pub passwords: Passwords,
    pub attempts: Attempts,
    pub enrolment: Enrolment,
    /// What a broker on another machine shows.
    pub broker_secret: Option<Secret>,
    /// The gateway's own account at a broker.
    pub broker_account: Option<(String, Secret)>,
    pub user_token_s: u64,
}

/// What the paths are, for programs.
const OPENAPI: &str = include_str!("openapi.json");

/// With the vendors as the registry has them.
fn openapi() -> String {
    let names = serde_json::json!(Vendor::ORDER);
    OPENAPI.replace(r#""Vendor": {"type": "string"}"#, &format!(r#""Vendor": {{"type": "string", "enum": {names}}}"#))
}

fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/{org}/{app}/token", post(logins::token))
        .route("/{org}/{app}/enrol", post(enrolments::exchange))
        .route("/{org}/{app}/enrol-codes", get(enrolments::list).post(enrolments::add))
        .route("/{org}/{app}/enrol-codes/{code}", delete(enrolments::revoke))
        .route("/{org}/{app}/clients", get(clients::list).post(clients::add))
        .route("/{org}/{app}/clients/{client}", delete(clients::remove))
        .route("/{org}/{app}/clients/{client}/secret", post(clients::renew))
        .route("/{org}/{app}/gateways", get(nodes::list))
        .route("/{org}/{app}/signing-keys", get(keys::list).post(keys::rotate))
        .route("/{org}/{app}/signing-keys/{key}", delete(keys::remove))
        .route("/{org}/{app}/users", get(users::list).post(users::create))
        .route("/{org}/{app}/users/{user}", put(settings::set_profile).delete(users::remove))
        .route("/{org}/{app}/users/{user}/password", put(users::set_password))
        .route("/{org}/{app}/users/{user}/activate", post(users::activate))
        .route("/{org}/{app}/users/{user}/deactivate", post(users::deactivate))
        .route("/{org}/{app}/users/{user}/logins", get(logins::list))
        .route("/{org}/{app}/users/{user}/logins/{login}", delete(logins::end))
        .route("/{org}/{app}/users/{user}/devices/{device}", get(users::device).delete(users::remove_device))
        .route("/{org}/{app}/users/{user}/devices", get(users::devices))
        .route("/{org}/{app}/users/{user}/disconnect", delete(logins::kick_all))
        .route("/{org}/{app}/users/{user}/disconnect/{device}", delete(logins::kick_one))
        .route("/{org}/{app}/users/{user}/notification/language", get(settings::language).put(settings::set_language))
        .route("/{org}/{app}/users/{user}/notification/template", get(settings::choice).put(settings::set_choice))
        .route("/{org}/{app}/users/{user}/notification/{kind}/{key}", get(settings::silence).put(settings::set_silence))
        .route("/{org}/{app}/rules", get(settings::rules).put(settings::set_rules))
        .route("/{org}/{app}/notification/template", post(settings::set_template))
        .route("/{org}/{app}/notification/template/{name}", get(settings::template).delete(settings::remove_template))
        .route("/{org}/{app}/users/{user}/push/binding", get(users::bindings).put(users::bind))
        .route("/{org}/{app}/certificates", get(certificates::list).post(certificates::add))
        .route("/{org}/{app}/certificates/{name}", delete(certificates::remove).patch(certificates::change))
        .route("/{org}/{app}/certificates/{name}/test", post(certificates::test))
        .route("/receipts/{vendor}/{path}", post(receipts::receive).layer(DefaultBodyLimit::max(receipts::MAX_BODY)))
        .route("/broker/rabbitmq/{about}", post(rabbitmq::ask))
        .route("/broker/emqx/{about}", post(emqx::ask))
        .route("/broker/rmqtt/{about}", post(rmqtt::ask))
        .route("/metrics", get(receipts::metrics))
        .route("/{org}/{app}/messages/users", post(messages::send))
        .route("/{org}/{app}/messages/{id}/trace", get(messages::trace))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(users::ready))
        .route("/openapi.json", get(async || ([(CONTENT_TYPE, "application/json")], openapi())))
        .fallback(async || ApiError::not_found("no such path"))
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}

/// Two path segments are one app; with a separator inside one of them two apps would share a name.
fn app_of(path: &HashMap<String, String>) -> Result<String, ApiError> {
    let part = |name| path.get(name).map_or("", String::as_str);
    let app = format!("{}#{}", part("org"), part("app"));
    AppId::try_from(app).map(String::from).map_err(|error| ApiError::illegal(error.to_string()))
}
