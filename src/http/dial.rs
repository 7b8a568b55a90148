//! How a connection to a host is made: name, TCP, TLS, and which HTTP it speaks (RFC 7301).

use super::{Ways, chain};
use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service as _;

/// What was written and is not acknowledged for so long ends a connection (Linux's `TCP_USER_TIMEOUT`): a
/// path that swallows everything is else noticed after a quarter of an hour.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// Whom connections are made to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub tls: bool,
    pub host: String,
    pub port: u16,
}

impl Origin {
    /// # Errors
    /// A sentence that says what the address lacks.
    pub fn of(uri: &Uri) -> Result<Self, String> {
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("the address begins neither with https:// nor with http://".to_owned()),
        };
        let host = uri.host().ok_or("the address names no host")?.to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host, port })
    }

    /// The `Host` of a request (RFC 9110, section 7.2).
    pub fn authority(&self) -> String {
        let usual = if self.tls { 443 } else { 80 };
        if self.port == usual { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

/// A connection that was just made.
pub(super) enum Dialled {
    Plain(TcpStream),
    Tls { stream: Box<TlsStream<TcpStream>>, multiplexed: bool },
}

#[derive(Debug)]
pub(super) struct Dialer {
    tcp: HttpConnector,
    tls: Arc<rustls::ClientConfig>,
    /// A call's time.
    pub patience: Duration,
    ways: Ways,
    numbers: AtomicU64,
}

impl Dialer {
    /// # Errors
    /// A sentence that names the file or the missing authorities.
    pub fn new(ca_file: Option<&Path>, patience: Duration) -> Result<Self, String> {
        let mut roots = rustls::RootCertStore::empty();
        match ca_file {
            Some(path) => {
                let certificates =
                    CertificateDer::pem_file_iter(path).map_err(|e| format!("{}: {e}", path.display()))?;
                for certificate in certificates {
                    let certificate = certificate.map_err(|e| format!("{}: {e}", path.display()))?;
                    roots.add(certificate).map_err(|e| format!("{}: {e}", path.display()))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err("no certificate authority to trust; install ca-certificates or set a ca_file".to_owned());
        }
        // TLS 1.2 too: not every vendor's servers speak 1.3.
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // A request whose last piece waits for an acknowledgement costs 40 ms.
        tcp.set_nodelay(true);
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        Ok(Self { tcp, tls: Arc::new(tls), patience, ways: Ways::default(), numbers: AtomicU64::new(1) })
    }

    pub fn by(&self, ways: Ways) -> Self {
        let (tcp, tls, patience) = (self.tcp.clone(), self.tls.clone(), self.patience);
        Self { tcp, tls, patience, ways, numbers: AtomicU64::new(1) }
    }

    /// A number for a connection, or for a try to make one.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// # Errors
    /// A sentence that says at which step it failed.
    pub async fn dial(&self, origin: &Origin) -> Result<Dialled, String> {
        // A call that waits for a dial hears what became of it, and does not time out beside it.
        let limit = self.patience * 3 / 4;
        let late = || format!("no connection within {} ms", limit.as_millis());
        tokio::time::timeout(limit, self.steps(origin)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn steps(&self, origin: &Origin) -> Result<Dialled, String> {
        let proxy = self.ways.to(&origin.host);
        let (host, port) = proxy.map_or((origin.host.as_str(), origin.port), |proxy| (&proxy.host, proxy.port));
        let in_brackets =
            if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
        let uri: Uri = format!("http://{in_brackets}:{port}/").parse().map_err(|e| format!("{host}: {e}"))?;
        let mut tcp = self.tcp.clone();
        std::future::poll_fn(|context| tcp.poll_ready(context)).await.map_err(|e| chain(&e))?;
        let stream: TokioIo<TcpStream> = tcp.call(uri).await.map_err(|e| chain(&e))?;
        let mut stream = stream.into_inner();
        let name = origin.host.trim_start_matches('[').trim_end_matches(']');
        if let Some(proxy) = proxy {
            stream = proxy.open(stream, name, origin.port).await.map_err(|e| format!("the proxy: {e}"))?;
        }
        if !origin.tls {
            return Ok(Dialled::Plain(stream));
        }
        let name = ServerName::try_from(name.to_owned()).map_err(|e| format!("{}: {e}", origin.host))?;
        let stream = TlsConnector::from(self.tls.clone())
            .connect(name, stream)
            .await
            .map_err(|e| format!("TLS: {}", chain(&e)))?;
        let multiplexed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Dialled::Tls { stream: Box::new(stream), multiplexed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_scheme_or_host_is_refused() {
        for bad in ["/path", "ftp://host/", "host:80"] {
            assert!(Origin::of(&bad.parse().expect("a URI")).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_authority_names_a_port_only_where_it_is_not_the_usual_one() {
        let authority = |text: &str| Origin::of(&text.parse().expect("a URI")).expect("an origin").authority();
        assert_eq!(authority("https://a.example/x"), "a.example");
        assert_eq!(authority("https://a.example:8443/x"), "a.example:8443");
        assert_eq!(authority("http://[::1]:80/x"), "[::1]");
    }
}
