//! New tokens for devices whose old one comes to its end: asked for over the device's own connection.

use super::issuing::Issuer;
use super::overdue::Overdue;
use super::store::{Store, StoreError};
use crate::protocol::{Address, Down};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// A device gets one new token in this time; its connection's first question is what counts.
const PAUSE: Duration = Duration::from_secs(60);
/// Devices that are remembered for that; beyond it the quiet ones are forgotten.
const REMEMBERED: usize = 10_000;

/// Who may have a new token, and how long it lives. Clones share the limit.
#[derive(Clone)]
pub(super) struct Renewal {
    issuer: Issuer,
    limit: Arc<DefaultKeyedRateLimiter<Address>>,
    overdue: Overdue,
}

impl Renewal {
    pub fn new(issuer: Issuer, overdue: Overdue) -> Self {
        let quota = Quota::with_period(PAUSE).unwrap_or(Quota::per_minute(NonZeroU32::MIN));
        Self { issuer, limit: Arc::new(RateLimiter::keyed(quota)), overdue }
    }

    /// Its token's life is over, and nothing but a new one is this device's.
    pub fn is_overdue(&self, address: &Address) -> bool {
        self.overdue.contains(address)
    }

    /// The topic has proven which user and device asks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn renew(&self, store: &Store, address: &Address) -> Result<Option<Down>, StoreError> {
        if self.limit.len() > REMEMBERED {
            self.limit.retain_recent();
        }
        if self.limit.check_key(address).is_err() {
            return Ok(None);
        }
        let (app, user, device) = (address.app.to_string(), address.user.to_string(), address.device.to_string());
        let Some(issue) = store.issue(app, user, Some(device), true).await? else {
            warn!(event = "login.not_renewed", device = %address, "a device whose login has ended asks for a new token");
            return Ok(None);
        };
        match self.issuer.issue(&address.app, &address.user, Some(&address.device), issue).await {
            Ok(token) => {
                self.overdue.clear(&address.client_id());
                info!(event = "login.renewed", device = %address, token = token.fingerprint(), "a login's token was renewed");
                Ok(Some(Down::Settings {
                    nonce: None,
                    heartbeat_ceiling_s: None,
                    bindings: None,
                    token: Some(token),
                    ca: None,
                }))
            }
            Err(error) => {
                warn!(event = "login.not_renewed", device = %address, %error, "a token could not be issued");
                Ok(None)
            }
        }
    }
}
