//! Devices that are being greeted: a message that comes for one meanwhile goes to it after what it missed, which is older.

use super::outgoing::Word;
use crate::protocol::Address;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Messages that wait for one greeting's end; what comes beyond is not sent, and the ack deadline sees that.
pub(super) const HELD: usize = 512;

#[derive(Debug, Default)]
struct Greeted {
    /// Of two connections that are greeted at once, the newer one has the device's place.
    newest: usize,
    words: Vec<Word>,
}

#[derive(Debug, Default)]
struct All {
    devices: Mutex<HashMap<Address, Greeted>>,
    /// How many those are: most messages come while there are none.
    count: AtomicUsize,
    /// Greetings so far.
    last: AtomicUsize,
}

impl All {
    fn devices(&self) -> MutexGuard<'_, HashMap<Address, Greeted>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Greetings(Arc<All>);

impl Greetings {
    /// A device greets: what comes for it is held until [`Greeting::next`] has handed it out.
    pub fn begin(&self, address: Address) -> Greeting {
        let mut devices = self.0.devices();
        let number = self.0.last.fetch_add(1, Ordering::Relaxed) + 1;
        devices.entry(address.clone()).or_default().newest = number;
        self.0.count.store(devices.len(), Ordering::Release);
        Greeting { all: self.0.clone(), address, number }
    }

    /// Takes a message if its device is being greeted; gives it back otherwise.
    pub fn hold(&self, address: &Address, word: Word) -> Option<Word> {
        if self.0.count.load(Ordering::Acquire) == 0 || word.message.is_none() {
            return Some(word);
        }
        let mut devices = self.0.devices();
        let Some(greeted) = devices.get_mut(address) else { return Some(word) };
        if greeted.words.len() < HELD {
            greeted.words.push(word);
        }
        None
    }
}

/// A device that is being greeted. Dropped before its end, what is held is not sent, and the ack deadline sees that.
#[derive(Debug)]
pub(super) struct Greeting {
    all: Arc<All>,
    address: Address,
    /// No other greeting has it.
    number: usize,
}

impl Greeting {
    /// What has come meanwhile, to be asked again once that is handed over. Empty: the greeting is over, and what comes now
    /// is sent at once.
    pub fn next(&mut self) -> Vec<Word> {
        let mut devices = self.all.devices();
        match devices.get_mut(&self.address) {
            // Otherwise the greeting of a newer connection hands them out.
            Some(greeted) if greeted.newest == self.number => {
                if !greeted.words.is_empty() {
                    return std::mem::take(&mut greeted.words);
                }
                devices.remove(&self.address);
            }
            _ => {}
        }
        self.all.count.store(devices.len(), Ordering::Release);
        Vec::new()
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        while !self.next().is_empty() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MessageId;
    use bytes::Bytes;

    fn word(id: &str) -> Word {
        Word { payload: Bytes::new(), message: Some(MessageId::try_from(id.to_owned()).expect("an id")) }
    }

    fn ids(words: Vec<Word>) -> Vec<String> {
        words.into_iter().filter_map(|word| word.message).map(|id| id.to_string()).collect()
    }

    #[test]
    fn what_comes_while_a_device_is_greeted_waits_and_what_comes_after_it_does_not() {
        let all = Greetings::default();
        let [ann, bob] = ["ann", "bob"].map(|user| Address::new("o#a", user, "phone").expect("an address"));
        assert!(all.hold(&ann, word("m0")).is_some());
        let mut greeting = all.begin(ann.clone());
        assert!(all.hold(&bob, word("m1")).is_some(), "another's greeting");
        assert!(all.hold(&ann, Word { message: None, ..word("m") }).is_some(), "it is no message");
        assert!(all.hold(&ann, word("m2")).is_none());
        assert_eq!(ids(greeting.next()), ["m2"]);
        assert!(all.hold(&ann, word("m3")).is_none(), "it must not overtake what is handed over now");
        assert_eq!(ids(greeting.next()), ["m3"]);
        assert_eq!(ids(greeting.next()), [""; 0]);
        assert!(all.hold(&ann, word("m4")).is_some());
    }

    #[test]
    fn of_two_greetings_of_a_device_the_newer_hands_out_what_came_and_one_that_is_given_up_holds_nothing() {
        let all = Greetings::default();
        let ann = Address::new("o#a", "ann", "phone").expect("an address");
        let (mut first, mut second) = (all.begin(ann.clone()), all.begin(ann.clone()));
        assert!(all.hold(&ann, word("m1")).is_none());
        assert_eq!(ids(first.next()), [""; 0]);
        drop(first);
        assert_eq!(ids(second.next()), ["m1"]);
        drop(second);
        assert!(all.hold(&ann, word("m2")).is_some());
        let (stuck, mut newer) = (all.begin(ann.clone()), all.begin(ann.clone()));
        assert!(newer.next().is_empty());
        assert!(all.hold(&ann, word("m3")).is_some(), "an older connection's greeting holds nothing back");
        drop(stuck);
    }

    #[test]
    fn no_more_is_held_for_a_device_than_it_may_miss_at_once() {
        let all = Greetings::default();
        let ann = Address::new("o#a", "ann", "phone").expect("an address");
        let mut greeting = all.begin(ann.clone());
        for n in 0..HELD + 9 {
            assert!(all.hold(&ann, word(&format!("m{n}"))).is_none());
        }
        assert_eq!(greeting.next().len(), HELD);
    }
}
