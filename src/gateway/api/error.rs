//! The one shape of every error answer, in the original system's words.

use super::super::password::PasswordError;
use super::super::store::StoreError;
use super::allowance::{Limit, Over};
use crate::input;
use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// `{"error", "error_description", "timestamp"}` with a status.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    error: &'static str,
    description: String,
    /// Seconds until the same request may be made again.
    retry_after_s: Option<u64>,
    /// Why what the request says is never taken in.
    refused: Option<&'static str>,
    /// Which of the app's limits it has come to.
    limited: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, error: &'static str, description: impl Into<String>) -> Self {
        Self { status, error, description: description.into(), retry_after_s: None, refused: None, limited: None }
    }

    pub fn bad(error: &'static str, description: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, description)
    }

    pub fn illegal(description: impl Into<String>) -> Self {
        Self::bad("illegal_argument", description)
    }

    pub fn unauthorized(description: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", description)
    }

    pub fn forbidden(description: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden_op", description)
    }

    /// Passwords were guessed, or too many are being checked at once.
    pub fn held_back(wait_ms: u64, why: impl Into<String>) -> Self {
        let new = Self::new(StatusCode::TOO_MANY_REQUESTS, "reach_limit", why);
        Self { retry_after_s: Some(wait_ms.div_ceil(1000)), ..new }
    }

    /// An operator has to mend something first.
    pub fn unavailable(description: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", description)
    }

    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this path takes other methods; see /openapi.json",
        )
    }

    pub fn too_large(most: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_entity_too_large", format!("a body has at most {most} bytes"))
    }

    /// The same with another word for programs.
    pub fn saying(self, error: &'static str) -> Self {
        Self { error, ..self }
    }

    pub fn not_found(description: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "resource_not_found", description)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        // The store works; what is in it needs an operator.
        if let StoreError::Sealed(why) = error {
            return Self::new(StatusCode::CONFLICT, "secrets_unreadable", why);
        }
        if error.refuses_data() {
            return Self { refused: Some("store"), ..Self::illegal(error.to_string()) };
        }
        error.tell("a request could not be stored");
        let description = match &error {
            StoreError::InPart { accepted, of, .. } => format!(
                "the store failed, and {accepted} of {of} messages were accepted; a repeat with the same Idempotency-Key \
                 sends the others alone"
            ),
            error if error.is_unsure() => {
                "the store failed, and did not say whether it took the request; a repeat with the same Idempotency-Key is safe"
                    .to_owned()
            }
            _ => "the store failed; nothing was accepted, try again".to_owned(),
        };
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            error: "service_unavailable",
            description,
            retry_after_s: Some(1),
            refused: None,
            limited: None,
        }
    }
}

impl From<Over> for ApiError {
    fn from(Over { limit, wait_s }: Over) -> Self {
        let what = match limit {
            Limit::Requests => "requests",
            Limit::Messages => "messages",
            Limit::Bytes => "bytes of messages",
        };
        let new = Self::held_back(wait_s * 1000, format!("too many {what} of this app; again in {wait_s} s"));
        Self { limited: Some(limit.as_str()), ..new }
    }
}

impl From<PasswordError> for ApiError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Length => Self::illegal(error.to_string()),
            PasswordError::Busy => Self::held_back(1000, error.to_string()),
            PasswordError::Failed(why) => {
                tracing::error!(event = "password.failed", why, "a password could not be hashed");
                let new = Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", "try again");
                Self { retry_after_s: Some(1), ..new }
            }
        }
    }
}

impl From<input::Refused> for ApiError {
    fn from(why: input::Refused) -> Self {
        Self { refused: Some(why.as_str()), ..Self::illegal(why.to_string()) }
    }
}

/// Goes with the answer to a request of an app that has come to this limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limited(pub &'static str);

/// Goes with the answer to a request that held something that is never taken in: why.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refused(pub &'static str);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(json!({
            "error": self.error,
            "error_description": self.description,
            "timestamp": super::super::clock::now_ms(),
        }));
        let mut response = (self.status, body).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(why) = self.refused {
            response.extensions_mut().insert(Refused(why));
        }
        if let Some(limit) = self.limited {
            response.extensions_mut().insert(Limited(limit));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
