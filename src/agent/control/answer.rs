//! What each path asks of the daemon, whichever way a peer came, and what every answer looks like.

use super::super::config::Certificates;
use super::messages::{lines, lines_response};
use super::peer::{AnyBody, Peer, Who, app_name, full, response_of};
use super::serve::HEAD_TIMEOUT;
use super::{Ask, MAX_BODY, Refusal, Reply};
use crate::ids::MessageId;
use crate::keepalive::PowerMode;
use crate::secret::Secret;
use crate::session::{self, Patience};
use crate::vendors::Vendor;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

#[derive(Deserialize)]
struct LoginBody {
    user: String,
    password: Secret,
    /// Answer when a server has accepted the login.
    #[serde(default)]
    wait: bool,
}

#[derive(Deserialize)]
struct EnrolBody {
    code: Secret,
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
                Ask::Session(session::Ask::Login { user, password, patience: patience(wait) })
            }
            (&Method::POST, "/v1/enrol") => {
                let EnrolBody { code, wait } = read(body).await?;
                Ask::Enrol { code, patience: patience(wait) }
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

fn patience(wait: bool) -> Patience {
    if wait { Patience::UntilAccepted } else { Patience::UntilStored }
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
