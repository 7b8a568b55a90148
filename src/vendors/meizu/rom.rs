//! Flyme.

use super::super::rom::{Look, Rom, versioned};

pub(super) const ROM: Rom = Rom {
    marks: &["ro.flyme.version.id", "ro.build.flyme.version"],
    proof: |look| {
        let is = look.property("ro.build.display.id").is_some_and(|v| v.starts_with("Flyme"));
        is.then_some("ro.build.display.id").into_iter().collect()
    },
    // The second is what some Flyme builds write as their brand.
    names: &["meizu", "22c4185e"],
    // Its phone runs Flyme.
    guests: &["polestar"],
    by_model: |look| {
        ["ro.meizu.product.model", "ro.vendor.meizu.product.model"]
            .into_iter()
            .find(|name| look.property(name).is_some())
    },
    label: |look: &dyn Look| {
        ["ro.flyme.version.id", "ro.build.flyme.version", "ro.build.display.id"]
            .into_iter()
            .filter_map(|name| look.property(name).filter(|v| name != "ro.build.display.id" || v.starts_with("Flyme")))
            .next()
            .map(|value| versioned("Flyme", value))
    },
    ..Rom::NONE
};
