//! One peer of the control socket: its way to the daemon, and what every answer is made of.

use super::super::shell::StreamsEnd;
use super::{Ask, Refusal, Reply, Request};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::Response;
use hyper::body::Bytes;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// The daemon answers within this: a logout waits up to five seconds for the gateway.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// An enrolment is an exchange and a login.
const ENROL_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) type AnyBody = BoxBody<Bytes, Infallible>;

#[derive(Clone)]
pub(super) struct Peer {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) arrivals: watch::Receiver<u64>,
    pub(super) ends: watch::Receiver<StreamsEnd>,
    pub(super) group: bool,
}

impl Peer {
    pub(super) async fn ask(&self, ask: Ask) -> Result<Reply, Refusal> {
        let (reply, answer) = oneshot::channel();
        let within = if matches!(ask, Ask::Enrol { .. }) { ENROL_TIMEOUT } else { ANSWER_TIMEOUT };
        let gone = || Refusal::new(503, "stopping", "the agent is stopping");
        let exchange = async {
            self.requests.send(Request { ask, reply }).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        };
        tokio::time::timeout(within, exchange)
            .await
            .unwrap_or_else(|_| Err(Refusal::new(504, "busy", "the agent did not answer in time; try again")))
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) enum Who {
    /// A peer of the socket, by the kernel's word.
    User(u32),
    /// An app, by its secret.
    App(String),
}

impl Who {
    /// The agent's own user, for what an app asks: only peers of the socket are told apart by it.
    pub fn uid(&self) -> u32 {
        match self {
            Self::User(uid) => *uid,
            Self::App(_) => u32::MAX,
        }
    }
}

/// A local app's name, or the user it runs as: cursors belong to one or the other. An app has its own alone.
pub(super) fn app_name(named: Option<&str>, who: &Who) -> Result<String, Refusal> {
    match named {
        None => Ok(match who {
            Who::User(uid) => format!("uid:{uid}"),
            Who::App(name) => name.clone(),
        }),
        Some(named) if matches!(who, Who::App(own) if own != named) => {
            Err(Refusal::new(403, "not_permitted", "an app asks in its own name; leave `app` out"))
        }
        Some(name)
            if (1..=64).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) =>
        {
            Ok(name.to_owned())
        }
        Some(_) => Err(Refusal::new(400, "bad_app", "app is a name of 1 to 64 of the characters A-Z a-z 0-9 . _ -")),
    }
}

pub(super) fn unexpected() -> Refusal {
    Refusal::new(500, "internal", "the agent answered something else")
}

pub(super) fn full(bytes: Bytes) -> AnyBody {
    Full::new(bytes).boxed()
}

pub(super) fn response_of(kind: &'static str, body: AnyBody) -> Response<AnyBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
