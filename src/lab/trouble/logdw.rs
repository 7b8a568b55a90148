//! Android's log daemon at its socket: each record as a line, as `logcat` would show it. Written apart from the agent's
//! side of it (AOSP, system/logging/liblog, `log/log_read.h`).

use crate::lab::show;
use serde_json::json;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use tokio::net::UnixDatagram;

/// liblog's LOGGER_ENTRY_MAX_LEN.
const MOST: usize = 5 * 1024;
/// Buffer, thread, seconds, nanoseconds.
const HEAD: usize = 11;

#[derive(Debug, clap::Args)]
pub(in crate::lab) struct Options {
    /// Where to listen
    #[arg(long, value_name = "PATH", default_value = "/dev/socket/logdw")]
    socket: PathBuf,
}

/// Serves until it is ended.
///
/// # Errors
/// The system's: the socket cannot be made.
pub(in crate::lab) async fn serve(options: Options) -> io::Result<()> {
    // A killed run's socket is in the way.
    match std::fs::remove_file(&options.socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(&options.socket)?;
    // Every domain may write.
    std::fs::set_permissions(&options.socket, std::fs::Permissions::from_mode(0o666))?;
    show::line(&json!({ "logdw": options.socket.display().to_string() }))?;
    let mut packet = vec![0; MOST];
    loop {
        let count = socket.recv(&mut packet).await?;
        match record(&packet[..count]) {
            Some((priority, tag, text)) => println!("{priority} {tag}: {text}"),
            None => println!("? {count} bytes that are no record"),
        }
    }
}

fn record(packet: &[u8]) -> Option<(char, &str, &str)> {
    let (priority, rest) = packet.get(HEAD..)?.split_first()?;
    let letter = *b"??VDIWEF".get(usize::from(*priority))? as char;
    let mut parts = rest.split(|byte| *byte == 0);
    let (tag, text) = (std::str::from_utf8(parts.next()?).ok()?, std::str::from_utf8(parts.next()?).ok()?);
    // Both end with a NUL.
    (parts.next() == Some(b"") && parts.next().is_none()).then_some((letter, tag, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_taken_apart_and_what_is_none_is_refused() {
        let head = [0; HEAD];
        let of = |rest: &[u8]| [&head[..], rest].concat();
        assert_eq!(record(&of(b"\x05impush\0event=a\0")), Some(('W', "impush", "event=a")));
        for bad in [&b"\x05impush\0event=a"[..], b"\x05impush\0a\0more", b"\x63t\0a\0", b""] {
            assert_eq!(record(&of(bad)), None, "{bad:?}");
        }
        assert_eq!(record(&head[..4]), None);
    }
}
