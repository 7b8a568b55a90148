//! Magic UI from 4 on, and MagicOS; older ones stand under the maker it was part of.

use super::super::rom::{Look, Rom, first_number};

/// The first Magic UI of its own.
const FIRST_MAGIC: u32 = 4;

pub(super) const ROM: Rom = Rom {
    marks: &["ro.honor.build.display.id"],
    proof: |look| {
        let former = ["ro.huawei.build.display.id", "hw_sc.build.platform.version"];
        let magic = ["ro.build.version.magic", "msc.config.magic.version"]
            .into_iter()
            .find_map(|name| Some((name, first_number(look.property(name)?)?)));
        let own = |major| {
            let old = major < FIRST_MAGIC || former.iter().any(|name| look.property(name).is_some());
            !old || look.property("ro.honor.build.display.id").is_some()
        };
        magic.filter(|(_, major)| own(*major)).map(|(name, _)| name).into_iter().collect()
    },
    names: &["honor"],
    label: |look: &dyn Look| {
        let text = look.property("ro.build.version.magic").map(|v| v.replace('_', " "));
        text.map(|v| if v.starts_with("Magic") { v } else { format!("Magic UI {v}") })
            .or_else(|| look.property("msc.config.magic.version").map(|v| format!("MagicOS {v}")))
            .or_else(|| look.property("ro.honor.build.display.id").map(|_| "MagicOS".to_owned()))
    },
    ..Rom::NONE
};
