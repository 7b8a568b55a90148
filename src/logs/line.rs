//! One log line: an event's fields, each bounded, and how logfmt, JSON and the journal write them.

use crate::untrusted::{LONGEST, bounded, escaped};
use std::fmt::{self, Write as _};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Logfmt,
    Json,
    Journal,
}

#[derive(Debug)]
enum Value {
    Text(String),
    /// A number or a truth value.
    Plain(String),
}

impl Value {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Plain(text) => text,
        }
    }
}

/// An event's fields, in the order in which the program wrote them.
#[derive(Debug)]
pub(super) struct Line {
    level: Level,
    place: Option<(&'static str, u32)>,
    target: String,
    fields: Vec<(&'static str, Value)>,
}

impl Line {
    pub fn of(event: &Event<'_>) -> Self {
        let metadata: &Metadata<'static> = event.metadata();
        let mut line = Self {
            level: *metadata.level(),
            place: metadata.file().zip(metadata.line()),
            target: metadata.target().to_owned(),
            fields: Vec::with_capacity(8),
        };
        event.record(&mut line);
        line
    }

    /// An error that is not an event of `tracing`.
    pub fn error(event: &'static str, message: &dyn fmt::Display, most: usize) -> Self {
        let fields = vec![("message", Value::Text(bounded(message, most))), ("event", Value::Text(event.to_owned()))];
        Self { level: Level::ERROR, place: None, target: String::new(), fields }
    }

    pub fn level(&self) -> Level {
        self.level
    }

    /// As it goes out, with the end that its way needs; `program` is what the journal knows it by.
    pub fn written(&self, shape: Shape, program: &str) -> Vec<u8> {
        match shape {
            Shape::Logfmt => self.logfmt().into_bytes(),
            Shape::Json => self.json().into_bytes(),
            Shape::Journal => self.journal(program),
        }
    }

    fn logfmt(&self) -> String {
        let mut out = format!("ts={} level={}", timestamp(), self.level.as_str().to_ascii_lowercase());
        for (name, value) in &self.fields {
            let text = value.text();
            let quoted =
                text.is_empty() || text.contains(|c: char| matches!(c, ' ' | '=' | '"' | '\\') || c.is_control());
            let text = if quoted {
                format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
            } else {
                text.to_owned()
            };
            // Writing to a text cannot fail.
            let _ = write!(out, " {name}={}", escaped(&text));
        }
        out.push('\n');
        out
    }

    fn json(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut out = format!("{{\"timestamp\":\"{}\",\"level\":\"{}\"", timestamp(), self.level);
        for (name, value) in &self.fields {
            let value = match value {
                Value::Text(text) => quoted(text),
                Value::Plain(text) => text.clone(),
            };
            let _ = write!(out, ",{}:{}", quoted(name), escaped(&value));
        }
        out.push_str("}\n");
        out
    }

    /// systemd's JOURNAL_NATIVE_PROTOCOL; names are of our own making and of the letters it takes, but for dots.
    fn journal(&self, program: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        let mut field = |name: &str, value: &str| {
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            out.extend_from_slice(escaped(value).as_bytes());
            out.push(b'\n');
        };
        field("PRIORITY", &priority(self.level).to_string());
        field("SYSLOG_IDENTIFIER", program);
        field("TARGET", &self.target);
        if let Some((file, line)) = self.place {
            field("CODE_FILE", file);
            field("CODE_LINE", &line.to_string());
        }
        for (name, value) in &self.fields {
            match *name {
                "message" => field("MESSAGE", value.text()),
                name => field(&format!("IMPUSH_{}", name.to_ascii_uppercase().replace('.', "_")), value.text()),
            }
        }
        out
    }

    fn put(&mut self, field: &Field, value: Value) {
        self.fields.push((field.name(), value));
    }
}

impl Visit for Line {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::Plain(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::Plain(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let text = value.to_string();
        self.put(field, if value.is_finite() { Value::Plain(text) } else { Value::Text(text) });
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Plain(value.to_string()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::Text(bounded(&value, LONGEST)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::Text(bounded(&format_args!("{value:?}"), LONGEST)));
    }
}

/// The journal's and syslog's numbers (RFC 5424, table 2).
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 5,
        Level::DEBUG => 6,
        Level::TRACE => 7,
    }
}

fn timestamp() -> String {
    let mut out = String::new();
    // Only a clock that cannot be read fails here.
    let _ = SystemTime.format_time(&mut Writer::new(&mut out));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        let text = |text: &str| Value::Text(text.to_owned());
        let fields = vec![
            ("message", text("said")),
            ("event", text("a.b")),
            ("count", Value::Plain("7".to_owned())),
            ("why", text("\u{1b}[2J\nlevel=error \"x\\\u{9b}")),
        ];
        Line { level: Level::WARN, place: Some(("f.rs", 3)), target: "t".to_owned(), fields }
    }

    #[test]
    fn one_event_is_one_line_in_every_shape_whatever_its_fields_hold() {
        let logfmt = line().logfmt();
        assert!(logfmt.ends_with(
            " level=warn message=said event=a.b count=7 why=\"\\u001b[2J\\u000alevel=error \\\"x\\\\\\u009b\"\n"
        ));
        let json = line().json();
        let read: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((&read["count"], &read["level"]), (&7.into(), &"WARN".into()));
        assert_eq!(read["why"], "\u{1b}[2J\nlevel=error \"x\\\u{9b}");
        let journal = String::from_utf8(line().journal("impush")).expect("text");
        assert_eq!(journal.lines().count(), 9, "{journal}");
        assert!(journal.contains("MESSAGE=said\nIMPUSH_EVENT=a.b\nIMPUSH_COUNT=7\n"), "{journal}");
        for text in [&logfmt, &json, &journal] {
            assert!(!text.contains(['\u{1b}', '\u{9b}']), "{text}");
        }
    }
}
