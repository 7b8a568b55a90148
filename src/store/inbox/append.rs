//! Making messages durable.

use super::segment::{self, Slot, id_hash};
use super::{Appended, Inbox, InboxError, place};
use crate::protocol::Message;
use crate::store::owner;
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

/// Largest segment before the next is begun, in bytes.
const SEGMENT_BYTES: u64 = 1024 * 1024;

impl Inbox {
    pub(super) fn write(&mut self, messages: &[Message], sync: bool) -> Result<Appended, InboxError> {
        let mut appended = Appended::default();
        let (mut block, mut lengths, mut ids) = (Vec::new(), Vec::new(), HashSet::new());
        let mut fresh = Vec::new();
        for message in messages {
            let id = id_hash(&message.id);
            if self.index.number(id).is_some() || self.taken.contains(id) || !ids.insert(id) {
                appended.duplicates += 1;
            } else {
                fresh.push((id, message));
            }
        }
        if fresh.is_empty() {
            return Ok(appended);
        }
        // Twenty digits are the longest number: the length may be counted before the number is known.
        for (_, message) in &fresh {
            let bytes = segment::encode(u64::MAX, message).map_err(|source| self.io(source))?.len() as u64;
            if bytes > self.limits.bytes || bytes > segment::RECORD_LIMIT as u64 {
                return Err(InboxError::TooLarge { bytes });
            }
            lengths.push(bytes);
        }
        if !self.make_room(lengths.iter().sum()) {
            return Err(InboxError::Full);
        }
        let first = self.ready_to_append().map_err(|source| self.io(source))?;
        let start = self.segments.get(&first).copied().unwrap_or(0);
        let mut slots = Vec::new();
        for (number, (id, message)) in (self.next..).zip(&fresh) {
            let record = segment::encode(number, message).map_err(|source| self.io(source))?;
            let offset = u32::try_from(start + block.len() as u64).map_err(|e| self.io(io::Error::other(e)))?;
            let length = u32::try_from(record.len()).map_err(|e| self.io(io::Error::other(e)))?;
            slots.push((number, Slot { segment: first, id: *id, offset, length }));
            block.extend(record);
        }
        self.write_block(first, start, &block, sync).map_err(|source| self.io(source))?;
        for (number, slot) in slots {
            self.index.insert(number, slot);
            self.next = number + 1;
            appended.new.push(number);
        }
        Ok(appended)
    }

    fn write_block(&mut self, first: u64, start: u64, block: &[u8], sync: bool) -> io::Result<()> {
        let Some(file) = &mut self.active else { return Err(io::Error::other("no segment is open")) };
        let written = file.write_all(block).and_then(|()| if sync { file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            // Half a record may stand there: the next one must not join it.
            self.sealed = file.set_len(start).is_err();
            self.active = None;
            return Err(error);
        }
        self.segments.insert(first, start + block.len() as u64);
        Ok(())
    }

    /// Makes what was written without syncing durable.
    pub(super) fn sync(&self) -> Result<(), InboxError> {
        for first in self.segments.keys() {
            let path = segment::path(&self.directory, *first);
            File::open(path).and_then(|file| file.sync_all()).map_err(|source| self.io(source))?;
        }
        Ok(())
    }

    pub(super) fn segment_bytes(&self) -> u64 {
        SEGMENT_BYTES.min(self.limits.bytes / 8)
    }

    /// Opens the segment the next record goes to, and returns its first number.
    fn ready_to_append(&mut self) -> io::Result<u64> {
        let last = self.segments.last_key_value().map(|(first, length)| (*first, *length));
        match last.filter(|(_, length)| !self.sealed && *length < self.segment_bytes().max(1)) {
            Some((first, _)) if self.active.is_some() => Ok(first),
            Some((first, length)) => {
                let file = OpenOptions::new().append(true).open(segment::path(&self.directory, first))?;
                // Behind the last whole record there may be a torn one.
                file.set_len(length)?;
                self.active = Some(file);
                Ok(first)
            }
            None => self.begin_segment(),
        }
    }

    pub(super) fn begin_segment(&mut self) -> io::Result<u64> {
        if self.segments.contains_key(&self.next) {
            self.next += 1;
        }
        place::create(&self.directory)?;
        let path = segment::path(&self.directory, self.next);
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        owner::hand_over(&file, &self.directory);
        file.set_len(0)?;
        File::open(&self.directory)?.sync_all()?;
        self.active = Some(file);
        self.sealed = false;
        self.segments.insert(self.next, 0);
        Ok(self.next)
    }
}
