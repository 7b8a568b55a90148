//! TLS 1.3 with a verified chain and name, always; and what a refused certificate means in words.

use super::MqttError;
use crate::keepalive::Cause;
use crate::secret::hex;
use ring::digest::{SHA256, digest};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where Android keeps its certificate authorities, from Android 14 on and before; elsewhere the platform's own place is
/// found.
const ANDROID_AUTHORITIES: [&str; 2] = ["/apex/com.android.conscrypt/cacerts", "/system/etc/security/cacerts"];
/// Where systems keep them: Debian, Fedora, Alpine and OpenWrt.
const SYSTEM_AUTHORITIES: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem", "/etc/ssl/certs"];

/// Why TLS cannot be set up at all: a matter for the operator.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    #[error("cannot read certificates from {path}: {why}; it must be a PEM file with at least one certificate")]
    Certificates { path: PathBuf, why: String },
    #[error("cannot read the private key from {path}: {why}; it must be a PEM file (PKCS#8, SEC1 or PKCS#1)")]
    Key { path: PathBuf, why: String },
    #[error("this system has no certificate authorities; install them (ca-certificates) or set server.ca_file")]
    NoAuthorities,
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Whom a client trusts and how it proves itself, as it was read.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub config: Arc<ClientConfig>,
    /// How many certificate authorities are trusted.
    pub authorities: usize,
    /// SHA-256 in lower-case hexadecimal: of the authority's certificate, as `openssl x509 -fingerprint -sha256`
    /// prints it; of several, of their digests in order.
    pub fingerprint: String,
    /// The same of the client's own certificate.
    pub own: Option<String>,
}

/// The system's clock, and never earlier than a time that has certainly passed.
#[derive(Debug)]
pub struct TimeFloor(AtomicU64);

impl TimeFloor {
    /// Milliseconds since the Unix epoch.
    pub const fn new(earliest_ms: u64) -> Self {
        Self(AtomicU64::new(earliest_ms))
    }

    pub fn set(&self, earliest_ms: u64) {
        self.0.store(earliest_ms, Ordering::Relaxed);
    }
}

impl TimeProvider for TimeFloor {
    fn current_time(&self) -> Option<UnixTime> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(UnixTime::since_unix_epoch(now.max(Duration::from_millis(self.0.load(Ordering::Relaxed)))))
    }
}

/// A client that trusts `ca_file`, or the system's authorities when there is none. With `identity`
/// (certificate chain file, key file) it also proves itself.
///
/// # Errors
/// [`TlsSetupError`].
pub fn client_config(
    ca_file: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, TlsSetupError> {
    Ok(credentials(ca_file, identity, Arc::new(DefaultTimeProvider))?.config)
}

/// The same with a clock of the caller's, and with what was read.
///
/// # Errors
/// [`TlsSetupError`].
pub fn credentials(
    ca_file: Option<&Path>,
    identity: Option<(&Path, &Path)>,
    time: Arc<dyn TimeProvider>,
) -> Result<Credentials, TlsSetupError> {
    let (roots, fingerprint) = match ca_file {
        Some(path) => {
            let certificates = read_certificates(path)?;
            let fingerprint = fingerprint(&certificates);
            (trusted(certificates, path)?, fingerprint)
        }
        None => system_authorities()?,
    };
    let authorities = roots.len();
    let builder = ClientConfig::builder_with_details(Arc::new(rustls::crypto::ring::default_provider()), time)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let (mut config, own) = match identity {
        Some((chain, key_file)) => {
            let key = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|e| TlsSetupError::Key { path: key_file.to_owned(), why: e.to_string() })?;
            let chain = read_certificates(chain)?;
            let own = fingerprint_of(chain.first());
            (builder.with_client_auth_cert(chain, key)?, own)
        }
        None => (builder.with_no_client_auth(), None),
    };
    // One server, a few endpoints: the default cache for 256 is memory an agent never uses.
    config.resumption = Resumption::in_memory_sessions(4);
    Ok(Credentials { config: Arc::new(config), authorities, fingerprint, own })
}

/// The files and directories whose change may change what [`credentials`] reads.
pub fn sources(ca_file: Option<&Path>, identity: Option<(&Path, &Path)>) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = match ca_file {
        Some(path) => vec![path.to_owned()],
        None => {
            let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
            let system = SYSTEM_AUTHORITIES.iter().chain(&ANDROID_AUTHORITIES).map(PathBuf::from);
            named.chain(system).collect()
        }
    };
    paths.extend(identity.into_iter().flat_map(|(chain, key)| [chain.to_owned(), key.to_owned()]));
    paths
}

fn fingerprint(certificates: &[CertificateDer<'_>]) -> String {
    let mut digests: Vec<_> =
        certificates.iter().map(|certificate| digest(&SHA256, certificate).as_ref().to_vec()).collect();
    digests.sort();
    match digests.as_slice() {
        [one] => hex(one),
        several => hex(digest(&SHA256, &several.concat()).as_ref()),
    }
}

fn fingerprint_of(certificate: Option<&CertificateDer<'_>>) -> Option<String> {
    certificate.map(|certificate| hex(digest(&SHA256, certificate).as_ref()))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let error = |why: String| TlsSetupError::Certificates { path: path.to_owned(), why };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|e| error(e.to_string()))?
        .collect::<Result<_, _>>()
        .map_err(|e| error(e.to_string()))?;
    if certificates.is_empty() { Err(error("no certificate in it".to_owned())) } else { Ok(certificates) }
}

fn trusted(certificates: Vec<CertificateDer<'static>>, path: &Path) -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|e| TlsSetupError::Certificates { path: path.to_owned(), why: e.to_string() })?;
    }
    Ok(roots)
}

fn system_authorities() -> Result<(RootCertStore, String), TlsSetupError> {
    let mut roots = RootCertStore::empty();
    let android = ANDROID_AUTHORITIES.iter().map(Path::new).find(|path| path.is_dir());
    let found = match android {
        Some(android) => rustls_native_certs::load_certs_from_paths(None, Some(android)),
        None => rustls_native_certs::load_native_certs(),
    };
    let fingerprint = fingerprint(&found.certs);
    // Some systems carry authorities whose encoding is off; the rest still count.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() { Err(TlsSetupError::NoAuthorities) } else { Ok((roots, fingerprint)) }
}

/// Names a failed handshake: each way a certificate can be wrong asks for another deed.
pub(super) fn explain(error: &std::io::Error) -> MqttError {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return MqttError::new(Cause::TlsFailed, error.to_string());
    };
    let cause = match tls {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Cause::TlsExpired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Cause::TlsNotYetValid,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Cause::TlsWrongName,
            _ => Cause::TlsUntrusted,
        },
        _ => Cause::TlsFailed,
    };
    MqttError::new(cause, tls.to_string())
}
