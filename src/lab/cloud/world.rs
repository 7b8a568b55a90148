//! What all emulated clouds know: apps, installed tokens, trays, and the faults asked for.

use super::clock::now_ms;
use super::receipt::{Kind, Reply, Sender};
use super::server::Manner;
use crate::vendors::Vendor;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Notifications in one answer about a tray; the next are asked for with `after`.
const TRAY_PAGE: usize = 1000;

/// A notification as a device shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Counts what this device was shown.
    pub number: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What replaces what: the same id is the same place in the tray.
    pub notify_id: String,
    pub title: String,
    pub body: String,
    pub payload: String,
    /// It took the place of an earlier one with the same id.
    pub replaced: bool,
    /// Its sender took it back.
    pub recalled: bool,
    /// It was handed to the app, and nothing is shown.
    pub data_only: bool,
    #[serde(skip)]
    reply: Option<Reply>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Fault {
    /// 500 with a page
    ServerError,
    /// The vendor's words for too many in a short time
    RateLimit,
    /// The vendor's words for a used up quota
    Quota,
    /// The access token is refused, and so are all that were given out
    AuthExpired,
    /// A body that is cut in the middle
    BadJson,
    /// No answer, and the connection stays
    Hang,
    /// The connection ends in the middle of the answer
    BrokenAnswer,
    /// A code no table has
    Unknown,
    /// A good answer, coded with gzip though nobody asked for it
    Gzip,
    /// A good answer, by a clock that is an hour ahead
    ClockAhead,
    /// 429, and an HTTP date that is two seconds on
    RetryDate,
    /// 200 with a page of something between, before the call comes to the vendor
    Html,
    /// A good answer, in which all that may be missing is null
    Nulls,
    /// A good answer with texts for numbers, and other types than usual
    OtherTypes,
    /// A good answer that takes a second, piece by piece
    Slow,
    /// A good answer; then the connection ends, which the next call on it finds out
    IdleClose,
}

/// Which part of a call a fault befalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// It does not come to the vendor.
    Before,
    /// The vendor's own answer.
    Within,
    /// The answer that is ready.
    After,
}

fn first(waiting: &mut Vec<Fault>) -> Option<Fault> {
    if waiting.is_empty() { None } else { Some(waiting.remove(0)) }
}

impl Fault {
    const fn part(self) -> Part {
        match self {
            Self::Html => Part::Before,
            Self::Gzip
            | Self::ClockAhead
            | Self::RetryDate
            | Self::Nulls
            | Self::OtherTypes
            | Self::Slow
            | Self::IdleClose => Part::After,
            _ => Part::Within,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct App {
    /// What signs: a secret, or a private key as PEM.
    pub secret: String,
    #[serde(default)]
    pub package: String,
    /// Notifications the vendor delivers for this app in one day.
    #[serde(default = "plenty")]
    pub daily_quota: u64,
    /// What else the vendor knows an app by: `app_key`, `client_id`, `key_id`, `team_id`...
    #[serde(default)]
    pub keys: HashMap<String, String>,
    /// Where receipts go, for vendors whose console has it: `receipts_url`, with user and secret.
    #[serde(default)]
    pub receipts_url: Option<String>,
}

/// What the strictest vendor grants an app with few installs.
fn plenty() -> u64 {
    10_000
}

impl App {
    pub fn key(&self, name: &str) -> &str {
        self.keys.get(name).map_or("", String::as_str)
    }
}

#[derive(Debug)]
struct Install {
    app: String,
    device: String,
    state: TokenState,
    /// Since when it is not active, in milliseconds.
    since_ms: u64,
    shown: Vec<Shown>,
}

#[derive(Debug, Default)]
struct Inner {
    apps: HashMap<(Vendor, String), App>,
    installs: HashMap<(Vendor, String), Install>,
    faults: HashMap<(Vendor, Part), Vec<Fault>>,
    /// Befall every call, where there is none of its own.
    always: Vec<Fault>,
    /// Access tokens given out: whose, and until when (milliseconds since the Unix epoch).
    access: HashMap<String, (String, u64)>,
    /// Messages stored to be sent to a list later.
    stored: HashMap<String, serde_json::Value>,
    /// Requests by vendor.
    calls: HashMap<Vendor, u64>,
}

/// A handle; clones share the world.
#[derive(Debug, Clone)]
pub struct World {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
    receipts: Sender,
    /// How connections are served.
    pub(super) manner: Arc<watch::Sender<Manner>>,
}

/// What a vendor was asked to show.
#[derive(Debug, Clone)]
pub struct Notice<'a> {
    pub notify_id: String,
    pub title: &'a str,
    pub body: &'a str,
    pub payload: &'a str,
    /// Where and how this notification's receipts go.
    pub reply: Option<Reply>,
}

/// What became of one token of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    Shown,
    /// Since when.
    Dead(u64),
    Off,
}

impl World {
    pub fn new(receipts: Sender) -> Self {
        Self { inner: Arc::default(), changed: Arc::default(), receipts, manner: Arc::default() }
    }

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

    /// The first app of which this holds, with its id.
    pub fn app_where(&self, vendor: Vendor, holds: impl Fn(&App) -> bool) -> Option<(String, App)> {
        let inner = self.inner();
        let found = inner.apps.iter().find(|((v, _), app)| *v == vendor && holds(app));
        found.map(|((_, id), app)| (id.clone(), app.clone()))
    }

    /// Installs an app on a device. A device that had it before gets a new token; the old one is dead.
    pub fn install(&self, vendor: Vendor, app: &str, token: &str, device: &str) -> bool {
        let mut inner = self.inner();
        if !inner.apps.contains_key(&(vendor, app.to_owned())) {
            return false;
        }
        for ((v, _), old) in &mut inner.installs {
            if *v == vendor && old.app == app && old.device == device && old.state != TokenState::Dead {
                (old.state, old.since_ms) = (TokenState::Dead, now_ms());
            }
        }
        let state = TokenState::Active;
        let install = Install { app: app.to_owned(), device: device.to_owned(), state, since_ms: 0, shown: Vec::new() };
        inner.installs.insert((vendor, token.to_owned()), install);
        true
    }

    /// For which app this token was given out.
    pub fn app_of(&self, vendor: Vendor, token: &str) -> Option<String> {
        self.inner().installs.get(&(vendor, token.to_owned())).map(|install| install.app.clone())
    }

    pub fn set_state(&self, vendor: Vendor, token: &str, state: TokenState) -> bool {
        match self.inner().installs.get_mut(&(vendor, token.to_owned())) {
            Some(install) => {
                (install.state, install.since_ms) = (state, now_ms());
                true
            }
            None => false,
        }
    }

    /// So many more times; with none, it is over.
    pub fn set_fault(&self, vendor: Vendor, fault: Fault, times: u32) {
        let mut inner = self.inner();
        let of_part = inner.faults.entry((vendor, fault.part())).or_default();
        of_part.retain(|waiting| times > 0 || *waiting != fault);
        of_part.extend((0..times).map(|_| fault));
    }

    /// Each call goes wrong in this way.
    pub fn always(&self, fault: Fault) {
        self.inner().always.push(fault);
    }

    /// The fault that befalls this part of the call, used up by asking.
    pub fn take_fault(&self, vendor: Vendor, part: Part) -> Option<Fault> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let always = inner.always.iter().find(|fault| fault.part() == part).copied();
        inner.faults.get_mut(&(vendor, part)).and_then(first).or(always)
    }

    pub fn count_call(&self, vendor: Vendor) {
        *self.inner().calls.entry(vendor).or_default() += 1;
    }

    pub fn calls(&self, vendor: Vendor) -> u64 {
        self.inner().calls.get(&vendor).copied().unwrap_or_default()
    }

    pub fn grant(&self, access: String, app: String, until_ms: u64) {
        self.inner().access.insert(access, (app, until_ms));
    }

    /// Whose access token this is, if it is still good.
    pub fn granted(&self, access: &str) -> Option<String> {
        self.inner().access.get(access).filter(|(_, until_ms)| *until_ms > now_ms()).map(|(app, _)| app.clone())
    }

    /// Ends every access token given out for the apps of a vendor.
    pub fn end_access(&self, vendor: Vendor) {
        let mut inner = self.inner();
        let Inner { apps, access, .. } = &mut *inner;
        access.retain(|_, (app, _)| !apps.contains_key(&(vendor, app.clone())));
    }

    pub fn store(&self, id: String, message: serde_json::Value) {
        self.inner().stored.insert(id, message);
    }

    pub fn stored(&self, id: &str) -> Option<serde_json::Value> {
        self.inner().stored.get(id).cloned()
    }

    /// What [`Self::show`] would come to; nothing is shown.
    pub fn try_out(&self, vendor: Vendor, app: &str, token: &str) -> Delivery {
        let inner = self.inner();
        let found = inner.installs.get(&(vendor, token.to_owned())).filter(|install| install.app == app);
        match found.map(|install| (install.state, install.since_ms)) {
            None => Delivery::Dead(now_ms()),
            Some((TokenState::Dead, since_ms)) => Delivery::Dead(since_ms),
            Some((TokenState::Off, _)) => Delivery::Off,
            Some((TokenState::Active, _)) => Delivery::Shown,
        }
    }

    /// Shows a notification.
    pub fn show(&self, vendor: Vendor, app: &str, token: &str, notice: &Notice<'_>) -> Delivery {
        self.deliver(vendor, app, token, notice, false)
    }

    /// Hands a message to the app itself, which notifications that are switched off do not keep it from.
    pub fn hand_over(&self, vendor: Vendor, app: &str, token: &str, notice: &Notice<'_>) -> Delivery {
        self.deliver(vendor, app, token, notice, true)
    }

    fn deliver(&self, vendor: Vendor, app: &str, token: &str, notice: &Notice<'_>, data_only: bool) -> Delivery {
        let mut inner = self.inner();
        let installs = &mut inner.installs;
        let found = installs.get_mut(&(vendor, token.to_owned())).filter(|install| install.app == app);
        let (delivery, kind) = match found {
            None => (Delivery::Dead(now_ms()), Kind::Dead),
            Some(install) => match install.state {
                TokenState::Dead => (Delivery::Dead(install.since_ms), Kind::Dead),
                TokenState::Off if !data_only => (Delivery::Off, Kind::Off),
                TokenState::Off | TokenState::Active => {
                    let same = |shown: &Shown| !shown.data_only && shown.notify_id == notice.notify_id;
                    install.shown.push(Shown {
                        number: install.shown.len() as u64 + 1,
                        at_ms: now_ms(),
                        notify_id: notice.notify_id.clone(),
                        title: notice.title.to_owned(),
                        body: notice.body.to_owned(),
                        payload: notice.payload.to_owned(),
                        replaced: !data_only && install.shown.iter().any(same),
                        recalled: false,
                        data_only,
                        reply: notice.reply.clone(),
                    });
                    (Delivery::Shown, Kind::Arrived)
                }
            },
        };
        drop(inner);
        if let Some(reply) = &notice.reply {
            self.receipts.send(vendor, kind, token, reply);
        }
        self.changed.notify_waiters();
        delivery
    }

    /// Takes a notification out of a tray.
    pub fn recall(&self, vendor: Vendor, token: &str, notify_id: &str) {
        if let Some(install) = self.inner().installs.get_mut(&(vendor, token.to_owned())) {
            install.shown.iter_mut().filter(|s| s.notify_id == notify_id).for_each(|s| s.recalled = true);
        }
    }

    /// The user taps what was shown.
    pub fn click(&self, vendor: Vendor, token: &str, number: u64) -> bool {
        let inner = self.inner();
        let shown = inner.installs.get(&(vendor, token.to_owned())).map(|install| install.shown.as_slice());
        let Some(shown) = shown.unwrap_or_default().iter().find(|shown| shown.number == number) else { return false };
        if let Some(reply) = &shown.reply {
            self.receipts.send(vendor, Kind::Clicked, token, reply);
        }
        true
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
            shown.iter().filter(|s| s.number > after).take(TRAY_PAGE).cloned().collect::<Vec<_>>()
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
