//! The emulated OPPO push server: a SHA-256 signature for a token, forms with JSON inside.
//! Source: OPPO's page "call address, common parameters, return codes", in public copies.

use super::super::account::{Account, SECRET};
use super::World;
use super::catalogue::{Cloud, Phone};
use super::clock::now_ms;
use super::receipt::{Headers, Receipt, Reply, as_json};
use super::trouble::trouble;
use super::world::{Delivery, Fault, Notice};
use crate::secret::{hex, random_hex};
use crate::vendors::Vendor;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Form, Json, Router};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::collections::HashMap;

const ACCESS_LIFE_MS: u64 = 86_400_000;
const SKEW_MS: u64 = 600_000;
const MAX_BATCH: usize = 1000;

/// What the lab has of it.
pub(super) const CLOUD: Cloud = Cloud {
    router,
    new_token,
    receipt,
    account,
    phone: Phone {
        names: ["OPPO", "OPPO", "PBEM00"],
        file: "my_manifest/build.prop",
        properties: "ro.build.version.oplusrom=V13.1.0",
    },
    without_agent: None,
    takes_back: false,
    peer: false,
    http2: false,
    needs: &["code", "auth_token"],
};

fn router(world: World) -> Router {
    Router::new()
        .route("/server/v1/auth", post(auth))
        .route("/server/v1/message/notification/unicast", post(unicast))
        .route("/server/v1/message/notification/unicast_batch", post(batch))
        .with_state(world)
}

fn new_token() -> String {
    format!("OPPO_CN_{}", random_hex::<16>())
}

fn account() -> Result<Account, String> {
    let fields = json!({ "master_secret": SECRET });
    Ok(Account::new(Vendor::Oppo, "9f2c7a10b3d84e65", "9f2c7a10b3d84e65", fields, SECRET, &json!({})))
}

fn receipt(receipt: &Receipt) -> Option<(Headers, String)> {
    let Receipt { kind, token, reply, .. } = receipt;
    let event = kind.pick(Some("push_arrive"), None, Some("regid_invalid"), None)?;
    Some(as_json(&json!([{
        "messageId": reply.message, "appId": "1", "taskId": reply.message, "registrationIds": token,
        "eventTime": now_ms().to_string(), "param": reply.param, "eventType": event,
    }])))
}

type Fields = HashMap<String, String>;

fn field<'a>(form: &'a Fields, name: &str) -> &'a str {
    form.get(name).map(String::as_str).unwrap_or_default()
}

async fn auth(State(world): State<World>, Form(form): Form<Fields>) -> Response {
    let key = field(&form, "app_key");
    let Some(app) = world.app(Vendor::Oppo, key) else { return error(14, "Invalid app key") };
    let timestamp = field(&form, "timestamp");
    if timestamp.parse::<u64>().ok().is_none_or(|at| at.abs_diff(now_ms()) > SKEW_MS) {
        return error(17, "Invalid timestamp");
    }
    let expected = hex(digest(&SHA256, format!("{key}{timestamp}{}", app.secret).as_bytes()).as_ref());
    if expected != field(&form, "sign") {
        return error(16, "Invalid sign");
    }
    let token = random_hex::<16>();
    world.grant(token.clone(), key.to_owned(), now_ms() + ACCESS_LIFE_MS);
    good(&json!({ "auth_token": token, "create_time": now_ms() }))
}

/// The app that may send, or why not.
async fn sender(world: &World, headers: &HeaderMap, form: &Fields) -> Result<String, Response> {
    let said = |fault| match fault {
        Fault::RateLimit => error(55, "too frequent"),
        Fault::Quota => error(33, "The number of messages exceeds the daily limit"),
        Fault::Unknown => error(4242, "something new"),
        _ => error(11, "Invalid auth token"),
    };
    if let Some(answer) = trouble(world, Vendor::Oppo, said).await {
        return Err(answer);
    }
    // Both forms are in use.
    let header = headers.get("auth_token").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let token = if header.is_empty() { field(form, "auth_token") } else { header };
    if token.is_empty() {
        return Err(error(29, "Missing auth token"));
    }
    world.granted(token).ok_or_else(|| error(11, "Invalid auth token"))
}

async fn unicast(State(world): State<World>, headers: HeaderMap, Form(form): Form<Fields>) -> Response {
    let app = match sender(&world, &headers, &form).await {
        Ok(app) => app,
        Err(answer) => return answer,
    };
    let Ok(message) = serde_json::from_str::<Value>(field(&form, "message")) else { return error(41, "message") };
    match deliver(&world, &app, &message) {
        Ok(id) => good(&json!({ "messageId": id })),
        Err((code, why)) => error(code, why),
    }
}

async fn batch(State(world): State<World>, headers: HeaderMap, Form(form): Form<Fields>) -> Response {
    let app = match sender(&world, &headers, &form).await {
        Ok(app) => app,
        Err(answer) => return answer,
    };
    let messages: Vec<Value> = serde_json::from_str(field(&form, "messages")).unwrap_or_default();
    if messages.is_empty() || messages.len() > MAX_BATCH {
        return error(41, "messages: 1 to 1000");
    }
    let items: Vec<Value> = messages
        .iter()
        .map(|message| {
            let id = &message["target_value"];
            match deliver(&world, &app, message) {
                Ok(message_id) => json!({ "messageId": message_id, "registrationId": id }),
                Err((code, why)) => json!({ "registrationId": id, "errorCode": code, "errorMessage": why }),
            }
        })
        .collect();
    good(&json!(items))
}

fn deliver(world: &World, app: &str, message: &Value) -> Result<String, (i64, &'static str)> {
    let shown = &message["notification"];
    let (title, text) = (shown["title"].as_str().unwrap_or_default(), shown["content"].as_str().unwrap_or_default());
    let within = |text: &str, most: usize| (1..=most).contains(&text.chars().count());
    if message["target_type"] != 2 || !within(title, 50) || !within(text, 50) {
        return Err((41, "target_type 2; title and content 1 to 50 characters"));
    }
    if shown["notify_level"].is_u64() && shown["category"].as_str().is_none() {
        return Err((67, "notify_level needs a category"));
    }
    let param = shown["call_back_parameter"].as_str().unwrap_or_default();
    if param.len() > 50 {
        return Err((41, "call_back_parameter"));
    }
    let token = message["target_value"].as_str().unwrap_or_default();
    if !world.spend_quota(Vendor::Oppo, app, 1) {
        return Err((33, "The number of messages exceeds the daily limit"));
    }
    let id = random_hex::<12>();
    let reply = shown["call_back_url"].as_str().map(|url| Reply {
        url: url.to_owned(),
        param: param.to_owned(),
        message: id.clone(),
        secret: String::new(),
        user: String::new(),
    });
    let payload = shown["action_parameters"].as_str().unwrap_or_default();
    let notice = Notice { notify_id: shown["notify_id"].to_string(), title, body: text, payload, reply };
    match world.show(Vendor::Oppo, app, token, &notice) {
        Delivery::Shown => Ok(id),
        Delivery::Dead(_) => Err((10000, "Invalid registration_id")),
        Delivery::Off => Err((10001, "Registration id unsubscribed")),
    }
}

fn good(data: &Value) -> Response {
    Json(json!({ "code": 0, "message": "Success", "data": data })).into_response()
}

fn error(code: i64, message: &str) -> Response {
    Json(json!({ "code": code, "message": message, "data": {} })).into_response()
}
