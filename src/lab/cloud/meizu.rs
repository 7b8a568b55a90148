//! The emulated Meizu push server: an MD5 signature over sorted fields, a form with JSON inside.
//! Source: github.com/MEIZUPUSH/PushAPI, README.

use super::super::account::{Account, PACKAGE, SECRET};
use super::World;
use super::catalogue::{Cloud, Phone};
use super::receipt::{Headers, Receipt, Reply, as_form};
use super::trouble::trouble;
use super::world::{Delivery, Fault, Notice};
use crate::secret::{hex, random_hex};
use crate::vendors::Vendor;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Form, Json, Router};
use md5::{Digest as _, Md5};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const MAX_IDS: usize = 100;

/// What the lab has of it.
pub(super) const CLOUD: Cloud = Cloud {
    router,
    new_token,
    receipt,
    account,
    phone: Phone {
        names: ["Meizu", "meizu", "meizu 18s Pro"],
        file: "vendor/build.prop",
        properties: "ro.flyme.version.id=Flyme 9.2.1.3A",
    },
    without_agent: None,
    takes_back: false,
    peer: false,
    http2: false,
    needs: &["code"],
};

fn router(world: World) -> Router {
    Router::new().route("/garcia/api/server/push/varnished/pushByPushId", post(send)).with_state(world)
}

/// 45 characters.
fn new_token() -> String {
    format!("RA50{}a", random_hex::<20>())
}

fn account() -> Result<Account, String> {
    let fields = json!({ "app_secret": SECRET, "package": PACKAGE });
    Ok(Account::new(Vendor::Meizu, "110440", "110440", fields, SECRET, &json!({})))
}

fn receipt(receipt: &Receipt) -> Option<(Headers, String)> {
    let Receipt { kind, token, reply, .. } = receipt;
    let number = kind.pick(Some(1), Some(2), None, None)?;
    let said = json!({ "param": reply.param, "type": number, "targets": [token] });
    let cb = json!({ format!("{}-{number}", reply.message): said });
    Some(as_form(&[("cb", cb.to_string()), ("access_token", reply.secret.clone())]))
}

async fn send(State(world): State<World>, Form(form): Form<BTreeMap<String, String>>) -> Response {
    let said = |fault| match fault {
        Fault::RateLimit => error("110010", "the app pushes too fast"),
        Fault::Quota => error("110019", "daily count exceeded"),
        Fault::Unknown => error("424242", "something new"),
        _ => error("1006", "sign"),
    };
    if let Some(answer) = trouble(&world, Vendor::Meizu, said).await {
        return answer;
    }
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let id = field("appId");
    let Some(app) = world.app(Vendor::Meizu, id) else { return error("110000", "appId") };
    // A map in the order of its names is what is signed.
    let signed: String = form.iter().filter(|(name, _)| *name != "sign").map(|(k, v)| format!("{k}={v}")).collect();
    if hex(&Md5::digest(format!("{signed}{}", app.secret))) != field("sign") {
        return error("1006", "sign");
    }
    let ids: Vec<&str> = field("pushIds").split(',').filter(|id| !id.is_empty()).collect();
    if ids.is_empty() || ids.len() > MAX_IDS {
        return error("1005", "pushIds: 1 to 100");
    }
    let Ok(message) = serde_json::from_str::<Value>(field("messageJson")) else { return error("1005", "messageJson") };
    let bar = &message["noticeBarInfo"];
    let (title, text) = (bar["title"].as_str().unwrap_or_default(), bar["content"].as_str().unwrap_or_default());
    let within = |text: &str, most: usize| (1..=most).contains(&text.chars().count());
    if !within(title, 32) || !within(text, 100) {
        return error("1005", "title 1 to 32, content 1 to 100");
    }
    let life = message["pushTimeInfo"]["validTime"].as_u64();
    let key = message["advanceInfo"]["notifyKey"].as_str().unwrap_or_default();
    if !life.is_some_and(|hours| (1..=72).contains(&hours)) || key.len() > 8 {
        return error("1005", "validTime 1 to 72, notifyKey up to 8");
    }
    if !world.spend_quota(Vendor::Meizu, id, ids.len() as u64) {
        return error("110019", "daily count exceeded");
    }
    let msg_id = format!("NS{}", random_hex::<8>());
    let extra = &message["extra"];
    let reply = extra["callback"].as_str().map(|url| Reply {
        url: url.to_owned(),
        param: extra["callback.param"].as_str().unwrap_or_default().to_owned(),
        message: msg_id.clone(),
        secret: app.key("callback_token").to_owned(),
        user: String::new(),
    });
    let payload = message["clickTypeInfo"]["parameters"].to_string();
    let notice = Notice { notify_id: key.to_owned(), title, body: text, payload: &payload, reply };
    let mut value: Map<String, Value> = Map::new();
    for token in ids {
        let code = match world.show(Vendor::Meizu, id, token, &notice) {
            Delivery::Shown => continue,
            Delivery::Dead(_) => "110002",
            Delivery::Off => "110010",
        };
        if let Some(list) = value.entry(code).or_insert_with(|| json!([])).as_array_mut() {
            list.push(json!(token));
        }
    }
    Json(json!({ "code": "200", "message": "", "value": value, "redirect": "", "msgId": msg_id })).into_response()
}

fn error(code: &str, message: &str) -> Response {
    Json(json!({ "code": code, "message": message, "value": "", "redirect": "" })).into_response()
}
