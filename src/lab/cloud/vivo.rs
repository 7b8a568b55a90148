//! The emulated vivo push server: an MD5 signature for a token, single sends, stored messages and lists.
//! Source: vivo's server API v2.9.2, in public copies.

use super::super::account::{Account, SECRET};
use super::World;
use super::catalogue::{Cloud, Phone};
use super::clock::now_ms;
use super::receipt::{Headers, Receipt, Reply, as_json};
use super::trouble::trouble;
use super::world::{Delivery, Fault, Notice};
use crate::secret::{hex, random_hex};
use crate::vendors::Vendor;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use md5::{Digest as _, Md5};
use serde_json::{Value, json};

const ACCESS_LIFE_MS: u64 = 86_400_000;
const SKEW_MS: u64 = 600_000;

/// What the lab has of it.
pub(super) const CLOUD: Cloud = Cloud {
    router,
    new_token,
    receipt,
    account,
    phone: Phone {
        names: ["vivo", "iQOO", "V2425A"],
        file: "vendor/build.prop",
        properties: "ro.vivo.os.build.display.id=OriginOS 4",
    },
    without_agent: None,
    takes_back: false,
    peer: false,
    http2: false,
    needs: &["result", "authToken"],
};

fn router(world: World) -> Router {
    Router::new()
        .route("/message/auth", post(auth))
        .route("/message/send", post(single))
        .route("/message/saveListPayload", post(save))
        .route("/message/pushToList", post(list))
        .with_state(world)
}

fn new_token() -> String {
    format!("v2-{}", random_hex::<28>())
}

fn account() -> Result<Account, String> {
    let fields = json!({ "app_secret": SECRET });
    Ok(Account::new(Vendor::Vivo, "10004#25509283", "10004#25509283", fields, SECRET, &json!({})))
}

fn receipt(receipt: &Receipt) -> Option<(Headers, String)> {
    let Receipt { kind, token, reply, .. } = receipt;
    let (ack, sub) = kind.pick(Some(("0", "")), None, Some(("104", "2183")), Some(("102", "20001")))?;
    let said = json!({ "targets": token, "param": reply.param, "ackTime": now_ms().to_string(), "ackType": ack, "subAckType": sub });
    Some(as_json(&json!({ reply.message.as_str(): said })))
}

/// A number, or a text.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

async fn auth(State(world): State<World>, Json(body): Json<Value>) -> Response {
    let (id, key, at) = (word(&body["appId"]), word(&body["appKey"]), body["timestamp"].as_u64().unwrap_or(0));
    let name = format!("{id}#{key}");
    let Some(app) = world.app(Vendor::Vivo, &name) else { return error(10200, "appId or appKey") };
    if at.abs_diff(now_ms()) > SKEW_MS {
        return error(10207, "timestamp");
    }
    if hex(&Md5::digest(format!("{id}{key}{at}{}", app.secret))) != word(&body["sign"]) {
        return error(10206, "sign");
    }
    let token = random_hex::<16>();
    world.grant(token.clone(), name, now_ms() + ACCESS_LIFE_MS);
    Json(json!({ "result": 0, "desc": "success", "authToken": token })).into_response()
}

/// The app and its request, or why not.
async fn asked(world: &World, headers: &HeaderMap, body: &Bytes) -> Result<(String, Value), Response> {
    let said = |fault| match fault {
        Fault::RateLimit => error(10072, "per-second rate exceeded"),
        Fault::Quota => error(10073, "total of the system class used up"),
        Fault::Unknown => error(19_999, "something new"),
        _ => error(10000, "auth failed"),
    };
    if let Some(answer) = trouble(world, Vendor::Vivo, said).await {
        return Err(answer);
    }
    let token = headers.get("authtoken").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let name = world.granted(token).ok_or_else(|| error(10000, "auth failed"))?;
    let body: Value = serde_json::from_slice(body).map_err(|_| error(10101, "JSON"))?;
    if !name.starts_with(&format!("{}#", word(&body["appId"]))) {
        return Err(error(10094, "appId does not match the token"));
    }
    let id = word(&body["requestId"]);
    if id.is_empty() || id.len() > 64 {
        return Err(error(10101, "requestId"));
    }
    Ok((name, body))
}

/// Two for Chinese and everything else beyond Latin.
fn width(text: &str) -> usize {
    text.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum()
}

fn check(message: &Value) -> Result<(), Response> {
    let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
    let (title, content) = (text("title"), text("content"));
    if !(1..=41).contains(&width(&title)) || !(1..=101).contains(&width(&content)) {
        return Err(error(10105, "title or content too long"));
    }
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c.is_ascii_alphabetic());
    if plain(&content) || content.contains("测试") {
        return Err(error(10104, "the text looks like a test"));
    }
    if !message["timeToLive"].as_u64().is_some_and(|s| (60..=86_400).contains(&s)) {
        return Err(error(10106, "timeToLive"));
    }
    let system = ["IM", "ACCOUNT", "TODO", "DEVICE_REMINDER", "ORDER", "SUBSCRIPTION"];
    if let Some(category) = message["category"].as_str()
        && system.contains(&category) != (message["classification"] == 1)
    {
        return Err(error(10097, "category and classification do not agree"));
    }
    Ok(())
}

async fn single(State(world): State<World>, headers: HeaderMap, body: Bytes) -> Response {
    let (app, message) = match asked(&world, &headers, &body).await {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    if let Err(answer) = check(&message) {
        return answer;
    }
    let task = random_hex::<10>();
    let token = word(&message["regId"]);
    if !world.spend_quota(Vendor::Vivo, &app, 1) {
        return error(10073, "total of the system class used up");
    }
    match deliver(&world, &app, &task, &message, &token) {
        Ok(()) => Json(json!({ "result": 0, "desc": "success", "taskId": task })).into_response(),
        Err(status) => {
            let invalid = json!({ "userid": token, "status": status });
            Json(json!({ "result": 10302, "desc": "regId not valid", "taskId": task, "invalidUser": invalid }))
                .into_response()
        }
    }
}

async fn save(State(world): State<World>, headers: HeaderMap, body: Bytes) -> Response {
    let (_, message) = match asked(&world, &headers, &body).await {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    if let Err(answer) = check(&message) {
        return answer;
    }
    let task = random_hex::<10>();
    world.store(task.clone(), message);
    Json(json!({ "result": 0, "desc": "success", "taskId": task })).into_response()
}

async fn list(State(world): State<World>, headers: HeaderMap, body: Bytes) -> Response {
    let (app, request) = match asked(&world, &headers, &body).await {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    let task = word(&request["taskId"]);
    let Some(message) = world.stored(&task) else { return error(10110, "taskId unknown") };
    let ids: Vec<String> = request["regIds"].as_array().map(|ids| ids.iter().map(word).collect()).unwrap_or_default();
    if !(2..=1000).contains(&ids.len()) {
        return error(10303, "regIds: 2 to 1000");
    }
    if !world.spend_quota(Vendor::Vivo, &app, ids.len() as u64) {
        return error(10073, "total of the system class used up");
    }
    let invalid: Vec<Value> = ids
        .iter()
        .filter_map(|token| deliver(&world, &app, &task, &message, token).err().map(|status| (token, status)))
        .map(|(token, status)| json!({ "userid": token, "status": status }))
        .collect();
    Json(json!({ "result": 0, "desc": "success", "taskId": task, "invalidUsers": invalid })).into_response()
}

/// The error is an invalid user's status.
fn deliver(world: &World, app: &str, task: &str, message: &Value, token: &str) -> Result<(), i64> {
    let text = |key: &str| message[key].as_str().unwrap_or_default();
    let reply = message["extra"]["callback"].as_str().map(|url| Reply {
        url: url.to_owned(),
        param: message["extra"]["callback.param"].as_str().unwrap_or_default().to_owned(),
        message: task.to_owned(),
        secret: String::new(),
        user: String::new(),
    });
    let payload = message["clientCustomMap"]["payload"].as_str().unwrap_or_default();
    let notice = Notice {
        notify_id: message["notifyId"].to_string(),
        title: text("title"),
        body: text("content"),
        payload,
        reply,
    };
    match world.show(Vendor::Vivo, app, token, &notice) {
        Delivery::Shown => Ok(()),
        Delivery::Dead(_) => Err(1),
        Delivery::Off => Err(2),
    }
}

fn error(result: i64, desc: &str) -> Response {
    Json(json!({ "result": result, "desc": desc })).into_response()
}
