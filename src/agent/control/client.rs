//! The asking half of the control socket, as the command line and the tests use it.

use super::super::manager::{self, Unit};
use super::Refusal;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value as Json;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// The agent answers within 15 s, an enrolment within 30; a little more is the socket's own.
const TIMEOUT: Duration = Duration::from_secs(20);
const ENROL_TIMEOUT: Duration = Duration::from_secs(35);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no agent answers at {path}: {source}; {advice}")]
    NotRunning { path: PathBuf, source: io::Error, advice: String },
    #[error("{unit} is {state}; it was not asked, because that would start it")]
    Asleep { unit: String, state: String },
    #[error("this user may not use {path}; run as root or as the agent's user")]
    NotPermitted { path: PathBuf },
    #[error("{}", .0.message)]
    Refused(Refusal),
    #[error("the agent's answer could not be read: {0}")]
    Broken(String),
}

/// As whom messages are read.
#[derive(Debug, Clone, Copy)]
pub enum Reader<'a> {
    /// As nobody: nothing is counted as read.
    Peek,
    /// As the user this process runs as.
    User,
    App(&'a str),
}

/// A way to one agent.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
    /// An agent that does not run is not started by being asked.
    onlooker: bool,
}

impl Client {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), onlooker: false }
    }

    /// The same for who wants to change nothing: connecting to a socket of the service manager's starts the service.
    pub fn onlooker(path: &Path) -> Self {
        Self { onlooker: true, ..Self::new(path) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One request, one JSON answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call(&self, method: &str, path: &str, body: Option<&Json>) -> Result<Json, ClientError> {
        let bytes = self.answer(method, path, body).await?;
        serde_json::from_slice(&bytes).map_err(|e| ClientError::Broken(e.to_string()))
    }

    /// One question whose answer is a text.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn text(&self, path: &str) -> Result<String, ClientError> {
        Ok(String::from_utf8_lossy(&self.answer("GET", path, None).await?).into_owned())
    }

    async fn answer(&self, method: &str, path: &str, body: Option<&Json>) -> Result<Bytes, ClientError> {
        let exchange = async {
            let answer = self.send(method, path, body).await?.into_body().collect().await;
            Ok(answer.map_err(|e| ClientError::Broken(e.to_string()))?.to_bytes())
        };
        let within = if path == "/v1/enrol" { ENROL_TIMEOUT } else { TIMEOUT };
        tokio::time::timeout(within, exchange)
            .await
            .unwrap_or_else(|_| Err(ClientError::Broken("no answer in time".to_owned())))
    }

    /// Messages after `after` as they come, each as one JSON document: for this local app, which keeps its place,
    /// or with [`Reader::Peek`] all that are there.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn messages(&self, after: u64, reader: Reader<'_>) -> Result<Messages, ClientError> {
        let who = match reader {
            Reader::Peek => "&peek=true".to_owned(),
            Reader::User => String::new(),
            Reader::App(name) => format!("&app={name}"),
        };
        let response = self.send("GET", &format!("/v1/messages?after={after}&stream=true{who}"), None).await?;
        Ok(Messages { body: response.into_body(), rest: Vec::new() })
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Json>,
    ) -> Result<hyper::Response<Incoming>, ClientError> {
        let broken = |e: &dyn std::fmt::Display| ClientError::Broken(e.to_string());
        let mut sender = self.connect().await?;
        let bytes = body.map(Json::to_string).unwrap_or_default();
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "impush")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(bytes)))
            .map_err(|e| broken(&e))?;
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.map_err(|e| broken(&e))?.to_bytes();
        #[derive(Deserialize)]
        struct Refused {
            error: Refusal,
        }
        let mut refusal = serde_json::from_slice::<Refused>(&bytes).map_err(|e| broken(&e))?.error;
        refusal.status = status;
        Err(if status == 403 {
            ClientError::NotPermitted { path: self.path.clone() }
        } else {
            ClientError::Refused(refusal)
        })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        if self.onlooker
            && let Some(unit) = manager::behind(&self.path).await.filter(Unit::sleeps)
        {
            return Err(ClientError::Asleep { unit: unit.name, state: unit.state });
        }
        let path = self.path.clone();
        let stream = match UnixStream::connect(&path).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(ClientError::NotPermitted { path });
            }
            Err(source) => {
                let advice = manager::advice(&path).await;
                return Err(ClientError::NotRunning { path, source, advice });
            }
        };
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| ClientError::Broken(e.to_string()))?;
        tokio::spawn(async move {
            // Its errors reach the caller through the sender and the body.
            drop(connection.await);
        });
        Ok(sender)
    }
}

/// A message stream.
#[derive(Debug)]
pub struct Messages {
    body: Incoming,
    rest: Vec<u8>,
}

impl Messages {
    /// The next message; `None` when the agent ended the stream.
    ///
    /// # Errors
    /// [`ClientError::Broken`].
    pub async fn next(&mut self) -> Result<Option<Json>, ClientError> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|e| ClientError::Broken(e.to_string()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                // A killed agent breaks the body; to the reader that is an end like any other.
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }
}
