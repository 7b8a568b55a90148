//! The emulated APNs: HTTP/2 only, provider tokens checked by signature and age, one device a call.
//! Sources: developer.apple.com, "Establishing a token-based connection to APNs" and "Handling
//! notification responses from APNs".

use super::super::account::{Account, PACKAGE};
use super::World;
use super::catalogue::{Cloud, Phone};
use super::clock::{now_ms, seconds};
use super::trouble::trouble;
use super::world::{App, Delivery, Fault, Notice};
use crate::secret::random_hex;
use crate::vendors::Vendor;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

/// A provider token older than this is refused, in seconds.
const MAX_AGE_S: u64 = 3600;
const MAX_PAYLOAD: usize = 4096;

/// What the lab has of it.
pub(super) const CLOUD: Cloud = Cloud {
    router,
    new_token,
    receipt: |_| None,
    account,
    phone: Phone {
        names: ["Apple", "Apple", "iPad14,1"],
        file: "vendor/build.prop",
        properties: "ro.build.version.release=17",
    },
    without_agent: None,
    takes_back: false,
    peer: true,
    http2: true,
    needs: &[],
};

fn router(world: World) -> Router {
    Router::new().route("/3/device/{token}", post(send)).with_state(world)
}

fn new_token() -> String {
    random_hex::<32>()
}

/// # Errors
/// When no key can be made.
fn account() -> Result<Account, String> {
    let key = rcgen::KeyPair::generate().map_err(|e| e.to_string())?.serialize_pem();
    let ids = json!({ "key_id": "ABC123DEFG", "team_id": "DEF123GHIJ" });
    let fields = json!({ "key": key, "key_id": "ABC123DEFG", "team_id": "DEF123GHIJ", "bundle_id": PACKAGE });
    Ok(Account::new(Vendor::Apns, "acme-apns", PACKAGE, fields, &key, &ids))
}

/// Every answer bears the sender's own id, or one that is made here, also a refusal.
async fn send(state: State<World>, version: Version, path: Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let id = headers.get("apns-id").cloned();
    let mut response = answer(state, version, path, headers, body).await;
    let id = id.or_else(|| uuid(&random_hex::<16>()).parse().ok());
    response.headers_mut().extend(id.map(|id| (HeaderName::from_static("apns-id"), id)));
    response
}

async fn answer(
    State(world): State<World>,
    version: Version,
    Path(token): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let said = |fault| match fault {
        Fault::RateLimit => refused(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"),
        Fault::Quota => refused(StatusCode::TOO_MANY_REQUESTS, "TooManyProviderTokenUpdates"),
        Fault::Unknown => refused(StatusCode::BAD_REQUEST, "SomethingNew"),
        _ => refused(StatusCode::FORBIDDEN, "ExpiredProviderToken"),
    };
    if let Some(answer) = trouble(&world, Vendor::Apns, said).await {
        return answer;
    }
    if version != Version::HTTP_2 {
        return StatusCode::HTTP_VERSION_NOT_SUPPORTED.into_response();
    }
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let topic = header("apns-topic");
    if topic.is_empty() {
        return refused(StatusCode::BAD_REQUEST, "MissingTopic");
    }
    let Some(app) = world.app(Vendor::Apns, topic) else { return refused(StatusCode::BAD_REQUEST, "TopicDisallowed") };
    let Some(bearer) = header("authorization").strip_prefix("bearer ") else {
        return refused(StatusCode::FORBIDDEN, "MissingProviderToken");
    };
    if let Err(reason) = check_provider(&app, bearer) {
        return refused(StatusCode::FORBIDDEN, reason);
    }
    if header("apns-collapse-id").len() > 64 {
        return refused(StatusCode::BAD_REQUEST, "BadCollapseId");
    }
    if !["10", "5", "1", ""].contains(&header("apns-priority")) {
        return refused(StatusCode::BAD_REQUEST, "BadPriority");
    }
    // Without it the notification is not stored.
    if !header("apns-expiration").is_empty() && header("apns-expiration").parse::<u64>().is_err() {
        return refused(StatusCode::BAD_REQUEST, "BadExpirationDate");
    }
    if body.len() > MAX_PAYLOAD {
        return refused(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLarge");
    }
    let payload: Value = serde_json::from_slice(&body).unwrap_or_default();
    let alert = &payload["aps"]["alert"];
    if !payload["aps"].is_object() {
        return refused(StatusCode::BAD_REQUEST, "PayloadEmpty");
    }
    match world.app_of(Vendor::Apns, &token) {
        // Apple knows its own: what was never given out is no token, whatever it looks like.
        None => return refused(StatusCode::BAD_REQUEST, "BadDeviceToken"),
        Some(own) if own != topic => return refused(StatusCode::BAD_REQUEST, "DeviceTokenNotForTopic"),
        Some(_) => {}
    }
    let own = payload.to_string();
    let notice = Notice {
        notify_id: header("apns-collapse-id").to_owned(),
        title: alert["title"].as_str().unwrap_or_default(),
        body: alert["body"].as_str().unwrap_or_default(),
        payload: &own,
        reply: None,
    };
    match world.show(Vendor::Apns, topic, &token, &notice) {
        // A device with notifications off takes them silently.
        Delivery::Shown | Delivery::Off => StatusCode::OK.into_response(),
        Delivery::Dead(since_ms) => {
            let body = json!({ "reason": "Unregistered", "timestamp": since_ms });
            (StatusCode::GONE, Json(body)).into_response()
        }
    }
}

/// ES256, the key's id, the team, and an age of at most an hour.
fn check_provider(app: &App, token: &str) -> Result<(), &'static str> {
    const INVALID: &str = "InvalidProviderToken";
    let (message, signature) = token.rsplit_once('.').ok_or(INVALID)?;
    let (header, claims) = message.split_once('.').ok_or(INVALID)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| INVALID);
    let json = |part: &str| serde_json::from_slice::<Value>(&decode(part)?).map_err(|_| INVALID);
    let (header, claims) = (json(header)?, json(claims)?);
    let pem = PrivatePkcs8KeyDer::from_pem_slice(app.secret.as_bytes()).map_err(|_| INVALID)?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pem.secret_pkcs8_der(), &SystemRandom::new())
        .map_err(|_| INVALID)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref())
        .verify(message.as_bytes(), &decode(signature)?)
        .map_err(|_| INVALID)?;
    if header["alg"] != "ES256" || header["kid"] != app.key("key_id") || claims["iss"] != app.key("team_id") {
        return Err(INVALID);
    }
    let (now, made) = (now_ms() / 1000, seconds(&claims["iat"]));
    if made > now + 60 || now.saturating_sub(made) > MAX_AGE_S { Err("ExpiredProviderToken") } else { Ok(()) }
}

/// 32 hexadecimal digits, in groups.
fn uuid(digits: &str) -> String {
    [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| digits.get(group).unwrap_or_default()).join("-")
}

fn refused(status: StatusCode, reason: &str) -> Response {
    (status, Json(json!({ "reason": reason }))).into_response()
}
