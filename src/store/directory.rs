//! The state directory: private, and held by one process at a time.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} is in use by another agent{}; stop it, or give this one its own state directory", pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error("cannot use {path} for state: {source}; it must be a directory that this user can write")]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot read {path}{}: {source}; no new device id is made in its place. Give the file to the agent's user (chown), or look at the disk", owner.map(|uid| format!(" (owned by uid {uid})")).unwrap_or_default())]
    Unreadable { path: PathBuf, owner: Option<u32>, source: io::Error },
}

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    /// flock(2) is released by the kernel when the process dies, however it dies.
    _lock: File,
}

impl StateDirectory {
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        match std::fs::set_permissions(path, Permissions::from_mode(0o700)) {
            Err(error) if error.kind() != io::ErrorKind::ReadOnlyFilesystem => return Err(io(error)),
            _ => {}
        }
        let made =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path.join("lock"));
        let mut lock = match made {
            // A device must come up on a disk that takes nothing; the directory itself can be locked there.
            Err(error) if matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::StorageFull) => {
                File::open(path).map_err(io)?
            }
            made => made.map_err(io)?,
        };
        if let Err(error) = lock.try_lock() {
            let mut pid = String::new();
            // The pid is a help to the reader; the lock itself is what counts.
            drop(lock.read_to_string(&mut pid));
            return match error {
                TryLockError::WouldBlock => {
                    Err(OpenError::InUse { path: path.to_owned(), pid: pid.trim().parse().ok() })
                }
                TryLockError::Error(error) => Err(io(error)),
            };
        }
        drop(lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id())));
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}
