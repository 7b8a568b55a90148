//! How many more messages a device may have waiting, as of the last count: so that a message need not count
//! them all again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Devices remembered; beyond them it starts afresh, which costs each device one count.
const MOST: usize = 100_000;

/// Clones share it. Where several gateways share a store each may let as many more in as it has counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Room(Arc<Mutex<HashMap<Place, u32>>>);

/// App, user and device.
type Place = (String, String, String);

impl Room {
    /// Takes one place. `false`: nothing is known, or none is left, so they must be counted.
    pub fn take(&self, app: &str, user: &str, device: &str) -> bool {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match left.get_mut(&(app.to_owned(), user.to_owned(), device.to_owned())) {
            Some(room @ 1..) => {
                *room -= 1;
                true
            }
            _ => false,
        }
    }

    /// So many places are left after a count.
    pub fn counted(&self, app: &str, user: &str, device: &str, left: u32) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.clear();
        }
        all.insert((app.to_owned(), user.to_owned(), device.to_owned()), left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_count_so_many_come_in_before_the_next() {
        let room = Room::default();
        assert!(!room.take("o#a", "ann", "phone"));
        room.counted("o#a", "ann", "phone", 2);
        assert!(room.take("o#a", "ann", "phone") && room.take("o#a", "ann", "phone"));
        assert!(!room.take("o#a", "ann", "phone"));
        assert!(!room.take("o#a", "ann", "tablet"));
    }
}
