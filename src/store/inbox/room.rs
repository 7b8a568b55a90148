//! Who goes when there is no room: first what every app has, then what only apps wait for that are away.

use super::Inbox;
use super::segment::{self, Slot};
use std::io;
use std::ops::Range;

impl Inbox {
    fn numbers(&self, first: u64) -> Range<u64> {
        let end = self.segments.range(first + 1..).next().map_or(self.next.max(first), |(end, _)| *end);
        first..end
    }

    pub(super) fn make_room(&mut self, bytes: u64) -> bool {
        let fits = |inbox: &Self| inbox.bytes() + bytes <= inbox.limits.bytes;
        if fits(self) {
            return true;
        }
        self.reclaim(true);
        for first in self.firsts() {
            if !fits(self) {
                self.compact(first);
            }
        }
        for first in self.firsts() {
            if !fits(self) {
                self.give_up(first);
            }
        }
        fits(self)
    }

    fn firsts(&self) -> Vec<u64> {
        self.segments.keys().copied().collect()
    }

    /// Unlinks the segments that every app has passed; the last one when it has grown, or when `all` go.
    pub(super) fn reclaim(&mut self, all: bool) {
        for first in self.firsts() {
            let length = self.segments.get(&first).copied().unwrap_or(0);
            let last = self.segments.last_key_value().is_some_and(|(last, _)| *last == first);
            let worth = !last || length > 0 && (all || length >= self.segment_bytes() / 4);
            if worth && self.index.range(self.numbers(first)).all(|(number, _)| self.cursors.done(number)) {
                self.drop_segment(first);
            }
        }
    }

    /// Writes a segment anew that is mostly history.
    fn compact(&mut self, first: u64) {
        let (gone, keep): (Vec<_>, Vec<_>) =
            self.index.range(self.numbers(first)).partition(|(number, _)| self.cursors.done(*number));
        let live: u64 = keep.iter().map(|(_, slot)| u64::from(slot.length)).sum();
        if live * 2 > self.segments.get(&first).copied().unwrap_or(0) {
            return;
        }
        self.remember(&gone);
        // A disk without room for a copy keeps the segment as it is.
        if let Ok(scan) = segment::rewrite(&self.directory, first, &keep) {
            self.active = None;
            self.segments.insert(first, scan.length);
            gone.iter().chain(&keep).for_each(|(number, _)| self.index.remove(*number));
            scan.records.into_iter().for_each(|(number, slot)| self.index.insert(number, slot));
        }
    }

    /// Drops a segment for which only apps wait that are not attached.
    fn give_up(&mut self, first: u64) {
        let numbers: Vec<u64> = self.index.range(self.numbers(first)).map(|(number, _)| number).collect();
        let waits = |name: &str| self.attached.contains(name);
        let held = self.cursors.apps().any(|(name, cursor)| waits(name) && numbers.iter().any(|n| !cursor.passed(*n)));
        let nobody_knows_of_it = self.cursors.apps().next().is_none();
        if !held && !nobody_knows_of_it && self.drop_segment(first) {
            numbers.iter().for_each(|number| self.cursors.miss(*number));
            self.unsaved = true;
            drop(self.flush());
        }
    }

    /// `true` if it is gone. The last one gives way to an empty one, so that numbers go on.
    fn drop_segment(&mut self, first: u64) -> bool {
        let gone: Vec<_> = self.index.range(self.numbers(first)).collect();
        let last = self.segments.last_key_value().is_some_and(|(last, _)| *last == first);
        if last && self.begin_segment().is_err() {
            return false;
        }
        self.remember(&gone);
        match std::fs::remove_file(segment::path(&self.directory, first)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => false,
            _ => {
                self.segments.remove(&first);
                gone.iter().for_each(|(number, _)| self.index.remove(*number));
                true
            }
        }
    }

    /// Before the index forgets what was taken. On a full disk it is remembered until the agent ends.
    fn remember(&mut self, gone: &[(u64, Slot)]) {
        let anyone = self.cursors.anyone();
        self.taken.remember(gone.iter().filter(|(number, _)| anyone.passed(*number)).map(|(_, slot)| slot.id));
        drop(self.taken.save());
    }
}
