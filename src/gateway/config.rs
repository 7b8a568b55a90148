//! The gateway's settings, their ranges, and where its state lives.

use super::database::Database;
use crate::delivery::Rules;
use crate::delivery::policy::MultiDevice;
use crate::http::Ways;
use crate::mqtt::Endpoint;
use crate::protocol::{DEFAULT_PREFIX, Topics};
use crate::secret::Secret;
use crate::settings::{self, SettingsError, Variables};
use crate::vendors::Hosts;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// `IMPUSH_GATEWAY_API_LISTEN` sets `api.listen`.
pub const VARIABLES: Variables = Variables { prefix: "IMPUSH_GATEWAY", not: &[] };
/// Where the packages put the configuration.
pub const SYSTEM_FILE: &str = "/etc/impush/gateway.toml";

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub api: Api,
    pub broker: Broker,
    pub delivery: Delivery,
    pub store: Store,
    pub vendors: Vendors,
    pub paths: Paths,
    pub log: crate::logs::Settings,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Api {
    /// Address of the REST API. Put a TLS front before it when it leaves this machine.
    pub listen: SocketAddr,
    /// Seconds for which, once it is asked to stop, the gateway goes on serving while `/readyz` answers 503, so that load
    /// balancers send elsewhere before the listener closes. -1 to 300; -1 is 10 where `/readyz` was asked twice within the last
    /// minute, which only a balancer does, else 0.
    pub drain_s: i64,
    /// Seconds a user token lives. 60 to 31536000.
    pub user_token_s: u64,
    /// Requests a second an app may make to its users, bindings and settings, of this gateway alone. 1 to 100000.
    pub requests_per_s: u32,
    /// Messages a second an app may send over this gateway alone: each receiver of a call is one. 0 to 1000000; 0 is no limit.
    pub messages_per_s: u32,
    /// Bytes of messages a second, likewise: of each receiver's as it goes to a device. 0 to 4000000000; 0 is no limit.
    pub bytes_per_s: u32,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8680)),
            drain_s: -1,
            user_token_s: 60 * 86_400,
            requests_per_s: 100,
            messages_per_s: 0,
            bytes_per_s: 0,
        }
    }
}

/// The oldest version of TLS that devices may speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MinimumTls {
    #[serde(rename = "1.2")]
    Tls12,
    #[default]
    #[serde(rename = "1.3")]
    Tls13,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Broker {
    /// An MQTT 5 broker to use instead of the gateway's own endpoint: `mqtts://host[:port]`.
    pub url: Option<String>,
    /// The gateway's account on that broker; it publishes and subscribes under the whole prefix.
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// PEM file of the authorities to trust for that broker, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The broker has shared subscriptions, so several gateways split the work.
    pub shared_subscriptions: bool,
    /// The broker publishes its clients' ends under `$SYS/brokers`, as EMQX and RMQTT do, and lets the
    /// gateway's account hear of them.
    pub client_events: bool,
    /// The broker is a mosquitto that keeps logins in its dynamic security plugin, where the gateway's account may change
    /// them: `impush-gateway broker-config mosquitto` writes both sides.
    pub dynamic_security: bool,
    /// With it a broker may ask from another machine who may enter, as `Authorization: Bearer <it>` or as the query
    /// `?secret=<it>`; without it only one on this machine is answered. At least 16 characters.
    pub ask_secret: Option<Secret>,
    /// Address of the gateway's own MQTT endpoint, TLS; WebSockets are at `/mqtt` of the same.
    pub listen: SocketAddr,
    /// Networks of the load balancers before that endpoint. They, and nobody else, begin each connection with a header of
    /// the PROXY protocol, version 2, which names the device's address.
    pub proxy_from: Vec<IpNet>,
    /// PEM files of that endpoint's certificate chain and key. Without them the gateway makes
    /// an authority of its own in the state directory, whose `ca.pem` devices must trust.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// The oldest version of TLS that devices may speak: `1.3`, or `1.2`.
    pub tls_min: MinimumTls,
    /// Host names and addresses in a certificate the gateway makes.
    pub names: Vec<String>,
    /// First levels of every topic.
    pub prefix: String,
    /// Devices connected at once. 1 to 1000000.
    pub max_devices: usize,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            url: None,
            user: None,
            password: None,
            ca_file: None,
            shared_subscriptions: true,
            client_events: false,
            dynamic_security: false,
            ask_secret: None,
            listen: SocketAddr::from(([0, 0, 0, 0], 8883)),
            proxy_from: Vec::new(),
            certificate: None,
            key: None,
            tls_min: MinimumTls::default(),
            names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            prefix: DEFAULT_PREFIX.to_owned(),
            max_devices: 100_000,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Delivery {
    /// Milliseconds a connected device has to acknowledge before its vendor is used. 100 to 300000.
    pub ack_deadline_ms: u64,
    /// Milliseconds a device with an open app whose connection has just ended is waited for before its vendor is
    /// used: it is often back at once, as after a restart of this gateway. 0 to 60000.
    pub reconnect_grace_ms: u64,
    /// Seconds an undelivered message is kept for the device to fetch. 60 to 2592000.
    pub keep_s: u64,
    /// Seconds a message's trace can be read after that. 0 to 2592000.
    pub trace_s: u64,
    /// Messages kept for one device; more evict the oldest. 1 to 100000.
    pub keep_most: u32,
    /// Seconds after which a notification is too old to be pushed. 60 to 2592000.
    pub push_life_s: u64,
    /// `any_offline`: push to each device that is offline. `all_offline`: only when every device is.
    pub policy: MultiDevice,
    /// Vendor calls under way at once. What waits for its vendor leaves a quarter of them free, and an app that has less
    /// than an eighth makes its own at once: it is not behind another app's thousands. 1 to 4096.
    pub concurrency: usize,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            ack_deadline_ms: 5000,
            reconnect_grace_ms: 3000,
            keep_s: 7 * 86_400,
            trace_s: 86_400,
            // The original system's limit for single chats.
            keep_most: 500,
            push_life_s: 86_400,
            policy: MultiDevice::AnyOffline,
            concurrency: 256,
        }
    }
}

/// What the gateway knows for good, and where it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Store {
    /// `postgres://user:password@host[:port]/database[?sslmode=verify-full&sslrootcert=FILE]`, as for
    /// libpq, which several gateways may share; of several hosts (`host1,host2`) the one that takes writes is used, also after a switchover.
    /// Without it a SQLite file in the state directory. Gateways that share it need
    /// the same `paths.secrets_key`; each has devices of its own, or all use the same broker (`broker.url`).
    pub url: Option<Secret>,
    /// The same database without a pooler in transaction mode, where `store.url` has one: over it notices of other gateways
    /// are heard at once. One connection.
    pub notices_url: Option<Secret>,
    /// PEM file of the authorities to trust for PostgreSQL, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Connections of this gateway to PostgreSQL, 1 to 64; one more hears notices of other gateways.
    pub connections: usize,
    /// What this gateway is called among those that share the store, from start to start. Default: the host's name and
    /// four characters that are made at the first start, and kept in the state directory.
    pub node: Option<String>,
}

impl Default for Store {
    fn default() -> Self {
        Self { url: None, notices_url: None, ca_file: None, connections: 4, node: None }
    }
}

/// Where the vendors' servers are. The defaults are their production hosts in mainland China.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Vendors {
    /// The vendors' own servers, `https://` each.
    #[serde(flatten)]
    pub hosts: Hosts,
    /// Where vendors reach this gateway's REST API with their receipts: `https://push.example.com`.
    /// Without it none are asked for.
    pub receipts_url: Option<String>,
    /// The proxy through which the vendors are reached: `http://[user:password@]host:port` or `socks5://...`; `direct` for
    /// none. Without it what `HTTPS_PROXY` and `NO_PROXY` say.
    pub proxy: Option<Secret>,
    /// Hosts that are reached without it, each with all below it.
    pub no_proxy: Vec<String>,
    /// PEM file of the authorities to trust for the vendors, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Milliseconds one vendor call may take. 100 to 60000.
    pub timeout_ms: u64,
    /// Connections to one host of a vendor that speaks HTTP/1.1; one that speaks HTTP/2 gets one, and up to four
    /// when its calls run out. 1 to 256.
    pub connections: u64,
}

impl Default for Vendors {
    fn default() -> Self {
        Self {
            hosts: Hosts::default(),
            receipts_url: None,
            proxy: None,
            no_proxy: Vec::new(),
            ca_file: None,
            timeout_ms: 10_000,
            connections: 16,
        }
    }
}

impl Vendors {
    /// How the vendors are reached.
    ///
    /// # Errors
    /// A sentence that names the key or the variable.
    pub fn ways(&self) -> Result<Ways, String> {
        match &self.proxy {
            Some(proxy) if proxy.expose() == "direct" => Ok(Ways::default()),
            Some(proxy) => Ways::new(proxy.expose(), self.no_proxy.iter().map(String::as_str))
                .map_err(|error| format!("vendors.proxy: {error}")),
            None => Ways::of_environment(|name| std::env::var(name).ok())
                .map_err(|error| format!("HTTPS_PROXY: {error} (or set vendors.proxy = \"direct\")")),
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Paths {
    /// Default: `$STATE_DIRECTORY`, else what the platform gives.
    pub state: Option<PathBuf>,
    /// The key under which certificates' secrets and the gateway's own are stored: 64 hexadecimal digits. Default: the
    /// service manager's credential `secrets.key`, else a file in the state directory, made at the
    /// first start.
    pub secrets_key: Option<PathBuf>,
}

impl Config {
    /// Checks what the types alone cannot.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] names the key and the range.
    pub fn check(&self) -> Result<(Topics, Option<Endpoint>), SettingsError> {
        let bad = |message: String| SettingsError::BadValue { message };
        let topics = Topics::new(&self.broker.prefix).map_err(|e| bad(format!("broker.prefix: {e}")))?;
        let url = self.broker.url.as_deref().map(str::parse::<Endpoint>).transpose();
        let url = url.map_err(|e| bad(format!("broker.url: {e}")))?;
        if url.as_ref().is_some_and(|url| !url.tls && !url.is_loopback()) {
            return Err(bad("broker.url: mqtt:// without TLS is taken for a loopback address only".into()));
        }
        if url.as_ref().is_some_and(|url| !url.is_loopback()) && self.broker.password.is_none() {
            return Err(bad(
                "broker.url is another machine's and broker.user and broker.password are not set: a broker that lets the \
                 gateway in without a login lets anybody in"
                    .into(),
            ));
        }
        self.postgres()?;
        self.notices()?;
        if self.store.notices_url.is_some() && self.store.url.is_none() {
            return Err(bad("store.notices_url is for gateways that share a store.url".into()));
        }
        if self
            .store
            .node
            .as_ref()
            .is_some_and(|name| name.is_empty() || name.len() > 64 || name.contains(char::is_control))
        {
            return Err(bad("store.node is a name of 1 to 64 characters".into()));
        }
        if self.broker.client_events && self.broker.url.is_none() {
            return Err(bad(
                "broker.client_events is for a broker at broker.url; the gateway's own endpoint needs none".into(),
            ));
        }
        if self.broker.dynamic_security && self.broker.url.is_none() {
            return Err(bad(
                "broker.dynamic_security is for a mosquitto at broker.url; the gateway's own endpoint needs none"
                    .into(),
            ));
        }
        if self.broker.dynamic_security && (self.broker.user.is_none() || self.broker.password.is_none()) {
            return Err(bad(
                "broker.dynamic_security needs broker.user and broker.password, the account that may change the others"
                    .into(),
            ));
        }
        if self.broker.certificate.is_some() != self.broker.key.is_some() {
            return Err(bad("broker.certificate and broker.key go together".into()));
        }
        if self.broker.ask_secret.as_ref().is_some_and(|secret| secret.expose().len() < 16) {
            return Err(bad("broker.ask_secret has fewer than 16 characters".into()));
        }
        let ranges = [
            ("api.user_token_s", self.api.user_token_s, 60, 31_536_000),
            ("api.requests_per_s", u64::from(self.api.requests_per_s), 1, 100_000),
            ("api.messages_per_s", u64::from(self.api.messages_per_s), 0, 1_000_000),
            ("api.bytes_per_s", u64::from(self.api.bytes_per_s), 0, 4_000_000_000),
            ("broker.max_devices", self.broker.max_devices as u64, 1, 1_000_000),
            ("delivery.ack_deadline_ms", self.delivery.ack_deadline_ms, 100, 300_000),
            ("delivery.reconnect_grace_ms", self.delivery.reconnect_grace_ms, 0, 60_000),
            ("delivery.keep_s", self.delivery.keep_s, 60, 2_592_000),
            ("delivery.trace_s", self.delivery.trace_s, 0, 2_592_000),
            ("delivery.keep_most", u64::from(self.delivery.keep_most), 1, 100_000),
            ("delivery.push_life_s", self.delivery.push_life_s, 60, 2_592_000),
            ("delivery.concurrency", self.delivery.concurrency as u64, 1, 4096),
            ("store.connections", self.store.connections as u64, 1, 64),
            ("vendors.timeout_ms", self.vendors.timeout_ms, 100, 60_000),
            ("vendors.connections", self.vendors.connections, 1, 256),
        ];
        for (key, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(bad(format!("{key} is {value}; {low} to {high}")));
            }
        }
        if !(-1..=300).contains(&self.api.drain_s) {
            return Err(bad(format!("api.drain_s is {}; -1 to 300", self.api.drain_s)));
        }
        self.vendors.ways().map_err(bad)?;
        for (key, url) in self.vendors.hosts.iter() {
            if !url.starts_with("https://") {
                return Err(bad(format!("vendors.{key} is `{url}`; every vendor speaks https only")));
            }
        }
        self.log.check().map_err(bad)?;
        Ok((topics, url))
    }

    /// What decides deliveries.
    pub fn rules(&self) -> Rules {
        let Delivery { ack_deadline_ms, reconnect_grace_ms, keep_s, trace_s, keep_most, push_life_s, policy, .. } =
            self.delivery;
        // A send is four calls at most: a credential and what comes before a batch, each once more. Each may wait
        // half as long again for a connection.
        let lease_ms = self.vendors.timeout_ms * 8 + 1000;
        Rules { ack_deadline_ms, reconnect_grace_ms, push_life_s, keep_s, trace_s, keep_most, lease_ms, policy }
    }

    /// Where the shared store is, if there is one.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] when `store.url` cannot be read.
    pub fn postgres(&self) -> Result<Option<Database>, SettingsError> {
        self.database("store.url", self.store.url.as_ref())
    }

    /// Where notices of other gateways are told and heard.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] when `store.notices_url` cannot be read.
    pub fn notices(&self) -> Result<Option<Database>, SettingsError> {
        self.database("store.notices_url", self.store.notices_url.as_ref().or(self.store.url.as_ref()))
    }

    fn database(&self, key: &str, url: Option<&Secret>) -> Result<Option<Database>, SettingsError> {
        let read = |url: &Secret| Database::parse(url.expose(), self.store.ca_file.as_deref());
        let bad = |why: String| SettingsError::BadValue { message: format!("{key}: {why}") };
        url.map(read).transpose().map_err(bad)
    }

    /// The key's file, and whether it may be made.
    pub fn secrets_key(&self) -> (PathBuf, bool) {
        let credential = settings::service_directory("CREDENTIALS_DIRECTORY").map(|dir| dir.join("secrets.key"));
        match self.paths.secrets_key.clone().or_else(|| credential.filter(|path| path.exists())) {
            Some(given) => (given, false),
            None => (self.state_directory().join("secrets.key"), true),
        }
    }

    pub fn state_directory(&self) -> PathBuf {
        settings::state_directory(self.paths.state.as_deref(), "impush-gateway")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_the_accounts_of_a_mosquitto_needs_one_there() {
        let refused = |text: &str| toml::from_str::<Config>(text).expect("a configuration").check().err();
        let on = "[broker]\ndynamic_security = true\n";
        assert!(refused(on).is_some_and(|why| why.to_string().contains("broker.url")));
        let at = format!("{on}url = 'mqtts://127.0.0.1'\nuser = 'gateway'\n");
        assert!(refused(&at).is_some_and(|why| why.to_string().contains("broker.password")));
        assert!(refused(&format!("{at}password = 'secret'\n")).is_none());
    }

    fn refused(url: &str, password: Option<&str>) -> Option<String> {
        let mut config = Config::default();
        config.broker.url = Some(url.to_owned());
        config.broker.password = password.map(Secret::new);
        config.check().err().map(|error| error.to_string())
    }

    #[test]
    fn a_broker_on_another_machine_that_asks_for_no_login_is_refused() {
        let why = refused("mqtts://broker.example", None);
        assert!(why.as_ref().is_some_and(|why| why.contains("lets anybody in")), "{why:?}");
        assert_eq!(refused("mqtts://broker.example", Some("secret")), None);
        assert_eq!(refused("mqtts://127.0.0.1:8883", None), None, "nobody else reaches it");
    }
}
