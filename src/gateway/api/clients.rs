//! An app's clients: its programs, each with an id and a secret of its own.

use super::who::AdminRequest;
use super::{ApiError, Body, State};
use crate::gateway::clock::now_ms;
use crate::gateway::store::{Client, ClientScope, Store, StoreError};
use crate::gateway::tokens::Scope;
use crate::input;
use crate::secret::{Secret, random_hex};
use axum::Json;
use axum::extract::State as Shared;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::info;

/// How long a client that was there is taken to be: where several gateways run, another one may have removed it.
const FRESH: Duration = Duration::from_secs(2);
/// Clients remembered; beyond them it starts afresh, which costs each a look into the store.
const REMEMBERED: usize = 10_000;

/// Which clients were there a moment ago.
#[derive(Default)]
pub struct Clients(Mutex<HashMap<String, Instant>>);

impl Clients {
    /// Whether the client of a token is there. An operator's token names none, nor did those of before there were clients.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn stands(&self, store: &Store, app: &str, id: &str) -> Result<bool, StoreError> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied();
        if id.is_empty() || seen.is_some_and(|seen| seen.elapsed() < FRESH) {
            return Ok(true);
        }
        let stands = store.is_client(app.to_owned(), id.to_owned()).await?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED {
            all.clear();
        }
        if stands {
            all.insert(id.to_owned(), Instant::now());
        }
        Ok(stands)
    }

    fn gone(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct New {
    name: String,
    #[serde(default)]
    scope: ClientScope,
}

/// What a client with this secret may; `None` where there is none.
///
/// # Errors
/// [`ApiError`].
pub(super) async fn scope(state: &State, app: &str, id: &str, secret: &Secret) -> Result<Option<Scope>, ApiError> {
    let found = state.store.client_scope(app.to_owned(), id.to_owned(), secret.clone()).await?;
    Ok(found.map(|scope| match scope {
        ClientScope::App => Scope::App,
        ClientScope::Read => Scope::Read,
    }))
}

pub(super) async fn add(
    AdminRequest(request): AdminRequest,
    Shared(state): Shared<Arc<State>>,
    Body(New { name, scope }): Body<New>,
) -> Result<Json<Value>, ApiError> {
    input::word(&name, "the name")?;
    let (id, secret) = (format!("app-{}", random_hex::<8>()), Secret::new(random_hex::<16>()));
    let client = Client { client_id: id, name, scope, created_ms: now_ms() };
    if !state.store.add_client(request.app.clone(), client.clone(), secret.clone()).await? {
        return Err(ApiError::forbidden("this app has as many clients as it may; remove one"));
    }
    info!(
        event = "client.added",
        app = request.app,
        client = client.client_id,
        scope = client.scope.as_str(),
        "a program may call the API"
    );
    Ok(request.envelope("post", "data", with_secret(&json!(client), &secret)))
}

/// It is shown here and never again.
fn with_secret(client: &Value, secret: &Secret) -> Value {
    let mut shown = client.clone();
    shown["client_secret"] = json!(secret.expose());
    shown
}

pub(super) async fn list(
    AdminRequest(request): AdminRequest,
    Shared(state): Shared<Arc<State>>,
) -> Result<Json<Value>, ApiError> {
    let clients = state.store.clients(request.app.clone()).await?;
    Ok(request.envelope("get", "entities", json!(clients)))
}

/// Another secret; tokens that were issued for the one before live on, for a day at most.
pub(super) async fn renew(
    AdminRequest(request): AdminRequest,
    Shared(state): Shared<Arc<State>>,
) -> Result<Json<Value>, ApiError> {
    let (id, secret) = (request.variable("client"), Secret::new(random_hex::<16>()));
    if !state.store.renew_client(request.app.clone(), id.clone(), secret.clone()).await? {
        return Err(no_client(&id));
    }
    info!(event = "client.renewed", app = request.app, client = id, "a program has another secret");
    Ok(request.envelope("post", "data", with_secret(&json!({ "client_id": id }), &secret)))
}

/// Its tokens end with it.
pub(super) async fn remove(
    AdminRequest(request): AdminRequest,
    Shared(state): Shared<Arc<State>>,
) -> Result<Json<Value>, ApiError> {
    let id = request.variable("client");
    if !state.store.remove_client(request.app.clone(), id.clone()).await? {
        return Err(no_client(&id));
    }
    state.clients.gone(&id);
    info!(event = "client.removed", app = request.app, client = id, "a program may call the API no more");
    Ok(request.envelope("delete", "data", json!({ "client_id": id })))
}

fn no_client(id: &str) -> ApiError {
    ApiError::not_found(format!("this app has no client `{id}`"))
}
