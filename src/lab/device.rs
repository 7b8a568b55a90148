//! An emulated phone: a property tree, the maker's push service with a notification tray, and an app
//! that hands its token to the agent over the control socket, as a real one does.

use super::cloud;
use crate::http::Http;
use crate::vendors::Vendor;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the agent's socket may take to appear.
const AGENT_START: Duration = Duration::from_secs(20);
/// One tray request waits this long in the cloud.
const POLL_MS: u64 = 20_000;

/// What to emulate.
#[derive(Debug, Clone)]
pub(super) struct Phone {
    pub vendor: Vendor,
    pub name: String,
    /// The app at the vendor.
    pub app_id: String,
    pub clouds: String,
    pub ca_file: PathBuf,
    /// The agent's control socket.
    pub socket: PathBuf,
}

/// Lays a property tree out as this maker's phones have it.
///
/// # Errors
/// The disk's error.
pub(super) fn write_tree(vendor: Vendor, root: &Path) -> std::io::Result<()> {
    let cloud::Phone { names: [manufacturer, brand, model], file, properties } = &cloud::of(vendor).phone;
    let write = |path: &str, text: String| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(root))?;
        std::fs::write(path, text)
    };
    write(
        "system/build.prop",
        "ro.build.version.release=12\nro.product.system.brand=qti\nro.product.system.manufacturer=QUALCOMM\n"
            .to_owned(),
    )?;
    write(
        "product/etc/build.prop",
        format!(
            "ro.product.product.manufacturer={manufacturer}\nro.product.product.brand={brand}\nro.product.product.model={model}\n"
        ),
    )?;
    write(file, format!("{properties}\n"))
}

/// Gets a token from the phone's cloud, hands it to the agent, then prints each notification that
/// appears in the tray, one JSON line each. Ends only with an error.
///
/// # Errors
/// A sentence about the cloud or the agent.
pub(super) async fn live(phone: &Phone) -> Result<(), String> {
    let http = Http::new(Some(&phone.ca_file), Duration::from_millis(POLL_MS + 10_000))?;
    let body = json!({ "vendor": phone.vendor, "id": phone.app_id, "device": phone.name });
    let token = call(&http, "POST", &format!("{}/_lab/installs", phone.clouds), Some(body)).await?;
    let token = token["token"].as_str().ok_or("the cloud gave no token")?.to_owned();
    hand_over(&phone.socket, phone.vendor, &token).await?;
    say(&json!({ "event": "token", "vendor": phone.vendor, "token": crate::secret::fingerprint(&token) }))?;
    let query = serde_urlencoded::to_string([("vendor", phone.vendor.as_str()), ("token", &token)])
        .map_err(|e| e.to_string())?;
    let mut after = 0;
    loop {
        let url = format!("{}/_lab/tray?{query}&after={after}&wait_ms={POLL_MS}", phone.clouds);
        let shown = call(&http, "GET", &url, None).await?;
        for notification in shown.as_array().into_iter().flatten() {
            after = notification["number"].as_u64().unwrap_or(after);
            say(&json!({ "event": "notification", "notification": notification }))?;
        }
    }
}

fn say(value: &Value) -> Result<(), String> {
    super::show::line(value).map_err(|e| e.to_string())
}

/// A JSON call to a cloud or a gateway.
///
/// # Errors
/// A sentence with the status or the fault.
pub(super) async fn call(http: &Http, method: &str, url: &str, body: Option<Value>) -> Result<Value, String> {
    call_as(http, method, url, None, body).await
}

/// The same with a bearer token.
///
/// # Errors
/// As [`call`].
pub(super) async fn call_as(
    http: &Http,
    method: &str,
    url: &str,
    token: Option<&str>,
    body: Option<Value>,
) -> Result<Value, String> {
    let bearer = token.map(|token| format!("Bearer {token}")).unwrap_or_default();
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    let body = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
    let (status, answer) = http.call(method, url, &headers, body).await.map_err(|e| format!("{url}: {e}"))?;
    if !status.is_success() {
        return Err(format!("{url}: {status} {}", String::from_utf8_lossy(&answer)));
    }
    if answer.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&answer).map_err(|e| format!("{url}: {e}")) }
}

/// What an app with the vendor's SDK does: a PUT on the agent's socket. Waits for the socket, because
/// apps and services start in any order.
async fn hand_over(socket: &Path, vendor: Vendor, token: &str) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + AGENT_START;
    while !socket.exists() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let body = json!({ "token": token });
    super::socket::call(socket, "PUT", &format!("/v1/tokens/{vendor}"), Some(&body)).await.map(drop)
}
