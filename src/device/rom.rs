//! From Android properties to the vendor whose ROM this is. Property values seen on real devices are
//! collected by getActivity/DeviceCompat and in public firmware dumps.

use super::{Confidence, Evidence, Profile, Properties};
use crate::vendors::Vendor;

/// Properties that only one maker's ROM sets, with the name people know the ROM by.
const MARKS: &[(Vendor, &str, &str)] = &[
    (Vendor::Xiaomi, "ro.mi.os.version.name", "HyperOS"),
    (Vendor::Xiaomi, "ro.mi.os.version.incremental", "HyperOS"),
    (Vendor::Xiaomi, "ro.mi.os.version.code", "HyperOS"),
    (Vendor::Xiaomi, "ro.joyui.ui.version.code", "JoyUI"),
    (Vendor::Xiaomi, "ro.miui.ui.version.name", "MIUI"),
    (Vendor::Xiaomi, "ro.miui.ui.version.code", "MIUI"),
    (Vendor::Honor, "ro.honor.build.display.id", "MagicOS"),
    (Vendor::Huawei, "hw_sc.build.platform.version", "HarmonyOS"),
    (Vendor::Huawei, "ro.build.ohos.devicetype", "HarmonyOS"),
    (Vendor::Huawei, "persist.sys.ohos.osd.cloud.switch", "HarmonyOS"),
    (Vendor::Huawei, "ro.build.hw_emui_api_level", "EMUI"),
    (Vendor::Huawei, "ro.huawei.build.display.id", "EMUI"),
    (Vendor::Oppo, "ro.build.version.realmeui", "realme UI"),
    (Vendor::Oppo, "ro.build.version.oplusrom", "ColorOS"),
    (Vendor::Oppo, "ro.build.version.opporom", "ColorOS"),
    (Vendor::Vivo, "ro.vivo.os.build.display.id", "vivo"),
    (Vendor::Vivo, "ro.vivo.os.version", "vivo"),
    (Vendor::Meizu, "ro.flyme.version.id", "Flyme"),
    (Vendor::Meizu, "ro.build.flyme.version", "Flyme"),
];

/// HarmonyOS NEXT's layer for Android apps has no Android vendor push. It also sets HarmonyOS 2-4
/// properties, so it is asked first.
const NEXT_LAYER: [&str; 3] =
    ["ro.product.anco.devicetype", "ro.sys.anco.product.software.version", "ro.product.os.dist.anco.apiversion"];

/// Set by community ROMs, which carry no maker's push service.
const COMMUNITY: &[&str] = &[
    "ro.lineage.version",
    "ro.lineage.build.version",
    "ro.modversion",
    "ro.cm.version",
    "ro.crdroid.version",
    "ro.evolution.version",
    "org.evolution.version",
    "org.pixelexperience.version",
    "ro.aospa.version",
    "ro.havoc.version",
    "ro.arrow.version",
    "ro.omni.version",
    "ro.rr.version",
    "ro.grapheneos.release_version",
];

/// The first Magic UI made after Honor left Huawei; older ones are HMS phones.
const NEW_HONOR_MAGIC: u32 = 4;

/// Whose name a brand or manufacturer text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Of(Vendor),
    /// Chip makers' and AOSP's defaults, which say nothing.
    Neutral,
    Foreign,
}

fn name_of(text: &str) -> Name {
    match text.trim().to_ascii_lowercase().as_str() {
        "xiaomi" | "redmi" | "poco" | "blackshark" | "black shark" => Name::Of(Vendor::Xiaomi),
        "huawei" => Name::Of(Vendor::Huawei),
        "honor" => Name::Of(Vendor::Honor),
        "oppo" | "oneplus" | "realme" => Name::Of(Vendor::Oppo),
        "vivo" | "iqoo" => Name::Of(Vendor::Vivo),
        // The second is what some Flyme builds write as their brand.
        "meizu" | "22c4185e" => Name::Of(Vendor::Meizu),
        "apple" => Name::Of(Vendor::Apns),
        "" | "qti" | "qualcomm" | "qcom" | "android" | "generic" | "alps" | "mediatek" | "mtk" | "unknown" | "aosp"
        | "oem" | "default" => Name::Neutral,
        _ => Name::Foreign,
    }
}

/// What the facts add up to before it is written down.
struct Finding {
    channel: Option<Vendor>,
    confidence: Confidence,
    why: Option<String>,
}

impl Finding {
    fn none(why: impl Into<String>) -> Self {
        Self { channel: None, confidence: Confidence::None, why: Some(why.into()) }
    }

    fn candidate(vendor: Vendor, confidence: Confidence) -> Self {
        let why = (confidence == Confidence::Brand)
            .then(|| "by brand alone: no property of the vendor's ROM could be read".to_owned());
        Self { channel: Some(vendor), confidence, why }
    }
}

pub(super) fn profile(properties: &Properties) -> Profile {
    let owned = |name: &str| properties.get(name).map(str::to_owned);
    let mut evidence = Vec::new();
    let finding = decide(properties, &mut evidence);
    evidence.extend(properties.refused().iter().map(|why| Evidence { name: "refused".to_owned(), value: why.clone() }));
    Profile {
        manufacturer: owned("ro.product.manufacturer"),
        brand: owned("ro.product.brand"),
        model: owned("ro.product.model"),
        rom: rom_name(properties, finding.channel),
        platform: "android".to_owned(),
        channel: finding.channel,
        confidence: finding.confidence,
        evidence,
        why: finding.why,
    }
}

fn decide(properties: &Properties, evidence: &mut Vec<Evidence>) -> Finding {
    let mut note = |name: &str| {
        if let Some(value) = properties.get(name)
            && !evidence.iter().any(|e| e.name == name)
        {
            evidence.push(Evidence { name: name.to_owned(), value: value.to_owned() });
        }
    };
    for name in NEXT_LAYER {
        note(name);
    }
    if NEXT_LAYER.iter().any(|name| properties.get(name).is_some()) {
        return Finding::none("HarmonyOS NEXT's layer for Android apps has no Android vendor push");
    }
    let families = families(properties, &mut note);
    for name in COMMUNITY {
        note(name);
    }
    let community = COMMUNITY.iter().find(|name| properties.get(name).is_some());
    for name in ["ro.product.manufacturer", "ro.product.brand"] {
        note(name);
    }
    let names =
        ["ro.product.manufacturer", "ro.product.brand"].map(|key| properties.get(key).map_or(Name::Neutral, name_of));
    match families.as_slice() {
        [] if community.is_some() => Finding::none("a community ROM carries no maker's push service"),
        [] => by_brand(properties, names, &mut note),
        _ if community.is_some() => Finding::none("contradiction: a community ROM with a maker's ROM properties"),
        [family] => match names.into_iter().find(|name| !confirms(*name, *family)) {
            None => Finding::candidate(*family, Confidence::Rom),
            Some(_) => Finding::none(format!("contradiction: {family} ROM properties under another brand")),
        },
        [first, second, ..] => Finding::none(format!("contradiction: properties of both {first}'s and {second}'s ROM")),
    }
}

/// Every vendor whose ROM has left a mark, Huawei and Honor already told apart.
fn families(properties: &Properties, note: &mut impl FnMut(&str)) -> Vec<Vendor> {
    let mut found: Vec<Vendor> = Vec::new();
    let mut add = |vendor: Vendor, name: &str| {
        note(name);
        if !found.contains(&vendor) {
            found.push(vendor);
        }
    };
    for (vendor, name, _) in MARKS {
        if properties.get(name).is_some() {
            add(*vendor, name);
        }
    }
    // On Magic UI 6.1 the EMUI property holds the Magic UI version.
    if properties.get("ro.build.version.emui").is_some_and(|v| v.contains("EmotionUI")) {
        add(Vendor::Huawei, "ro.build.version.emui");
    }
    if properties.get("ro.build.display.id").is_some_and(|v| v.starts_with("Flyme")) {
        add(Vendor::Meizu, "ro.build.display.id");
    }
    let magic = ["ro.build.version.magic", "msc.config.magic.version"]
        .into_iter()
        .find_map(|name| Some((name, first_number(properties.get(name)?)?)));
    let has = |name: &str| properties.get(name).is_some();
    let (honor_mark, huawei_mark) = (has("ro.honor.build.display.id"), has("ro.huawei.build.display.id"));
    if let Some((name, major)) = magic {
        let old = huawei_mark || has("hw_sc.build.platform.version") || major < NEW_HONOR_MAGIC;
        add(if old && !honor_mark { Vendor::Huawei } else { Vendor::Honor }, name);
    }
    // A new Honor may keep EMUI properties of its past; the display ids separate the two makers, and
    // only both of them together, or HarmonyOS on a new Honor, are a contradiction.
    if found.contains(&Vendor::Honor) && !huawei_mark && !has("hw_sc.build.platform.version") {
        found.retain(|vendor| *vendor != Vendor::Huawei);
    }
    found
}

fn confirms(name: Name, family: Vendor) -> bool {
    let honor_or_huawei = |vendor: Vendor| matches!(vendor, Vendor::Honor | Vendor::Huawei);
    match name {
        Name::Neutral => true,
        Name::Of(vendor) => vendor == family || (honor_or_huawei(vendor) && honor_or_huawei(family)),
        Name::Foreign => false,
    }
}

fn by_brand(properties: &Properties, names: [Name; 2], note: &mut impl FnMut(&str)) -> Finding {
    let [manufacturer, brand] = names;
    let vendor = match (manufacturer, brand) {
        (Name::Foreign, _) | (_, Name::Foreign) => {
            return Finding::none(match (manufacturer, brand) {
                (Name::Of(_), _) | (_, Name::Of(_)) => "contradiction: manufacturer and brand name different makers",
                _ => "no property or brand of a vendor with a push service",
            });
        }
        (Name::Of(Vendor::Huawei), Name::Of(Vendor::Honor)) => Vendor::Huawei,
        (Name::Of(one), Name::Of(other)) if one != other => {
            return Finding::none("contradiction: manufacturer and brand name different makers");
        }
        (Name::Neutral, Name::Of(Vendor::Honor)) => {
            return Finding::none(
                "brand honor without a manufacturer: an old Honor (HMS) and a new one cannot be told apart",
            );
        }
        (Name::Of(vendor), _) | (_, Name::Of(vendor)) => vendor,
        (Name::Neutral, Name::Neutral) => match by_model(properties) {
            Some((vendor, name)) => {
                note(name);
                vendor
            }
            None => return Finding::none("no property or brand of a vendor with a push service"),
        },
    };
    match vendor {
        Vendor::Xiaomi => xiaomi_by_build(properties, note),
        Vendor::Oppo
            if ["ro.product.manufacturer", "ro.product.brand"]
                .iter()
                .any(|key| properties.get(key).is_some_and(|v| v.eq_ignore_ascii_case("oneplus"))) =>
        {
            Finding::none("a OnePlus without ColorOS properties runs OxygenOS or HydrogenOS, which carry no OPPO push")
        }
        vendor => Finding::candidate(vendor, Confidence::Brand),
    }
}

fn by_model(properties: &Properties) -> Option<(Vendor, &'static str)> {
    if properties.get("ro.meizu.product.model").or(properties.get("ro.vendor.meizu.product.model")).is_some() {
        return Some((Vendor::Meizu, "ro.meizu.product.model"));
    }
    // realme numbers its phones RMX and four digits, and some keep every other name elsewhere.
    let digits = properties.get("ro.product.model")?.strip_prefix("RMX")?;
    (digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit())).then_some((Vendor::Oppo, "ro.product.model"))
}

/// A Xiaomi brand alone proves nothing, for AOSP-based and Android One phones carry it too. A build
/// number of MIUI's form next to it makes MIUI likely, except on Android One models, whose build
/// numbers have the same form (their device names end in `_sprout`).
fn xiaomi_by_build(properties: &Properties, note: &mut impl FnMut(&str)) -> Finding {
    let android_one = ["ro.product.device", "ro.product.name", "ro.build.product"]
        .iter()
        .any(|name| properties.get(name).is_some_and(|v| v.ends_with("_sprout")))
        || properties.get("ro.build.fingerprint").is_some_and(|v| v.contains("_sprout"))
        || properties
            .get("ro.product.model")
            .is_some_and(|model| matches!(model, "Mi A1" | "Mi A2" | "Mi A2 Lite" | "Mi A3"));
    if android_one {
        return Finding::none("an Android One phone has no MIUI");
    }
    for name in ["ro.build.version.incremental", "ro.build.fingerprint"] {
        if properties.get(name).is_some_and(|v| v.split(['/', ':']).any(miui_build)) {
            note(name);
            return Finding::candidate(Vendor::Xiaomi, Confidence::Brand);
        }
    }
    Finding::none("a Xiaomi brand without MIUI or HyperOS properties: a ROM without the push service")
}

/// `V12.5.1.0.RJKMIXM`, `V12.2.2.0`, `OS1.0.3.0.TKXCNXM`.
fn miui_build(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('V').or_else(|| text.strip_prefix("OS")) else { return false };
    let numbers =
        rest.split('.').take_while(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())).count();
    numbers >= 3
}

fn first_number(text: &str) -> Option<u32> {
    let digits: String = text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn rom_name(properties: &Properties, channel: Option<Vendor>) -> Option<String> {
    let named =
        MARKS.iter().filter(|(vendor, ..)| channel.is_none_or(|c| c == *vendor)).find_map(|(vendor, name, rom)| {
            let value = properties.get(name)?;
            Some(match (vendor, *rom) {
                // Their value already names the system: `OriginOS 4`, `Flyme 9.2.1.3A`.
                (Vendor::Vivo, _) if value.contains("OS") => value.to_owned(),
                (_, rom) => match value.strip_prefix(rom) {
                    Some(rest) => format!("{rom} {}", rest.trim()),
                    None => format!("{rom} {value}"),
                },
            })
        });
    let text = |name: &str| properties.get(name).map(|v| v.replace('_', " "));
    match channel {
        Some(Vendor::Honor) => text("ro.build.version.magic")
            .map(|v| if v.starts_with("Magic") { v } else { format!("Magic UI {v}") })
            .or(named),
        Some(Vendor::Huawei) if properties.get("hw_sc.build.platform.version").is_none() => {
            text("ro.build.version.emui").or(named)
        }
        _ => named,
    }
    .or_else(|| properties.get("ro.build.version.release").map(|release| format!("Android {release}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pairs: &[(&str, &str)]) -> (Option<Vendor>, Confidence, String) {
        let profile = profile(&Properties::from_pairs(pairs.iter().copied()));
        (profile.channel, profile.confidence, profile.why.unwrap_or_default())
    }

    #[test]
    fn rom_evidence_under_another_brand_gives_no_channel() {
        let (channel, _, why) = found(&[("ro.miui.ui.version.name", "V12"), ("ro.product.brand", "samsung")]);
        assert_eq!(channel, None);
        assert!(why.contains("contradiction"), "{why}");
    }

    #[test]
    fn evidence_of_two_roms_gives_no_channel() {
        let (channel, _, why) = found(&[("ro.miui.ui.version.name", "V12"), ("ro.build.version.oplusrom", "V13")]);
        assert_eq!(channel, None);
        assert!(why.contains("both"), "{why}");
    }

    #[test]
    fn chip_makers_defaults_do_not_contradict() {
        let pairs =
            [("ro.mi.os.version.name", "OS2.0"), ("ro.product.brand", "qti"), ("ro.product.manufacturer", "QUALCOMM")];
        assert_eq!(found(&pairs).0, Some(Vendor::Xiaomi));
    }

    #[test]
    fn old_and_new_honor_are_told_apart() {
        let old = [
            ("ro.build.version.magic", "3.0.1"),
            ("ro.huawei.build.display.id", "OXF-AN00 3.0.1.166"),
            ("ro.product.manufacturer", "HONOR"),
        ];
        assert_eq!(found(&old).0, Some(Vendor::Huawei));
        let old_four = [
            ("ro.build.version.magic", "4.0.0"),
            ("ro.huawei.build.display.id", "BMH-AN10 4.0.0.200"),
            ("ro.product.brand", "HONOR"),
        ];
        assert_eq!(found(&old_four).0, Some(Vendor::Huawei));
        let harmony = [
            ("hw_sc.build.platform.version", "3.0.0"),
            ("ro.build.version.magic", "4.0.0"),
            ("ro.product.manufacturer", "HUAWEI"),
            ("ro.product.brand", "HONOR"),
        ];
        assert_eq!(found(&harmony).0, Some(Vendor::Huawei));
        let new = [
            ("ro.honor.build.display.id", "BVL-AN16 9.0.0.175"),
            ("ro.build.version.emui", "MagicUI_6.1.0"),
            ("ro.product.brand", "HONOR"),
        ];
        assert_eq!(found(&new).0, Some(Vendor::Honor));
        let both = [("ro.honor.build.display.id", "x"), ("ro.huawei.build.display.id", "y")];
        assert_eq!(found(&both).0, None);
        assert_eq!(found(&[("ro.product.brand", "HONOR")]).0, None);
    }

    #[test]
    fn the_next_layer_has_no_channel_whatever_else_is_set() {
        let pairs = [
            ("ro.product.os.dist.anco.apiversion", "60000"),
            ("ro.build.version.emui", "EmotionUI_14.0.0"),
            ("ro.product.brand", "HUAWEI"),
        ];
        assert_eq!(found(&pairs).0, None);
    }

    #[test]
    fn a_community_rom_has_no_channel() {
        let pairs = [("ro.lineage.version", "21.0"), ("ro.product.brand", "vivo"), ("ro.product.manufacturer", "vivo")];
        assert_eq!(found(&pairs).0, None);
    }

    #[test]
    fn an_empty_value_is_no_evidence() {
        assert_eq!(found(&[("ro.miui.ui.version.name", ""), ("ro.product.brand", "google")]).0, None);
    }
}
