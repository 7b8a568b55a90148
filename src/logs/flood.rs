//! What keeps one repeated event from filling the disk: so many lines a while, then a count.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber, warn};
use tracing_subscriber::layer::{Context, Layer};

/// Lines of one event in one window; what comes beyond is counted.
const MOST: u32 = 200;
const WINDOW: Duration = Duration::from_secs(10);

/// One event's window.
#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    /// The first line of a new window, after so many were left out.
    PassAfter(u32),
    Drop,
}

impl Window {
    fn judge(&mut self, now: Instant) -> Verdict {
        if now.duration_since(self.since) >= WINDOW {
            let left_out = self.lines.saturating_sub(MOST);
            *self = Self { since: now, lines: 1 };
            return if left_out == 0 { Verdict::Pass } else { Verdict::PassAfter(left_out) };
        }
        self.lines = self.lines.saturating_add(1);
        if self.lines > MOST { Verdict::Drop } else { Verdict::Pass }
    }
}

/// An output that a flood cannot reach. Levels an operator asks for to see everything are left alone.
pub(super) struct Guarded<L> {
    output: L,
    /// By the place in the program: their number is fixed.
    windows: Mutex<HashMap<Identifier, Window>>,
}

impl<L> Guarded<L> {
    pub fn new(output: L) -> Self {
        Self { output, windows: Mutex::default() }
    }
}

impl<S: Subscriber, L: Layer<S>> Layer<S> for Guarded<L> {
    fn on_layer(&mut self, subscriber: &mut S) {
        self.output.on_layer(subscriber);
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        self.output.enabled(metadata, context)
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO {
            return self.output.on_event(event, context);
        }
        let now = Instant::now();
        let verdict = {
            let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
            windows.entry(metadata.callsite()).or_insert(Window { since: now, lines: 0 }).judge(now)
        };
        match verdict {
            Verdict::Drop => return,
            Verdict::PassAfter(count) => {
                let (file, line) = (metadata.file().unwrap_or_default(), metadata.line());
                warn!(
                    event = "log.suppressed",
                    count, file, line, "an event came too often; so many of it were left out"
                );
            }
            Verdict::Pass => {}
        }
        self.output.on_event(event, context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_counted_and_told_when_the_next_window_opens() {
        let start = Instant::now();
        let mut window = Window { since: start, lines: 0 };
        let passed = (0..MOST + 7).filter(|_| window.judge(start) == Verdict::Pass).count();
        assert_eq!(passed, MOST as usize);
        assert_eq!(window.judge(start + WINDOW), Verdict::PassAfter(7));
        assert_eq!(window.judge(start + WINDOW), Verdict::Pass);
    }
}
