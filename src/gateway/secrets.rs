//! The gateway's own secrets at its start, and how it goes on without those that cannot be read.

use super::keyring::{Keyring, LOOK_S};
use super::store::{Store, StoreError};
use super::tokens::Tokens;
use crate::secret::{Secret, random_hex};
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// What the store has of them.
pub(super) struct Secrets {
    /// `None`: they cannot be read, and devices wait.
    pub keys: Option<Keyring>,
    pub admin: Secret,
    pub receipts: Secret,
    pub tickets: Secret,
}

impl Secrets {
    /// Those that cannot be read are told of, and never made anew: what they signed would be worth nothing.
    ///
    /// # Errors
    /// [`StoreError`] but for [`StoreError::Sealed`].
    pub async fn read(store: &Store, admin_file: &Path) -> Result<Self, StoreError> {
        let keys = readable(store, "token_key", "devices that log in wait until it is back").await?;
        let keys = keys.as_ref().and_then(Keyring::parse);
        let admin = readable(store, "admin_secret", "the one in admin.secret serves meanwhile").await?;
        let of_this_run = || Secret::new(random_hex::<32>());
        Ok(Self {
            keys,
            admin: admin.unwrap_or_else(|| {
                std::fs::read_to_string(admin_file).map_or_else(|_| of_this_run(), |text| Secret::new(text.trim()))
            }),
            receipts: readable(store, "receipt_key", "vendors' receipts are refused until it is back")
                .await?
                .unwrap_or_else(of_this_run),
            tickets: readable(store, "ticket_key", "devices make whole TLS handshakes")
                .await?
                .unwrap_or_else(of_this_run),
        })
    }
}

async fn readable(store: &Store, name: &'static str, meanwhile: &str) -> Result<Option<Secret>, StoreError> {
    match store.own_secret(name).await {
        Ok(secret) => Ok(Some(secret)),
        Err(StoreError::Sealed(why)) => {
            error!(event = "secret.unreadable", name, why, meanwhile, "a secret of the gateway cannot be read");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Takes over the signing keys that another gateway has made or removed, until `stop`.
pub(super) async fn follow_keys(store: Store, tokens: Tokens, stop: CancellationToken) {
    let mut turns = tokio::time::interval(Duration::from_secs(LOOK_S));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = turns.tick() => {}
        }
        // A store that is away has said so elsewhere.
        if let Ok(stored) = store.own_secret("token_key").await
            && let Some(keys) = Keyring::parse(&stored)
        {
            tokens.set_keys(keys);
        }
    }
}
