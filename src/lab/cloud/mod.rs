//! Emulated vendor clouds. Each checks what the real one checks and answers with its real codes; none
//! shares code with the gateway's senders, so that each side tests the other.
//!
//! What a phone and a test need stands beside the vendors' own paths:
//!
//! | method and path | does |
//! | --- | --- |
//! | `POST /_lab/apps` `{vendor, id, secret, package, daily_quota}` | registers an app at the vendor |
//! | `POST /_lab/installs` `{vendor, id, device}` | installs it on a device: answers a token |
//! | `GET /_lab/tray?vendor&token&after&wait_ms` | notifications shown on that device |
//! | `POST /_lab/tokens` `{vendor, token, state}` | `active`, `dead`, `off` |
//! | `POST /_lab/faults` `{vendor, fault, times}` | the next calls go wrong |

mod huawei;
mod world;
mod xiaomi;

use crate::vendor::Vendor;
use axum::Json;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum_server::tls_rustls::RustlsConfig;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde::Deserialize;
use serde_json::{Value as Json_, json};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
pub(super) use world::World;
use world::{App, Fault, TokenState};

/// Longest wait of one tray request.
const MAX_WAIT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct NewApp {
    vendor: Vendor,
    id: String,
    secret: String,
    package: String,
    /// Notifications a day.
    #[serde(default = "plenty")]
    daily_quota: u64,
}

#[derive(Deserialize)]
struct NewInstall {
    vendor: Vendor,
    id: String,
    device: String,
}

#[derive(Deserialize)]
struct TrayQuery {
    vendor: Vendor,
    token: String,
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_ms: u64,
}

#[derive(Deserialize)]
struct NewState {
    vendor: Vendor,
    token: String,
    state: TokenState,
}

#[derive(Deserialize)]
struct NewFault {
    vendor: Vendor,
    fault: Fault,
    #[serde(default = "once")]
    times: u32,
}

/// What Xiaomi grants an app with few installs (page 1656).
fn plenty() -> u64 {
    10_000
}

fn once() -> u32 {
    1
}

fn router(world: World) -> Router {
    Router::new()
        .route("/_lab/apps", post(add_app))
        .route("/_lab/installs", post(install))
        .route("/_lab/tray", get(tray))
        .route("/_lab/tokens", post(set_token))
        .route("/_lab/faults", post(set_fault))
        .with_state(world.clone())
        .merge(xiaomi::router(world.clone()))
        .merge(huawei::router(world))
}

async fn add_app(State(world): State<World>, Json(app): Json<NewApp>) -> StatusCode {
    let NewApp { vendor, id, secret, package, daily_quota } = app;
    world.add_app(vendor, id, App { secret, package, daily_quota });
    StatusCode::NO_CONTENT
}

async fn install(State(world): State<World>, Json(new): Json<NewInstall>) -> Result<Json<Json_>, StatusCode> {
    let token = match new.vendor {
        Vendor::Xiaomi => xiaomi::new_token(),
        Vendor::Huawei => huawei::new_token(),
        _ => return Err(StatusCode::NOT_IMPLEMENTED),
    };
    if world.install(new.vendor, &new.id, &token, &new.device) {
        Ok(Json(json!({ "token": token })))
    } else {
        Err(StatusCode::NOT_FOUND)
    }
}

async fn tray(State(world): State<World>, Query(query): Query<TrayQuery>) -> Json<Json_> {
    let wait = Duration::from_millis(query.wait_ms).min(MAX_WAIT);
    Json(json!(world.tray(query.vendor, &query.token, query.after, wait).await))
}

async fn set_token(State(world): State<World>, Json(new): Json<NewState>) -> StatusCode {
    if world.set_state(new.vendor, &new.token, new.state) { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

async fn set_fault(State(world): State<World>, Json(new): Json<NewFault>) -> StatusCode {
    world.set_fault(new.vendor, new.fault, new.times);
    StatusCode::NO_CONTENT
}

/// Serves the clouds over HTTPS until `shutdown`. Writes the certificate to trust to `ca_file`, then
/// one JSON line with the address to standard output.
///
/// # Errors
/// When the address or the file cannot be used.
pub(super) async fn serve(listen: SocketAddr, ca_file: &Path, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).map_err(io::Error::other)?;
    std::fs::write(ca_file, cert.pem())?;
    let tls = RustlsConfig::from_pem(cert.pem().into_bytes(), signing_key.serialize_pem().into_bytes()).await?;
    let listener = std::net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let handle = axum_server::Handle::new();
    let server = axum_server::from_tcp_rustls(listener, tls)?
        .handle(handle.clone())
        .serve(router(World::default()).into_make_service());
    super::show::line(&json!({ "clouds": format!("https://localhost:{}", address.port()), "ca_file": ca_file }))?;
    tokio::select! {
        result = server => result,
        () = shutdown => {
            handle.shutdown();
            Ok(())
        }
    }
}
