//! The emulated Honor Push: OAuth client credentials, one flat JSON message, numbers as codes.
//! Source: the Honor developer guide of 2023-11 and the clients that follow its message page.

use super::super::account::{Account, SECRET};
use super::World;
use super::catalogue::{Cloud, Phone};
use super::clock::now_ms;
use super::receipt::{Headers, Receipt, Reply, as_json, statuses};
use super::trouble::trouble;
use super::world::{Delivery, Fault, Notice};
use crate::secret::random_hex;
use crate::vendors::Vendor;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Form, Json, Router};
use serde_json::{Value, json};
use std::collections::HashMap;

const ACCESS_LIFE_S: u64 = 3600;
/// How far the `timestamp` header may be from the cloud's clock, in milliseconds.
const SKEW_MS: u64 = 600_000;

/// What the lab has of it.
pub(super) const CLOUD: Cloud = Cloud {
    router,
    new_token,
    receipt,
    account,
    phone: Phone {
        names: ["HONOR", "HONOR", "BVL-AN16"],
        file: "vendor/build.prop",
        properties: "ro.honor.build.display.id=BVL-AN16 9.0.0.175\nro.build.version.magic=MagicOS_9.0.0",
    },
    without_agent: None,
    takes_back: false,
    peer: false,
    http2: false,
    needs: &["code", "access_token"],
};

fn router(world: World) -> Router {
    Router::new().route("/auth/token", post(grant)).route("/api/v1/{app}/sendMessage", post(send)).with_state(world)
}

fn new_token() -> String {
    format!("BAEAAAAA{}", random_hex::<50>())
}

fn account() -> Result<Account, String> {
    let fields = json!({ "client_id": "honor-client", "client_secret": SECRET });
    Ok(Account::new(Vendor::Honor, "104433221", "104433221", fields, SECRET, &json!({ "client_id": "honor-client" })))
}

fn receipt(receipt: &Receipt) -> Option<(Headers, String)> {
    Some(as_json(&statuses(receipt, receipt.kind.pick(40_000_002, 40_000_007, 40_000_004, 40_000_005))))
}

async fn grant(State(world): State<World>, Form(form): Form<HashMap<String, String>>) -> Response {
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let found = world.app_where(Vendor::Honor, |app| {
        app.key("client_id") == field("client_id") && app.secret == field("client_secret")
    });
    match found.filter(|_| field("grant_type") == "client_credentials") {
        Some((id, _)) => {
            let access = random_hex::<24>();
            world.grant(access.clone(), id, now_ms() + ACCESS_LIFE_S * 1000);
            Json(json!({ "access_token": access, "expires_in": ACCESS_LIFE_S, "token_type": "Bearer" })).into_response()
        }
        None => {
            let body = json!({ "error": "unauthorized_client", "error_description": "Invalid client" });
            (StatusCode::UNAUTHORIZED, Json(body)).into_response()
        }
    }
}

async fn send(State(world): State<World>, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let said = |fault| match fault {
        Fault::RateLimit => (StatusCode::TOO_MANY_REQUESTS, error(429, "too many requests")).into_response(),
        Fault::Quota => (StatusCode::SERVICE_UNAVAILABLE, error(503, "flow control")).into_response(),
        Fault::Unknown => error(777, "something new").into_response(),
        _ => error(80_200_003, "access token expired").into_response(),
    };
    if let Some(answer) = trouble(&world, Vendor::Honor, said).await {
        return answer;
    }
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let bearer = header("authorization").strip_prefix("Bearer ").unwrap_or_default();
    if world.granted(bearer).as_deref() != Some(id.as_str()) {
        return (StatusCode::UNAUTHORIZED, error(80_200_001, "authentication failed")).into_response();
    }
    if header("timestamp").parse::<u64>().ok().is_none_or(|at| at.abs_diff(now_ms()) > SKEW_MS) {
        return error(80_100_003, "timestamp is milliseconds since the epoch").into_response();
    }
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return (StatusCode::BAD_REQUEST, error(80_100_003, "message structure")).into_response();
    };
    deliver(&world, &id, &request).into_response()
}

fn deliver(world: &World, id: &str, request: &Value) -> Json<Value> {
    let tokens: Vec<&str> =
        request["token"].as_array().map(|t| t.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
    if tokens.is_empty() || tokens.len() > 1000 {
        return error(80_300_010, "number of tokens");
    }
    let android = &request["android"];
    let shown = &android["notification"];
    let common = &request["notification"];
    // Android's own words go before those for all systems.
    let word = |name: &str| shown[name].as_str().or_else(|| common[name].as_str()).unwrap_or_default();
    let (title, text) = (word("title"), word("body"));
    let data = android["data"].as_str().or_else(|| request["data"].as_str());
    let data_only = shown.is_null() && common.is_null() && data.is_some();
    let complete = !title.is_empty() && !text.is_empty() && shown["clickAction"]["type"].is_u64();
    if !data_only && !complete {
        return error(80_100_003, "title, body and clickAction are mandatory");
    }
    let life = android["ttl"].as_str().and_then(|ttl| ttl.trim_end_matches('s').parse::<u64>().ok());
    if !life.is_some_and(|s| (1..=1_296_000).contains(&s)) {
        return error(80_100_004, "ttl");
    }
    if !["LOW", "NORMAL"].contains(&shown["importance"].as_str().unwrap_or("NORMAL")) {
        return error(80_100_003, "importance");
    }
    let known = world.app(Vendor::Honor, id).unwrap_or_default();
    let reply = known.receipts_url.map(|url| Reply {
        url,
        param: android["biTag"].as_str().unwrap_or_default().to_owned(),
        message: random_hex::<12>(),
        secret: String::new(),
        user: String::new(),
    });
    let payload = data.unwrap_or_default();
    let notice = Notice { notify_id: shown["notifyId"].to_string(), title, body: text, payload, reply };
    let (mut expired, mut failed) = (Vec::new(), Vec::new());
    let count = tokens.len();
    for token in tokens {
        let sent = match data_only {
            true => world.hand_over(Vendor::Honor, id, token, &notice),
            false => world.show(Vendor::Honor, id, token, &notice),
        };
        match sent {
            Delivery::Shown => {}
            Delivery::Dead(_) => expired.push(token),
            Delivery::Off => failed.push(token),
        }
    }
    let code = if expired.len() == count { 80_300_007 } else { 200 };
    let data = json!({
        "sendResult": expired.len() + failed.len() < count, "requestId": random_hex::<12>(), "failTokens": failed, "expireTokens": expired,
    });
    Json(json!({ "code": code, "message": "success", "data": data }))
}

fn error(code: i64, message: &str) -> Json<Value> {
    Json(json!({ "code": code, "message": message }))
}
