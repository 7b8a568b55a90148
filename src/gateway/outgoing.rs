//! Messages on their way to the broker: the bounded queue between those who decide and the connection.

use crate::protocol::{Address, Down};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, oneshot};

/// Publishes that wait for the connection; a caller beyond that waits itself.
const QUEUE: usize = 1024;
/// A message for a device, and the way back: whether it was handed to the broker.
pub(super) struct Outgoing {
    pub address: Address,
    pub down: Down,
    pub done: oneshot::Sender<Result<(), NotHanded>>,
}

/// Why the broker was not given something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotHanded {
    /// There is no connection to it, or no room.
    Away,
    /// It takes nothing as large, as it says here.
    TooLarge(String),
}

/// Publishes to devices.
#[derive(Clone)]
pub struct Wire {
    queue: mpsc::Sender<Outgoing>,
    /// The last word on the connection; at the start the first one is on its way.
    down: Arc<AtomicBool>,
}

impl Wire {
    /// Whether there is a connection to the broker, as far as is known.
    pub fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    /// Notes whether there is one. Returns whether that is new.
    pub(super) fn set_up(&self, up: bool) -> bool {
        self.down.swap(!up, Ordering::Relaxed) == up
    }

    /// Hands a message to the broker.
    ///
    /// # Errors
    /// [`NotHanded`].
    pub async fn publish(&self, address: Address, down: Down) -> Result<(), NotHanded> {
        let (done, handed) = oneshot::channel();
        if self.queue.send(Outgoing { address, down, done }).await.is_err() {
            return Err(NotHanded::Away);
        }
        handed.await.unwrap_or(Err(NotHanded::Away))
    }
}

/// A handle and the queue it feeds.
pub(super) fn outgoing() -> (Wire, mpsc::Receiver<Outgoing>) {
    let (sender, queue) = mpsc::channel(QUEUE);
    (Wire { queue: sender, down: Arc::default() }, queue)
}
