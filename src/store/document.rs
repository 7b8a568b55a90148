//! One small JSON file that is either the old value or the new one, whatever happens in between.

use super::directory::OpenError;
use super::owner;
use super::salvage::salvage;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use tracing::{error, warn};

/// Whether a second file holds the value too, for a first one that a failing disk has torn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copies {
    One,
    Two,
}

/// A value and the file it lives in.
#[derive(Debug)]
pub(super) struct Document<T> {
    path: PathBuf,
    value: T,
    copies: Copies,
    /// The file holds something else than the value: it is kept under a name with this word before it is
    /// written over.
    aside: Option<&'static str>,
}

impl<T: Serialize + DeserializeOwned + PartialEq> Document<T> {
    /// Reads the file. One that was read and cannot be understood is renamed to `<name>.corrupt-<n>` with one
    /// error line, and its copy or `default` is used. Of one that a newer version wrote, what can be
    /// understood is used. A disk that cannot be written is no reason not to read.
    ///
    /// # Errors
    /// [`OpenError::Unreadable`]; nothing was touched then.
    pub fn open(path: PathBuf, copies: Copies, default: impl FnOnce() -> T) -> Result<Self, OpenError> {
        let found = owner::read(&path)?;
        let mut document = Self { path, value: default(), copies, aside: None };
        let Some(bytes) = found else {
            // What was removed on purpose does not come back from its copy.
            document.forget_copy();
            return Ok(document);
        };
        match serde_json::from_slice(&bytes) {
            Ok(value) => {
                document.value = value;
                document.renew_copy(&bytes);
            }
            Err(why) => document.mend(&bytes, &why.to_string()),
        }
        Ok(document)
    }

    /// A value that no file holds, for one whose file is not to be believed: it stays until the first write.
    pub fn anew(path: PathBuf, copies: Copies, value: T) -> Self {
        Self { path, value, copies, aside: None }
    }

    /// The file cannot be understood as it is.
    fn mend(&mut self, bytes: &[u8], why: &str) {
        if let Some((value, left_out)) = salvage(bytes) {
            warn!(
                event = "store.newer",
                file = %self.path.display(), why, left_out,
                "a state file holds what this version does not know, as a newer one writes it; the rest of it is used"
            );
            self.value = value;
            self.aside = Some("newer");
            return;
        }
        let copy = self.copy().and_then(|copy| std::fs::read(copy).ok());
        let copied = copy.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let from_copy = copied.is_some();
        // Until its copy is in its place it keeps its name: a start in between must not find it missing.
        let kept = if from_copy { beside(&self.path, "corrupt") } else { set_aside(&self.path, "corrupt") };
        self.aside = kept.is_err().then_some("corrupt");
        let kept_as = kept.unwrap_or_else(|_| self.path.clone());
        error!(
            event = "store.corrupt",
            file = %self.path.display(), kept_as = %kept_as.display(), why, from_copy,
            "a state file cannot be understood; it is set aside, and its copy used or a new one begun"
        );
        if let Some(value) = copied {
            self.value = value;
            // On a disk that takes nothing now the copy is read again at the next start.
            drop(self.save());
        }
    }

    pub const fn value(&self) -> &T {
        &self.value
    }

    /// # Errors
    /// The disk's error; neither the file nor the value in memory has changed then.
    pub fn set(&mut self, value: T) -> io::Result<()> {
        // What stands there already is not written again; a file that is not there yet has no value.
        if value != self.value || !self.path.exists() {
            self.write(&bytes_of(&value)?)?;
            self.value = value;
        }
        Ok(())
    }

    /// The value that a missing file stands for. Needs no room on the disk.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn remove(&mut self, nothing: T) -> io::Result<()> {
        self.forget_copy();
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.value = nothing;
        self.aside = None;
        File::open(parent(&self.path))?.sync_all()
    }

    /// # Errors
    /// The disk's error.
    pub fn save(&mut self) -> io::Result<()> {
        let bytes = bytes_of(&self.value)?;
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(why) = self.aside {
            beside(&self.path, why)?;
            self.aside = None;
        }
        match self.copies {
            Copies::One => write_atomically(&self.path, bytes),
            Copies::Two => write_twice(&self.path, bytes),
        }
    }

    fn copy(&self) -> Option<PathBuf> {
        (self.copies == Copies::Two).then(|| copy_of(&self.path))
    }

    fn forget_copy(&self) {
        if let Some(copy) = self.copy() {
            drop(std::fs::remove_file(copy));
        }
    }

    /// A copy that cannot be written is written with the next value, or at the next start.
    fn renew_copy(&self, bytes: &[u8]) {
        if let Some(copy) = self.copy()
            && std::fs::read(&copy).ok().as_deref() != Some(bytes)
        {
            drop(replace(&copy, bytes, false));
        }
    }
}

/// Writes a file that is text and its copy. A full disk takes it all the same while it stays within its
/// blocks: the copy's room is free for it, and where another program has taken that, it is written over in
/// place, which a power loss at that very moment can tear.
///
/// # Errors
/// The disk's error; the old content stands then, without its copy.
pub(super) fn write_twice(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let copy = copy_of(path);
    // A copy is never older than what it is a copy of.
    drop(std::fs::remove_file(&copy));
    match write_atomically(path, bytes) {
        Err(error) if no_room(&error) => overwrite(path, bytes).map_err(|_| error)?,
        written => written?,
    }
    drop(replace(&copy, bytes, false));
    Ok(())
}

/// Where the second copy of a file lies.
pub(super) fn copy_of(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.copy", path.display()))
}

fn bytes_of<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::other)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let before = file.metadata()?.len();
    let allocated = file.metadata()?.blocks() * 512;
    if bytes.len() as u64 > allocated.max(before) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let mut whole = bytes.to_vec();
    // Spaces behind a JSON value mean nothing: what was longer is covered before the end moves.
    whole.resize(whole.len().max(usize::try_from(before).unwrap_or(0)), b' ');
    file.write_all(&whole)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

/// Replaces the file's content at once, with mode 0600 and the directory's owner: temporary file in the same
/// directory, fsync, rename, fsync of the directory.
///
/// # Errors
/// The disk's error; the old content stands then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, true)
}

/// Without `durable` a power loss may lose or tear it; a process that is killed does not.
pub(super) fn replace(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let parent = parent(path);
    // tempfile creates with mode 0600 and removes the file if it is dropped before persist.
    let mut temporary = tempfile::NamedTempFile::new_in(parent)?;
    owner::hand_over(temporary.as_file(), parent);
    temporary.write_all(bytes)?;
    if durable {
        temporary.as_file().sync_all()?;
    }
    temporary.persist(path).map_err(|e| e.error)?;
    if durable { File::open(parent)?.sync_all() } else { Ok(()) }
}

/// Renames a file to `<name>.<why>-<n>`, so that a person can look at it later.
pub(super) fn set_aside(path: &Path, why: &str) -> io::Result<PathBuf> {
    let aside = free_name(path, why)?;
    std::fs::rename(path, &aside)?;
    Ok(aside)
}

/// The same as a second name, for a file that is about to be replaced.
pub(super) fn beside(path: &Path, why: &str) -> io::Result<PathBuf> {
    let aside = free_name(path, why)?;
    std::fs::hard_link(path, &aside).or_else(|_| std::fs::copy(path, &aside).map(drop))?;
    Ok(aside)
}

fn free_name(path: &Path, why: &str) -> io::Result<PathBuf> {
    let mut names = (1..u32::MAX).map(|number| PathBuf::from(format!("{}.{why}-{number}", path.display())));
    names.find(|name| !name.exists()).ok_or(io::ErrorKind::AlreadyExists.into())
}
