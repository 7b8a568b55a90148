//! Whom the agent trusts and how it proves itself: read from files, and read again when they change.
//!
//! They are looked at before each attempt, which wakes nothing; a watch is held open only while the server is
//! not trusted.

use super::config;
use super::disk::blocking;
use crate::mqtt::{Authorities, Credentials, TimeFloor, TlsSetupError, credentials, sources};
use crate::session::Trusted;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing::{info, warn};

/// Where everything stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Files {
    authorities: Authorities,
    identity: Option<(PathBuf, PathBuf)>,
}

/// What tells one content of a file from another without reading it; nothing for one that is not there.
type Stamp = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

impl Files {
    fn of(server: &config::Server) -> Self {
        Self {
            authorities: server.authorities(),
            identity: server.client_certificate.clone().zip(server.client_key.clone()),
        }
    }

    fn identity(&self) -> Option<(&Path, &Path)> {
        self.identity.as_ref().map(|(chain, key)| (chain.as_path(), key.as_path()))
    }

    fn stamps(&self) -> Vec<Stamp> {
        let stamp = |path: &PathBuf| {
            let of = std::fs::metadata(path).ok()?;
            // A copy may keep the time of its content (`cp -p`), never that of its inode.
            Some((of.dev(), of.ino(), of.size(), (of.mtime(), of.mtime_nsec()), (of.ctime(), of.ctime_nsec())))
        };
        sources(&self.authorities, self.identity()).iter().map(stamp).collect()
    }

    fn read(&self, floor: Arc<TimeFloor>) -> Result<Credentials, TlsSetupError> {
        credentials(&self.authorities, self.identity(), floor)
    }
}

/// What is in force, and of which files it was read.
#[derive(Debug)]
pub(super) struct Trust {
    files: Files,
    /// Of the content that was read last, good or not.
    stamps: Vec<Stamp>,
    pub credentials: Credentials,
    pub floor: Arc<TimeFloor>,
}

impl Trust {
    /// Reads what `server` names. Blocks on the disk.
    ///
    /// # Errors
    /// [`TlsSetupError`].
    pub fn read(server: &config::Server, floor: Arc<TimeFloor>) -> Result<Self, TlsSetupError> {
        let files = Files::of(server);
        // Before the content: one that changes in between is read again.
        let stamps = files.stamps();
        let credentials = files.read(floor.clone())?;
        name_refused(&credentials, &[]);
        Ok(Self { files, stamps, credentials, floor })
    }

    /// Where the next change will be seen.
    pub fn sources(&self) -> Vec<PathBuf> {
        sources(&self.files.authorities, self.files.identity())
    }

    /// Takes a changed content over: `true` if others are trusted, or shown, from here on. One that is not good is
    /// named once, and what was read before stays.
    pub async fn look_again(&mut self) -> bool {
        let (files, known, floor) = (self.files.clone(), self.stamps.clone(), self.floor.clone());
        let found = blocking(move || {
            let stamps = files.stamps();
            (stamps != known).then(|| (stamps, files.read(floor)))
        });
        let Some((stamps, read)) = found.await else { return false };
        self.stamps = stamps;
        match read {
            Ok(credentials) => self.take(credentials),
            Err(error) => {
                warn!(
                    event = "tls.refused",
                    %error, "the changed certificates or key are not good; the old ones stay in force"
                );
                false
            }
        }
    }

    /// Other files, or the same ones read again, are in force from here on.
    pub fn replace(&mut self, new: Self) -> bool {
        let before = self.report();
        self.files = new.files;
        self.stamps = new.stamps;
        self.take(new.credentials);
        before != self.report()
    }

    fn take(&mut self, credentials: Credentials) -> bool {
        let same = credentials.fingerprint == self.credentials.fingerprint && credentials.own == self.credentials.own;
        if same {
            // The sessions that can be resumed stay with the old one.
            return false;
        }
        name_refused(&credentials, &self.credentials.refused);
        self.credentials = credentials;
        let Trusted { source, authorities, fingerprint, .. } = self.report();
        info!(event = "tls.reloaded", source, authorities, fingerprint, "certificates were read again");
        true
    }

    pub fn report(&self) -> Trusted {
        let system = || "system".to_owned();
        Trusted {
            source: self.files.authorities.file.as_ref().map_or_else(system, |path| path.display().to_string()),
            authorities: self.credentials.authorities,
            fingerprint: self.credentials.fingerprint.clone(),
            client_certificate: self.credentials.own.clone(),
        }
    }
}

/// Each file that is no authority, once.
fn name_refused(credentials: &Credentials, named: &[String]) {
    for why in credentials.refused.iter().filter(|why| !named.contains(why)) {
        warn!(event = "tls.authority_refused", why, "a file among the authorities is none; the others are trusted");
    }
}
