//! What is shown of messages whose words stand elsewhere than our own senders put them, or that have none.

use super::World;
use super::receipt::Sender;
use super::world::{App, Shown, TokenState};
use crate::http::Http;
use crate::vendors::Vendor;
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use std::time::Duration;
use tower_service::Service as _;

const TOKEN: &str = "abc:token";

/// What became of a body that was sent for an app, to a phone with notifications switched off or not.
async fn sent(vendor: Vendor, path: &str, body: &Value, off: bool) -> (Value, Option<Shown>) {
    let http = Http::new(None, Duration::from_secs(1)).expect("a client");
    let world = World::new(Sender::start(http));
    let id = "104412345";
    world.add_app(vendor, id.to_owned(), App { secret: "s".to_owned(), daily_quota: 1, ..App::default() });
    assert!(world.install(vendor, id, TOKEN, "phone"));
    if off {
        world.set_state(vendor, TOKEN, TokenState::Off);
    }
    world.grant("access".to_owned(), id.to_owned(), u64::MAX);
    let now = super::clock::now_ms();
    let request = Request::post(path)
        .header("authorization", "Bearer access")
        .header("timestamp", now)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .expect("a request");
    let answer = (super::of(vendor).router)(world.clone()).call(request).await.expect("infallible");
    let answer = axum::body::to_bytes(answer.into_body(), 65_536).await.expect("read");
    let tray = world.tray(vendor, TOKEN, 0, Duration::ZERO).await;
    (serde_json::from_slice(&answer).expect("JSON"), tray.first().cloned())
}

async fn by(vendor: Vendor, message: Value, off: bool) -> (Value, Option<Shown>) {
    match vendor {
        Vendor::Fcm => sent(vendor, "/v1/projects/104412345/messages:send", &json!({ "message": message }), off).await,
        Vendor::Huawei => sent(vendor, "/v1/104412345/messages:send", &json!({ "message": message }), off).await,
        _ => sent(vendor, "/api/v1/104412345/sendMessage", &message, off).await,
    }
}

/// A message of that vendor with this in it.
fn message(vendor: Vendor, parts: Value) -> Value {
    let mut message = json!({ "token": [TOKEN], "android": { "ttl": "60s" } });
    if vendor == Vendor::Fcm {
        message["token"] = json!(TOKEN);
    }
    for (path, part) in parts.as_object().expect("parts") {
        let (within, name) = path.rsplit_once('/').expect("a path");
        message.pointer_mut(within).expect("there")[name] = part.clone();
    }
    message
}

const ALL: [Vendor; 3] = [Vendor::Fcm, Vendor::Huawei, Vendor::Honor];

#[tokio::test]
async fn androids_own_words_go_before_those_for_all_systems() {
    for vendor in ALL {
        let own = json!({ "title": "own", "click_action": { "type": 3 }, "clickAction": { "type": 0 } });
        let parts = json!({ "/notification": { "title": "common", "body": "common" }, "/android/notification": own });
        let (answer, shown) = by(vendor, message(vendor, parts), false).await;
        let shown = shown.unwrap_or_else(|| panic!("{vendor}: {answer}"));
        assert_eq!((shown.title.as_str(), shown.body.as_str(), shown.data_only), ("own", "common", false), "{vendor}");
    }
}

#[tokio::test]
async fn data_without_a_notification_is_handed_to_the_app_and_shown_to_nobody() {
    for vendor in ALL {
        let data = if vendor == Vendor::Fcm { json!({ "kind": "call" }) } else { json!("{\"kind\":\"call\"}") };
        for off in [false, true] {
            let (answer, shown) = by(vendor, message(vendor, json!({ "/data": data })), off).await;
            let shown = shown.unwrap_or_else(|| panic!("{vendor}: {answer}"));
            assert_eq!((shown.payload.as_str(), shown.data_only), ("{\"kind\":\"call\"}", true), "{vendor}");
        }
        if vendor != Vendor::Fcm {
            let (answer, shown) = by(vendor, message(vendor, json!({})), false).await;
            assert_eq!(shown, None, "{vendor}: {answer}");
        }
    }
}
