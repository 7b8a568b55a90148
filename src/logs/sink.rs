//! Where log lines end: standard error, the journal, logd, syslog, or a file that is bounded.

use super::line::priority;
use super::logd::{self, Logd};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use tracing::Level;

const JOURNAL: &str = "/run/systemd/journal/socket";
const SYSLOG: &str = "/dev/log";
/// RFC 3164's number for system daemons.
const DAEMON: u8 = 3;
/// Largest log file, in bytes, and how many older ones are kept beside it.
const FILE_MOST: u64 = 512 * 1024;
const FILES_KEPT: u32 = 3;

/// Where lines go. Only a thread of its own may wait for it.
#[derive(Debug)]
pub(super) enum Sink {
    Stderr,
    Journal(UnixDatagram),
    File(Rotated),
    System(System),
    /// Nobody reads standard error: the system's own log where it runs, else the file.
    Elsewhere {
        system: System,
        file: Rotated,
    },
}

impl Sink {
    /// The journal, if it can be reached.
    pub fn journal() -> Option<Self> {
        // Connecting never waits, as sending would where the journal has stopped.
        UnixDatagram::unbound().and_then(|probe| probe.connect(JOURNAL)).ok()?;
        UnixDatagram::unbound().ok().map(Self::Journal)
    }

    pub fn system(program: &str) -> Self {
        Self::System(System::new(program))
    }

    /// Whether it ends where standard error does not: the journal hears that too.
    pub fn is_apart(&self) -> bool {
        !matches!(self, Self::Stderr | Self::Journal(_))
    }

    pub fn elsewhere(program: &str, file: &Path) -> Self {
        Self::Elsewhere { system: System::new(program), file: Rotated::new(file) }
    }

    /// The same place, with handles of its own.
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::Stderr => Some(Self::Stderr),
            Self::Journal(_) => Self::journal(),
            Self::File(file) => Some(Self::File(Rotated::new(&file.path))),
            Self::System(system) => Some(Self::System(system.again())),
            Self::Elsewhere { system, file } => {
                Some(Self::Elsewhere { system: system.again(), file: Rotated::new(&file.path) })
            }
        }
    }

    /// # Errors
    /// The system's error; the line is lost.
    pub fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()> {
        match self {
            // Past the library's lock, which a thread that waits for the reader holds.
            Self::Stderr => all(line),
            Self::Journal(socket) => socket.send_to(line, JOURNAL).map(drop),
            // A file that cannot be written is no reason to be silent.
            Self::File(file) => file.write(line).or_else(|_| all(line)),
            Self::System(system) => system.write(level, line),
            Self::Elsewhere { system, file } => system.write(level, line).or_else(|_| file.write(line)),
        }
    }
}

fn all(mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match rustix::io::write(rustix::stdio::stderr(), line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => line = &line[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The log of the system itself: Android's logd, else syslog.
#[derive(Debug)]
pub(super) struct System {
    logd: Logd,
    syslog: Syslog,
}

impl System {
    fn new(program: &str) -> Self {
        Self { logd: Logd::new(program, Path::new(logd::SOCKET)), syslog: Syslog::new(program, Path::new(SYSLOG)) }
    }

    fn again(&self) -> Self {
        Self { logd: self.logd.again(), syslog: Syslog::new(&self.syslog.program, &self.syslog.path) }
    }

    fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()> {
        self.logd.write(level, line).or_else(|_| self.syslog.write(level, line))
    }
}

/// A local syslog. Its daemon may start later, or again.
#[derive(Debug)]
pub(super) struct Syslog {
    program: String,
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Syslog {
    fn new(program: &str, path: &Path) -> Self {
        Self { program: program.to_owned(), path: path.to_owned(), socket: None }
    }

    /// RFC 3164 without the time: who takes it from a local socket knows that.
    fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()> {
        let head = format!("<{}>{}[{}]: ", DAEMON * 8 + priority(level), self.program, std::process::id());
        let packet = [head.as_bytes(), line.trim_ascii_end()].concat();
        if let Some(socket) = &self.socket
            && socket.send(&packet).is_ok()
        {
            return Ok(());
        }
        self.socket = None;
        let socket = UnixDatagram::unbound()?;
        socket.connect(&self.path)?;
        socket.send(&packet)?;
        self.socket = Some(socket);
        Ok(())
    }
}

/// A file that never grows beyond its bound: `log`, then `log.1` to `log.3`.
#[derive(Debug)]
pub(super) struct Rotated {
    path: PathBuf,
    open: Option<(File, u64)>,
}

impl Rotated {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let more = line.len() as u64;
        if self.open.as_ref().is_none_or(|(_, size)| size + more > FILE_MOST) {
            self.open = None;
            if std::fs::metadata(&self.path).is_ok_and(|file| file.is_file() && file.len() + more > FILE_MOST) {
                self.rotate()?;
            }
            let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)?;
            let size = file.metadata()?.len();
            if size == 0 && rustix::process::geteuid().is_root() {
                self.give_away(&file);
            }
            self.open = Some((file, size));
        }
        let Some((file, size)) = &mut self.open else { return Ok(()) };
        // Where the disk is full, the file is opened anew: it may have been taken away to make room.
        match file.write_all(line) {
            Ok(()) => *size += more,
            Err(error) => {
                self.open = None;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Made by root, by hand, it is still for the service: the owner of the directory.
    fn give_away(&self, file: &File) {
        if let Some(owner) = self.path.parent().and_then(|directory| std::fs::metadata(directory).ok()) {
            drop(fchown(file, Some(owner.uid()), Some(owner.gid())));
        }
    }

    fn rotate(&self) -> io::Result<()> {
        for older in (1..FILES_KEPT).rev() {
            match std::fs::rename(self.kept(older), self.kept(older + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, self.kept(1))
    }

    fn kept(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_bounded_in_size_and_in_count() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("log");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(home.path(), Some(4711), Some(4712)).expect("changed");
        }
        let line = [b'x'; 1000];
        for _ in 0..(FILE_MOST / 1000) * 6 {
            Rotated::new(&path).write(&line).expect("written");
        }
        let mut names: Vec<_> =
            home.path().read_dir().expect("listed").map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["log", "log.1", "log.2", "log.3"]);
        for name in names {
            let size = home.path().join(&name).metadata().expect("there").len();
            assert!(size <= FILE_MOST && size > 0, "{name:?}: {size}");
            let owner = |path: &Path| path.metadata().map(|file| (file.uid(), file.gid())).expect("there");
            assert_eq!(owner(&home.path().join(&name)), owner(home.path()), "a service could not go on with it");
        }
    }

    #[test]
    fn lines_go_to_the_file_while_no_syslog_runs_and_to_it_as_soon_as_it_does() {
        let home = tempfile::tempdir().expect("a directory");
        let (socket, path) = (home.path().join("dev-log"), home.path().join("log"));
        let system =
            System { logd: Logd::new("impush", &home.path().join("logdw")), syslog: Syslog::new("impush", &socket) };
        let mut sink = Sink::Elsewhere { system, file: Rotated::new(&path) };
        sink.write(Level::WARN, b"first\n").expect("written");
        for round in ["second", "third"] {
            let daemon = UnixDatagram::bind(&socket).expect("bound");
            sink.write(Level::ERROR, format!("{round}\n").as_bytes()).expect("written");
            let mut packet = [0; 100];
            let count = daemon.recv(&mut packet).expect("received");
            let text = std::str::from_utf8(&packet[..count]).expect("text");
            assert_eq!(text, format!("<27>impush[{}]: {round}", std::process::id()));
            std::fs::remove_file(&socket).expect("removed");
        }
        sink.write(Level::INFO, b"fourth\n").expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "first\nfourth\n");
    }
}
