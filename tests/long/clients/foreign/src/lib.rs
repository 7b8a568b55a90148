//! What both clients are: a device of the protocol's page, and TLS that trusts one file.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::sync::Arc;

pub type Failed = Box<dyn std::error::Error>;

pub struct Device {
    pub port: u16,
    pub token: String,
    pub name: String,
    pub tls: Arc<ClientConfig>,
    nonce: String,
}

impl Device {
    /// `PORT CA TOKEN DEVICE`.
    pub fn of_arguments() -> Result<Self, Failed> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let [port, ca, token, name] = arguments.as_slice() else { return Err("PORT CA TOKEN DEVICE".into()) };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca)? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let nonce = format!("{:016x}", std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos());
        Ok(Self { port: port.parse()?, token: token.clone(), name: name.clone(), tls: Arc::new(tls), nonce })
    }

    pub fn client_id(&self) -> String {
        format!("ann:{}@org%23app", self.name)
    }

    pub fn topic(&self, leg: &str) -> String {
        format!("im/v1/org%23app/ann/{}/{leg}", self.name)
    }

    pub fn state(&self, online: bool) -> String {
        json!({"v": 1, "online": online, "nonce": self.nonce}).to_string()
    }

    pub fn hello(&self, agent: &str) -> String {
        let Self { nonce, name, .. } = self;
        json!({"v": 1, "type": "hello", "nonce": nonce, "agent": agent, "channel": "none", "platform": "linux", "login": name})
            .to_string()
    }

    /// What a message is answered with, and its text. `None`: it is another word.
    pub fn taken(payload: &[u8]) -> Result<Option<([String; 2], String)>, Failed> {
        let said: Value = serde_json::from_slice(payload)?;
        if said["type"] != "message" {
            return Ok(None);
        }
        let ids = json!([said["id"]]);
        let ack = json!({"v": 1, "type": "ack", "ids": ids, "attached": true}).to_string();
        let taken = json!({"v": 1, "type": "taken", "ids": ids}).to_string();
        Ok(Some(([ack, taken], said["body"]["msg"].as_str().unwrap_or_default().to_owned())))
    }
}
