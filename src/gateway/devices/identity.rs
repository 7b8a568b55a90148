//! The endpoint's certificate and key: the operator's, or one that the gateway's own authority makes and renews.
//!
//! The authority's key stays in the state directory (`tls/ca.key`), so that a certificate that ends, or one for other
//! names, is made anew under the `ca.pem` that devices trust. An installation whose authority's key was thrown away,
//! as earlier versions did, keeps the certificate it has.

use crate::gateway::config::Broker as Settings;
use crate::gateway::error::ServeError;
use crate::store::write_atomically;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing::info;

/// How long a certificate of the gateway's own is good, in days, and before which rest of it another is made.
const LIFE_DAYS: i64 = 397;
const RENEW_DAYS: i64 = 132;

/// Where the certificate and its key stand.
pub(super) struct Identity {
    files: Files,
    min: MinimumTls,
    tickets: Arc<dyn ProducesTickets>,
}

enum Files {
    Operators { chain: PathBuf, key: PathBuf },
    Own { directory: PathBuf, names: Vec<String> },
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

/// What is known of the certificate that was made last.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    names: Vec<String>,
    /// Seconds since the Unix epoch.
    good_until_s: i64,
}

impl Identity {
    /// # Errors
    /// [`ServeError`]: there is none, and none can be made.
    pub fn of(settings: &Settings, state: &Path, tickets: Arc<dyn ProducesTickets>) -> Result<Self, ServeError> {
        let files = match settings.certificate.clone().zip(settings.key.clone()) {
            Some((chain, key)) => Files::Operators { chain, key },
            None => Files::Own { directory: state.join("tls"), names: settings.names.clone() },
        };
        let identity = Self { files, min: settings.tls_min, tickets };
        identity.renew()?;
        Ok(identity)
    }

    /// The authority devices must trust, where the gateway made it.
    pub fn ca(&self) -> Option<PathBuf> {
        match &self.files {
            Files::Operators { .. } => None,
            Files::Own { directory, .. } => Some(directory.join("ca.pem")),
        }
    }

    /// What TLS works with, as the files are now.
    ///
    /// # Errors
    /// [`ServeError`]: they cannot be used.
    pub fn tls(&self) -> Result<Arc<rustls::ServerConfig>, ServeError> {
        self.renew()?;
        let (chain, key) = match &self.files {
            Files::Operators { chain, key } => (chain.clone(), key.clone()),
            Files::Own { directory, .. } => (directory.join("server.pem"), directory.join("server.key")),
        };
        let bad = |path: &Path, why: &dyn Display| ServeError::Broker(format!("{}: {why}", path.display()));
        let certificates = CertificateDer::pem_file_iter(&chain)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| bad(&chain, &error))?;
        if certificates.is_empty() {
            return Err(bad(&chain, &"there is no certificate in it"));
        }
        let key_der = PrivateKeyDer::from_pem_file(&key).map_err(|error| bad(&key, &error))?;
        let versions: &[_] = match self.min {
            MinimumTls::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            MinimumTls::Tls13 => &[&rustls::version::TLS13],
        };
        let mut config = rustls::ServerConfig::builder_with_protocol_versions(versions)
            .with_no_client_auth()
            .with_single_cert(certificates, key_der)
            .map_err(|error| bad(&chain, &error))?;
        config.ticketer = self.tickets.clone();
        config.send_tls13_tickets = 1;
        Ok(Arc::new(config))
    }

    /// Makes the authority and the certificate where they are missing, for other names, or near their end.
    fn renew(&self) -> Result<(), ServeError> {
        let Files::Own { directory, names } = &self.files else { return Ok(()) };
        let failed = |error: &dyn Display| {
            ServeError::Broker(format!("cannot make a certificate in {}: {error}", directory.display()))
        };
        let file = |name: &str| directory.join(name);
        let (authority_key, made_file) = (file("ca.key"), file("server.json"));
        let made = std::fs::read(&made_file).ok().and_then(|text| serde_json::from_slice::<Made>(&text).ok());
        let there = file("server.pem").exists() && file("server.key").exists();
        let now_s = jiff::Timestamp::now().as_second();
        let good = made.is_some_and(|made| made.names == *names && made.good_until_s > now_s + RENEW_DAYS * 86_400);
        if there && (good || !authority_key.exists()) {
            return Ok(());
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|e| failed(&e))?;
        let mut ca = CertificateParams::new(Vec::<String>::new()).map_err(|e| failed(&e))?;
        ca.distinguished_name.push(DnType::CommonName, "impush gateway authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_key = if authority_key.exists() {
            let pem = std::fs::read_to_string(&authority_key).map_err(|e| failed(&e))?;
            KeyPair::from_pem(&pem).map_err(|e| failed(&e))?
        } else {
            let key = KeyPair::generate().map_err(|e| failed(&e))?;
            write_atomically(&authority_key, key.serialize_pem().as_bytes()).map_err(|e| failed(&e))?;
            let certificate = ca.self_signed(&key).map_err(|e| failed(&e))?;
            write_atomically(&file("ca.pem"), certificate.pem().as_bytes()).map_err(|e| failed(&e))?;
            key
        };
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().map_err(|e| failed(&e))?;
        let mut server = CertificateParams::new(names.clone()).map_err(|e| failed(&e))?;
        server.distinguished_name.push(DnType::CommonName, "impush gateway");
        let day = |at_s: i64| {
            let date = jiff::Timestamp::from_second(at_s).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC).date();
            let (month, day) = (u8::try_from(date.month()).unwrap_or(1), u8::try_from(date.day()).unwrap_or(1));
            rcgen::date_time_ymd(i32::from(date.year()), month, day)
        };
        // A day earlier: the clock of a device may be behind.
        server.not_before = day(now_s - 86_400);
        server.not_after = day(now_s + LIFE_DAYS * 86_400);
        let certificate = server.signed_by(&key, &issuer).map_err(|e| failed(&e))?;
        write_atomically(&file("server.key"), key.serialize_pem().as_bytes()).map_err(|e| failed(&e))?;
        write_atomically(&file("server.pem"), certificate.pem().as_bytes()).map_err(|e| failed(&e))?;
        let made = Made { names: names.clone(), good_until_s: now_s + (LIFE_DAYS - 1) * 86_400 };
        let text = serde_json::to_vec(&made).map_err(|e| failed(&e))?;
        write_atomically(&made_file, &text).map_err(|e| failed(&e))?;
        info!(
            event = "endpoint.certificate_made",
            names = names.join(" "),
            days = LIFE_DAYS,
            "the gateway's authority made a certificate for its endpoint"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(state: &Path, names: &[&str]) -> Identity {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let tickets = Arc::new(super::super::tickets::Tickets::new(crate::secret::Secret::new("s")));
        Identity { files: Files::Own { directory: state.join("tls"), names }, min: MinimumTls::Tls13, tickets }
    }

    fn read(state: &Path, name: &str) -> String {
        std::fs::read_to_string(state.join("tls").join(name)).expect("a file")
    }

    #[test]
    fn other_names_get_a_new_certificate_under_the_authority_that_devices_trust() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let home = tempfile::tempdir().expect("a directory");
        own(home.path(), &["localhost"]).tls().expect("made");
        let (ca, first) = (read(home.path(), "ca.pem"), read(home.path(), "server.pem"));
        own(home.path(), &["localhost"]).tls().expect("kept");
        assert_eq!(read(home.path(), "server.pem"), first);
        own(home.path(), &["push.example"]).tls().expect("made anew");
        assert_ne!(read(home.path(), "server.pem"), first);
        assert_eq!(read(home.path(), "ca.pem"), ca);
    }

    #[test]
    fn a_certificate_that_nears_its_end_is_renewed_and_one_without_its_authoritys_key_stays() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let home = tempfile::tempdir().expect("a directory");
        let identity = own(home.path(), &["localhost"]);
        identity.tls().expect("made");
        let first = read(home.path(), "server.pem");
        let soon = Made { names: vec!["localhost".into()], good_until_s: jiff::Timestamp::now().as_second() + 86_400 };
        let near_its_end = || {
            let text = serde_json::to_vec(&soon).expect("JSON");
            std::fs::write(home.path().join("tls/server.json"), text).expect("written");
        };
        near_its_end();
        identity.tls().expect("renewed");
        let second = read(home.path(), "server.pem");
        assert_ne!(second, first);
        near_its_end();
        std::fs::remove_file(home.path().join("tls/ca.key")).expect("removed");
        identity.tls().expect("kept");
        assert_eq!(read(home.path(), "server.pem"), second);
    }
}
