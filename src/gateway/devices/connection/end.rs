//! How a device's connection ends: what it said is carried out, and then it is told to be over.

use super::super::joined;
use super::Connection;
use crate::gateway::workers::{Answer, Said};
use crate::protocol::decode_state;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// How long the client may take to close its side after it was parted from.
const FAREWELL: Duration = Duration::from_millis(500);

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    /// What the device said is carried out to the end, and then its connection's end is told.
    pub(super) async fn finish(&mut self) {
        let end = self.entered.as_ref().map(|entered| entered.place.link.end(self.over.unwrap_or("unknown")));
        // Closing with unread bytes makes the kernel send RST, which throws away what was written.
        let farewell = async {
            self.stream.shutdown().await?;
            let mut rest = [0; 512];
            while self.stream.read(&mut rest).await? > 0 {}
            Ok::<_, std::io::Error>(())
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        let Some((entered, end)) = self.entered.take().zip(end) else { return };
        self.shared.table.leave(&entered.client_id, &entered.place);
        self.shared.metrics.link_ended(end.cause);
        let Some(address) = entered.address else { return };
        self.shared.table.note_end(&entered.client_id, end);
        tracing::debug!(event = "endpoint.link_over", device = %address, why = self.over, "a device's connection is over");
        // What came for it while it greeted goes to whichever connection has its place now.
        let greeted = |answer: Answer| {
            answer.greeting.into_iter().for_each(|greeting| self.shared.dispatch.greeted(&address, greeting));
        };
        if let Some((work, _)) = self.work.take() {
            greeted(work.await);
        }
        while let Some((said, _)) = joined::next(&mut self.words) {
            greeted(self.work_on(address.clone(), said).await);
        }
        // The will is the same word; whoever has neither said goodbye nor left one is away all the same.
        let ended = self.will.as_deref().and_then(|will| decode_state(will).ok());
        let nonce = ended.map(|state| state.nonce).or(self.nonce.take()).filter(|_| !self.goodbye);
        if let Some(nonce) = nonce {
            self.work_on(address, Said::Ended(nonce)).await;
        }
    }
}
