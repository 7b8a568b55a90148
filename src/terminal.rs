//! What the three command lines have in common: usage errors, output, secrets from files, signals.

use crate::logs;
use crate::untrusted::escaped_lines;
use clap::Parser;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// sysexits: the command line was used wrongly.
const EX_USAGE: u8 = 64;

/// Reads this process's command line. Help and version end it with 0, a usage error with 64.
///
/// # Errors
/// The exit code, after the text was printed.
pub fn parse<T: Parser>() -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| {
        let code = if error.use_stderr() { EX_USAGE } else { 0 };
        drop(error.print());
        ExitCode::from(code)
    })
}

/// One line on standard output, out of this process when this returns. Whatever is in it, a terminal shows
/// it and does not obey it.
///
/// # Errors
/// The system's error; `BrokenPipe` when the reader has left.
pub fn print(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", escaped_lines(line))?;
    out.flush()
}

/// The last words on standard error, after what was logged. A reader that does not take them keeps nobody.
pub fn complain(program: &str, error: &dyn std::fmt::Display) {
    logs::finish();
    let text = format!("{program}: {error}");
    let _ = logs::within(Duration::from_secs(1), move || note(&text));
}

/// A line beside the output, on standard error.
pub fn note(line: &str) {
    drop(writeln!(io::stderr(), "{}", escaped_lines(line)));
}

/// A file's bytes; `-` is standard input.
///
/// # Errors
/// The system's error; `FileTooLarge` beyond `limit` bytes.
pub fn read_bytes(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().take(limit + 1).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {limit} bytes")));
    }
    Ok(bytes)
}

/// A file's text without the white space around it and without a byte order mark, which some editors write;
/// `-` is standard input.
///
/// # Errors
/// The system's error; `InvalidData` where it is no UTF-8, `FileTooLarge` beyond `limit` bytes.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let value = String::from_utf8(read_bytes(path, limit)?)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.utf8_error()))?;
    Ok(value.trim_start_matches('\u{feff}').trim().to_owned())
}

/// Done, each time it is called, when the process is asked to end (SIGTERM, SIGINT). Call it inside a runtime.
///
/// # Errors
/// The system's error.
pub fn asked_to_stop() -> io::Result<impl AsyncFnMut()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Done, each time it is called, when the process is asked to read its configuration again (SIGHUP). Call
/// it inside a runtime.
///
/// # Errors
/// The system's error.
pub fn asked_to_reload() -> io::Result<impl AsyncFnMut()> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move || {
        hangup.recv().await;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_read_without_the_mark_and_the_line_end_an_editor_added() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "\u{feff}secret\r\n").expect("written");
        assert_eq!(read_text(file.path(), 100).expect("read"), "secret");
        assert_eq!(read_text(file.path(), 5).expect_err("cut short").kind(), io::ErrorKind::FileTooLarge);
    }
}
