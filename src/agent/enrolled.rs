//! What an enrolment told the agent for good: its server, its IM app, whom to trust. The configuration has the last word.

use super::config::{Config, Server};
use super::given;
use crate::protocol::DEFAULT_PREFIX;
use crate::settings::SettingsError;
use crate::store::write_atomically;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

const FILE: &str = "enrolled.json";
const CA_FILE: &str = "enrolled-ca.pem";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Enrolled {
    /// As `server.url` has it.
    pub url: String,
    pub app: String,
    pub prefix: String,
    /// PEM; it stands in a file of its own. Without it the system's authorities are trusted.
    #[serde(skip)]
    pub ca: Option<String>,
    /// There is such a file, and it belongs to this enrolment.
    #[serde(default)]
    has_ca: bool,
}

impl Enrolled {
    pub fn new(url: String, app: String, prefix: String, ca: Option<String>) -> Self {
        Self { url, app, prefix, has_ca: ca.is_some(), ca }
    }

    /// Blocks on the disk.
    ///
    /// # Errors
    /// The disk's error; what stood there before is in force then.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        if let Some(ca) = &self.ca {
            write_atomically(&directory.join(CA_FILE), ca.as_bytes())?;
        }
        write_atomically(&directory.join(FILE), &serde_json::to_vec(self).map_err(io::Error::other)?)
    }

    /// Blocks on the disk. `None`: this agent did not enrol, or this user may not know.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`]: it did, and the file cannot be read.
    fn read(directory: &Path) -> Result<Option<Self>, SettingsError> {
        let path = directory.join(FILE);
        let bad = |why: &dyn std::fmt::Display| SettingsError::BadValue {
            message: format!("{} cannot be read ({why}); remove it, and enrol again", path.display()),
        };
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
                return Ok(None);
            }
            Err(error) => return Err(bad(&error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| bad(&error))
    }

    fn ca_file(&self, directory: &Path) -> Option<PathBuf> {
        self.has_ca.then(|| directory.join(CA_FILE))
    }

    /// What the configuration says otherwise, and what is in force therefore.
    pub fn differences(&self, server: &Server, directory: &Path) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(url) = server.url.as_ref().filter(|url| **url != self.url) {
            all.push(format!("the code is for {}; server.url stays {url}", self.url));
        }
        if let (Some(own), Some(_)) = (&server.ca_file, &self.ca)
            && self.ca_file(directory).as_ref() != Some(own)
        {
            all.push(format!("the code brought an authority to trust; server.ca_file stays {}", own.display()));
        }
        all
    }
}

impl Config {
    /// Nobody has said yet which server it belongs to.
    pub(super) fn awaits_enrolment(&self) -> bool {
        self.server.url.is_none() && self.server.app.as_ref().is_none_or(String::is_empty)
    }

    /// Without the authority that an enrolment brought.
    pub(super) fn server_as_configured(&self) -> Server {
        let enrolled = self.state_directory().join(CA_FILE);
        Server { ca_file: self.server.ca_file.clone().filter(|file| *file != enrolled), ..self.server.clone() }
    }

    /// What is not configured is as the enrolment said. Blocks on the disk.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`].
    pub(super) fn with_enrolment(mut self) -> Result<Self, SettingsError> {
        let directory = self.state_directory();
        let given = given::file(&directory);
        let Some(enrolled) = Enrolled::read(&directory)? else {
            // Who trusts the system's authorities is told of no other.
            self.server.ca_given = self.server.ca_file.is_some().then_some(given);
            return Ok(self);
        };
        let ca_file = enrolled.ca_file(&directory);
        let server = &mut self.server;
        server.url.get_or_insert(enrolled.url);
        server.ca_file = server.ca_file.take().or(ca_file);
        server.ca_given = server.ca_file.is_some().then_some(given);
        if server.app.as_ref().is_none_or(String::is_empty) {
            server.app = Some(enrolled.app);
        }
        if server.prefix == DEFAULT_PREFIX {
            server.prefix = enrolled.prefix;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn config(directory: &Path, more: &str) -> Config {
        toml::from_str(&format!("paths={{state='{}'}}\n{more}", directory.display())).expect("a configuration")
    }

    fn enrolled() -> Enrolled {
        Enrolled::new("mqtts://push:8883".into(), "o#a".into(), "x/y".into(), Some("PEM".into()))
    }

    #[test]
    fn what_is_not_configured_comes_from_the_enrolment_and_what_is_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(config(dir.path(), "").with_enrolment().expect("read").awaits_enrolment());
        enrolled().save(dir.path()).expect("saved");
        let found = config(dir.path(), "").with_enrolment().expect("read");
        assert!(!found.awaits_enrolment() && found.check().is_ok());
        let server = found.server;
        assert_eq!((server.url.as_deref(), server.app.as_deref()), (Some("mqtts://push:8883"), Some("o#a")));
        assert_eq!((server.prefix.as_str(), server.ca_file.clone()), ("x/y", Some(dir.path().join(CA_FILE))));
        assert!(enrolled().differences(&server, dir.path()).is_empty());
        let own = "server={url='mqtts://other:1',app='o#b',ca_file='/ca.pem',prefix='p'}";
        let server = config(dir.path(), own).with_enrolment().expect("read").server;
        assert_eq!((server.url.as_deref(), server.app.as_deref()), (Some("mqtts://other:1"), Some("o#b")));
        assert_eq!((server.prefix.as_str(), server.ca_file.clone()), ("p", Some("/ca.pem".into())));
        let said = enrolled().differences(&server, dir.path()).join("; ");
        assert!(said.contains("server.url stays mqtts://other:1") && said.contains("stays /ca.pem"), "{said}");
    }

    #[test]
    fn the_files_are_nobody_elses_and_one_that_is_broken_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        enrolled().save(dir.path()).expect("saved");
        for name in [FILE, CA_FILE] {
            let mode = std::fs::metadata(dir.path().join(name)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let public = Enrolled::new("mqtts://p".into(), "o#a".into(), "x".into(), None);
        public.save(dir.path()).expect("saved");
        let found = config(dir.path(), "").with_enrolment().expect("read");
        assert_eq!(found.server.ca_file, None, "the authority of the enrolment before is not this one's");
        std::fs::write(dir.path().join(FILE), "{").expect("written");
        let refused = config(dir.path(), "").with_enrolment().expect_err("refused").to_string();
        assert!(refused.contains(FILE) && refused.contains("enrol again"), "{refused}");
    }
}
