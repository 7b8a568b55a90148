//! Whose the state is: a file made by root in a directory of the agent's user belongs to that user.

use super::OpenError;
use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

/// Makes a file that was just created its directory's owner's. Where that cannot be done (a file system
/// without owners, a process that is not root) it stays as it is.
pub(super) fn hand_over(file: &File, directory: &Path) {
    if let (Ok(file_is), Ok(wanted)) = (file.metadata(), std::fs::metadata(directory))
        && whose(&file_is) != whose(&wanted)
    {
        drop(std::os::unix::fs::fchown(file, Some(wanted.uid()), Some(wanted.gid())));
    }
}

/// Makes a directory and what is missing above it, private, each its parent's owner's.
///
/// # Errors
/// The system's error.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.map_or(Ok(()), make_directory)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        made => made?,
    }
    hand_over(&File::open(path)?, parent.unwrap_or(Path::new(".")));
    Ok(())
}

/// A file's content; nothing if there is no such file.
///
/// # Errors
/// [`OpenError::Unreadable`]: what cannot be read now is not missing.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(unreadable(path, source)),
    }
}

pub(super) fn unreadable(path: &Path, source: io::Error) -> OpenError {
    let owner = std::fs::metadata(path).ok().map(|found| found.uid());
    OpenError::Unreadable { path: path.to_owned(), owner, source }
}

fn whose(metadata: &Metadata) -> (u32, u32) {
    (metadata.uid(), metadata.gid())
}
