//! TLS 1.3 with a verified chain and name, always; and what a refused certificate means in words.

use super::MqttError;
use crate::keepalive::Cause;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where Android keeps its certificate authorities; elsewhere the platform's own place is found.
const ANDROID_AUTHORITIES: &str = "/system/etc/security/cacerts";

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

/// A client that trusts `ca_file`, or the system's authorities when there is none. With `identity`
/// (certificate chain file, key file) it also proves itself.
///
/// # Errors
/// [`TlsSetupError`].
pub fn client_config(
    ca_file: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let roots = match ca_file {
        Some(path) => trusted(read_certificates(path)?, path)?,
        None => system_authorities()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut config = match identity {
        Some((chain, key_file)) => {
            let key = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|e| TlsSetupError::Key { path: key_file.to_owned(), why: e.to_string() })?;
            builder.with_client_auth_cert(read_certificates(chain)?, key)?
        }
        None => builder.with_no_client_auth(),
    };
    // One server, a few endpoints: the default cache for 256 is memory an agent never uses.
    config.resumption = Resumption::in_memory_sessions(4);
    Ok(Arc::new(config))
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

fn system_authorities() -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    let android = Path::new(ANDROID_AUTHORITIES);
    let found = if android.is_dir() {
        rustls_native_certs::load_certs_from_paths(None, Some(android))
    } else {
        rustls_native_certs::load_native_certs()
    };
    // Some systems carry authorities whose encoding is off; the rest still count.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() { Err(TlsSetupError::NoAuthorities) } else { Ok(roots) }
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
