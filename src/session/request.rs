//! What local apps and the command line ask of the session, and how each is answered, exactly once.

use super::{Action, Kind, LocalApp, Login, Now, Session, State};
use crate::ids::MessageId;
use crate::keepalive::{Cause, PowerMode};
use crate::secret::Secret;
use crate::vendors::Vendor;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use tracing::info;

/// Longest password or login token, in bytes.
const MAX_PASSWORD: usize = 8192;

/// Which request an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

pub type Answer = Result<Json, Refusal>;

/// What is asked.
#[derive(Debug, Clone)]
pub enum Ask {
    Login {
        user: String,
        password: Secret,
        /// Answer when a server has accepted the login, or says why not; else as soon as it is stored.
        patience: Patience,
    },
    Logout {
        keep_binding: bool,
    },
    SetToken {
        vendor: Vendor,
        token: Secret,
    },
    RemoveToken {
        vendor: Vendor,
    },
    Reconnect,
    /// The push plugin's `initPushModule`.
    Init,
    /// Its `usePlugin`, with the names by vendor.
    UsePlugin {
        names: BTreeMap<Vendor, String>,
    },
    UnbindPushToken,
    Receipt {
        id: MessageId,
        event: String,
    },
    Power {
        mode: PowerMode,
    },
    AddApp {
        name: String,
        app: LocalApp,
    },
    RemoveApp {
        name: String,
    },
    /// A message stream of this local app was opened, or closed.
    Attach {
        app: String,
    },
    Detach {
        app: String,
    },
}

/// How long a login's caller waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    UntilStored,
    UntilAccepted,
}

/// Why a request was refused, as the peer reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    #[serde(skip, default)]
    pub status: u16,
    pub code: String,
    pub message: String,
}

impl Refusal {
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into() }
    }

    fn disk(why: &str) -> Self {
        let message = format!("the state directory cannot be written ({why}); nothing was changed");
        Self::new(507, "not_stored", message)
    }
}

/// A change that is answered when the disk has it, and taken back when the disk refuses.
#[derive(Debug)]
pub(super) struct Storing {
    pub id: RequestId,
    version: u64,
    kind: Kind,
    before: Before,
    /// Only for a login: whether its caller waits on.
    patience: Patience,
}

/// What stood before.
#[derive(Debug)]
pub(super) enum Before {
    Login(Option<Login>),
    Tokens {
        tokens: BTreeMap<Vendor, Secret>,
        vendor: Vendor,
    },
    Plugin(BTreeMap<Vendor, String>),
    LocalApps(BTreeMap<String, LocalApp>),
    /// A login that stays, whose token an app unbound.
    Unbound(Option<Login>),
}

impl Session {
    pub(super) fn answer(&mut self, id: RequestId, answer: Answer) {
        self.act(Action::Answer { id, answer });
    }

    pub(super) fn refuse(&mut self, id: RequestId, status: u16, code: &str, message: impl Into<String>) {
        self.answer(id, Err(Refusal::new(status, code, message)));
    }

    pub(super) fn on_request(&mut self, now: Now, id: RequestId, ask: Ask) {
        let stores = matches!(
            ask,
            Ask::Login { .. }
                | Ask::SetToken { .. }
                | Ask::RemoveToken { .. }
                | Ask::UsePlugin { .. }
                | Ask::UnbindPushToken
                | Ask::AddApp { .. }
                | Ask::RemoveApp { .. }
        );
        if stores && self.storing.is_some() {
            return self.refuse(id, 503, "busy", "another change is being stored; try again");
        }
        match ask {
            Ask::Login { user, password, patience } => self.ask_login(now, id, user, password, patience),
            Ask::Logout { keep_binding } => self.ask_logout(now, id, keep_binding),
            Ask::SetToken { vendor, token } => self.ask_token(id, vendor, Some(token)),
            Ask::RemoveToken { vendor } => self.ask_token(id, vendor, None),
            Ask::Reconnect => self.ask_reconnect(now, id),
            Ask::Init => {
                let answer = self.plugin_init();
                self.answer(id, Ok(answer));
            }
            Ask::UsePlugin { names } => self.ask_plugin(id, names),
            Ask::UnbindPushToken => self.ask_unbind(id),
            Ask::Receipt { id: message, event } => self.ask_receipt(id, message, event),
            Ask::Power { mode } => {
                self.power_mode = mode;
                self.act(Action::LookAtBattery);
                self.answer(id, Ok(json!({ "saving": crate::keepalive::is_low(mode, None) || self.saving })));
            }
            Ask::AddApp { name, app } => self.ask_add_app(id, name, app),
            Ask::RemoveApp { name } => self.ask_remove_app(id, &name),
            Ask::Attach { app } => {
                self.on_attach(now, app);
                self.answer(id, Ok(json!({})));
            }
            Ask::Detach { app } => {
                self.on_detach(now, &app);
                self.answer(id, Ok(json!({})));
            }
        }
    }

    fn ask_login(&mut self, now: Now, id: RequestId, user: String, password: Secret, patience: Patience) {
        if self.logout_waits.is_some() {
            return self.refuse(id, 409, "logging_out", "a logout is under way; log in when it has ended");
        }
        if let Err(error) = crate::protocol::Address::new(self.settings.app.as_str(), &user, &self.settings.device_id) {
            return self.refuse(id, 400, "bad_user", error.to_string());
        }
        if password.is_empty() || password.expose().len() > MAX_PASSWORD {
            return self.refuse(id, 400, "bad_password", "the password is empty or longer than 8192 bytes");
        }
        if let Some(other) = super::token::app(&password).filter(|app| *app != self.settings.app) {
            let message = format!("the token is for the IM app {other}; server.app is {}", self.settings.app);
            return self.refuse(id, 422, "wrong_app", message);
        }
        if let Some(current) = self.saved.login.as_ref().filter(|login| login.user != user) {
            let message = format!("{} is logged in; log out first", current.user);
            return self.refuse(id, 409, "logged_in", message);
        }
        // Logging in again is the opposite of the logout still owed in this name.
        self.settle_owed(&user);
        let stopped = State::from(&self.phase) == State::Stopped;
        let known = self.saved.login.as_ref().filter(|login| login.password == password && !stopped);
        let login = match known {
            Some(known) => Login { unbound: false, ..known.clone() },
            None => Login {
                user,
                password,
                former_password: None,
                app: Some(self.settings.app.clone()),
                id: Some(self.random.name()),
                unbound: false,
                welcomed: false,
            },
        };
        let before = self.saved.login.replace(login);
        if before == self.saved.login {
            // Nothing to write: the same login again.
            return self.login_stored(now, id, None, patience);
        }
        self.store(id, Kind::Login, Before::Login(before), patience);
    }

    fn ask_token(&mut self, id: RequestId, vendor: Vendor, token: Option<Secret>) {
        if let Some(token) = &token
            && let Err(error) = vendor.check_token(token.expose())
        {
            self.count_refused("bad_token", &error);
            return self.refuse(id, 422, "bad_token", error.to_string());
        }
        let token = token.map(|token| Secret::new(vendor.one_form(token.expose())));
        if self.saved.tokens.get(&vendor) == token.as_ref() {
            let answer = self.token_answer(vendor);
            return self.answer(id, Ok(answer));
        }
        let before = self.saved.tokens.clone();
        match token {
            Some(token) => self.saved.tokens.insert(vendor, token),
            None => self.saved.tokens.remove(&vendor),
        };
        // On disk before it is used: a token that is bound and then forgotten cannot be unbound.
        let before = Before::Tokens { tokens: before, vendor };
        self.store(id, Kind::Tokens, before, Patience::UntilStored);
    }

    fn ask_plugin(&mut self, id: RequestId, names: BTreeMap<Vendor, String>) {
        // A name that cannot be used may be another device's placeholder: `why_not` tells.
        if self.saved.plugin == names {
            let answer = self.plugin_init();
            return self.answer(id, Ok(answer));
        }
        let before = std::mem::replace(&mut self.saved.plugin, names);
        self.store(id, Kind::Plugin, Before::Plugin(before), Patience::UntilStored);
    }

    fn ask_unbind(&mut self, id: RequestId) {
        let Some(mut login) = self.saved.login.clone() else {
            return self.refuse(id, 409, "logged_out", "nobody is logged in; a logout has unbound the token");
        };
        login.unbound = true;
        let before = self.saved.login.replace(login);
        self.store(id, Kind::Login, Before::Unbound(before), Patience::UntilStored);
    }

    fn ask_reconnect(&mut self, now: Now, id: RequestId) {
        if self.saved.login.is_none() {
            return self.refuse(id, 409, "logged_out", "nobody is logged in; use `impush login`");
        }
        self.connect_anew(now, Cause::Requested);
        self.answer(id, Ok(json!({ "reconnecting": true })));
    }

    /// Hands a change over; its request is answered when the disk has it.
    pub(super) fn store(&mut self, id: RequestId, kind: Kind, before: Before, patience: Patience) {
        self.persist(kind);
        let version = self.last_version();
        self.storing = Some(Storing { id, version, kind, before, patience });
    }

    /// The disk has a change: if a request waited for it, on with what it wanted.
    pub(super) fn stored(&mut self, now: Now, kind: Kind, version: u64) {
        let Some(storing) = self.storing.take_if(|s| s.kind == kind && s.version == version) else { return };
        match storing.before {
            Before::Login(before) => self.login_stored(now, storing.id, Some(before), storing.patience),
            Before::Tokens { vendor, .. } => {
                let fingerprint = self.saved.tokens.get(&vendor).map(Secret::fingerprint);
                info!(event = "token.stored", vendor = vendor.as_str(), token = fingerprint, "token stored");
                self.on_channel_facts(now);
                let answer = self.token_answer(vendor);
                self.answer(storing.id, Ok(answer));
            }
            Before::Plugin(_) => {
                info!(event = "plugin.configured", "an app gave the certificates' names");
                self.on_channel_facts(now);
                let answer = self.plugin_init();
                self.answer(storing.id, Ok(answer));
            }
            Before::LocalApps(_) => self.local_apps_stored(now, storing.id),
            Before::Unbound(_) => {
                self.bind_wanted(now);
                // Without a channel the connection is what delivers.
                self.want_connection(now);
                self.answer(storing.id, Ok(json!({ "unbound": true })));
            }
        }
    }

    pub(super) fn not_stored(&mut self, kind: Kind, version: u64, why: &str) {
        let Some(storing) = self.storing.take_if(|s| s.kind == kind && s.version == version) else { return };
        match storing.before {
            Before::Login(before) | Before::Unbound(before) => self.saved.login = before,
            Before::Tokens { tokens, .. } => self.saved.tokens = tokens,
            Before::Plugin(names) => self.saved.plugin = names,
            Before::LocalApps(apps) => self.saved.local_apps = apps,
        }
        // The disk may hold either: the old value is handed over again.
        self.answer(storing.id, Err(Refusal::disk(why)));
    }

    fn token_answer(&self, vendor: Vendor) -> Json {
        let active = self.choice.active == Some(vendor);
        let why = self.choice.why_not.iter().find(|(v, _)| *v == vendor).map(|(_, why)| why.to_string());
        json!({ "stored": self.saved.tokens.contains_key(&vendor), "active": active, "why_not": why })
    }

    /// What the device can do: answers `initPushModule`.
    fn plugin_init(&self) -> Json {
        json!({
            "candidate": self.settings.candidate.map(|(vendor, _)| vendor), "confidence": self.choice.confidence, "channel": self.choice.active.map_or("none", |vendor| vendor.as_str()),
            "why_not": self.choice.why_not.iter().copied().collect::<BTreeMap<_, _>>(),
            "certificates": self.certificates().keys().collect::<Vec<_>>(),
        })
    }
}
