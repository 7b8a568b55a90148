//! The store as the configuration names it, with the key that opens its secrets, and what this gateway is in it.

use super::clock::now_ms;
use super::config::Config;
use super::database::Database;
use super::error::ServeError;
use super::store::{Node, Store, StoreError, Vault};
use crate::mqtt::{TlsSetupError, client_config};
use crate::secret::random_hex;
use std::path::Path;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;

/// How often gateways beside a broker renew their lease: five times in one.
const BEAT: Duration = Duration::from_secs(2);

/// Opens the file, or connects to PostgreSQL once it is there; `away` hears each time that it is not.
///
/// # Errors
/// [`ServeError`]: the key cannot be read, or the store not be used.
pub(super) async fn open(config: &Config, away: impl FnMut(&StoreError)) -> Result<Store, ServeError> {
    let (path, may_make) = config.secrets_key();
    let vault = Vault::open(&path, may_make).map_err(|source| ServeError::SecretsKey { path, source })?;
    Ok(match config.postgres()? {
        Some(database) => {
            let tls = tls(&database)?;
            Store::connect(database.config.into(), tls, config.store.connections, vault, away).await?
        }
        None => Store::open(&config.state_directory().join("gateway.sqlite"), vault)?,
    })
}

/// Whom the database's connections trust, and what they show.
///
/// # Errors
/// [`TlsSetupError`].
pub(super) fn tls(database: &Database) -> Result<MakeRustlsConnect, TlsSetupError> {
    let config = client_config(database.ca_file.as_deref(), database.identity())?;
    Ok(MakeRustlsConnect::new(config.as_ref().clone()))
}

/// What this start of the gateway is called among those that share its store.
///
/// # Errors
/// [`ServeError`]: its name cannot be kept.
pub(super) fn node(config: &Config, state: &Path) -> Result<Node, ServeError> {
    let id = random_hex::<8>().into();
    if let Some(name) = config.store.node.clone() {
        return Ok(Node { id, name });
    }
    let path = state.join("node");
    if let Ok(name) = std::fs::read_to_string(&path) {
        return Ok(Node { id, name: name.trim().to_owned() });
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = format!("{}-{}", host.trim(), random_hex::<2>());
    crate::store::write_atomically(&path, name.as_bytes()).map_err(|source| ServeError::Write { path, source })?;
    Ok(Node { id, name })
}

/// Gateways with devices of their own do not start while this goes on; it ends with `stop`.
pub(super) async fn stay_beside_broker(store: Store, stop: CancellationToken) {
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut mixed = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = beats.tick() => {}
        }
        match store.renew_beside_broker(now_ms()).await {
            Ok(others) => {
                if !others.is_empty() && !mixed {
                    tracing::error!(
                        event = "store.mixed",
                        others = others.join(" "),
                        "two kinds of gateways serve one database, and take each other's devices for gone: stop one of them"
                    );
                }
                mixed = !others.is_empty();
            }
            Err(error) => error.tell("that gateways beside a broker serve could not be said; it is tried again"),
        }
    }
}
