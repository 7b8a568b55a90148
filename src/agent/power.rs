//! Saving power: what the battery says, and what the daemon then does differently.

use super::state::Daemon;
use crate::keepalive::{Battery, PowerMode, is_low};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tracing::info;

impl Daemon {
    /// Looks at the battery. Called where the device is awake anyway, so that looking costs no wakeup.
    pub fn check_power(&mut self) {
        let root = self.config.device.root.as_deref().unwrap_or(Path::new("/"));
        let saving = is_low(self.power_mode, battery(&root.join("sys/class/power_supply")));
        if saving != self.saving {
            info!(event = "power.mode", saving, mode = ?self.power_mode, "power is {}", if saving { "saved" } else { "no longer saved" });
            self.saving = saving;
        }
        let beat = &self.config.keep_alive;
        let ceiling = if saving { beat.low_power_ceiling_s.max(beat.ceiling_s) } else { beat.ceiling_s };
        self.heartbeat.set_ceiling(Duration::from_secs(ceiling));
        if let Some(online) = self.online.as_mut() {
            online.link.set_saving(saving);
        }
        self.set_heartbeat();
    }

    /// Seconds; the longest heartbeat this configuration can come to, which is what CONNECT asks for: the
    /// server waits 1.5 times as long.
    pub fn longest_heartbeat_s(&self) -> u64 {
        let beat = &self.config.keep_alive;
        let saves = self.saving || beat.low_power != PowerMode::Normal;
        if saves { beat.low_power_ceiling_s.max(beat.ceiling_s) } else { beat.ceiling_s }
    }
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
