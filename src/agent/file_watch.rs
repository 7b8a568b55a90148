//! Word that files of others changed, or appeared (inotify(7)): the resolver's, and those that say whom to trust.

use super::clock::readable_fd;
use crate::names::RESOLVER_FILE;
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init, remove_watch};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;

/// Bytes of the resolver's file that are compared; the C libraries read far fewer lines.
const MAX_BYTES: u64 = 64 << 10;
/// Links that are followed from a file to where it lies.
const MAX_LINKS: usize = 8;

/// Rings when something happens beside one of the files, or to it.
#[derive(Debug)]
pub(super) struct FileWatch {
    fd: AsyncFd<OwnedFd>,
    files: Vec<PathBuf>,
    /// The directories that are watched now.
    watched: BTreeMap<PathBuf, i32>,
}

impl FileWatch {
    /// # Errors
    /// The system's: no inotify, or no watches left. The next planned attempt finds the change then.
    pub fn new(files: Vec<PathBuf>) -> io::Result<Self> {
        let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut watch = Self { fd: readable_fd(fd)?, files, watched: BTreeMap::new() };
        watch.arm();
        Ok(watch)
    }

    /// Waits until it rings, and follows the files to where they lie now. A call that is dropped misses nothing.
    pub async fn rung(&mut self) {
        let mut events = [0_u8; 4096];
        let Ok(mut ready) = self.fd.readable().await else { return std::future::pending().await };
        while ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut events)?)).is_ok() {}
        // From here on without a pause: what was heard is acted upon.
        self.arm();
    }

    /// Watches the directory of each file, and of what it is a link to: services put theirs below `/run`, where
    /// even the directory may come later.
    fn arm(&mut self) {
        let mut wanted = BTreeMap::new();
        for file in &self.files {
            let mut file = file.clone();
            for _ in 0..MAX_LINKS {
                let Some(directory) = file.parent() else { break };
                // The nearest directory that is there will tell of the next one.
                for directory in directory.ancestors() {
                    if let Ok(id) = add_watch(self.fd.get_ref(), directory, flags()) {
                        wanted.insert(directory.to_owned(), id);
                        break;
                    }
                }
                match std::fs::read_link(&file) {
                    Ok(target) => file = directory.join(target),
                    Err(_) => break,
                }
            }
        }
        for (directory, id) in &self.watched {
            if !wanted.contains_key(directory) && !wanted.values().any(|kept| kept == id) {
                // It may be gone with its directory.
                let _ = remove_watch(self.fd.get_ref(), *id);
            }
        }
        self.watched = wanted;
    }
}

/// Rings when the resolver's file has another content.
#[derive(Debug)]
pub(super) struct ResolverWatch {
    watch: FileWatch,
    file: PathBuf,
    content: Option<Vec<u8>>,
}

impl ResolverWatch {
    /// The file below `root`, without one below `/`.
    ///
    /// # Errors
    /// As [`FileWatch::new`].
    pub fn new(root: Option<&Path>) -> io::Result<Self> {
        let file = root.unwrap_or("/".as_ref()).join(RESOLVER_FILE);
        let watch = FileWatch::new(vec![file.clone()])?;
        let content = read(&file);
        Ok(Self { watch, file, content })
    }

    /// Waits until there is a file whose content is not what it was. A call that is dropped misses nothing.
    pub async fn changed(&mut self) {
        loop {
            self.watch.rung().await;
            // The file is small, and in memory as something has just written it.
            let content = read(&self.file);
            if content != self.content {
                self.content = content;
                if self.content.is_some() {
                    return;
                }
            }
        }
    }
}

fn read(file: &Path) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    File::open(file).ok()?.take(MAX_BYTES).read_to_end(&mut content).ok()?;
    Some(content)
}

fn flags() -> WatchFlags {
    WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::DELETE
        | WatchFlags::ONLYDIR
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn rings(watch: &mut ResolverWatch) {
        tokio::time::timeout(LIMIT, watch.changed()).await.expect("a change");
    }

    async fn is_quiet(watch: &mut ResolverWatch) {
        assert!(tokio::time::timeout(Duration::from_millis(50), watch.changed()).await.is_err());
    }

    #[tokio::test]
    async fn a_file_that_appears_rings_and_one_that_is_written_as_it_was_does_not() {
        let root = tempfile::tempdir().expect("a directory");
        let etc = root.path().join("etc");
        std::fs::create_dir(&etc).expect("made");
        let mut watch = ResolverWatch::new(Some(root.path())).expect("inotify");
        std::fs::write(etc.join("other"), "x").expect("written");
        is_quiet(&mut watch).await;
        std::fs::write(etc.join("new"), "nameserver 192.0.2.1\n").expect("written");
        std::fs::rename(etc.join("new"), etc.join("resolv.conf")).expect("renamed");
        rings(&mut watch).await;
        std::fs::write(etc.join("new"), "nameserver 192.0.2.1\n").expect("written");
        std::fs::rename(etc.join("new"), etc.join("resolv.conf")).expect("renamed");
        is_quiet(&mut watch).await;
        std::fs::remove_file(etc.join("resolv.conf")).expect("removed");
        is_quiet(&mut watch).await;
        std::fs::write(etc.join("resolv.conf"), "nameserver 192.0.2.1\n").expect("written");
        rings(&mut watch).await;
    }

    #[tokio::test]
    async fn a_link_to_a_directory_that_comes_later_is_followed() {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(root.path().join("etc")).expect("made");
        std::fs::create_dir_all(root.path().join("run")).expect("made");
        std::os::unix::fs::symlink("../run/net/dns/resolv.conf", root.path().join("etc/resolv.conf")).expect("linked");
        let mut watch = ResolverWatch::new(Some(root.path())).expect("inotify");
        std::fs::create_dir_all(root.path().join("run/net/dns")).expect("made");
        is_quiet(&mut watch).await;
        std::fs::write(root.path().join("run/net/dns/resolv.conf"), "nameserver 192.0.2.1\n").expect("written");
        rings(&mut watch).await;
        std::fs::write(root.path().join("run/net/dns/resolv.conf"), "nameserver 192.0.2.2\n").expect("written");
        rings(&mut watch).await;
    }
}
