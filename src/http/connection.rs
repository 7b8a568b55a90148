//! One call over one connection, and what becomes of the connection then.

use super::coding::{ACCEPTED, undone};
use super::dial::Dialled;
use super::{HttpError, Response, chain};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{ACCEPT_ENCODING, HOST, HeaderValue};
use hyper::rt::{Read, Write};
use hyper::{Request, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// Largest answer that is read, in bytes; a batch answer naming a thousand tokens stays below it.
const MAX_ANSWER: usize = 1024 * 1024;
/// While calls are open on an HTTP/2 connection that says nothing, it is asked whether it lives (RFC 9113,
/// section 6.7) after this part of a call's time, and given up when it has not answered for as long again: the
/// call has time for another one.
const PING_PART: u32 = 5;

/// Whose connection it is.
pub(super) trait Owner: std::fmt::Debug + Send + Sync {
    /// The `Host` of requests over HTTP/1.1.
    fn authority(&self) -> &str;
    /// A call is over, and its connection good for another.
    fn give_back(self: Arc<Self>, number: u64, sender: Sender);
    /// A call got no answer on this connection.
    fn lost(self: Arc<Self>, number: u64);
    /// The connection is over.
    fn ended(self: Arc<Self>, number: u64);
}

/// What requests are handed to.
#[derive(Debug)]
pub(super) enum Sender {
    /// HTTP/2: any number of calls at once.
    Shared(http2::SendRequest<Full<Bytes>>),
    /// HTTP/1.1: one call after the other.
    Plain(http1::SendRequest<Full<Bytes>>),
}

/// Lets the connection run by itself until it ends, which its host then hears. `patience` is a call's time.
///
/// # Errors
/// A sentence about the first exchange on it.
pub(super) async fn begin(
    dialled: Dialled,
    number: u64,
    owner: &Arc<dyn Owner>,
    patience: Duration,
) -> Result<(Sender, AbortHandle), String> {
    let owner = Arc::downgrade(owner);
    match dialled {
        Dialled::Plain(stream) => plain(TokioIo::new(stream), number, owner).await,
        Dialled::Tls { stream, multiplexed: false } => plain(TokioIo::new(stream), number, owner).await,
        Dialled::Tls { stream, multiplexed: true } => {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                // How many it takes at once a server says in its first words; Apple's takes one until it has seen a
                // credential. What comes before them is refused.
                .initial_max_send_streams(1)
                .keep_alive_interval(patience / PING_PART)
                .keep_alive_timeout(patience / PING_PART)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|e| chain(&e))?;
            Ok((Sender::Shared(sender), run(connection, number, owner)))
        }
    }
}

async fn plain<S: Read + Write + Unpin + Send + 'static>(
    stream: S,
    number: u64,
    owner: Weak<dyn Owner>,
) -> Result<(Sender, AbortHandle), String> {
    let (mut sender, connection) = http1::handshake(stream).await.map_err(|e| chain(&e))?;
    let driver = run(connection, number, owner);
    sender.ready().await.map_err(|e| chain(&e))?;
    Ok((Sender::Plain(sender), driver))
}

fn run(connection: impl Future + Send + 'static, number: u64, owner: Weak<dyn Owner>) -> AbortHandle {
    let driver = tokio::spawn(async move {
        // Its calls hear why it ended.
        let _ = connection.await;
        if let Some(owner) = owner.upgrade() {
            owner.ended(number);
        }
    });
    driver.abort_handle()
}

/// A call that got no answer.
#[derive(Debug)]
pub(super) struct Lost {
    /// The request did not leave.
    pub unsent: bool,
    pub error: HttpError,
}

/// A connection, or a share of one, for one call. Dropped in the middle of the call, by a time limit,
/// it is not used for another.
#[derive(Debug)]
pub(super) struct Leased {
    owner: Arc<dyn Owner>,
    pub number: u64,
    sender: Option<Sender>,
    begun: bool,
    /// Nobody can ask it whether it lives, and it may have died since its last call.
    pub uncertain: bool,
}

impl Leased {
    pub fn new(owner: Arc<dyn Owner>, number: u64, sender: Sender, uncertain: bool) -> Self {
        Self { owner, number, sender: Some(sender), begun: false, uncertain }
    }

    /// Takes the connection out of one that was not used.
    pub fn unused(mut self) -> Option<Sender> {
        self.sender.take()
    }

    /// Sends the request and reads the whole answer until `ends`, which is `limit` after the call began.
    ///
    /// # Errors
    /// [`Lost`].
    pub async fn send(mut self, request: &Request<Bytes>, ends: Instant, limit: Duration) -> Result<Response, Lost> {
        self.begun = true;
        let number = self.number;
        let answer = tokio::time::timeout_at(ends.into(), self.exchange(request)).await;
        let answer = answer.unwrap_or_else(|_| {
            let error = HttpError::Timeout { ms: limit.as_millis(), connection: Some(number) };
            Err(Lost { unsent: false, error })
        });
        if answer.is_ok()
            && let Some(sender) = self.sender.take()
        {
            self.owner.clone().give_back(number, sender);
        }
        answer
    }

    async fn exchange(&mut self, request: &Request<Bytes>) -> Result<Response, Lost> {
        let connection = self.number;
        let failed = |unsent, error: hyper::Error| Lost {
            unsent,
            error: HttpError::Connection { why: chain(&error), connection },
        };
        let response = match self.sender.as_mut() {
            Some(Sender::Shared(sender)) => sender
                .try_send_request(for_multiplexed(request))
                .await
                .map_err(|mut e| (e.take_message().is_some(), e.into_error())),
            Some(Sender::Plain(sender)) => sender
                .try_send_request(for_plain(request, self.owner.authority()))
                .await
                .map_err(|mut e| (e.take_message().is_some(), e.into_error())),
            None => return Err(Lost { unsent: true, error: HttpError::Request("no connection".to_owned()) }),
        };
        let (head, body) = response.map_err(|(unsent, error)| failed(unsent, error))?.into_parts();
        let broken = |why| Lost { unsent: false, error: HttpError::Body { why, connection } };
        let body = whole(body).await.map_err(broken)?;
        let mut headers = head.headers;
        let body = undone(&mut headers, body, MAX_ANSWER).map_err(broken)?;
        Ok(Response { status: head.status, headers, body })
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        match self.sender.take() {
            Some(_) if self.begun => self.owner.clone().lost(self.number),
            Some(sender) => self.owner.clone().give_back(self.number, sender),
            None => {}
        }
    }
}

async fn whole(body: Incoming) -> Result<Bytes, String> {
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
    Ok(body.to_bytes())
}

fn copy(request: &Request<Bytes>, uri: Uri) -> Request<Full<Bytes>> {
    let mut copy = Request::new(Full::new(request.body().clone()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = uri;
    *copy.headers_mut() = request.headers().clone();
    copy.headers_mut().entry(ACCEPT_ENCODING).or_insert(HeaderValue::from_static(ACCEPTED));
    copy
}

fn for_multiplexed(request: &Request<Bytes>) -> Request<Full<Bytes>> {
    copy(request, request.uri().clone())
}

/// The path alone, and the name in a header of its own (RFC 9112, section 3.2.1).
fn for_plain(request: &Request<Bytes>, authority: &str) -> Request<Full<Bytes>> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let mut copy = copy(request, path.parse().unwrap_or_default());
    if let Ok(name) = authority.parse() {
        copy.headers_mut().entry(HOST).or_insert(name);
    }
    copy
}
