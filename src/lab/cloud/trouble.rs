//! The faults every cloud can show in the same way, and the answer's shape for those that differ.

use super::World;
use super::odd::{Oddity, made_odd};
use super::server::Line;
use super::world::{Fault, Part};
use crate::vendors::Vendor;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, DATE, HeaderValue, RETRY_AFTER};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse as _, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime};

/// The largest answer that is changed, in bytes.
const MOST_CHANGED: usize = 1024 * 1024;
/// How long a slow answer takes, and in how many pieces it comes at most.
const SLOW: Duration = Duration::from_secs(1);
const PIECES: usize = 8;
/// As captive portals and filters answer in a vendor's place.
const PAGE: &str =
    "<!DOCTYPE html><html><head><title>Sign in</title></head><body>This network wants you to sign in.</body></html>";

/// A call, with what befalls it on its way in, and its answer on the way out.
pub(super) async fn on_its_way(
    State((world, vendor)): State<(World, Vendor)>,
    request: Request,
    next: Next,
) -> Response {
    if world.take_fault(vendor, Part::Before) == Some(Fault::Html) {
        return Html(PAGE).into_response();
    }
    let line = request.extensions().get::<Line>().cloned();
    let answer = next.run(request).await;
    let in_s = |seconds| httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(seconds));
    match world.take_fault(vendor, Part::After) {
        Some(Fault::Gzip) => changed(answer, coded, Some("gzip")).await,
        Some(Fault::ClockAhead) => ([(DATE, in_s(3600))], answer).into_response(),
        Some(Fault::RetryDate) => (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, in_s(2))], "{}").into_response(),
        Some(Fault::Nulls) => odd(answer, vendor, Oddity::Nulls).await,
        Some(Fault::OtherTypes) => odd(answer, vendor, Oddity::OtherTypes).await,
        Some(Fault::Slow) => slow(answer).await,
        Some(Fault::IdleClose) => {
            if let Some(line) = line {
                line.end_when_idle();
            }
            answer
        }
        _ => answer,
    }
}

async fn changed(answer: Response, change: impl FnOnce(&[u8]) -> Vec<u8>, coding: Option<&'static str>) -> Response {
    let (mut head, body) = answer.into_parts();
    let plain = to_bytes(body, MOST_CHANGED).await.unwrap_or_default();
    head.headers.remove(CONTENT_LENGTH);
    head.headers.extend(coding.map(|coding| (CONTENT_ENCODING, HeaderValue::from_static(coding))));
    Response::from_parts(head, change(&plain).into())
}

fn coded(plain: &[u8]) -> Vec<u8> {
    let mut coder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing into memory does not fail.
    coder.write_all(plain).and_then(|()| coder.finish()).unwrap_or_default()
}

async fn odd(answer: Response, vendor: Vendor, oddity: Oddity) -> Response {
    if !answer.status().is_success() {
        return answer;
    }
    let needs = super::of(vendor).needs;
    let change = |plain: &[u8]| match serde_json::from_slice(plain) {
        Ok(json) => made_odd(json, needs, oddity).to_string().into_bytes(),
        // No body, which has no fields.
        Err(_) => plain.to_vec(),
    };
    changed(answer, change, None).await
}

/// Its head comes at once where there is a body, and both in the end.
async fn slow(answer: Response) -> Response {
    let (mut head, body) = answer.into_parts();
    let plain = to_bytes(body, MOST_CHANGED).await.unwrap_or_default();
    if plain.is_empty() {
        tokio::time::sleep(SLOW).await;
        return Response::from_parts(head, Body::empty());
    }
    head.headers.remove(CONTENT_LENGTH);
    let length = plain.len().div_ceil(PIECES);
    let pause = SLOW / u32::try_from(plain.len().div_ceil(length)).unwrap_or(1);
    let pieces = stream::unfold(plain, move |mut left| async move {
        if left.is_empty() {
            return None;
        }
        tokio::time::sleep(pause).await;
        let piece = left.split_to(length.min(left.len()));
        Some((Ok::<_, io::Error>(piece), left))
    });
    Response::from_parts(head, Body::from_stream(pieces))
}

/// The answer of a call that goes wrong on purpose. `say` gives the vendor's own words for what has
/// them: rate, quota, credential, unknown code.
pub(super) async fn trouble(world: &World, vendor: Vendor, say: impl FnOnce(Fault) -> Response) -> Option<Response> {
    world.count_call(vendor);
    Some(match world.take_fault(vendor, Part::Within)? {
        Fault::ServerError => (StatusCode::INTERNAL_SERVER_ERROR, "<html>Internal Server Error</html>").into_response(),
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
