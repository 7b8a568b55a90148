//! The gateway process: opens everything, serves, and closes in the other order.

use super::api;
use super::broker;
use super::config::Config;
use super::dispatch::Dispatch;
use super::sender::Senders;
use super::store::{Rules, Store, StoreError};
use super::tokens::Tokens;
use super::wire;
use crate::http::Http;
use crate::mqtt::TlsSetupError;
use crate::settings::SettingsError;
use crate::store::{OpenError, StateDirectory};
use serde_json::json;
use std::future::Future;
use std::io::Write as _;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Why the gateway cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    State(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    #[error("vendors: {0}")]
    Vendors(String),
    #[error("{0}")]
    Broker(String),
    #[error("cannot listen on {address} for the API: {source}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: std::path::PathBuf, source: std::io::Error },
}

impl ServeError {
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Tls(_) | Self::Vendors(_) => 78,
            Self::State(OpenError::InUse { .. }) => 75,
            Self::State(OpenError::Io { .. }) | Self::Write { .. } => 73,
            Self::Store(_) => 74,
            Self::Broker(_) | Self::Listen { .. } => 69,
        }
    }
}

/// Serves until `shutdown` is done. With `announce` one JSON line on standard output says where.
///
/// # Errors
/// [`ServeError`], before anything is served.
pub async fn serve(config: Config, announce: bool, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
    let (topics, url) = config.check()?;
    let directory = StateDirectory::open(&config.state_directory())?;
    let state = directory.path().to_owned();
    let store = Store::open(&state.join("gateway.sqlite"))?;
    let tokens = Tokens::new(&store.own_secret("token_key").await?, topics.clone());
    let admin = store.own_secret("admin_secret").await?;
    let admin_file = state.join("admin.secret");
    // For the command line on this machine; the file's mode keeps others out.
    crate::store::write_atomically(&admin_file, admin.expose().as_bytes())
        .map_err(|source| ServeError::Write { path: admin_file.clone(), source })?;
    let http = Http::new(config.vendors.ca_file.as_deref(), Duration::from_millis(config.vendors.timeout_ms))
        .map_err(ServeError::Vendors)?;
    let broker = broker::open(&config, url, &topics, &tokens, &state).await?;
    if broker.starts_empty() {
        store.all_offline().await?;
    }
    let address = config.api.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })?;
    let api_address = listener.local_addr().map_err(|source| ServeError::Listen { address, source })?;

    let (wire, driver) = wire::wire(broker.access(), topics);
    let rules = Rules {
        ack_deadline_ms: config.delivery.ack_deadline_ms,
        push_life_s: config.delivery.push_life_s,
        policy: config.delivery.policy,
    };
    let senders = Senders::new(&http, &config.vendors);
    let dispatch =
        Dispatch::new(store.clone(), wire, senders, rules, config.delivery.keep_s, config.delivery.concurrency);
    let stop = CancellationToken::new();
    let wire_task = tokio::spawn(driver.run(dispatch.clone(), stop.child_token()));
    let timer_task = tokio::spawn(dispatch.clone().run(stop.child_token()));
    let state_of_api = api::State { store, tokens, dispatch, admin, user_token_s: config.api.user_token_s };
    let api_stop = stop.clone();
    let api_task = tokio::spawn(async move {
        let served = axum::serve(listener, api::router(state_of_api))
            .with_graceful_shutdown(async move { api_stop.cancelled().await });
        if let Err(error) = served.await {
            tracing::error!(event = "api.failed", %error, "the REST API ended");
        }
    });
    let reach = broker.reach();
    info!(
        event = "gateway.started", version = env!("CARGO_PKG_VERSION"), api = %api_address,
        broker = reach.as_ref().map(|r| r.address.to_string()), ca_file = reach.as_ref().and_then(|r| r.ca_file.as_ref()).map(|p| p.display().to_string()),
        "gateway started"
    );
    if announce {
        let line = json!({
            "api": format!("http://{api_address}"),
            "broker": reach.as_ref().map(|r| r.address.to_string()),
            "ca_file": reach.as_ref().and_then(|r| r.ca_file.clone()),
            "admin_secret_file": admin_file,
        });
        let mut out = std::io::stdout().lock();
        drop(writeln!(out, "{line}").and_then(|()| out.flush()));
    }
    shutdown.await;
    info!(event = "gateway.stopping", "stopping: no new work, what is under way is finished");
    stop.cancel();
    drop(tokio::time::timeout(Duration::from_secs(5), api_task).await);
    drop(tokio::time::timeout(Duration::from_secs(12), timer_task).await);
    drop(tokio::time::timeout(Duration::from_secs(2), wire_task).await);
    broker.stop().await;
    info!(event = "gateway.stopped", "gateway stopped");
    Ok(())
}
