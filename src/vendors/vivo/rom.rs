//! OriginOS and Funtouch OS.

use super::super::rom::{Look, Rom, versioned};

pub(super) const ROM: Rom = Rom {
    marks: &["ro.vivo.os.build.display.id", "ro.vivo.os.version"],
    names: &["vivo", "iqoo"],
    label: |look: &dyn Look| {
        let value = ROM.marks.iter().find_map(|name| look.property(name))?;
        // It may name the system itself: `OriginOS 4`.
        Some(if value.contains("OS") { value.replace('_', " ") } else { versioned("vivo", value) })
    },
    ..Rom::NONE
};
