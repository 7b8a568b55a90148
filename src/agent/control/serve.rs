//! One HTTP/1.1 connection of a peer, from whichever listener: compiled once for all of them, for the agent is small.

use super::peer::AnyBody;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

/// A peer must have sent its request's head by then, and then its body.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;

/// Whatever a peer is connected by.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What answers a request.
pub(super) type Answering<'a> = dyn Fn(Request<Incoming>) -> BoxFuture<'a, Response<AnyBody>> + Send + Sync + 'a;

/// Serves until the peer leaves; `again`: it may ask more than once.
pub(super) async fn serve(stream: Box<dyn Stream>, answering: &Answering<'_>, again: bool) {
    let service = service_fn(|request| {
        let answered = answering(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(again)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(event = "control.peer_failed", %error);
    }
}
