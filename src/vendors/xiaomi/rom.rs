//! MIUI, HyperOS and JoyUI.

use super::super::rom::{ByBrand, Look, Rom, has, versioned};

pub(super) const ROM: Rom = Rom {
    marks: &[
        "ro.mi.os.version.name",
        "ro.mi.os.version.incremental",
        "ro.mi.os.version.code",
        "ro.joyui.ui.version.code",
        "ro.miui.ui.version.name",
        "ro.miui.ui.version.code",
    ],
    names: &["xiaomi", "redmi", "poco", "blackshark", "black shark"],
    // It sold phones with MIUI.
    guests: &["nubia"],
    by_brand,
    label,
    ..Rom::NONE
};

/// The brand alone proves nothing, for AOSP-based and Android One phones carry it too. A build number of MIUI's form
/// next to it makes MIUI likely, except on Android One models (their device names end in `_sprout`) and on phones with
/// Android Go, whose build numbers have the same form.
fn by_brand(look: &dyn Look) -> ByBrand {
    let is = |name: &str, holds: fn(&str) -> bool| look.property(name).is_some_and(holds);
    let device = ["ro.product.device", "ro.product.name", "ro.build.product"];
    let android_one = device.iter().any(|name| is(name, |v| v.ends_with("_sprout")))
        || is("ro.build.fingerprint", |v| v.contains("_sprout"))
        || is("ro.product.model", |model| matches!(model, "Mi A1" | "Mi A2" | "Mi A2 Lite" | "Mi A3"));
    if android_one {
        return ByBrand::Nothing("an Android One phone has no MIUI");
    }
    let go = is("ro.config.low_ram", |v| v == "true")
        || is("ro.product.model", |model| model == "Redmi Go")
        || device.iter().any(|name| is(name, |v| v == "tiare"));
    if go {
        return ByBrand::Nothing("a phone with Android Go has no MIUI");
    }
    if has(look, "ro.build.display.id", &["joyui"]) {
        return ByBrand::Likely(Some("ro.build.display.id"));
    }
    let build = ["ro.build.version.incremental", "ro.build.fingerprint"]
        .into_iter()
        .find(|name| is(name, |v| v.split(['/', ':']).any(miui_build)));
    match build {
        Some(name) => ByBrand::Likely(Some(name)),
        None => ByBrand::Nothing("a Xiaomi brand without MIUI or HyperOS properties: a ROM without the push service"),
    }
}

/// `V12.5.1.0.RJKMIXM`, `V12.2.2.0`, `OS1.0.3.0.TKXCNXM`.
fn miui_build(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('V').or_else(|| text.strip_prefix("OS")) else { return false };
    let numbers =
        rest.split('.').take_while(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())).count();
    numbers >= 3
}

fn label(look: &dyn Look) -> Option<String> {
    let hyper = look.property("ro.mi.os.version.name").or_else(|| look.property("ro.mi.os.version.incremental"));
    hyper
        .map(|value| format!("HyperOS {}", value.trim_start_matches("OS")))
        .or_else(|| look.property("ro.joyui.ui.version.code").map(|value| versioned("JoyUI", value)))
        .or_else(|| look.property("ro.miui.ui.version.name").map(|value| versioned("MIUI", value)))
        .or_else(|| look.property("ro.miui.ui.version.code").map(|value| versioned("MIUI", value)))
}
