//! How many more messages a device may have waiting, as of the last count: so that a message need not count
//! them all again.

use super::pairs::Place;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, PoisonError};

/// Devices remembered; beyond them it starts afresh, which costs each device one count.
const MOST: usize = 100_000;

/// Clones share it. Where several gateways share a store each may let as many more in as it has counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Room(Arc<Mutex<Known>>);

/// Devices by their hashes: two of one hash share their places. With their names, all transactions would stand still for tens of
/// milliseconds whenever the table grows or is emptied.
#[derive(Debug, Default)]
struct Known {
    hash: RandomState,
    left: HashMap<u64, u32>,
}

impl Known {
    fn key(&self, Place { app, user, device }: Place<'_>) -> u64 {
        self.hash.hash_one((app, user, device))
    }
}

impl Room {
    /// Takes one place. `false`: nothing is known, or none is left, so they must be counted.
    pub fn take(&self, place: Place<'_>) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = known.key(place);
        match known.left.get_mut(&key) {
            Some(room @ 1..) => {
                *room -= 1;
                true
            }
            _ => false,
        }
    }

    /// So many places are left after a count.
    pub fn counted(&self, place: Place<'_>, left: u32) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.left.len() >= MOST {
            known.left.clear();
        }
        let key = known.key(place);
        known.left.insert(key, left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_count_so_many_come_in_before_the_next() {
        let room = Room::default();
        let of = |device| Place { app: "o#a", user: "ann", device };
        assert!(!room.take(of("phone")));
        room.counted(of("phone"), 2);
        assert!(room.take(of("phone")) && room.take(of("phone")));
        assert!(!room.take(of("phone")));
        assert!(!room.take(of("tablet")));
    }
}
