//! Where log lines go, how they look, and how their level changes while the process runs.
//!
//! Every event has a name in the field `event` and its facts in fields of their own; the sentence is for
//! people. Under systemd they go to the journal with their fields (`journalctl IMPUSH_EVENT=link.down`),
//! elsewhere to standard error, one line each; where nobody reads that, to logd, syslog or a file. Whoever reads
//! them, the program never waits for it.

mod flood;
mod line;
mod logd;
mod queue;
mod sink;

use clap::ValueEnum;
use flood::Guarded;
use line::{Line, Shape};
use queue::Queue;
use serde::{Deserialize, Serialize};
use sink::{Rotated, Sink};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tracing::{Event, Level, Subscriber, warn};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

/// How long the end of the process waits for a reader that has stalled.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most characters of a panic, a backtrace included.
const LONGEST_PANIC: usize = 16 * 1024;

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
    /// reads it anew. The variable `RUST_LOG`, written the same way, overrides it.
    pub level: String,
    /// `auto`, `journal`, `logfmt` or `json`.
    pub format: Format,
    /// A file instead; 512 KiB and three older ones are kept. It is not used where `format` is `journal`.
    pub file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::Auto, file: None }
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

/// What is let through. A word that is no level would be taken for the name of a part, and silence the rest.
fn parsed(text: &str) -> Result<Targets, String> {
    let words = text.split(',').map(str::trim).filter(|word| !word.contains('='));
    for word in words {
        let level = (!word.is_empty()).then(|| word.parse::<LevelFilter>().ok()).flatten();
        level.ok_or_else(|| format!("`{word}` is no level"))?;
    }
    text.parse().map_err(|error| format!("{error}"))
}

/// What the variable asks for, where it is set: `Err` says why it cannot be taken.
fn overriding() -> Option<Result<Targets, String>> {
    let text = std::env::var_os("RUST_LOG").filter(|text| !text.is_empty())?;
    Some(text.to_str().ok_or_else(|| "it is no UTF-8".to_owned()).and_then(parsed))
}

fn filter(level: &str) -> Targets {
    overriding()
        .and_then(Result::ok)
        .or_else(|| parsed(level).ok())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO))
}

/// The program that logs: its name, and where a file of its own may be, if it is a service.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    pub name: &'a str,
    /// The state directory. Without one, lines go to standard error whoever reads it.
    pub state: Option<&'a Path>,
}

/// What [`finish`] waits for.
static OUTPUT: OnceLock<Arc<Output>> = OnceLock::new();

/// Sends the process's events where `settings` say. A second call has no effect.
pub fn init(settings: &Settings, program: Program<'_>) -> Levels {
    let (sink, shape) = chosen(settings, program);
    let (panics, apart) = (sink.again(), sink.is_apart());
    // Without a thread there is no log; the program itself needs none.
    let Ok(queue) = Queue::start(sink) else { return Levels(None) };
    let output = Arc::new(Output { queue, shape, program: program.name.to_owned(), apart });
    let (levels, handle) = reload::Layer::new(filter(&settings.level));
    let registry = tracing_subscriber::registry().with(levels).with(Guarded::new(Events(output.clone())));
    // A test process may have set a subscriber already; its choice stands.
    if registry.try_init().is_err() || OUTPUT.set(output).is_err() {
        return Levels(None);
    }
    if let Some(sink) = panics {
        tell_panics(sink, shape, program.name.to_owned());
    }
    if let Some(Err(why)) = overriding() {
        warn!(event = "log.variable_refused", why, "RUST_LOG names no level; log.level counts");
    }
    Levels(Some(handle))
}

/// Gives the reader what time it has to take the last lines. To be called before the process ends.
pub fn finish() {
    if let Some(output) = OUTPUT.get() {
        output.queue.drain(PATIENCE);
    }
}

/// Why a service ends, said where its log is if standard error, which says it too, is not there.
pub fn failed(program: &str, error: &dyn std::fmt::Display) {
    let event = "program.failed";
    let line = Line::error(event, error, LONGEST_PANIC);
    match OUTPUT.get() {
        Some(output) if output.apart => output.push(&line),
        Some(_) => {}
        // It ended before it knew where its log should be.
        None if stderr_is_nothing() => {
            let (program, line) = (program.to_owned(), line.written(Shape::Logfmt, program));
            let _ = within(PATIENCE, move || Sink::system(&program).write(Level::ERROR, &line));
        }
        None => {}
    }
}

#[derive(Debug)]
struct Output {
    queue: Arc<Queue>,
    shape: Shape,
    program: String,
    /// It ends where standard error does not.
    apart: bool,
}

impl Output {
    fn push(&self, line: &Line) {
        self.queue.push(line.level(), line.written(self.shape, &self.program));
    }
}

/// The layer that writes each event into the queue.
struct Events(Arc<Output>);

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.push(&Line::of(event));
    }
}

fn chosen(settings: &Settings, program: Program<'_>) -> (Sink, Shape) {
    let shape = if settings.format == Format::Json { Shape::Json } else { Shape::Logfmt };
    // A journal that is not there is no reason to be silent.
    let journal = match settings.format {
        Format::Journal => Sink::journal(),
        Format::Auto if settings.file.is_none() && stderr_is_journal() => Sink::journal(),
        _ => None,
    };
    match (journal, &settings.file, program.state) {
        (Some(journal), ..) => (journal, Shape::Journal),
        (None, Some(file), _) => (Sink::File(Rotated::new(file)), shape),
        (None, None, Some(state)) if stderr_is_nothing() => {
            (Sink::elsewhere(program.name, &state.join(format!("{}.log", program.name))), shape)
        }
        _ => (Sink::Stderr, shape),
    }
}

/// A panic does not queue behind what a reader has not taken. It waits for the reader, but not for long.
fn tell_panics(sink: Sink, shape: Shape, program: String) {
    let sink = Mutex::new(Some(sink));
    std::panic::set_hook(Box::new(move |panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        let message = match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("{panic}\n{backtrace}"),
            _ => panic.to_string(),
        };
        let event = "program.panicked";
        let line = Line::error(event, &message, LONGEST_PANIC).written(shape, &program);
        // A second panic finds none while the first is told.
        let Some(mut own) = sink.try_lock().ok().and_then(|mut sink| sink.take()) else { return };
        let told = within(PATIENCE, move || {
            drop(own.write(Level::ERROR, &line));
            own
        });
        if let (Some(own), Ok(mut sink)) = (told, sink.try_lock()) {
            *sink = Some(own);
        }
    }));
}

/// What `work` returns, if it does so in time. Where it does not, it goes on by itself.
pub fn within<T: Send + 'static>(most: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, done) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new().spawn(move || drop(sender.send(work()))).ok()?;
    done.recv_timeout(most).ok()
}

/// Whether standard error leads to `/dev/null`; where it was closed, the library has opened that in its place.
fn stderr_is_nothing() -> bool {
    let null = std::fs::metadata("/dev/null").map(|file| file.rdev());
    rustix::fs::fstat(rustix::stdio::stderr()).is_ok_and(|file| {
        rustix::fs::FileType::from_raw_mode(file.st_mode).is_char_device()
            && null.is_ok_and(|null| null == file.st_rdev)
    })
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

    #[test]
    fn a_vendors_book_is_one_short_line_that_says_how_long_it_was() {
        let queue = Arc::new(Queue::default());
        let output = Output { queue: queue.clone(), shape: Shape::Json, program: "test".to_owned(), apart: false };
        let book = "\u{1b}[2J".repeat(225_000);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Events(Arc::new(output))), || {
            tracing::info!(detail = book, error = %book, why = ?book, count = 7, "said");
        });
        let line = queue.waiting().pop().expect("a line");
        assert!(line.len() < 20_000 && !line.contains('\u{1b}'), "{}", line.len());
        let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&read["count"], &read["message"]), (&7.into(), &"said".into()));
        assert!(read["detail"].as_str().is_some_and(|text| text.ends_with("… (898976 bytes more)")), "{line}");
    }

    /// Set in the process that the test below starts.
    const PANICS: &str = "IMPUSH_TEST_PANICS";

    #[test]
    fn a_process_of_its_own_that_panics() {
        if std::env::var_os(PANICS).is_some() {
            init(&Settings::default(), Program { name: "test", state: None });
            (0..100).for_each(|number| tracing::info!(number, "a line"));
            panic!("on purpose");
        }
    }

    #[test]
    fn a_panic_is_told_in_one_line_and_a_reader_that_has_stalled_does_not_keep_it() {
        let child = |stderr: std::process::Stdio| {
            std::process::Command::new(std::env::current_exe().expect("this program"))
                .args(["--exact", "logs::tests::a_process_of_its_own_that_panics", "--nocapture"])
                .env(PANICS, "1")
                .stdout(std::process::Stdio::null())
                .stderr(stderr)
                .spawn()
                .expect("started")
        };
        let read = child(std::process::Stdio::piped()).wait_with_output().expect("ended");
        let text = String::from_utf8(read.stderr).expect("text");
        let told: Vec<_> = text.lines().filter(|line| line.contains(" event=program.panicked")).collect();
        assert!(told.len() == 1 && told[0].contains("level=error") && told[0].contains("on purpose"), "{text}");

        let (_reader, mut writer) = std::io::pipe().expect("a pipe");
        let flags = rustix::fs::fcntl_getfl(&writer).expect("flags");
        rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).expect("set");
        while std::io::Write::write(&mut writer, &[b'x'; 4096]).is_ok() {}
        rustix::fs::fcntl_setfl(&writer, flags).expect("set");
        let mut stalled = child(writer.into());
        let ended = within(Duration::from_secs(30), move || stalled.wait()).expect("in time").expect("ended");
        assert!(!ended.success());
    }
}
