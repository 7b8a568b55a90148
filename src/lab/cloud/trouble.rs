//! The faults every cloud can show in the same way, and the answer's shape for those that differ.

use super::World;
use super::world::Fault;
use crate::vendors::Vendor;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use std::io;

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
