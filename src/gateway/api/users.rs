//! Users, their tokens, devices and bindings.

use super::super::clock::now_ms;
use super::super::store::{Bind, BindReply, StoreError};
use super::{ApiError, AppRequest, Body, State, app_of};
use crate::input;
use crate::protocol::{Address, KickCode};
use crate::secret::Secret;
use axum::Json;
use axum::extract::{Path, State as Shared};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Users made by one call, as in the original system.
const MAX_USERS: usize = 60;
/// Seconds an app token lives.
const APP_TOKEN_S: u64 = 86_400;

/// How long the database may take to answer whether it can be written to.
const WRITABLE_WITHIN: Duration = Duration::from_secs(5);

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

#[derive(Deserialize)]
pub(super) struct NewUser {
    username: String,
    password: Secret,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum NewUsers {
    Many(Vec<NewUser>),
    One(NewUser),
}

#[derive(Deserialize)]
pub(super) struct BindingBody {
    device_id: String,
    notifier_name: String,
    device_token: String,
}

pub(super) async fn token(
    Shared(state): Shared<Arc<State>>,
    Path(path): Path<HashMap<String, String>>,
    Body(grant): Body<Grant>,
) -> Result<Json<Value>, ApiError> {
    let app = app_of(&path)?;
    let now_s = now_ms() / 1000;
    let (token, life, user) = match grant {
        Grant::Password { username, password, device_id } => {
            Address::new(&app, &username, device_id.as_deref().unwrap_or("device"))
                .map_err(|e| ApiError::illegal(e.to_string()))?;
            if !state.store.check_password(app.clone(), username.clone(), password).await? {
                return Err(ApiError::unauthorized("the user name or password is wrong"));
            }
            let token = state.tokens.issue_user(&app, &username, device_id.as_deref(), now_s, state.user_token_s);
            (token, state.user_token_s, Some(username))
        }
        Grant::ClientCredentials { client_id, client_secret } => {
            if client_id != "admin" || client_secret != state.admin {
                return Err(ApiError::unauthorized("the client id or secret is wrong"));
            }
            (state.tokens.issue_app(&app, now_s, APP_TOKEN_S), APP_TOKEN_S, None)
        }
    };
    let token = token.map_err(|e| ApiError::illegal(e.to_string()))?;
    Ok(Json(
        json!({ "access_token": token.expose(), "expires_in": life, "user": user.map(|u| json!({ "username": u })) }),
    ))
}

pub(super) async fn create(
    request: AppRequest,
    Shared(state): Shared<Arc<State>>,
    Body(users): Body<NewUsers>,
) -> Result<Json<Value>, ApiError> {
    let users = match users {
        NewUsers::Many(users) => users,
        NewUsers::One(user) => vec![user],
    };
    if users.is_empty() || users.len() > MAX_USERS {
        return Err(ApiError::illegal(format!("1 to {MAX_USERS} users in one call")));
    }
    for user in &users {
        Address::new(&request.app, &user.username, "device").map_err(|e| ApiError::illegal(e.to_string()))?;
        if user.password.is_empty() {
            return Err(ApiError::illegal("a password is empty"));
        }
    }
    let pairs = users.into_iter().map(|user| (user.username, user.password)).collect();
    let added = state.store.add_users(request.app.clone(), pairs, now_ms()).await?;
    let entities = added.into_iter().map(|user| json!({ "username": user, "activated": true })).collect();
    Ok(request.envelope("post", "entities", Value::Array(entities)))
}

pub(super) async fn devices(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let user = known_user(&request, &state).await?;
    let devices = state.store.devices(request.app.clone(), user).await?;
    Ok(request.envelope("get", "entities", json!(devices)))
}

pub(super) async fn bindings(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let user = known_user(&request, &state).await?;
    let bindings = state.store.bindings(request.app.clone(), user, None).await?;
    Ok(request.envelope("get", "entities", json!(bindings)))
}

pub(super) async fn bind(
    request: AppRequest,
    Shared(state): Shared<Arc<State>>,
    Body(body): Body<BindingBody>,
) -> Result<Json<Value>, ApiError> {
    let user = known_user(&request, &state).await?;
    let address = Address::new(&request.app, &user, &body.device_id).map_err(|e| ApiError::illegal(e.to_string()))?;
    input::word(&body.notifier_name, "`notifier_name`")?;
    input::token(&body.device_token)?;
    // The documented rules: an empty token removes that certificate's binding, an empty certificate
    // name all of the device's.
    let bind = match (body.notifier_name, body.device_token) {
        (notifier, _) if notifier.is_empty() => Bind::Remove { notifier: None, logout: false },
        (notifier, token) if token.is_empty() => Bind::Remove { notifier: Some(notifier), logout: false },
        (notifier, token) => Bind::Set { notifier, token },
    };
    if let BindReply::Refused(reason) = state.dispatch.bind_by_api(address, bind).await? {
        return Err(ApiError::illegal(reason));
    }
    let bindings = state.store.bindings(request.app.clone(), user, Some(body.device_id)).await?;
    Ok(request.envelope("put", "entities", json!(bindings)))
}

pub(super) async fn ready(Shared(state): Shared<Arc<State>>) -> Result<String, ApiError> {
    match tokio::time::timeout(WRITABLE_WITHIN, state.store.writable()).await {
        Ok(writable) => writable?,
        Err(_) => return Err(ApiError::from(StoreError::Closed)),
    }
    let clock = state.time.far().map(|far| {
        let (by_s, way) = (far.ahead_ms.unsigned_abs() / 1000, if far.ahead_ms > 0 { "ahead of" } else { "behind" });
        format!("this machine's clock is {by_s} s {way} the database's, which is used\n")
    });
    let broker = "no connection to the broker: devices with a vendor's binding are pushed to, others wait\n";
    let broker = if state.dispatch.has_broker() { "" } else { broker };
    Ok(format!("ready\n{broker}{}", clock.unwrap_or_default()))
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
    let devices = state.dispatch.kick(request.app.clone(), user, device, KickCode::Kicked).await?;
    let data = json!({ "result": !devices.is_empty(), "devices": devices });
    Ok(request.envelope("delete", "data", data))
}

pub(super) async fn known_user(request: &AppRequest, state: &State) -> Result<String, ApiError> {
    let user = request.variable("user");
    if state.store.user_exists(request.app.clone(), user.clone()).await? {
        Ok(user)
    } else {
        Err(ApiError::bad("RequiredPropertyNotFoundException", format!("no user `{user}` in this app")))
    }
}
