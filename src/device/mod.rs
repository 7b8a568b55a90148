//! Who made this device, and which vendor's push service its ROM can carry; with the evidence.
//!
//! ```text
//! properties (Android files, getprop) --+
//! board (DMI, device tree, os-release) -+--> Profile { manufacturer, rom, channel, evidence, why }
//! ```
//!
//! ROM evidence decides, brand and manufacturer only confirm: a custom ROM on a maker's phone has
//! no push service, whatever its brand says. Where facts contradict each other there is no channel.

mod board;
mod getprop;
mod machine;
mod properties;
mod rom;

pub use machine::Machine;
pub use properties::{Properties, PropertyError};

use crate::vendors::Vendor;
pub use crate::vendors::rom::Confidence;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One fact that spoke for or against a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// A property name, or a file below the root.
    pub name: String,
    pub value: String,
}

/// What is known of the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    pub manufacturer: Option<String>,
    pub brand: Option<String>,
    pub model: Option<String>,
    /// The system's name and version: `MIUI V12`, `Debian GNU/Linux 12`.
    pub rom: Option<String>,
    /// `android` or `linux`.
    pub platform: String,
    #[serde(with = "channel_or_none")]
    pub channel: Option<Vendor>,
    pub confidence: Confidence,
    pub evidence: Vec<Evidence>,
    /// Why there is no channel, or what makes this one doubtful.
    pub why: Option<String>,
}

/// Reads the device below `root`, a file tree laid out as on the device; without one, the running system.
/// Blocks on files, and for the running system on `getprop` for up to five seconds.
///
/// # Errors
/// [`PropertyError`] when the root is no directory. Files that are absent, unreadable or malformed
/// are facts about the device, not errors; the malformed ones are counted in the evidence.
pub fn detect(root: Option<&Path>) -> Result<Profile, PropertyError> {
    examine(root).map(|(profile, _)| profile)
}

/// What a device is of which support was sent what `getprop` printed: as UTF-8 or UTF-16, with or without its line
/// ends, or as the text of a `build.prop`.
///
/// # Errors
/// [`PropertyError::NoProperties`] when the text holds none.
pub fn from_getprop(dump: &[u8]) -> Result<Profile, PropertyError> {
    Properties::from_getprop(dump).map(|properties| rom::profile(&properties))
}

/// As [`detect`], and which machine it is.
///
/// # Errors
/// [`PropertyError`].
pub fn examine(root: Option<&Path>) -> Result<(Profile, Machine), PropertyError> {
    if let Some(root) = root {
        let properties = Properties::from_tree(root)?;
        let machine = Machine::read(root, &properties);
        return Ok((profile(&properties, || board::from_tree(root)), machine));
    }
    let root = Path::new("/");
    let mut properties = Properties::from_tree(root)?;
    properties.overlay_getprop();
    let machine = Machine::read(root, &properties);
    Ok((profile(&properties, || board::from_running_system(root)), machine))
}

/// The serial number that the device says itself; `None` where it has none of its own, or this process may not know it.
/// Blocks as [`detect`] does.
pub fn serial_number(root: Option<&Path>) -> Option<String> {
    let mut properties = Properties::from_tree(root.unwrap_or(Path::new("/"))).ok()?;
    if root.is_none() {
        properties.overlay_getprop();
    }
    machine::serial_number(root.unwrap_or(Path::new("/")), &properties)
}

fn profile(properties: &Properties, board: impl FnOnce() -> board::Board) -> Profile {
    if properties.is_empty() {
        let board = board();
        return Profile {
            manufacturer: board.manufacturer,
            brand: None,
            model: board.model,
            rom: board.system,
            platform: "linux".to_owned(),
            channel: None,
            confidence: Confidence::None,
            evidence: board.evidence,
            why: Some("no Android properties: this board's maker runs no push service".to_owned()),
        };
    }
    rom::profile(properties)
}

mod channel_or_none {
    use super::Vendor;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(channel: &Option<Vendor>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(channel.map_or("none", Vendor::as_str))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vendor>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "none" { Ok(None) } else { text.parse().map(Some).map_err(serde::de::Error::custom) }
    }
}
