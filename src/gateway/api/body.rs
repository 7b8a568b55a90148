//! A request's body: how long it may take and be, and that it is an object.

use super::{ApiError, State};
use crate::input;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Largest request body, in bytes: a message's limit and room for its wrapping.
pub(super) const MAX_BODY: usize = 128 * 1024;
/// How long a request's body may take after its head.
const WITHIN: Duration = Duration::from_secs(30);

/// It did not come in its time.
#[derive(Debug, thiserror::Error)]
#[error("it did not come within {} s", WITHIN.as_secs())]
pub(super) struct Late;

/// A body that ends in an error where it takes too long.
pub(super) struct Timed<B> {
    body: B,
    until: Instant,
    /// Made once it has to be waited for: most bodies come with their heads.
    late: Option<Pin<Box<Sleep>>>,
}

impl<B> Timed<B> {
    pub fn new(body: B) -> Self {
        Self { body, until: Instant::now() + WITHIN, late: None }
    }
}

impl<B> HttpBody for Timed<B>
where
    B: HttpBody<Error: Into<axum::BoxError>> + Unpin,
{
    type Data = B::Data;
    type Error = axum::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, axum::BoxError>>> {
        let Self { body, until, late } = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let late = late.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(*until)));
        late.as_mut().poll(context).map(|()| Some(Err(Late.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A JSON object, or a list of them: serde alone would take a list for any object.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<State>> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<State>) -> Result<Self, ApiError> {
        if !says_json(request.headers()) {
            return Err(ApiError::illegal("Expected request with `Content-Type: application/json`"));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(MAX_BODY),
            _ => ApiError::illegal(rejection.body_text()),
        })?;
        let value: Json = serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::illegal(format!("Failed to parse the request body as JSON: {error}")))?;
        input::free(&value)?;
        let objects = value.as_array().map_or(value.is_object(), |items| items.iter().all(Json::is_object));
        if !objects {
            return Err(ApiError::illegal("the body is a JSON object"));
        }
        serde_json::from_value(value).map(Self).map_err(|error| ApiError::illegal(error.to_string()))
    }
}

/// `application/json`, or another type that is written in it, as RFC 6839, section 3.1, has them.
fn says_json(headers: &HeaderMap) -> bool {
    let said = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = said.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind.strip_prefix("application/").is_some_and(|kind| kind == "json" || kind.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use http_body_util::{BodyExt as _, Full, StreamBody};

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_ends_in_an_error_and_one_that_does_is_whole() {
        let never = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
        let began = Instant::now();
        let error = Timed::new(never).collect().await.map(drop).expect_err("it never comes");
        assert!(error.is::<Late>() && error.to_string().contains("30 s"), "{error}");
        assert_eq!(began.elapsed(), WITHIN);
        let whole = Timed::new(Full::new(Bytes::from_static(b"{}"))).collect().await.expect("it comes");
        assert_eq!(whole.to_bytes(), "{}");
    }

    #[test]
    fn only_json_is_read_as_json() {
        let says =
            |kind: &'static str| says_json(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]));
        assert!(
            ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"].into_iter().all(says)
        );
        assert!(!["text/json", "text/plain", "application/jsonp", "", "json"].into_iter().any(says));
        assert!(!says_json(&HeaderMap::new()));
    }
}
