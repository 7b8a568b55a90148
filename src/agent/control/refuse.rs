//! The control socket while there is no daemon behind it: every peer gets the same answer.

use super::Refusal;
use super::answer::{HEAD_TIMEOUT, refused};
use super::server::Door;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Peers answered at once; more wait in the listen queue.
const MAX_PEERS: usize = 8;

impl Door {
    /// Answers whoever asks, until it is dropped or the socket fails.
    pub async fn refuse(&self, refusal: &Refusal) {
        let mut peers = JoinSet::new();
        while let Ok((stream, _)) = self.listener.accept().await {
            peers.spawn(answer(stream, refusal.clone()));
            while peers.try_join_next().is_some() {}
            if peers.len() >= MAX_PEERS {
                peers.join_next().await;
            }
        }
    }

    /// Answers whoever asks for `long`, if somebody asks within `soon`; whether somebody did.
    pub async fn refuse_waiting(&self, refusal: &Refusal, soon: Duration, long: Duration) -> bool {
        let Ok(Ok((stream, _))) = timeout(soon, self.listener.accept()).await else { return false };
        let all = async { tokio::join!(answer(stream, refusal.clone()), self.refuse(refusal)) };
        drop(timeout(long, all).await);
        true
    }
}

async fn answer(stream: UnixStream, refusal: Refusal) {
    let service = service_fn(|_| async { Ok::<_, Infallible>(refused(&refusal)) });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // Who leaves without hearing it did not want to know.
    drop(served);
}
