//! EMUI and HarmonyOS 2 to 4; HarmonyOS NEXT is known by its layer for Android apps.

use super::super::rom::{Look, Rom, first_number, versioned};

/// The first Magic UI that was another maker's.
const LAST_MAGIC: u32 = 3;

pub(super) const ROM: Rom = Rom {
    marks: &[
        "hw_sc.build.platform.version",
        "ro.build.ohos.devicetype",
        "persist.sys.ohos.osd.cloud.switch",
        "ro.build.hw_emui_api_level",
        "ro.huawei.build.display.id",
    ],
    proof,
    certain: &["ro.huawei.build.display.id", "hw_sc.build.platform.version"],
    names: &["huawei", "hi nova", "hinova"],
    // Its phones, sold by others under their names.
    guests: &["wiko", "td tech", "td-tech", "tdtech", "tdt"],
    // It also sets properties of HarmonyOS 2 to 4.
    barred: &[
        "ro.product.anco.devicetype",
        "ro.sys.anco.product.software.version",
        "ro.product.os.dist.anco.apiversion",
    ],
    barred_why: "HarmonyOS NEXT: its layer for Android apps has no push service, and no daemon runs outside it; its own \
                 apps' tokens are bound over REST",
    label,
    ..Rom::NONE
};

fn proof(look: &dyn Look) -> Vec<&'static str> {
    let mut found = Vec::new();
    // On Magic UI 6.1 the EMUI property holds the Magic UI version.
    if look.property("ro.build.version.emui").is_some_and(|v| v.contains("EmotionUI")) {
        found.push("ro.build.version.emui");
    }
    let magic = ["ro.build.version.magic", "msc.config.magic.version"]
        .into_iter()
        .find_map(|name| Some((name, first_number(look.property(name)?)?)));
    if let Some((name, major)) = magic
        && look.property("ro.honor.build.display.id").is_none()
        && (major <= LAST_MAGIC || ROM.certain.iter().any(|mark| look.property(mark).is_some()))
    {
        found.push(name);
    }
    found
}

fn label(look: &dyn Look) -> Option<String> {
    let has = |name: &str| look.property(name).is_some();
    if ROM.barred.iter().any(|name| has(name)) {
        // `PLA-AL10 6.0.0.100(C00E100R1P1)`, or 60000.
        let software = look.property("ro.sys.anco.product.software.version");
        let version = software.and_then(|text| text.split_whitespace().find(|word| word.contains('.')));
        let version = version.map(|text| text.split(['(', ' ']).next().unwrap_or_default().to_owned());
        return Some(version.map_or_else(|| "HarmonyOS NEXT".to_owned(), |v| format!("HarmonyOS NEXT {v}")));
    }
    if let Some(version) = look.property("hw_sc.build.platform.version") {
        return Some(versioned("HarmonyOS", version));
    }
    if has("ro.build.ohos.devicetype") || has("persist.sys.ohos.osd.cloud.switch") {
        return Some("HarmonyOS".to_owned());
    }
    let emui = look.property("ro.build.version.emui").filter(|v| v.contains("EmotionUI")).map(|v| v.replace('_', " "));
    emui.or_else(|| look.property("ro.build.version.magic").map(|v| format!("Magic UI {v}")))
        .or_else(|| ROM.marks.iter().any(|name| has(name)).then(|| "EMUI".to_owned()))
}
