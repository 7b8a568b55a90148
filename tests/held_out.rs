//! Devices that the table of `devices.rs` does not have, as what `getprop` prints there: the classes of which rules from
//! that table alone go wrong. Each row names the source of its kind.

use impush::device::from_getprop;

/// What it is and where that is known from, its properties, the channel, and the system's name where it is asserted.
type Row = (&'static str, &'static [(&'static str, &'static str)], &'static str, Option<&'static str>);

const ROWS: &[Row] = &[
    (
        "OnePlus 7 Pro on HydrogenOS 10 (DeviceCompat: ro.rom.version)",
        &[
            ("ro.product.manufacturer", "OnePlus"),
            ("ro.product.brand", "OnePlus"),
            ("ro.product.model", "GM1910"),
            ("ro.rom.version", "Hydrogen OS 10.0.7.GM21"),
        ],
        "oppo",
        Some("Hydrogen OS 10.0.7.GM21"),
    ),
    (
        "OnePlus 8T on OxygenOS 11 (DeviceCompat: ro.rom.version)",
        &[
            ("ro.product.manufacturer", "OnePlus"),
            ("ro.product.model", "KB2005"),
            ("ro.rom.version", "Oxygen OS 11.0.13.13.KB05AA"),
        ],
        "oppo",
        Some("Oxygen OS 11.0.13.13.KB05AA"),
    ),
    (
        "OnePlus 5 on OxygenOS 9, known by its build alone (names of OnePlus's update packages)",
        &[
            ("ro.product.brand", "OnePlus"),
            ("ro.product.model", "ONEPLUS A5000"),
            ("ro.build.version.ota", "OnePlus5Oxygen_23.X.37"),
        ],
        "oppo",
        Some("OxygenOS"),
    ),
    (
        "OnePlus 3 on OxygenOS 5: older than the push service",
        &[
            ("ro.product.manufacturer", "OnePlus"),
            ("ro.product.model", "ONEPLUS A3003"),
            ("ro.rom.version", "Oxygen OS 5.0.8"),
        ],
        "none",
        None,
    ),
    (
        "Hi nova 9, built by Huawei (KHwang9883/MobileModels, huawei_cn)",
        &[
            ("ro.product.manufacturer", "Hi nova"),
            ("ro.product.brand", "Hi nova"),
            ("ro.build.version.emui", "EmotionUI_12.0.0"),
        ],
        "huawei",
        Some("EmotionUI 12.0.0"),
    ),
    (
        "WIKO 5G, built by Huawei, with HarmonyOS (KHwang9883/MobileModels, huawei_cn)",
        &[("ro.product.manufacturer", "WIKO"), ("ro.product.brand", "WIKO"), ("hw_sc.build.platform.version", "4.0.0")],
        "huawei",
        Some("HarmonyOS 4.0.0"),
    ),
    (
        "TD Tech M40, built by Huawei, with only HarmonyOS's switch readable",
        &[("ro.product.manufacturer", "TD Tech"), ("persist.sys.ohos.osd.cloud.switch", "true")],
        "huawei",
        Some("HarmonyOS"),
    ),
    (
        "WIKO's own phone with Android",
        &[("ro.product.manufacturer", "WIKO"), ("ro.product.brand", "WIKO")],
        "none",
        None,
    ),
    (
        "Polestar Phone, on Flyme (Meizu's announcement of 2024)",
        &[
            ("ro.product.manufacturer", "Polestar"),
            ("ro.product.brand", "Polestar"),
            ("ro.flyme.version.id", "Flyme 11.0.1.0A"),
        ],
        "meizu",
        Some("Flyme 11.0.1.0A"),
    ),
    (
        "Meizu 21 on Flyme 12, with only the build's name",
        &[("ro.product.manufacturer", "Meizu"), ("ro.build.display.id", "Flyme 12.0.0.0A")],
        "meizu",
        Some("Flyme 12.0.0.0A"),
    ),
    (
        "xiaomi.eu's build of MIUI (its ro.modversion)",
        &[
            ("ro.product.manufacturer", "Xiaomi"),
            ("ro.product.brand", "Redmi"),
            ("ro.miui.ui.version.name", "V140"),
            ("ro.modversion", "xiaomi.eu_multi_14.0.6"),
        ],
        "xiaomi",
        Some("MIUI V140"),
    ),
    (
        "nubia with MIUI",
        &[("ro.product.manufacturer", "nubia"), ("ro.product.brand", "nubia"), ("ro.miui.ui.version.code", "10")],
        "xiaomi",
        None,
    ),
    ("nubia with its own system", &[("ro.product.manufacturer", "nubia"), ("ro.product.brand", "nubia")], "none", None),
    (
        "Black Shark 3 with only the build's name (JOYUI)",
        &[("ro.product.manufacturer", "blackshark"), ("ro.build.display.id", "JOYUI12.0.3.0")],
        "xiaomi",
        None,
    ),
    (
        "Redmi Go: Android Go with a build number of MIUI's form (Google's list of Android Go devices)",
        &[
            ("ro.product.manufacturer", "Xiaomi"),
            ("ro.product.brand", "Xiaomi"),
            ("ro.product.model", "Redmi Go"),
            ("ro.build.version.incremental", "V10.2.9.0.OCLMIXM"),
        ],
        "none",
        None,
    ),
    (
        "Redmi A1: Android Go, known by ro.config.low_ram",
        &[
            ("ro.product.manufacturer", "Xiaomi"),
            ("ro.product.brand", "Redmi"),
            ("ro.config.low_ram", "true"),
            ("ro.build.version.incremental", "V13.0.3.0.SGMMIXM"),
        ],
        "none",
        None,
    ),
    (
        "an OPLUS image with neutral names",
        &[("ro.product.manufacturer", "oplus"), ("ro.product.brand", "oplus"), ("ro.build.version.oplusrom", "V14.0")],
        "oppo",
        Some("ColorOS V14.0"),
    ),
    (
        "HarmonyOS NEXT's layer for Android apps (DeviceCompat lines 235-259)",
        &[
            ("ro.product.brand", "HUAWEI"),
            ("ro.sys.anco.product.software.version", "PLA-AL10 6.0.0.100(SP6C00E100R1P1)"),
            ("ro.build.version.emui", "EmotionUI_14.0.0"),
        ],
        "none",
        Some("HarmonyOS NEXT 6.0.0.100"),
    ),
    (
        "Smartisan R2 (DeviceCompat: ro.smartisan.version)",
        &[
            ("ro.product.manufacturer", "smartisan"),
            ("ro.smartisan.version", "8.5.3"),
            ("ro.build.version.release", "11"),
        ],
        "none",
        Some("Smartisan OS 8.5.3"),
    ),
    (
        "a Pixel, with Google's services",
        &[
            ("ro.product.manufacturer", "Google"),
            ("ro.product.brand", "google"),
            ("ro.com.google.gmsversion", "14_202406"),
        ],
        "fcm",
        None,
    ),
    (
        "a Xiaomi phone sold abroad: its own channel before Google's",
        &[("ro.product.brand", "POCO"), ("ro.miui.ui.version.name", "V14"), ("ro.com.google.gmsversion", "13_202304")],
        "xiaomi",
        None,
    ),
    (
        "an Android One phone, with Google's services",
        &[
            ("ro.product.brand", "Xiaomi"),
            ("ro.product.model", "Mi A3"),
            ("ro.build.version.incremental", "V11.0.26.0.QFQMIXM"),
            ("ro.com.google.gmsversion", "10_201910"),
        ],
        "fcm",
        None,
    ),
    (
        "LineageOS on a Xiaomi phone",
        &[
            ("ro.product.brand", "Xiaomi"),
            ("ro.lineage.version", "21.0"),
            ("ro.modversion", "21.0-20240801-NIGHTLY-umi"),
        ],
        "none",
        None,
    ),
];

#[test]
fn held_out_devices_are_recognised() {
    let mut wrong = Vec::new();
    for (what, properties, channel, rom) in ROWS {
        let dump: String = properties.iter().map(|(name, value)| format!("[{name}]: [{value}]\n")).collect();
        let profile = from_getprop(dump.as_bytes()).expect("properties");
        let found = profile.channel.map_or("none", |vendor| vendor.as_str());
        if found != *channel || rom.is_some_and(|rom| profile.rom.as_deref() != Some(rom)) {
            wrong.push(format!("{what}: {found}, {:?}, {:?}", profile.rom, profile.why));
        }
        assert!(profile.channel.is_some() || profile.why.is_some(), "{what}: no word of why");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
