//! Messages on their way to devices: to a connection of this process, or through the bounded queue between those who
//! decide and the connection to a broker.

use super::devices::{Given, Table};
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

/// Where devices are.
#[derive(Clone)]
enum Way {
    /// Behind a broker.
    Broker(mpsc::Sender<Outgoing>),
    /// On connections of this process.
    Own(Table),
}

/// Publishes to devices.
#[derive(Clone)]
pub struct Wire {
    way: Way,
    /// The last word on the connection; at the start the first one is on its way.
    down: Option<Arc<AtomicBool>>,
}

impl Wire {
    /// Whether there is a connection to the broker, as far as is known.
    pub fn is_up(&self) -> bool {
        self.down.as_ref().is_none_or(|down| !down.load(Ordering::Relaxed))
    }

    /// Notes whether there is one. Returns whether that is new.
    pub(super) fn set_up(&self, up: bool) -> bool {
        self.down.as_ref().is_some_and(|down| down.swap(!up, Ordering::Relaxed) == up)
    }

    /// To the connections of this process.
    pub const fn own(table: Table) -> Self {
        Self { way: Way::Own(table), down: None }
    }

    /// Hands a message to the device, or to the broker. A device that is not connected here, or takes nothing, is found
    /// out by the ack deadline and by its connection's end.
    ///
    /// # Errors
    /// [`NotHanded`].
    pub async fn publish(&self, address: Address, down: Down) -> Result<(), NotHanded> {
        let queue = match &self.way {
            Way::Broker(queue) => queue,
            Way::Own(table) => {
                return match table.deliver(&address, down.encode().into()) {
                    Given::TooLarge { most } => {
                        Err(NotHanded::TooLarge(format!("the device takes at most {most} bytes")))
                    }
                    given => {
                        tracing::trace!(event = "endpoint.given", device = %address, ?given, "a message for a connection");
                        Ok(())
                    }
                };
            }
        };
        let (done, handed) = oneshot::channel();
        if queue.send(Outgoing { address, down, done }).await.is_err() {
            return Err(NotHanded::Away);
        }
        handed.await.unwrap_or(Err(NotHanded::Away))
    }
}

/// A handle and the queue it feeds.
pub(super) fn outgoing() -> (Wire, mpsc::Receiver<Outgoing>) {
    let (sender, queue) = mpsc::channel(QUEUE);
    (Wire { way: Way::Broker(sender), down: Some(Arc::default()) }, queue)
}
