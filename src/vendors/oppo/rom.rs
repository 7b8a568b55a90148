//! ColorOS, realme UI, and OnePlus's HydrogenOS and OxygenOS.

use super::super::rom::{ByBrand, Look, Rom, first_number, has, versioned};

/// Where OnePlus's own systems name themselves: `Oxygen OS 10.0.1`, `OnePlus8Oxygen_15.O.30_...`.
const ONEPLUS: [&str; 3] = ["ro.rom.version", "ro.build.version.ota", "ro.oxygen.version"];

pub(super) const ROM: Rom = Rom {
    marks: &["ro.build.version.realmeui", "ro.build.version.oplusrom", "ro.build.version.opporom"],
    proof: |look| oneplus(look).into_iter().collect(),
    names: &["oppo", "oneplus", "realme"],
    by_brand: |look| {
        let oneplus = ["ro.product.manufacturer", "ro.product.brand"].iter().any(|key| has(look, key, &["oneplus"]));
        if oneplus {
            return ByBrand::Nothing(
                "a OnePlus without ColorOS, OxygenOS or HydrogenOS properties: a ROM without the push service",
            );
        }
        ByBrand::Likely(None)
    },
    by_model: |look| {
        // realme numbers its phones RMX and four digits, and some keep every other name elsewhere.
        let digits = look.property("ro.product.model")?.strip_prefix("RMX")?;
        (digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit())).then_some("ro.product.model")
    },
    label,
    ..Rom::NONE
};

/// HydrogenOS, and OxygenOS from 9 on, of the OnePlus 5 and later, carry the push service.
fn oneplus(look: &dyn Look) -> Option<&'static str> {
    // `ONEPLUS A3003` is a OnePlus 3; `ONE A2003` and `ONE E1003` are older.
    let model = look.property("ro.product.model").unwrap_or_default().to_ascii_uppercase();
    let old = ["ONEPLUS A1", "ONEPLUS A2", "ONEPLUS A3", "ONE A2", "ONE E1", "A0001"];
    if old.iter().any(|start| model.starts_with(start)) {
        return None;
    }
    ONEPLUS.into_iter().find(|name| {
        let oxygen = has(look, name, &["oxygen"]) || (*name == "ro.oxygen.version" && look.property(name).is_some());
        // The build's name holds numbers of the phone and of the build, not of the system.
        let version = (*name == "ro.rom.version").then(|| first_number(look.property(name)?)).flatten();
        has(look, name, &["hydrogen"]) || (oxygen && version.is_none_or(|version| version >= 9))
    })
}

fn label(look: &dyn Look) -> Option<String> {
    look.property("ro.build.version.realmeui")
        .map(|value| versioned("realme UI", value))
        .or_else(|| look.property("ro.build.version.oplusrom").map(|value| versioned("ColorOS", value)))
        .or_else(|| look.property("ro.build.version.opporom").map(|value| versioned("ColorOS", value)))
        .or_else(|| look.property("ro.rom.version").filter(|_| oneplus(look).is_some()).map(str::to_owned))
        .or_else(|| {
            let hydrogen = has(look, oneplus(look)?, &["hydrogen"]);
            Some(if hydrogen { "HydrogenOS" } else { "OxygenOS" }.to_owned())
        })
}
