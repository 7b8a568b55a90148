//! The embedded broker: TLS for devices, a loopback listener for the gateway itself, and an ACL that
//! lets a device reach its own three topics and nothing else.

use super::broker::{Access, Broker, Reach};
use super::config::Broker as Settings;
use super::door::{Door, Refused};
use super::error::ServeError;
use crate::mqtt::{Endpoint, client_config};
use crate::protocol::{GATEWAY_CLIENT_PREFIX, MAX_PACKET, SESSION_EXPIRY_S};
use crate::secret::{Secret, random_hex};
use crate::store::write_atomically;
use mqtt5::broker::MqttBroker;
use mqtt5::broker::auth::{AuthProvider, AuthResult};
use mqtt5::broker::config::{BrokerConfig, StorageBackend, StorageConfig, TlsConfig};
use mqtt5::broker::server::BrokerShutdownHandle;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// The running broker.
pub(super) struct Embedded {
    access: Access,
    reach: Reach,
    shutdown: BrokerShutdownHandle,
    task: JoinHandle<()>,
}

impl Embedded {
    pub async fn start(settings: &Settings, door: Door, state: &Path) -> Result<Self, ServeError> {
        let identity = match settings.certificate.clone().zip(settings.key.clone()) {
            Some((chain, key)) => Identity { chain, key, ca: None },
            None => Identity::make(state, &settings.names)?,
        };
        let password = Secret::new(random_hex::<24>());
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = BrokerConfig::new()
            .with_bind_addresses(vec![loopback])
            .with_tls(TlsConfig::new(identity.chain.clone(), identity.key.clone()).with_bind_address(settings.listen))
            .with_max_clients(settings.max_devices + 2)
            .with_maximum_qos(1)
            .with_max_packet_size(MAX_PACKET as usize)
            .with_session_expiry(Duration::from_secs(u64::from(SESSION_EXPIRY_S)))
            .with_max_subscriptions_per_client(8)
            .with_sys_topics_enabled(false)
            // The offline queue is the gateway's store; what the broker keeps is a bridge over gaps.
            .with_storage(StorageConfig::new().with_backend(StorageBackend::Memory));
        let failed = |e: mqtt5::error::MqttError| {
            ServeError::Broker(format!("the embedded broker cannot start on {}: {e}", settings.listen))
        };
        let guard = Guard { door, password: password.clone() };
        let mut broker = MqttBroker::with_config(config).await.map_err(failed)?.with_auth_provider(Arc::new(guard));
        let missing = || ServeError::Broker("the embedded broker has no address".to_owned());
        let (inner, outer) = (broker.local_addr().ok_or_else(missing)?, broker.tls_local_addr().ok_or_else(missing)?);
        let (shutdown, mut ready) = (broker.shutdown_handle(), broker.ready_receiver());
        let task = tokio::spawn(async move {
            if let Err(error) = broker.run().await {
                tracing::error!(event = "broker.failed", %error, "the embedded broker ended");
            }
        });
        tokio::time::timeout(Duration::from_secs(10), ready.wait_for(|ready| *ready))
            .await
            .map_err(|_| missing())?
            .map_err(|_| missing())?;
        Ok(Self {
            access: Access {
                endpoint: Endpoint { host: inner.ip().to_string(), port: inner.port(), tls: false, path: None },
                tls: client_config(Some(&identity.chain), None)?,
                client_id: format!("{GATEWAY_CLIENT_PREFIX}self"),
                user: "gateway".to_owned(),
                password,
                shared: false,
                events: false,
            },
            reach: Reach { address: outer, ca_file: identity.ca },
            shutdown,
            task,
        })
    }
}

impl Broker for Embedded {
    fn access(&self) -> Access {
        self.access.clone()
    }

    fn reach(&self) -> Option<Reach> {
        Some(self.reach.clone())
    }

    fn starts_empty(&self) -> bool {
        true
    }

    fn stop(self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            self.shutdown.shutdown();
            // It says goodbye to every device; beyond that the sockets are simply closed.
            drop(tokio::time::timeout(Duration::from_secs(3), self.task).await);
        })
    }
}

/// Files of a certificate chain and its key.
struct Identity {
    chain: PathBuf,
    key: PathBuf,
    ca: Option<PathBuf>,
}

impl Identity {
    /// The gateway's own authority and certificate, made once. Devices trust `ca.pem`.
    fn make(state: &Path, names: &[String]) -> Result<Self, ServeError> {
        let directory = state.join("tls");
        let made = Self {
            chain: directory.join("server.pem"),
            key: directory.join("server.key"),
            ca: Some(directory.join("ca.pem")),
        };
        if made.chain.exists() && made.key.exists() {
            return Ok(made);
        }
        let tls = |e: &dyn std::fmt::Display| {
            ServeError::Broker(format!("cannot make a certificate in {}: {e}", directory.display()))
        };
        std::fs::create_dir_all(&directory).map_err(|e| tls(&e))?;
        let ca_key = KeyPair::generate().map_err(|e| tls(&e))?;
        let mut ca = CertificateParams::new(Vec::<String>::new()).map_err(|e| tls(&e))?;
        ca.distinguished_name.push(DnType::CommonName, "impush gateway authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_certificate = ca.self_signed(&ca_key).map_err(|e| tls(&e))?;
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().map_err(|e| tls(&e))?;
        let mut server = CertificateParams::new(names.to_vec()).map_err(|e| tls(&e))?;
        server.distinguished_name.push(DnType::CommonName, "impush gateway");
        let certificate = server.signed_by(&key, &issuer).map_err(|e| tls(&e))?;
        write_atomically(&directory.join("ca.pem"), ca_certificate.pem().as_bytes()).map_err(|e| tls(&e))?;
        write_atomically(&made.key, key.serialize_pem().as_bytes()).map_err(|e| tls(&e))?;
        write_atomically(&made.chain, certificate.pem().as_bytes()).map_err(|e| tls(&e))?;
        Ok(made)
    }
}

/// The door, with the gateway's own entrance beside it.
struct Guard {
    door: Door,
    password: Secret,
}

impl Guard {
    fn check(
        &self,
        connect: &mqtt5::packet::connect::ConnectPacket,
        from: SocketAddr,
    ) -> Result<(), (mqtt5::types::ReasonCode, String)> {
        use mqtt5::types::ReasonCode as Code;
        let password = connect.password.as_deref().and_then(|p| std::str::from_utf8(p).ok()).unwrap_or_default();
        if connect.client_id.starts_with(GATEWAY_CLIENT_PREFIX) {
            let own = from.ip().is_loopback() && password == self.password.expose();
            return if own { Ok(()) } else { Err((Code::NotAuthorized, "not the gateway".to_owned())) };
        }
        self.door.enter(&connect.client_id, connect.username.as_deref(), password).map_err(|refused| {
            let code = match refused {
                Refused::ClientId(_) => Code::ClientIdentifierNotValid,
                Refused::Token(_) => Code::BadUsernameOrPassword,
                Refused::NotItsOwn => Code::NotAuthorized,
                Refused::Crowded => Code::ServerBusy,
            };
            (code, refused.to_string())
        })?;
        // A will is a publish in waiting: the same topics bound it.
        match &connect.will {
            Some(will) if !self.door.may_publish(&connect.client_id, &will.topic) => {
                Err((Code::NotAuthorized, "the will is not on an own topic".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl AuthProvider for Guard {
    fn authenticate<'a>(
        &'a self,
        connect: &'a mqtt5::packet::connect::ConnectPacket,
        from: SocketAddr,
    ) -> Answer<'a, mqtt5::error::Result<AuthResult>> {
        let result = match self.check(connect, from) {
            Ok(()) => AuthResult::success_with_user(connect.client_id.clone()),
            Err((code, reason)) => {
                tracing::info!(event = "broker.refused", client = %connect.client_id, reason, "a connection was refused");
                AuthResult::fail_with_reason(code, reason)
            }
        };
        Box::pin(async move { Ok(result) })
    }

    fn authorize_publish<'a>(&'a self, client_id: &str, _user: Option<&'a str>, topic: &'a str) -> Answer<'a, bool> {
        let allowed = client_id.starts_with(GATEWAY_CLIENT_PREFIX) || self.door.may_publish(client_id, topic);
        Box::pin(async move { allowed })
    }

    fn authorize_subscribe<'a>(&'a self, client_id: &str, _user: Option<&'a str>, filter: &'a str) -> Answer<'a, bool> {
        let allowed = client_id.starts_with(GATEWAY_CLIENT_PREFIX) || self.door.may_subscribe(client_id, filter);
        Box::pin(async move { allowed })
    }
}
