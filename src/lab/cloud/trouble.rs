//! The faults every cloud can show in the same way, and the answer's shape for those that differ.

use super::World;
use super::world::Fault;
use crate::vendors::Vendor;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, DATE, HeaderValue, RETRY_AFTER};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime};

/// The largest answer that is coded, in bytes.
const MOST_CODED: usize = 1024 * 1024;

/// A call's answer, with what befalls it on its way out.
pub(super) async fn over_answer(
    State((world, vendor)): State<(World, Vendor)>,
    request: Request,
    next: Next,
) -> Response {
    let answer = next.run(request).await;
    let in_s = |seconds| httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(seconds));
    match world.take_over_answer(vendor) {
        Some(Fault::Gzip) => coded(answer).await,
        Some(Fault::ClockAhead) => ([(DATE, in_s(3600))], answer).into_response(),
        Some(Fault::RetryDate) => (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, in_s(2))], "{}").into_response(),
        _ => answer,
    }
}

async fn coded(answer: Response) -> Response {
    let (mut head, body) = answer.into_parts();
    let plain = to_bytes(body, MOST_CODED).await.unwrap_or_default();
    let mut coder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing into memory does not fail.
    let body = coder.write_all(&plain).and_then(|()| coder.finish()).unwrap_or_default();
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    Response::from_parts(head, body.into())
}

/// The answer of a call that goes wrong on purpose. `say` gives the vendor's own words for what has
/// them: rate, quota, credential, unknown code.
pub(super) async fn trouble(world: &World, vendor: Vendor, say: impl FnOnce(Fault) -> Response) -> Option<Response> {
    Some(match world.take_fault(vendor)? {
        Fault::ServerError => (StatusCode::INTERNAL_SERVER_ERROR, "<html>Internal Server Error</html>").into_response(),
        // Where success has no body at all only a failure can be bad JSON.
        Fault::BadJson if !super::of(vendor).says_success => (StatusCode::BAD_GATEWAY, "{\"reason\": ").into_response(),
        Fault::BadJson => "{\"code\": 0, ".into_response(),
        Fault::Hang => std::future::pending().await,
        Fault::BrokenAnswer => {
            let parts: [io::Result<Bytes>; 2] =
                [Ok(Bytes::from_static(b"{\"code\":")), Err(io::Error::from(io::ErrorKind::ConnectionReset))];
            Response::new(Body::from_stream(stream::iter(parts)))
        }
        Fault::AuthExpired => {
            world.end_access(vendor);
            say(Fault::AuthExpired)
        }
        fault => say(fault),
    })
}
