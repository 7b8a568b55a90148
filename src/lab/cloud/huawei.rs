//! The emulated HMS Push Kit: OAuth client credentials, then JSON messages, codes as texts.
//! Sources: developer.huawei.com, `https-send-api-0001050986197`; HMS-Core/hms-push-serverdemo-java.

use super::World;
use super::world::{Delivery, Fault, Notice};
use crate::secret::random_hex;
use crate::vendor::Vendor;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Form, Json, Router};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds an access token lives.
const ACCESS_LIFE_S: u64 = 3600;
const MAX_TOKENS: usize = 1000;
const MAX_BODY: usize = 4096;

pub(super) fn router(world: World) -> Router {
    Router::new()
        .route("/oauth2/v3/token", post(grant))
        .route("/v1/{client}/messages:send", post(send))
        .with_state(world)
}

/// About 130 characters of `[A-Za-z0-9_-]`.
pub(super) fn new_token() -> String {
    format!("IQAAAA{}-{}", random_hex::<32>(), random_hex::<29>())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

async fn grant(State(world): State<World>, Form(form): Form<HashMap<String, String>>) -> Response {
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let refuse = |description: &str| {
        let body = json!({ "error": 1101, "sub_error": 20001, "error_description": description });
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    };
    if field("grant_type") != "client_credentials" {
        return refuse("unsupported grant_type");
    }
    let id = field("client_id");
    if world.app(Vendor::Huawei, id).is_none_or(|app| app.secret != field("client_secret")) {
        return refuse("invalid client_id or client_secret");
    }
    let access = format!("CF/{}", random_hex::<24>());
    world.grant(access.clone(), id.to_owned(), now_ms() + ACCESS_LIFE_S * 1000);
    // The real service escapes slashes, so a client that does not read JSON properly fails here too.
    let escaped = access.replace('/', "\\/");
    let body = format!("{{\"access_token\":\"{escaped}\",\"expires_in\":{ACCESS_LIFE_S},\"token_type\":\"Bearer\"}}");
    ([("content-type", "application/json")], body).into_response()
}

async fn send(State(world): State<World>, Path(client): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    match world.take_fault(Vendor::Huawei) {
        Some(Fault::ServerError) => {
            return (StatusCode::INTERNAL_SERVER_ERROR, answer("81000001", "System inner error.")).into_response();
        }
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::BadJson) => return "<html>".into_response(),
        Some(Fault::RateLimit) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Some(Fault::Quota) => {
            return answer("80100017", "The number of topic messages exceeds the limit").into_response();
        }
        Some(Fault::AuthExpired) => return answer("80200003", "OAuth token expired.").into_response(),
        None => {}
    }
    let bearer = headers.get("authorization").and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
    match bearer.and_then(|access| world.granted(access)) {
        Some((_, until)) if until <= now_ms() => return answer("80200003", "OAuth token expired.").into_response(),
        Some((owner, _)) if owner == client => {}
        _ => return (StatusCode::UNAUTHORIZED, answer("80200001", "OAuth authentication error.")).into_response(),
    }
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return (StatusCode::BAD_REQUEST, answer("80100003", "Incorrect message structure.")).into_response();
    };
    deliver(&world, &client, &request).into_response()
}

fn deliver(world: &World, client: &str, request: &Value) -> Json<Value> {
    let message = &request["message"];
    let tokens: Vec<&str> =
        message["token"].as_array().map(|t| t.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
    if tokens.is_empty() || tokens.len() > MAX_TOKENS {
        return answer("80300010", "The number of tokens in the message body exceeds the default value.");
    }
    let mut without_tokens = request.clone();
    if let Some(map) = without_tokens["message"].as_object_mut() {
        map.remove("token");
    }
    if without_tokens.to_string().len() > MAX_BODY {
        return answer("80300008", "The message body size exceeds the default value (4096 bytes).");
    }
    let android = &message["android"];
    let shown = &android["notification"];
    let (title, text) = (shown["title"].as_str().unwrap_or_default(), shown["body"].as_str().unwrap_or_default());
    if title.is_empty() || text.is_empty() {
        return answer("80100003", "title and body are mandatory in a notification message");
    }
    let click = shown["click_action"]["type"].as_i64();
    if !click.is_some_and(|kind| (1..=4).contains(&kind)) {
        return answer("80100003", "click_action.type is mandatory");
    }
    let seconds = android["ttl"].as_str().map_or(Some(86_400), |ttl| ttl.trim_end_matches('s').parse::<u64>().ok());
    if !seconds.is_some_and(|s| (1..=1_296_000).contains(&s)) {
        return answer("80100004", "Incorrect TTL.");
    }
    let notice = Notice {
        notify_id: shown["notify_id"].as_i64().unwrap_or(-1),
        title,
        body: text,
        payload: message["data"].as_str().unwrap_or_default(),
    };
    let count = tokens.len();
    let bad: Vec<&str> = tokens
        .into_iter()
        .filter(|token| world.show(Vendor::Huawei, client, token, &notice) == Delivery::Dead)
        .collect();
    if bad.is_empty() {
        answer("80000000", "Success")
    } else if bad.len() == count {
        answer("80300007", "All the tokens are invalid.")
    } else {
        let partial = json!({ "success": count - bad.len(), "failure": bad.len(), "illegal_tokens": bad });
        answer("80100000", &partial.to_string())
    }
}

fn answer(code: &str, msg: &str) -> Json<Value> {
    Json(json!({ "code": code, "msg": msg, "requestId": random_hex::<12>() }))
}
