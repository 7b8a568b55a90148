//! What the battery says.

use crate::keepalive::Battery;
use std::fs;
use std::path::Path;

/// Below this root, the kernel's power_supply class.
pub(super) fn look(root: Option<&Path>) -> Option<Battery> {
    battery(&root.unwrap_or(Path::new("/")).join("sys/class/power_supply"))
}

/// The device's own battery below the kernel's power_supply class (Documentation/ABI/testing/sysfs-class-power);
/// `None` without one.
fn battery(class: &Path) -> Option<Battery> {
    let read = |path: &Path, name: &str| fs::read_to_string(path.join(name)).map(|text| text.trim().to_owned()).ok();
    fs::read_dir(class).ok()?.flatten().map(|entry| entry.path()).find_map(|path| {
        // A mouse's battery has the scope `Device`.
        if read(&path, "type")? != "Battery" || read(&path, "scope").as_deref() == Some("Device") {
            return None;
        }
        let percent = read(&path, "capacity")?.parse().ok().filter(|percent| *percent <= 100)?;
        Some(Battery { discharging: read(&path, "status")? == "Discharging", percent })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_devices_own_battery_is_read_and_a_mouses_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let supply = |name: &str, files: &[(&str, &str)]| {
            let path = dir.path().join(name);
            fs::create_dir(&path).expect("made");
            for (file, text) in files {
                fs::write(path.join(file), format!("{text}\n")).expect("written");
            }
        };
        assert_eq!(battery(dir.path()), None);
        supply("ac", &[("type", "Mains"), ("online", "0")]);
        supply("hid", &[("type", "Battery"), ("scope", "Device"), ("capacity", "3"), ("status", "Discharging")]);
        assert_eq!(battery(dir.path()), None);
        supply("bat", &[("type", "Battery"), ("capacity", "12"), ("status", "Discharging")]);
        assert_eq!(battery(dir.path()), Some(Battery { discharging: true, percent: 12 }));
        fs::write(dir.path().join("bat/capacity"), "900").expect("written");
        assert_eq!(battery(dir.path()), None, "a charge that cannot be is none");
    }
}
