//! The state directory: private, and held by one process at a time.

use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
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
        std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(io)?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            let mut pid = String::new();
            // The pid is a help to the reader; the lock itself is what counts.
            drop(lock.read_to_string(&mut pid));
            return match error {
                rustix::io::Errno::WOULDBLOCK => {
                    Err(OpenError::InUse { path: path.to_owned(), pid: pid.trim().parse().ok() })
                }
                other => Err(io(other.into())),
            };
        }
        lock.set_len(0).map_err(io)?;
        lock.rewind().map_err(io)?;
        writeln!(lock, "{}", std::process::id()).map_err(io)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}
