//! `ip` (iproute2) in a network namespace.

use crate::lab::process::output;
use std::io;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// Runs `ip` with these words in the namespace; what it printed.
///
/// # Errors
/// What `ip` says, or that it is not there.
pub(super) async fn ip(netns: &str, words: &str) -> io::Result<String> {
    let arguments: Vec<&str> = ["-n", netns].into_iter().chain(words.split_whitespace()).collect();
    output(Path::new("ip"), &arguments, LIMIT).await.map_err(|e| io::Error::other(format!("ip {words}: {e}")))
}
