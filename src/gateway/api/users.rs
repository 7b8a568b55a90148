//! Users, their tokens, devices and bindings.

use super::super::clock::now_ms;
use super::super::devices::{End, Holder};
use super::super::store::{Bind, BindReply, DeviceRow, StoreError, UserChange};
use super::who::AppRequest;
use super::{ApiError, Body, State};
use crate::input;
use crate::protocol::{Address, KickCode};
use crate::secret::Secret;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Users made by one call, as in the original system.
const MAX_USERS: usize = 60;
/// Users listed by one call unless it says otherwise, and at most: as in the original system.
const LISTED: u32 = 10;
const MOST_LISTED: u32 = 100;
/// How long the database may take to answer whether it can be written to.
const WRITABLE_WITHIN: Duration = Duration::from_secs(5);

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
    }
    let (names, passwords): (Vec<_>, Vec<_>) = users.into_iter().map(|user| (user.username, user.password)).unzip();
    let pairs = names.into_iter().zip(state.passwords.hash(passwords).await?).collect();
    let added = state.store.add_users(request.app.clone(), pairs, now_ms()).await?;
    let entities = added.into_iter().map(|user| json!({ "username": user, "activated": true })).collect();
    Ok(request.envelope("post", "entities", Value::Array(entities)))
}

#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    limit: Option<u32>,
    /// The last user of the page before.
    #[serde(default)]
    cursor: String,
}

pub(super) async fn list(
    request: AppRequest,
    Shared(state): Shared<Arc<State>>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(Page { limit, cursor }) = page.map_err(|e| ApiError::illegal(e.body_text()))?;
    input::word(&cursor, "`cursor`")?;
    let limit = limit.unwrap_or(LISTED);
    if !(1..=MOST_LISTED).contains(&limit) {
        return Err(ApiError::illegal(format!("limit is {limit}; 1 to {MOST_LISTED}")));
    }
    let users = state.store.users(request.app.clone(), cursor, limit).await?;
    let full = users.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next = users.last().filter(|_| full).map(|(user, ..)| user.clone());
    let shown = |(user, active, created_ms): &(String, bool, i64)| json!({ "username": user, "activated": active, "created": created_ms });
    let Json(mut answer) = request.envelope("get", "entities", users.iter().map(shown).collect());
    if let Some(next) = next {
        answer["cursor"] = json!(next);
    }
    Ok(Json(answer))
}

#[derive(Deserialize)]
pub(super) struct NewPassword {
    newpassword: Secret,
}

/// Another password ends every login of the user.
pub(super) async fn set_password(
    request: AppRequest,
    Shared(state): Shared<Arc<State>>,
    Body(new): Body<NewPassword>,
) -> Result<Json<Value>, ApiError> {
    let user = known_user(&request, &state).await?;
    change_password(&request, &state, user, new.newpassword).await?;
    Ok(request.envelope("put", "data", json!({ "result": true })))
}

pub(super) async fn change_password(
    request: &AppRequest,
    state: &State,
    user: String,
    password: Secret,
) -> Result<(), ApiError> {
    let hash = state.passwords.hash(vec![password]).await?.remove(0);
    change(request, state, user, UserChange::Password(hash)).await
}

async fn change(request: &AppRequest, state: &State, user: String, change: UserChange) -> Result<(), ApiError> {
    match state.dispatch.change_user(request.app.clone(), user.clone(), change).await? {
        true => Ok(()),
        false => Err(no_user(&user)),
    }
}

/// The user and all that is the user's goes.
pub(super) async fn remove(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let user = request.variable("user");
    change(&request, &state, user.clone(), UserChange::Deleted).await?;
    Ok(request.envelope("delete", "entities", json!([{ "username": user }])))
}

pub(super) async fn deactivate(
    request: AppRequest,
    Shared(state): Shared<Arc<State>>,
) -> Result<Json<Value>, ApiError> {
    let user = request.variable("user");
    change(&request, &state, user.clone(), UserChange::Deactivated).await?;
    Ok(request.envelope("post", "entities", json!([{ "username": user, "activated": false }])))
}

pub(super) async fn activate(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let user = request.variable("user");
    if !state.store.activate(request.app.clone(), user.clone()).await? {
        return Err(no_user(&user));
    }
    Ok(request.envelope("post", "entities", json!([{ "username": user, "activated": true }])))
}

/// A device that is gone for good: its logins end, and it counts no more.
pub(super) async fn remove_device(
    request: AppRequest,
    Shared(state): Shared<Arc<State>>,
) -> Result<Json<Value>, ApiError> {
    let (user, device) = (known_user(&request, &state).await?, request.variable("device"));
    let known = state.store.devices(request.app.clone(), user.clone()).await?;
    if !known.iter().any(|row| row.device_id == device) {
        return Err(ApiError::not_found(format!("user `{user}` has no device `{device}`")));
    }
    state.dispatch.kick(request.app.clone(), user.clone(), Some(device.clone()), KickCode::Kicked).await?;
    state.store.forget_device(request.app.clone(), user, device.clone()).await?;
    Ok(request.envelope("delete", "entities", json!([{ "device_id": device }])))
}

pub(super) async fn devices(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let user = known_user(&request, &state).await?;
    let devices = state.store.devices(request.app.clone(), user.clone()).await?;
    let shown = devices.into_iter().map(|row| with_link(&request.app, &user, row, &state)).collect();
    Ok(request.envelope("get", "entities", shown))
}

pub(super) async fn device(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let (user, device) = (known_user(&request, &state).await?, request.variable("device"));
    let devices = state.store.devices(request.app.clone(), user.clone()).await?;
    let row = devices.into_iter().find(|row| row.device_id == device);
    let row = row.ok_or_else(|| ApiError::not_found(format!("user `{user}` has no device `{device}`")))?;
    Ok(request.envelope("get", "entities", json!([with_link(&request.app, &user, row, &state)])))
}

/// What the store knows of a device, and what is known of its connection.
#[derive(Serialize)]
struct WithLink {
    #[serde(flatten)]
    row: DeviceRow,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<Holder>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_end: Option<End>,
}

fn with_link(app: &str, user: &str, row: DeviceRow, state: &State) -> Value {
    let (connection, last_end) = match Address::new(app, user, &row.device_id) {
        Ok(address) => state.dispatch.link(&address, row.gateway.clone()),
        Err(_) => (Holder::Elsewhere { gateway: None }, None),
    };
    let connection = Some(connection).filter(|holder| row.online || matches!(holder, Holder::Here(_)));
    json!(WithLink { row, connection, last_end })
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
    if state.drain.on_asked() {
        return Err(ApiError::unavailable("stopping: what comes is still served; send elsewhere").saying("stopping"));
    }
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

pub(super) async fn known_user(request: &AppRequest, state: &State) -> Result<String, ApiError> {
    let user = request.variable("user");
    if state.store.user_exists(request.app.clone(), user.clone()).await? { Ok(user) } else { Err(no_user(&user)) }
}

fn no_user(user: &str) -> ApiError {
    ApiError::bad("RequiredPropertyNotFoundException", format!("no user `{user}` in this app"))
}
