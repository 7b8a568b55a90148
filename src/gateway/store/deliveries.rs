//! Messages on their way: publishing, acknowledgements, and what waits for a device.

use super::ready::usable;
use super::sql::{OptionalExtension as _, Transaction, params};
use super::traces::note;
use super::{Kick, Look, Recall, Store, StoreError, Welcome, as_i64, clones, devices, kicks, standing, users};
use crate::gateway::delivery::{Ack, AfterAck, Hop, Rules, State, after_ack};
use crate::gateway::policy::Stop;
use crate::ids::{MessageId, Nonce};
use crate::protocol::{Address, Hello, KickCode, Message};

/// Messages under way to a device that are not acknowledged. A broker may lose an acknowledgement, so the next
/// ones do not wait for the last: half of these are enough.
const WINDOW: u32 = 500;

/// What an acknowledgement led to.
#[derive(Debug, Clone, PartialEq)]
pub struct Acked {
    /// What the device is sent next.
    pub more: Vec<Message>,
    pub recalls: Vec<Recall>,
}

pub(super) fn set_state(
    t: &Transaction<'_>,
    message: &str,
    device: &str,
    state: State,
    nonce: &str,
    due_ms: Option<u64>,
) -> Result<(), StoreError> {
    t.prepare_cached("UPDATE deliveries SET state = ?3, nonce = ?4, due_ms = ?5 WHERE message = ?1 AND device = ?2")?
        .execute(params![message, device, state.as_str(), nonce, due_ms.map(as_i64)])?;
    Ok(())
}

/// The device has it, or nobody will.
fn set_done(t: &Transaction<'_>, message: &str, device: &str) -> Result<(), StoreError> {
    t.prepare_cached(
        "UPDATE deliveries SET state = 'done', open = NULL, nonce = '', due_ms = NULL WHERE message = ?1 AND device = ?2",
    )?
    .execute(params![message, device])?;
    Ok(())
}

/// A delivery that is not done.
struct Open {
    state: State,
    notifier: Option<String>,
    vendor_id: Option<String>,
}

impl Open {
    /// Its notification, if the vendor may be able to take it back.
    fn recall(&self, t: &Transaction<'_>, address: &Address, id: &MessageId) -> Result<Option<Recall>, StoreError> {
        let (State::Pushed, Some(notifier), Some(vendor_id)) = (self.state, &self.notifier, &self.vendor_id) else {
            return Ok(None);
        };
        let (address, message, notifier, vendor_id) =
            (address.clone(), id.clone(), notifier.clone(), vendor_id.clone());
        let token = devices::token(t, &address, &notifier)?;
        Ok(Some(Recall { address, message, notifier, token, vendor_id }))
    }
}

fn open(t: &Transaction<'_>, address: &Address, id: &str) -> Result<Option<Open>, StoreError> {
    let Address { app, user, device } = address;
    type Row = (String, Option<String>, Option<String>);
    let found: Option<Row> = t
        .prepare_cached(
            "SELECT state, notifier, vendor_id FROM deliveries WHERE message = ?1 AND device = ?2 AND app = ?3 AND user = ?4",
        )?
        .query_row(params![id, device, app, user], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .optional()?;
    Ok(found.and_then(|(state, notifier, vendor_id)| {
        let state = State::parse(&state).filter(|state| *state != State::Done)?;
        Some(Open { state, notifier, vendor_id })
    }))
}

/// It lies on the device's disk, of the login that is there now, and is not under way to it any more. Without
/// `due_ms` what is due stays so where the state stays.
fn keep(t: &Transaction<'_>, address: &Address, id: &str, state: State, due_ms: Option<u64>) -> Result<(), StoreError> {
    let Address { app, user, device } = address;
    t.prepare_cached(
        "UPDATE deliveries SET due_ms = COALESCE(CAST(?6 AS INTEGER), CASE WHEN state = ?5 THEN due_ms END),
         state = ?5, nonce = '', acked_by = (SELECT login FROM devices WHERE app = ?3 AND user = ?4 AND device = ?2)
         WHERE message = ?1 AND device = ?2",
    )?
    .execute(params![id, device, app, user, state.as_str(), due_ms.map(as_i64)])?;
    Ok(())
}

fn set_attached(t: &Transaction<'_>, address: &Address, attached: bool) -> Result<(), StoreError> {
    let Address { app, user, device } = address;
    t.prepare_cached(
        "UPDATE devices SET attached = ?4 WHERE app = ?1 AND user = ?2 AND device = ?3 AND attached <> ?4",
    )?
    .execute(params![app, user, device, attached])?;
    Ok(())
}

/// What the device is sent next, once it has most of what it was sent.
fn more(t: &Transaction<'_>, address: &Address, rules: Rules, now_ms: u64) -> Result<Vec<Message>, StoreError> {
    let Address { app, user, device } = address;
    let (online, nonce): (bool, String) = t
        .prepare_cached("SELECT online, nonce FROM devices WHERE app = ?1 AND user = ?2 AND device = ?3")?
        .query_row(params![app, user, device], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?
        .unwrap_or_default();
    if !online || nonce.is_empty() {
        return Ok(Vec::new());
    }
    let under_way: u32 = t
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE app = ?1 AND user = ?2 AND device = ?3 AND nonce = ?4 AND nonce <> ''
             LIMIT (?5 + 0)) AS u",
        )?
        .query_row(params![app, user, device, nonce, WINDOW], |r| r.get(0))?;
    match WINDOW - under_way {
        room if room >= WINDOW / 2 => drain(t, address, &nonce, &nonce, room, rules, now_ms),
        _ => Ok(Vec::new()),
    }
}

/// The vendor's turn for what was published to this connection and is not acknowledged.
fn give_up(t: &Transaction<'_>, address: &Address, nonce: &str, why: &str, now_ms: u64) -> Result<usize, StoreError> {
    let Address { app, user, device } = address;
    let live: Vec<String> = t
        .prepare_cached("SELECT message FROM deliveries WHERE app = ?1 AND user = ?2 AND device = ?3 AND nonce = ?4 AND nonce <> '' AND state = 'live'")?
        .query_map([app.as_str(), user, device, nonce], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    for id in &live {
        set_state(t, id, device, State::Vendor, "", Some(now_ms))?;
        note(t, id, device, now_ms, Hop::WentOffline, why)?;
    }
    Ok(live.len())
}

impl Store {
    /// A device connected: notes the connection and returns what it missed, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn hello(
        &self,
        address: Address,
        hello: Hello,
        rules: Rules,
        now_ms: u64,
    ) -> Result<Welcome, StoreError> {
        let known = self.known.clone();
        self.run(move |t| {
            users::hold(t, &address.app, &address.user, true)?;
            if !devices::ensure(t, &address)? {
                return Ok(Welcome::Out(Kick { address, code: KickCode::TooManyDevices, by: None }));
            }
            let kicked = match kicks::admit(t, &address, &hello, now_ms)? {
                Ok(kicked) => kicked,
                Err(out) => return Ok(Welcome::Out(out)),
            };
            let cloned = clones::greeted(t, &address, &hello, now_ms)?;
            let Address { app, user, device } = &address;
            t.execute(
                "UPDATE devices SET logged_in = 1, online = 1, nonce = ?4, attached = CASE WHEN nonce <> ?4 THEN 1 ELSE attached END, connection = connection + CASE WHEN nonce <> ?4 THEN 1 ELSE 0 END, channel = ?5,
                 platform = ?6, model = ?7, agent = ?8, seen_ms = ?9 WHERE app = ?1 AND user = ?2 AND device = ?3",
                params![app, user, device, hello.nonce, hello.channel, hello.platform, hello.model, hello.agent, as_i64(now_ms)],
            )?;
            // Messages that no device existed for when they were accepted.
            t.prepare_cached(
                "INSERT OR IGNORE INTO deliveries (message, app, user, device, state)
                 SELECT message, app, user, ?3, state FROM deliveries
                 WHERE app = ?1 AND user = ?2 AND device = '' AND open = 1",
            )?
            .execute(params![app, user, device])?;
            t.prepare_cached("DELETE FROM deliveries WHERE app = ?1 AND user = ?2 AND device = '' AND open = 1")?
                .execute(params![app, user])?;
            let missed = drain(t, &address, &hello.nonce, "", WINDOW, rules, now_ms)?;
            standing::reconcile(t, &address, hello.binding.as_ref())?;
            let bindings = standing::reports(t, &known, &address, now_ms)?;
            Ok(Welcome::In { missed, kicked, bindings, cloned })
        })
        .await
    }

    /// A device that rests looks how its bindings do. Nothing is noted of its connection.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn look(&self, address: Address, hello: Hello, now_ms: u64) -> Result<Look, StoreError> {
        let known = self.known.clone();
        self.run(move |t| {
            users::hold(t, &address.app, &address.user, true)?;
            if let Some(kick) = kicks::ended(t, &address, &hello)? {
                return Ok(Look::Out(kick));
            }
            standing::reconcile(t, &address, hello.binding.as_ref())?;
            Ok(Look::In(standing::reports(t, &known, &address, now_ms)?))
        })
        .await
    }

    /// A connection ended. Only the current one's end counts: such notices come late and out of order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn went_offline(&self, address: Address, nonce: Nonce, now_ms: u64) -> Result<bool, StoreError> {
        self.run(move |t| {
            let Address { app, user, device } = &address;
            let changed = t.execute(
                "UPDATE devices SET online = 0, seen_ms = ?5 WHERE app = ?1 AND user = ?2 AND device = ?3 AND nonce = ?4 AND online = 1",
                params![app, user, device, nonce, as_i64(now_ms)],
            )?;
            if changed > 0 {
                give_up(t, &address, &nonce, "the connection ended before an acknowledgement", now_ms)?;
            }
            Ok(changed > 0)
        })
        .await
    }

    /// The broker says that the device's connection is over, and not which: the one it was last heard on
    /// before `before_ms`, or an older one whose end comes late. What is under way does not wait for an
    /// acknowledgement any longer; what comes goes over the connection as before. Returns how much it was.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn doubted(&self, address: Address, before_ms: u64, now_ms: u64) -> Result<usize, StoreError> {
        self.run(move |t| {
            let Address { app, user, device } = &address;
            let nonce: Option<Nonce> = t
                .prepare_cached(
                    "SELECT nonce FROM devices WHERE app = ?1 AND user = ?2 AND device = ?3 AND online = 1 AND seen_ms < ?4",
                )?
                .query_row(params![app, user, device, as_i64(before_ms)], |r| r.get(0))
                .optional()?;
            let Some(nonce) = nonce else { return Ok(0) };
            give_up(t, &address, &nonce, "the broker says that the connection is over", now_ms)
        })
        .await
    }

    /// These messages are on the device's disk. Once it has most of what it was sent, returns the next that
    /// wait; and the pushes that need not be seen any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn acked(
        &self,
        address: Address,
        ids: Vec<MessageId>,
        attached: Option<bool>,
        rules: Rules,
        now_ms: u64,
    ) -> Result<Acked, StoreError> {
        let known = self.known.clone();
        self.run(move |t| {
            if let Some(attached) = attached {
                set_attached(t, &address, attached)?;
            }
            let bound = attached.is_some() && usable(t, &known, &address)?;
            let mut recalls = Vec::new();
            for id in ids {
                let Some(open) = open(t, &address, &id)? else { continue };
                let mut detail =
                    if open.state == State::Pushed { "after the vendor had it" } else { "over the connection" };
                match after_ack(Ack { attached, bound }, open.state, &rules) {
                    AfterAck::Done => {
                        recalls.extend(open.recall(t, &address, &id)?);
                        set_done(t, &id, &address.device)?;
                    }
                    AfterAck::Keep { state, due_in_ms } => {
                        keep(t, &address, &id, state, due_in_ms.map(|in_ms| now_ms + in_ms))?;
                        if (bound, attached) == (true, Some(false)) && open.state == State::Live {
                            detail = "over the connection; no app is attached";
                        }
                    }
                }
                note(t, &id, &address.device, now_ms, Hop::Acked, detail)?;
            }
            let more = more(t, &address, rules, now_ms)?;
            Ok(Acked { more, recalls })
        })
        .await
    }

    /// A local app has these messages. Returns the same as [`Self::acked`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn taken(
        &self,
        address: Address,
        (ids, woke): (Vec<MessageId>, Vec<MessageId>),
        rules: Rules,
        now_ms: u64,
    ) -> Result<Acked, StoreError> {
        self.run(move |t| {
            let mut recalls = Vec::new();
            for id in ids {
                let Some(open) = open(t, &address, &id)? else { continue };
                recalls.extend(open.recall(t, &address, &id)?);
                set_done(t, &id, &address.device)?;
                let detail = match open.state {
                    _ if woke.contains(&id) => "by an app that it woke",
                    State::Pushed => "after the vendor had it",
                    _ => "by an app",
                };
                note(t, &id, &address.device, now_ms, Hop::Taken, detail)?;
            }
            let more = more(t, &address, rules, now_ms)?;
            Ok(Acked { more, recalls })
        })
        .await
    }

    /// Whether an app is attached to a connected device, by its own word.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn attached(&self, address: Address, attached: bool) -> Result<(), StoreError> {
        self.run(move |t| set_attached(t, &address, attached)).await
    }

    /// A person saw or opened a message's notification, by the device's own word.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn seen(&self, address: Address, id: MessageId, event: String, now_ms: u64) -> Result<bool, StoreError> {
        self.run(move |t| {
            let Address { app, user, device } = &address;
            let its_own: bool = t
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM deliveries WHERE message = ?1 AND device = ?2 AND app = ?3 AND user = ?4)",
                )?
                .query_row(params![id, device, app, user], |r| r.get(0))?;
            if its_own {
                note(t, &id, device, now_ms, Hop::Receipt, &format!("{event} on the device"))?;
            }
            Ok(its_own)
        })
        .await
    }

    /// A notification was taken back.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn recalled(&self, recall: Recall, said: String, now_ms: u64) -> Result<(), StoreError> {
        self.run(move |t| note(t, &recall.message, &recall.address.device, now_ms, Hop::Recalled, &said)).await
    }

    /// The publish could not even be handed to the broker.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn not_published(
        &self,
        id: MessageId,
        address: Address,
        why: String,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.run(move |t| {
            note(t, &id, &address.device, now_ms, Hop::WentOffline, &why)?;
            t.execute(
                "UPDATE deliveries SET state = 'vendor', nonce = '', due_ms = ?3 WHERE message = ?1 AND device = ?2 AND state = 'live'",
                params![id, address.device, as_i64(now_ms)],
            )?;
            Ok(())
        })
        .await
    }
}

/// What waits for a device, oldest first, marked as published to this connection; without what is under way
/// to the connection `but`.
fn drain(
    t: &Transaction<'_>,
    address: &Address,
    nonce: &str,
    but: &str,
    most: u32,
    rules: Rules,
    now_ms: u64,
) -> Result<Vec<Message>, StoreError> {
    let Address { app, user, device } = address;
    let rows: Vec<(String, String, String)> = t
        .prepare_cached(
            "SELECT d.message, d.state, m.message FROM deliveries d JOIN messages m ON m.id = d.message
             WHERE d.app = ?1 AND d.user = ?2 AND d.device = ?3 AND d.open = 1 AND m.expires_ms > ?4
             AND (d.nonce <> ?6 OR ?6 = '')
             AND (d.acked_by IS NULL OR d.acked_by <> (SELECT login FROM devices WHERE app = ?1 AND user = ?2 AND device = ?3))
             ORDER BY m.accepted_ms, m.id LIMIT (?5 + 0)",
        )?
        .query_map(params![app, user, device, as_i64(now_ms), most, but], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let mut messages = Vec::new();
    for (id, state, body) in rows {
        let Ok(mut message) = serde_json::from_str::<Message>(&body) else {
            set_done(t, &id, device)?;
            note(t, &id, device, now_ms, Hop::Stopped, Stop::InvalidMessage.text())?;
            continue;
        };
        message.offline = true;
        // What the vendor has is not pushed again, whatever becomes of this connection.
        let (state, due) = match State::parse(&state) {
            Some(State::Pushed) => (State::Pushed, None),
            _ => (State::Live, Some(now_ms + rules.ack_deadline_ms)),
        };
        set_state(t, &id, device, state, nonce, due)?;
        t.prepare_cached(
            "UPDATE deliveries SET acked_by = NULL WHERE message = ?1 AND device = ?2 AND acked_by IS NOT NULL",
        )?
        .execute(params![id, device])?;
        note(t, &id, device, now_ms, Hop::Synced, "sent again after the device connected")?;
        messages.push(message);
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::delivery::AfterVendor;
    use crate::gateway::policy::MultiDevice;
    use crate::gateway::store::{Bind, NewMessage, Vault, VendorResult};
    use crate::vendors::Vendor;
    use crate::vendors::certificate::Certificate;
    use std::sync::Arc;

    const APP: &str = "o#a";
    const RULES: Rules = Rules {
        ack_deadline_ms: 5000,
        push_life_s: 60,
        keep_s: 60,
        keep_most: 10,
        lease_ms: 60_000,
        policy: MultiDevice::AllOffline,
    };

    fn at(device: &str) -> Address {
        Address::new(APP, "ann", device).expect("an address")
    }

    struct Stage {
        store: Store,
        _home: tempfile::TempDir,
    }

    impl Stage {
        async fn new() -> Self {
            let home = tempfile::tempdir().expect("a directory");
            let vault = Vault::open(&home.path().join("key"), true).expect("a key");
            let store = Store::open(&home.path().join("db"), vault).expect("a store");
            let certificate = Certificate::new(APP.into(), "n".into(), Vendor::Honor, serde_json::json!({}));
            store.put_certificate(certificate, 1).await.expect("stored");
            Self { store, _home: home }
        }

        async fn bind(&self, device: &str) {
            let bind = Bind::Set { notifier: "n".into(), token: format!("a-token-of-the-device-{device}") };
            self.store.bind_by_api(at(device), bind, 1).await.expect("bound");
        }

        /// The ids of what it is sent.
        async fn hello(&self, device: &str, nonce: &str, login: &str) -> Vec<String> {
            let hello = serde_json::json!({
                "nonce": nonce, "agent": "t", "channel": "none", "platform": "android", "login": login,
            });
            let hello: Hello = serde_json::from_value(hello).expect("a hello");
            match self.store.hello(at(device), hello, RULES, 2).await.expect("heard") {
                Welcome::In { missed, .. } => missed.into_iter().map(|message| message.id.to_string()).collect(),
                Welcome::Out(kick) => panic!("{kick:?}"),
            }
        }

        /// How many devices it is published to, and how many vendor sends are claimed with it.
        async fn accept(&self, id: &str) -> (usize, usize) {
            let message =
                serde_json::json!({"id": id, "from": "bob", "to": "ann", "sent_at_ms": 1, "body": {"type": "txt"}});
            let message = Arc::new(serde_json::from_value(message).expect("a message"));
            let new = NewMessage { app: APP.into(), message, expires_ms: 1_000_000, idempotency: None };
            let accepted = self.store.accept(vec![new], RULES, 9, 10).await.expect("accepted");
            (accepted[0].live.len(), accepted[0].jobs.len())
        }

        async fn ack(&self, id: &str, attached: Option<bool>) -> Acked {
            self.store.acked(at("phone"), vec![id.into()], attached, RULES, 20).await.expect("acked")
        }

        /// Vendor sends that are due; the vendor takes them.
        async fn push(&self, now_ms: u64) -> usize {
            self.push_while(now_ms, async {}).await
        }

        /// The same; between the claim and the vendor's answer something else happens.
        async fn push_while<F: Future<Output = ()>>(&self, now_ms: u64, meanwhile: F) -> usize {
            let claimed = self.store.claim(RULES, 9, now_ms).await.expect("claimed");
            assert!(claimed.again.is_empty(), "what lies on the device is not sent again");
            meanwhile.await;
            let sent = VendorResult {
                after: AfterVendor::Pushed,
                hop: Hop::VendorSent,
                detail: String::new(),
                code: "0".into(),
                limited: None,
                vendor_id: Some("v1".into()),
            };
            let count = claimed.jobs.len();
            let results = claimed.jobs.into_iter().map(|job| (job, sent.clone())).collect();
            self.store.vendor_results(results, now_ms).await.expect("noted");
            count
        }

        async fn take(&self, id: &str) -> usize {
            self.store.taken(at("phone"), (vec![id.into()], Vec::new()), RULES, 30).await.expect("taken").recalls.len()
        }

        async fn hops(&self, id: &str) -> Vec<String> {
            let trace = self.store.trace(APP.into(), id.into()).await.expect("a trace");
            trace.into_iter().map(|line| line.hop).collect()
        }
    }

    #[tokio::test]
    async fn what_no_app_is_there_to_take_is_pushed_at_once_and_recalled_when_one_takes_it() {
        let stage = Stage::new().await;
        stage.bind("phone").await;
        stage.hello("phone", "n1", "l1").await;
        assert_eq!(stage.accept("m").await, (1, 0));
        assert!(stage.ack("m", Some(false)).await.recalls.is_empty());
        assert_eq!(stage.push(20).await, 1);
        assert!(stage.hello("phone", "n2", "l1").await.is_empty(), "the login has it on its disk");
        assert!(stage.ack("m", Some(false)).await.recalls.is_empty());
        assert_eq!(stage.take("m").await, 1);
        let hops = stage.hops("m").await;
        assert_eq!(hops, ["accepted", "published", "acked", "vendor_sent", "acked", "taken"]);
        assert!(stage.hello("phone", "n3", "l2").await.is_empty(), "it is done");
    }

    #[tokio::test]
    async fn a_notification_is_recalled_though_its_binding_went_while_the_vendor_was_asked() {
        let stage = Stage::new().await;
        stage.bind("phone").await;
        stage.hello("phone", "n1", "l1").await;
        stage.accept("m").await;
        stage.ack("m", Some(false)).await;
        let meanwhile = async {
            let remove = Bind::Remove { notifier: None, logout: false };
            stage.store.bind(at("phone"), 9, remove, 20).await.expect("unbound");
            stage.ack("m", Some(false)).await;
        };
        assert_eq!(stage.push_while(20, meanwhile).await, 1);
        assert_eq!(stage.take("m").await, 1);
    }

    #[tokio::test]
    async fn an_attached_app_has_a_deadline_of_its_own_to_take_it() {
        let stage = Stage::new().await;
        stage.bind("phone").await;
        stage.hello("phone", "n1", "l1").await;
        stage.accept("m").await;
        stage.ack("m", Some(true)).await;
        assert_eq!((stage.push(5019).await, stage.push(5020).await), (0, 1));
    }

    #[tokio::test]
    async fn an_agent_that_does_not_say_whether_an_app_is_attached_is_done_by_its_ack() {
        let stage = Stage::new().await;
        stage.bind("phone").await;
        stage.hello("phone", "n1", "l1").await;
        stage.accept("m").await;
        stage.ack("m", None).await;
        assert_eq!(stage.push(50_000).await, 0);
        assert!(stage.hello("phone", "n2", "l2").await.is_empty());
    }

    #[tokio::test]
    async fn what_nobody_took_comes_again_at_another_login_and_after_a_logout() {
        let stage = Stage::new().await;
        stage.hello("phone", "n1", "l1").await;
        stage.accept("m").await;
        stage.ack("m", Some(false)).await;
        assert_eq!(stage.push(50_000).await, 0, "it has no binding");
        assert!(stage.hello("phone", "n2", "l1").await.is_empty());
        assert_eq!(stage.hello("phone", "n3", "l2").await, ["m"]);
        stage.ack("m", Some(true)).await;
        let out = Bind::Remove { notifier: None, logout: true };
        stage.store.bind(at("phone"), 1, out, 40).await.expect("logged out");
        assert_eq!(stage.hello("phone", "n4", "l2").await, ["m"]);
        stage.take("m").await;
        assert!(stage.hello("phone", "n5", "l3").await.is_empty());
    }

    #[tokio::test]
    async fn a_phone_that_lingers_without_an_app_is_sent_to_and_pushed_at_once_and_holds_no_other_back() {
        let stage = Stage::new().await;
        stage.bind("phone").await;
        stage.hello("phone", "n1", "l1").await;
        stage.store.attached(at("phone"), false).await.expect("stored");
        assert_eq!(stage.accept("m1").await, (1, 1));
        stage.bind("tablet").await;
        assert_eq!(stage.accept("m2").await, (1, 2), "the phone is offline to its user");
        stage.store.attached(at("phone"), true).await.expect("stored");
        assert_eq!(stage.accept("m3").await, (1, 0), "the user sees it on the phone");
        stage.hello("phone", "n2", "l1").await;
        assert_eq!(stage.accept("m4").await, (1, 0), "a new connection counts as attached until it says");
    }
}
