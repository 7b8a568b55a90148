//! What an app's operators have set, remembered between transactions for as long as nobody sets anything.
//!
//! Every change writes a new edition with it, by chance and so never the same twice; what was read under
//! another edition is forgotten. So several gateways may share a database, and a change that was undone
//! leaves nothing behind.

use super::settings::{Key, get};
use super::sql::Transaction;
use super::{StoreError, Vault, certificates, edition};
use crate::delivery::content::Template;
use crate::delivery::policy::{AppRules, Stop};
use crate::delivery::silence;
use crate::vendors::certificate::Certificate;
use jiff::tz::TimeZone;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Apps remembered, and names of templates and certificates of each; beyond them it starts afresh.
const MOST: usize = 1000;

/// An app's rules, and where its intervals are meant that name no zone.
#[derive(Debug)]
pub(super) struct Rules {
    pub rules: AppRules,
    pub home: TimeZone,
}

/// A certificate as it is used; one whose secrets cannot be opened stops its own notifications and nobody
/// else's.
type Found = Result<Option<Arc<Certificate>>, Stop>;

#[derive(Debug, Default)]
struct App {
    rules: Option<Arc<Rules>>,
    templates: HashMap<String, Option<Template>>,
    certificates: HashMap<String, Found>,
    /// All that can be opened, by name.
    all: Option<Arc<[Arc<Certificate>]>>,
}

#[derive(Debug, Default)]
struct Remembered {
    edition: String,
    apps: HashMap<String, App>,
    /// App and name of every certificate, by the path to which its receipts are sent.
    by_path: Option<HashMap<String, (String, String)>>,
}

/// Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Known {
    vault: Arc<Vault>,
    remembered: Arc<Mutex<Remembered>>,
}

impl Known {
    pub fn new(vault: Arc<Vault>) -> Self {
        Self { vault, remembered: Arc::default() }
    }

    /// # Errors
    /// [`StoreError`].
    pub fn rules(&self, t: &Transaction<'_>, app: &str) -> Result<Arc<Rules>, StoreError> {
        let mut remembered = self.remembered(t)?;
        let known = of(&mut remembered, app);
        if let Some(rules) = &known.rules {
            return Ok(rules.clone());
        }
        let rules: AppRules = get(t, app, "", &Key::Rules)?;
        // Checked on entry; one from another version falls back.
        let home = silence::zone(&rules.time_zone).unwrap_or(TimeZone::UTC);
        Ok(known.rules.insert(Arc::new(Rules { rules, home })).clone())
    }

    /// # Errors
    /// [`StoreError`].
    pub fn template(&self, t: &Transaction<'_>, app: &str, name: &str) -> Result<Option<Template>, StoreError> {
        let mut remembered = self.remembered(t)?;
        let templates = &mut of(&mut remembered, app).templates;
        if let Some(template) = templates.get(name) {
            return Ok(template.clone());
        }
        let template: Option<Template> = get(t, app, "", &Key::Template(name.to_owned()))?;
        make_room(templates);
        templates.insert(name.to_owned(), template.clone());
        Ok(template)
    }

    /// # Errors
    /// [`StoreError`].
    pub fn certificate(&self, t: &Transaction<'_>, app: &str, name: &str) -> Result<Found, StoreError> {
        let mut remembered = self.remembered(t)?;
        let certificates = &mut of(&mut remembered, app).certificates;
        if let Some(found) = certificates.get(name) {
            return Ok(found.clone());
        }
        let found = match certificates::find(t, &self.vault, app, name) {
            Err(StoreError::Sealed(why)) => {
                tracing::error!(event = "certificate.unreadable", app, certificate = %name, why, "a certificate cannot be read");
                Err(Stop::CertificateUnreadable)
            }
            found => Ok(found?.map(Arc::new)),
        };
        make_room(certificates);
        certificates.insert(name.to_owned(), found.clone());
        Ok(found)
    }

    /// An app's certificates, by name, without those that cannot be opened.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn certificates(&self, t: &Transaction<'_>, app: &str) -> Result<Arc<[Arc<Certificate>]>, StoreError> {
        if let Some(all) = &of(&mut *self.remembered(t)?, app).all {
            return Ok(all.clone());
        }
        let mut all = Vec::new();
        for name in certificates::names_in(t, app)? {
            all.extend(self.certificate(t, app, &name)?.ok().flatten());
        }
        let all: Arc<[_]> = all.into();
        of(&mut *self.remembered(t)?, app).all = Some(all.clone());
        Ok(all)
    }

    /// App and name of the certificate to whose path `path` leads. No certificate is opened for it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn by_path(
        &self,
        t: &Transaction<'_>,
        path: &str,
        path_of: impl Fn(&str, &str) -> String,
    ) -> Result<Option<(String, String)>, StoreError> {
        let mut remembered = self.remembered(t)?;
        if remembered.by_path.is_none() {
            let all = certificates::names(t)?.into_iter();
            remembered.by_path = Some(all.map(|(app, name)| (path_of(&app, &name), (app, name))).collect());
        }
        Ok(remembered.by_path.as_ref().and_then(|all| all.get(path)).cloned())
    }

    fn remembered(&self, t: &Transaction<'_>) -> Result<MutexGuard<'_, Remembered>, StoreError> {
        let edition = edition::of(t)?;
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.edition != *edition {
            *remembered = Remembered { edition: edition.to_string(), ..Remembered::default() };
        }
        Ok(remembered)
    }
}

fn of<'r>(remembered: &'r mut Remembered, app: &str) -> &'r mut App {
    if !remembered.apps.contains_key(app) {
        make_room(&mut remembered.apps);
    }
    remembered.apps.entry(app.to_owned()).or_default()
}

fn make_room<T>(all: &mut HashMap<String, T>) {
    if all.len() >= MOST {
        all.clear();
    }
}
