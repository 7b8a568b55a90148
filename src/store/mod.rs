//! What survives a restart, and how it stays whole: identity, login, tokens, bindings owed, inbox.
//!
//! Every function here blocks on the disk; async callers run them on a blocking thread.

mod directory;
mod document;
mod inbox;

pub use directory::{OpenError, StateDirectory};
pub use document::{Document, write_atomically};
pub use inbox::{Appended, Batch, Entry, Inbox, InboxError, Limits};

use crate::binding::Ledger;
use crate::keepalive::Record;
use crate::secret::{Secret, random_hex};
use crate::vendor::Vendor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Who this installation is. Made once and kept: a device id that changed at every start would leave
/// a dead binding behind each time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub device_id: String,
}

/// Whose messages this device receives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub user: String,
    pub password: Secret,
    /// Made at the login; empty in a file of an older version.
    #[serde(default)]
    pub id: String,
    /// The app had the token unbound; it stays so until the next login.
    #[serde(default)]
    pub unbound: bool,
}

/// Everything small, read at start and written when it changes.
#[derive(Debug)]
pub struct Store {
    directory: StateDirectory,
    identity: Document<Identity>,
    login: Document<Option<Login>>,
    tokens: Document<BTreeMap<Vendor, Secret>>,
    ledger: Document<Ledger>,
    heartbeat: Document<Vec<Record>>,
    plugin: Document<BTreeMap<Vendor, String>>,
}

impl Store {
    /// Opens the directory for this process alone, making what is missing.
    ///
    /// # Errors
    /// [`OpenError`]: another agent holds it, or it cannot be written.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let directory = StateDirectory::open(path)?;
        let read_only = |source| OpenError::Io { path: path.to_owned(), source };
        let identity = Document::open(path.join("identity.json"), || Identity { device_id: random_hex::<16>() })
            .map_err(read_only)?;
        identity.save().map_err(read_only)?;
        Ok(Self {
            login: Document::open(path.join("login.json"), || None).map_err(read_only)?,
            tokens: Document::open(path.join("tokens.json"), BTreeMap::new).map_err(read_only)?,
            ledger: Document::open(path.join("bindings.json"), Ledger::default).map_err(read_only)?,
            heartbeat: Document::open(path.join("heartbeat.json"), Vec::new).map_err(read_only)?,
            plugin: Document::open(path.join("plugin.json"), BTreeMap::new).map_err(read_only)?,
            identity,
            directory,
        })
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn device_id(&self) -> &str {
        &self.identity.value().device_id
    }

    pub fn login(&self) -> Option<&Login> {
        self.login.value().as_ref()
    }

    pub fn tokens(&self) -> &BTreeMap<Vendor, Secret> {
        self.tokens.value()
    }

    pub fn ledger(&self) -> &Ledger {
        self.ledger.value()
    }

    /// Certificate names an app gave, which stand over the configuration's.
    pub fn plugin(&self) -> &BTreeMap<Vendor, String> {
        self.plugin.value()
    }

    /// What was learnt of each network, as stored: not yet repaired.
    pub fn heartbeat(&self) -> &[Record] {
        self.heartbeat.value()
    }

    /// # Errors
    /// The disk's error; the value in memory is unchanged then.
    pub fn set_login(&mut self, login: Option<Login>) -> io::Result<()> {
        self.login.set(login)
    }

    /// # Errors
    /// As [`Self::set_login`].
    pub fn set_token(&mut self, vendor: Vendor, token: Option<Secret>) -> io::Result<()> {
        let mut tokens = self.tokens.value().clone();
        match token {
            Some(token) => tokens.insert(vendor, token),
            None => tokens.remove(&vendor),
        };
        self.tokens.set(tokens)
    }

    /// # Errors
    /// As [`Self::set_login`].
    pub fn set_plugin(&mut self, names: BTreeMap<Vendor, String>) -> io::Result<()> {
        self.plugin.set(names)
    }

    /// # Errors
    /// As [`Self::set_login`].
    pub fn set_heartbeat(&mut self, records: Vec<Record>) -> io::Result<()> {
        self.heartbeat.set(records)
    }

    /// # Errors
    /// As [`Self::set_login`].
    pub fn set_ledger(&mut self, ledger: Ledger) -> io::Result<()> {
        self.ledger.set(ledger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn everything_is_still_there_after_reopening_and_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        let mut store = Store::open(&path).expect("opened");
        let device = store.device_id().to_owned();
        store
            .set_login(Some(Login { user: "ann".into(), password: Secret::new("p"), id: "l1".into(), unbound: false }))
            .expect("saved");
        store.set_token(Vendor::Xiaomi, Some(Secret::new("t"))).expect("saved");
        store.set_ledger(Ledger { sequence: 9, ..Ledger::default() }).expect("saved");
        drop(store);
        let store = Store::open(&path).expect("opened again");
        assert_eq!(store.device_id(), device);
        assert_eq!(store.login().map(|l| l.user.as_str()), Some("ann"));
        assert_eq!(store.tokens()[&Vendor::Xiaomi].expose(), "t");
        assert_eq!(store.ledger().sequence, 9);
        let mode = |p: &Path| std::fs::metadata(p).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        for name in ["identity.json", "login.json", "tokens.json", "bindings.json"] {
            assert_eq!(mode(&path.join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn a_second_agent_on_the_same_directory_is_refused_with_the_first_ones_pid() {
        let dir = tempfile::tempdir().expect("a directory");
        let _first = Store::open(dir.path()).expect("opened");
        match Store::open(dir.path()) {
            Err(OpenError::InUse { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_corrupt_file_is_set_aside_and_the_rest_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let device = Store::open(dir.path()).expect("opened").device_id().to_owned();
        std::fs::write(dir.path().join("tokens.json"), b"\0\0{broken").expect("written");
        let mut store = Store::open(dir.path()).expect("opened in spite of it");
        assert_eq!(store.device_id(), device);
        assert!(store.tokens().is_empty());
        store.set_token(Vendor::Oppo, Some(Secret::new("t"))).expect("saved");
        drop(store);
        std::fs::write(dir.path().join("tokens.json"), b"").expect("a power cut's empty file");
        drop(Store::open(dir.path()).expect("opened in spite of it"));
        let aside = std::fs::read_dir(dir.path())
            .expect("listed")
            .filter(|e| e.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().starts_with("tokens.json.corrupt-")))
            .count();
        std::fs::create_dir(dir.path().join("unreadable")).expect("made");
        std::fs::remove_file(dir.path().join("login.json")).unwrap_or_default();
        std::fs::create_dir(dir.path().join("login.json")).expect("a directory cannot be read as a file");
        assert!(Store::open(dir.path()).expect("opened in spite of it").login().is_none());
        assert!(dir.path().join("login.json.corrupt-1").is_dir());
        assert_eq!(aside, 2, "each corrupt file is kept under its own name");
    }
}
