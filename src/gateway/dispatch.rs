//! Carries deliveries out: publishes, watches deadlines, calls vendors, notes what came of it.

mod accepting;
mod carrying;
mod finishing;
mod rounds;
mod telling;

use super::alarm::Alarm;
use super::calls::Calls;
use super::clock::now_ms;
use super::endings::refused;
use super::events::CLOCKS_MS;
use super::held::Held;
use super::mending::Mending;
use super::neighbours::Neighbours;
use super::outgoing::Wire;
use super::push::Push;
use super::renewal::Renewal;
use super::store::{Acked, Bind, BindReply, Look, Reach, Recall, Store, StoreError, Welcome};
use crate::delivery::Rules;
use crate::ids::{MessageId, Nonce};
use crate::protocol::{Address, BindingReport, BindingState, Down, Hello, Message, Presence};
use crate::secret::fingerprint;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// Shared by the API, the wire and the timer; each message has a clone of its own.
#[derive(Clone)]
pub struct Dispatch(Arc<Parts>);

pub struct Parts {
    pub(super) store: Store,
    pub(super) wire: Wire,
    pub(super) neighbours: Neighbours,
    push: Push,
    held: Held,
    renewal: Renewal,
    mending: Mending,
    /// The authority that devices are told of.
    coming: Mutex<Option<String>>,
    /// As they are now; the operator may change them.
    rules: watch::Receiver<Rules>,
    alarm: Alarm,
    /// Vendor calls under way.
    calls: Calls,
    /// Recalls under way: they neither wait for sends nor hold them up.
    recalls: Arc<Semaphore>,
    pub(super) tasks: TaskTracker,
}

impl std::ops::Deref for Dispatch {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Dispatch {
    pub fn new(
        store: Store,
        (wire, neighbours): (Wire, Neighbours),
        push: Push,
        renewal: Renewal,
        rules: watch::Receiver<Rules>,
        concurrency: usize,
    ) -> Self {
        Self(Arc::new(Parts {
            store,
            wire,
            neighbours,
            push,
            held: Held::default(),
            renewal,
            mending: Mending::new(),
            coming: Mutex::default(),
            rules,
            alarm: Alarm::default(),
            calls: Calls::new(concurrency),
            recalls: Arc::new(Semaphore::new(concurrency.div_ceil(4))),
            tasks: TaskTracker::new(),
        }))
    }

    pub(super) fn rules(&self) -> Rules {
        *self.rules.borrow()
    }

    /// What can be done at once.
    fn reach(&self, calls: usize) -> Reach {
        Reach { broker: self.wire.is_up(), calls }
    }

    /// Whether there is a connection to the broker.
    pub fn has_broker(&self) -> bool {
        self.wire.is_up()
    }

    /// Something has come due.
    pub fn on_due(&self) {
        self.alarm.ring(now_ms());
    }

    /// There is a connection to the broker again.
    pub fn on_broker_up(&self) {
        let this = self.clone();
        self.tasks.spawn(async move {
            if report(this.store.broker_is_back(now_ms()).await) == Some(true) {
                this.alarm.ring(now_ms());
            }
        });
    }

    /// Devices are told of the authority that the endpoint's certificate will be of, from now on.
    pub fn tell_authority(&self, pem: Option<String>) {
        *self.coming.lock().unwrap_or_else(PoisonError::into_inner) = pem;
    }

    fn welcome(&self, nonce: Option<Nonce>, bindings: Vec<BindingReport>) -> Down {
        let ca = self.coming.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Down::Settings { nonce, heartbeat_ceiling_s: None, bindings: Some(bindings), token: None, ca }
    }

    /// Returns what the device is told: its welcome and what it missed, or that its login has ended.
    pub async fn on_hello(&self, address: Address, hello: Hello) -> Result<Vec<Down>, StoreError> {
        let (channel, nonce) = (hello.channel.clone(), Some(hello.nonce.clone()));
        if hello.check {
            return Ok(vec![match self.store.look(address.clone(), hello, now_ms()).await? {
                Look::In(bindings) => self.welcome(nonce, self.with_failing(&address, bindings).await?),
                Look::Out(kick) => refused(&address, kick),
            }]);
        }
        match self.store.hello(address.clone(), hello, self.rules(), now_ms()).await? {
            Welcome::In { missed, kicked, bindings, cloned, left } => {
                left.iter().for_each(|node| self.neighbours.look_at_orders(node));
                if cloned {
                    warn!(event = "device.cloned", device = %address, "two machines greet as this device and take each other's place; run `impush reset-identity` on one of them");
                }
                info!(event = "device.online", device = %address, channel, missed = missed.len(), "device connected");
                if !missed.is_empty() {
                    self.alarm.ring(now_ms() + self.rules().ack_deadline_ms);
                }
                self.tell_kicked(kicked);
                let bindings = self.with_failing(&address, bindings).await?;
                Ok(missed.into_iter().map(Down::Message).chain([self.welcome(nonce, bindings)]).collect())
            }
            Welcome::Out(kick) => Ok(vec![refused(&address, kick)]),
        }
    }

    /// What the store does not know: whose certificate's pushes have failed for long.
    async fn with_failing(
        &self,
        address: &Address,
        mut bindings: Vec<BindingReport>,
    ) -> Result<Vec<BindingReport>, StoreError> {
        if !self.push.any_failing() {
            return Ok(bindings);
        }
        for report in bindings.iter_mut().filter(|report| report.state.may_be_rested_on()) {
            let found = self.store.certificate(address.app.to_string(), report.notifier.clone()).await?;
            let Some(open) = found.and_then(|certificate| self.push.failing(&certificate)) else { continue };
            report.state = BindingState::Failing;
            report.since_ms = Some(open.since_ms);
            report.code = Some(open.reason);
        }
        Ok(bindings)
    }

    pub async fn on_offline(&self, address: Address, nonce: Nonce) -> Result<(), StoreError> {
        if self.store.went_offline(address.clone(), nonce, self.rules(), now_ms()).await? {
            info!(event = "device.offline", device = %address, "device disconnected");
            self.alarm.ring(now_ms());
        }
        Ok(())
    }

    /// The device's token comes to its end: it is given a new one.
    pub async fn on_renew(&self, address: &Address) -> Result<Option<Down>, StoreError> {
        self.renewal.renew(&self.store, address).await
    }

    /// The device's token is over, and it may do nothing but have it renewed.
    pub fn is_overdue(&self, address: &Address) -> bool {
        self.renewal.is_overdue(address)
    }

    /// The device said something other than its hello.
    pub async fn on_heard(&self, address: &Address) -> Result<Option<Down>, StoreError> {
        self.mending.heard(&self.store, address).await
    }

    pub fn on_online(&self, address: Address, nonce: Nonce) {
        self.mending.appeared(self.store.clone(), self.wire.clone(), address, nonce);
    }

    /// The broker says that some connection of the device was over at this moment, by its clock.
    pub async fn on_gone(&self, address: Address, at_ms: u64) -> Result<(), StoreError> {
        let before_ms = at_ms.saturating_sub(CLOCKS_MS);
        let under_way = self.store.doubted(address.clone(), before_ms, self.rules(), now_ms()).await?;
        if under_way > 0 {
            info!(event = "device.doubted", device = %address, under_way, "the broker says that the device is gone");
            self.alarm.ring(now_ms());
        }
        Ok(())
    }

    pub async fn on_bind(&self, address: Address, sequence: u64, bind: Bind) -> Result<BindReply, StoreError> {
        let described = match &bind {
            Bind::Set { notifier, token } => format!("{notifier} {}", fingerprint(token)),
            Bind::Remove { notifier, logout } => {
                format!("remove {} logout={logout}", notifier.as_deref().unwrap_or("all"))
            }
        };
        let (reply, recalls) = self.store.bind(address.clone(), sequence, bind, self.rules(), now_ms()).await?;
        self.take_back(recalls);
        info!(event = "binding.changed", device = %address, sequence, binding = described, reply = ?reply, "binding request");
        Ok(reply)
    }

    /// The same on behalf of an app's server.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn bind_by_api(&self, address: Address, bind: Bind) -> Result<BindReply, StoreError> {
        let (reply, recalls) = self.store.bind_by_api(address, bind, self.rules(), now_ms()).await?;
        self.take_back(recalls);
        Ok(reply)
    }

    /// Returns what the device is sent next: it is told of what it missed in batches.
    pub async fn on_ack(
        &self,
        address: Address,
        ids: Vec<MessageId>,
        attached: Option<bool>,
    ) -> Result<Vec<Message>, StoreError> {
        let (now, rules) = (now_ms(), self.rules());
        let acked = self.store.acked(address, ids, attached, rules, now).await?;
        match attached {
            Some(false) => self.alarm.ring(now),
            Some(true) => self.alarm.ring(now + rules.ack_deadline_ms),
            None => {}
        }
        Ok(self.next_of(acked))
    }

    /// Returns the same as [`Self::on_ack`].
    pub async fn on_taken(
        &self,
        address: Address,
        ids: Vec<MessageId>,
        woke: Vec<MessageId>,
    ) -> Result<Vec<Message>, StoreError> {
        let taken = self.store.taken(address, (ids, woke), self.rules(), now_ms()).await?;
        Ok(self.next_of(taken))
    }

    pub async fn on_presence(&self, address: Address, presence: Presence) -> Result<(), StoreError> {
        self.store.attached(address, presence == Presence::Attached, now_ms()).await?;
        // What others were held back for may be over.
        self.alarm.ring(now_ms());
        Ok(())
    }

    fn next_of(&self, Acked { more, recalls }: Acked) -> Vec<Message> {
        self.take_back(recalls);
        if !more.is_empty() {
            self.alarm.ring(now_ms() + self.rules().ack_deadline_ms);
        }
        more
    }

    /// The messages are with an app: their notifications go, where the vendor can take them back.
    pub(super) fn take_back(&self, recalls: Vec<Recall>) {
        let mut by_certificate: HashMap<(String, String), Vec<Recall>> = HashMap::new();
        for recall in recalls {
            by_certificate.entry((recall.address.app.to_string(), recall.notifier.clone())).or_default().push(recall);
        }
        for ((app, notifier), recalls) in by_certificate {
            let this = self.clone();
            self.tasks.spawn(async move {
                // A certificate that is gone takes nothing back.
                let Some(Some(certificate)) = report(this.store.certificate(app, notifier).await) else { return };
                let certificate = Arc::new(certificate);
                for recall in recalls {
                    // As many at once as sends, and beside them.
                    let Ok(permit) = this.recalls.clone().acquire_owned().await else { return };
                    let (dispatch, certificate) = (this.clone(), certificate.clone());
                    this.tasks.spawn(async move {
                        if let Some(said) = dispatch.push.recall(&certificate, &recall).await {
                            let _ = report(dispatch.store.recalled(recall, said, now_ms()).await);
                        }
                        drop(permit);
                    });
                }
            });
        }
    }

    /// A device tells that a notification was shown or opened.
    pub async fn on_receipt(&self, address: Address, id: MessageId, event: String) -> Result<(), StoreError> {
        let word = if ["arrived", "clicked"].contains(&event.as_str()) { event } else { "other".to_owned() };
        self.push.metrics.received("device", &word);
        self.store.seen(address, id, word, now_ms()).await.map(drop)
    }
}

/// What went well; what did not is said, and will be done again.
fn report<T>(result: Result<T, StoreError>) -> Option<T> {
    result
        .inspect_err(|error| error.tell("a delivery's progress could not be stored or read; it will be done again"))
        .ok()
}
