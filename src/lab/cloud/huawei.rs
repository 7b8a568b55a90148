//! The emulated Push Kit: OAuth client credentials (v1) or a service account's token (v3), JSON messages,
//! codes as texts.
//! Sources: developer.huawei.com, `https-send-api-0001050986197`, `push-scenariozed-api-request-param`;
//! HMS-Core/hms-push-serverdemo-java.

use super::super::account::{Account, SECRET, rsa_key};
use super::World;
use super::catalogue::{Cloud, Phone, WithoutAgent};
use super::clock::now_ms;
use super::receipt::{Headers, Receipt, Reply, as_json, statuses};
use super::trouble::trouble;
use super::world::{App, Delivery, Fault, Notice};
use crate::secret::random_hex;
use crate::vendors::Vendor;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Form, Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::{RSA_PSS_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Seconds an access token lives.
const ACCESS_LIFE_S: u64 = 3600;
const MAX_TOKENS: usize = 1000;
const MAX_BODY: usize = 4096;

/// What the lab has of it.
pub(super) const CLOUD: Cloud = Cloud {
    router,
    new_token,
    receipt,
    account,
    phone: Phone {
        names: ["HUAWEI", "HUAWEI", "LIO-AL00"],
        file: "vendor/build.prop",
        properties: "hw_sc.build.platform.version=4.2.0\nro.build.version.emui=EmotionUI_14.0.0",
    },
    without_agent: Some(WithoutAgent { account: account_next, ext: "em_harmony_push_ext" }),
    takes_back: false,
    peer: false,
    http2: false,
    needs: &["code", "access_token"],
};

fn router(world: World) -> Router {
    Router::new()
        .route("/oauth2/v3/token", post(grant))
        .route("/v1/{client}/messages:send", post(send_v1))
        .route("/v3/{project}/messages:send", post(send_v3))
        .route("/v1/{client}/messages:revoke", post(revoke))
        .with_state(world)
}

/// About 130 characters of `[A-Za-z0-9_-]`.
fn new_token() -> String {
    format!("IQAAAA{}-{}", random_hex::<32>(), random_hex::<29>())
}

fn account() -> Result<Account, String> {
    let fields = json!({ "client_secret": SECRET });
    Ok(Account::new(Vendor::Huawei, "104412345", "104412345", fields, SECRET, &json!({})))
}

/// HarmonyOS NEXT: a service account.
fn account_next() -> Result<Account, String> {
    let keys = json!({ "project_id": "101653523", "key_id": "lab-key", "sub_account": "lab-account" });
    let mut fields = keys.clone();
    fields["private_key"] = json!(rsa_key());
    Ok(Account::new(Vendor::Huawei, "104455667", "104455667", fields, rsa_key(), &keys))
}

fn receipt(receipt: &Receipt) -> Option<(Headers, String)> {
    let number = receipt.kind.pick(Some(0), None, Some(5), Some(6))?;
    let (mut headers, body) = as_json(&statuses(receipt, number));
    let (timestamp, nonce) = (now_ms().to_string(), random_hex::<8>());
    let key = hmac::Key::new(hmac::HMAC_SHA256, receipt.reply.secret.as_bytes());
    let value = STANDARD.encode(hmac::sign(&key, format!("{timestamp}{nonce}{}", receipt.reply.user).as_bytes()));
    headers.push(("x-huawei-callback-id", format!("timestamp={timestamp}; nonce={nonce}; value={value}")));
    Some((headers, body))
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

fn said(fault: Fault) -> Response {
    match fault {
        Fault::RateLimit => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Fault::Quota => answer("80100017", "The number of topic messages exceeds the limit").into_response(),
        Fault::Unknown => answer("89999999", "something new").into_response(),
        _ => answer("80200003", "OAuth token expired.").into_response(),
    }
}

fn bearer(headers: &HeaderMap) -> &str {
    let value = headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.strip_prefix("Bearer ").unwrap_or_default()
}

async fn send_v1(State(world): State<World>, Path(client): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    if let Some(answer) = trouble(&world, Vendor::Huawei, said).await {
        return answer;
    }
    if world.granted(bearer(&headers)) != Some(client.clone()) {
        return (StatusCode::UNAUTHORIZED, answer("80200001", "OAuth authentication error.")).into_response();
    }
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return (StatusCode::BAD_REQUEST, answer("80100003", "Incorrect message structure.")).into_response();
    };
    let android = &request["message"]["android"];
    let (shown, common) = (&android["notification"], &request["message"]["notification"]);
    let data = android["data"].as_str().or_else(|| request["message"]["data"].as_str());
    let data_only = shown.is_null() && common.is_null() && data.is_some();
    let click = shown["click_action"]["type"].as_i64();
    if !data_only && !click.is_some_and(|kind| (1..=4).contains(&kind)) {
        return answer("80100003", "click_action.type is mandatory").into_response();
    }
    let life = android["ttl"].as_str().map_or(Some(86_400), |ttl| ttl.trim_end_matches('s').parse::<u64>().ok());
    let ask = Ask {
        tokens_at: "/message",
        title: if shown["title"].is_null() { &common["title"] } else { &shown["title"] },
        body: if shown["body"].is_null() { &common["body"] } else { &shown["body"] },
        life,
        notify_id: &shown["notify_id"],
        tag: &android["bi_tag"],
        payload: data.unwrap_or_default().to_owned(),
        data_only,
        v3: false,
    };
    deliver(&world, &client, &request, &ask).into_response()
}

async fn send_v3(State(world): State<World>, Path(project): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    if let Some(answer) = trouble(&world, Vendor::Huawei, said).await {
        return answer;
    }
    let Some((id, app)) = world.app_where(Vendor::Huawei, |app| app.key("project_id") == project) else {
        return answer("80300002", "The app does not have permission").into_response();
    };
    if let Err(code) = check_account(&app, bearer(&headers)) {
        return (StatusCode::UNAUTHORIZED, answer(code, "JWT authentication error.")).into_response();
    }
    if headers.get("push-type").is_none_or(|kind| kind != "0") {
        return answer("80100001", "push-type").into_response();
    }
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return (StatusCode::BAD_REQUEST, answer("80100003", "Incorrect message structure.")).into_response();
    };
    let shown = &request["payload"]["notification"];
    if shown["category"].as_str().is_none() || !shown["clickAction"]["actionType"].is_u64() {
        return answer("80100003", "category and clickAction are mandatory").into_response();
    }
    let ask = Ask {
        tokens_at: "/target",
        title: &shown["title"],
        body: &shown["body"],
        life: request["pushOptions"]["ttl"].as_u64(),
        notify_id: &shown["notifyId"],
        tag: &request["pushOptions"]["biTag"],
        payload: shown["clickAction"]["data"].to_string(),
        data_only: false,
        v3: true,
    };
    deliver(&world, &id, &request, &ask).into_response()
}

/// Takes notifications back, by their id and their tokens; with a service account's token only
/// (developer.huawei.com, `push-msg-revoke`).
async fn revoke(State(world): State<World>, Path(client): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let known = world.app(Vendor::Huawei, &client);
    let Some(app) = known else { return answer("80300002", "The app does not have permission").into_response() };
    if let Err(code) = check_account(&app, bearer(&headers)) {
        return (StatusCode::UNAUTHORIZED, answer(code, "JWT authentication error.")).into_response();
    }
    if headers.get("push-type").is_none_or(|kind| kind != "0") {
        return answer("80100003", "Illegal payload, The header does not contain valid push-type").into_response();
    }
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let tokens: Vec<&str> =
        request["token"].as_array().map(|t| t.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
    if !request["notifyId"].is_u64() || tokens.is_empty() || tokens.len() > MAX_TOKENS {
        return answer("80100001", "notifyId and 1 to 1000 tokens are mandatory").into_response();
    }
    for token in tokens {
        world.recall(Vendor::Huawei, token, &request["notifyId"].to_string());
    }
    answer("80000000", "Success").into_response()
}

/// A service account's JWT: PS256, its key id, its account, not older than an hour.
fn check_account(app: &App, token: &str) -> Result<(), &'static str> {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts.as_slice() else { return Err("80200001") };
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    let json = |part: &str| decode(part).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let (Some(head), Some(said), Some(signature)) = (json(header), json(claims), decode(signature)) else {
        return Err("80200001");
    };
    let key = PrivatePkcs8KeyDer::from_pem_slice(app.secret.as_bytes()).map_err(|_| "80200001")?;
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).map_err(|_| "80200001")?;
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key.public())
        .verify(format!("{header}.{claims}").as_bytes(), &signature)
        .map_err(|_| "80200001")?;
    if head["alg"] != "PS256" || head["kid"] != app.key("key_id") || said["iss"] != app.key("sub_account") {
        return Err("80200001");
    }
    let (now, until) = (now_ms() / 1000, said["exp"].as_u64().unwrap_or(0));
    if until <= now || until > now + ACCESS_LIFE_S + 60 { Err("80200005") } else { Ok(()) }
}

/// One message of either version.
struct Ask<'a> {
    /// Where the tokens stand.
    tokens_at: &'a str,
    title: &'a Value,
    body: &'a Value,
    /// Seconds; `None` is no number.
    life: Option<u64>,
    notify_id: &'a Value,
    tag: &'a Value,
    payload: String,
    /// It is for the app, and not shown.
    data_only: bool,
    v3: bool,
}

fn deliver(world: &World, app: &str, request: &Value, ask: &Ask<'_>) -> Json<Value> {
    let target = request.pointer(ask.tokens_at).unwrap_or(&Value::Null);
    let tokens: Vec<&str> =
        target["token"].as_array().map(|t| t.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
    if tokens.is_empty() || tokens.len() > MAX_TOKENS {
        return answer("80300010", "The number of tokens in the message body exceeds the default value.");
    }
    let mut without_tokens = request.clone();
    if let Some(map) = without_tokens.pointer_mut(ask.tokens_at).and_then(Value::as_object_mut) {
        map.remove("token");
    }
    if without_tokens.to_string().len() > MAX_BODY {
        return answer("80300008", "The message body size exceeds the default value (4096 bytes).");
    }
    let (title, text) = (ask.title.as_str().unwrap_or_default(), ask.body.as_str().unwrap_or_default());
    if !ask.data_only && (title.is_empty() || text.is_empty()) {
        return answer("80100003", "title and body are mandatory in a notification message");
    }
    if !ask.life.is_some_and(|s| (1..=1_296_000).contains(&s)) {
        return answer("80100004", "Incorrect TTL.");
    }
    let known = world.app(Vendor::Huawei, app).unwrap_or_default();
    let reply = known.receipts_url.as_ref().map(|url| Reply {
        url: url.clone(),
        param: ask.tag.as_str().unwrap_or_default().to_owned(),
        message: random_hex::<12>(),
        secret: known.key("callback_secret").to_owned(),
        user: known.key("callback_user").to_owned(),
    });
    let notice = Notice { notify_id: ask.notify_id.to_string(), title, body: text, payload: &ask.payload, reply };
    let count = tokens.len();
    // What is only to be validated is shown to nobody.
    let is_dry = request["validate_only"] == true;
    let send = |token: &str| match is_dry {
        true => world.try_out(Vendor::Huawei, app, token),
        false if ask.data_only => world.hand_over(Vendor::Huawei, app, token, &notice),
        false => world.show(Vendor::Huawei, app, token, &notice),
    };
    let dead = |token: &&str| matches!(send(token), Delivery::Dead(_));
    let bad: Vec<&str> = tokens.into_iter().filter(dead).collect();
    let partial = if ask.v3 {
        json!({ "success": count - bad.len(), "failure": bad.len(), "illegalTokens": { "tokenFormatError": bad } })
    } else {
        json!({ "success": count - bad.len(), "failure": bad.len(), "illegal_tokens": bad })
    };
    match bad.len() {
        0 => answer("80000000", "Success"),
        all if all == count && ask.v3 => answer("80300007", &partial.to_string()),
        all if all == count => answer("80300007", "All the tokens are invalid."),
        _ => answer("80100000", &partial.to_string()),
    }
}

fn answer(code: &str, msg: &str) -> Json<Value> {
    Json(json!({ "code": code, "msg": msg, "requestId": random_hex::<12>() }))
}
