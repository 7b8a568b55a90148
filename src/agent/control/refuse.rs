//! The control socket while there is no daemon behind it: every peer gets the same answer.

use super::Refusal;
use super::answer::refused;
use super::serve::serve;
use super::server::Door;
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
    let answer = || refused(&refusal);
    serve(Box::new(stream), &|_| Box::pin(std::future::ready(answer())), false).await;
}
