//! The emulated MiPush server: secret in a header, form in, JSON with `code` out.
//! Source: dev.mi.com/xiaomihyperos/documentation, pages 1559, 1560 and 1656.

use super::super::account::{Account, PACKAGE, SECRET};
use super::World;
use super::catalogue::{Cloud, Phone};
use super::clock::now_ms;
use super::receipt::{Headers, Kind, Receipt, Reply, as_form};
use super::trouble::trouble;
use super::world::{Delivery, Fault, Notice};
use crate::secret::random_hex;
use crate::vendors::Vendor;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Form, Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::collections::HashMap;

const MAX_IDS: usize = 1000;

/// What the lab has of it.
pub(super) const CLOUD: Cloud = Cloud {
    router,
    new_token,
    receipt,
    account,
    phone: Phone {
        names: ["Xiaomi", "Redmi", "Redmi K30 Pro"],
        file: "vendor/build.prop",
        properties: "ro.miui.ui.version.name=V12\nro.miui.ui.version.code=10",
    },
    without_agent: None,
    takes_back: true,
    peer: false,
    http2: false,
    needs: &["code"],
};

fn router(world: World) -> Router {
    Router::new()
        .route("/v3/message/regid", post(send))
        .route("/v2/message/regid", post(send))
        .route("/v2/message/revoke", post(revoke))
        .with_state(world)
}

/// 64 characters of standard base64, as seen on devices.
fn new_token() -> String {
    let text = random_hex::<24>();
    STANDARD.encode(text.as_bytes())
}

fn account() -> Result<Account, String> {
    let fields = json!({ "app_secret": SECRET, "package": PACKAGE });
    Ok(Account::new(Vendor::Xiaomi, "2882303761517000001", "2882303761517000001", fields, SECRET, &json!({})))
}

fn receipt(receipt: &Receipt) -> Option<(Headers, String)> {
    let Receipt { kind, token, reply, .. } = receipt;
    let said = json!({
        "param": reply.param, "type": kind.pick(1, 2, 16, 32), "targets": token, "timestamp": now_ms(),
        "barStatus": if *kind == Kind::Off { "Disable" } else { "Enable" },
    });
    Some(as_form(&[("data", json!({ reply.message.as_str(): said }).to_string())]))
}

async fn send(State(world): State<World>, headers: HeaderMap, Form(form): Form<HashMap<String, String>>) -> Response {
    let said = |fault| match fault {
        Fault::RateLimit => error(200_002, "qps limit exceeded"),
        Fault::Quota => error(200_001, "channel quota exceeded"),
        Fault::Unknown => error(987_654, "something new"),
        _ => error(21301, "auth failed"),
    };
    if let Some(answer) = trouble(&world, Vendor::Xiaomi, said).await {
        return answer;
    }
    let secret = headers.get("authorization").and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("key="));
    let Some((id, app)) = secret.and_then(|secret| world.app_where(Vendor::Xiaomi, |app| app.secret == secret)) else {
        return error(21301, "auth failed");
    };
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    if field("registration_id").is_empty() {
        return error(10016, "missing parameter registration_id");
    }
    if field("restricted_package_name") != app.package {
        return error(22022, "package name does not match the app");
    }
    let (title, description) = (field("title"), field("description"));
    if title.is_empty() || description.is_empty() {
        return error(10016, "missing parameter title or description");
    }
    if title.chars().count() >= 50 || description.chars().count() >= 128 {
        return error(65009, "title or description too long");
    }
    let number = |name: &str| form.get(name).map_or(Some(0), |v| v.parse::<i64>().ok());
    let (Some(notify_id), Some(life), Some(_)) = (number("notify_id"), number("time_to_live"), number("notify_type"))
    else {
        return error(10017, "a number is not a number");
    };
    if !(0..=2_147_483_647).contains(&notify_id) || life < 0 || !["0", "1"].contains(&field("pass_through")) {
        return error(10017, "a parameter is out of range");
    }
    if own_pairs(&form) > 10 {
        return error(65014, "too many extra pairs");
    }
    let ids: Vec<&str> = field("registration_id").split(',').collect();
    if ids.len() > MAX_IDS {
        return error(10012, "more than 1000 registration ids");
    }
    if !world.spend_quota(Vendor::Xiaomi, &id, ids.len() as u64) {
        return error(200_001, "channel quota exceeded");
    }
    let message = format!("slm{}", random_hex::<8>());
    let reply = form.get("extra.callback").map(|url| Reply {
        url: url.clone(),
        param: field("extra.callback.param").to_owned(),
        message: message.clone(),
        secret: String::new(),
        user: String::new(),
    });
    if reply.as_ref().is_some_and(|reply| reply.param.len() > 64) {
        return error(65038, "callback parameter too long");
    }
    let notice =
        Notice { notify_id: notify_id.to_string(), title, body: description, payload: field("payload"), reply };
    let send = |token: &str| match field("pass_through") {
        "1" => world.hand_over(Vendor::Xiaomi, &id, token, &notice),
        _ => world.show(Vendor::Xiaomi, &id, token, &notice),
    };
    let dead = |token: &&str| matches!(send(token), Delivery::Dead(_));
    let bad: Vec<&str> = ids.into_iter().filter(dead).collect();
    world.store(
        message.clone(),
        json!({ "app": id, "tokens": field("registration_id"), "notify_id": field("notify_id") }),
    );
    let mut data = json!({ "id": message });
    if !bad.is_empty() {
        data["bad_regids"] = json!(bad.join(","));
    }
    Json(json!({ "result": "ok", "code": 0, "description": "success", "info": "Received push messages", "trace_id": random_hex::<8>(), "data": data }))
        .into_response()
}

async fn revoke(State(world): State<World>, headers: HeaderMap, Form(form): Form<HashMap<String, String>>) -> Response {
    let secret = headers.get("authorization").and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("key="));
    let Some((id, app)) = secret.and_then(|secret| world.app_where(Vendor::Xiaomi, |app| app.secret == secret)) else {
        return error(21301, "auth failed");
    };
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    if field("restricted_package_name") != app.package {
        return error(22022, "package name does not match the app");
    }
    let stored = world.stored(field("msg_id")).filter(|stored| stored["app"] == id);
    let Some(stored) = stored else { return error(10017, "no such message") };
    for token in stored["tokens"].as_str().unwrap_or_default().split(',') {
        world.recall(Vendor::Xiaomi, token, stored["notify_id"].as_str().unwrap_or_default());
    }
    Json(json!({ "result": "ok", "code": 0, "data": {} })).into_response()
}

/// The pairs that are the app's own; the vendor's have names of their own.
fn own_pairs(form: &HashMap<String, String>) -> usize {
    let vendors = [
        "notify_effect",
        "intent_uri",
        "web_uri",
        "channel_id",
        "callback",
        "notify_foreground",
        "jobkey",
        "sound_uri",
    ];
    let own = |key: &&String| {
        key.strip_prefix("extra.").is_some_and(|key| !vendors.contains(&key.split('.').next().unwrap_or_default()))
    };
    form.keys().filter(own).count()
}

fn error(code: i64, reason: &str) -> Response {
    Json(json!({ "result": "error", "code": code, "reason": reason, "description": reason, "trace_id": random_hex::<8>() })).into_response()
}
