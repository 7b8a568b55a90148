//! Many connections of the load, what they count together, and waiting for what they come to.

use super::client::{Who, Wish, live};
use crate::mqtt::{MqttError, client_config};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(2);

/// Where a crowd connects to.
#[derive(Debug)]
pub(super) struct Target {
    pub address: SocketAddr,
    pub name: ServerName<'static>,
    config: Arc<ClientConfig>,
    /// Connections that are on their way in at once.
    pub turns: Semaphore,
}

impl Target {
    /// # Errors
    /// A sentence about the authority's file.
    pub fn new(address: SocketAddr, ca_file: &Path, turns: usize) -> Result<Self, String> {
        let config = client_config(Some(ca_file), None).map_err(|e| e.to_string())?;
        let mut config = Arc::unwrap_or_clone(config);
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from("localhost").map_err(|e| e.to_string())?;
        Ok(Self { address, name, config: Arc::new(config), turns: Semaphore::new(turns) })
    }

    /// The same for one client, which keeps its tickets.
    pub fn with_tickets(&self, turns: usize) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::in_memory_sessions(1);
        Self { address: self.address, name: self.name.clone(), config: Arc::new(config), turns: Semaphore::new(turns) }
    }

    pub fn tls(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }
}

/// What clients have seen.
#[derive(Debug)]
pub(super) struct Counts {
    start: Instant,
    pub online: AtomicUsize,
    /// Connections whose TLS session was resumed.
    pub resumed: AtomicU64,
    pub received: AtomicU64,
    /// Messages whose acknowledgement was sent, and in how many words.
    pub acked: AtomicU64,
    pub words: AtomicU64,
    /// Words that the gateway has stored.
    pub answered: AtomicU64,
    failures: Mutex<BTreeMap<String, u64>>,
    times_us: Mutex<Vec<u64>>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            online: AtomicUsize::new(0),
            resumed: AtomicU64::new(0),
            received: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            words: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            failures: Mutex::default(),
            times_us: Mutex::default(),
        }
    }
}

impl Counts {
    /// For a message's body: when it was sent.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub fn took(&self, sent_us: u64) {
        let took = self.now_us().saturating_sub(sent_us);
        self.times_us.lock().unwrap_or_else(PoisonError::into_inner).push(took);
    }

    /// Milliseconds of the messages since this was asked last, the shortest first.
    pub fn times_ms(&self) -> Vec<f64> {
        let mut times = std::mem::take(&mut *self.times_us.lock().unwrap_or_else(PoisonError::into_inner));
        times.sort_unstable();
        times.into_iter().map(|us| us as f64 / 1000.0).collect()
    }

    pub fn failed(&self, error: &MqttError) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.entry(format!("{}: {}", error.cause.as_str(), error.detail)).or_default() += 1;
    }

    /// Why connections failed or ended, and how often, since this was asked last.
    pub fn failures(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *self.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Connections that live until it is dropped.
#[derive(Debug)]
pub(super) struct Crowd {
    pub counts: Arc<Counts>,
    wish: watch::Sender<Wish>,
    tasks: JoinSet<()>,
}

impl Crowd {
    pub fn new() -> Self {
        Self { counts: Arc::default(), wish: watch::Sender::new(Wish::Stay(0)), tasks: JoinSet::new() }
    }

    pub fn add(&mut self, who: Who, target: &Arc<Target>) {
        self.tasks.spawn(live(who, target.clone(), self.counts.clone(), self.wish.subscribe()));
    }

    pub fn online(&self) -> usize {
        self.counts.online.load(Ordering::Relaxed)
    }

    /// Seconds until so many are online.
    ///
    /// # Errors
    /// A sentence with what went wrong, when they are not within the limit.
    pub async fn all_online(&self, wanted: usize, limit: Duration) -> Result<f64, String> {
        let started = Instant::now();
        while self.online() < wanted {
            if started.elapsed() > limit {
                let failures = self.counts.failures();
                return Err(format!("{} of {wanted} online after {} s: {failures:?}", self.online(), limit.as_secs()));
            }
            sleep(LOOK).await;
        }
        Ok(started.elapsed().as_secs_f64())
    }

    /// Waits until a count has so much.
    ///
    /// # Errors
    /// A sentence when it has not within the limit.
    pub async fn until(&self, what: &str, wanted: u64, count: impl Fn(&Counts) -> u64) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(180);
        while count(&self.counts) < wanted {
            if Instant::now() > deadline {
                let (seen, failures) = (count(&self.counts), self.counts.failures());
                return Err(format!("{seen} of {wanted} {what}: {failures:?}"));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Resets every connection at the same moment, as when their network is gone; they come back by themselves.
    pub fn reset(&self) {
        self.wish.send_modify(|wish| {
            if let Wish::Stay(turn) = wish {
                *turn += 1;
            }
        });
    }

    /// Ends every connection and waits until they have ended.
    pub async fn leave(mut self) {
        self.wish.send_replace(Wish::Leave);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        // One that pauses is ended with the set.
        drop(tokio::time::timeout(Duration::from_secs(10), all).await);
    }
}
