//! Who asks: a broker that may, about whom, and the address that a request came from.

use super::{ApiError, State};
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use ring::digest::{SHA256, digest};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tracing::info;

/// A broker's question: from this machine, or with the shared secret.
pub(super) struct ByBroker;

impl FromRequestParts<Arc<State>> for ByBroker {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, ApiError> {
        let bearer = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let query = parts.uri.query().and_then(|query| query.split('&').find_map(|part| part.strip_prefix("secret=")));
        let shown = bearer.and_then(|value| value.strip_prefix("Bearer ")).or(query);
        let allowed = match &state.broker_secret {
            Some(secret) => shown.is_some_and(|shown| same(shown, secret.expose())),
            None => peer(parts).is_some_and(|peer| peer.is_loopback()) && forwarded(parts).is_none(),
        };
        if allowed {
            Ok(Self)
        } else {
            Err(ApiError::unauthorized("only the broker may ask this; see broker.ask_secret"))
        }
    }
}

/// Whether a broker is to let a device in; why not is in the log.
pub(super) async fn let_in(state: &State, client: &str, username: &str, password: &str) -> bool {
    let refused = state.door.enter(client, Some(username), password).await.err();
    if let Some(reason) = &refused {
        info!(event = "broker.refused", client, %reason, "a connection was refused");
    }
    refused.is_none()
}

/// Digests are compared, so that the time says nothing of the secret.
pub(super) fn same(one: &str, other: &str) -> bool {
    let of = |text: &str| digest(&SHA256, text.as_bytes());
    of(one).as_ref() == of(other).as_ref()
}

/// Where a request came from; `None` where a front on this machine does not say.
pub(super) struct Origin(pub Option<IpAddr>);

impl<S: Sync> FromRequestParts<S> for Origin {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let front = peer(parts).is_none_or(|peer| peer.is_loopback());
        // Anybody but a front on this machine could say anything.
        Ok(Self(if front { forwarded(parts) } else { peer(parts) }))
    }
}

fn peer(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip().to_canonical())
}

/// The last address of `X-Forwarded-For` is the one that the front itself has seen.
fn forwarded(parts: &Parts) -> Option<IpAddr> {
    let all = parts.headers.get_all("x-forwarded-for");
    let last = all.iter().next_back()?.to_str().ok()?.rsplit(',').next()?;
    last.trim().parse().ok()
}
