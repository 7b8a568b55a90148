//! The REST API: the original system's paths and JSON where it has them, our own beside them.
//!
//! | method and path | token | does |
//! | --- | --- | --- |
//! | `POST /{org}/{app}/token` | none | user or app token |
//! | `POST /{org}/{app}/users` | app | creates users |
//! | `GET /{org}/{app}/users/{user}/devices` | app | devices and what is known of them |
//! | `PUT,GET /{org}/{app}/users/{user}/push/binding` | app | bindings |
//! | `POST,GET /{org}/{app}/certificates` | app | push certificates |
//! | `DELETE /{org}/{app}/certificates/{name}` | app | removes one |
//! | `POST /{org}/{app}/messages/users` | app | sends a message |
//! | `GET /{org}/{app}/messages/{id}/trace` | app | every hop of a message |
//! | `GET /healthz`, `GET /readyz` | none | is it alive, can it work |

mod certificates;
mod error;
mod messages;
mod receipts;
mod users;

use super::clock::now_ms;
use super::dispatch::Dispatch;
use super::push::Push;
use super::store::Store;
use super::tokens::{Claims, Scope, Tokens};
use crate::secret::Secret;
use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::routing::{delete, get, post};
pub(super) use error::ApiError;
use serde_json::{Value as Json, json};
use std::collections::HashMap;

/// What the handlers share.
#[derive(Clone)]
pub struct State {
    pub store: Store,
    pub tokens: Tokens,
    pub dispatch: Dispatch,
    pub push: Push,
    /// The operator's secret, for app tokens.
    pub admin: Secret,
    pub user_token_s: u64,
}

/// Largest request body, in bytes: a message's limit and room for its wrapping.
const MAX_BODY: usize = 128 * 1024;

pub fn router(state: State) -> Router {
    Router::new()
        .route("/{org}/{app}/token", post(users::token))
        .route("/{org}/{app}/users", post(users::create))
        .route("/{org}/{app}/users/{user}/devices", get(users::devices))
        .route("/{org}/{app}/users/{user}/push/binding", get(users::bindings).put(users::bind))
        .route("/{org}/{app}/certificates", get(certificates::list).post(certificates::add))
        .route("/{org}/{app}/certificates/{name}", delete(certificates::remove).patch(certificates::change))
        .route("/{org}/{app}/certificates/{name}/test", post(certificates::test))
        .route("/receipts/{vendor}/{path}", post(receipts::receive))
        .route("/metrics", get(receipts::metrics))
        .route("/{org}/{app}/messages/users", post(messages::send))
        .route("/{org}/{app}/messages/{id}/trace", get(messages::trace))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(users::ready))
        .fallback(async || ApiError::not_found("no such path"))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}

/// A request that bears an app token for the app in its path.
pub(super) struct AppRequest {
    /// `org#app`.
    pub app: String,
    /// The path's other variables.
    path: HashMap<String, String>,
    started_ms: u64,
}

impl AppRequest {
    pub fn variable(&self, name: &str) -> String {
        self.path.get(name).cloned().unwrap_or_default()
    }

    /// The original system's envelope around an answer.
    pub fn envelope(&self, action: &str, key: &str, value: Json) -> axum::Json<Json> {
        let now = now_ms();
        axum::Json(
            json!({ "action": action, key: value, "timestamp": now, "duration": now.saturating_sub(self.started_ms) }),
        )
    }
}

impl FromRequestParts<State> for AppRequest {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, ApiError> {
        let started_ms = now_ms();
        let Path(path) = Path::<HashMap<String, String>>::from_request_parts(parts, state)
            .await
            .map_err(|e| ApiError::bad("IllegalArgumentException", e.to_string()))?;
        let app = app_of(&path);
        let claims = bearer(parts, &state.tokens)?;
        if claims.scope != Scope::App || claims.app != app {
            return Err(ApiError::forbidden("this token is not an app token of this app"));
        }
        Ok(Self { app, path, started_ms })
    }
}

fn app_of(path: &HashMap<String, String>) -> String {
    let part = |name| path.get(name).map_or("", String::as_str);
    format!("{}#{}", part("org"), part("app"))
}

fn bearer(parts: &Parts, tokens: &Tokens) -> Result<Claims, ApiError> {
    let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = header
        .strip_prefix("Bearer ")
        .ok_or_else(|| ApiError::unauthorized("the header `Authorization: Bearer <token>` is missing"))?;
    tokens.check(token.trim()).map_err(|e| ApiError::unauthorized(e.to_string()))
}
