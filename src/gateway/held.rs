//! Notifications that wait for their certificate or its vendor alone: they go on as soon as it serves again.
//!
//! When each is due for anyway stands in the store. Here stands only what is woken earlier: this gateway's own, as are
//! its circuits.

use super::store::Waiting;
use crate::ids::MessageId;
use crate::protocol::Address;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Of one certificate; those beyond wait until they are due.
const MOST: usize = 10_000;

/// Whose last try of which message it was.
type Tries = HashMap<(MessageId, Address), u32>;

/// By IM app and certificate's name; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(Arc<Mutex<HashMap<(String, String), Tries>>>);

impl Held {
    fn all(&self) -> MutexGuard<'_, HashMap<(String, String), Tries>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn wait(&self, app: &str, name: &str, waiting: Waiting) {
        let mut all = self.all();
        let held = all.entry((app.to_owned(), name.to_owned())).or_default();
        let Waiting { message, address, attempt } = waiting;
        let whose = (message, address);
        if held.len() < MOST || held.contains_key(&whose) {
            held.insert(whose, attempt);
        }
    }

    /// Those of a certificate, which wait no more.
    pub fn release(&self, app: &str, name: &str) -> Vec<Waiting> {
        let mut all = self.all();
        if all.is_empty() {
            return Vec::new();
        }
        let tries = all.remove(&(app.to_owned(), name.to_owned())).unwrap_or_default();
        tries.into_iter().map(|((message, address), attempt)| Waiting { message, address, attempt }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(device: usize, attempt: u32) -> Waiting {
        let address = Address::new("o#a", "u", format!("d{device}")).expect("an address");
        Waiting { message: MessageId::made(1, [0; 4]), address, attempt }
    }

    #[test]
    fn who_waits_is_released_once_and_by_its_own_certificate() {
        let held = Held::default();
        held.wait("o#a", "one", waiting(1, 1));
        held.wait("o#a", "one", waiting(1, 2));
        held.wait("o#a", "other", waiting(2, 1));
        assert_eq!(held.release("o#a", "one"), [waiting(1, 2)]);
        assert!(held.release("o#a", "one").is_empty());
        assert_eq!(held.release("o#a", "other"), [waiting(2, 1)]);
    }

    #[test]
    fn those_beyond_the_most_wait_until_they_are_due() {
        let held = Held::default();
        (0..=MOST).for_each(|device| held.wait("o#a", "one", waiting(device, 1)));
        assert_eq!(held.release("o#a", "one").len(), MOST);
    }
}
