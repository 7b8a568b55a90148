//! The store as the configuration names it, with the key that opens its secrets.

use super::config::Config;
use super::error::ServeError;
use super::store::{Store, StoreError, Vault};
use crate::mqtt::client_config;

/// Opens the file, or connects to PostgreSQL once it is there; `away` hears each time that it is not.
///
/// # Errors
/// [`ServeError`]: the key cannot be read, or the store not be used.
pub(super) async fn open(config: &Config, away: impl FnMut(&StoreError)) -> Result<Store, ServeError> {
    let (path, may_make) = config.secrets_key();
    let vault = Vault::open(&path, may_make).map_err(|source| ServeError::SecretsKey { path, source })?;
    Ok(match config.postgres()? {
        Some(database) => {
            let tls = client_config(database.ca_file.as_deref(), database.identity())?.as_ref().clone();
            Store::connect(database.config, tls, config.store.connections, vault, away).await?
        }
        None => Store::open(&config.state_directory().join("gateway.sqlite"), vault)?,
    })
}
