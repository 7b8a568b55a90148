//! The state directory at the start: what cannot be read now is waited for, and nothing is made in its place.

use super::control::{Refusal, Request};
use super::disk::blocking;
use crate::device::Machine;
use crate::ids::AppId;
use crate::service::Service;
use crate::store::{OpenError, Store};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{error, info};

/// Pause before it is tried again; it doubles.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MOST: Duration = Duration::from_secs(30);

/// What the store is opened with.
pub(super) struct Opening {
    pub state_directory: PathBuf,
    pub machine: Machine,
    pub app: AppId,
}

impl Opening {
    pub async fn once(&self) -> Result<Store, OpenError> {
        let (path, machine, app) = (self.state_directory.clone(), self.machine.clone(), self.app.clone());
        blocking(move || Store::open(&path, &machine, app.as_ref())).await
    }

    /// Tries until the store can be opened; meanwhile whoever asks the agent hears the reason.
    ///
    /// # Errors
    /// [`OpenError::InUse`]: another agent has taken it.
    pub async fn until_it_can(
        &self,
        mut refused: OpenError,
        service: &mut Service,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Result<Store, OpenError> {
        let mut said = String::new();
        let mut pause = AGAIN;
        loop {
            let why = refused.to_string();
            if why != said {
                error!(
                    event = "store.unusable",
                    why, "the agent cannot begin without its state; it is tried again every 30 s or sooner"
                );
                service.status(format!("waiting: {why}"));
                said = why;
            }
            tokio::time::timeout(pause, refuse(requests, &said)).await.unwrap_or_default();
            service.alive(super::clock::now());
            pause = (pause * 2).min(AGAIN_MOST);
            refused = match self.once().await {
                Ok(store) => {
                    info!(event = "store.usable", "the state can be used again");
                    return Ok(store);
                }
                Err(in_use @ OpenError::InUse { .. }) => return Err(in_use),
                Err(error) => error,
            };
        }
    }
}

async fn refuse(requests: &mut mpsc::Receiver<Request>, why: &str) {
    while let Some(Request { reply, .. }) = requests.recv().await {
        // A peer that went away no longer wants its answer.
        drop(reply.send(Err(Refusal::new(503, "state_unusable", why.to_owned()))));
    }
    std::future::pending().await
}
