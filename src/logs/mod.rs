//! Where log lines go, how they look, and how their level changes while the process runs.
//!
//! Every event has a name in the field `event` and its facts in fields of their own; the sentence is for
//! people. Under systemd they go to the journal with their fields (`journalctl IMPUSH_EVENT=link.down`),
//! elsewhere to standard error, one line each.

mod flood;

use clap::ValueEnum;
use flood::Guarded;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

/// The shape of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The journal where standard error leads there, logfmt elsewhere.
    #[default]
    Auto,
    /// The journal, each field as a field.
    Journal,
    /// `key=value` pairs, one line an event.
    #[serde(alias = "text")]
    Logfmt,
    /// One JSON object a line.
    Json,
}

/// The `[log]` settings of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`, for all or for parts: `info,impush::mqtt=debug`. SIGHUP
    /// reads it anew.
    pub level: String,
    /// `auto`, `journal`, `logfmt` or `json`.
    pub format: Format,
}

impl Default for Settings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::Auto }
    }
}

impl Settings {
    /// # Errors
    /// A sentence that names the key and what to write.
    pub fn check(&self) -> Result<(), String> {
        parsed(&self.level).map(drop).map_err(|error| {
            format!(
                "log.level is `{}`: {error}; write error, warn, info, debug or trace, for all or as info,impush::mqtt=debug",
                self.level
            )
        })
    }
}

/// Changes what is logged from now on.
#[derive(Debug, Clone)]
pub struct Levels(Option<reload::Handle<Targets, Registry>>);

impl Levels {
    /// Takes a level that [`Settings::check`] has passed; `RUST_LOG` still overrides it.
    pub fn set(&self, level: &str) {
        if let Some(handle) = &self.0 {
            // The subscriber lives as long as the process.
            drop(handle.reload(filter(level)));
        }
    }
}

/// The embedded broker tells of every packet at `info`; who wants to hear that names it.
const QUIET: &str = "mqtt5=warn";

/// What is let through. A word that is no level would be taken for the name of a part, and silence the rest.
fn parsed(text: &str) -> Result<Targets, String> {
    let words = text.split(',').map(str::trim).filter(|word| !word.contains('='));
    for word in words {
        let level = (!word.is_empty()).then(|| word.parse::<LevelFilter>().ok()).flatten();
        level.ok_or_else(|| format!("`{word}` is no level"))?;
    }
    text.parse().map_err(|error| format!("{error}"))
}

fn filter(level: &str) -> Targets {
    let asked = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    asked
        .and_then(|text| parsed(&text).ok())
        .or_else(|| parsed(&format!("{level},{QUIET}")).ok())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO))
}

/// Sends the process's events where `settings` say. A second call has no effect.
pub fn init(settings: &Settings) -> Levels {
    let (levels, handle) = reload::Layer::new(filter(&settings.level));
    let registry = tracing_subscriber::registry().with(levels).with(Guarded::new(output(settings.format)));
    // A test process may have set a subscriber already; its choice stands.
    Levels(registry.try_init().is_ok().then_some(handle))
}

type Output =
    Box<dyn Layer<tracing_subscriber::layer::Layered<reload::Layer<Targets, Registry>, Registry>> + Send + Sync>;

fn output(format: Format) -> Output {
    let fields = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false).with_target(false);
    let journal = matches!(format, Format::Journal) || (format == Format::Auto && stderr_is_journal());
    match format {
        Format::Json => fields.json().flatten_event(true).boxed(),
        // A journal that is not there is no reason to be silent.
        _ if journal && let Ok(journal) = tracing_journald::layer() => {
            journal.with_field_prefix(Some("IMPUSH".to_owned())).boxed()
        }
        _ => tracing_logfmt::builder()
            .with_target(false)
            .with_span_name(false)
            .with_span_path(false)
            .layer()
            .with_writer(io::stderr)
            .boxed(),
    }
}

/// As systemd.exec(5) asks under `JOURNAL_STREAM`: the variable alone is inherited by processes whose
/// output goes elsewhere.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|file| stream == format!("{}:{}", file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_nobody_knows_is_refused_with_what_to_write() {
        let wrong = Settings { level: "impush=loud".to_owned(), ..Settings::default() };
        assert!(wrong.check().expect_err("refused").contains("write error, warn"));
        for typo in ["inof", "", "info,impush"] {
            assert!(Settings { level: typo.to_owned(), ..Settings::default() }.check().is_err(), "{typo}");
        }
        assert!(Settings { level: "impush=debug,warn".to_owned(), ..Settings::default() }.check().is_ok());
    }
}
