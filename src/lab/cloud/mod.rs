//! Emulated vendor clouds. Each checks what the real one checks and answers with its real codes; none
//! shares code with the gateway's senders, so that each side tests the other.
//!
//! What a phone and a test need stands beside the vendors' own paths:
//!
//! | method and path | does |
//! | --- | --- |
//! | `POST /_lab/apps` `{vendor, id, secret, package, daily_quota, keys, receipts_url}` | registers an app at the vendor |
//! | `POST /_lab/installs` `{vendor, id, device}` | installs it on a device: answers a token; an older one is dead |
//! | `GET /_lab/tray?vendor&token&after&wait_ms` | what that device was shown, and (`data_only`) what its app was handed instead |
//! | `POST /_lab/clicks` `{vendor, token, number}` | the user taps one |
//! | `POST /_lab/tokens` `{vendor, token, state}` | `active`, `dead`, `off` |
//! | `POST /_lab/faults` `{vendor, fault, times}` | what befalls so many of the next calls ([`Fault`]); 0 ends it |
//! | `POST /_lab/connections` `{blow, http1, streams}` | what befalls those that are open (`goaway`, `silence`, `reset`), and how later ones are served: HTTP/1.1 alone, so many calls at once on one |
//! | `GET /_lab/counts?vendor` | calls of that vendor, and all its connections: how many were made (`connections`), and how many ended as `idle_close` has it (`idle_closed`) |

mod catalogue;
mod clock;
mod odd;
mod receipt;
mod server;
#[cfg(test)]
mod tests;
mod trouble;
mod world;

use crate::http::Http;
use crate::vendors::Vendor;
use axum::Json;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use catalogue::Cloud;
pub(super) use catalogue::{Phone, WithoutAgent};
use serde::Deserialize;
use serde_json::{Value as Json_, json};
use server::{Blow, Counts, Manner};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;
use world::{App, TokenState};
pub(super) use world::{Fault, World};

macro_rules! clouds {
    ($($file:ident $name:ident)*) => {
        $(mod $file;)*

        /// What the lab has of this vendor.
        pub(super) const fn of(vendor: Vendor) -> &'static Cloud {
            match vendor {
                $(Vendor::$name => &$file::CLOUD,)*
            }
        }
    };
}

crate::vendors::each_vendor!(clouds);

/// An app's account at this vendor.
///
/// # Errors
/// When no key can be made.
pub(super) fn account(vendor: Vendor) -> Result<super::account::Account, String> {
    (of(vendor).account)()
}

/// Longest wait of one tray request.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// A server that takes receipts answers within this.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct NewApp {
    vendor: Vendor,
    id: String,
    #[serde(flatten)]
    app: App,
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

#[derive(Deserialize)]
struct NewManner {
    blow: Option<Blow>,
    #[serde(default)]
    http1: bool,
    #[serde(default)]
    streams: u32,
}

#[derive(Deserialize)]
struct Click {
    vendor: Vendor,
    token: String,
    number: u64,
}

#[derive(Deserialize)]
struct OfVendor {
    vendor: Vendor,
}

fn once() -> u32 {
    1
}

fn router(world: World, counted: Arc<Counts>) -> Router {
    let of_world = world.clone();
    let counts = async move |Query(of): Query<OfVendor>| {
        let (made, ended) = (&counted.made, &counted.idle_closed);
        Json(json!({
            "calls": of_world.calls(of.vendor), "connections": made.load(Ordering::Relaxed),
            "idle_closed": ended.load(Ordering::Relaxed),
        }))
    };
    let own = Router::new()
        .route("/_lab/apps", post(add_app))
        .route("/_lab/installs", post(install))
        .route("/_lab/tray", get(tray))
        .route("/_lab/clicks", post(click))
        .route("/_lab/tokens", post(set_token))
        .route("/_lab/faults", post(set_fault))
        .route("/_lab/connections", post(connections_now))
        .route("/_lab/counts", get(counts))
        .with_state(world.clone());
    let cloud = |vendor: Vendor| {
        let over = from_fn_with_state((world.clone(), vendor), trouble::on_its_way);
        (of(vendor).router)(world.clone()).layer(over)
    };
    Vendor::ORDER.into_iter().fold(own, |all, vendor| all.merge(cloud(vendor)))
}

async fn add_app(State(world): State<World>, Json(new): Json<NewApp>) -> StatusCode {
    world.add_app(new.vendor, new.id, new.app);
    StatusCode::NO_CONTENT
}

async fn install(State(world): State<World>, Json(new): Json<NewInstall>) -> Result<Json<Json_>, StatusCode> {
    let token = (of(new.vendor).new_token)();
    if world.install(new.vendor, &new.id, &token, &new.device) {
        Ok(Json(json!({ "token": token })))
    } else {
        Err(StatusCode::NOT_FOUND)
    }
}

async fn click(State(world): State<World>, Json(Click { vendor, token, number }): Json<Click>) -> StatusCode {
    if world.click(vendor, &token, number) { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

async fn connections_now(State(world): State<World>, Json(new): Json<NewManner>) -> StatusCode {
    world.manner.send_modify(|manner| {
        let blows = manner.blows + u64::from(new.blow.is_some());
        *manner = Manner { blows, blow: new.blow, http1: new.http1, streams: new.streams };
    });
    StatusCode::NO_CONTENT
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
pub(super) async fn serve(
    listen: SocketAddr,
    ca_file: &Path,
    faults: &[Fault],
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    // Who calls from another machine or namespace calls the address.
    let other = Some(listen.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified());
    let tls = server::identity(ca_file, other)?;
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let http = Http::new(Some(ca_file), RECEIPT_TIMEOUT).map_err(io::Error::other)?;
    let world = World::new(receipt::Sender::start(http));
    faults.iter().for_each(|fault| world.always(*fault));
    let (manner, counts) = (world.manner.subscribe(), Arc::new(Counts::default()));
    let router = router(world, counts.clone());
    let url = other.map_or_else(|| format!("https://localhost:{}", address.port()), |_| format!("https://{address}"));
    super::show::line(&json!({ "clouds": url, "ca_file": ca_file }))?;
    server::serve(listener, tls, router, counts, manner, shutdown).await;
    Ok(())
}
