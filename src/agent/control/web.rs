//! The loopback port: apps that cannot use the socket, and web pages, ask here with a secret.
//!
//! | who | may |
//! | --- | --- |
//! | an app with its secret | read its messages and take them, tell receipts, hand over a token, ask for the status and the plugin's verbs, in its own name |
//! | the same from a web page | the same, if the page's origin was added with the app |
//! | the control socket's peers | all of that, and log in and out, reconnect, save power, and change the apps |
//!
//! Nothing listens before the first app was added, and after the last was removed. A `Host` of another name is
//! refused: a page whose name was made to lead here would be taken for a local one (DNS rebinding).

use super::Refusal;
use super::answer::refused;
use super::apps::hashed;
use super::peer::{AnyBody, Peer, Who, full};
use super::serve::serve;
use crate::session::LocalApp;
use hyper::body::Incoming;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, AUTHORIZATION, HOST, HeaderName, HeaderValue, ORIGIN, VARY,
    WWW_AUTHENTICATE,
};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

/// Connections served at once; more wait in the listen queue.
const MAX_PEERS: usize = 32;
/// Pause before a port that cannot be had is tried again.
const AGAIN: Duration = Duration::from_secs(30);
/// What each wrong secret in a row adds to the time until the answer, and the most of it.
const SLOWER: Duration = Duration::from_millis(100);
const SLOWEST: Duration = Duration::from_secs(2);
/// Seconds for which a browser need not ask again whether it may ask (Fetch standard, CORS preflight).
const PREFLIGHT_S: &str = "600";

/// The apps that were added, by name.
pub type Apps = BTreeMap<String, LocalApp>;

/// Serves while there are apps, until it is dropped.
pub(super) async fn run(peer: Peer, mut apps: watch::Receiver<Arc<Apps>>, port: u16) {
    loop {
        if apps.wait_for(|apps| !apps.is_empty()).await.is_err() {
            return;
        }
        match open(port).await {
            Ok(listeners) => {
                info!(event = "control.port_open", port, "apps may ask on the loopback port");
                let door = Door { peer: peer.clone(), apps: apps.clone(), port, failures: Arc::default() };
                tokio::select! {
                    () = door.serve(listeners) => {}
                    gone = apps.wait_for(|apps| apps.is_empty()) => if gone.is_err() { return },
                }
                info!(event = "control.port_closed", port, "no app is left that may ask on the loopback port");
            }
            Err(error) => {
                warn!(event = "control.port_failed", port, %error, "the loopback port cannot be had; set control.port to another");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// The IPv6 one where there is IPv6.
async fn open(port: u16) -> std::io::Result<Vec<TcpListener>> {
    let mut listeners = vec![TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?];
    listeners.extend(TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await);
    Ok(listeners)
}

#[derive(Clone)]
struct Door {
    peer: Peer,
    apps: watch::Receiver<Arc<Apps>>,
    port: u16,
    /// Wrong secrets since the last right one.
    failures: Arc<AtomicU32>,
}

impl Door {
    /// Its connections end with it.
    async fn serve(&self, listeners: Vec<TcpListener>) {
        let slots = Arc::new(Semaphore::new(MAX_PEERS));
        let mut peers = JoinSet::new();
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let accepts = listeners.iter().map(|listener| Box::pin(listener.accept()));
            let accepted = tokio::select! {
                (accepted, ..) = futures_util::future::select_all(accepts) => accepted,
                Some(_) = peers.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    let door = self.clone();
                    peers.spawn(async move {
                        door.connection(stream).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    warn!(event = "control.accept_failed", %error, "cannot accept on the loopback port");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream) {
        serve(Box::new(stream), &|request| Box::pin(self.respond(request)), true).await;
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<AnyBody> {
        let apps = self.apps.borrow().clone();
        let origin = request.headers().get(ORIGIN).cloned();
        let from = origin.as_ref().map(|origin| origin.to_str().unwrap_or_default().to_owned());
        let mut response = match self.judged(&request, &apps, from.as_deref()).await {
            Ok(Some(app)) => match self.peer.answer(request, &Who::App(app)).await {
                Ok(response) => response,
                Err(refusal) => refused(&refusal),
            },
            Ok(None) => preflight(request.headers()),
            Err(refusal) => refused(&refusal),
        };
        let headers = response.headers_mut();
        if let Some(origin) = origin.filter(|_| apps.values().any(|app| allows(app, from.as_deref()))) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("impush-epoch"));
            headers.insert(VARY, HeaderValue::from_static("origin"));
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }

    /// The app that asks; nothing for a browser's question whether it may.
    async fn judged(
        &self,
        request: &Request<Incoming>,
        apps: &Apps,
        origin: Option<&str>,
    ) -> Result<Option<String>, Refusal> {
        let forbidden = |code: &str, why: String| Refusal::new(403, code, why);
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if !is_local(host, self.port) {
            return Err(forbidden(
                "bad_host",
                format!("`{host}` is not this device; ask 127.0.0.1, [::1] or localhost"),
            ));
        }
        let no_page = || {
            forbidden(
                "bad_origin",
                "no app was added with this page's origin: impush app add NAME --origin O".to_owned(),
            )
        };
        if request.method() == Method::OPTIONS {
            return if apps.values().any(|app| origin.is_some() && allows(app, origin)) {
                Ok(None)
            } else {
                Err(no_page())
            };
        }
        let secret =
            request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let digest = secret.map(|secret| hashed(secret.trim()));
        let Some((name, app)) = apps.iter().find(|(_, app)| digest.is_some() && app.secret_sha256 == digest) else {
            if secret.is_some() {
                let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
                tokio::time::sleep(SLOWER.saturating_mul(failures).min(SLOWEST)).await;
            }
            return Err(Refusal::new(
                401,
                "bad_secret",
                "send `Authorization: Bearer SECRET`, as `impush app add` showed it",
            ));
        };
        self.failures.store(0, Ordering::Relaxed);
        if !allows(app, origin) {
            return Err(no_page());
        }
        if !may(request.method(), request.uri().path()) {
            return Err(forbidden(
                "not_permitted",
                "an app may not do this; the control socket's peers may".to_owned(),
            ));
        }
        Ok(Some(name.clone()))
    }
}

/// What is no web page has no origin.
fn allows(app: &LocalApp, origin: Option<&str>) -> bool {
    origin.is_none_or(|origin| app.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)))
}

fn is_local(host: &str, port: u16) -> bool {
    let name = host.strip_suffix(&format!(":{port}")).unwrap_or_default();
    ["127.0.0.1", "localhost", "[::1]"].iter().any(|local| name.eq_ignore_ascii_case(local))
}

/// What belongs to an app, and not to the device.
fn may(method: &Method, path: &str) -> bool {
    match (method, path) {
        (&Method::GET, "/v1/status" | "/v1/messages") => true,
        (&Method::POST, "/v1/messages/ack" | "/v1/receipts" | "/v1/init" | "/v1/unbindPushToken") => true,
        (&Method::PUT, "/v1/plugin") => true,
        (&Method::PUT | &Method::DELETE, path) => path.starts_with("/v1/tokens/"),
        _ => false,
    }
}

/// CORS, and a page of the wide web that asks on a private network (Private Network Access, "CORS preflight").
fn preflight(asked: &HeaderMap) -> Response<AnyBody> {
    let mut response = Response::new(full(Default::default()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, DELETE"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_S));
    if asked.get("access-control-request-private-network").is_some_and(|value| value == "true") {
        let name = HeaderName::from_static("access-control-allow-private-network");
        headers.insert(name, HeaderValue::from_static("true"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_devices_own_names_are_answered() {
        for host in ["127.0.0.1:80", "LOCALHOST:80", "[::1]:80"] {
            assert!(is_local(host, 80), "{host}");
        }
        for host in ["", "127.0.0.1", "127.0.0.1:81", "evil.example:80", "127.0.0.1.evil.example:80", "[::2]:80"] {
            assert!(!is_local(host, 80), "{host}");
        }
    }

    #[test]
    fn an_app_may_what_is_its_own_and_nothing_of_the_devices() {
        for (method, path) in
            [(Method::GET, "/v1/messages"), (Method::PUT, "/v1/tokens/xiaomi"), (Method::POST, "/v1/receipts")]
        {
            assert!(may(&method, path), "{path}");
        }
        for (method, path) in [
            (Method::POST, "/v1/login"),
            (Method::POST, "/v1/logout"),
            (Method::PUT, "/v1/power"),
            (Method::DELETE, "/v1/apps/a"),
            (Method::GET, "/v1/metrics"),
        ] {
            assert!(!may(&method, path), "{path}");
        }
    }
}
