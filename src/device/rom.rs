//! From Android properties to the vendor whose ROM this is. Property values seen on real devices are
//! collected by getActivity/DeviceCompat and in public firmware dumps.

use super::{Confidence, Evidence, Profile, Properties};
use crate::vendors::rom::{ByBrand, Look, Rom};
use crate::vendors::{PARTED, Vendor};

/// Set by community ROMs, which carry no maker's push service.
const COMMUNITY: &[&str] = &[
    "ro.lineage.version",
    "ro.lineage.build.version",
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

/// Set by community ROMs, and by builds of a maker's own ROM that its users translate.
const VERSION_OF_OTHERS: &str = "ro.modversion";

/// Systems without a channel that people know by name.
const OTHERS: &[(&str, &str)] = &[("ro.smartisan.version", "Smartisan OS")];

const NAMES: [&str; 2] = ["ro.product.manufacturer", "ro.product.brand"];

/// Whose name a brand or manufacturer text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Of(Vendor),
    /// Speaks for nobody, and against nobody but these: chip makers, AOSP, and who sells another's phones.
    Neutral,
    /// Sells phones with this maker's ROM.
    Guest(Vendor),
    Foreign,
}

fn name_of(text: &str) -> Name {
    let text = text.trim().to_ascii_lowercase();
    let whose = |names: fn(&Rom) -> &'static [&'static str]| {
        Vendor::ORDER.into_iter().find(|vendor| names(vendor.rom()).contains(&text.as_str()))
    };
    if let Some(vendor) = whose(|rom| rom.names) {
        return Name::Of(vendor);
    }
    if let Some(vendor) = whose(|rom| rom.guests) {
        return Name::Guest(vendor);
    }
    match text.as_str() {
        "" | "qti" | "qualcomm" | "qcom" | "android" | "generic" | "alps" | "mediatek" | "mtk" | "unknown" | "aosp"
        | "oem" | "default" | "oplus" => Name::Neutral,
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
        rom: label(properties, finding.channel),
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
    for rom in Vendor::ORDER.map(Vendor::rom) {
        rom.barred.iter().for_each(|name| note(name));
        if rom.barred.iter().any(|name| properties.get(name).is_some()) {
            return Finding::none(rom.barred_why);
        }
    }
    let found = of_makers(properties, &mut note);
    if found.channel.is_some() {
        return found;
    }
    for vendor in Vendor::ORDER {
        let mark = vendor.rom().fallback.iter().find(|name| properties.get(name).is_some());
        if let Some(name) = mark {
            note(name);
            return Finding { channel: Some(vendor), confidence: Confidence::Rom, why: found.why };
        }
    }
    found
}

fn of_makers(properties: &Properties, note: &mut impl FnMut(&str)) -> Finding {
    let families = families(properties, note);
    for name in COMMUNITY.iter().chain([&VERSION_OF_OTHERS]) {
        note(name);
    }
    let community = COMMUNITY.iter().any(|name| properties.get(name).is_some());
    for name in NAMES {
        note(name);
    }
    let names = NAMES.map(|key| properties.get(key).map_or(Name::Neutral, name_of));
    match families.as_slice() {
        [] if community || properties.get(VERSION_OF_OTHERS).is_some() => {
            Finding::none("a community ROM carries no maker's push service")
        }
        [] => by_brand(properties, names, note),
        _ if community => Finding::none("contradiction: a community ROM with a maker's ROM properties"),
        [family] => match names.into_iter().find(|name| !confirms(*name, *family)) {
            None => Finding::candidate(*family, Confidence::Rom),
            Some(_) => Finding::none(format!("contradiction: {family} ROM properties under another brand")),
        },
        [first, second, ..] => Finding::none(format!("contradiction: properties of both {first}'s and {second}'s ROM")),
    }
}

/// Every vendor whose ROM has left a mark.
fn families(properties: &Properties, note: &mut impl FnMut(&str)) -> Vec<Vendor> {
    let has = |name: &&&str| properties.get(name).is_some();
    let mut found: Vec<Vendor> = Vec::new();
    for vendor in Vendor::ORDER {
        let rom = vendor.rom();
        let mut marks: Vec<&str> = rom.marks.iter().filter(has).copied().collect();
        marks.extend((rom.proof)(properties));
        marks.iter().for_each(|name| note(name));
        if !marks.is_empty() {
            found.push(vendor);
        }
    }
    // Who left may keep properties of the past; only a mark of the present is a contradiction.
    let (former, left) = PARTED;
    if found.contains(&left) && !former.rom().certain.iter().any(|name| has(&name)) {
        found.retain(|vendor| *vendor != former);
    }
    found
}

fn parted(one: Vendor, other: Vendor) -> bool {
    [(one, other), (other, one)].contains(&PARTED)
}

fn confirms(name: Name, family: Vendor) -> bool {
    match name {
        Name::Neutral => true,
        Name::Of(vendor) => vendor == family || parted(vendor, family),
        Name::Guest(vendor) => vendor == family,
        Name::Foreign => false,
    }
}

fn by_brand(properties: &Properties, names: [Name; 2], note: &mut impl FnMut(&str)) -> Finding {
    const CONTRADICTION: &str = "contradiction: manufacturer and brand name different makers";
    const NOTHING: &str = "no property or brand of a vendor with a push service";
    let own = |name: Name| match name {
        Name::Of(vendor) => Some(vendor),
        _ => None,
    };
    let [manufacturer, brand] = names.map(own);
    let (former, left) = PARTED;
    let vendor = match (manufacturer, brand) {
        (None, None) if names.contains(&Name::Foreign) => return Finding::none(NOTHING),
        _ if names.contains(&Name::Foreign) => return Finding::none(CONTRADICTION),
        (Some(one), Some(other)) if (one, other) == PARTED => former,
        (Some(one), Some(other)) if one != other => return Finding::none(CONTRADICTION),
        (None, Some(brand)) if brand == left => {
            return Finding::none(format!(
                "brand {left} without a manufacturer: an old one ({former}'s) and a new one cannot be told apart"
            ));
        }
        (Some(vendor), _) | (_, Some(vendor)) => vendor,
        (None, None) => {
            let known = |vendor: Vendor| Some((vendor, (vendor.rom().by_model)(properties)?));
            match Vendor::ORDER.into_iter().find_map(known) {
                Some((vendor, name)) => {
                    note(name);
                    vendor
                }
                None => return Finding::none(NOTHING),
            }
        }
    };
    match (vendor.rom().by_brand)(properties) {
        ByBrand::Likely(property) => {
            property.into_iter().for_each(note);
            Finding::candidate(vendor, Confidence::Brand)
        }
        ByBrand::Nothing(why) => Finding::none(why),
    }
}

fn label(properties: &Properties, channel: Option<Vendor>) -> Option<String> {
    let of = |vendor: Vendor| (vendor.rom().label)(properties);
    let others = || OTHERS.iter().find_map(|(name, rom)| Some(format!("{rom} {}", properties.get(name)?)));
    channel
        .and_then(of)
        .or_else(|| if channel.is_none() { Vendor::ORDER.into_iter().find_map(of) } else { None })
        .or_else(others)
        .or_else(|| properties.get("ro.build.version.release").map(|release| format!("Android {release}")))
}

impl Look for Properties {
    fn property(&self, name: &str) -> Option<&str> {
        self.get(name)
    }
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
