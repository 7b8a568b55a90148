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

/// Where each token is an account at the broker, a device gets a few a [`PAUSE`] apart, since answers may be lost, and
/// then one each hour: it would lose the account that it came with.
const LOST: NonZeroU32 = NonZeroU32::new(4).expect("not 0");
const PAUSE_OF_ACCOUNTS: Duration = Duration::from_secs(3600);
/// In a life as short as that no pause is a large part.
const PAUSES_IN_A_LIFE: u64 = 24;

type Limit = DefaultKeyedRateLimiter<Address>;

fn of_accounts(life_s: u64) -> Limit {
    let pause = Duration::from_secs(life_s / PAUSES_IN_A_LIFE).clamp(PAUSE, PAUSE_OF_ACCOUNTS);
    RateLimiter::keyed(Quota::with_period(pause).unwrap_or(Quota::per_hour(NonZeroU32::MIN)).allow_burst(LOST))
}

/// Who may have a new token, and how long it lives. Clones share the limit.
#[derive(Clone)]
pub(super) struct Renewal {
    issuer: Issuer,
    limit: Arc<Limit>,
    of_accounts: Option<Arc<Limit>>,
    overdue: Overdue,
}

impl Renewal {
    pub fn new(issuer: Issuer, overdue: Overdue) -> Self {
        let quota = Quota::with_period(PAUSE).unwrap_or(Quota::per_minute(NonZeroU32::MIN));
        let of_accounts = issuer.accounts.are_kept().then(|| Arc::new(of_accounts(issuer.life_s)));
        Self { issuer, limit: Arc::new(RateLimiter::keyed(quota)), of_accounts, overdue }
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
        for limit in std::iter::once(&self.limit).chain(&self.of_accounts) {
            if limit.len() > REMEMBERED {
                limit.retain_recent();
            }
            if limit.check_key(address).is_err() {
                return Ok(None);
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_whose_tokens_are_accounts_gets_a_few_for_lost_answers_and_then_one_each_hour() {
        let limit = of_accounts(90 * 86_400);
        let device = |id: &str| Address::new("o#a", "ann", id).expect("an address");
        let (phone, tablet) = (device("phone"), device("tablet"));
        assert!((0..LOST.get()).all(|_| limit.check_key(&phone).is_ok()));
        assert!(limit.check_key(&phone).is_err() && limit.check_key(&tablet).is_ok());
    }
}
