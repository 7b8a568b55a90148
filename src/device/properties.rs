//! Android system properties, from `build.prop` files in init's own order and from `getprop`.
//!
//! Order, override, `import` and `ro.product.*` derivation follow AOSP's `init/property_service.cpp`
//! (`PropertyLoadBootDefaults`): a later file replaces an earlier value, `ro.*` included. Makers add
//! partitions of their own, which their init loads after AOSP's.

use super::getprop;
use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Largest property file that is read, in bytes; the largest seen on a device has about 60 KiB.
const MAX_FILE: u64 = 1024 * 1024;
/// Deepest chain of `import` lines that is followed.
const MAX_IMPORTS: usize = 8;
/// How long `getprop` may take before it is killed.
const GETPROP_TIMEOUT: Duration = Duration::from_secs(5);

/// AOSP's load order. Within one slot the first file that exists is read: the newer layout, then the
/// older one it replaced.
const LOAD_ORDER: &[&[&str]] = &[
    &["system/etc/prop.default", "prop.default", "default.prop"],
    &["system/build.prop", "system/system/build.prop"],
    &["system_ext/etc/build.prop", "system/system_ext/etc/build.prop", "system_ext/build.prop"],
    &["system_dlkm/etc/build.prop"],
    &["vendor/default.prop"],
    &["vendor/build.prop", "system/vendor/build.prop"],
    &["vendor_dlkm/etc/build.prop"],
    &["odm_dlkm/etc/build.prop"],
    &["odm/etc/build.prop", "vendor/odm/etc/build.prop", "odm/build.prop"],
    &["product/etc/build.prop", "system/product/etc/build.prop", "product/build.prop"],
    // Makers' own partitions, read by their init after AOSP's.
    &["mi_ext/etc/build.prop"],
    &["my_product/build.prop", "my_product/etc/build.prop"],
    &["my_region/build.prop"],
    &["my_stock/build.prop"],
    &["my_carrier/build.prop"],
    &["my_company/build.prop"],
    &["my_preload/build.prop"],
    &["my_engineering/build.prop"],
    &["my_heytap/build.prop"],
    &["my_manifest/build.prop"],
    &["oem/oem.prop"],
    &["vgc/vgc.prop", "vgc/build.prop"],
    // Values set while running, kept across boots.
    &["data/local.prop"],
];

/// The partitions `ro.product.*` may be derived from, and AOSP's default order of them.
const SOURCES: [&str; 5] = ["product", "odm", "vendor", "system_ext", "system"];

/// Why properties could not be read at all.
#[derive(Debug, thiserror::Error)]
pub enum PropertyError {
    #[error("{0} is not a directory; give the root of a file tree laid out as on the device")]
    NotADirectory(PathBuf),
    #[error("this is not what getprop prints: no line of the form `[name]: [value]`, and none `name=value`")]
    NoProperties,
}

/// Property names and values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    values: BTreeMap<String, String>,
    /// Lines and files that were refused, as `where: why`.
    refused: Vec<String>,
    /// Files that only another user may read, as they are on most devices since Android 8.
    closed: Vec<String>,
}

impl Properties {
    /// # Errors
    /// [`PropertyError::NotADirectory`].
    pub fn from_tree(root: &Path) -> Result<Self, PropertyError> {
        if !root.is_dir() {
            return Err(PropertyError::NotADirectory(root.to_owned()));
        }
        let mut properties = Self::default();
        for slot in LOAD_ORDER {
            if let Some(file) = slot.iter().find(|file| root.join(file).is_file()) {
                properties.load(root, Path::new(file), None, 0);
            }
        }
        properties.derive();
        Ok(properties)
    }

    /// What `getprop` printed.
    ///
    /// # Errors
    /// [`PropertyError::NoProperties`].
    pub fn from_getprop(dump: &[u8]) -> Result<Self, PropertyError> {
        let found = getprop::read(dump);
        if found.is_empty() {
            return Err(PropertyError::NoProperties);
        }
        Ok(Self::from_pairs(found.iter().map(|(name, value)| (name.as_str(), value.as_str()))))
    }

    /// The values as given, with `ro.product.*` derived.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut properties = Self::default();
        for (name, value) in pairs {
            properties.set(name, value);
        }
        properties.derive();
        properties
    }

    /// Lays the live property area over what the files said, where a `getprop` tool exists. A value
    /// may be missing there because it is not set or because this process may not read it, so file
    /// values stay underneath.
    pub fn overlay_getprop(&mut self) {
        let Some(tool) =
            ["/system/bin/getprop", "/vendor/bin/getprop"].into_iter().map(Path::new).find(|p| p.is_file())
        else {
            return;
        };
        match run_getprop(tool) {
            Ok(dump) => self.overlay(&dump),
            Err(why) => self.refused.push(format!("{}: {why}", tool.display())),
        }
    }

    fn overlay(&mut self, dump: &[u8]) {
        for (name, value) in getprop::read(dump) {
            // It answers for the files that cannot be read.
            self.closed.clear();
            self.set(&name, &value);
        }
    }

    /// The value, trimmed, if there is one that is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|v| v.trim()).filter(|v| !v.is_empty())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// What was refused while reading, for the evidence.
    pub fn refused(&self) -> Vec<String> {
        self.closed.iter().chain(&self.refused).cloned().collect()
    }

    fn set(&mut self, name: &str, value: &str) {
        // `ctl.*` starts and stops services; it is a command, not a fact.
        if !name.is_empty() && !name.starts_with("ctl.") {
            self.values.insert(name.to_owned(), value.to_owned());
        }
    }

    fn load(&mut self, root: &Path, file: &Path, filter: Option<&str>, depth: usize) {
        let text = match read_bounded(&root.join(file)) {
            Ok(text) => text,
            Err(error) => {
                let closed = error.kind() == io::ErrorKind::PermissionDenied;
                let list = if closed { &mut self.closed } else { &mut self.refused };
                list.push(format!("{}: {error}", file.display()));
                return;
            }
        };
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(rest) = line.strip_prefix("import ") {
                // With a filter at work AOSP ignores imports.
                if filter.is_none() {
                    self.import(root, rest.trim(), depth);
                }
                continue;
            }
            let Some((name, value)) = line.split_once('=') else {
                continue;
            };
            let (name, value) = (name.trim(), value.trim());
            let wanted = filter.is_none_or(|filter| match filter.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == filter,
            });
            if wanted {
                self.set(name, value);
            }
        }
    }

    fn import(&mut self, root: &Path, rest: &str, depth: usize) {
        let (path, filter) = rest.split_once(char::is_whitespace).map_or((rest, None), |(p, f)| (p, Some(f.trim())));
        if depth >= MAX_IMPORTS {
            self.refused.push(format!("import {path}: more than {MAX_IMPORTS} imports deep"));
            return;
        }
        let Some(path) = self.expand(path) else {
            self.refused.push(format!("import {path}: names a property that is not set"));
            return;
        };
        let relative: PathBuf = Path::new(&path).components().filter(|c| !matches!(c, Component::RootDir)).collect();
        if relative.components().any(|c| !matches!(c, Component::Normal(_))) {
            self.refused.push(format!("import {path}: leaves the root"));
            return;
        }
        // A missing import is normal: files are chosen by SKU.
        if root.join(&relative).is_file() {
            self.load(root, &relative, filter.filter(|f| !f.is_empty()), depth + 1);
        }
    }

    /// `${name}` and `${name:-default}`, as init expands them.
    fn expand(&self, text: &str) -> Option<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            out.push_str(&rest[..start]);
            let end = rest[start..].find('}')? + start;
            let inner = &rest[start + 2..end];
            let (name, default) = inner.split_once(":-").map_or((inner, None), |(n, d)| (n, Some(d)));
            out.push_str(self.get(name).or(default)?);
            rest = &rest[end + 1..];
        }
        out.push_str(rest);
        Some(out)
    }

    fn derive(&mut self) {
        let order: Vec<String> = self
            .get("ro.product.property_source_order")
            .map(|order| order.split(',').map(|s| s.trim().to_owned()).collect())
            .filter(|order: &Vec<String>| order.iter().all(|source| SOURCES.contains(&source.as_str())))
            .unwrap_or_else(|| SOURCES.iter().map(|s| (*s).to_owned()).collect());
        for field in ["brand", "device", "manufacturer", "model", "name"] {
            let target = format!("ro.product.{field}");
            if self.get(&target).is_some() {
                continue;
            }
            let value =
                order.iter().find_map(|source| self.get(&format!("ro.product.{source}.{field}"))).map(str::to_owned);
            if let Some(value) = value {
                self.set(&target, &value);
            }
        }
        if self.get("ro.build.fingerprint").is_none() {
            let part = |name: &str| self.get(name).map(str::to_owned);
            let derived = (|| {
                Some(format!(
                    "{}/{}/{}:{}/{}/{}:{}/{}",
                    part("ro.product.brand")?,
                    part("ro.product.name")?,
                    part("ro.product.device")?,
                    part("ro.build.version.release")?,
                    part("ro.build.id")?,
                    part("ro.build.version.incremental")?,
                    part("ro.build.type")?,
                    part("ro.build.tags")?
                ))
            })();
            if let Some(fingerprint) = derived {
                self.set("ro.build.fingerprint", &fingerprint);
            }
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let file = std::fs::File::open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("over {MAX_FILE} bytes")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn run_getprop(tool: &Path) -> Result<Vec<u8>, String> {
    let mut child = Command::new(tool)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| e.to_string())?;
    let mut out = child.stdout.take().ok_or("no output pipe")?.take(4 * MAX_FILE);
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let result = out.read_to_end(&mut bytes).map(|_| bytes).map_err(|e| e.to_string());
        // The receiver is gone when the time was up.
        drop(sender.send(result));
    });
    let result = receiver.recv_timeout(GETPROP_TIMEOUT);
    drop(child.kill());
    drop(child.wait());
    result.map_err(|_| format!("no answer within {} s", GETPROP_TIMEOUT.as_secs()))?
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

    fn read(files: &[(&str, &str)]) -> Properties {
        Properties::from_tree(tree(files).path()).expect("properties")
    }

    #[test]
    fn a_later_partition_replaces_an_earlier_value_even_of_ro_names() {
        let p = read(&[
            ("system/build.prop", "ro.build.version.incremental=generic\n# comment=1\nno equals sign\n"),
            ("vendor/build.prop", "ro.build.version.incremental=vendor"),
            ("product/etc/build.prop", " ro.build.version.incremental = V12.5 "),
        ]);
        assert_eq!(p.get("ro.build.version.incremental"), Some("V12.5"));
        assert_eq!(p.get("# comment"), None);
    }

    #[test]
    fn product_names_are_derived_in_the_source_order() {
        let both = [
            ("system/build.prop", "ro.product.system.brand=qti\nro.product.system.manufacturer=QUALCOMM"),
            ("odm/etc/build.prop", "ro.product.odm.brand=Xiaomi\nro.product.odm.manufacturer=Xiaomi"),
        ];
        assert_eq!(read(&both).get("ro.product.brand"), Some("Xiaomi"));
        let mut ordered = both.to_vec();
        ordered.push(("vendor/build.prop", "ro.product.property_source_order=system,odm"));
        assert_eq!(read(&ordered).get("ro.product.brand"), Some("qti"));
        ordered.push(("product/etc/build.prop", "ro.product.property_source_order=system,mars"));
        assert_eq!(
            read(&ordered).get("ro.product.brand"),
            Some("Xiaomi"),
            "a source that does not exist voids the order"
        );
    }

    #[test]
    fn an_import_is_followed_with_its_filter_and_its_property() {
        let p = read(&[
            (
                "vendor/build.prop",
                "ro.boot.sku=in\nimport /odm/etc/${ro.boot.sku}.prop ro.product.*\nimport /vgc/${missing:-x}.prop",
            ),
            ("odm/etc/in.prop", "ro.product.odm.brand=POCO\nsecret.value=1\nimport /odm/etc/deeper.prop"),
            ("odm/etc/deeper.prop", "ro.product.odm.model=never"),
            ("vgc/x.prop", "ro.vivo.market.name=X90"),
        ]);
        assert_eq!(p.get("ro.product.brand"), Some("POCO"));
        assert_eq!(p.get("secret.value"), None, "the filter");
        assert_eq!(p.get("ro.product.odm.model"), None, "no import under a filter");
        assert_eq!(p.get("ro.vivo.market.name"), Some("X90"));
    }

    #[test]
    fn an_import_cannot_leave_the_root_nor_run_in_a_circle() {
        let p = read(&[("system/build.prop", "import /../../etc/passwd\nimport /system/build.prop\na=b")]);
        assert_eq!(p.get("a"), Some("b"));
        assert!(p.refused().iter().any(|r| r.contains("leaves the root")));
        assert!(p.refused().iter().any(|r| r.contains("imports deep")));
    }

    #[test]
    fn bytes_that_are_no_text_do_no_harm() {
        let dir = tree(&[]);
        std::fs::create_dir_all(dir.path().join("system")).expect("made");
        std::fs::write(dir.path().join("system/build.prop"), b"\xff\xfe=\x00\nro.x=1\n").expect("written");
        assert_eq!(Properties::from_tree(dir.path()).expect("properties").get("ro.x"), Some("1"));
    }

    #[test]
    fn files_that_only_root_may_read_are_no_fault_where_getprop_answers() {
        let closed = || Properties { closed: vec!["system/build.prop: denied".to_owned()], ..Properties::default() };
        let mut silent = closed();
        silent.overlay(b"");
        assert_eq!(silent.refused(), ["system/build.prop: denied"]);
        let mut answered = closed();
        answered.overlay(b"[ro.product.brand]: [Xiaomi]\n");
        assert_eq!((answered.refused(), answered.get("ro.product.brand")), (Vec::new(), Some("Xiaomi")));
    }

    #[test]
    fn getprop_output_is_read_with_values_of_several_lines() {
        let parsed = getprop::read(b"[a.b]: [1]\nnoise\n[c]: [first\nsecond]\n[d]: []\n");
        let wanted = [("a.b", "1"), ("c", "first\nsecond"), ("d", "")];
        assert_eq!(parsed, wanted.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }
}
