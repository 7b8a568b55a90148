//! An HTTPS client: one pool of connections, a time limit on every call, bounded answers.

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Largest answer that is read, in bytes; a batch answer naming a thousand tokens stays below it.
const MAX_ANSWER: usize = 1024 * 1024;
/// Idle connections kept to one host: as many as calls are made to it at once, or each burst would dial anew.
const IDLE_PER_HOST: usize = 256;

/// Why a call gave no answer. All of them may pass.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("no answer within {0} ms")]
    Timeout(u128),
    #[error("the connection failed: {0}")]
    Connection(String),
    #[error("the answer broke off: {0}")]
    Body(String),
    #[error("the request could not be written: {0}")]
    Request(String),
}

impl HttpError {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Connection(_) => "connection",
            Self::Body(_) => "body",
            Self::Request(_) => "request",
        }
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A shared client.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
}

impl Http {
    /// Trusts `ca_file`, or the system's authorities when there is none.
    ///
    /// # Errors
    /// A sentence that names the file or the missing authorities.
    pub fn new(ca_file: Option<&Path>, timeout: Duration) -> Result<Self, String> {
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
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // A request whose last piece waits for an acknowledgement costs 40 ms.
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .build(connector);
        Ok(Self { client, timeout })
    }

    /// Sends `body` and reads status and body of the answer.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    pub async fn call(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        self.exchange(method, url, headers, body).await.map(|answer| (answer.status, answer.body))
    }

    /// Sends `body` and reads the whole answer.
    ///
    /// # Errors
    /// [`HttpError`]; a status that is no success is an answer, not an error.
    pub async fn exchange(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Response, HttpError> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|e| HttpError::Request(e.to_string()))?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|e| HttpError::Connection(chain(&e)))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|e| HttpError::Body(e.to_string()))?.to_bytes();
            Ok(Response { status: head.status, headers: head.headers, body })
        };
        tokio::time::timeout(self.timeout, exchange)
            .await
            .unwrap_or_else(|_| Err(HttpError::Timeout(self.timeout.as_millis())))
    }
}

/// An error with its causes: the outermost alone says only "client error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
