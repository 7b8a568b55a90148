//! Local apps that were added: how each is woken, its secret, and from where in the web it may ask.

use super::request::Before;
use super::{Action, Kind, Now, Patience, RequestId, Session};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use tracing::info;

/// Apps of one device.
const MOST: usize = 64;

/// One app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocalApp {
    /// SHA-256 of its secret, in lower-case hexadecimal. The secret has 256 random bits, so that its digest is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_sha256: Option<String>,
    /// Origins (RFC 6454) of web pages that may ask in its name; `null` is a web view's own page.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wake: Option<Wake>,
    /// The user that added it, as whom its command runs.
    pub uid: u32,
}

/// How an app that is not running is woken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Wake {
    /// A unit of systemd's.
    Unit(String),
    /// A program, without a shell and without arguments.
    Command(PathBuf),
    /// `PACKAGE/COMPONENT`: an Android service.
    Android(String),
}

/// What was written is none of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` wakes nothing; write unit:NAME.service, command:/PATH or android:PACKAGE/COMPONENT")]
pub struct UnknownWake(String);

impl FromStr for Wake {
    type Err = UnknownWake;

    fn from_str(text: &str) -> Result<Self, UnknownWake> {
        let unknown = || UnknownWake(text.to_owned());
        let (kind, what) = text.split_once(':').ok_or_else(unknown)?;
        let made_of = |more: &[u8]| {
            (1..=255).contains(&what.len())
                && !what.starts_with('-')
                && what.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
        };
        match kind {
            "unit" if made_of(b":_.@-\\") && what.contains('.') => Ok(Self::Unit(what.to_owned())),
            "command" if what.starts_with('/') && what.len() < 4096 => Ok(Self::Command(PathBuf::from(what))),
            "android" if made_of(b"._/$") && what.split('/').count() == 2 => Ok(Self::Android(what.to_owned())),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(name) => write!(f, "unit:{name}"),
            Self::Command(path) => write!(f, "command:{}", path.display()),
            Self::Android(component) => write!(f, "android:{component}"),
        }
    }
}

impl From<Wake> for String {
    fn from(wake: Wake) -> Self {
        wake.to_string()
    }
}

impl TryFrom<String> for Wake {
    type Error = UnknownWake;

    fn try_from(text: String) -> Result<Self, UnknownWake> {
        text.parse()
    }
}

impl Session {
    pub(super) fn ask_add_app(&mut self, id: RequestId, name: String, app: LocalApp) {
        if self.saved.local_apps.len() >= MOST && !self.saved.local_apps.contains_key(&name) {
            return self.refuse(id, 409, "too_many_apps", format!("at most {MOST} apps; remove one"));
        }
        let before = self.saved.local_apps.clone();
        self.saved.local_apps.insert(name, app);
        self.store(id, Kind::LocalApps, Before::LocalApps(before), Patience::UntilStored);
    }

    pub(super) fn ask_remove_app(&mut self, id: RequestId, name: &str) {
        let before = self.saved.local_apps.clone();
        if self.saved.local_apps.remove(name).is_none() {
            return self.refuse(id, 404, "no_such_app", format!("no app `{name}` was added"));
        }
        self.store(id, Kind::LocalApps, Before::LocalApps(before), Patience::UntilStored);
    }

    pub(super) fn local_apps_stored(&mut self, now: Now, id: RequestId) {
        info!(event = "app.list_changed", apps = self.saved.local_apps.len(), "the list of local apps changed");
        self.wakes.keep(&self.saved.local_apps);
        self.set_wake_timer(now);
        self.act(Action::LocalAppsChanged);
        self.answer(id, Ok(json!({})));
    }

    pub fn local_apps(&self) -> &BTreeMap<String, LocalApp> {
        &self.saved.local_apps
    }

    /// Each app that was added, without its secret.
    pub fn local_apps_report(&self) -> Json {
        let of = |(name, app): (&String, &LocalApp)| {
            json!({
                "name": name, "uid": app.uid, "origins": app.origins, "wake": app.wake, "secret": app.secret_sha256.is_some(),
                "attached": self.apps.contains_key(name), "wakes": self.wakes.times(name),
            })
        };
        Json::Array(self.saved.local_apps.iter().map(of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_to_wake_is_read_as_it_is_written_and_what_is_none_is_refused() {
        for good in ["unit:chat.service", "unit:chat@2.service", "command:/usr/bin/chat", "android:com.a.b/.Wake"] {
            assert_eq!(good.parse::<Wake>().expect("read").to_string(), good);
        }
        for bad in
            ["", "unit:", "unit:--help.service", "unit:chat", "command:chat", "android:com.a", "shell:rm", "unit:a b.c"]
        {
            assert!(bad.parse::<Wake>().is_err(), "{bad}");
        }
    }
}
