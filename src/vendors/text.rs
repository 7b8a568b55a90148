//! Texts cut to a vendor's limit by the vendor's own counting, never inside what a reader sees as one character.

use serde_json::{Value as Json, json};
use unicode_segmentation::UnicodeSegmentation as _;

/// How a vendor counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// Unicode characters.
    Characters,
    /// Two for Chinese and everything else beyond Latin, one for Latin.
    Width,
    /// Bytes of UTF-8.
    Bytes,
}

impl Count {
    fn of(self, text: &str) -> usize {
        match self {
            Self::Characters => text.chars().count(),
            Self::Width => text.chars().map(|c| if u32::from(c) < 0x100 { 1 } else { 2 }).sum(),
            Self::Bytes => text.len(),
        }
    }
}

/// The longest start of `text` within `limit`, an ellipsis included when it was cut.
pub(super) fn cut(text: &str, limit: usize, count: Count) -> String {
    if count.of(text) <= limit {
        return text.to_owned();
    }
    let room = limit.saturating_sub(count.of("…"));
    let mut used = 0;
    let kept: String = text
        .graphemes(true)
        .take_while(|grapheme| {
            used += count.of(grapheme);
            used <= room
        })
        .collect();
    format!("{}…", kept.trim_end())
}

/// Shortens the texts at these places, one after the other, each down to one character before the next gives way,
/// until the whole document has at most `most` bytes or nothing is left of them.
pub(super) fn shrink(document: &mut Json, pointers: &[&str], most: usize) {
    // Nearly all fit as they are.
    if bytes(document).len() <= most {
        return;
    }
    for pointer in pointers {
        shrink_one(document, pointer, most);
    }
}

/// A document as it is sent.
pub(super) fn bytes(document: &Json) -> Vec<u8> {
    // What has texts for its keys can always be written.
    serde_json::to_vec(document).unwrap_or_default()
}

fn shrink_one(document: &mut Json, pointer: &str, most: usize) {
    loop {
        let over = bytes(document).len().saturating_sub(most);
        let Some(text) = document.pointer_mut(pointer) else { return };
        let current = text.as_str().unwrap_or_default().to_owned();
        if over == 0 || current.chars().count() <= 1 {
            return;
        }
        // Quotes and control characters take more bytes in the document than in the text.
        let whole = bytes(text).len();
        let keep = current.len() * whole.saturating_sub(over) / whole;
        *text = json!(cut(&current, keep.min(current.len() - 1), Count::Bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_too_long_for_the_vendor_loses_text_and_no_more_than_it_must() {
        for text in ["\"消\"", "a", "消", "\u{1}"] {
            let mut document = json!({"a": {"b": text.repeat(9000)}});
            shrink(&mut document, &["/a/b"], 4096);
            let size = document.to_string().len();
            assert!((3000..=4096).contains(&size), "{text:?}: {size}");
        }
    }

    #[test]
    fn the_first_text_gives_way_before_the_next_one() {
        let texts = || json!({"body": "b".repeat(1000), "title": "t".repeat(1000)});
        let mut document = texts();
        shrink(&mut document, &["/body", "/missing", "/title"], 1500);
        assert_eq!(document["title"], texts()["title"]);
        shrink(&mut document, &["/body", "/title"], 500);
        assert_eq!(document["body"], "…");
        assert!((400..=500).contains(&document.to_string().len()));
        shrink(&mut document, &["/body", "/title"], 5);
        assert_eq!(document, json!({"body": "…", "title": "…"}), "no more can be done");
    }

    #[test]
    fn each_vendor_counts_in_its_own_way() {
        assert_eq!(cut("消息内容", 4, Count::Characters), "消息内容");
        assert_eq!(cut("消息内容长", 4, Count::Characters), "消息内…");
        assert_eq!(cut("消息abcd", 8, Count::Width), "消息abcd");
        assert_eq!(cut("消息abcde", 8, Count::Width), "消息ab…");
        assert_eq!(cut("消息内容", 9, Count::Bytes), "消息…");
    }

    #[test]
    fn a_family_is_not_torn_apart() {
        let family = "👨‍👩‍👧‍👦";
        let text = format!("ab{family}{family}");
        let short = cut(&text, 2 + family.chars().count() + 1, Count::Characters);
        assert_eq!(short, format!("ab{family}…"));
        assert_eq!(cut(&text, 5, Count::Characters), "ab…");
    }
}
