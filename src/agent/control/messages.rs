//! Messages for local apps: a page of them, or a stream that ends with the login.

use super::super::shell::StreamsEnd;
use super::peer::{AnyBody, Peer, Who, app_name, full, response_of, unexpected};
use super::{Ask, Refusal, Reply};
use crate::session;
use crate::store::Batch;
use http_body_util::combinators::BoxBody;
use hyper::Response;
use hyper::body::{Body, Bytes, Frame};
use serde_json::json;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::{mpsc, watch};

/// Lines that wait for a slow reader of a message stream.
const STREAM_DEPTH: usize = 16;

impl Peer {
    pub(super) async fn messages(&self, query: &str, who: &Who) -> Result<Response<AnyBody>, Refusal> {
        let pairs = || query.split('&').filter_map(|pair| pair.split_once('='));
        let value = |name: &str| pairs().find(|(key, _)| *key == name).map(|(_, value)| value);
        let after = value("after").unwrap_or("0");
        let after: u64 = after.parse().map_err(|_| Refusal::new(400, "bad_query", "after is a message number"))?;
        let app = app_name(value("app"), who)?;
        let reader = (value("peek") != Some("true")).then(|| app.clone());
        if value("stream") != Some("true") {
            let Reply::Messages { batch, epoch } = self.ask(Ask::Messages { app: reader, after }).await? else {
                return Err(unexpected());
            };
            return Ok(lines_response(full(lines(&batch)), epoch.as_deref()));
        }
        let mut ends = self.ends.clone();
        ends.mark_unchanged();
        let Reply::Json(attached) = self.ask(Ask::Attach { app: app.clone() }).await? else {
            return Err(unexpected());
        };
        let (sender, receiver) = mpsc::channel(STREAM_DEPTH);
        let peer = self.clone();
        tokio::spawn(async move {
            peer.feed(reader.as_deref(), after, &sender, ends).await;
            // The daemon counts attached apps; when it is gone there is nothing to count.
            drop(peer.ask(Ask::Session(session::Ask::Detach { app })).await);
        });
        Ok(lines_response(BoxBody::new(Lines(receiver)), attached["epoch"].as_str()))
    }

    async fn feed(
        &self,
        app: Option<&str>,
        mut after: u64,
        sender: &mpsc::Sender<Bytes>,
        mut ends: watch::Receiver<StreamsEnd>,
    ) {
        let mut arrivals = self.arrivals.clone();
        loop {
            arrivals.mark_unchanged();
            if ends.has_changed().unwrap_or(true) {
                return say_end(&ends, sender).await;
            }
            let ask = Ask::Messages { app: app.map(str::to_owned), after };
            let Ok(Reply::Messages { batch, .. }) = self.ask(ask).await else { return };
            if let Some(last) = batch.entries.last() {
                after = last.number;
                if sender.send(lines(&batch)).await.is_err() {
                    return;
                }
                // They come a page at a time; only an empty one is the end for now.
                continue;
            }
            tokio::select! {
                changed = arrivals.changed() => if changed.is_err() { return },
                _ = ends.changed() => return say_end(&ends, sender).await,
                () = sender.closed() => return,
            }
        }
    }
}

/// A stream belongs to a login: it ends with it, and says why.
async fn say_end(ends: &watch::Receiver<StreamsEnd>, sender: &mpsc::Sender<Bytes>) {
    let StreamsEnd { word, detail, .. } = ends.borrow().clone();
    let line = json!({ "end": { "word": word, "detail": detail } }).to_string() + "\n";
    // A reader that left needs no reason.
    drop(sender.send(line.into()).await);
}

pub(super) fn lines(batch: &Batch) -> Bytes {
    let mut out = Vec::new();
    if batch.missed > 0 {
        out.extend(json!({ "gap": batch.missed }).to_string().into_bytes());
        out.push(b'\n');
    }
    for entry in &batch.entries {
        // An entry was read from JSON, so it can be written as JSON.
        if serde_json::to_writer(&mut out, entry).is_ok() {
            out.push(b'\n');
        }
    }
    out.into()
}

/// With the inbox's epoch: where it differs from the last one seen, the numbers begin anew.
pub(super) fn lines_response(body: AnyBody, epoch: Option<&str>) -> Response<AnyBody> {
    let mut response = response_of("application/x-ndjson", body);
    if let Some(epoch) = epoch.and_then(|epoch| hyper::header::HeaderValue::from_str(epoch).ok()) {
        response.headers_mut().insert("impush-epoch", epoch);
    }
    response
}

/// A response body fed line by line.
struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
