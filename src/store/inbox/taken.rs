//! Ids of messages that were taken and are gone, hashed: a redelivery of one is known for what it is.

use crate::store::document::write_atomically;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::PathBuf;

/// How many are remembered. The gateway repeats only what it was not told of.
pub const REMEMBERED: usize = 4000;

#[derive(Debug)]
pub struct TakenIds {
    path: PathBuf,
    order: VecDeque<u64>,
    known: HashSet<u64>,
}

impl TakenIds {
    /// Reads eight bytes an id, little end first. What does not fill eight bytes is left out.
    ///
    /// # Errors
    /// The disk's error.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let mut taken = Self { path, order: VecDeque::new(), known: HashSet::new() };
        // Either may be torn or behind the other; what one of them knows was taken.
        for path in [taken.copy(), taken.path.clone()] {
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let (whole, _) = bytes.as_chunks::<8>();
            taken.remember(whole.iter().map(|id| u64::from_le_bytes(*id)));
        }
        Ok(taken)
    }

    pub fn contains(&self, id: u64) -> bool {
        self.known.contains(&id)
    }

    pub fn remember(&mut self, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            if self.known.insert(id) {
                self.order.push_back(id);
            }
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    /// # Errors
    /// The disk's error; what was not written is unchanged then.
    pub fn save(&self) -> io::Result<()> {
        let bytes: Vec<u8> = self.order.iter().flat_map(|id| id.to_le_bytes()).collect();
        write_atomically(&self.path, &bytes)?;
        write_atomically(&self.copy(), &bytes)
    }

    /// A repeat that is not known for one is shown twice.
    fn copy(&self) -> PathBuf {
        self.path.with_extension("bin.copy")
    }
}
