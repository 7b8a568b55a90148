//! Messages on their way to devices: to a connection of this process, or through the bounded queue between those who
//! decide and the connection to a broker.

use super::accounts::Accounts;
use super::devices::{End, Given, Holder, Table};
use super::greetings::{Greeting, Greetings};
use crate::ids::{MessageId, Nonce};
use crate::protocol::{Address, Down, KickCode, Message};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

/// Publishes that wait for the connection; a caller beyond that waits itself.
const QUEUE: usize = 1024;

/// What a device is told, encoded once for all who are told the same.
#[derive(Debug, Clone)]
pub struct Word {
    pub payload: Bytes,
    /// The message that it is, if it is one.
    pub message: Option<MessageId>,
}

impl Word {
    /// A message, whose [`Message::to_json`] this is.
    pub fn of_message(id: &MessageId, json: &str) -> Self {
        Self { payload: Down::encode_message(json).into(), message: Some(id.clone()) }
    }
}

impl From<&Message> for Word {
    fn from(message: &Message) -> Self {
        Self::of_message(&message.id, &message.to_json())
    }
}

impl From<&Down> for Word {
    fn from(down: &Down) -> Self {
        let message = if let Down::Message(message) = down { Some(message.id.clone()) } else { None };
        Self { payload: down.encode().into(), message }
    }
}

/// A word for a device, and the way back: whether it was handed to the broker.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub address: Address,
    pub word: Word,
    pub done: oneshot::Sender<Result<(), NotHanded>>,
}

/// A word that has its place behind those that were handed over before it.
#[derive(Debug)]
#[must_use = "whether it was handed over is known once this is done"]
pub enum Handing {
    Done(Result<(), NotHanded>),
    Queued(Queued),
}

/// In the queue to the broker, or before it while it is full.
#[derive(Debug)]
pub struct Queued {
    full: Option<(mpsc::Sender<Outgoing>, Outgoing)>,
    handed: oneshot::Receiver<Result<(), NotHanded>>,
}

impl Handing {
    /// # Errors
    /// [`NotHanded`].
    pub async fn done(self) -> Result<(), NotHanded> {
        let Queued { full, handed } = match self {
            Self::Done(done) => return done,
            Self::Queued(queued) => queued,
        };
        if let Some((queue, outgoing)) = full
            && queue.send(outgoing).await.is_err()
        {
            return Err(NotHanded::Away);
        }
        handed.await.unwrap_or(Err(NotHanded::Away))
    }
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
    /// Behind a broker, which may keep an account for each login.
    Broker(mpsc::Sender<Outgoing>, Accounts),
    /// On connections of this process.
    Own(Table),
}

/// Publishes to devices.
#[derive(Clone)]
pub struct Wire {
    way: Way,
    greetings: Greetings,
    /// Whether there is a connection; `None` at the start, when the first one is on its way.
    state: watch::Sender<Option<bool>>,
}

impl Wire {
    /// Whether there is a connection to the broker, as far as is known.
    pub fn is_up(&self) -> bool {
        self.state.borrow().unwrap_or(true)
    }

    /// Done when there is a connection to the broker.
    pub async fn connected(&self) {
        // It ends only with its sender, which is here.
        drop(self.state.subscribe().wait_for(|state| *state == Some(true)).await);
    }

    /// Notes whether there is one. Returns whether that is new.
    pub(super) fn set_up(&self, up: bool) -> bool {
        self.state.send_replace(Some(up)).unwrap_or(true) != up
    }

    /// Cuts a device off whose login has ended, after what it was told before. A broker that others run lets nobody but
    /// its operator do that, unless it keeps accounts for the gateway.
    pub fn end(&self, address: &Address, code: KickCode) {
        match &self.way {
            Way::Own(table) => table.end_login(&address.client_id(), code),
            Way::Broker(_, accounts) => accounts.ended(),
        }
    }

    /// Logins have ended, also of devices that nobody has heard of.
    pub fn logins_ended(&self) {
        if let Way::Broker(_, accounts) = &self.way {
            accounts.ended();
        }
    }

    /// Who holds a connected device's connection, by the store that `gateway`, and how its last one ended here.
    pub fn link(&self, address: &Address, gateway: Option<String>) -> (Holder, Option<End>) {
        match &self.way {
            Way::Own(table) => {
                let (link, end) = table.link(address);
                (link.map_or(Holder::Elsewhere { gateway }, Holder::Here), end)
            }
            Way::Broker(..) => (Holder::Broker, None),
        }
    }

    /// The device has left that connection here for one at another gateway.
    pub fn moved(&self, address: &Address, nonce: Nonce) {
        if let Way::Own(table) = &self.way {
            table.moved(address, nonce);
        }
    }

    /// The connections of this process, where it holds any.
    pub fn table(&self) -> Option<&Table> {
        match &self.way {
            Way::Own(table) => Some(table),
            Way::Broker(..) => None,
        }
    }

    /// To the connections of this process.
    pub fn own(table: Table) -> Self {
        Self { way: Way::Own(table), greetings: Greetings::default(), state: watch::Sender::new(Some(true)) }
    }

    /// A device greets: until the end of that, messages for it wait behind what it missed.
    pub(super) fn greet(&self, address: Address) -> Greeting {
        self.greetings.begin(address)
    }

    /// Hands a word to the device's connection, or to the broker, in the order of the calls; a message waits while its device
    /// is greeted. A device that is not connected here, or takes nothing, is found out by the ack deadline and by its
    /// connection's end.
    pub fn hand(&self, address: Address, word: Word) -> Handing {
        match self.greetings.hold(&address, word) {
            Some(word) => self.hand_at_once(address, word),
            None => Handing::Done(Ok(())),
        }
    }

    /// The same, of what a greeting is answered with and of what waited for its end.
    pub(super) fn hand_at_once(&self, address: Address, word: Word) -> Handing {
        match &self.way {
            Way::Own(table) => Handing::Done(match table.deliver(&address, word) {
                Given::TooLarge { most } => Err(NotHanded::TooLarge(format!("the device takes at most {most} bytes"))),
                given => {
                    tracing::trace!(event = "endpoint.given", device = %address, ?given, "a message for a connection");
                    Ok(())
                }
            }),
            Way::Broker(queue, _) => {
                let (done, handed) = oneshot::channel();
                let full = match queue.try_send(Outgoing { address, word, done }) {
                    Ok(()) => None,
                    Err(mpsc::error::TrySendError::Full(outgoing)) => Some((queue.clone(), outgoing)),
                    Err(mpsc::error::TrySendError::Closed(_)) => return Handing::Done(Err(NotHanded::Away)),
                };
                Handing::Queued(Queued { full, handed })
            }
        }
    }

    /// The same, to its end.
    ///
    /// # Errors
    /// [`NotHanded`].
    pub async fn publish(&self, address: Address, down: &Down) -> Result<(), NotHanded> {
        self.hand(address, down.into()).done().await
    }
}

/// A handle and the queue it feeds.
pub(super) fn outgoing(accounts: Accounts) -> (Wire, mpsc::Receiver<Outgoing>) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let way = Way::Broker(sender, accounts);
    (Wire { way, greetings: Greetings::default(), state: watch::Sender::new(None) }, queue)
}
