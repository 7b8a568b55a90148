//! Where log lines go and how they look: standard error, one line an event, text or JSON.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Readable text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends the process's events to standard error.
///
/// Under systemd (`JOURNAL_STREAM` or `INVOCATION_ID` set) the time is left out: the journal has its
/// own. `RUST_LOG` overrides `level`. A second call has no effect.
pub fn init(format: Format, level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let under_systemd = std::env::var_os("INVOCATION_ID").is_some() || std::env::var_os("JOURNAL_STREAM").is_some();
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false);
    let done = match (format, under_systemd) {
        (Format::Json, _) => base.json().flatten_event(true).try_init(),
        (Format::Text, true) => base.without_time().try_init(),
        (Format::Text, false) => base.try_init(),
    };
    // A test process may have set a subscriber already; its choice stands.
    drop(done);
}
