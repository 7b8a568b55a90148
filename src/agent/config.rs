//! The agent's settings: what they mean, their ranges, and where state and socket live.

use super::name::AgentName;
use crate::ids::AppId;
use crate::keepalive::PowerMode;
use crate::keepalive::constants::{HEARTBEAT_CEILING, HEARTBEAT_FLOOR, HEARTBEAT_START, LOW_POWER_CEILING};
use crate::mqtt::{Authorities, Endpoint, Proxy};
use crate::names::{Names, parse_server};
use crate::protocol::{DEFAULT_PREFIX, Topics};
use crate::secret::Secret;
use crate::settings::{self, SettingsError, Variables};
use crate::vendors::Vendor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// `IMPUSH_SERVER_URL` sets `server.url`. The gateway's variables begin alike.
pub const VARIABLES: Variables = Variables { prefix: "IMPUSH", not: &["IMPUSH_GATEWAY", "IMPUSH_LAB"] };
/// Most name servers; each may be waited for.
const MAX_NAME_SERVERS: usize = 8;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Which of several agents these are for: said on the command line.
    #[serde(skip)]
    pub name: AgentName,
    pub server: Server,
    pub certificates: Certificates,
    pub channel: ChannelSettings,
    pub keep_alive: KeepAlive,
    pub device: Device,
    pub paths: Paths,
    pub control: Control,
    pub log: crate::logs::Settings,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// `mqtts://host[:port]`. `mqtt://` is taken for a loopback address only. Without it, and without `app` and `ca_file`,
    /// what an enrolment said (`impush enrol`).
    pub url: Option<String>,
    /// Other addresses of the same service, tried beside the first when it stays silent for three seconds.
    pub fallback_urls: Vec<String>,
    /// `http://[user:password@]host:port` or `socks5://...`: the only way out, where there is no other.
    pub proxy: Option<Secret>,
    /// Name servers, `ADDRESS` or `ADDRESS:PORT`: where the device has no resolver, and when it fails. At most 8.
    pub dns: Vec<String>,
    /// The app this device's user belongs to: `org#app`.
    pub app: Option<String>,
    /// PEM file of the authorities to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// A directory of further authorities, PEM files whatever their names: `/data/misc/user/0/cacerts-added` has those
    /// that an Android device's user or manager added.
    pub ca_added: Option<PathBuf>,
    /// Those that the gateway has told of, beside a `ca_file`.
    #[serde(skip)]
    pub ca_given: Option<PathBuf>,
    /// PEM files with which the device proves itself, where the broker asks for it.
    pub client_certificate: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    /// First levels of every topic.
    pub prefix: String,
}

impl Server {
    pub fn authorities(&self) -> Authorities {
        Authorities { file: self.ca_file.clone(), added: self.ca_added.clone(), given: self.ca_given.clone() }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            url: None,
            fallback_urls: Vec::new(),
            proxy: None,
            dns: Vec::new(),
            app: None,
            ca_file: None,
            ca_added: None,
            ca_given: None,
            client_certificate: None,
            client_key: None,
            prefix: DEFAULT_PREFIX.to_owned(),
        }
    }
}

/// Certificate names, under the keys of the uni-app plugin's option block: an existing one can be pasted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, Option<String>>")]
pub struct Certificates(BTreeMap<String, Option<String>>);

impl Default for Certificates {
    fn default() -> Self {
        Self(Vendor::ORDER.into_iter().map(|vendor| (vendor.certificate_key().to_owned(), None)).collect())
    }
}

impl TryFrom<BTreeMap<String, Option<String>>> for Certificates {
    type Error = String;

    fn try_from(given: BTreeMap<String, Option<String>>) -> Result<Self, Self::Error> {
        let known = Vendor::ORDER.map(Vendor::certificate_key);
        match given.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(format!("unknown field `{key}`, expected one of {}", known.join(", "))),
            None => {
                let mut all = Self::default();
                all.0.extend(given);
                Ok(all)
            }
        }
    }
}

impl Certificates {
    /// The names that are set. An empty text counts as not set: the plugin's template has them so.
    pub fn names(&self) -> BTreeMap<Vendor, String> {
        let named = |vendor: Vendor| {
            let name = self.0.get(vendor.certificate_key())?.as_deref()?.trim();
            (!name.is_empty()).then(|| (vendor, name.to_owned()))
        };
        Vendor::ORDER.into_iter().filter_map(named).collect()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelSettings {
    /// The vendor whose channel this device has, whatever it looks like.
    pub force: Option<String>,
    /// Vendors in the order in which they are tried; one left out is never used.
    pub order: Vec<Vendor>,
    /// Seconds the connection is held after the last app went, when a vendor channel delivers. 0 to 86400.
    pub linger_s: u64,
    /// Seconds until a channel that is rested on is first looked after; doubles while all is well. 1 to 86400.
    pub check_first_s: u64,
    /// Seconds between two such looks at most. 1 to 86400.
    pub check_most_s: u64,
}

impl Default for ChannelSettings {
    fn default() -> Self {
        Self { force: None, order: Vendor::ORDER.to_vec(), linger_s: 60, check_first_s: 600, check_most_s: 14_400 }
    }
}

impl ChannelSettings {
    /// The forced channel; an empty text forces none.
    pub fn forced(&self) -> Option<Vendor> {
        self.force.as_deref()?.parse().ok()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct KeepAlive {
    /// Seconds; first heartbeat on a network nothing is known of. 5 to 3600.
    pub start_s: u64,
    /// Seconds; no heartbeat is shorter. 5 to 3600.
    pub floor_s: u64,
    /// Seconds; no heartbeat is longer. Set it below the idle limit of your load balancer. 5 to 3600.
    pub ceiling_s: u64,
    /// `auto` saves power while the battery runs out; `low` always, `normal` never. An app or
    /// `impush power` may say otherwise until the next start.
    pub low_power: PowerMode,
    /// Seconds; no heartbeat is longer while power is saved. 5 to 3600.
    pub low_power_ceiling_s: u64,
    /// Wake a sleeping device for its heartbeat. Needs CAP_WAKE_ALARM; without it sleep means offline.
    pub wake_device: bool,
}

/// How local apps ask.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Control {
    /// The loopback port for apps with a secret; it is open while such apps are there. 1024 to 65535, or 0: none.
    pub port: u16,
}

impl Default for Control {
    fn default() -> Self {
        Self { port: 8682 }
    }
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            start_s: HEARTBEAT_START.as_secs(),
            floor_s: HEARTBEAT_FLOOR.as_secs(),
            ceiling_s: HEARTBEAT_CEILING.as_secs(),
            low_power: PowerMode::Auto,
            low_power_ceiling_s: LOW_POWER_CEILING.as_secs(),
            wake_device: false,
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Read the device's properties below this directory instead of from the running system.
    pub root: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Paths {
    /// Default: `$STATE_DIRECTORY`, else what the platform gives.
    pub state: Option<PathBuf>,
    /// Default: `$RUNTIME_DIRECTORY/control.sock`, else what the platform gives.
    pub socket: Option<PathBuf>,
    /// Name or number of a group whose members may use the socket. Without it: root and the agent's user.
    pub socket_group: Option<String>,
}

/// Settings checked and made ready to use.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The configured address, then the fallbacks.
    pub endpoints: Vec<Endpoint>,
    pub proxy: Option<Proxy>,
    /// Name servers beside the device's own.
    pub dns: Vec<SocketAddr>,
    pub app: AppId,
    pub topics: Topics,
}

impl Config {
    /// Checks what the types alone cannot.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] names the key, the range and what to write.
    pub fn check(&self) -> Result<Ready, SettingsError> {
        let bad = |message: String| SettingsError::BadValue { message };
        let url = self.server.url.as_deref().ok_or_else(|| {
            bad("server.url is not set; write mqtts://host[:port], or enrol the device: impush enrol CODE".into())
        })?;
        let mut endpoints = Vec::new();
        let named = std::iter::once(("server.url", url))
            .chain(self.server.fallback_urls.iter().map(|u| ("server.fallback_urls", u.as_str())));
        for (key, url) in named {
            let endpoint: Endpoint = url.parse().map_err(|e| bad(format!("{key}: {e}")))?;
            if !endpoint.tls && !endpoint.is_loopback() {
                return Err(bad(format!(
                    "{key}: mqtt:// without TLS is taken for a loopback address only; write mqtts://"
                )));
            }
            endpoints.push(endpoint);
        }
        let proxy = self.server.proxy.as_ref().map(|p| p.expose().parse::<Proxy>()).transpose();
        let proxy = proxy.map_err(|e| bad(format!("server.proxy: {e}")))?;
        let dns = self.name_servers()?;
        let app = self.server.app.clone().filter(|a| !a.is_empty());
        let app = app.ok_or_else(|| bad("server.app is not set; write org#app as the gateway knows it".into()))?;
        let app = AppId::try_from(app).map_err(|e| bad(format!("server.app: {e}")))?;
        let topics = Topics::new(&self.server.prefix).map_err(|e| bad(format!("server.prefix: {e}")))?;
        if self.server.client_certificate.is_some() != self.server.client_key.is_some() {
            return Err(bad("server.client_certificate and server.client_key go together".into()));
        }
        if let Some(force) = self.channel.force.as_deref().filter(|force| !force.is_empty()) {
            force.parse::<Vendor>().map_err(|e| bad(format!("channel.force: {e}")))?;
        }
        let beat = &self.keep_alive;
        for (key, value) in [
            ("start_s", beat.start_s),
            ("floor_s", beat.floor_s),
            ("ceiling_s", beat.ceiling_s),
            ("low_power_ceiling_s", beat.low_power_ceiling_s),
        ] {
            if !(5..=3600).contains(&value) {
                return Err(bad(format!("keep_alive.{key} is {value}; 5 to 3600 seconds")));
            }
        }
        if (1..1024).contains(&self.control.port) {
            return Err(bad(format!("control.port is {}; 1024 to 65535, or 0 for none", self.control.port)));
        }
        if beat.floor_s > beat.ceiling_s {
            return Err(bad("keep_alive.floor_s is above keep_alive.ceiling_s".into()));
        }
        if self.channel.linger_s > 86_400 {
            return Err(bad(format!("channel.linger_s is {}; 0 to 86400 seconds", self.channel.linger_s)));
        }
        for (key, value) in [("check_first_s", self.channel.check_first_s), ("check_most_s", self.channel.check_most_s)]
        {
            if !(1..=86_400).contains(&value) {
                return Err(bad(format!("channel.{key} is {value}; 1 to 86400 seconds")));
            }
        }
        if self.channel.check_first_s > self.channel.check_most_s {
            return Err(bad("channel.check_first_s is above channel.check_most_s".into()));
        }
        self.log.check().map_err(bad)?;
        Ok(Ready { endpoints, proxy, dns, app, topics })
    }

    fn name_servers(&self) -> Result<Vec<SocketAddr>, SettingsError> {
        let bad = |message: String| SettingsError::BadValue { message };
        let dns = &self.server.dns;
        if dns.len() > MAX_NAME_SERVERS {
            return Err(bad(format!("server.dns names {}; {MAX_NAME_SERVERS} at most", dns.len())));
        }
        let wanted = "write 192.0.2.1, 192.0.2.1:53 or [2001:db8::1]:53";
        let unread = |text: &str| bad(format!("server.dns: `{text}` is no name server; {wanted}"));
        dns.iter().map(|text| parse_server(text).ok_or_else(|| unread(text))).collect()
    }

    /// A resolver as this configuration wants it.
    pub fn names(&self, ready: &Ready) -> Names {
        Names::new(self.device.root.clone(), ready.dns.clone())
    }

    pub fn state_directory(&self) -> PathBuf {
        settings::state_directory(self.paths.state.as_deref(), &self.name.unit())
    }

    /// Where a command finds the agent: the one of the system, if there is one and nothing else is said.
    pub fn agents_socket(&self) -> PathBuf {
        let system = self.name.socket();
        match &self.paths.socket {
            None if system.exists() => system,
            _ => self.socket(),
        }
    }

    pub fn socket(&self) -> PathBuf {
        let directory = || {
            if let Some(given) = settings::service_directory("RUNTIME_DIRECTORY") {
                return given;
            }
            if rustix::process::geteuid().is_root() {
                return PathBuf::from("/run").join(self.name.unit());
            }
            directories::ProjectDirs::from("", "", &self.name.unit())
                .and_then(|dirs| dirs.runtime_dir().map(PathBuf::from))
                .unwrap_or_else(|| self.state_directory())
        };
        self.paths.socket.clone().unwrap_or_else(|| directory().join("control.sock"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(toml: &str) -> Result<Ready, String> {
        let config: Config = toml::from_str(toml).map_err(|e| e.to_string())?;
        config.check().map_err(|e| e.to_string())
    }

    #[test]
    fn the_plugins_own_keys_are_taken_as_they_are() {
        let config: Config = toml::from_str(
            "[certificates]\nMICertificateName='2882303'\nVIVOCertificateName='1#k'\nOPPOCertificateName=''\n",
        )
        .expect("read");
        let names = config.certificates.names();
        assert_eq!(names.keys().copied().collect::<Vec<_>>(), [Vendor::Xiaomi, Vendor::Vivo]);
    }

    #[test]
    fn what_cannot_work_is_named_before_anything_starts() {
        let good = "server={url='mqtts://a',app='org#app'}\n";
        assert!(config(good).is_ok());
        for (text, named) in [
            ("", "server.url"),
            ("server={url='mqtts://a'}", "server.app"),
            ("server={url='mqtt://a.example',app='o#a'}", "loopback"),
            ("server={url='mqtts://a',app='o#a',prefix='a/+'}", "server.prefix"),
            ("server={url='mqtts://a',app='o#a',dns=['dns.example']}", "server.dns: `dns.example`"),
            ("server={url='mqtts://a',app='o#a',dns=['1.1.1.1:0']}", "server.dns"),
            ("server={url='mqtts://a',app='o#a',dns=['1','1','1','1','1','1','1','1','1']}", "8 at most"),
            ("server={url='mqtts://a',app='o#a'}\nkeep_alive={start_s=2}", "keep_alive.start_s"),
            ("server={url='mqtts://a',app='o#a'}\nchannel={force='nokia'}", "channel.force"),
            ("server={url='mqtts://a',app='o#a'}\ncertificates={VIVOCertName='1'}", "VIVOCertName"),
            ("server={url='mqtts://a',app='o#a'}\nchannel={order=['nokia']}", "nokia"),
        ] {
            let error = config(text).expect_err(text);
            assert!(error.contains(named), "{error}");
        }
    }
}
