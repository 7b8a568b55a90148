//! Whose the file at the control socket's path is: nobody's any more, somebody's who listens, or no socket at all.

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// A socket's file that this process has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnSocket {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl OwnSocket {
    /// # Errors
    /// The system's error.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let found = std::fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }

    /// Removes it, unless something else stands at its path by now.
    pub fn remove(&self) {
        if Self::at(&self.path).is_ok_and(|found| found == *self) {
            // The next start takes away what could not be removed here.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Removes a socket that nobody listens on any more.
///
/// # Errors
/// `AddrInUse` where somebody listens, `AlreadyExists` where a file is no socket: neither is this agent's to remove.
pub(super) fn make_way(path: &Path) -> io::Result<()> {
    let refused = |kind, why: &str| Err(io::Error::new(kind, why.to_owned()));
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return refused(
            io::ErrorKind::AlreadyExists,
            "what is there is no socket and stays; remove it, or name another path in paths.socket",
        );
    }
    match answers(path) {
        Ok(true) => refused(
            io::ErrorKind::AddrInUse,
            "another agent, or the service manager for it, listens there; stop that one, or name another path in \
             paths.socket",
        ),
        Ok(false) => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Without waiting: a listener whose queue is full is one.
fn answers(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(rustix::io::Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_a_socket_that_nobody_listens_on_is_taken_away() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.sock");
        make_way(&path).expect("nothing there");
        let live = UnixListener::bind(&path).expect("bound");
        assert_eq!(make_way(&path).expect_err("somebody listens").kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
        drop(live);
        make_way(&path).expect("nobody listens");
        assert!(!path.exists());
        std::fs::write(&path, "a letter").expect("written");
        assert_eq!(make_way(&path).expect_err("no socket").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).expect("still there"), b"a letter");
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("/dev/null", &path).expect("linked");
        assert!(make_way(&path).is_err() && path.exists(), "where a link leads is not this agent's");
    }

    #[test]
    fn a_listener_that_is_too_busy_to_answer_is_still_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.sock");
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("made");
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).expect("short")).expect("bound");
        rustix::net::listen(&socket, 0).expect("listening");
        for _ in 0..3 {
            assert_eq!(make_way(&path).expect_err("somebody listens").kind(), io::ErrorKind::AddrInUse);
        }
    }

    #[test]
    fn the_socket_of_a_successor_is_left_at_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.sock");
        let first = UnixListener::bind(&path).expect("bound");
        let own = OwnSocket::at(&path).expect("seen");
        std::fs::rename(&path, directory.path().join("elsewhere")).expect("moved");
        let second = UnixListener::bind(&path).expect("bound");
        own.remove();
        assert!(path.exists(), "a successor's socket was removed");
        OwnSocket::at(&path).expect("seen").remove();
        assert!(!path.exists());
        drop((first, second));
    }
}
