//! The broker the gateway works through, where devices are not on its own endpoint: any MQTT 5 broker.

use super::config::Broker as Settings;
use super::error::ServeError;
use crate::mqtt::{Endpoint, client_config};
use crate::protocol::GATEWAY_CLIENT_PREFIX;
use crate::secret::{Secret, random_hex};
use rustls::ClientConfig;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// How the gateway's own MQTT client gets in.
#[derive(Debug, Clone)]
pub struct Access {
    pub endpoint: Endpoint,
    pub tls: Arc<ClientConfig>,
    pub client_id: String,
    pub user: String,
    pub password: Secret,
    /// `$share` groups split the work between several gateways.
    pub shared: bool,
    /// It tells of its clients' connections.
    pub events: bool,
}

/// Where devices reach the broker, for the operator's eyes.
#[derive(Debug, Clone)]
pub struct Reach {
    pub address: SocketAddr,
    /// The authority devices must trust, when the gateway made it.
    pub ca_file: Option<PathBuf>,
}

/// A broker somebody else runs. Only plain MQTT 5 is asked of it.
#[derive(Debug)]
pub(super) struct External(Access);

impl External {
    pub fn new(settings: &Settings, endpoint: Endpoint) -> Result<Self, ServeError> {
        Ok(Self(Access {
            endpoint,
            tls: client_config(settings.ca_file.as_deref(), None)?,
            client_id: format!("{GATEWAY_CLIENT_PREFIX}{}", random_hex::<6>()),
            user: settings.user.clone().unwrap_or_default(),
            password: settings.password.clone().unwrap_or_default(),
            shared: settings.shared_subscriptions,
            events: settings.client_events,
        }))
    }
}

impl External {
    pub fn access(&self) -> Access {
        self.0.clone()
    }
}
