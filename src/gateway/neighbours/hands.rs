//! Carries out what other gateways left to this one.

use super::Inner;
use super::locked;
use super::notice::Heard;
use crate::gateway::clock::now_ms;
use crate::gateway::dispatch::Dispatch;
use crate::gateway::mending::Asking;
use crate::gateway::outgoing::Word;
use crate::gateway::store::{Order, Store, StoreError};
use crate::ids::{DeviceId, MessageId, Nonce};
use crate::protocol::{Address, KickCode, Message};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often messages are looked for where no notices come.
const POLL: Duration = Duration::from_millis(500);
/// A commit is visible so long after the moment in its messages' ids, at the most. In milliseconds.
const SLACK_MS: u64 = 5_000;
/// Ids looked up together.
const TOGETHER: usize = 500;
/// What was handed out is remembered for at least so long, and at most so much of it.
const REMEMBERED: Duration = Duration::from_secs(10);
const MOST: usize = 50_000;

/// What was handed to connections a moment ago, so that a look does not hand it out again.
#[derive(Default)]
pub(super) struct Recent {
    now: HashSet<(MessageId, DeviceId)>,
    before: HashSet<(MessageId, DeviceId)>,
    turned: Option<Instant>,
}

impl Recent {
    /// Whether it is the first time.
    fn is_new(&mut self, id: &MessageId, device: &DeviceId, now: Instant) -> bool {
        if self.now.len() >= MOST || self.turned.is_none_or(|turned| now.duration_since(turned) >= REMEMBERED) {
            self.before = std::mem::take(&mut self.now);
            self.turned = Some(now);
        }
        let key = (id.clone(), device.clone());
        !self.before.contains(&key) && self.now.insert(key)
    }
}

pub(super) struct Hands {
    pub store: Store,
    pub dispatch: Dispatch,
    pub asking: Asking,
    pub recent: Recent,
}

impl Hands {
    /// Until `stop`.
    pub async fn run(mut self, inner: Arc<Inner>, stop: CancellationToken) {
        let mut looked_ms = now_ms();
        loop {
            let listens = inner.listens.load(Ordering::Relaxed);
            tokio::select! {
                () = stop.cancelled() => return,
                () = inner.hears.notified() => {}
                () = tokio::time::sleep(POLL), if !listens => locked(&inner.heard).look = true,
            }
            let heard = std::mem::take(&mut *locked(&inner.heard));
            if let Err(error) = self.carry_out(heard, &mut looked_ms).await {
                error.tell("what other gateways left to this one could not be read; it is looked for again");
                inner.look_at_all();
                tokio::time::sleep(POLL).await;
            }
        }
    }

    async fn carry_out(&mut self, Heard { ids, orders, look }: Heard, looked_ms: &mut u64) -> Result<(), StoreError> {
        for ids in ids.chunks(TOGETHER) {
            let found = self.store.for_here(ids).await?;
            self.hand(found);
        }
        if look {
            let now = now_ms();
            let found = self.store.under_way_here(looked_ms.saturating_sub(SLACK_MS)).await?;
            self.hand(found);
            *looked_ms = now;
        }
        if orders {
            self.orders().await?;
        }
        Ok(())
    }

    fn hand(&mut self, found: Vec<(Address, Message)>) {
        let now = Instant::now();
        for (address, message) in found {
            if self.recent.is_new(&message.id, &address.device, now) {
                self.dispatch.send([address], || Word::from(&message));
            }
        }
    }

    async fn orders(&self) -> Result<(), StoreError> {
        let mut again = Vec::new();
        for order in self.store.take_orders().await? {
            match order {
                Order::Cut { who, code, by, known } => {
                    let Some(address) = who.address() else { continue };
                    self.dispatch.cut(address, KickCode::from(code), by, known);
                }
                Order::Close { who, nonce } => {
                    if let (Some(address), Ok(nonce)) = (who.address(), Nonce::try_from(nonce)) {
                        self.dispatch.wire.moved(&address, nonce);
                    }
                }
                Order::Ask { app } => self.asking.changed_elsewhere(&app),
                Order::Publish { message } => again.extend(MessageId::try_from(message)),
            }
        }
        for ids in again.chunks(TOGETHER) {
            for (address, message) in self.store.for_here(ids).await? {
                self.dispatch.send([address], || Word::from(&message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_handed_out_a_moment_ago_is_not_handed_out_again() {
        let (mut recent, start) = (Recent::default(), Instant::now());
        let mut is_new = |device: &str, s| {
            let (id, device) = (MessageId::made(1, [0; 4]), DeviceId::try_from(device.to_owned()).expect("an id"));
            recent.is_new(&id, &device, start + Duration::from_secs(s))
        };
        assert!(is_new("phone", 0) && is_new("tablet", 0));
        assert!(!is_new("phone", 9) && !is_new("phone", 19), "a turn later it is still known");
        assert!(is_new("phone", 40));
    }
}
