//! What of the configuration can change while the gateway runs, and what is said of the rest.

use super::api::Limits;
use super::config::Config;
use crate::delivery::Rules;
use crate::logs::Levels;
use crate::settings::{SettingsError, changed};
use tokio::sync::watch;
use tracing::{error, info, warn};

/// Keys, or the beginnings of keys, that take effect at once.
const LIVE: [&str; 12] = [
    "log.level",
    "api.drain_s",
    "api.requests_per_s",
    "api.messages_per_s",
    "api.bytes_per_s",
    "delivery.ack_deadline_ms",
    "delivery.reconnect_grace_ms",
    "delivery.keep_s",
    "delivery.trace_s",
    "delivery.keep_most",
    "delivery.push_life_s",
    "delivery.policy",
];

/// Reads the configuration as the process did when it started.
pub type Source = Box<dyn Fn() -> Result<Config, SettingsError> + Send>;

/// The running gateway's changeable parts.
pub struct Reload {
    pub source: Source,
    pub levels: Levels,
    pub rules: watch::Sender<Rules>,
    pub limits: Limits,
    /// What runs.
    pub config: Config,
}

impl Reload {
    /// Takes the configuration over as far as it can change. One that is not good changes nothing.
    pub fn apply(&mut self) {
        let new = match (self.source)().and_then(|new| new.check().map(|_| new)) {
            Ok(new) => new,
            Err(error) => {
                return error!(event = "config.refused", %error, "the configuration is not good; the old one stays in force");
            }
        };
        let keys = changed(&self.config, &new);
        let (live, later): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| LIVE.contains(&key.as_str()));
        self.rules.send_replace(Rules { lease_ms: self.config.rules().lease_ms, ..new.rules() });
        if live.iter().any(|key| key.ends_with("_per_s")) {
            self.limits.change(&new.api);
        }
        info!(event = "config.reloaded", changed = live.join(" "), "the configuration was read again");
        if !later.is_empty() {
            warn!(event = "config.needs_restart", keys = later.join(" "), "these keys take effect with the next start");
        }
        // Last: a quieter level would swallow what was just said.
        self.levels.set(&new.log.level);
        self.config.log.level = new.log.level;
        self.config.api.drain_s = new.api.drain_s;
        self.config.api.requests_per_s = new.api.requests_per_s;
        self.config.api.messages_per_s = new.api.messages_per_s;
        self.config.api.bytes_per_s = new.api.bytes_per_s;
        let concurrency = self.config.delivery.concurrency;
        self.config.delivery = super::config::Delivery { concurrency, ..new.delivery };
    }
}
