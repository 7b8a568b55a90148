//! What of the configuration changes on SIGHUP: the log level; the rest is named.

use super::config::Config;
use crate::logs::Levels;
use crate::settings::{SettingsError, changed};
use tracing::{error, info, warn};

/// Reads the configuration again whenever `asked` is done; never ends.
pub async fn reloads(
    mut running: Config,
    levels: Levels,
    source: impl Fn() -> Result<Config, SettingsError>,
    mut asked: impl AsyncFnMut(),
) {
    loop {
        asked().await;
        let new = match source().and_then(|new| new.check().map(|_| new)) {
            Ok(new) => new,
            Err(error) => {
                error!(event = "config.refused", %error, "the configuration is not good; the old one stays in force");
                continue;
            }
        };
        let mut later = changed(&running, &new);
        later.retain(|key| key != "log.level");
        // Said before a quieter level would swallow it.
        info!(event = "config.reloaded", level = new.log.level, "the configuration was read again");
        if !later.is_empty() {
            warn!(event = "config.needs_restart", keys = later.join(" "), "these keys take effect with the next start");
        }
        levels.set(&new.log.level);
        running.log.level = new.log.level;
    }
}
