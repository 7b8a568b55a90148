//! What survives a restart, and how it stays whole: identity, login, tokens, bindings owed, inbox.
//!
//! Every function here blocks on the disk; async callers run them on a blocking thread.

mod directory;
mod document;
mod identity;
mod inbox;
mod owner;
mod salvage;

pub use directory::{OpenError, StateDirectory};
pub use document::write_atomically;
pub use identity::reset_identity;
pub use inbox::{Appended, Batch, Entry, Inbox, InboxError, Limits};

use crate::binding::Ledger;
use crate::device::Machine;
use crate::keepalive::Record;
use crate::secret::Secret;
use crate::session::{Change, Ended, LocalApp, Login, Reports, Saved};
use crate::vendors::Vendor;
use document::{Copies, Document};
use identity::Identity;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Everything small, read at start and written when it changes.
#[derive(Debug)]
pub struct Store {
    directory: StateDirectory,
    identity: Identity,
    login: Document<Option<Login>>,
    tokens: Document<BTreeMap<Vendor, Secret>>,
    ledger: Document<Ledger>,
    heartbeat: Document<Vec<Record>>,
    plugin: Document<BTreeMap<Vendor, String>>,
    reports: Document<Reports>,
    ended: Document<Option<Ended>>,
    clock: Document<Option<u64>>,
    local_apps: Document<BTreeMap<String, LocalApp>>,
}

impl Store {
    /// Opens the directory for this process alone, making what is missing: on this machine, for this IM app.
    ///
    /// # Errors
    /// [`OpenError`]: another agent holds it, or it cannot be used.
    pub fn open(path: &Path, machine: &Machine, app: &str) -> Result<Self, OpenError> {
        let directory = StateDirectory::open(path)?;
        let at = |name: &str| path.join(name);
        // All is read before anything is decided: one file that cannot be read touches none of the others.
        let login = Document::open(at("login.json"), Copies::Two, || None)?;
        let heartbeat = Document::open(at("heartbeat.json"), Copies::One, Vec::new)?;
        let plugin = Document::open(at("plugin.json"), Copies::Two, BTreeMap::new)?;
        let reports = Document::open(at("reports.json"), Copies::Two, Reports::default)?;
        let ended = Document::open(at("ended.json"), Copies::One, || None)?;
        let local_apps = Document::open(at("apps.json"), Copies::Two, BTreeMap::new)?;
        let clock = Document::open(at("clock.json"), Copies::One, || None)?;
        let mut tokens = Document::open(at("tokens.json"), Copies::Two, BTreeMap::new)?;
        let mut ledger = Document::open(at("bindings.json"), Copies::Two, Ledger::default)?;
        let identity = Identity::open(path, machine, app)?;
        if identity.moved() {
            // They name the other machine, whether or not their files could be removed.
            tokens = Document::anew(at("tokens.json"), Copies::Two, BTreeMap::new());
            ledger = Document::anew(at("bindings.json"), Copies::Two, Ledger::default());
        }
        Ok(Self { directory, identity, login, tokens, ledger, heartbeat, plugin, reports, ended, clock, local_apps })
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn device_id(&self) -> &str {
        self.identity.device_id()
    }

    /// Whether the device id is the same at the next start because it stands on the disk.
    pub fn identity_is_stored(&self) -> bool {
        self.identity.is_stored()
    }

    /// Everything a session begins with.
    pub fn saved(&self) -> Saved {
        Saved {
            login: self.login.value().clone(),
            tokens: self.tokens.value().clone(),
            plugin: self.plugin.value().clone(),
            ledger: self.ledger.value().clone(),
            heartbeat: self.heartbeat.value().clone(),
            reports: self.reports.value().clone(),
            ended: self.ended.value().clone(),
            confirmed_ms: *self.clock.value(),
            local_apps: self.local_apps.value().clone(),
        }
    }

    /// Puts one change on the disk; what stands there already is not written again.
    ///
    /// # Errors
    /// The disk's error; the file is unchanged then.
    pub fn apply(&mut self, change: Change) -> io::Result<()> {
        match change {
            Change::Identity => self.store_identity(),
            // The end of a login is never refused for want of disk.
            Change::Login(None) => self.login.remove(None),
            Change::Login(login) => self.login.set(login),
            Change::Tokens(tokens) => self.tokens.set(tokens),
            Change::Plugin(names) => self.plugin.set(names),
            Change::Ledger(ledger) => self.ledger.set(ledger),
            Change::Heartbeat(records) => self.heartbeat.set(records),
            Change::Reports(reports) => self.reports.set(reports),
            Change::Ended(None) => self.ended.remove(None),
            Change::Ended(ended) => self.ended.set(ended),
            Change::Clock(confirmed_ms) => self.clock.set(confirmed_ms),
            Change::LocalApps(apps) => self.local_apps.set(apps),
        }
    }

    fn store_identity(&mut self) -> io::Result<()> {
        if self.identity.moved() && !self.identity.is_stored() {
            // Of another machine until now: what stands there under the new id must be this one's.
            self.tokens.save()?;
            self.ledger.save()?;
        }
        self.identity.store()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn open(path: &Path) -> Result<Store, OpenError> {
        Store::open(path, &Machine::default(), "org#app")
    }

    #[test]
    fn everything_is_still_there_after_reopening_and_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        let mut store = open(&path).expect("opened");
        let device = store.device_id().to_owned();
        let login = r#"{"user":"ann","password":"p","id":"l1"}"#;
        let login: Login = serde_json::from_str(login).expect("a login of an older version");
        store.apply(Change::Login(Some(login))).expect("saved");
        store.apply(Change::Tokens([(Vendor::Xiaomi, Secret::new("t"))].into())).expect("saved");
        store.apply(Change::Ledger(Ledger { sequence: 9, ..Ledger::default() })).expect("saved");
        drop(store);
        let store = open(&path).expect("opened again");
        assert_eq!(store.device_id(), device);
        assert_eq!(store.saved().login.map(|l| l.user).as_deref(), Some("ann"));
        assert_eq!(store.saved().tokens[&Vendor::Xiaomi].expose(), "t");
        assert_eq!(store.saved().ledger.sequence, 9);
        let mode = |p: &Path| std::fs::metadata(p).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        for name in ["identity.json", "login.json", "tokens.json", "bindings.json"] {
            assert_eq!(mode(&path.join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn a_second_agent_on_the_same_directory_is_refused_with_the_first_ones_pid() {
        let dir = tempfile::tempdir().expect("a directory");
        let _first = open(dir.path()).expect("opened");
        match open(dir.path()) {
            Err(OpenError::InUse { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_corrupt_file_is_set_aside_and_the_rest_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let device = open(dir.path()).expect("opened").device_id().to_owned();
        std::fs::write(dir.path().join("tokens.json"), b"\0\0{broken").expect("written");
        let mut store = open(dir.path()).expect("opened in spite of it");
        assert_eq!(store.device_id(), device);
        assert!(store.saved().tokens.is_empty());
        store.apply(Change::Tokens([(Vendor::Oppo, Secret::new("t"))].into())).expect("saved");
        drop(store);
        std::fs::write(dir.path().join("tokens.json"), b"").expect("a power cut's empty file");
        drop(open(dir.path()).expect("opened in spite of it"));
        let aside = std::fs::read_dir(dir.path())
            .expect("listed")
            .filter(|e| e.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().starts_with("tokens.json.corrupt-")))
            .count();
        assert_eq!(aside, 2, "each corrupt file is kept under its own name");
        assert_eq!(open(dir.path()).expect("opened").saved().tokens[&Vendor::Oppo].expose(), "t", "it has a copy");
    }

    #[test]
    fn what_cannot_be_read_now_is_named_and_left_alone() {
        for name in ["identity.json", "login.json", "tokens.json", "bindings.json", "heartbeat.json", "ended.json"] {
            let dir = tempfile::tempdir().expect("a directory");
            std::fs::create_dir(dir.path().join(name)).expect("a directory cannot be read as a file");
            std::fs::write(dir.path().join("reports.json"), "torn").expect("written");
            let said = open(dir.path()).expect_err("refused").to_string();
            assert!(said.contains(name) && said.contains("owned by uid") && said.contains("chown"), "{said}");
            assert!(dir.path().join(name).is_dir());
        }
    }

    #[test]
    fn a_newer_versions_vendor_takes_no_other_token_with_it_and_its_file_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let written = r#"{"xiaomi":"t1","nokia":"t2"}"#;
        std::fs::write(dir.path().join("tokens.json"), written).expect("written");
        let mut store = open(dir.path()).expect("opened");
        assert_eq!(store.saved().tokens[&Vendor::Xiaomi].expose(), "t1");
        let stands = || std::fs::read_to_string(dir.path().join("tokens.json")).expect("read");
        assert_eq!(stands(), written, "nothing is written where nothing changed");
        store.apply(Change::Tokens([(Vendor::Oppo, Secret::new("t"))].into())).expect("saved");
        let kept = std::fs::read_to_string(dir.path().join("tokens.json.newer-1")).expect("kept for the newer version");
        assert_eq!(kept, written);
    }

    #[test]
    fn a_torn_file_of_what_cannot_be_had_again_is_read_from_its_copy() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path()).expect("opened");
        let device = store.device_id().to_owned();
        let login: Login = serde_json::from_str(r#"{"user":"ann","password":"p","id":"l1"}"#).expect("a login");
        store.apply(Change::Login(Some(login))).expect("saved");
        drop(store);
        for name in ["identity.json", "login.json"] {
            let path = dir.path().join(name);
            let whole = std::fs::read(&path).expect("read");
            for torn in [&b""[..], &whole[..whole.len() / 2], &vec![0; whole.len()]] {
                std::fs::write(&path, torn).expect("torn");
                let store = open(dir.path()).expect("opened");
                assert_eq!(store.device_id(), device, "{name}");
                assert!(store.saved().login.is_some_and(|login| login.user == "ann"), "{name}");
                assert_eq!(std::fs::read(&path).expect("read"), whole, "{name} is whole again");
            }
        }
        open(dir.path()).expect("opened").apply(Change::Login(None)).expect("logged out");
        assert!(!dir.path().join("login.json").exists() && !dir.path().join("login.json.copy").exists());
    }
}
