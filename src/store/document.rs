//! One small JSON file that is either the old value or the new one, whatever happens in between.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use tracing::error;

/// A value and the file it lives in.
#[derive(Debug)]
pub struct Document<T> {
    path: PathBuf,
    value: T,
}

impl<T: Serialize + DeserializeOwned + PartialEq> Document<T> {
    /// Reads the file. One that cannot be read or understood is renamed to `<name>.corrupt-<n>` with one
    /// error line, and `default` is used.
    ///
    /// # Errors
    /// The disk's error when the file cannot be set aside.
    pub fn open(path: PathBuf, default: impl FnOnce() -> T) -> io::Result<Self> {
        let understood = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|why| why.to_string()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self { path, value: default() }),
            Err(e) => Err(e.to_string()),
        };
        let value = match understood {
            Ok(value) => value,
            Err(why) => {
                let aside = set_aside(&path, "corrupt")?;
                error!(
                    event = "store.corrupt",
                    file = %path.display(), kept_as = %aside.display(), why,
                    "a state file cannot be read or understood; it is set aside and a new one begun"
                );
                default()
            }
        };
        Ok(Self { path, value })
    }

    pub fn value(&self) -> &T {
        &self.value
    }

    /// # Errors
    /// The disk's error; neither the file nor the value in memory has changed then.
    pub fn set(&mut self, value: T) -> io::Result<()> {
        // What stands there already is not written again; a file that is not there yet has no value.
        if value != self.value || !self.path.exists() {
            write_json(&self.path, &value)?;
            self.value = value;
        }
        Ok(())
    }

    /// # Errors
    /// The disk's error.
    pub fn save(&self) -> io::Result<()> {
        write_json(&self.path, &self.value)
    }
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write_atomically(path, &serde_json::to_vec(value).map_err(io::Error::other)?)
}

/// Replaces the file's content at once, with mode 0600: temporary file in the same directory, fsync,
/// rename, fsync of the directory.
///
/// # Errors
/// The disk's error; the old content stands then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // tempfile creates with mode 0600 and removes the file if it is dropped before persist.
    let mut temporary = tempfile::NamedTempFile::new_in(parent)?;
    temporary.write_all(bytes)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|e| e.error)?;
    File::open(parent)?.sync_all()
}

/// Renames a file to `<name>.<why>-<n>`, so that a person can look at it later.
pub(super) fn set_aside(path: &Path, why: &str) -> io::Result<PathBuf> {
    let mut number = 1;
    loop {
        let aside = PathBuf::from(format!("{}.{why}-{number}", path.display()));
        if !aside.exists() {
            std::fs::rename(path, &aside)?;
            return Ok(aside);
        }
        number += 1;
    }
}
