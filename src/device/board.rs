//! Who made a machine that is no Android device: DMI, device tree, os-release, `sysinfo`.

use super::Evidence;
use std::path::Path;

/// What firmware makers write when they write nothing.
const PLACEHOLDERS: &[&str] = &[
    "to be filled by o.e.m.",
    "default string",
    "system manufacturer",
    "system product name",
    "not specified",
    "none",
    "o.e.m.",
    "oem",
    "unknown",
    "not applicable",
    "invalid",
];

#[derive(Debug, Default)]
pub(super) struct Board {
    pub manufacturer: Option<String>,
    pub model: Option<String>,
    pub system: Option<String>,
    pub evidence: Vec<Evidence>,
}

pub(super) fn from_tree(root: &Path) -> Board {
    let mut board = Board::default();
    let mut first = |paths: &[&str]| {
        paths.iter().find_map(|path| {
            let value = read(&root.join(path))?;
            board.evidence.push(Evidence { name: (*path).to_owned(), value: value.clone() });
            Some(value)
        })
    };
    let tree_model = first(&["proc/device-tree/model", "sys/firmware/devicetree/base/model"]);
    let compatible = first(&["proc/device-tree/compatible", "sys/firmware/devicetree/base/compatible"]);
    let vendor =
        first(&["sys/class/dmi/id/sys_vendor", "sys/class/dmi/id/board_vendor", "sys/class/dmi/id/chassis_vendor"]);
    let product = first(&["sys/class/dmi/id/product_name", "sys/class/dmi/id/board_name"]);
    // `compatible` starts with `maker,model`: the Devicetree Specification, section 2.3.1.
    let tree_maker = compatible.as_deref().and_then(|text| text.split_once(',')).map(|(maker, _)| maker.to_owned());
    board.manufacturer = vendor.or(tree_maker);
    board.model = product.or(tree_model);
    board.system =
        ["etc/os-release", "usr/lib/os-release"].iter().find_map(|path| pretty_name(&read(&root.join(path))?));
    board
}

pub(super) fn from_running_system(root: &Path) -> Board {
    let mut board = from_tree(root);
    let mut note = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            board.evidence.push(Evidence { name: name.to_owned(), value });
        }
    };
    note("kernel", sysinfo::System::kernel_version().ok());
    note("architecture", Some(sysinfo::System::cpu_arch()));
    note("distribution", Some(sysinfo::System::distribution_id()));
    if board.system.is_none() {
        board.system = sysinfo::System::long_os_version().ok();
    }
    board
}

/// A file's text without what stands for nothing; its first string, where there are several.
pub(super) fn read(path: &Path) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]).into_owned();
    // Device-tree strings end in NUL, and `compatible` is a list of them.
    let text = if path.ends_with("os-release") { text } else { text.split('\0').next().unwrap_or_default().to_owned() };
    let text = text.trim().to_owned();
    (!text.is_empty() && !PLACEHOLDERS.contains(&text.to_ascii_lowercase().as_str())).then_some(text)
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        dir
    }

    #[test]
    fn a_pc_is_read_from_dmi_and_placeholders_are_skipped() {
        let dir = tree(&[
            ("sys/class/dmi/id/sys_vendor", "To Be Filled By O.E.M.\n"),
            ("sys/class/dmi/id/board_vendor", "ASRock\n"),
            ("sys/class/dmi/id/product_name", "Default string\n"),
            ("sys/class/dmi/id/board_name", "N100DC-ITX\n"),
            ("etc/os-release", "NAME=Debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
        ]);
        let board = from_tree(dir.path());
        assert_eq!(board.manufacturer.as_deref(), Some("ASRock"));
        assert_eq!(board.model.as_deref(), Some("N100DC-ITX"));
        assert_eq!(board.system.as_deref(), Some("Debian GNU/Linux 12"));
    }

    #[test]
    fn a_board_is_read_from_its_device_tree() {
        let dir = tree(&[
            ("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0"),
            ("proc/device-tree/compatible", "raspberrypi,4-model-b\0brcm,bcm2711\0"),
        ]);
        let board = from_tree(dir.path());
        assert_eq!(board.manufacturer.as_deref(), Some("raspberrypi"));
        assert_eq!(board.model.as_deref(), Some("Raspberry Pi 4 Model B Rev 1.4"));
    }
}
