//! How a vendor's ROM is recognised: what a device's properties say, in each vendor's own words.

use serde::{Deserialize, Serialize};

/// What a device says of itself.
pub trait Look {
    /// The value, trimmed, if there is one that is not empty.
    fn property(&self, name: &str) -> Option<&str>;
}

/// How sure a channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// The operator says so.
    Forced,
    /// A property that only this vendor's ROM sets.
    Rom,
    /// The brand alone; the ROM left no mark that could be read.
    Brand,
    /// An app handed a token of this vendor over.
    Token,
    None,
}

impl Confidence {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forced => "forced",
            Self::Rom => "rom",
            Self::Brand => "brand",
            Self::Token => "token",
            Self::None => "none",
        }
    }
}

/// One vendor's evidence.
pub struct Rom {
    /// Properties that only this ROM sets.
    pub marks: &'static [&'static str],
    /// The same, where their values must be looked at: the properties that speak for it.
    pub proof: fn(&dyn Look) -> Vec<&'static str>,
    /// Marks that no other maker's ROM keeps from a common past.
    pub certain: &'static [&'static str],
    /// Brands and manufacturers, in lower case, under which its phones are sold.
    pub names: &'static [&'static str],
    /// Those of others who sell devices with this ROM: they speak neither for it nor against it.
    pub guests: &'static [&'static str],
    /// What a brand of these names is worth without a mark.
    pub by_brand: fn(&dyn Look) -> ByBrand,
    /// A property by which a device without any name is known.
    pub by_model: fn(&dyn Look) -> Option<&'static str>,
    /// Properties of a system that carries this maker's name and no channel of its own, and what it is.
    pub barred: &'static [&'static str],
    pub barred_why: &'static str,
    /// Properties that give this channel to a device no maker's ROM serves.
    pub fallback: &'static [&'static str],
    /// The system's name and version as people know it.
    pub label: fn(&dyn Look) -> Option<String>,
}

/// What a brand alone is worth.
pub enum ByBrand {
    /// Likely; with the property that makes it so, where there is one.
    Likely(Option<&'static str>),
    /// Why it is worth nothing.
    Nothing(&'static str),
}

impl Rom {
    /// A vendor that no property speaks for.
    pub const NONE: Self = Self {
        marks: &[],
        proof: |_| Vec::new(),
        certain: &[],
        names: &[],
        guests: &[],
        by_brand: |_| ByBrand::Likely(None),
        by_model: |_| None,
        barred: &[],
        barred_why: "",
        fallback: &[],
        label: |_| None,
    };
}

/// `V5.0` after `realme UI` and the like: a name and the version that a property holds, said once.
pub fn versioned(name: &str, value: &str) -> String {
    match value.strip_prefix(name) {
        Some(rest) => format!("{name} {}", rest.trim()),
        None => format!("{name} {value}"),
    }
}

/// The first number in a text.
pub fn first_number(text: &str) -> Option<u32> {
    let digits: String = text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Whether a text holds one of these, whatever the case.
pub fn has(look: &dyn Look, name: &str, words: &[&str]) -> bool {
    let value = look.property(name).map(str::to_ascii_lowercase).unwrap_or_default();
    words.iter().any(|word| value.contains(word))
}
