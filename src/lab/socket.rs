//! An agent's control socket as any local app may use it: one HTTP request, one JSON answer.

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

const LIMIT: Duration = Duration::from_secs(20);

/// # Errors
/// A sentence with the socket's or the agent's refusal.
pub(super) async fn call(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
    let exchange = async {
        let stream = UnixStream::connect(socket).await.map_err(|e| format!("{}: {e}", socket.display()))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "impush")
            .body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let answer = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        if status.is_success() {
            serde_json::from_slice(&answer).map_err(|e| e.to_string())
        } else {
            Err(format!("{method} {path}: {status} {}", String::from_utf8_lossy(&answer)))
        }
    };
    tokio::time::timeout(LIMIT, exchange).await.unwrap_or_else(|_| Err("the agent did not answer".to_owned()))
}
