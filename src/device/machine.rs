//! Which machine this is, by what its hardware says of itself; kept as hashes only.
//!
//! `/etc/machine-id` is no fact: it is copied with a disk image, and the copy is what is to be noticed.

use super::{Properties, board};
use crate::secret::hex;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Most hashes of one kind; a machine with more network cards is known by these.
const MOST_OF_A_KIND: usize = 16;
/// Hexadecimal digits that are kept of a fact's hash: enough to tell machines apart.
const DIGITS: usize = 24;
/// What makers leave in place of a serial number, beside runs of one digit.
const NO_SERIALS: &[&str] = &[
    "0123456789",
    "1234567890",
    "123456789",
    "0123456789abcdef",
    "system serial number",
    "chassis serial number",
    "not available",
    "unknown",
    "empty",
    "n/a",
    "03000200-0400-0500-0006-000700080009",
    "52:54:00:12:34:56",
];

/// Facts of one machine: for each kind the hashes of its values.
///
/// Two machines are told apart fact by fact, so that a network card can be swapped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Machine {
    facts: BTreeMap<String, BTreeSet<String>>,
}

impl Machine {
    /// The facts below `root`, a file tree laid out as on the device. Blocks on files. What cannot be read is
    /// not known.
    pub(super) fn read(root: &Path, properties: &Properties) -> Self {
        let mut machine = Self::default();
        let firmware = ["sys/firmware/devicetree/base/serial-number", "proc/device-tree/serial-number"];
        machine.note("device_tree", firmware.iter().find_map(|path| board::read(&root.join(path))));
        machine.note("serialno", properties.get("ro.serialno").map(str::to_owned));
        for name in ["product_serial", "product_uuid"] {
            machine.note(name, board::read(&root.join("sys/class/dmi/id").join(name)));
        }
        for address in permanent_addresses(&root.join("sys/class/net")) {
            machine.note("mac", Some(address));
        }
        machine
    }

    fn note(&mut self, kind: &str, value: Option<String>) {
        let Some(value) = value.map(|value| value.to_ascii_lowercase()).filter(|value| identifies(value)) else {
            return;
        };
        let mut hash = hex(digest(&SHA256, format!("{kind}\0{value}").as_bytes()).as_ref());
        hash.truncate(DIGITS);
        let of_kind = self.facts.entry(kind.to_owned()).or_default();
        if of_kind.len() < MOST_OF_A_KIND {
            of_kind.insert(hash);
        }
    }

    pub fn is_unknown(&self) -> bool {
        self.facts.is_empty()
    }

    /// Whether `other` is surely another machine: both say the same kind of thing, and agree in nothing.
    pub fn differs_from(&self, other: &Self) -> bool {
        let mut comparable = false;
        for (kind, mine) in &self.facts {
            if let Some(theirs) = other.facts.get(kind) {
                if !mine.is_disjoint(theirs) {
                    return false;
                }
                comparable = true;
            }
        }
        comparable
    }

    /// Learns what the same machine says now. What it does not say now is kept: a card's driver may load late.
    pub fn learn(&mut self, now: &Self) {
        for (kind, seen) in &now.facts {
            let known = self.facts.entry(kind.clone()).or_default();
            if known.union(seen).count() > MOST_OF_A_KIND {
                known.clear();
            }
            known.extend(seen.iter().cloned());
        }
    }

    /// Everything that is known, in an order that does not change.
    pub fn canonical(&self) -> String {
        let facts = self.facts.iter().flat_map(|(kind, of)| of.iter().map(move |hash| format!("{kind}={hash}\n")));
        facts.collect()
    }

    /// 16 hexadecimal digits of one SHA-256 over all facts; none when nothing is known.
    pub fn fingerprint(&self) -> Option<String> {
        (!self.is_unknown()).then(|| hex(&digest(&SHA256, self.canonical().as_bytes()).as_ref()[..8]))
    }
}

/// The serial number that the device says itself, if it is its own.
pub(super) fn serial_number(root: &Path, properties: &Properties) -> Option<String> {
    let firmware = ["sys/firmware/devicetree/base/serial-number", "proc/device-tree/serial-number"];
    let by_android = ["ro.serialno", "ro.boot.serialno"].into_iter().filter_map(|name| properties.get(name));
    let files = firmware.into_iter().chain(["sys/class/dmi/id/product_serial"]);
    by_android
        .map(str::to_owned)
        .chain(files.filter_map(|path| board::read(&root.join(path))))
        .find(|serial| identifies(&serial.to_ascii_lowercase()))
}

/// Whether a value is one machine's own, not what its maker wrote into each.
fn identifies(value: &str) -> bool {
    let mut signs = value.chars().filter(char::is_ascii_alphanumeric);
    let first = signs.next();
    value.len() >= 4 && first.is_some() && signs.any(|sign| Some(sign) != first) && !NO_SERIALS.contains(&value)
}

/// Addresses that network cards were made with: `addr_assign_type` 0 (the kernel's NET_ADDR_PERM) and a device
/// behind the interface, which bridges, tunnels and the loopback have not.
fn permanent_addresses(net: &Path) -> Vec<String> {
    let Ok(interfaces) = std::fs::read_dir(net) else { return Vec::new() };
    let mut found: Vec<_> = interfaces
        .flatten()
        .map(|interface| interface.path())
        .filter(|path| !path.ends_with("lo") && path.join("device").exists())
        .filter(|path| board::read(&path.join("addr_assign_type")).as_deref() == Some("0"))
        .filter_map(|path| board::read(&path.join("address")))
        .collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> Machine {
        let dir = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        Machine::read(dir.path(), &Properties::from_tree(dir.path()).expect("a tree"))
    }

    fn card<'a>(address: &'a str, assigned: &'a str) -> [(&'a str, &'a str); 3] {
        [
            ("sys/class/net/eth0/address", address),
            ("sys/class/net/eth0/addr_assign_type", assigned),
            ("sys/class/net/eth0/device/vendor", "0x1af4"),
        ]
    }

    const SERIAL: (&str, &str) = ("proc/device-tree/serial-number", "1000000054e3c1b2\0");

    #[test]
    fn a_swapped_network_card_is_no_other_machine_and_another_serial_number_beside_it_is() {
        let old = machine(&[&[SERIAL], &card("dc:a6:32:01:02:03", "0\n")[..]].concat());
        let swapped = machine(&[&[SERIAL], &card("dc:a6:32:01:02:99", "0\n")[..]].concat());
        let other_serial = ("proc/device-tree/serial-number", "10000000aaaaaaab\0");
        let other = machine(&[&[other_serial], &card("dc:a6:32:01:02:98", "0\n")[..]].concat());
        assert!(!old.differs_from(&swapped) && !swapped.differs_from(&old));
        assert!(old.differs_from(&other));
        assert_ne!(old.fingerprint(), swapped.fingerprint());
        let mut learnt = old.clone();
        learnt.learn(&swapped);
        assert!(!learnt.differs_from(&old) && !learnt.differs_from(&swapped) && learnt.differs_from(&other));
    }

    #[test]
    fn what_is_unknown_decides_nothing() {
        let (known, unknown) = (machine(&[SERIAL]), machine(&[("etc/machine-id", "0a1b2c3d4e5f60718293a4b5c6d7e8f9")]));
        assert!(unknown.is_unknown() && unknown.fingerprint().is_none());
        assert!(!known.differs_from(&unknown) && !unknown.differs_from(&known));
        let by_card = machine(&card("dc:a6:32:01:02:03", "0\n"));
        assert!(!known.differs_from(&by_card), "they say nothing that could be compared");
    }

    #[test]
    fn an_address_that_was_made_up_and_a_serial_number_that_nobody_set_are_no_facts() {
        assert!(machine(&card("02:42:ac:11:00:02", "3\n")).is_unknown(), "set by software");
        let without_a_device = &card("dc:a6:32:01:02:03", "0\n")[..2];
        assert!(machine(without_a_device).is_unknown(), "a bridge");
        for serial in ["0000000000000000", "Default string", "0123456789", "To Be Filled By O.E.M.", "", "\0"] {
            assert!(machine(&[("sys/class/dmi/id/product_serial", serial)]).is_unknown(), "{serial:?}");
        }
    }

    #[test]
    fn a_serial_number_is_the_devices_own_or_none() {
        let serial = |files: &[(&str, &str)]| {
            let dir = tempfile::tempdir().expect("a directory");
            for (path, text) in files {
                let path = dir.path().join(path);
                std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
                std::fs::write(path, text).expect("written");
            }
            serial_number(dir.path(), &Properties::from_tree(dir.path()).expect("a tree"))
        };
        let android = ("system/build.prop", "ro.serialno=R58M12ABCDE\n");
        assert_eq!(serial(&[SERIAL, android]).as_deref(), Some("R58M12ABCDE"));
        assert_eq!(serial(&[SERIAL]).as_deref(), Some("1000000054e3c1b2"));
        let (filler, unset) = (("system/build.prop", "ro.serialno=unknown\n"), "sys/class/dmi/id/product_serial");
        assert_eq!(serial(&[filler, (unset, "Default string\n")]), None);
        assert_eq!(serial(&[]), None);
    }

    #[test]
    fn every_source_is_read_and_no_value_stands_in_what_is_kept() {
        let files = [
            SERIAL,
            ("system/build.prop", "ro.serialno=R58M12ABCDE\n"),
            ("sys/class/dmi/id/product_uuid", "4c4c4544-0042-3510-8053-b7c04f4e3332\n"),
            ("sys/class/dmi/id/product_serial", "7BZ5S32\n"),
        ];
        let found = machine(&[&files[..], &card("dc:a6:32:01:02:03", "0\n")[..]].concat());
        let kept = serde_json::to_string(&found).expect("JSON");
        for kind in ["device_tree", "serialno", "product_uuid", "product_serial", "mac"] {
            assert!(kept.contains(kind), "{kind}: {kept}");
        }
        assert!(!kept.contains("54e3c1b2") && !kept.contains("R58M12"), "{kept}");
    }
}
