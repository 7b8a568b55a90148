//! What may come in from outside: one rule for what devices and apps say, whichever database keeps it.
//!
//! PostgreSQL keeps no NUL in a text and no key of an index above 2,704 bytes (its documentation, "Character
//! Types" and "B-Tree"), where SQLite takes both; so neither is left to the database to refuse.

use serde_json::Value as Json;

/// Longest word in bytes: a name, an id, a description.
pub const LONGEST_WORD: usize = 256;
/// Longest push token in bytes. The longest that a vendor documents is well below 1,024.
pub const LONGEST_TOKEN: usize = 2048;
/// Most objects and lists within one another.
pub const DEEPEST: usize = 32;

/// Why something is not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{what} has {is} bytes; at most {most}")]
    Length { what: &'static str, is: usize, most: usize },
    #[error("{what} holds a control character")]
    Control { what: &'static str },
    #[error("a text holds a NUL character")]
    Nul,
    #[error("objects and lists stand more than {DEEPEST} deep in one another")]
    Depth,
}

impl Refused {
    /// The word used in log events and metric labels.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Length { .. } => "length",
            Self::Control { .. } => "control_character",
            Self::Nul => "nul",
            Self::Depth => "depth",
        }
    }
}

/// A word: at most [`LONGEST_WORD`] bytes and no control character.
///
/// # Errors
/// [`Refused`], with `what` it is.
pub fn word(text: &str, what: &'static str) -> Result<(), Refused> {
    bounded(text, what, LONGEST_WORD)
}

/// A push token: at most [`LONGEST_TOKEN`] bytes and no control character. Its shape is its vendor's to check.
///
/// # Errors
/// [`Refused`].
pub fn token(text: &str) -> Result<(), Refused> {
    bounded(text, "the token", LONGEST_TOKEN)
}

fn bounded(text: &str, what: &'static str, most: usize) -> Result<(), Refused> {
    if text.len() > most {
        return Err(Refused::Length { what, is: text.len(), most });
    }
    if text.chars().any(char::is_control) {
        return Err(Refused::Control { what });
    }
    Ok(())
}

/// A text of one's own (a device's model) as a word: without control characters, and cut where it is too long.
pub fn as_word(text: &str) -> String {
    let mut word: String = text.chars().filter(|c| !c.is_control()).collect();
    let end = (0..=LONGEST_WORD.min(word.len())).rev().find(|at| word.is_char_boundary(*at)).unwrap_or(0);
    word.truncate(end);
    word
}

/// What others wrote freely: no NUL anywhere, and at most [`DEEPEST`] deep.
///
/// # Errors
/// [`Refused`].
pub fn free(value: &Json) -> Result<(), Refused> {
    fn look(value: &Json, deep: usize) -> Result<(), Refused> {
        let text = |text: &str| if text.contains('\0') { Err(Refused::Nul) } else { Ok(()) };
        let within = || if deep < DEEPEST { Ok(deep + 1) } else { Err(Refused::Depth) };
        match value {
            Json::String(own) => text(own),
            Json::Array(items) => {
                let deep = within()?;
                items.iter().try_for_each(|item| look(item, deep))
            }
            Json::Object(fields) => {
                let deep = within()?;
                fields.iter().try_for_each(|(key, field)| text(key).and_then(|()| look(field, deep)))
            }
            Json::Null | Json::Bool(_) | Json::Number(_) => Ok(()),
        }
    }
    look(value, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_word_has_its_bounds() {
        assert_eq!(word("小米 14", "the model"), Ok(()));
        assert_eq!(word(&"m".repeat(LONGEST_WORD), "the model"), Ok(()));
        let long = Refused::Length { what: "the model", is: 257, most: 256 };
        assert_eq!(word(&"m".repeat(257), "the model"), Err(long));
        for bad in ["a\0b", "a\u{1b}[2J", "a\nb", "\u{9b}"] {
            assert_eq!(word(bad, "the model"), Err(Refused::Control { what: "the model" }));
        }
        assert_eq!(token(&"t".repeat(LONGEST_TOKEN)), Ok(()));
        assert!(token(&"t".repeat(LONGEST_TOKEN + 1)).is_err());
    }

    #[test]
    fn ones_own_text_is_made_a_word() {
        assert_eq!(as_word("Mi\0 14\n"), "Mi 14");
        let long = as_word(&"米".repeat(100));
        assert_eq!(long, "米".repeat(85));
        assert_eq!(word(&long, "the model"), Ok(()));
    }

    #[test]
    fn what_others_wrote_freely_holds_no_nul_and_is_not_too_deep() {
        assert_eq!(free(&json!({"msg": "line\nline\t\u{7}", "ext": [{"a": null}]})), Ok(()));
        for bad in [json!("a\0"), json!({"a": ["\0"]}), json!({"a\0": 1})] {
            assert_eq!(free(&bad), Err(Refused::Nul));
        }
        let deep = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(free(&deep(DEEPEST)), Ok(()));
        assert_eq!(free(&deep(DEEPEST + 1)), Err(Refused::Depth));
    }
}
