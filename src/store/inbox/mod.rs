//! Messages that are durable on the device and that some local app has not taken yet.
//!
//! An inbox belongs to one user of one IM app and goes with the login:
//!
//! ```text
//! inbox/<hash of app and user>/
//!     00000000000000000001.jsonl    a segment: messages, fsynced before anything is acknowledged
//!     cursors.json                  how far each local app has come, and the numbering's epoch
//!     taken.bin                     hashed ids of what was taken and is gone
//! ```
//!
//! In memory stands only where each message lies. A segment that every app has passed is unlinked. All
//! functions block on the disk.

mod append;
mod cursors;
mod index;
mod legacy;
mod opening;
mod place;
mod room;
mod segment;
mod taken;
#[cfg(test)]
mod tests;

use super::document::write_twice;
use crate::ids::MessageId;
use crate::protocol::Message;
use crate::secret::random_hex;
use cursors::Cursors;
use index::Index;
use segment::{Slot, id_hash};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use taken::TakenIds;
use tracing::{error, info};

/// Most bytes that one [`Batch`] holds, beyond its first message.
const BATCH_BYTES: u64 = 256 * 1024;

/// A message and its number in this inbox, which grows and is never used twice in an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub number: u64,
    pub message: Message,
}

/// How much an inbox holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of all segments together, in bytes, whatever the number of apps. Default 8 MiB.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 8 * 1024 * 1024 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// Nothing was stored; it may be tried again when an app has taken something.
    #[error("the inbox is full of messages that no app has taken; attach one (`impush watch`)")]
    Full,
    /// It never fits.
    #[error("a message of {bytes} bytes does not fit into the inbox")]
    TooLarge { bytes: u64 },
    #[error("cannot use the inbox at {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// What [`Inbox::append`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Appended {
    /// Numbers of the new messages, ascending.
    pub new: Vec<u64>,
    /// Messages that were here already, or taken before.
    pub duplicates: usize,
}

/// The next messages for an app.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    pub entries: Vec<Entry>,
    /// Messages this app will not get, because there was no room for them; until [`Inbox::gap_told`].
    pub missed: u64,
}

/// One user's inbox.
#[derive(Debug)]
pub struct Inbox {
    directory: PathBuf,
    limits: Limits,
    /// Length of each segment in bytes, by its first number.
    segments: BTreeMap<u64, u64>,
    index: Index,
    next: u64,
    cursors: Cursors,
    taken: TakenIds,
    attached: BTreeSet<String>,
    /// The last segment, once something was appended to it.
    active: Option<File>,
    /// The last segment holds damage that could not be cut out: nothing is appended to it.
    sealed: bool,
    /// What the disk has not been told of yet.
    unsaved: bool,
    /// Opening found that messages are gone which nobody has taken.
    lost: bool,
    /// The day on which absent apps were last looked for.
    swept: u64,
}

/// Days since the Unix epoch, by the wall clock.
fn today() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400)
}

impl Inbox {
    /// Opens the user's inbox, or an empty one, and moves an earlier version's file into it. A disk that
    /// is full or read-only still gives an inbox to read from.
    ///
    /// # Errors
    /// [`InboxError::Io`] when something that is there cannot be read.
    pub fn open(state: &Path, app: &str, user: &str, limits: Limits) -> Result<Self, InboxError> {
        let mut inbox = Self::at(place::directory(state, app, user), limits)?;
        if let Err(why) = legacy::take_over(&mut inbox, state, user) {
            error!(event = "inbox.not_taken_over", error = %why, "messages of an earlier version cannot be moved now; the next start tries again");
        }
        Ok(inbox)
    }

    /// Every inbox below the state directory: one for each login that stands.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn stored(state: &Path) -> Result<Vec<Self>, InboxError> {
        let directories = place::all(state).map_err(|source| InboxError::Io { path: state.to_owned(), source })?;
        let alive = directories.into_iter().filter(|directory| directory.is_dir() && !place::is_dead(directory));
        alive.map(|directory| Self::at(directory, Limits::default())).collect()
    }

    /// Unlinks all that belongs to nobody but `keep` (IM app, user): what a power loss left of a logout.
    /// Returns how many inboxes went; one that cannot go now goes the next time.
    pub fn sweep_others(state: &Path, keep: Option<(&str, &str)>) -> usize {
        let keep_directory = keep.map(|(app, user)| place::directory(state, app, user));
        let mut others = place::all(state).unwrap_or_default();
        others.retain(|path| Some(path) != keep_directory.as_ref());
        let old_file = keep.is_none() && std::fs::remove_file(legacy::file(state)).is_ok();
        let swept = others.iter().filter(|path| place::unlink(path).is_ok()).count() + usize::from(old_file);
        if swept > 0 {
            info!(event = "inbox.swept", swept, "inboxes that belong to no login are gone");
        }
        swept
    }

    /// Another value means that numbers have begun anew: an app forgets which one it was at.
    pub fn epoch(&self) -> &str {
        &self.cursors.epoch
    }

    /// Whether messages were gone when it was opened, which the gateway was told were here.
    pub const fn lost(&self) -> bool {
        self.lost
    }

    /// Makes messages durable: all of them or none.
    ///
    /// # Errors
    /// [`InboxError`]; nothing may be acknowledged then.
    pub fn append(&mut self, messages: &[Message]) -> Result<Appended, InboxError> {
        self.forget_absent(today());
        self.write(messages, true)
    }

    /// Whether some app has taken the message of this id, as far as is remembered.
    pub fn is_taken(&self, id: &MessageId) -> bool {
        let hash = id_hash(id);
        match self.index.number(hash) {
            Some(number) => self.cursors.anyone().passed(number),
            None => self.taken.contains(hash),
        }
    }

    /// An app is here. One that is new begins at the oldest message if it is the first, else at the next.
    pub fn attach(&mut self, app: &str) {
        self.attached.insert(app.to_owned());
        self.know(app);
    }

    /// An app has left: when there is no room, its messages go first.
    pub fn detach(&mut self, app: &str) {
        self.attached.remove(app);
    }

    /// Apps that have been away for three months are waited for no more; `today` in days since the Unix epoch.
    fn forget_absent(&mut self, today: u64) {
        if std::mem::replace(&mut self.swept, today) == today {
            return;
        }
        for app in self.cursors.forget_absent(today, &self.attached) {
            info!(
                event = "inbox.app_forgotten",
                app, "a local app has not come for three months; messages wait for it no more"
            );
            self.unsaved = true;
        }
        self.reclaim(false);
        drop(self.flush());
    }

    /// The app is not waited for any more.
    pub fn forget(&mut self, app: &str) {
        self.attached.remove(app);
        if self.cursors.forget(app) {
            self.reclaim(false);
            self.unsaved = true;
            drop(self.flush());
        }
    }

    /// What comes after the number `after` and the app has not taken, oldest first: at most `limit`, and
    /// not many more than 256 KiB.
    ///
    /// # Errors
    /// [`InboxError::Io`] when a file cannot be opened now. A message that cannot be read is left out.
    pub fn messages(&mut self, app: &str, after: u64, limit: usize) -> Result<Batch, InboxError> {
        self.know(app);
        let (cursor, _) = self.cursors.know(app, self.next, &self.attached);
        let from = cursor.position().max(after.saturating_add(1));
        let waiting = self.index.range(from..).filter(|(number, _)| !cursor.passed(*number)).take(limit).collect();
        let missed = cursor.missed();
        Ok(Batch { entries: self.bodies(waiting)?, missed })
    }

    /// What comes after the number `after` and no app has taken; nothing is begun by looking.
    ///
    /// # Errors
    /// As [`Self::messages`].
    pub fn peek(&mut self, after: u64, limit: usize) -> Result<Vec<Entry>, InboxError> {
        let from = after.saturating_add(1);
        let anyone = self.cursors.anyone();
        let waiting = self.index.range(from..).filter(|(number, _)| !anyone.passed(*number)).take(limit).collect();
        self.bodies(waiting)
    }

    /// The app has heard how many it missed.
    pub fn gap_told(&mut self, app: &str) {
        self.unsaved |= self.cursors.gap_told(app);
        drop(self.flush());
    }

    /// The app has these. Ids nobody knows are left out. Returns those that no app had before: the gateway
    /// is to hear of them. A disk that fails does not stop it; see [`Self::flush`].
    pub fn take(&mut self, app: &str, ids: &[MessageId]) -> Vec<MessageId> {
        self.know(app);
        let known = ids.iter().filter_map(|id| Some((self.index.number(id_hash(id))?, id)));
        let known: BTreeMap<u64, &MessageId> = known.collect();
        let numbers: Vec<u64> = known.keys().copied().collect();
        let first = self.cursors.take(app, &numbers, &self.index, self.next);
        self.unsaved |= !numbers.is_empty();
        self.reclaim(false);
        // What is not saved comes again after a restart, and is repeated, not lost.
        drop(self.flush());
        first.iter().filter_map(|number| known.get(number).map(|id| (*id).clone())).collect()
    }

    /// Saves how far the apps have come, if it is not saved.
    ///
    /// # Errors
    /// [`InboxError::Io`]; it may be tried again.
    pub fn flush(&mut self) -> Result<(), InboxError> {
        if self.unsaved { self.save().map_err(|source| self.io(source)) } else { Ok(()) }
    }

    /// Messages that no app has taken.
    pub fn depth(&self) -> usize {
        let anyone = self.cursors.anyone();
        self.index.range(anyone.position()..).filter(|(number, _)| !anyone.passed(*number)).count()
    }

    /// Length of all segments, in bytes.
    pub fn bytes(&self) -> u64 {
        self.segments.values().sum()
    }

    /// Drops every message; numbers go on, and what is dropped is not taken in again. Returns how many no
    /// app had taken.
    ///
    /// # Errors
    /// [`InboxError::Io`] when the disk still holds some of it.
    pub fn clear(&mut self) -> Result<usize, InboxError> {
        let waiting = self.depth();
        self.cursors.pass_everything(self.next);
        self.unsaved = true;
        self.reclaim(true);
        self.flush()?;
        match self.bytes() {
            0 => Ok(waiting),
            _ => Err(self.io(io::Error::other("the segments cannot be removed"))),
        }
    }

    /// The login has ended: nothing of it stays. Needs no room on the disk.
    ///
    /// # Errors
    /// [`InboxError::Io`] when the directory keeps its name. What is only not removed yet goes with
    /// [`Self::sweep_others`].
    pub fn close_and_unlink(self) -> Result<(), InboxError> {
        match place::unlink(&self.directory) {
            Err(source) if self.directory.exists() => Err(self.io(source)),
            _ => Ok(()),
        }
    }

    fn io(&self, source: io::Error) -> InboxError {
        InboxError::Io { path: self.directory.clone(), source }
    }

    fn renew_epoch(&mut self) {
        self.cursors.epoch = random_hex::<16>();
        self.unsaved = true;
    }

    fn know(&mut self, app: &str) {
        self.unsaved |= self.cursors.know(app, self.next, &self.attached).1;
        self.unsaved |= self.cursors.see(app, today());
    }

    fn save(&mut self) -> io::Result<()> {
        self.cursors.next = self.next;
        let bytes = serde_json::to_vec(&self.cursors).map_err(io::Error::other)?;
        write_twice(&self.directory.join("cursors.json"), &bytes)?;
        self.unsaved = false;
        Ok(())
    }

    fn bodies(&mut self, waiting: Vec<(u64, Slot)>) -> Result<Vec<Entry>, InboxError> {
        let mut entries = Vec::new();
        let (mut bytes, mut open) = (0, None);
        for (number, slot) in waiting {
            bytes += u64::from(slot.length);
            if bytes > BATCH_BYTES && !entries.is_empty() {
                break;
            }
            let path = segment::path(&self.directory, slot.segment);
            if open.as_ref().is_none_or(|(first, _)| *first != slot.segment) {
                open = Some((slot.segment, File::open(&path).map_err(|source| self.io(source))?));
            }
            let Some((_, file)) = &open else { continue };
            match segment::read(file, slot) {
                Ok(message) => entries.push(Entry { number, message }),
                Err(why) => {
                    self.index.remove(number);
                    error!(event = "store.unreadable", file = %path.display(), number, %why, "a message cannot be read; the others can");
                }
            }
        }
        Ok(entries)
    }
}
