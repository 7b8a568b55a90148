//! Which messages there are and where they lie; nothing of what they say.

use super::segment::Slot;
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeBounds;

#[derive(Debug, Default)]
pub struct Index {
    slots: BTreeMap<u64, Slot>,
    numbers: HashMap<u64, u64>,
}

impl Index {
    /// A message that is there already keeps its first number.
    pub fn insert(&mut self, number: u64, slot: Slot) {
        let known = *self.numbers.entry(slot.id).or_insert(number);
        if known == number {
            self.slots.insert(number, slot);
        }
    }

    pub fn remove(&mut self, number: u64) {
        if let Some(slot) = self.slots.remove(&number) {
            self.numbers.remove(&slot.id);
        }
    }

    /// The number of the message whose id has this hash.
    pub fn number(&self, id: u64) -> Option<u64> {
        self.numbers.get(&id).copied()
    }

    pub fn range(&self, numbers: impl RangeBounds<u64>) -> impl Iterator<Item = (u64, Slot)> {
        self.slots.range(numbers).map(|(number, slot)| (*number, *slot))
    }
}
