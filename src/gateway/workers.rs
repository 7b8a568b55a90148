//! What devices say, carried out side by side: one device's words in their order, different devices' at
//! once, so that their commits go to the disk together.

use super::dispatch::Dispatch;
use super::greetings::Greeting;
use super::store::{Bind, BindReply, StoreError};
use crate::ids::Nonce;
use crate::protocol::{Address, BindResult, Down, PayloadError, Up, decode_state, decode_up};
use bytes::Bytes;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;
use tokio::sync::mpsc;

/// Devices whose words are carried out at once; it is also most of one commit.
const WORKERS: usize = 64;
/// Words that wait for one worker: more than the broker may send before the first is acknowledged.
const DEPTH: usize = 256;
/// After which pause the store is asked again with what a device said.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// A publish of a device, or of the broker about it.
#[derive(Debug)]
pub(super) struct Heard {
    pub address: Address,
    pub said: Said,
    pub packet_id: Option<u16>,
}

#[derive(Debug)]
pub(super) enum Said {
    Up(Bytes),
    /// The same, read already. Few are, and every idle device keeps room for a few words.
    Understood(Box<Up>),
    State(Bytes),
    /// By the endpoint: this connection of it is over.
    Ended(Nonce),
    /// By the broker: a connection of it was over at this moment.
    Gone {
        at_ms: u64,
    },
}

impl Said {
    /// Whether the device is told what it missed.
    fn is_greeting(&self) -> bool {
        let Self::Up(payload) = self else { return false };
        // Most words are acknowledgements, which are not decoded twice.
        payload.windows(7).any(|part| part == b"\"hello\"")
            && matches!(decode_up(payload), Ok(Up::Hello(hello)) if !hello.check)
    }
}

/// The workers of one connection; they end with it.
pub(super) struct Workers {
    queues: Vec<mpsc::Sender<Heard>>,
}

impl Workers {
    /// Starts them; what they finish, and can be acknowledged, comes out of the receiver.
    pub fn start(dispatch: &Dispatch) -> (Self, mpsc::Receiver<Option<u16>>) {
        let (done, finished) = mpsc::channel(DEPTH);
        let queues = (0..WORKERS).map(|_| {
            let (sender, mut queue) = mpsc::channel::<Heard>(DEPTH);
            let (dispatch, done) = (dispatch.clone(), done.clone());
            tokio::spawn(async move {
                while let Some(heard) = queue.recv().await {
                    let packet_id = heard.packet_id;
                    let over = done.closed();
                    tokio::select! {
                        () = carry_out(heard, &dispatch) => {}
                        // What is not acknowledged, another gateway may be told of.
                        () = over => return,
                    }
                    if done.send(packet_id).await.is_err() {
                        return;
                    }
                }
            });
            sender
        });
        (Self { queues: queues.collect() }, finished)
    }

    /// `false` when a worker has more to do than the broker may have sent. What the broker says by itself
    /// is not bounded by that, is only a hint, and is passed over before it is in the devices' way.
    pub fn take(&self, heard: Heard) -> bool {
        let mut hasher = DefaultHasher::new();
        heard.address.hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % WORKERS as u64).unwrap_or(0);
        let queue = &self.queues[at];
        let hint = matches!(heard.said, Said::Gone { .. }) && heard.packet_id.is_none();
        (hint && queue.capacity() <= DEPTH / 2) || queue.try_send(heard).is_ok()
    }
}

async fn carry_out(heard: Heard, dispatch: &Dispatch) {
    let Answer { downs, greeting } = answer_to(&heard.address, &heard.said, dispatch).await;
    for down in downs {
        dispatch.answer(heard.address.clone(), &down).await;
    }
    if let Some(greeting) = greeting {
        dispatch.greeted(&heard.address, greeting);
    }
}

/// What a device is answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub downs: Vec<Down>,
    /// Over when those are told.
    pub greeting: Option<Greeting>,
}

/// What the device is answered, once the store has what it said, or refuses it. A store that does not work now is waited
/// for: while this connection stands nobody else is given the word.
pub(super) async fn answer_to(address: &Address, said: &Said, dispatch: &Dispatch) -> Answer {
    let greeting = said.is_greeting().then(|| dispatch.wire.greet(address.clone()));
    loop {
        match understood(address, said, dispatch).await {
            Ok(downs) => return Answer { downs, greeting },
            Err(error) if error.refuses_data() => {
                dispatch.on_refused("device", "store", Some(address), &error);
                return Answer { downs: Vec::new(), greeting };
            }
            Err(error) => {
                error.tell("what a device said could not be stored; it is tried again until it is");
                tokio::time::sleep(STORE_PAUSE).await;
            }
        }
    }
}

async fn understood(from: &Address, said: &Said, dispatch: &Dispatch) -> Result<Vec<Down>, StoreError> {
    let address = from.clone();
    let refused = |error: &PayloadError| dispatch.on_refused("device", error.as_str(), Some(from), error);
    match said {
        Said::Understood(up) => return on_up(address, Up::clone(up), dispatch).await,
        Said::State(payload) => match decode_state(payload) {
            Ok(state) if !state.online => {
                Box::pin(dispatch.on_offline(address, state.nonce)).await?;
            }
            Ok(state) => dispatch.on_online(address, state.nonce),
            Err(error) => refused(&error),
        },
        Said::Up(payload) => match decode_up(payload) {
            Ok(up) => return on_up(address, up, dispatch).await,
            Err(error) => {
                refused(&error);
                if let PayloadError::Refused { why, sequence: Some(sequence) } = error {
                    return Ok(vec![bound(sequence, BindReply::Refused(why.to_string()))]);
                }
            }
        },
        Said::Ended(nonce) => Box::pin(dispatch.on_offline(address, nonce.clone())).await?,
        Said::Gone { at_ms } => {
            Box::pin(dispatch.on_gone(address, *at_ms)).await?;
        }
    }
    Ok(Vec::new())
}

/// Nearly all words are acknowledgements: what waits for others is made apart, so that it is not room in each of these.
async fn on_up(address: Address, up: Up, dispatch: &Dispatch) -> Result<Vec<Down>, StoreError> {
    let mut first = None;
    if dispatch.is_overdue(&address) {
        first = match &up {
            Up::Hello(_) | Up::Renew => Box::pin(dispatch.on_renew(&address)).await?,
            _ => None,
        };
        match (&first, &up) {
            (Some(_), Up::Hello(_)) => {}
            (Some(_), _) => return Ok(first.into_iter().collect()),
            (None, _) => {
                let why = "the device's token is over, and this is not how it is renewed";
                dispatch.on_refused("device", "overdue", Some(&address), &why);
                return Ok(Vec::new());
            }
        }
    }
    let question = match &up {
        Up::Hello(_) => None,
        _ => dispatch.on_heard(&address).await?,
    };
    let mut replies = match up {
        Up::Hello(hello) => Box::pin(dispatch.on_hello(address, hello)).await?,
        Up::Bind { sequence, notifier, token } => {
            let bind = Bind::Set { notifier, token: token.expose().to_owned() };
            vec![bound(sequence, Box::pin(dispatch.on_bind(address, sequence, bind)).await?)]
        }
        Up::Unbind { sequence, notifier, logout } => {
            let bind = Bind::Remove { notifier, logout };
            vec![bound(sequence, Box::pin(dispatch.on_bind(address, sequence, bind)).await?)]
        }
        Up::Ack { ids, attached } => {
            let more = dispatch.on_ack(address, ids, attached).await?;
            more.into_iter().map(Down::Message).collect()
        }
        Up::Taken { ids, woke } => {
            let more = dispatch.on_taken(address, ids, woke).await?;
            more.into_iter().map(Down::Message).collect()
        }
        Up::Receipt { id, event } => {
            Box::pin(dispatch.on_receipt(address, id, event)).await?;
            Vec::new()
        }
        Up::Presence { presence } => {
            Box::pin(dispatch.on_presence(address, presence)).await?;
            Vec::new()
        }
        Up::Renew => Box::pin(dispatch.on_renew(&address)).await?.into_iter().collect(),
    };
    replies.extend(question);
    Ok(first.into_iter().chain(replies).collect())
}

fn bound(sequence: u64, reply: BindReply) -> Down {
    let (result, reason, expected) = match reply {
        BindReply::Ok => (BindResult::Ok, None, None),
        // Overtaken by a newer one, and the device ignores this; or its state is of before, and it catches up.
        BindReply::Stale { newest } => {
            (BindResult::Later, Some(format!("sequence {sequence} is behind {newest}")), Some(newest))
        }
        BindReply::Refused(reason) => (BindResult::Refused, Some(reason), None),
    };
    Down::Bound { sequence, result, reason, expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carrying_a_word_out_holds_no_room_for_those_that_are_rare() {
        fn size<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let held =
            size(|from: &'static Address, said: &'static Said, with: &'static Dispatch| answer_to(from, said, with));
        assert!(held <= 2048, "{held} bytes are made and moved for each acknowledgement");
    }
}
