//! Android's log daemon: what `logcat -s impush` reads.
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | buffer: 0 is `main` |
//! | 2 | thread |
//! | 4, 4 | seconds, nanoseconds of the wall clock |
//! | 1 | priority: 3 debug, 4 info, 5 warn, 6 error |
//! | | tag and NUL, text and NUL |
//!
//! Little-endian, packed (AOSP, system/logging/liblog: `logd_writer.cpp`, `log/log_read.h`).

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::Level;

/// Where logd takes what is written.
pub(super) const SOCKET: &str = "/dev/socket/logdw";
/// The most of priority, tag and text together (liblog's LOGGER_ENTRY_MAX_PAYLOAD).
const MOST: usize = 4068;
const MAIN: u8 = 0;

/// logd may start later, or again.
#[derive(Debug)]
pub(super) struct Logd {
    tag: String,
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Logd {
    pub fn new(tag: &str, path: &Path) -> Self {
        Self { tag: tag.to_owned(), path: path.to_owned(), socket: None }
    }

    /// The same place, with a handle of its own.
    pub fn again(&self) -> Self {
        Self::new(&self.tag, &self.path)
    }

    /// A long line in pieces.
    ///
    /// # Errors
    /// The system's: there is no logd. A piece that was sent stays sent.
    pub fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()> {
        let text = String::from_utf8_lossy(line.trim_ascii_end());
        // Priority, and a NUL behind tag and text.
        for piece in pieces(&text, MOST - self.tag.len() - 3) {
            self.send(&self.record(level, piece))?;
        }
        Ok(())
    }

    fn send(&mut self, record: &[u8]) -> io::Result<()> {
        if let Some(socket) = &self.socket
            && socket.send(record).is_ok()
        {
            return Ok(());
        }
        self.socket = None;
        let socket = UnixDatagram::unbound()?;
        socket.connect(&self.path)?;
        socket.send(record)?;
        self.socket = Some(socket);
        Ok(())
    }

    fn record(&self, level: Level, text: &str) -> Vec<u8> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let mut record = vec![MAIN];
        // Both are cut as liblog cuts them.
        record.extend_from_slice(&(thread as u16).to_le_bytes());
        record.extend_from_slice(&(now.as_secs() as u32).to_le_bytes());
        record.extend_from_slice(&now.subsec_nanos().to_le_bytes());
        record.push(priority(level));
        for part in [self.tag.as_str(), text] {
            record.extend(part.bytes().filter(|byte| *byte != 0));
            record.push(0);
        }
        record
    }
}

/// `android/log.h`.
fn priority(level: Level) -> u8 {
    match level {
        Level::TRACE => 2,
        Level::DEBUG => 3,
        Level::INFO => 4,
        Level::WARN => 5,
        Level::ERROR => 6,
    }
}

/// Cut where a character ends; an empty text is one piece.
fn pieces(text: &str, most: usize) -> Vec<&str> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while rest.len() > most {
        let (piece, next) = rest.split_at(rest.floor_char_boundary(most));
        pieces.push(piece);
        rest = next;
    }
    pieces.push(rest);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_laid_out_as_logd_reads_it_and_a_long_line_comes_in_pieces() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("logdw");
        let daemon = UnixDatagram::bind(&path).expect("bound");
        let mut logd = Logd::new("impush", &path);
        logd.write(Level::WARN, b"event=link.down a\0b\n").expect("written");
        let mut packet = [0; 8192];
        let count = daemon.recv(&mut packet).expect("received");
        assert_eq!((packet[0], packet[11]), (0, 5));
        assert_eq!(&packet[12..count], b"impush\0event=link.down ab\0");
        let seconds = u32::from_le_bytes(packet[3..7].try_into().expect("four"));
        assert!(seconds > 1_700_000_000, "{seconds}");
        let long = "ä".repeat(5000);
        logd.write(Level::INFO, long.as_bytes()).expect("written");
        let mut whole = String::new();
        while whole.len() < long.len() {
            let count = daemon.recv(&mut packet).expect("received");
            assert!(count <= 11 + MOST, "{count}");
            let text = packet[12..count].strip_prefix(b"impush\0".as_slice()).expect("the tag");
            whole.push_str(std::str::from_utf8(&text[..text.len() - 1]).expect("whole characters"));
        }
        assert_eq!(whole, long);
    }

    #[test]
    fn without_logd_a_line_is_refused_and_one_that_starts_later_is_found() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("logdw");
        let mut logd = Logd::new("impush", &path);
        assert!(logd.write(Level::INFO, b"lost").is_err());
        let daemon = UnixDatagram::bind(&path).expect("bound");
        logd.write(Level::INFO, b"first").expect("written");
        drop(daemon);
        std::fs::remove_file(&path).expect("removed");
        assert!(logd.write(Level::INFO, b"lost").is_err());
        let _daemon = UnixDatagram::bind(&path).expect("bound");
        logd.write(Level::INFO, b"second").expect("written");
    }
}
