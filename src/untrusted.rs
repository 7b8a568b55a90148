//! Text that others wrote (devices, vendors, brokers), made safe for terminals, logs and metric labels.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// The most characters of one value that a person is shown.
pub const LONGEST: usize = 1024;
/// The most characters of a metric's label.
const LABEL: usize = 40;

/// Whether a terminal would obey the character, or a reader be misled by it: control characters (ECMA-48, C0
/// and C1), what turns the direction of writing (Unicode, UAX #9) and what ends a line (U+2028, U+2029).
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn replaced(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let bad = |c: char| acts(c) && !keep(c);
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if bad(c) {
            // Writing to a text cannot fail. All of them are one unit of UTF-16, as JSON writes them.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Every character that acts, written as JSON writes it (`\u001b`): JSON stays the same JSON.
pub fn escaped(text: &str) -> Cow<'_, str> {
    replaced(text, |_| false)
}

/// As [`escaped`], for a text of our own making that has several lines.
pub fn escaped_lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| matches!(c, '\n' | '\t'))
}

/// One value for a line that a person reads: on one line, and at most [`LONGEST`] characters.
pub fn shown(value: impl fmt::Display) -> String {
    escaped(&bounded(&format_args!("{value}"), LONGEST)).into_owned()
}

/// What a value writes, up to `most` characters, and how many bytes more there were. It is never held whole.
pub fn bounded(value: &dyn fmt::Display, most: usize) -> String {
    let mut out = Bounded { text: String::new(), room: most, more: 0 };
    let _ = write!(out, "{value}");
    if out.more > 0 {
        let _ = write!(out.text, "… ({} bytes more)", out.more);
    }
    out.text
}

struct Bounded {
    text: String,
    room: usize,
    more: usize,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let end = part.char_indices().nth(self.room).map_or(part.len(), |(at, _)| at);
        self.text.push_str(&part[..end]);
        self.room -= part[..end].chars().count();
        self.more += part.len() - end;
        Ok(())
    }
}

/// A code from outside as a metric's label; one that does not look like a code is `other`.
pub fn label(code: &str) -> &str {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if code.len() <= LABEL && code.chars().all(plain) { code } else { "other" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out_and_the_rest_is_left_alone() {
        assert_eq!(escaped("\u{1b}[2Jgone\r\n\u{9b}1m\u{202e}x"), "\\u001b[2Jgone\\u000d\\u000a\\u009b1m\\u202ex");
        assert!(matches!(escaped("Grüße, 世界 👩‍👩‍👧"), Cow::Borrowed(_)));
        assert_eq!(escaped_lines("a\n\tb\u{7}"), "a\n\tb\\u0007");
    }

    #[test]
    fn json_that_is_made_safe_is_the_same_json() {
        let value = serde_json::json!({ "from": "\u{1b}]0;x\u{7}\u{9d}\u{2028}\u{202e}" });
        let safe = escaped(&value.to_string()).into_owned();
        assert!(!safe.contains(acts), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).expect("JSON"), value);
    }

    #[test]
    fn a_long_value_is_cut_and_says_by_how_much() {
        let long = shown("é".repeat(500_000));
        assert!(long.ends_with("… (997952 bytes more)"), "{}", &long[long.len() - 40..]);
        assert_eq!(long.chars().filter(|c| *c == 'é').count(), LONGEST);
        assert_eq!(shown("short"), "short");
    }

    #[test]
    fn a_label_is_a_code_or_other() {
        for code in ["0", "80300007", "BadDeviceToken", "http_503", ""] {
            assert_eq!(label(code), code);
        }
        for code in ["a b", "\u{1b}[0m", "x\"y", "é", &"7".repeat(41)] {
            assert_eq!(label(code), "other");
        }
    }
}
