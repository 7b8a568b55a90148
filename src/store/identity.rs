//! Who this installation is, on which machine, and when it has to be somebody else.

use super::directory::{OpenError, StateDirectory};
use super::document::{Copies, Document, copy_of, set_aside};
use crate::device::Machine;
use crate::secret::{hex, random_hex};
use ring::hmac;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use tracing::warn;

const FILE: &str = "identity.json";
/// What names one machine at a vendor or at the gateway, and is wrong on another: its push tokens, which
/// bring notifications to the machine they were made on, and what the gateway has confirmed or is owed.
const OF_ONE_MACHINE: [&str; 2] = ["tokens.json", "bindings.json"];

/// The content of the file. Made once and kept: a device id that changed at every start would leave a dead
/// binding behind each time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    device_id: String,
    /// The machine the id was made on; unknown in a file of an older version.
    #[serde(default, skip_serializing_if = "Machine::is_unknown")]
    machine: Machine,
}

impl Known {
    fn nobody() -> Self {
        Self { device_id: String::new(), machine: Machine::default() }
    }
}

/// Who this installation is, whether or not the disk has it.
#[derive(Debug)]
pub(super) struct Identity {
    directory: PathBuf,
    file: Document<Known>,
    known: Known,
    /// The file is, or was at the start, another machine's.
    moved: bool,
    stored: bool,
}

impl Identity {
    /// Reads the identity, or makes one: at the first start, and on a machine that surely is another one.
    ///
    /// # Errors
    /// [`OpenError::Unreadable`]: a file that is there and cannot be read is not missing.
    pub fn open(directory: &Path, machine: &Machine, app: &str) -> Result<Self, OpenError> {
        let file = Document::open(directory.join(FILE), Copies::Two, Known::nobody)?;
        let before = file.value().device_id.clone();
        let moved = file.value().machine.differs_from(machine);
        let mut known = if moved { Known::nobody() } else { file.value().clone() };
        known.machine.learn(machine);
        let is_new = known.device_id.is_empty();
        if is_new {
            known.device_id = random_hex::<16>();
        }
        let mut identity = Self { directory: directory.to_owned(), file, known, moved, stored: false };
        let kept_as = if moved { forget(directory).map(Some) } else { Ok(None) };
        if moved && kept_as.is_ok() {
            identity.file = Document::anew(directory.join(FILE), Copies::Two, Known::nobody());
        }
        let stored = kept_as.and_then(|kept_as| identity.file.set(identity.known.clone()).map(|()| kept_as));
        // What the machine was found to be can wait; the id itself is there.
        identity.stored = stored.is_ok() || !is_new;
        if is_new && let Err(error) = &stored {
            let derived = derive(machine, app);
            warn!(
                event = "identity.not_stored", %error, derived = derived.is_some(),
                "a new device id cannot be stored yet; one that is not derived from the hardware is another at the next start"
            );
            identity.known.device_id = derived.unwrap_or(identity.known.device_id);
        }
        if moved {
            let kept_as = stored.ok().flatten().map(|path| path.display().to_string());
            warn!(
                event = "identity.moved",
                device = identity.known.device_id,
                before,
                kept_as,
                "this state was another machine's: this one takes a device id of its own, and its login stays"
            );
        }
        Ok(identity)
    }

    pub fn device_id(&self) -> &str {
        &self.known.device_id
    }

    pub const fn moved(&self) -> bool {
        self.moved
    }

    pub const fn is_stored(&self) -> bool {
        self.stored
    }

    /// Puts on the disk what could not be put there at the start.
    ///
    /// # Errors
    /// The disk's error; it may be tried again.
    pub fn store(&mut self) -> io::Result<()> {
        if self.moved && !self.stored && self.file.value().device_id != self.known.device_id {
            match set_aside(&self.directory.join(FILE), "moved") {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file.set(self.known.clone())?;
        self.stored = true;
        Ok(())
    }
}

/// Lets the next start take a new device id. Returns where the old one is kept; none if there was none.
///
/// # Errors
/// [`OpenError`]: an agent runs there, or the directory cannot be written.
pub fn reset_identity(directory: &Path) -> Result<Option<PathBuf>, OpenError> {
    let _held = StateDirectory::open(directory)?;
    if !directory.join(FILE).exists() {
        return Ok(None);
    }
    forget(directory).map(Some).map_err(|source| OpenError::Io { path: directory.to_owned(), source })
}

/// The identity goes last: a start in between finds the old one and does all of it again.
fn forget(directory: &Path) -> io::Result<PathBuf> {
    let files = OF_ONE_MACHINE.map(|name| directory.join(name));
    let copies = files.iter().map(|file| copy_of(file)).chain([copy_of(&directory.join(FILE))]);
    for gone in copies.chain(files.iter().cloned()) {
        match std::fs::remove_file(gone) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    set_aside(&directory.join(FILE), "moved")
}

/// The same at each start of one app on one machine, though nothing can be stored.
fn derive(machine: &Machine, app: &str) -> Option<String> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, app.as_bytes());
    (!machine.is_unknown()).then(|| hex(&hmac::sign(&key, machine.canonical().as_bytes()).as_ref()[..16]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device;

    /// A machine with this serial number.
    fn machine(serial: &str) -> Machine {
        let root = tempfile::tempdir().expect("a directory");
        let directory = root.path().join("proc/device-tree");
        std::fs::create_dir_all(&directory).expect("made");
        std::fs::write(directory.join("serial-number"), serial).expect("written");
        device::examine(Some(root.path())).expect("a tree").1
    }

    fn id(directory: &Path, machine: &Machine) -> String {
        Identity::open(directory, machine, "org#app").expect("opened").device_id().to_owned()
    }

    #[test]
    fn another_machine_takes_a_new_id_without_the_first_ones_tokens_and_keeps_its_login() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = id(dir.path(), &machine("board-a"));
        for name in ["tokens.json", "bindings.json", "login.json"] {
            std::fs::write(dir.path().join(name), "{}").expect("written");
        }
        assert_eq!(id(dir.path(), &machine("board-a")), first);
        assert_eq!(id(dir.path(), &Machine::default()), first, "nothing known, nothing decided");
        assert_eq!(id(dir.path(), &machine("board-a")), first, "and nothing forgotten");
        assert!(dir.path().join("tokens.json").exists());
        let second = id(dir.path(), &machine("board-b"));
        assert_ne!(second, first);
        assert_eq!(id(dir.path(), &machine("board-b")), second);
        let kept = std::fs::read_to_string(dir.path().join("identity.json.moved-1")).expect("kept aside");
        assert!(kept.contains(&first));
        assert!(!dir.path().join("tokens.json").exists() && !dir.path().join("bindings.json").exists());
        assert!(dir.path().join("login.json").exists());
    }

    #[test]
    fn an_identity_of_an_older_version_stays_and_learns_its_machine() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(FILE), r#"{"device_id":"old"}"#).expect("written");
        assert_eq!(id(dir.path(), &machine("board-a")), "old");
        assert_ne!(id(dir.path(), &machine("board-b")), "old");
    }

    #[test]
    fn an_identity_that_cannot_be_read_is_not_missing() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join(FILE)).expect("a directory cannot be read as a file");
        let refused = Identity::open(dir.path(), &machine("board-a"), "org#app").expect_err("refused");
        let said = refused.to_string();
        assert!(said.contains(FILE) && said.contains("uid") && said.contains("chown"), "{said}");
        assert!(dir.path().join(FILE).is_dir(), "left as it was");
    }

    #[test]
    fn an_id_that_cannot_be_stored_is_the_same_at_the_next_start_of_that_app_on_that_machine() {
        let dir = tempfile::tempdir().expect("a directory");
        let nowhere = dir.path().join("not/there");
        let first = id(&nowhere, &machine("board-a"));
        assert_eq!(first.len(), 32);
        assert_eq!(id(&nowhere, &machine("board-a")), first);
        assert_ne!(id(&nowhere, &machine("board-b")), first);
        assert_ne!(Identity::open(&nowhere, &machine("board-a"), "org#b").expect("opened").device_id(), first);
        assert_ne!(id(&nowhere, &Machine::default()), id(&nowhere, &Machine::default()), "nothing to derive it from");
    }

    #[test]
    fn a_reset_is_refused_while_an_agent_runs_and_then_makes_the_next_start_another_device() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(reset_identity(dir.path()).expect("nothing to do").is_none());
        let first = id(dir.path(), &machine("board-a"));
        let held = StateDirectory::open(dir.path()).expect("held");
        assert!(matches!(reset_identity(dir.path()), Err(OpenError::InUse { .. })));
        drop(held);
        assert!(reset_identity(dir.path()).expect("reset").is_some_and(|kept| kept.exists()));
        assert_ne!(id(dir.path(), &machine("board-a")), first);
    }
}
