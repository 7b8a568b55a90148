//! Devices that have entered with a token whose life is over: until they have a new one, nothing but that is
//! theirs.

use crate::protocol::Address;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Devices that are remembered at once; more are not let in.
const MOST: usize = 10_000;

/// By client id. Clones share it: who lets devices in marks them, who hears them looks.
#[derive(Debug, Clone, Default)]
pub struct Overdue(Arc<Mutex<HashSet<String>>>);

impl Overdue {
    /// `false` when too many wait for their new token.
    pub fn mark(&self, client_id: &str) -> bool {
        let mut marked = self.marked();
        let room = marked.len() < MOST || marked.contains(client_id);
        if room {
            marked.insert(client_id.to_owned());
        }
        room
    }

    /// It has a token whose life is not over.
    pub fn clear(&self, client_id: &str) {
        self.marked().remove(client_id);
    }

    pub fn contains(&self, address: &Address) -> bool {
        let marked = self.marked();
        // Nearly always nobody is marked, and an id costs its spelling.
        !marked.is_empty() && marked.contains(&address.client_id())
    }

    fn marked(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
