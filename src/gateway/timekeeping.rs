//! Follows the clock of a shared database, and says how far this machine's own is from it.

use super::clock::{Believed, Distance, Jumped, boot, now_ms, set};
use super::metrics::Metrics;
use super::store::{Store, StoreError};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the database is asked for its time: crystals part by less than a millisecond meanwhile.
const EVERY: std::time::Duration = std::time::Duration::from_secs(30);

/// Clones share it.
#[derive(Debug, Clone)]
pub struct Timekeeping {
    store: Store,
    metrics: Metrics,
    far: Arc<Mutex<Option<Distance>>>,
    believed: Arc<Mutex<Believed>>,
}

impl Timekeeping {
    /// After the first measure, without which nothing is timed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn start(store: Store, metrics: Metrics) -> Result<Self, StoreError> {
        let this = Self { store, metrics, far: Arc::default(), believed: Arc::default() };
        this.measure().await?;
        Ok(this)
    }

    /// Until `stop`; at once with a file of one's own.
    pub async fn run(self, stop: CancellationToken) {
        while self.store.is_shared() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            if let Err(error) = self.measure().await {
                error.tell("the database could not be asked for its time; it is counted on from the last answer");
            }
        }
    }

    async fn measure(&self) -> Result<(), StoreError> {
        let Some(distance) = self.store.time().await?.and_then(set) else { return Ok(()) };
        self.metrics.clock_ahead(distance.ahead_ms);
        let mut far = self.far.lock().unwrap_or_else(PoisonError::into_inner);
        let Distance { ahead_ms, within_ms } = distance;
        match (distance.is_far(), far.is_some()) {
            (true, false) => {
                warn!(
                    event = "clock.differs",
                    ahead_ms,
                    within_ms,
                    "this machine's clock is not the database's; the database's is used. Set it, as with NTP"
                );
            }
            (false, true) => {
                info!(event = "clock.agrees", ahead_ms, within_ms, "this machine's clock is the database's")
            }
            _ => {}
        }
        *far = Some(distance).filter(|distance| distance.is_far());
        Ok(())
    }

    /// How far this machine's clock is from the store's, where that is too far.
    pub fn far(&self) -> Option<Distance> {
        *self.far.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is over by now may be removed: by a fresh measure, and unless the clock jumped.
    ///
    /// # Errors
    /// [`StoreError`]: the store could not be asked.
    pub async fn may_sweep(&self) -> Result<bool, StoreError> {
        self.measure().await?;
        let looked = self.believed.lock().unwrap_or_else(PoisonError::into_inner).look(boot(), now_ms());
        if let Err(Jumped { ahead_ms, new: true }) = looked {
            warn!(
                event = "clock.jumped",
                ahead_ms,
                "the store's clock jumped ahead: nothing is removed for its age until it is set right, or for a day"
            );
        }
        Ok(looked.is_ok())
    }
}
