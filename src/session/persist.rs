//! What must follow a change on the disk, and what is still owed to it.

use super::{Action, Ended, Event, LocalApp, Login, Now, Reports, Saved, Session, Timer};
use crate::binding::Ledger;
use crate::keepalive::Record;
use crate::secret::Secret;
use crate::vendors::Vendor;
use std::collections::BTreeMap;
use std::time::Duration;
use tracing::{info, warn};

/// Pause before what the disk refused is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// One file's worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The device id, which the shell's store holds.
    Identity,
    Login,
    Tokens,
    Plugin,
    Ledger,
    Heartbeat,
    Reports,
    Ended,
    Clock,
    LocalApps,
}

/// A new value for one file.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The device id that the session was given; it could not be stored before.
    Identity,
    Login(Option<Login>),
    Tokens(BTreeMap<Vendor, Secret>),
    Plugin(BTreeMap<Vendor, String>),
    Ledger(Ledger),
    Heartbeat(Vec<Record>),
    Reports(Reports),
    Ended(Option<Ended>),
    Clock(Option<u64>),
    LocalApps(BTreeMap<String, LocalApp>),
}

impl Change {
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Identity => Kind::Identity,
            Self::Login(_) => Kind::Login,
            Self::Tokens(_) => Kind::Tokens,
            Self::Plugin(_) => Kind::Plugin,
            Self::Ledger(_) => Kind::Ledger,
            Self::Heartbeat(_) => Kind::Heartbeat,
            Self::Reports(_) => Kind::Reports,
            Self::Ended(_) => Kind::Ended,
            Self::Clock(_) => Kind::Clock,
            Self::LocalApps(_) => Kind::LocalApps,
        }
    }
}

impl Saved {
    pub(super) fn change(&self, kind: Kind) -> Change {
        match kind {
            Kind::Identity => Change::Identity,
            Kind::Login => Change::Login(self.login.clone()),
            Kind::Tokens => Change::Tokens(self.tokens.clone()),
            Kind::Plugin => Change::Plugin(self.plugin.clone()),
            Kind::Ledger => Change::Ledger(self.ledger.clone()),
            Kind::Heartbeat => Change::Heartbeat(self.heartbeat.clone()),
            Kind::Reports => Change::Reports(self.reports.clone()),
            Kind::Ended => Change::Ended(self.ended.clone()),
            Kind::Clock => Change::Clock(self.confirmed_ms),
            Kind::LocalApps => Change::LocalApps(self.local_apps.clone()),
        }
    }
}

/// Changes on their way to the disk, by the version that was last handed over.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    versions: BTreeMap<Kind, u64>,
    last: u64,
    /// The disk refused, and has been said to.
    failing: bool,
}

impl Unsaved {
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.versions.keys().copied()
    }

    pub fn failing(&self) -> bool {
        self.failing
    }
}

impl Session {
    /// Hands the present value over to the disk. It is owed until the disk has it.
    pub(super) fn persist(&mut self, kind: Kind) {
        self.unsaved.last += 1;
        let version = self.unsaved.last;
        self.unsaved.versions.insert(kind, version);
        let change = self.saved.change(kind);
        self.act(Action::Persist { change, version });
    }

    pub(super) fn save_ledger(&mut self) {
        self.saved.ledger = self.binding.ledger().clone();
        self.persist(Kind::Ledger);
    }

    pub(super) fn save_heartbeat(&mut self) {
        self.saved.heartbeat = self.heartbeat.records().to_vec();
        self.persist(Kind::Heartbeat);
    }

    pub(super) fn on_persisted(&mut self, now: Now, kind: Kind, version: u64) {
        if self.unsaved.versions.get(&kind) == Some(&version) {
            self.unsaved.versions.remove(&kind);
        }
        if self.unsaved.failing {
            // The disk takes something again: whatever else is owed is tried now.
            self.timers.set(Timer::Persist, now.at);
        }
        if self.unsaved.failing && self.unsaved.versions.is_empty() {
            self.unsaved.failing = false;
            self.timers.clear(Timer::Persist);
            info!(event = "store.recovered", "the state directory can be written again; nothing is owed to it");
        }
        self.stored(now, kind, version);
    }

    pub(super) fn on_persist_failed(&mut self, now: Now, kind: Kind, version: u64, why: &str) {
        if !self.unsaved.failing {
            self.unsaved.failing = true;
            warn!(
                event = "store.failed",
                why, "the state directory cannot be written; the agent goes on and tries again"
            );
        }
        self.timers.set(Timer::Persist, now.at + AGAIN);
        self.not_stored(kind, version, why);
    }

    pub(super) fn persist_again(&mut self) {
        for kind in self.unsaved.versions.keys().copied().collect::<Vec<_>>() {
            self.persist(kind);
        }
    }

    /// The version under which the last change was handed over.
    pub(super) fn last_version(&self) -> u64 {
        self.unsaved.last
    }
}

impl Event {
    /// What a shell tells after a write.
    pub fn persisted(kind: Kind, version: u64, outcome: std::io::Result<()>) -> Self {
        match outcome {
            Ok(()) => Self::Persisted { kind, version },
            Err(error) => Self::PersistFailed { kind, version, why: error.to_string() },
        }
    }
}
