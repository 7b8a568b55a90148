//! Devices that are connected while the store thinks otherwise: they are asked to greet again.
//!
//! The same after a certificate was put in: a device whose binding was refused for want of it binds again.
//!
//! After a restore the store's picture is older than the world. An idle device publishes nothing, so one is
//! asked when it is heard, and all are asked once when a gateway starts beside a broker that stayed.

use super::clock::now_ms;
use super::neighbours::Neighbours;
use super::outgoing::{NotHanded, Wire};
use super::store::{Order, Store, StoreError};
use crate::ids::Nonce;
use crate::protocol::{Address, Down};
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};
use tracing::info;

/// A device is looked at once in this time.
const WINDOW: Duration = Duration::from_secs(60);
/// Devices looked at in one window; beyond it the next window comes to them.
const REMEMBERED: usize = 100_000;
/// A connection's state is said before its hello, which has this long to come.
const GRACE: Duration = Duration::from_secs(3);
/// Hellos that are waited for at once.
const AWAITED: usize = 10_000;
/// Apps whose devices wait to be asked.
const APPS: usize = 64;
/// Changes of an app within this time are asked about together.
const TOGETHER: Duration = Duration::from_millis(500);
/// Devices asked at a gateway's start or after such a change, each second.
const A_SECOND: usize = 200;

/// Clones share what was looked at.
#[derive(Clone)]
pub(super) struct Mending {
    looked: Arc<Mutex<(Instant, HashSet<Address>)>>,
    awaited: Arc<Semaphore>,
}

impl Mending {
    pub fn new() -> Self {
        Self {
            looked: Arc::new(Mutex::new((Instant::now(), HashSet::new()))),
            awaited: Arc::new(Semaphore::new(AWAITED)),
        }
    }

    fn first_look(&self, address: &Address, now: Instant) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(looked.0) >= WINDOW {
            *looked = (now, HashSet::new());
        }
        // Most words come from a device that was looked at: those cost no copy.
        looked.1.len() < REMEMBERED && !looked.1.contains(address) && looked.1.insert(address.clone())
    }

    /// The device said something. Returns the question, if the store does not know that it is connected.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn heard(&self, store: &Store, address: &Address) -> Result<Option<Down>, StoreError> {
        if !self.first_look(address, Instant::now()) {
            return Ok(None);
        }
        // In a box: it is rare, and would be room in each word's future.
        Ok((!Box::pin(store.is_connected(address.clone(), None)).await?).then(question))
    }

    /// The device says which connection it has; the hello of that connection usually comes right behind.
    pub fn appeared(&self, store: Store, wire: Wire, address: Address, nonce: Nonce) {
        let Ok(place) = self.awaited.clone().try_acquire_owned() else { return };
        let this = self.clone();
        tokio::spawn(async move {
            let _place = place;
            tokio::time::sleep(GRACE).await;
            match store.is_connected(address.clone(), Some(nonce)).await {
                Ok(false) if this.first_look(&address, Instant::now()) => {
                    let _ = wire.publish(address, &question()).await;
                }
                Ok(_) => {}
                Err(error) => {
                    error.tell("it is not known whether a device greeted; it will be looked at when it is heard");
                }
            }
        });
    }
}

fn question() -> Down {
    Down::Settings { nonce: Some(Nonce::foreign()), heartbeat_ceiling_s: None, bindings: None, token: None, ca: None }
}

/// Asks every device with a login that has not greeted since now, wherever the store thinks that it is.
///
/// # Errors
/// [`StoreError`]; who was not asked yet is not asked.
pub(super) async fn ask_all(store: &Store, wire: &Wire) -> Result<(), StoreError> {
    let since_ms = now_ms();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let mut asked = 0_u64;
    let mut after = None;
    loop {
        ticks.tick().await;
        let page = store.not_heard_since(after.clone(), since_ms, A_SECOND).await?;
        let Some(last) = page.last().cloned() else { break };
        after = Some(last);
        for address in page {
            while wire.publish(address.clone(), &question()).await == Err(NotHanded::Away) {
                ticks.tick().await;
            }
            asked += 1;
        }
    }
    info!(event = "devices.asked", count = asked, "devices of the store were asked to greet again");
    Ok(())
}

/// Asks everybody who is connected to this process to greet again: the store may hold them as away.
pub(super) async fn ask_here(wire: &Wire) {
    let Some(table) = wire.table() else { return };
    let payload = Bytes::from(question().encode());
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    for part in table.clients().chunks(A_SECOND) {
        ticks.tick().await;
        part.iter().for_each(|client| table.say(client, payload.clone()));
    }
}

/// Asks an app's connected devices to greet again when what their bindings stand on has changed; clones share it.
#[derive(Clone)]
pub struct Asking(mpsc::Sender<(String, By)>);

/// Where an app's certificate was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Us,
    Neighbour,
}

impl Asking {
    /// Starts the task that asks, until the last clone is gone.
    pub fn start(store: Store, wire: Wire, neighbours: Neighbours) -> Self {
        let (sender, mut queue) = mpsc::channel::<(String, By)>(APPS);
        tokio::spawn(async move {
            while let Some(first) = queue.recv().await {
                // Whoever puts several in is asked about once.
                tokio::time::sleep(TOGETHER).await;
                let mut apps = BTreeMap::from([first]);
                while let Ok((app, by)) = queue.try_recv() {
                    let of = apps.entry(app).or_insert(by);
                    if by == By::Us {
                        *of = by;
                    }
                }
                for (app, by) in apps {
                    if by == By::Us && store.is_shared() {
                        match store.order_elsewhere(Order::Ask { app: app.clone() }).await {
                            Ok(()) => neighbours.all_look_at_orders(),
                            Err(error) => error.tell("other gateways' devices could not be asked to greet again"),
                        }
                    }
                    if let Err(error) = ask_app(&store, &wire, &app).await {
                        error.tell("not every device could be asked to greet again");
                    }
                }
            }
        });
        Self(sender)
    }

    /// A certificate was put in or switched on. With too many at once it is left to the devices, which ask again
    /// within minutes.
    pub fn changed(&self, app: &str) {
        let _ = self.0.try_send((app.to_owned(), By::Us));
    }

    /// The same, at another gateway.
    pub fn changed_elsewhere(&self, app: &str) {
        let _ = self.0.try_send((app.to_owned(), By::Neighbour));
    }
}

async fn ask_app(store: &Store, wire: &Wire, app: &str) -> Result<(), StoreError> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let mut after = None;
    loop {
        ticks.tick().await;
        let page = store.connected_of(app.to_owned(), after, A_SECOND).await?;
        after = page.last().cloned();
        if after.is_none() {
            return Ok(());
        }
        for address in page {
            let _ = wire.publish(address, &question()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_looked_at_once_a_minute() {
        let (mending, start) = (Mending::new(), Instant::now());
        let address = Address::new("org#app", "ann", "phone").expect("an address");
        let other = Address::new("org#app", "ann", "tablet").expect("an address");
        assert!(mending.first_look(&address, start));
        assert!(!mending.first_look(&address, start + Duration::from_secs(30)));
        assert!(mending.first_look(&other, start + Duration::from_secs(30)));
        assert!(mending.first_look(&address, start + Duration::from_secs(61)));
    }
}
