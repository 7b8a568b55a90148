//! Messages on their way to devices that come and go, and what devices and the broker say of them.

use super::bindings::usable;
use super::decided::{Of, WINDOW};
use super::greeting::Greeting;
use super::orders::{self, Order};
use super::pairs::{self, Recall};
use super::traces::note;
use super::{Kick, Look, Store, StoreError, Welcome, kicks, presence, standing, whose};
use crate::delivery::presence::{Event as Presence, Step};
use crate::delivery::{Event, Hop, Rules};
use crate::ids::{MessageId, Nonce};
use crate::protocol::{Address, Hello, KickCode};

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
        let (known, node) = (self.known.clone(), self.node().clone());
        self.run_for(whose(&address.app, &address.user), move |t| {
            let Some(greeting) = Greeting::look(t, &address)? else {
                return Ok(Welcome::Out(Kick::new(address, KickCode::TooManyDevices, None)));
            };
            let kicked = match kicks::admit(t, &known, (&address, &hello), &greeting.login, rules, now_ms)? {
                Ok(kicked) => kicked,
                Err(out) => return Ok(Welcome::Out(out)),
            };
            orders::cut_elsewhere(t, &node, &kicked)?;
            let (Step { device, left, .. }, cloned) = greeting.note(t, &address, &hello, &node, now_ms)?;
            if let Some((node, nonce)) = &left {
                orders::put(t, node, &Order::moved(&address, nonce))?;
            }
            let mut missed = Vec::new();
            // What devices that yield have had comes to wait again.
            if greeting.waiting || !kicked.is_empty() {
                // Whether it is bound decides nothing here.
                let of = Of { t, place: (&address).into(), device, bound: false, rules, now_ms };
                of.adopt(greeting.new)?;
                missed = of.drain(&hello.nonce, "", WINDOW)?;
            }
            let bindings = match greeting.bound {
                true => standing::reports(t, &known, (&address, hello.binding.as_ref()), now_ms)?,
                false => Vec::new(),
            };
            let left = left.map(|(node, _)| node);
            Ok(Welcome::In { missed, kicked, bindings, cloned, left })
        })
        .await
    }

    /// A device that rests looks how its bindings do. Nothing is noted of its connection.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn look(&self, address: Address, hello: Hello, now_ms: u64) -> Result<Look, StoreError> {
        let known = self.known.clone();
        self.run_for(whose(&address.app, &address.user), move |t| {
            if let Some(kick) = kicks::ended(t, &address, &hello)? {
                return Ok(Look::Out(kick));
            }
            Ok(Look::In(standing::reports(t, &known, (&address, hello.binding.as_ref()), now_ms)?))
        })
        .await
    }

    /// A connection ended. Only the current one's end counts: such notices come late and out of order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn went_offline(
        &self,
        address: Address,
        nonce: Nonce,
        rules: Rules,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let why = "the connection ended before an acknowledgement";
        Ok(self.link_over(address, Presence::Ended { nonce }, why, rules, now_ms).await?.is_some())
    }

    /// The broker says that the device's connection is over, and not which: the one it was last heard on
    /// before `before_ms`, or an older one whose end comes late. What is under way does not wait for an
    /// acknowledgement any longer; what comes goes over the connection as before. Returns how much it was.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn doubted(
        &self,
        address: Address,
        before_ms: u64,
        rules: Rules,
        now_ms: u64,
    ) -> Result<usize, StoreError> {
        let why = "the broker says that the connection is over";
        Ok(self.link_over(address, Presence::Doubted { before_ms }, why, rules, now_ms).await?.unwrap_or(0))
    }

    /// How much was under way over the connection that is over now, if one is.
    async fn link_over(
        &self,
        address: Address,
        event: Presence,
        why: &'static str,
        rules: Rules,
        now_ms: u64,
    ) -> Result<Option<usize>, StoreError> {
        let known = self.known.clone();
        self.run_for(whose(&address.app, &address.user), move |t| {
            let (over, under_way) = presence::over(t, &address, event, now_ms)?;
            let Some(nonce) = over.lost else { return Ok(None) };
            if !under_way {
                return Ok(Some(0));
            }
            let bound = usable(t, &known, &address)?;
            let of = Of { t, place: (&address).into(), device: over.device, bound, rules, now_ms };
            of.lost(&nonce, why).map(Some)
        })
        .await
    }

    /// Devices that did not acknowledge in time over these connections.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn silent(&self, devices: Vec<(Address, Nonce)>, now_ms: u64) -> Result<(), StoreError> {
        self.run_for(devices.iter().flat_map(|(address, _)| whose(&address.app, &address.user)).collect(), move |t| {
            for (address, nonce) in devices {
                presence::apply(t, &address, Presence::Silent { nonce }, now_ms)?;
            }
            Ok(())
        })
        .await
    }

    /// Whether an app is attached to a connected device, by its own word.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn attached(&self, address: Address, attached: bool, now_ms: u64) -> Result<(), StoreError> {
        self.run_for(whose(&address.app, &address.user), move |t| {
            presence::apply(t, &address, Presence::Attached(attached), now_ms).map(drop)
        })
        .await
    }

    /// A person saw or opened a message's notification, by the device's own word.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn seen(&self, address: Address, id: MessageId, event: String, now_ms: u64) -> Result<bool, StoreError> {
        self.run_for(whose(&address.app, &address.user), move |t| {
            let its_own = pairs::load(t, (&address).into(), &id)?.is_some();
            if its_own {
                note(t, &id, &address.device, now_ms, Hop::Receipt, &format!("{event} on the device"));
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
        self.run(move |t| {
            note(t, &recall.message, &recall.address.device, now_ms, Hop::Recalled, &said);
            Ok(())
        })
        .await
    }

    /// The publish could not even be handed to the broker.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn not_published(
        &self,
        id: MessageId,
        address: Address,
        rules: Rules,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let known = self.known.clone();
        self.run_for(whose(&address.app, &address.user), move |t| {
            let bound = usable(t, &known, &address)?;
            let of = Of { t, place: (&address).into(), device: presence::load(t, &address)?, bound, rules, now_ms };
            of.only(&id, Event::NotPublished)
        })
        .await
    }

    /// The broker takes nothing as large as this message.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn too_large(
        &self,
        id: MessageId,
        address: Address,
        why: String,
        (rules, now_ms): (Rules, u64),
    ) -> Result<(), StoreError> {
        let known = self.known.clone();
        self.run_for(whose(&address.app, &address.user), move |t| {
            let bound = usable(t, &known, &address)?;
            let of = Of { t, place: (&address).into(), device: presence::load(t, &address)?, bound, rules, now_ms };
            of.only(&id, Event::TooLarge { why: &why })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::policy::MultiDevice;
    use crate::gateway::store::sql::params;
    use crate::gateway::store::{Acked, Bind, NewMessage, Reach, Vault, VendorResult};
    use crate::vendors::Vendor;
    use crate::vendors::certificate::Certificate;
    use std::sync::Arc;

    const APP: &str = "o#a";
    const RULES: Rules = Rules { reconnect_grace_ms: 0, policy: MultiDevice::AllOffline, ..Rules::FOR_TESTS };
    const REACH: Reach = Reach { broker: true, calls: 9 };

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
            self.store.bind_by_api(at(device), bind, RULES, 1).await.expect("bound");
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
            let new = NewMessage::of(APP, message, 1_000_000);
            let accepted = self.store.accept(vec![new], RULES, REACH, 10).await.expect("accepted");
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
            let claimed = self.store.claim(RULES, REACH, now_ms).await.expect("claimed");
            assert!(claimed.again.is_empty(), "what lies on the device is not sent again");
            meanwhile.await;
            let sent = VendorResult::pushed("v1");
            let count = claimed.jobs.len();
            let results = claimed.jobs.into_iter().map(|job| (job, sent.clone())).collect();
            self.store.vendor_results(results, RULES, now_ms).await.expect("noted");
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
            stage.store.bind(at("phone"), 9, remove, RULES, 20).await.expect("unbound");
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
        stage.store.bind(at("phone"), 1, out, RULES, 40).await.expect("logged out");
        assert_eq!(stage.hello("phone", "n4", "l2").await, ["m"]);
        stage.take("m").await;
        assert!(stage.hello("phone", "n5", "l3").await.is_empty());
    }

    #[tokio::test]
    async fn a_phone_that_lingers_without_an_app_is_sent_to_and_pushed_at_once_and_holds_no_other_back() {
        let stage = Stage::new().await;
        stage.bind("phone").await;
        stage.hello("phone", "n1", "l1").await;
        stage.store.attached(at("phone"), false, 15).await.expect("stored");
        assert_eq!(stage.accept("m1").await, (1, 1));
        stage.bind("tablet").await;
        assert_eq!(stage.accept("m2").await, (1, 2), "the phone is offline to its user");
        stage.store.attached(at("phone"), true, 15).await.expect("stored");
        assert_eq!(stage.accept("m3").await, (1, 0), "the user sees it on the phone");
        stage.hello("phone", "n2", "l1").await;
        assert_eq!(stage.accept("m4").await, (1, 0), "a new connection counts as attached until it says");
    }

    /// What happens at one time.
    async fn claim(stage: &Stage, now_ms: u64) -> (usize, usize) {
        let claimed = stage.store.claim(RULES, REACH, now_ms).await.expect("claimed");
        stage.store.silent(claimed.silent, now_ms).await.expect("noted");
        (claimed.jobs.len(), claimed.again.len())
    }

    #[tokio::test]
    async fn a_second_device_that_died_silently_keeps_the_phone_dark_for_one_deadline_only() {
        let stage = Stage::new().await;
        stage.bind("phone").await;
        // A computer that was suspended: nobody has noticed, and it has no vendor.
        stage.hello("tablet", "n1", "l1").await;
        assert_eq!(stage.accept("m1").await, (1, 0), "it counts as online until it owes an acknowledgement");
        assert_eq!(claim(&stage, 5009).await, (0, 0));
        assert_eq!(claim(&stage, 5010).await, (0, 1), "the tablet is sent to again, and known to be silent");
        assert_eq!(claim(&stage, 5010).await, (1, 0), "which is the phone's turn");
        assert_eq!(stage.accept("m2").await, (1, 1), "it holds nobody back until it is heard");
        stage.store.acked(at("tablet"), vec!["m1".into()], Some(true), RULES, 6000).await.expect("acked");
        assert_eq!(stage.accept("m3").await, (1, 0));
    }

    #[tokio::test]
    async fn what_another_device_has_is_held_back_for_good_and_what_it_left_behind_is_not() {
        let stage = Stage::new().await;
        stage.bind("phone").await;
        stage.hello("tablet", "n1", "l1").await;
        stage.accept("m1").await;
        stage.store.acked(at("tablet"), vec!["m1".into()], Some(true), RULES, 20).await.expect("acked");
        stage.accept("m2").await;
        assert!(stage.store.went_offline(at("tablet"), "n1".into(), RULES, 30).await.expect("noted"));
        assert_eq!(claim(&stage, 30).await.0, 2, "both are looked at again at once");
        assert_eq!(stage.hops("m1").await[1..], ["stopped", "published", "acked"]);
    }

    #[tokio::test]
    async fn a_logout_takes_the_notifications_back_and_the_next_login_gets_the_messages() {
        let stage = Stage::new().await;
        stage.bind("phone").await;
        stage.hello("phone", "n1", "l1").await;
        stage.accept("m").await;
        stage.ack("m", Some(false)).await;
        assert_eq!(stage.push(20).await, 1);
        let out = Bind::Remove { notifier: None, logout: true };
        let (_, recalls) = stage.store.bind(at("phone"), 9, out, RULES, 30).await.expect("logged out");
        assert_eq!((recalls.len(), recalls[0].token.as_str()), (1, "a-token-of-the-device-phone"));
        assert_eq!(stage.hello("phone", "n2", "l2").await, ["m"]);
    }

    #[tokio::test]
    async fn a_phone_that_was_wiped_gets_what_waited_for_its_user_and_nobody_else_has() {
        let stage = Stage::new().await;
        stage.hello("phone", "n1", "l1").await;
        stage.accept("m1").await;
        stage.take("m1").await;
        assert!(stage.store.went_offline(at("phone"), "n1".into(), RULES, 20).await.expect("noted"));
        stage.accept("m2").await;
        assert_eq!(stage.hello("wiped", "n2", "l2").await, ["m2"]);
    }

    #[tokio::test]
    async fn what_expires_leaves_the_tray_and_a_line_in_its_trace_and_goes_when_that_was_kept() {
        let stage = Stage::new().await;
        stage.bind("phone").await;
        let id = MessageId::made(10, [0; 4]);
        assert_eq!(stage.accept(&id).await, (0, 1));
        let sent = VendorResult::pushed("v1");
        let claimed = stage.store.claim(RULES, REACH, 10 + RULES.lease_ms).await.expect("claimed");
        let results = claimed.jobs.into_iter().map(|job| (job, sent.clone())).collect();
        stage.store.vendor_results(results, RULES, 40_000).await.expect("noted");
        let over_ms = 20 + RULES.keep_s * 1000;
        let swept = stage.store.sweep(RULES, over_ms).await.expect("swept");
        assert_eq!((swept.missed, swept.recalls.len(), swept.more), (1, 1, false));
        assert_eq!(stage.hops(&id).await, ["accepted", "vendor_sent", "expired"]);
        assert_eq!(stage.store.sweep(RULES, over_ms).await.expect("swept").missed, 0, "once");
        stage.store.sweep(RULES, over_ms + RULES.trace_s * 1000).await.expect("swept");
        assert!(stage.hops(&id).await.is_empty());
    }

    #[tokio::test]
    async fn what_has_to_make_room_is_taken_back() {
        let stage = Stage::new().await;
        stage.bind("phone").await;
        let rules = Rules { keep_most: 10, ..RULES };
        let mut recalls = 0;
        for n in 0..12 {
            let id = format!("m{n:02}");
            let message =
                serde_json::json!({"id": id, "from": "bob", "to": "ann", "sent_at_ms": 1, "body": {"type": "txt"}});
            let message = Arc::new(serde_json::from_value(message).expect("a message"));
            let new = NewMessage::of(APP, message, 1_000_000);
            let accepted = stage.store.accept(vec![new], rules, REACH, 10).await.expect("accepted").remove(0);
            recalls += accepted.recalls.len();
            let sent = VendorResult::pushed(&format!("v{n}"));
            let results = accepted.jobs.into_iter().map(|job| (job, sent.clone())).collect();
            stage.store.vendor_results(results, rules, 20).await.expect("noted");
        }
        assert_eq!(recalls, 2, "the oldest, and a tenth more");
        assert_eq!(stage.hops("m00").await, ["accepted", "vendor_sent", "evicted"]);
    }

    /// The rows of each table.
    async fn rows(stage: &Stage) -> [i64; 3] {
        stage
            .store
            .run(|t| {
                let count =
                    |table: &str| t.query_row(&format!("SELECT count(*) FROM {table}"), params![], |r| r.get(0));
                Ok([count("messages")?, count("deliveries")?, count("events")?])
            })
            .await
            .expect("counted")
    }

    #[tokio::test]
    async fn what_is_not_acknowledged_is_told_again_in_order_however_few_vendor_sends_may_be_claimed() {
        let stage = Stage::new().await;
        stage.hello("phone", "n1", "l1").await;
        let ids: Vec<String> = (0..20).map(|n| format!("m{n:02}")).collect();
        for id in &ids {
            assert_eq!(stage.accept(id).await, (1, 0));
        }
        let late_ms = 10 + RULES.ack_deadline_ms;
        let claimed = stage.store.claim(RULES, Reach { broker: true, calls: 1 }, late_ms).await.expect("claimed");
        let again: Vec<String> = claimed.again.iter().map(|(_, message)| message.id.to_string()).collect();
        assert_eq!(again, ids);
    }

    #[tokio::test]
    async fn what_a_vendor_may_not_be_sent_yet_is_due_with_the_next_claim() {
        let stage = Stage::new().await;
        stage.bind("phone").await;
        stage.hello("phone", "n1", "l1").await;
        for n in 0..3 {
            assert_eq!(stage.accept(&format!("m{n}")).await, (1, 0));
        }
        let late_ms = 10 + RULES.ack_deadline_ms;
        for n in 0..3 {
            let reach = Reach { broker: true, calls: 1 };
            let claimed = stage.store.claim(RULES, reach, late_ms).await.expect("claimed");
            let jobs: Vec<String> = claimed.jobs.iter().map(|job| job.message.id.to_string()).collect();
            assert_eq!(jobs, [format!("m{n}")]);
        }
    }

    #[tokio::test]
    async fn a_message_writes_as_many_rows_as_the_document_says() {
        let stage = Stage::new().await;
        stage.hello("phone", "n1", "l1").await;
        stage.accept("m1").await;
        assert_eq!(rows(&stage).await, [1, 1, 1]);
        stage.ack("m1", Some(true)).await;
        stage.take("m1").await;
        assert_eq!(rows(&stage).await, [1, 1, 3]);

        let away = Stage::new().await;
        away.bind("phone").await;
        away.accept("m1").await;
        assert_eq!(rows(&away).await, [1, 1, 0]);
        assert_eq!(away.push(10 + RULES.lease_ms).await, 1);
        assert_eq!(rows(&away).await, [1, 1, 1]);

        let cut = Stage::new().await;
        cut.hello("phone", "n1", "l1").await;
        let reach = Reach { broker: false, calls: 9 };
        let message =
            serde_json::json!({"id": "m", "from": "bob", "to": "ann", "sent_at_ms": 1, "body": {"type": "txt"}});
        let message = Arc::new(serde_json::from_value(message).expect("a message"));
        let new = NewMessage::of(APP, message, 10_000_000);
        cut.store.accept(vec![new], RULES, reach, 10).await.expect("accepted");
        // A minute, and each look of it.
        for now_ms in (1000..=61_000).step_by(1000) {
            let claimed = cut.store.claim(RULES, reach, now_ms).await.expect("claimed");
            assert!(claimed.again.is_empty() && claimed.jobs.is_empty());
        }
        assert!(cut.store.broker_is_back(62_000).await.expect("noted"));
        assert_eq!(cut.store.claim(RULES, REACH, 62_000).await.expect("claimed").again.len(), 1);
        assert_eq!(rows(&cut).await, [1, 1, 2]);
    }

    #[tokio::test]
    async fn a_message_to_a_thousand_users_writes_three_rows_for_each() {
        let stage = Stage::new().await;
        let user = |n: usize| Address::new(APP, format!("u{n}"), "phone").expect("an address");
        let mut new = Vec::new();
        for n in 0..1000 {
            let hello = serde_json::json!({
                "nonce": "n1", "agent": "t", "channel": "none", "platform": "android", "login": "l",
            });
            let hello: Hello = serde_json::from_value(hello).expect("a hello");
            stage.store.hello(user(n), hello, RULES, 2).await.expect("heard");
            let message = serde_json::json!({
                "id": format!("m{n}"), "from": "bob", "to": format!("u{n}"), "sent_at_ms": 1, "body": {"type": "txt"},
            });
            let message = Arc::new(serde_json::from_value(message).expect("a message"));
            new.push(NewMessage::of(APP, message, 1_000_000));
        }
        stage.store.accept(new, RULES, REACH, 10).await.expect("accepted");
        assert_eq!(rows(&stage).await, [1000, 1000, 1000]);
    }
}
