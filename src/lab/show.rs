//! How long work looks: a spinner and coloured ticks on a terminal, plain lines otherwise, JSON on
//! demand.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// One JSON document on its own line of standard output.
///
/// # Errors
/// When the reader is gone.
pub(super) fn line(value: &Value) -> io::Result<()> {
    crate::terminal::print(&value.to_string())
}

/// Shows steps as they happen.
pub(super) struct Steps {
    json: bool,
    terminal: bool,
    started: Instant,
}

/// A step under way.
pub(super) struct Step {
    name: &'static str,
    text: String,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Steps {
    pub fn new(json: bool) -> Self {
        Self { json, terminal: !json && io::stdout().is_terminal(), started: Instant::now() }
    }

    pub fn begin(&self, name: &'static str, text: impl Into<String>) -> Step {
        let text = text.into();
        let bar = self.terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {msg}") {
                bar.set_style(style);
            }
            bar.set_message(text.clone());
            bar.enable_steady_tick(Duration::from_millis(80));
            bar
        });
        Step { name, text, started: Instant::now(), bar }
    }

    /// Ends a step; `note` says what was seen.
    pub fn end(&self, step: Step, result: Result<String, &str>) {
        let ms = step.started.elapsed().as_millis() as u64;
        let (ok, note) = match &result {
            Ok(note) => (true, note.as_str()),
            Err(why) => (false, *why),
        };
        if let Some(bar) = &step.bar {
            bar.finish_and_clear();
        }
        let shown = if self.json {
            line(&json!({ "step": step.name, "ok": ok, "ms": ms, "note": note }))
        } else {
            let mark = match (ok, self.terminal) {
                (true, true) => "\u{1b}[32m✔\u{1b}[0m",
                (false, true) => "\u{1b}[31m✘\u{1b}[0m",
                (true, false) => "ok  ",
                (false, false) => "FAIL",
            };
            let seconds = step.started.elapsed().as_secs_f32();
            writeln!(io::stdout().lock(), "{mark} {} ({seconds:.1} s)\n     {note}", step.text)
        };
        // A reader that left does not change what is being shown to nobody.
        drop(shown);
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
