//! Where inboxes lie below the state directory, and how one goes.

use crate::secret::hex;
use crate::store::owner;
use ring::digest::{Context, SHA256};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

const DEAD: &str = ".dead";

fn parent(state: &Path) -> PathBuf {
    state.join("inbox")
}

/// The directory of one user of one IM app. `org/app` and `org#app` are the same app.
pub fn directory(state: &Path, app: &str, user: &str) -> PathBuf {
    let mut hash = Context::new(&SHA256);
    for part in [app.replace('/', "#").as_str(), user] {
        // With its length, so that no two pairs read alike when they are joined.
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    parent(state).join(hex(&hash.finish().as_ref()[..16]))
}

/// Makes the directory, durably.
pub fn create(directory: &Path) -> io::Result<()> {
    owner::make_directory(directory)?;
    for above in directory.ancestors().skip(1).take(2) {
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

/// All that lies there: inboxes, and what is left of dead ones.
pub fn all(state: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(parent(state)) {
        Ok(entries) => entries.map(|entry| entry.map(|e| e.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

pub fn is_dead(directory: &Path) -> bool {
    directory.to_str().is_none_or(|path| path.ends_with(DEAD))
}

/// Ends an inbox: first its name, so that it cannot be half there, then its files. Neither needs space.
pub fn unlink(directory: &Path) -> io::Result<()> {
    let dead = PathBuf::from(format!("{}{DEAD}", directory.display()));
    if !is_dead(directory) {
        remove(&dead)?;
    }
    let named_dead = !is_dead(directory) && std::fs::rename(directory, &dead).is_ok();
    remove(if named_dead { &dead } else { directory })?;
    match directory.parent().map(File::open) {
        Some(Ok(parent)) => parent.sync_all(),
        _ => Ok(()),
    }
}

fn remove(directory: &Path) -> io::Result<()> {
    let gone = if directory.is_dir() { std::fs::remove_dir_all(directory) } else { std::fs::remove_file(directory) };
    match gone {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes what a rewriting that was broken off left.
pub fn tidy(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".tmp") {
            // It takes up room and does nothing else; the next opening tries again.
            drop(std::fs::remove_file(entry.path()));
        }
    }
}
