//! The listening half of the control socket.

use super::super::config::Certificates;
use super::super::shell::StreamsEnd;
use super::messages::{lines, lines_response};
use super::peer::{AnyBody, Peer, Who, app_name, full, response_of};
use super::socket_file::{self, OwnSocket};
use super::web::{self, Apps};
use super::{Ask, MAX_BODY, Refusal, Reply, Request};
use crate::ids::MessageId;
use crate::keepalive::PowerMode;
use crate::secret::Secret;
use crate::session::{self, Patience};
use crate::vendors::Vendor;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::{debug, warn};

/// Peers served at once; more wait in the listen queue.
const MAX_PEERS: usize = 32;
/// A peer must have sent its request's head by then.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The bound socket, and who may come in.
#[derive(Debug)]
pub struct Door {
    pub(super) listener: UnixListener,
    /// The socket's file, where it is this process's to remove.
    pub own: Option<OwnSocket>,
    /// The file's mode lets a group in; the kernel checks it when a peer connects.
    group: bool,
}

/// The socket that the service manager has bound, if it has. Before any thread starts: the environment variables that
/// name it are removed.
///
/// # Errors
/// The system's error, where what is named is no such socket.
pub fn given() -> io::Result<Option<std::os::unix::net::UnixListener>> {
    listenfd::ListenFd::from_env().take_unix_listener(0)
}

/// Takes the [`given`] socket, or binds one: mode 0600, or 0660 for a group, in a
/// directory it makes with mode 0700, or 0750.
///
/// # Errors
/// The system's error; `AddrInUse` where somebody answers at the socket, `AlreadyExists` where it is no socket.
pub fn bind(given: Option<std::os::unix::net::UnixListener>, path: &Path, group: Option<&str>) -> io::Result<Door> {
    if let Some(given) = given {
        given.set_nonblocking(true)?;
        // The manager's unit says who may connect, and the kernel has checked it.
        return Ok(Door { listener: UnixListener::from_std(given)?, own: None, group: true });
    }
    let group = group.map(group_id).transpose()?;
    let private = if group.is_some() { 0o750 } else { 0o700 };
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty() && !p.exists()) {
        std::fs::create_dir_all(parent)?;
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(private))?;
        if group.is_some() {
            std::os::unix::fs::chown(parent, None, group)?;
        }
    }
    socket_file::make_way(path)?;
    let listener = UnixListener::bind(path)?;
    let own = OwnSocket::at(path)?;
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group)?;
    }
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(Door { listener, own: Some(own), group: group.is_some() })
}

/// A group's number, from its name in `/etc/group` or the number itself.
///
/// # Errors
/// The system's error; `NotFound` where there is no such group.
pub fn group_id(name: &str) -> io::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string("/etc/group")?;
    let number = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    number.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("paths.socket_group: no group `{name}`")))
}

/// Accepts peers until it is dropped.
#[derive(Debug)]
pub struct Server {
    pub door: Door,
    pub requests: mpsc::Sender<Request>,
    /// Changes whenever the inbox has something new.
    pub arrivals: watch::Receiver<u64>,
    /// Changes whenever a login ends, and its streams with it.
    pub ends: watch::Receiver<StreamsEnd>,
    /// Apps that may ask over the loopback port; 0 is none.
    pub apps: watch::Receiver<Arc<Apps>>,
    pub port: u16,
}

impl Server {
    pub async fn run(self) {
        let peers = Arc::new(Semaphore::new(MAX_PEERS));
        let peer = Peer { requests: self.requests, arrivals: self.arrivals, ends: self.ends, group: self.door.group };
        let over_tcp = async {
            if self.port > 0 {
                web::run(peer.clone(), self.apps, self.port).await;
            }
            std::future::pending::<()>().await
        };
        tokio::select! {
            () = over_tcp => {}
            () = accept(&self.door, &peers, &peer) => {}
        }
    }
}

async fn accept(door: &Door, peers: &Arc<Semaphore>, peer: &Peer) {
    loop {
        let Ok(permit) = peers.clone().acquire_owned().await else { return };
        match door.listener.accept().await {
            Ok((stream, _)) => {
                let peer = peer.clone();
                tokio::spawn(async move {
                    peer.serve(stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(event = "control.accept_failed", %error, "cannot accept on the control socket");
                // Out of descriptors: wait for one instead of spinning.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

#[derive(Deserialize)]
struct LoginBody {
    user: String,
    password: Secret,
    /// Answer when a server has accepted the login.
    #[serde(default)]
    wait: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct LogoutBody {
    keep_binding: bool,
}

#[derive(Deserialize)]
struct TokenBody {
    token: Secret,
}

#[derive(Deserialize)]
struct PowerBody {
    mode: PowerMode,
}

/// The plugin's own shape: its options hold more, which is not for this agent.
#[derive(Deserialize)]
struct PluginBody {
    config: Box<Certificates>,
}

#[derive(Deserialize)]
struct ReceiptBody {
    id: MessageId,
    event: String,
}

#[derive(Deserialize)]
struct AckBody {
    ids: Vec<MessageId>,
    /// The local app's name; without one it is the user it runs as.
    #[serde(default)]
    app: Option<String>,
}

impl Peer {
    async fn serve(&self, stream: UnixStream) {
        let own = rustix::process::geteuid().as_raw();
        let allowed = self.group || stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own);
        let uid = stream.peer_cred().map_or(own, |peer| peer.uid());
        let service = service_fn(|request| async move {
            let answer = if allowed {
                self.answer(request, &Who::User(uid)).await
            } else {
                Err(Refusal::new(
                    403,
                    "not_permitted",
                    "only root and the agent's own user may use this socket; paths.socket_group lets a group in",
                ))
            };
            Ok::<_, Infallible>(answer.unwrap_or_else(|refusal| refused(&refusal)))
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .keep_alive(true)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            debug!(event = "control.peer_failed", %error);
        }
    }

    pub(super) async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        who: &Who,
    ) -> Result<Response<AnyBody>, Refusal> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let query = head.uri.query().unwrap_or_default().to_owned();
        let ask = match (&head.method, path.as_str()) {
            (&Method::GET, "/v1/status") => Ask::Status,
            (&Method::POST, "/v1/login") => {
                let LoginBody { user, password, wait } = read(body).await?;
                let patience = if wait { Patience::UntilAccepted } else { Patience::UntilStored };
                Ask::Session(session::Ask::Login { user, password, patience })
            }
            (&Method::POST, "/v1/logout") => {
                let LogoutBody { keep_binding } = read_or_default(body).await?;
                Ask::Session(session::Ask::Logout { keep_binding })
            }
            (&Method::PUT, path) if path.starts_with("/v1/tokens/") => {
                let vendor = vendor_of(path)?;
                let TokenBody { token } = read(body).await?;
                Ask::Session(session::Ask::SetToken { vendor, token })
            }
            (&Method::DELETE, path) if path.starts_with("/v1/tokens/") => {
                Ask::Session(session::Ask::RemoveToken { vendor: vendor_of(path)? })
            }
            (&Method::GET, "/v1/messages") => return self.messages(&query, who).await,
            (&Method::POST, "/v1/messages/ack") => {
                let AckBody { ids, app } = read(body).await?;
                Ask::Ack { ids, app: app_name(app.as_deref(), who)? }
            }
            (&Method::GET, "/v1/apps") => Ask::Apps,
            (&Method::POST, "/v1/apps") => {
                let added = self.add_app(read(body).await?, who.uid()).await?;
                return Ok(json_response(StatusCode::OK, &added));
            }
            (&Method::DELETE, path) if path.starts_with("/v1/apps/") => {
                self.remove_app(path, who.uid()).await?;
                return Ok(json_response(StatusCode::OK, &json!({})));
            }
            (&Method::POST, "/v1/reconnect") => Ask::Session(session::Ask::Reconnect),
            (&Method::POST, "/v1/init") => Ask::Session(session::Ask::Init),
            (&Method::PUT, "/v1/plugin") => {
                let PluginBody { config } = read(body).await?;
                Ask::Session(session::Ask::UsePlugin { names: config.names() })
            }
            (&Method::POST, "/v1/unbindPushToken") => Ask::Session(session::Ask::UnbindPushToken),
            (&Method::POST, "/v1/receipts") => {
                let ReceiptBody { id, event } = read(body).await?;
                Ask::Session(session::Ask::Receipt { id, event })
            }
            (&Method::GET, "/v1/metrics") => Ask::Metrics,
            (&Method::PUT, "/v1/power") => {
                let PowerBody { mode } = read(body).await?;
                Ask::Session(session::Ask::Power { mode })
            }
            (method, path) => {
                return Err(Refusal::new(404, "unknown_path", format!("{method} {path} is nothing this agent knows")));
            }
        };
        match self.ask(ask).await? {
            Reply::Json(json) => Ok(json_response(StatusCode::OK, &json)),
            Reply::Messages { batch, epoch } => Ok(lines_response(full(lines(&batch)), epoch.as_deref())),
            Reply::Text(text) => Ok(response_of("text/plain; version=0.0.4", full(text.into()))),
        }
    }
}

fn vendor_of(path: &str) -> Result<Vendor, Refusal> {
    path.trim_start_matches("/v1/tokens/")
        .parse()
        .map_err(|e: crate::vendors::UnknownVendor| Refusal::new(404, "unknown_channel", e.to_string()))
}

async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, Refusal> {
    let bytes = collect(body).await?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Refusal::new(400, "bad_body", format!("the body is not what this path takes: {e}")))
}

async fn read_or_default<T: DeserializeOwned + Default>(body: Incoming) -> Result<T, Refusal> {
    let bytes = collect(body).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes)
        .map_err(|e| Refusal::new(400, "bad_body", format!("the body is not what this path takes: {e}")))
}

async fn collect(body: Incoming) -> Result<Bytes, Refusal> {
    let collected = tokio::time::timeout(HEAD_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await;
    match collected {
        Ok(Ok(bytes)) => Ok(bytes.to_bytes()),
        Ok(Err(error)) => {
            Err(Refusal::new(413, "bad_body", format!("the body cannot be read ({error}); at most {MAX_BODY} bytes")))
        }
        Err(_) => Err(Refusal::new(408, "too_slow", "the body did not arrive in time")),
    }
}

fn json_response(status: StatusCode, json: &serde_json::Value) -> Response<AnyBody> {
    let mut response = response_of("application/json", full(json.to_string().into()));
    *response.status_mut() = status;
    response
}

pub(super) fn refused(refusal: &Refusal) -> Response<AnyBody> {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_response(status, &json!({ "error": refusal }))
}
