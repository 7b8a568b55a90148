//! TLS 1.3 with a verified chain and name, always; and what a refused certificate means in words.

use super::MqttError;
use crate::keepalive::Cause;
use crate::protocol::ENROL_ALPN;
use crate::secret::hex;
use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, OtherError, PeerIncompatible,
    RootCertStore, SignatureScheme,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where Android keeps its certificate authorities, from Android 14 on and before; and OpenHarmony, by its sources
/// alone: nobody has seen that on a device. Elsewhere the platform's own place is found.
const ANDROID_AUTHORITIES: [&str; 3] =
    ["/apex/com.android.conscrypt/cacerts", "/system/etc/security/cacerts", "/etc/security/certificates"];
/// Files in a directory of authorities; Android's have about 150.
const MOST_FILES: usize = 1000;
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

/// Where it stands whom a client trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authorities {
    /// A PEM file, instead of the system's.
    pub file: Option<PathBuf>,
    /// A directory of PEM files, one certificate or more in each, beside them.
    pub added: Option<PathBuf>,
    /// A PEM file of those that a server has told of, which need not be there.
    pub given: Option<PathBuf>,
}

impl Authorities {
    pub fn of_file(file: Option<&Path>) -> Self {
        Self { file: file.map(Path::to_owned), added: None, given: None }
    }
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
    /// Files in directories of authorities that are none, as `path: why`.
    pub refused: Vec<String>,
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

    /// Another time that has passed.
    pub fn raise(&self, earliest_ms: u64) {
        self.0.fetch_max(earliest_ms, Ordering::Relaxed);
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
    Ok(credentials(&Authorities::of_file(ca_file), identity, Arc::new(DefaultTimeProvider))?.config)
}

/// The same with a clock of the caller's, and with what was read.
///
/// # Errors
/// [`TlsSetupError`].
pub fn credentials(
    authorities: &Authorities,
    identity: Option<(&Path, &Path)>,
    time: Arc<dyn TimeProvider>,
) -> Result<Credentials, TlsSetupError> {
    let mut read = match &authorities.file {
        Some(path) => Read { certificates: read_certificates(path)?, refused: Vec::new() },
        None => system_authorities(),
    };
    if let Some(added) = &authorities.added {
        read.extend(read_directory(added));
    }
    if let Some(given) = authorities.given.as_deref().filter(|given| given.exists()) {
        match read_certificates(given) {
            Ok(certificates) => read.extend(Read { certificates, refused: Vec::new() }),
            // It is not what the operator has set up; the link can do without.
            Err(error) => read.refused.push(error.to_string()),
        }
    }
    let fingerprint = fingerprint(&read.certificates);
    let roots = trusted(read.certificates, authorities.file.as_deref())?;
    let (authorities, refused) = (roots.len(), read.refused);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider.clone(), time)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Verifier::of(roots, provider)?);
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
    Ok(Credentials { config: Arc::new(config), authorities, fingerprint, own, refused })
}

/// Whether a PEM text holds authorities, and nothing but good ones: as [`credentials`] takes a file.
pub fn are_authorities(pem: &str) -> bool {
    let mut roots = RootCertStore::empty();
    let mut found = CertificateDer::pem_slice_iter(pem.as_bytes());
    found.all(|one| one.is_ok_and(|certificate| roots.add(certificate).is_ok())) && !roots.is_empty()
}

/// A client for the first connection of all: it trusts one authority, which it knows by the SHA-256 of its certificate
/// alone. The server has to send that certificate in its chain; everything else is checked as ever.
///
/// # Errors
/// [`TlsSetupError`].
pub fn pinned(authority: [u8; 32], time: Arc<dyn TimeProvider>) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Pinned { authority, provider: provider.clone() });
    let mut config = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ENROL_ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Pinned {
    authority: [u8; 32],
    provider: Arc<CryptoProvider>,
}

/// The server's signature of the handshake does not hold, which is another matter than its certificate's.
#[derive(Debug, thiserror::Error)]
#[error("the signature of the handshake does not hold")]
struct NoProof;

/// As rustls verifies, with these authorities.
fn trusting(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    verifier.map_err(|error| rustls::Error::General(error.to_string()))
}

/// As rustls verifies, and tells a signature of the handshake from one in the chain.
#[derive(Debug)]
struct Verifier(Arc<WebPkiServerVerifier>);

impl Verifier {
    fn of(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Arc<Self>, rustls::Error> {
        Ok(Arc::new(Self(trusting(roots, provider)?)))
    }
}

fn proof(verified: Result<HandshakeSignatureValid, rustls::Error>) -> Result<HandshakeSignatureValid, rustls::Error> {
    let bad = rustls::Error::InvalidCertificate(CertificateError::BadSignature);
    verified.map_err(|error| match error == bad {
        true => CertificateError::Other(OtherError(Arc::new(NoProof))).into(),
        false => error,
    })
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        proof(self.0.verify_tls12_signature(message, certificate, signed))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        proof(self.0.verify_tls13_signature(message, certificate, signed))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_it = |sent: &&CertificateDer<'_>| digest(&SHA256, sent).as_ref() == self.authority;
        let found = intermediates.iter().chain([end_entity]).find(is_it);
        let authority = found.ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = trusting(roots, self.provider.clone())?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The files and directories whose change may change what [`credentials`] reads.
pub fn sources(authorities: &Authorities, identity: Option<(&Path, &Path)>) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = match &authorities.file {
        Some(path) => vec![path.clone()],
        None => {
            let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
            let system = SYSTEM_AUTHORITIES.iter().chain(&ANDROID_AUTHORITIES).map(PathBuf::from);
            named.chain(system).collect()
        }
    };
    paths.extend(authorities.added.clone());
    paths.extend(authorities.given.clone());
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

/// What was found, and what of it is no certificate.
#[derive(Debug, Default)]
struct Read {
    certificates: Vec<CertificateDer<'static>>,
    refused: Vec<String>,
}

impl Read {
    fn extend(&mut self, other: Self) {
        self.certificates
            .extend(other.certificates.into_iter().filter(|one| !self.certificates.contains(one)).collect::<Vec<_>>());
        self.refused.extend(other.refused);
    }
}

/// A directory of PEM files, whatever they are called: Android names them by a hash.
fn read_directory(path: &Path) -> Read {
    let mut read = Read::default();
    let listed = match std::fs::read_dir(path) {
        Ok(listed) => listed,
        // Nobody has added any.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return read,
        Err(error) => {
            read.refused.push(format!("{}: {error}", path.display()));
            return read;
        }
    };
    let mut files: Vec<PathBuf> =
        listed.filter_map(|entry| Some(entry.ok()?.path())).filter(|file| file.is_file()).take(MOST_FILES).collect();
    files.sort();
    for file in files {
        match read_certificates(&file) {
            Ok(certificates) => read.certificates.extend(certificates),
            Err(TlsSetupError::Certificates { path, why }) => read.refused.push(format!("{}: {why}", path.display())),
            Err(other) => read.refused.push(other.to_string()),
        }
    }
    read
}

/// Of a file of one's own all must be good. Some systems carry authorities whose encoding is off; the rest still count.
fn trusted(certificates: Vec<CertificateDer<'static>>, own: Option<&Path>) -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = own else {
        roots.add_parsable_certificates(certificates);
        return if roots.is_empty() { Err(TlsSetupError::NoAuthorities) } else { Ok(roots) };
    };
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|e| TlsSetupError::Certificates { path: path.to_owned(), why: e.to_string() })?;
    }
    Ok(roots)
}

fn system_authorities() -> Read {
    let android = ANDROID_AUTHORITIES.iter().map(Path::new).find(|path| path.is_dir());
    match android.map(read_directory) {
        Some(read) if !read.certificates.is_empty() => read,
        _ => Read { certificates: rustls_native_certs::load_native_certs().certs, refused: Vec::new() },
    }
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
            CertificateError::Other(other) if other.0.is::<NoProof>() => Cause::TlsBadSignature,
            _ => Cause::TlsUntrusted,
        },
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
        | rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13 | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => Cause::TlsVersion,
        _ => Cause::TlsFailed,
    };
    MqttError::new(cause, tls.to_string())
}

/// What a server holds against the device's own certificate: in TLS 1.3 it comes once the handshake is over here.
pub(super) fn about_own_certificate(error: &std::io::Error) -> Option<MqttError> {
    use rustls::AlertDescription as Alert;
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        alert @ rustls::Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::UnknownCA,
        ) => Some(MqttError::new(Cause::TlsOwnCertificate, alert.to_string())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(name: &str) -> String {
        rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("made").cert.pem()
    }

    fn authority() -> (CertificateDer<'static>, rcgen::Issuer<'static, rcgen::KeyPair>) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
        // Whoever makes one in another's place gives it the same name.
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signed");
        (certificate.der().clone(), rcgen::Issuer::new(params, key))
    }

    fn issued(by: &rcgen::Issuer<'static, rcgen::KeyPair>, days_ago: i64) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::new(vec!["push.example".to_owned()]).expect("parameters");
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::days(days_ago + 10);
        params.not_after = now - time::Duration::days(days_ago - 10);
        let key = rcgen::KeyPair::generate().expect("a key");
        params.signed_by(&key, by).expect("signed").der().clone()
    }

    #[test]
    fn only_a_chain_that_leads_to_the_pinned_authority_is_taken_and_only_for_its_name_and_time() {
        let ((root, issuer), (other_root, other)) = (authority(), authority());
        let of = |root: &CertificateDer<'_>| digest(&SHA256, root).as_ref().try_into().expect("32 bytes");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let pinned = Pinned { authority: of(&root), provider };
        let verify = |leaf: &CertificateDer<'static>, chain: &[&CertificateDer<'static>], name: &'static str| {
            let chain: Vec<CertificateDer<'static>> = chain.iter().map(|one| (*one).clone()).collect();
            let name = ServerName::try_from(name).expect("a name");
            let now = DefaultTimeProvider.current_time().expect("a clock");
            pinned.verify_server_cert(leaf, &chain, &name, &[], now).map(drop)
        };
        let leaf = issued(&issuer, 0);
        assert_eq!(verify(&leaf, &[&root], "push.example"), Ok(()));
        let foreign = issued(&other, 0);
        let untrusted = Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert_eq!(verify(&foreign, &[&other_root], "push.example"), untrusted, "another authority");
        assert_eq!(verify(&leaf, &[], "push.example"), untrusted, "the authority was not sent");
        assert!(verify(&foreign, &[&root], "push.example").is_err(), "the right authority beside a leaf of another's");
        assert!(verify(&foreign, &[&other_root, &root], "push.example").is_err(), "and beside its own");
        assert!(verify(&leaf, &[&root], "other.example").is_err(), "another name");
        assert!(verify(&issued(&issuer, 30), &[&root], "push.example").is_err(), "expired");
        assert!(verify(&issued(&issuer, -30), &[&root], "push.example").is_err(), "not valid yet");
    }

    #[test]
    fn authorities_are_good_before_they_are_kept() {
        let one = pem("one");
        assert!(are_authorities(&one) && are_authorities(&format!("{one}{}", pem("two"))));
        for bad in ["", "no certificate", &one[..one.len() / 2], &format!("{one}{}", one.replace("MI", "AA"))] {
            assert!(!are_authorities(bad), "{bad}");
        }
    }

    #[test]
    fn a_directory_of_authorities_is_trusted_beside_the_others_and_what_is_none_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, added) = (dir.path().join("ca.pem"), dir.path().join("cacerts-added"));
        std::fs::create_dir(&added).expect("made");
        let own = pem("own");
        std::fs::write(&file, &own).expect("written");
        // As Android writes them: named by a hash, and with the certificate as text behind it.
        std::fs::write(added.join("5ed36f99.0"), format!("{}Certificate:\n    Data:\n", pem("added")))
            .expect("written");
        std::fs::write(added.join("9a5ba575.0"), &own).expect("written");
        std::fs::write(added.join("notes"), "no certificate").expect("written");
        let authorities = Authorities { added: Some(added.clone()), ..Authorities::of_file(Some(&file)) };
        let read = credentials(&authorities, None, Arc::new(DefaultTimeProvider)).expect("read");
        assert_eq!(read.authorities, 2, "the same one twice is one");
        assert!(read.refused.len() == 1 && read.refused[0].contains("notes: no certificate"), "{:?}", read.refused);
        assert!(sources(&authorities, None).contains(&added));
        let gone = Authorities { added: Some(dir.path().join("gone")), ..Authorities::of_file(Some(&file)) };
        let read = credentials(&gone, None, Arc::new(DefaultTimeProvider)).expect("nobody has added any");
        assert_eq!((read.authorities, read.refused.len()), (1, 0));
    }
}
