//! The endpoint's certificate and key: the operator's, or one that the gateway's own authority makes and renews.
//!
//! A certificate that ends, or one for other names, is made anew under the `ca.pem` that devices trust. An installation
//! without its authority's key keeps the certificate it has.

use super::authority::Authority;
use super::tickets::Tickets;
use crate::gateway::config::{Broker as Settings, MinimumTls};
use crate::gateway::error::ServeError;
use crate::protocol::ENROL_ALPN;
use crate::secret::Secret;
use crate::store::write_atomically;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::info;

/// How long a certificate of the gateway's own is good, in days, and before which rest of it another is made.
const LIFE_DAYS: i64 = 397;
const RENEW_DAYS: i64 = 132;

/// Where the certificate and its key stand.
pub(in crate::gateway) struct Identity {
    /// The files as they were when they were read last.
    read: Mutex<[Option<Stamp>; 2]>,
    files: Files,
    min: MinimumTls,
    tickets: Arc<dyn ProducesTickets>,
}

/// Inode, size, and when it was written.
type Stamp = (u64, u64, i64, i64);

enum Files {
    Operators { chain: PathBuf, key: PathBuf },
    Own { directory: PathBuf, names: Vec<String>, authority: Option<Authority> },
}

/// The chain that is presented: up to the authority only where it is asked for, since it costs every device bytes with
/// each handshake.
#[derive(Debug)]
struct Chains {
    usual: Arc<CertifiedKey>,
    whole: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Chains {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let enrols = hello.alpn().is_some_and(|mut names| names.any(|name| name == ENROL_ALPN));
        Some(if enrols { self.whole.clone() } else { self.usual.clone() })
    }
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
    pub fn of(
        settings: &Settings,
        state: &Path,
        ticket_secret: Secret,
        authority: Option<Authority>,
    ) -> Result<Self, ServeError> {
        let files = match settings.certificate.clone().zip(settings.key.clone()) {
            Some((chain, key)) => Files::Operators { chain, key },
            None => Files::Own { directory: state.join("tls"), names: settings.names.clone(), authority },
        };
        let tickets = Arc::new(Tickets::new(ticket_secret));
        let identity = Self { read: Mutex::default(), files, min: settings.tls_min, tickets };
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
        // Before they are read: what changes meanwhile is found out.
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = self.stamp();
        let [chain, key] = self.paths();
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
        let builder = rustls::ServerConfig::builder_with_protocol_versions(versions).with_no_client_auth();
        let whole = self.up_to_the_authority(&certificates);
        let certified = |chain_der: Vec<CertificateDer<'static>>| {
            let key = CertifiedKey::from_der(chain_der, key_der.clone_key(), builder.crypto_provider());
            key.map(Arc::new).map_err(|error| bad(&chain, &error))
        };
        let chains = Chains { usual: certified(certificates)?, whole: certified(whole)? };
        let mut config = builder.with_cert_resolver(Arc::new(chains));
        config.ticketer = self.tickets.clone();
        config.send_tls13_tickets = 1;
        Ok(Arc::new(config))
    }

    /// A chain with the gateway's own authority at its end. An operator's chain is as it is.
    fn up_to_the_authority(&self, chain: &[CertificateDer<'static>]) -> Vec<CertificateDer<'static>> {
        let authority = self.ca().and_then(|path| CertificateDer::from_pem_file(path).ok());
        chain.iter().cloned().chain(authority.filter(|authority| !chain.contains(authority))).collect()
    }

    /// Whether the files are others than those that were read last, or the gateway's own certificate is to be renewed.
    pub fn has_changed(&self) -> bool {
        self.stamp() != *self.read.lock().unwrap_or_else(PoisonError::into_inner) || self.is_due()
    }

    fn paths(&self) -> [PathBuf; 2] {
        match &self.files {
            Files::Operators { chain, key } => [chain.clone(), key.clone()],
            Files::Own { directory, .. } => ["server.pem", "server.key"].map(|name| directory.join(name)),
        }
    }

    /// What tells a file from the one that was there before.
    fn stamp(&self) -> [Option<Stamp>; 2] {
        self.paths().map(|path| {
            let about = std::fs::metadata(path).ok()?;
            Some((about.ino(), about.len(), about.mtime(), about.mtime_nsec()))
        })
    }

    /// The gateway's own certificate is missing, of another authority or for other names, or nears its end; and it can be
    /// made.
    fn is_due(&self) -> bool {
        let Files::Own { directory, names, authority } = &self.files else { return false };
        let [chain, key] = self.paths();
        let there = chain.exists() && key.exists();
        let Some(authority) = authority else { return !there };
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
        let made = serde_json::from_str::<Made>(&read("server.json")).ok();
        let until_s = jiff::Timestamp::now().as_second() + RENEW_DAYS * 86_400;
        let good = made.is_some_and(|made| made.names == *names && made.good_until_s > until_s);
        !there || !good || read("ca.pem") != authority.certificate
    }

    /// Makes the certificate where it is due.
    fn renew(&self) -> Result<(), ServeError> {
        let Files::Own { directory, names, authority } = &self.files else { return Ok(()) };
        if !self.is_due() {
            return Ok(());
        }
        let failed = |error: &dyn Display| {
            ServeError::Broker(format!("cannot make a certificate in {}: {error}", directory.display()))
        };
        let authority = authority.as_ref().ok_or_else(|| failed(&"the authority's key cannot be read"))?;
        let issuer = authority.issuer().map_err(|e| failed(&e))?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|e| failed(&e))?;
        let now_s = jiff::Timestamp::now().as_second();
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
        let made = Made { names: names.clone(), good_until_s: now_s + (LIFE_DAYS - 1) * 86_400 };
        let made = serde_json::to_string(&made).map_err(|e| failed(&e))?;
        for (name, text) in [
            ("ca.pem", &authority.certificate),
            ("server.key", &key.serialize_pem()),
            ("server.pem", &certificate.pem()),
            ("server.json", &made),
        ] {
            write_atomically(&directory.join(name), text.as_bytes()).map_err(|e| failed(&e))?;
        }
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

    fn own(state: &Path, names: &[&str], authority: Option<&Authority>) -> Identity {
        let (directory, names) = (state.join("tls"), names.iter().map(|name| (*name).to_owned()).collect());
        let files = Files::Own { directory, names, authority: authority.cloned() };
        let tickets = Arc::new(Tickets::new(Secret::new("s")));
        Identity { read: Mutex::default(), files, min: MinimumTls::Tls13, tickets }
    }

    fn read(state: &Path, name: &str) -> String {
        std::fs::read_to_string(state.join("tls").join(name)).expect("a file")
    }

    #[test]
    fn other_names_get_a_new_certificate_under_the_authority_that_devices_trust() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let home = tempfile::tempdir().expect("a directory");
        let authority = Authority::made().expect("an authority");
        own(home.path(), &["localhost"], Some(&authority)).tls().expect("made");
        let (ca, first) = (read(home.path(), "ca.pem"), read(home.path(), "server.pem"));
        assert_eq!(ca, authority.certificate);
        own(home.path(), &["localhost"], Some(&authority)).tls().expect("kept");
        assert_eq!(read(home.path(), "server.pem"), first);
        own(home.path(), &["push.example"], Some(&authority)).tls().expect("made anew");
        assert_ne!(read(home.path(), "server.pem"), first);
        assert_eq!(read(home.path(), "ca.pem"), ca);
    }

    #[test]
    fn a_certificate_that_nears_its_end_is_renewed_and_one_without_its_authoritys_key_stays() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let home = tempfile::tempdir().expect("a directory");
        let authority = Authority::made().expect("an authority");
        let identity = own(home.path(), &["localhost"], Some(&authority));
        identity.tls().expect("made");
        assert!(!identity.has_changed());
        let first = read(home.path(), "server.pem");
        let soon = Made { names: vec!["localhost".into()], good_until_s: jiff::Timestamp::now().as_second() + 86_400 };
        let near_its_end = || {
            let text = serde_json::to_vec(&soon).expect("JSON");
            std::fs::write(home.path().join("tls/server.json"), text).expect("written");
        };
        near_its_end();
        assert!(identity.has_changed());
        identity.tls().expect("renewed");
        let second = read(home.path(), "server.pem");
        assert!(second != first && !identity.has_changed());
        near_its_end();
        let without = own(home.path(), &["localhost"], None);
        without.tls().expect("kept");
        assert!(read(home.path(), "server.pem") == second && !without.has_changed());
    }

    /// The certificates that a client sees which offers these protocols.
    fn presented(tls: &Arc<rustls::ServerConfig>, root: &str, alpn: &[&[u8]]) -> Vec<CertificateDer<'static>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(root.as_bytes()).expect("a certificate")).expect("an authority");
        let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = "localhost".try_into().expect("a name");
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut server = rustls::ServerConnection::new(tls.clone()).expect("a server");
        while client.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).expect("written");
            server.read_tls(&mut wire.as_slice()).expect("read");
            server.process_new_packets().expect("good");
            let mut wire = Vec::new();
            server.write_tls(&mut wire).expect("written");
            client.read_tls(&mut wire.as_slice()).expect("read");
            client.process_new_packets().expect("good");
        }
        assert_eq!(client.alpn_protocol(), None, "no protocol is agreed on");
        client.peer_certificates().expect("a chain").iter().map(|one| one.clone().into_owned()).collect()
    }

    #[test]
    fn the_authority_goes_along_for_a_device_that_enrols_and_for_no_other() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let home = tempfile::tempdir().expect("a directory");
        let authority = Authority::made().expect("an authority");
        let tls = own(home.path(), &["localhost"], Some(&authority)).tls().expect("made");
        let seen = |alpn: &[&[u8]]| presented(&tls, &authority.certificate, alpn);
        let whole = seen(&[b"other", ENROL_ALPN]);
        let authority = CertificateDer::from_pem_slice(authority.certificate.as_bytes()).expect("a certificate");
        assert_eq!((whole.len(), &whole[1]), (2, &authority));
        assert_eq!((seen(&[]).len(), seen(&[b"mqtt"]).len()), (1, 1));
    }

    #[test]
    fn files_that_an_operator_replaces_are_noticed() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let home = tempfile::tempdir().expect("a directory");
        let write = || {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made");
            std::fs::write(home.path().join("chain"), made.cert.pem()).expect("written");
            std::fs::write(home.path().join("key"), made.signing_key.serialize_pem()).expect("written");
        };
        write();
        let (chain, key) = (home.path().join("chain"), home.path().join("key"));
        let tickets = Arc::new(Tickets::new(Secret::new("s")));
        let files = Files::Operators { chain: chain.clone(), key };
        let identity = Identity { read: Mutex::default(), files, min: MinimumTls::Tls13, tickets };
        identity.tls().expect("good");
        assert!(!identity.has_changed());
        std::fs::write(&chain, "half of it").expect("written");
        assert!(identity.has_changed() && identity.tls().is_err());
        assert!(!identity.has_changed(), "it is said once");
        write();
        assert!(identity.has_changed() && identity.tls().is_ok() && !identity.has_changed());
    }
}
