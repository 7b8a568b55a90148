//! The emulated FCM HTTP v1: a service account's JWT for an access token, one message a call, Google's errors.
//! Sources: firebase.google.com/docs/reference/fcm/rest/v1 and developers.google.com/identity/protocols/oauth2/service-account.

use super::super::account::{Account, rsa_key};
use super::World;
use super::catalogue::{Cloud, Phone};
use super::clock::{now_ms, seconds};
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
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Seconds an access token lives, and the most a JWT for it may.
const LIFE_S: u64 = 3600;
const MAX_MESSAGE: usize = 4096;
const MAX_TTL_S: f64 = 2_419_200.0;
const EMAIL: &str = "push@acme-demo.iam.gserviceaccount.com";

/// What the lab has of it.
pub(super) const CLOUD: Cloud = Cloud {
    router,
    new_token,
    receipt: |_| None,
    account,
    phone: Phone {
        names: ["Google", "google", "Pixel 8"],
        file: "vendor/build.prop",
        properties: "ro.com.google.gmsversion=14_202406",
    },
    without_agent: None,
    takes_back: false,
    peer: false,
    http2: true,
    needs: &["access_token"],
};

fn router(world: World) -> Router {
    Router::new()
        .route("/token", post(grant))
        .route("/v1/projects/{project}/messages:send", post(send))
        .with_state(world)
}

fn new_token() -> String {
    format!("{}:APA91b{}", &random_hex::<11>(), random_hex::<67>())
}

fn account() -> Result<Account, String> {
    let fields = json!({
        "type": "service_account", "project_id": "acme-demo", "private_key_id": "0a1b2c3d", "private_key": rsa_key(),
        "client_email": EMAIL, "token_uri": "https://oauth2.googleapis.com/token",
    });
    let keys = json!({ "client_email": EMAIL, "private_key_id": "0a1b2c3d" });
    Ok(Account::new(Vendor::Fcm, "338587283001", "acme-demo", fields, rsa_key(), &keys))
}

async fn grant(State(world): State<World>, Form(form): Form<HashMap<String, String>>) -> Response {
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let refused = |why: &str| {
        let body = json!({ "error": "invalid_grant", "error_description": why });
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    };
    if field("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
        return refused("unsupported grant type");
    }
    match account_of(&world, field("assertion")) {
        Ok(project) => {
            let access = format!("ya29.{}", random_hex::<40>());
            world.grant(access.clone(), project, now_ms() + LIFE_S * 1000);
            Json(json!({ "access_token": access, "expires_in": LIFE_S, "token_type": "Bearer" })).into_response()
        }
        Err(why) => refused(why),
    }
}

/// The project whose service account signed this, RS256 by the key it names if it names one, for an hour at most.
fn account_of(world: &World, assertion: &str) -> Result<String, &'static str> {
    const INVALID: &str = "Invalid JWT";
    let (message, signature) = assertion.rsplit_once('.').ok_or(INVALID)?;
    let (header, claims) = message.split_once('.').ok_or(INVALID)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| INVALID);
    let json = |part: &str| serde_json::from_slice::<Value>(&decode(part)?).map_err(|_| INVALID);
    let (header, claims) = (json(header)?, json(claims)?);
    let issuer = claims["iss"].as_str().unwrap_or_default();
    let (project, app): (String, App) = world
        .app_where(Vendor::Fcm, |app| app.key("client_email") == issuer)
        .ok_or("Invalid grant: account not found")?;
    let pem = PrivatePkcs8KeyDer::from_pem_slice(app.secret.as_bytes()).map_err(|_| INVALID)?;
    let key = RsaKeyPair::from_pkcs8(pem.secret_pkcs8_der()).map_err(|_| INVALID)?;
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public())
        .verify(message.as_bytes(), &decode(signature)?)
        .map_err(|_| "Invalid JWT Signature.")?;
    // Google's own library for Node names no key.
    let names_key = header["kid"].is_null() || header["kid"] == app.key("private_key_id");
    if header["alg"] != "RS256" || !names_key {
        return Err("Invalid JWT Signature.");
    }
    let (now, made, ends) = (now_ms() / 1000, seconds(&claims["iat"]), seconds(&claims["exp"]));
    if made > now + 60 || ends < now || ends.saturating_sub(made) > LIFE_S {
        return Err("Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.");
    }
    if claims["aud"] != "https://oauth2.googleapis.com/token" {
        return Err("Invalid JWT: Failed audience check.");
    }
    let scopes = claims["scope"].as_str().unwrap_or_default();
    if !scopes.split(' ').any(|scope| scope.ends_with("/firebase.messaging") || scope.ends_with("/cloud-platform")) {
        return Err("Invalid OAuth scope or ID token audience provided.");
    }
    Ok(project)
}

async fn send(State(world): State<World>, Path(project): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let said = |fault| match fault {
        Fault::RateLimit | Fault::Quota => {
            let mut answer = failed(429, "RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED"), "Quota exceeded");
            answer.headers_mut().insert("retry-after", 1.into());
            answer
        }
        Fault::Unknown => failed(400, "SOMETHING_NEW", None, "something new"),
        _ => failed(401, "UNAUTHENTICATED", None, "Request had invalid authentication credentials."),
    };
    if let Some(answer) = trouble(&world, Vendor::Fcm, said).await {
        return answer;
    }
    let bearer = headers.get("authorization").and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
    match bearer.and_then(|bearer| world.granted(bearer)) {
        None => return failed(401, "UNAUTHENTICATED", None, "Request had invalid authentication credentials."),
        Some(own) if own != project => return failed(403, "PERMISSION_DENIED", None, "Permission denied on resource"),
        Some(_) => {}
    }
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = &request["message"];
    let violation = |field: &str, why: &str| {
        let detail = json!({ "@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{ "field": field, "description": why }] });
        with_details(400, "INVALID_ARGUMENT", why, &json!([detail]))
    };
    let Some(token) = message["token"].as_str() else {
        return violation("message", "Recipient of the message is not set.");
    };
    if message.to_string().len() > MAX_MESSAGE {
        return failed(400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), "Android message is too big");
    }
    if message["data"].as_object().is_some_and(|data| data.values().any(|value| !value.is_string())) {
        return violation("message.data", "Invalid value, expected a string");
    }
    let android = &message["android"];
    let ttl = android["ttl"].as_str().map_or(Some(MAX_TTL_S), |ttl| ttl.strip_suffix('s')?.parse().ok());
    if !ttl.is_some_and(|ttl| (0.0..=MAX_TTL_S).contains(&ttl)) {
        return violation("message.android.ttl", "Illegal duration format");
    }
    if !["high", "normal", "HIGH", "NORMAL"].contains(&android["priority"].as_str().unwrap_or("normal")) {
        return violation("message.android.priority", "Invalid value");
    }
    if !token.contains(':') {
        let why = "The registration token is not a valid FCM registration token";
        return failed(400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), why);
    }
    let data = message["data"].to_string();
    let (common, own) = (&message["notification"], &android["notification"]);
    // Android's own words go before those for all systems.
    let word = |name: &str| own[name].as_str().or_else(|| common[name].as_str()).unwrap_or_default();
    let data_only = common.is_null() && own.is_null();
    let notice = Notice {
        notify_id: own["tag"].as_str().unwrap_or_default().to_owned(),
        title: word("title"),
        body: word("body"),
        payload: &data,
        reply: None,
    };
    let sent = match request["validate_only"] == true {
        true => world.try_out(Vendor::Fcm, &project, token),
        false if data_only => world.hand_over(Vendor::Fcm, &project, token, &notice),
        false => world.show(Vendor::Fcm, &project, token, &notice),
    };
    match sent {
        // A device with notifications off takes them silently.
        Delivery::Shown | Delivery::Off => {
            Json(json!({ "name": format!("projects/{project}/messages/0:{}", random_hex::<8>()) })).into_response()
        }
        Delivery::Dead(_) => failed(404, "NOT_FOUND", Some("UNREGISTERED"), "Requested entity was not found."),
    }
}

fn failed(code: u16, status: &str, own: Option<&str>, message: &str) -> Response {
    let details: Vec<Value> = own
        .map(|own| json!({ "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": own }))
        .into_iter()
        .collect();
    with_details(code, status, message, &json!(details))
}

fn with_details(code: u16, status: &str, message: &str, details: &Value) -> Response {
    let body = json!({ "error": { "code": code, "message": message, "status": status, "details": details } });
    (StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST), Json(body)).into_response()
}
