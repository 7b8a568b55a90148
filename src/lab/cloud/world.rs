//! What all emulated clouds know: apps, installed tokens, trays, and the faults asked for.

use crate::vendor::Vendor;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// A notification as a device shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Counts what this device was shown.
    pub number: u64,
    pub notify_id: i64,
    pub title: String,
    pub body: String,
    pub payload: String,
    /// It took the place of an earlier one with the same id.
    pub replaced: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenState {
    Active,
    /// Uninstalled, or its data cleared.
    Dead,
    /// Notifications are switched off.
    Off,
}

/// What goes wrong with the next calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    ServerError,
    RateLimit,
    Quota,
    AuthExpired,
    BadJson,
    Hang,
}

#[derive(Debug, Clone)]
pub struct App {
    pub secret: String,
    pub package: String,
    /// Notifications the vendor delivers for this app in one day.
    pub daily_quota: u64,
}

#[derive(Debug)]
struct Install {
    app: String,
    device: String,
    state: TokenState,
    shown: Vec<Shown>,
}

#[derive(Debug, Default)]
struct Inner {
    apps: HashMap<(Vendor, String), App>,
    installs: HashMap<(Vendor, String), Install>,
    faults: HashMap<Vendor, Vec<Fault>>,
    /// Access tokens given out: whose, and until when (milliseconds since the Unix epoch).
    access: HashMap<String, (String, u64)>,
}

/// A handle; clones share the world.
#[derive(Debug, Clone, Default)]
pub struct World {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
}

/// What a vendor was asked to show.
#[derive(Debug, Clone, Copy)]
pub struct Notice<'a> {
    pub notify_id: i64,
    pub title: &'a str,
    pub body: &'a str,
    pub payload: &'a str,
}

/// What became of one token of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    Shown,
    Dead,
    Off,
}

impl World {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // The data is plain; a panic elsewhere cannot have left it half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add_app(&self, vendor: Vendor, id: String, app: App) {
        self.inner().apps.insert((vendor, id), app);
    }

    /// Counts `wanted` more notifications against the app's day; `false` when it has not that many left.
    pub fn spend_quota(&self, vendor: Vendor, id: &str, wanted: u64) -> bool {
        match self.inner().apps.get_mut(&(vendor, id.to_owned())) {
            Some(app) if app.daily_quota >= wanted => {
                app.daily_quota -= wanted;
                true
            }
            _ => false,
        }
    }

    pub fn app(&self, vendor: Vendor, id: &str) -> Option<App> {
        self.inner().apps.get(&(vendor, id.to_owned())).cloned()
    }

    /// The app that owns this secret, with its id.
    pub fn app_by_secret(&self, vendor: Vendor, secret: &str) -> Option<(String, App)> {
        let inner = self.inner();
        inner
            .apps
            .iter()
            .find(|((v, _), app)| *v == vendor && app.secret == secret)
            .map(|((_, id), app)| (id.clone(), app.clone()))
    }

    /// Installs an app on a device. A device that had it before gets a new token; the old one is dead.
    pub fn install(&self, vendor: Vendor, app: &str, token: &str, device: &str) -> bool {
        let mut inner = self.inner();
        if !inner.apps.contains_key(&(vendor, app.to_owned())) {
            return false;
        }
        for ((v, _), old) in &mut inner.installs {
            if *v == vendor && old.app == app && old.device == device {
                old.state = TokenState::Dead;
            }
        }
        let install =
            Install { app: app.to_owned(), device: device.to_owned(), state: TokenState::Active, shown: Vec::new() };
        inner.installs.insert((vendor, token.to_owned()), install);
        true
    }

    pub fn set_state(&self, vendor: Vendor, token: &str, state: TokenState) -> bool {
        match self.inner().installs.get_mut(&(vendor, token.to_owned())) {
            Some(install) => {
                install.state = state;
                true
            }
            None => false,
        }
    }

    pub fn set_fault(&self, vendor: Vendor, fault: Fault, times: u32) {
        self.inner().faults.entry(vendor).or_default().extend((0..times).map(|_| fault));
    }

    /// The fault the next call must show, used up by asking.
    pub fn take_fault(&self, vendor: Vendor) -> Option<Fault> {
        let mut inner = self.inner();
        let waiting = inner.faults.get_mut(&vendor)?;
        if waiting.is_empty() { None } else { Some(waiting.remove(0)) }
    }

    pub fn grant(&self, access: String, app: String, until_ms: u64) {
        self.inner().access.insert(access, (app, until_ms));
    }

    /// Whose access token this is, and until when.
    pub fn granted(&self, access: &str) -> Option<(String, u64)> {
        self.inner().access.get(access).cloned()
    }

    pub fn show(&self, vendor: Vendor, app: &str, token: &str, notice: &Notice<'_>) -> Delivery {
        let mut inner = self.inner();
        let installs = &mut inner.installs;
        let Some(install) = installs.get_mut(&(vendor, token.to_owned())).filter(|i| i.app == app) else {
            return Delivery::Dead;
        };
        match install.state {
            TokenState::Dead => return Delivery::Dead,
            TokenState::Off => return Delivery::Off,
            TokenState::Active => {}
        }
        install.shown.push(Shown {
            number: install.shown.len() as u64 + 1,
            notify_id: notice.notify_id,
            title: notice.title.to_owned(),
            body: notice.body.to_owned(),
            payload: notice.payload.to_owned(),
            replaced: install.shown.iter().any(|shown| shown.notify_id == notice.notify_id),
        });
        drop(inner);
        self.changed.notify_waiters();
        Delivery::Shown
    }

    /// What the device was shown after `after`, waiting up to `wait` for the first.
    pub async fn tray(&self, vendor: Vendor, token: &str, after: u64, wait: Duration) -> Vec<Shown> {
        let look = || {
            let inner = self.inner();
            let shown = inner
                .installs
                .get(&(vendor, token.to_owned()))
                .map(|install| install.shown.as_slice())
                .unwrap_or_default();
            shown.iter().filter(|s| s.number > after).cloned().collect::<Vec<_>>()
        };
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that nothing shown in between is slept through.
            changed.as_mut().enable();
            let found = look();
            if !found.is_empty() || tokio::time::timeout_at(deadline, changed).await.is_err() {
                return found;
            }
        }
    }
}
