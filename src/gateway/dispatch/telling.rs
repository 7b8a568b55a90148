//! What devices are told, and what of theirs is refused.

use super::{Dispatch, report};
use crate::gateway::clock::now_ms;
use crate::gateway::devices::{End, Holder};
use crate::gateway::greetings::Greeting;
use crate::gateway::metrics::Metrics;
use crate::gateway::outgoing::{Handing, NotHanded, Wire, Word};
use crate::ids::MessageId;
use crate::protocol::{Address, Down};
use std::fmt::Display;
use tracing::{debug, warn};

impl Dispatch {
    /// Tells a device something, and notes of a message why it could not be told.
    pub async fn tell(&self, address: Address, down: &Down) {
        self.say(address, down, Wire::hand).await;
    }

    /// Answers what a device said, in its order.
    pub(in crate::gateway) async fn answer(&self, address: Address, down: &Down) {
        self.say(address, down, Wire::hand_at_once).await;
    }

    async fn say(&self, address: Address, down: &Down, hand: fn(&Wire, Address, Word) -> Handing) {
        let word = Word::from(down);
        let id = word.message.clone();
        let handing = hand(&self.wire, address.clone(), word);
        self.handed(address, id, handing.done().await).await;
    }

    /// A device has been answered what it missed: what came for it meanwhile follows.
    pub(in crate::gateway) fn greeted(&self, address: &Address, mut greeting: Greeting) {
        loop {
            let words = greeting.next();
            if words.is_empty() {
                return;
            }
            for word in words {
                let id = word.message.clone();
                self.follow(address.clone(), id, self.wire.hand_at_once(address.clone(), word));
            }
        }
    }

    /// Tells devices of a message. Calls for one device come to it in their order; nobody waits for it.
    pub(in crate::gateway) fn send(&self, addresses: impl IntoIterator<Item = Address>, message: impl Fn() -> Word) {
        let mut word = None;
        for address in addresses {
            let word = word.get_or_insert_with(&message).clone();
            let id = word.message.clone();
            let handing = self.wire.hand(address.clone(), word);
            self.follow(address, id, handing);
        }
    }

    fn follow(&self, address: Address, id: Option<MessageId>, handing: Handing) {
        if !matches!(handing, Handing::Done(Ok(()))) {
            let this = self.clone();
            self.tasks.spawn(async move { this.handed(address, id, handing.done().await).await });
        }
    }

    async fn handed(&self, address: Address, id: Option<MessageId>, done: Result<(), NotHanded>) {
        match (done, id) {
            (Ok(()), _) => {}
            (Err(NotHanded::Away), Some(id)) => {
                let _ = report(self.store.not_published(id, address, self.rules(), now_ms()).await);
                self.alarm.ring(now_ms());
            }
            (Err(NotHanded::TooLarge(why)), Some(id)) => self.on_too_large(address, id, why).await,
            // It asks again when it is there.
            (Err(NotHanded::Away), None) => {}
            (Err(NotHanded::TooLarge(why)), None) => {
                warn!(event = "broker.too_small", device = %address, why, "the broker takes no packet as large as a word to a device; raise its maximum packet size");
            }
        }
    }

    /// The same, of a message that the broker was handed.
    pub fn refused_as_too_large(&self, address: Address, id: MessageId, why: String) {
        let this = self.clone();
        self.tasks.spawn(async move { this.on_too_large(address, id, why).await });
    }

    /// The broker takes nothing as large as a message.
    async fn on_too_large(&self, address: Address, id: MessageId, why: String) {
        let _ = report(self.store.too_large(id, address, why, (self.rules(), now_ms())).await);
        self.alarm.ring(now_ms());
    }

    /// Where it counts.
    pub fn metrics(&self) -> Metrics {
        self.push.metrics.clone()
    }

    /// The device's connection here, if any, and how the last one ended.
    pub fn link(&self, address: &Address, gateway: Option<String>) -> (Holder, Option<End>) {
        self.wire.link(address, gateway)
    }

    /// Something that came in was not taken: counted, and said the first time.
    pub fn on_refused(&self, from: &'static str, kind: &'static str, who: Option<&Address>, why: &dyn Display) {
        let who = who.map(ToString::to_string);
        if self.push.metrics.refused(from, kind) {
            warn!(event = "input.refused", from, kind, who, %why, "something that came in was refused; more of its kind are only counted");
        } else {
            debug!(event = "input.refused", from, kind, who, %why, "something that came in was refused");
        }
    }
}
