//! What of the configuration changes on SIGHUP: servers and the way to them, channels, the log level; the rest is named.

use super::config::{Config, Ready, Server};
use super::disk::blocking;
use super::trust::Trust;
use crate::logs::{self, Levels};
use crate::mqtt::{TimeFloor, TlsSetupError};
use crate::settings::{SettingsError, changed};
use std::sync::Arc;
use tracing::{error, info, warn};

/// How the configuration is asked to be read again, and read.
pub struct Reload<Source, Asked> {
    pub levels: Levels,
    pub source: Source,
    /// Done each time it is to be read again.
    pub asked: Asked,
}

/// A configuration that is in force from here on, and what was read of its files.
pub(super) struct Reloaded {
    pub config: Config,
    pub ready: Ready,
    pub trust: Trust,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
}

impl<Source: Fn() -> Result<Config, SettingsError>, Asked: AsyncFnMut()> Reload<Source, Asked> {
    /// Reads the configuration. All of it is good, or nothing changes.
    pub(super) async fn read(&self, running: &Config, floor: Arc<TimeFloor>) -> Option<Reloaded> {
        match self.try_read(running, floor).await {
            Ok(reloaded) => Some(reloaded),
            Err(error) => {
                error!(event = "config.refused", %error, "the configuration is not good; the old one stays in force");
                None
            }
        }
    }

    async fn try_read(&self, running: &Config, floor: Arc<TimeFloor>) -> Result<Reloaded, ReloadError> {
        let new = (self.source)()?;
        new.check()?;
        let config = adopted(running, &new);
        let ready = config.check()?;
        let server = config.server.clone();
        let trust = blocking(move || Trust::read(&server, floor)).await?;
        let (now, later) = (changed(running, &config), changed(&config, &new));
        // Said before a quieter level would swallow it.
        info!(
            event = "config.reloaded",
            level = config.log.level,
            changed = now.join(" "),
            "the configuration was read again"
        );
        if !later.is_empty() {
            warn!(event = "config.needs_restart", keys = later.join(" "), "these keys take effect with the next start");
        }
        self.levels.set(&config.log.level);
        Ok(Reloaded { config, ready, trust })
    }
}

/// What of a new configuration a running agent can take over. The IM app and the topics belong to the login and to what
/// is on the disk, the heartbeat's bounds to a search under way, paths and the log's shape to the process.
fn adopted(running: &Config, new: &Config) -> Config {
    Config {
        server: Server { app: running.server.app.clone(), prefix: running.server.prefix.clone(), ..new.server.clone() },
        certificates: new.certificates.clone(),
        channel: new.channel.clone(),
        log: logs::Settings { level: new.log.level.clone(), ..running.log.clone() },
        ..running.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(text).expect("a configuration")
    }

    #[test]
    fn servers_channels_and_the_level_change_at_once_and_the_rest_is_named() {
        let running = config("server={url='mqtts://a',app='o#a'}");
        let new = config(
            "server={url='mqtts://b',fallback_urls=['mqtts://c'],proxy='http://p:1',ca_file='/ca',app='o#b',prefix='x'}\n\
             channel={linger_s=5}\ncertificates={MICertificateName='1'}\nlog={level='debug',format='json'}\n\
             keep_alive={start_s=50}\npaths={state='/s'}",
        );
        let adopted = adopted(&running, &new);
        let mut now = changed(&running, &adopted);
        now.sort();
        let at_once = [
            "certificates.MICertificateName",
            "channel.linger_s",
            "log.level",
            "server.ca_file",
            "server.fallback_urls",
            "server.proxy",
            "server.url",
        ];
        assert_eq!(now, at_once);
        let mut later = changed(&adopted, &new);
        later.sort();
        assert_eq!(later, ["keep_alive.start_s", "log.format", "paths.state", "server.app", "server.prefix"]);
    }
}
