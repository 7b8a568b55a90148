//! Where a command writes a document that the operator wants in a file: nothing but a regular file is ever replaced.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What it went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    File,
    /// Standard output, or a device or pipe: nothing is to be added behind the document.
    Stream,
}

/// Writes to a new or regular file at once, and mode 0600; into everything else (`-`, /dev/stdout, /dev/null, a pipe,
/// where a link leads) in place.
///
/// # Errors
/// The system's error; a regular file's old content stands then.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<Written> {
    if path == Path::new("-") || is_standard_output(path) {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.write_all(b"\n")?;
        return out.flush().map(|()| Written::Stream);
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => {
            // The kernel judges whether a link may be followed (proc(5), fs.protected_symlinks).
            let mut file = OpenOptions::new().write(true).create(found.is_symlink()).truncate(true).open(path)?;
            file.write_all(bytes)?;
            file.write_all(b"\n")?;
            Ok(if file.metadata()?.is_file() { Written::File } else { Written::Stream })
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => crate::store::write_atomically(path, &[bytes, b"\n"].concat()).map(|()| Written::File),
    }
}

/// By whatever name: a shell's `> file` would be cut off and written over if it were opened again.
fn is_standard_output(path: &Path) -> bool {
    let own = rustix::fs::fstat(rustix::stdio::stdout());
    let named = std::fs::metadata(path);
    // A file that is both the output and named as a file keeps its name.
    named.is_ok_and(|named| own.is_ok_and(|own| (named.dev(), named.ino()) == (own.st_dev, own.st_ino)))
        && std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileTypeExt as _;

    #[test]
    fn a_regular_file_is_replaced_and_a_link_a_pipe_and_a_device_are_written_into() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        assert_eq!(write(&at("new"), b"one").expect("written"), Written::File);
        let before = std::fs::metadata(at("new")).expect("there").ino();
        assert_eq!(write(&at("new"), b"two").expect("written"), Written::File);
        assert_ne!(std::fs::metadata(at("new")).expect("there").ino(), before);
        std::os::unix::fs::symlink(at("new"), at("link")).expect("linked");
        assert_eq!(write(&at("link"), b"3").expect("written"), Written::File);
        assert!(std::fs::symlink_metadata(at("link")).expect("there").is_symlink());
        assert_eq!(std::fs::read(at("new")).expect("read"), b"3\n");
        assert!(write(directory.path(), b"x").is_err());

        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().expect("ran").success());
        let reader = std::thread::spawn({
            let pipe = at("pipe");
            move || std::fs::read(pipe)
        });
        assert_eq!(write(&at("pipe"), b"four").expect("written"), Written::Stream);
        assert_eq!(reader.join().expect("ended").expect("read"), b"four\n");
        assert!(std::fs::metadata(at("pipe")).expect("there").file_type().is_fifo());
        assert_eq!(write(Path::new("/dev/null"), b"five").expect("written"), Written::Stream);
        assert!(std::fs::metadata("/dev/null").expect("there").file_type().is_char_device());
    }
}
