//! The state directory: private, and held by one process at a time.

use super::owner;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} is in use by another agent{}; stop it, or give this one its own state directory", pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error("cannot use {path} for state: {source}; {}", advice(path, source))]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot read {path}{}: {source}; what cannot be read is not missing: it is left as it is and nothing is made in its place. {}", owner.map(|uid| format!(" (owned by uid {uid})")).unwrap_or_default(), give(path))]
    Unreadable { path: PathBuf, owner: Option<u32>, source: io::Error },
}

fn give(path: &Path) -> String {
    let user = rustix::process::geteuid().as_raw();
    format!("Give it to the user this runs as (`chown {user} {}`), or look at the disk", path.display())
}

/// What helps against an error of the directory itself.
fn advice(path: &Path, error: &io::Error) -> String {
    let at = path.display();
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem if std::env::var_os("INVOCATION_ID").is_some() => format!(
            "under systemd's ProtectSystem= it needs the line `ReadWritePaths={at}` in [Service] (systemctl edit)"
        ),
        io::ErrorKind::ReadOnlyFilesystem => format!("mount the file system of {at} for writing"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on that disk".to_owned(),
        io::ErrorKind::NotFound => "it is a link to what is not there: mount that, or make it".to_owned(),
        io::ErrorKind::PermissionDenied => give(path),
        _ => "it must be a directory that this user can write".to_owned(),
    }
}

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    /// flock(2) is released by the kernel when the process dies, however it dies.
    _locks: (File, Option<File>),
}

impl StateDirectory {
    /// Makes it if it is missing, and takes it for this process alone. What is there need not be writable.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        if path.is_symlink() && !path.exists() {
            // Its target may not be mounted yet: one that is made there would be another device's state.
            return Err(io(io::ErrorKind::NotFound.into()));
        }
        owner::make_directory(path).map_err(io)?;
        // A mount point is somebody else's, and a disk may take nothing: the files themselves are private.
        drop(make_private(path));
        // The directory can be locked whatever the disk takes and whoever owns the file.
        let directory = File::open(path).map_err(io)?;
        hold(&directory, path)?;
        let file = path.join("lock");
        let made = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&file);
        let mut lock = made.ok();
        if let Some(lock) = &mut lock {
            // Earlier versions hold this one alone.
            hold(lock, path)?;
            owner::hand_over(lock, path);
            // The pid is a help to the reader; the lock itself is what counts.
            drop(lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id())));
        }
        Ok(Self { path: path.to_owned(), _locks: (directory, lock) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    let private = Permissions::from_mode(0o700);
    if std::fs::metadata(path)?.permissions().mode() & 0o777 == 0o700 {
        return Ok(());
    }
    std::fs::set_permissions(path, private)
}

fn hold(lock: &File, path: &Path) -> Result<(), OpenError> {
    match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = std::fs::read_to_string(path.join("lock")).ok().and_then(|pid| pid.trim().parse().ok());
            Err(OpenError::InUse { path: path.to_owned(), pid })
        }
        Err(other) => Err(OpenError::Io { path: path.to_owned(), source: other.into() }),
    }
}
