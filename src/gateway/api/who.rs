//! Who may what: whose token a request bears, and what that allows.
//!
//! | token of | may |
//! | --- | --- |
//! | the operator (`admin`) | everything in the app, its clients too, and the gateway's signing keys |
//! | a program (`app`) | everything in the app but those |
//! | a program (`read`) | `GET` what the one before may |
//! | a user (`user`) | what is the user's own: settings, templates, silences |

use super::{ApiError, State, app_of};
use crate::gateway::accounts::AccountError;
use crate::gateway::clock::now_ms;
use crate::gateway::issuing::IssueError;
use crate::gateway::tokens::{Claims, Scope, TokenError, Tokens};
use crate::input;
use axum::extract::{FromRequestParts, Path};
use axum::http::Method;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use serde_json::{Value as Json, json};
use std::collections::HashMap;
use std::sync::Arc;

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// The gateway's keys, and who may call it.
    Gateway,
    App,
    /// A user; `own`: the token's.
    User {
        own: bool,
    },
}

fn may(scope: &Scope, method: &Method, about: About) -> bool {
    match (scope, about) {
        (Scope::Admin, _) | (Scope::App, About::App | About::User { .. }) => true,
        (Scope::Read, About::App | About::User { .. }) => method == Method::GET,
        (Scope::User, About::User { own }) => own,
        (Scope::App | Scope::Read | Scope::User, _) => false,
    }
}

/// A request about an app, or about all there is, by who may make it.
pub(in crate::gateway) struct AppRequest {
    /// `org#app`.
    pub app: String,
    /// The path's other variables.
    path: HashMap<String, String>,
    started_ms: u64,
    /// By a program or an operator, and not by a user.
    pub by_app: bool,
    /// The program's client id, or `admin`; a user's name.
    pub by: String,
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

impl FromRequestParts<Arc<State>> for AppRequest {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, ApiError> {
        admitted(parts, state, |_, _| About::App).await
    }
}

/// A request about the user in its path.
pub(super) struct UserRequest(pub AppRequest);

impl FromRequestParts<Arc<State>> for UserRequest {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, ApiError> {
        let own = |claims: &Claims, request: &AppRequest| claims.sub == request.variable("user");
        admitted(parts, state, |claims, request| About::User { own: own(claims, request) }).await.map(Self)
    }
}

/// A request of an operator.
pub(super) struct AdminRequest(pub AppRequest);

impl FromRequestParts<Arc<State>> for AdminRequest {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, ApiError> {
        admitted(parts, state, |_, _| About::Gateway).await.map(Self)
    }
}

/// The request, if its token allows it; it is of the app in the path.
async fn admitted(
    parts: &mut Parts,
    state: &State,
    about: impl FnOnce(&Claims, &AppRequest) -> About,
) -> Result<AppRequest, ApiError> {
    let started_ms = now_ms();
    let Path(path) = Path::<HashMap<String, String>>::from_request_parts(parts, state)
        .await
        .map_err(|e| ApiError::bad("IllegalArgumentException", e.to_string()))?;
    for part in path.values() {
        input::word(part, "a part of the path")?;
    }
    let app = app_of(&path)?;
    let claims = bearer(parts, &state.tokens)?;
    if claims.app != app {
        return Err(ApiError::forbidden("this token is of another app"));
    }
    if let Some(login) = claims.login() {
        // In a box: a user's own requests are rare, and it would be room in each call's future.
        if let Some(code) = Box::pin(state.store.login_ended(login, None, started_ms)).await? {
            return Err(ApiError::unauthorized(format!("this login was ended ({}); log in again", code.as_str())));
        }
    } else if !state.clients.stands(&state.store, &app, &claims.sub).await? {
        return Err(ApiError::unauthorized("the client this token was issued to is not there any more"));
    }
    state.limits.admit(&app, parts.uri.path())?;
    let by_app = claims.scope != Scope::User;
    let by = if claims.scope == Scope::Admin { "admin".to_owned() } else { claims.sub.clone() };
    let request = AppRequest { app, path, started_ms, by_app, by };
    let about = about(&claims, &request);
    if may(&claims.scope, &parts.method, about) {
        return Ok(request);
    }
    Err(ApiError::forbidden(match (about, &claims.scope) {
        (About::Gateway, _) => "this is the operator's alone: it takes a token of the client `admin`",
        (_, Scope::Read) => "this token may only read",
        (About::User { .. }, _) => "this token is neither this user's nor an app's",
        (About::App, _) => "this token is not an app's",
    }))
}

fn bearer(parts: &Parts, tokens: &Tokens) -> Result<Arc<Claims>, ApiError> {
    let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = header
        .strip_prefix("Bearer ")
        .ok_or_else(|| ApiError::unauthorized("the header `Authorization: Bearer <token>` is missing"))?;
    Ok(tokens.check(token.trim(), now_ms() / 1000)?)
}

impl From<IssueError> for ApiError {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Token(error) => error.into(),
            IssueError::Account(error @ AccountError::NoDevice) => Self::illegal(error.to_string()),
            IssueError::Account(error) => Self::unavailable(error.to_string()),
        }
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::NoKey => Self::unavailable(error.to_string()),
            TokenError::Expired | TokenError::Invalid(_) => Self::unauthorized(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scope_may_what_the_table_says_and_nothing_else() {
        let (get, put) = (&Method::GET, &Method::PUT);
        let (own, other) = (About::User { own: true }, About::User { own: false });
        let all = [
            (Scope::Admin, [true; 8]),
            (Scope::App, [false, false, true, true, true, true, true, true]),
            (Scope::Read, [false, false, true, false, true, false, true, false]),
            (Scope::User, [false, false, false, false, true, true, false, false]),
        ];
        for (scope, wanted) in all {
            let about = [About::Gateway, About::App, own, other];
            let seen: Vec<bool> = about.into_iter().flat_map(|a| [may(&scope, get, a), may(&scope, put, a)]).collect();
            assert_eq!(seen, wanted, "{scope:?}");
        }
    }
}
