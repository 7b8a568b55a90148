//! Opening an inbox: what is read, what is mended, and when its numbering begins anew.

use super::cursors::Cursors;
use super::index::Index;
use super::taken::TakenIds;
use super::{Inbox, InboxError, Limits, place, segment};
use crate::store::document::{beside, copy_of};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use tracing::error;

impl Inbox {
    pub(super) fn at(directory: PathBuf, limits: Limits) -> Result<Self, InboxError> {
        place::tidy(&directory);
        let io = |source| InboxError::Io { path: directory.clone(), source };
        let firsts = match segment::list(&directory) {
            Ok(firsts) => firsts,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io(error)),
        };
        let (known, well) = load_cursors(&directory.join("cursors.json")).map_err(io)?;
        let mut inbox = Self {
            taken: TakenIds::open(directory.join("taken.bin")).map_err(io)?,
            unsaved: !well,
            cursors: known.unwrap_or_else(Cursors::new),
            directory: directory.clone(),
            limits,
            segments: BTreeMap::new(),
            index: Index::default(),
            next: firsts.last().copied().unwrap_or(1),
            attached: BTreeSet::new(),
            active: None,
            sealed: false,
            lost: false,
            swept: 0,
        };
        for (at, first) in firsts.iter().enumerate() {
            let damaged = inbox.read_segment(*first, firsts.get(at + 1).copied()).map_err(io)?;
            inbox.lost |= damaged;
            if damaged && at + 1 == firsts.len() {
                // Numbers that stood in what is lost may be given out again.
                inbox.renew_epoch();
            }
        }
        if inbox.cursors.highest() > inbox.next {
            inbox.next = inbox.cursors.highest();
            inbox.lost = true;
            inbox.renew_epoch();
            // Its name says where numbers go on. Where it cannot be made, the next opening finds the same loss.
            drop(inbox.begin_segment());
        }
        if inbox.unsaved {
            // A disk that takes nothing now is no reason not to read from it.
            drop(place::create(&inbox.directory).and_then(|()| inbox.save()));
        }
        Ok(inbox)
    }

    /// Puts a segment into the index; `true` if it is damaged. Damage is cut out, and kept beside it.
    fn read_segment(&mut self, first: u64, end: Option<u64>) -> io::Result<bool> {
        let path = segment::path(&self.directory, first);
        let mut scan = segment::scan(&path, first, end)?;
        let damaged = scan.damaged;
        if damaged > 0 {
            // Beside each other first: at no moment are the whole records under no name.
            let kept = beside(&path, "corrupt").and_then(|aside| {
                match segment::rewrite(&self.directory, first, &scan.records) {
                    Ok(whole) => Ok((whole, aside)),
                    Err(error) => std::fs::remove_file(&aside).and(Err(error)),
                }
            });
            let kept_as = match kept {
                Ok((whole, aside)) => {
                    scan = whole;
                    aside
                }
                Err(_) => {
                    // Read where it stands, and left alone.
                    scan.length = std::fs::metadata(&path)?.len();
                    self.sealed = true;
                    path.clone()
                }
            };
            error!(
                event = "store.corrupt",
                file = %path.display(), kept_as = %kept_as.display(), why = "power loss or a failing disk",
                pieces = damaged, saved = scan.records.len(),
                "the inbox has damaged records; they are set aside and the whole ones are kept"
            );
        }
        self.segments.insert(first, scan.length);
        for (number, slot) in scan.records {
            self.next = self.next.max(number + 1);
            self.index.insert(number, slot);
        }
        if end.is_some() {
            self.sealed = false;
        }
        Ok(damaged > 0)
    }
}

/// How far the apps have come, and whether the file says so itself.
fn load_cursors(path: &Path) -> io::Result<(Option<Cursors>, bool)> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((copied(path), false)),
        Err(error) => return Err(error),
    };
    match serde_json::from_slice(&bytes) {
        Ok(cursors) => Ok((Some(cursors), true)),
        Err(why) => {
            let copied = copied(path);
            let kept_as = beside(path, "corrupt").unwrap_or_else(|_| path.to_owned());
            error!(
                event = "store.corrupt",
                file = %path.display(), kept_as = %kept_as.display(), %why, from_copy = copied.is_some(),
                "how far each app has come cannot be understood; without a copy of it every app begins anew"
            );
            Ok((copied, false))
        }
    }
}

/// A copy is never older than the file it is a copy of.
fn copied(path: &Path) -> Option<Cursors> {
    serde_json::from_slice(&std::fs::read(copy_of(path)).ok()?).ok()
}
