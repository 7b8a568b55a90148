//! Logins: a password for a token, which logins there are, and their end.

use super::super::clock::now_ms;
use super::super::password::Compared;
use super::asked::Origin;
use super::users::known_user;
use super::who::AppRequest;
use super::{ApiError, Body, State, app_of, clients};
use crate::gateway::tokens::Scope;
use crate::protocol::{Address, KickCode};
use crate::secret::Secret;
use axum::Json;
use axum::extract::{Path, State as Shared};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use tracing::info;

/// Seconds an app token lives.
const APP_TOKEN_S: u64 = 86_400;
/// Under which name wrong app secrets are counted: no user has it.
const NOBODY: &str = "";

#[derive(Deserialize)]
#[serde(tag = "grant_type", rename_all = "snake_case")]
pub(super) enum Grant {
    Password {
        username: String,
        password: Secret,
        /// Binds the token to one device.
        #[serde(default)]
        device_id: Option<String>,
    },
    ClientCredentials {
        client_id: String,
        client_secret: Secret,
    },
}

pub(super) async fn token(
    Shared(state): Shared<Arc<State>>,
    Path(path): Path<HashMap<String, String>>,
    from: Origin,
    Body(grant): Body<Grant>,
) -> Result<Json<Value>, ApiError> {
    let app = app_of(&path)?;
    let (token, life, user) = match grant {
        Grant::Password { username, password, device_id } => {
            Address::new(&app, &username, device_id.as_deref().unwrap_or("device"))
                .map_err(|e| ApiError::illegal(e.to_string()))?;
            check_password(&state, &app, &username, password, &from).await?;
            let issue = state.store.issue(app.clone(), username.clone(), device_id.clone(), false).await?;
            let issue = issue.ok_or_else(|| ApiError::forbidden("this user may not log in"))?;
            let token = state.enrolment.issuer.issue(&app, &username, device_id.as_deref(), issue).await?;
            (token, state.user_token_s, Some(username))
        }
        Grant::ClientCredentials { client_id, client_secret } => {
            begin(&state, &app, NOBODY, &from)?;
            let (scope, client) = match client_id.as_str() {
                "admin" => ((client_secret == state.admin).then_some(Scope::Admin), ""),
                id => (clients::scope(&state, &app, id, &client_secret).await?, id),
            };
            let scope = scope.ok_or_else(|| ApiError::unauthorized("the client id or secret is wrong"))?;
            state.attempts.right(&app, NOBODY, from.0);
            (state.tokens.issue_app(&app, (scope, client), now_ms() / 1000, APP_TOKEN_S)?, APP_TOKEN_S, None)
        }
    };
    Ok(Json(
        json!({ "access_token": token.expose(), "expires_in": life, "user": user.map(|u| json!({ "username": u })) }),
    ))
}

fn begin(state: &State, app: &str, user: &str, from: &Origin) -> Result<(), ApiError> {
    match state.attempts.begin(app, user, from.0, now_ms()) {
        0 => Ok(()),
        wait_ms => Err(ApiError::held_back(wait_ms, "too many wrong passwords; the next is looked at later")),
    }
}

async fn check_password(state: &State, app: &str, user: &str, password: Secret, from: &Origin) -> Result<(), ApiError> {
    begin(state, app, user, from)?;
    let stored = state.store.password(app.to_owned(), user.to_owned()).await?;
    let compared = state.passwords.compare(stored.clone(), password).await;
    match &compared {
        Ok(Compared::Wrong) => {
            info!(
                event = "login.wrong_password",
                app,
                user,
                from = from.0.map(|ip| ip.to_string()),
                "a wrong password"
            );
            return Err(ApiError::unauthorized("the user name or password is wrong"));
        }
        Ok(Compared::Renew(new)) => {
            let old = stored.unwrap_or_default();
            state.store.rehashed(app.to_owned(), user.to_owned(), old, new.clone()).await?;
        }
        Ok(Compared::Right) | Err(_) => {}
    }
    state.attempts.right(app, user, from.0);
    compared?;
    Ok(())
}

pub(super) async fn list(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let user = known_user(&request, &state).await?;
    let logins = state.store.logins(request.app.clone(), user).await?;
    Ok(request.envelope("get", "entities", json!(logins)))
}

/// Ends one login, on the devices that have entered with it.
pub(super) async fn end(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let (user, login) = (known_user(&request, &state).await?, request.variable("login"));
    let devices = state.store.devices_of_login(request.app.clone(), user.clone(), login).await?;
    if devices.is_empty() {
        return Err(ApiError::not_found("no device has entered with a login of this id"));
    }
    for device in &devices {
        state.dispatch.kick(request.app.clone(), user.clone(), Some(device.clone()), KickCode::Kicked).await?;
    }
    Ok(request.envelope("delete", "data", json!({ "result": true, "devices": devices })))
}

/// Ends a user's logins on all devices.
pub(super) async fn kick_all(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    kick(request, &state, None).await
}

/// Ends a user's login on one device.
pub(super) async fn kick_one(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let device = request.variable("device");
    kick(request, &state, Some(device)).await
}

async fn kick(request: AppRequest, state: &State, device: Option<String>) -> Result<Json<Value>, ApiError> {
    let user = known_user(&request, state).await?;
    if let Some(device) = &device {
        Address::new(&request.app, &user, device).map_err(|e| ApiError::illegal(e.to_string()))?;
    }
    let devices = state.dispatch.kick(request.app.clone(), user, device, KickCode::Kicked).await?;
    let data = json!({ "result": !devices.is_empty(), "devices": devices });
    Ok(request.envelope("delete", "data", data))
}
