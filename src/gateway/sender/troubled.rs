//! Which certificates got into trouble, by name: the circuits know them by their identity alone.

use super::circuit::Circuits;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// A certificate whose vendor is not called now, or refuses each of its notifications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InTrouble {
    pub app: String,
    pub name: String,
    /// One that was replaced since is another.
    pub identity: String,
    pub out_of_use: bool,
    pub rejecting: bool,
}

/// App and name by the identity.
#[derive(Debug, Default)]
pub(super) struct Troubled(Mutex<HashMap<String, (String, String)>>);

impl Troubled {
    pub fn note(&self, identity: &str, app: &str, name: &str) {
        // Plain data; a panic elsewhere cannot have left it half changed.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(identity.to_owned(), (app.to_owned(), name.to_owned()));
    }

    /// Those that still are; the others are forgotten.
    pub fn now(&self, circuits: &Circuits) -> Vec<InTrouble> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        all.retain(|identity, (app, name)| {
            let (out_of_use, rejecting) = (circuits.open(identity).is_some(), circuits.rejecting(identity).is_some());
            if out_of_use || rejecting {
                let (app, name) = (app.clone(), name.clone());
                found.push(InTrouble { app, name, identity: identity.clone(), out_of_use, rejecting });
            }
            out_of_use || rejecting
        });
        found
    }

    /// It was replaced or taken away.
    pub fn forget(&self, identity: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(identity);
    }
}
