//! An HTTPS client: one set of connections a host, a time limit on every call, bounded answers.
//!
//! ```text
//! Http --> Host (one for each scheme, name and port)
//!            |  a multiplexed connection, or an idle one, or a place in the queue
//!            +--> Dialer: one connection at first, more by need
//! ```
//!
//! A call that found its connection lost goes again on another one, within its own time: always when the
//! request never left, else only where the caller says that a second one does no harm.

mod coding;
mod connection;
mod dial;
mod host;
mod ways;

use connection::Lost;
use dial::{Dialer, Origin};
use host::Host;
pub use ways::Ways;

use hyper::body::Bytes;
use hyper::{HeaderMap, Request, StatusCode};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// HTTP/1.1 connections to one host at once, where the caller does not say otherwise.
const CONNECTIONS: usize = 256;
/// How often a call is made again after its connection was lost.
const REPEATS: u32 = 2;
/// A host that nobody called for so long is forgotten, with its connections.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(1800);

/// Why a call gave no answer. All of them may pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    #[error("no answer within {ms} ms")]
    Timeout { ms: u128, connection: Option<u64> },
    #[error("the connection failed: {why}")]
    Connection { why: String, connection: u64 },
    #[error("the answer broke off: {why}")]
    Body { why: String, connection: u64 },
    #[error("the request could not be written: {0}")]
    Request(String),
}

impl HttpError {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "timeout",
            Self::Connection { .. } => "connection",
            Self::Body { .. } => "body",
            Self::Request(_) => "request",
        }
    }

    /// The connection, or the try to make one, that was lost: however many calls it took with it, it is one
    /// event. Numbers are never used again.
    pub const fn lost(&self) -> Option<u64> {
        match self {
            Self::Connection { connection, .. } | Self::Body { connection, .. } => Some(*connection),
            Self::Timeout { connection, .. } => *connection,
            Self::Request(_) => None,
        }
    }
}

/// Whether a request may reach the host twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// A second one does what the first did.
    Harmless,
    /// A second one might be shown, charged or counted twice.
    Harmful,
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
    dialer: Arc<Dialer>,
    hosts: Arc<Mutex<HashMap<Origin, Arc<Host>>>>,
    timeout: Duration,
    connections: usize,
}

impl Http {
    /// Trusts `ca_file`, or the system's authorities when there is none.
    ///
    /// # Errors
    /// A sentence that names the file or the missing authorities.
    pub fn new(ca_file: Option<&Path>, timeout: Duration) -> Result<Self, String> {
        let dialer = Arc::new(Dialer::new(ca_file, timeout)?);
        Ok(Self { dialer, hosts: Arc::default(), timeout, connections: CONNECTIONS })
    }

    /// By these ways; connections are its own.
    pub fn by(self, ways: Ways) -> Self {
        Self { dialer: Arc::new(self.dialer.by(ways)), hosts: Arc::default(), ..self }
    }

    /// At most so many HTTP/1.1 connections to one host at once, at least one.
    pub fn with_connections(self, most: usize) -> Self {
        Self { connections: most.max(1), ..self }
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
        let answer = self.exchange(method, url, headers, body, Repeat::Harmful).await?;
        Ok((answer.status, answer.body))
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
        repeat: Repeat,
    ) -> Result<Response, HttpError> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Bytes::from(body)).map_err(|e| HttpError::Request(e.to_string()))?;
        let origin = Origin::of(request.uri()).map_err(HttpError::Request)?;
        let host = self.host(origin);
        // To wait for a connection that others use says nothing about the host: the call's own time begins then.
        let mut leased = host.lease(false, Instant::now() + self.timeout / 2, self.timeout / 2).await?;
        let ends = Instant::now() + self.timeout;
        let mut left = REPEATS;
        loop {
            let may_repeat = left > 0 && repeat == Repeat::Harmless;
            // Half of the time that is left is for another connection, should this one be dead.
            let spare = if leased.uncertain && may_repeat {
                ends.saturating_duration_since(Instant::now()) / 2
            } else {
                Duration::ZERO
            };
            match leased.send(&request, ends - spare, self.timeout).await {
                Ok(response) => return Ok(response),
                Err(Lost { unsent, .. }) if (may_repeat || unsent && left > 0) && ends > Instant::now() => {
                    left -= 1;
                    leased = host.lease(true, ends, self.timeout).await?;
                }
                Err(Lost { error, .. }) => return Err(error),
            }
        }
    }

    fn host(&self, origin: Origin) -> Arc<Host> {
        // Plain data; a panic elsewhere cannot have left it half changed.
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(&origin) {
            return host.clone();
        }
        hosts.retain(|_, host| !host.is_unused_for(FORGOTTEN_AFTER));
        let host = Arc::new(Host::new(origin.clone(), self.dialer.clone(), self.connections));
        hosts.insert(origin, host.clone());
        host
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
