//! What came of vendor sends, noted for many at once.

use super::limits::{self, Limited};
use super::marks::{Death, mark_dead};
use super::pairs::{self, Pairs, Recall};
use super::presence;
use super::ready::VendorJob;
use super::sql::Transaction;
use super::standing::{self, note_accepted};
use super::together::Together;
use super::{Store, StoreError, Work, flow, whose};
use crate::delivery::{AfterVendor, Device, Event, Hop, Line, Rules, Standing, State, step};

/// What came of a vendor send.
#[derive(Debug, Clone)]
pub struct VendorResult {
    pub after: AfterVendor,
    pub hop: Hop,
    pub detail: String,
    /// The vendor's code; `0` for success.
    pub code: String,
    /// The quota it said is used up.
    pub limited: Option<Limited>,
    /// The vendor's id, where the push was for this device alone.
    pub vendor_id: Option<String>,
    /// It waits for nothing but the certificate or the way to its vendor.
    pub held: bool,
}

#[cfg(test)]
impl VendorResult {
    /// The vendor took it, under this id.
    pub fn pushed(vendor_id: &str) -> Self {
        Self {
            after: AfterVendor::Pushed,
            hop: Hop::VendorSent,
            detail: String::new(),
            code: "0".into(),
            limited: None,
            vendor_id: Some(vendor_id.to_owned()),
            held: false,
        }
    }
}

/// What vendors said of one call's sends.
pub(super) struct Answered {
    results: Vec<(VendorJob, VendorResult)>,
    rules: Rules,
    now_ms: u64,
}

impl Together for Answered {
    type Done = Vec<Recall>;

    fn weight(&self) -> usize {
        self.results.len()
    }

    fn carry_out(t: &Transaction<'_>, jobs: &[Self]) -> Result<Vec<Vec<Recall>>, StoreError> {
        let all = || jobs.iter().flat_map(|job| job.results.iter().map(move |(sent, result)| (job, sent, result)));
        let mut pairs =
            Pairs::load(t, all().map(|(_, VendorJob { address, message, .. }, _)| (address.into(), &message.id)))?;
        let accepted = all().filter(|(.., result)| result.after == AfterVendor::Pushed).map(|(job, sent, _)| {
            let VendorJob { address, certificate, token, accepted_ms, .. } = sent;
            standing::Accepted {
                address,
                notifier: &certificate.name,
                token,
                noted_ms: *accepted_ms,
                now_ms: job.now_ms,
            }
        });
        note_accepted(t, accepted)?;
        let limits = all().filter_map(|(job, VendorJob { certificate, token, .. }, result)| {
            let (app, notifier, code) = (&*certificate.app, &*certificate.name, &*result.code);
            Some(limits::Said { app, notifier, token, limited: result.limited?, code, now_ms: job.now_ms })
        });
        limits::note(t, limits)?;
        let deaths = all().filter_map(|(_, VendorJob { certificate, token, .. }, result)| {
            let AfterVendor::GiveUp { dead_since_ms: Some(since_ms) } = result.after else { return None };
            Some(Death { app: &certificate.app, notifier: &certificate.name, token, since_ms, code: &result.code })
        });
        mark_dead(t, deaths)?;
        let mut done = Vec::with_capacity(jobs.len());
        for job in jobs {
            let mut recalls = Vec::new();
            for (sent, result) in &job.results {
                recalls.extend(job.settle(t, &mut pairs, sent, result)?);
            }
            done.push(recalls);
        }
        Ok(done)
    }
}

impl Answered {
    fn settle<'a>(
        &self,
        t: &Transaction<'_>,
        pairs: &mut Pairs<'a>,
        VendorJob { address, message, certificate, token, attempts, expires_ms, .. }: &'a VendorJob,
        result: &VendorResult,
    ) -> Result<Option<Recall>, StoreError> {
        // If not, it was removed with all that was known of it.
        let Some(pair) = pairs.get(address.into(), &message.id).cloned() else { return Ok(None) };
        // It decides only of what was moved on meanwhile.
        let device = match pair.state {
            State::Vendor => Device::default(),
            // Read without a lock: rows of devices are taken before those of deliveries.
            _ => presence::look(t, address)?,
        };
        let (accepted_ms, expires_ms) = (0, *expires_ms);
        let standing =
            Standing { pair, device, bound: true, broker: true, accepted_ms, expires_ms, online_only: false };
        let event = Event::Answered {
            attempt: *attempts,
            after: result.after.clone(),
            vendor_id: result.vendor_id.clone(),
            notifier: certificate.name.clone(),
            line: Line::new(result.hop, result.detail.clone()),
        };
        let step = step(&standing, event, &self.rules, self.now_ms);
        let recall = pairs::put(t, address.into(), &message.id, &standing.pair, &step, self.now_ms)?;
        pairs.moved(address.into(), &message.id, step.pair);
        // The binding may be gone, and the vendor wants the token.
        Ok(recall.map(|recall| Recall { token: token.clone(), ..recall }))
    }
}

impl Store {
    /// Notes what vendors said. A message that is done meanwhile stays done, and its push is returned.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn vendor_results(
        &self,
        results: Vec<(VendorJob, VendorResult)>,
        rules: Rules,
        now_ms: u64,
    ) -> Result<Vec<Recall>, StoreError> {
        let users: Vec<String> =
            results.iter().flat_map(|(job, _)| whose(&job.address.app, &job.address.user)).collect();
        let answered = Answered { results, rules, now_ms };
        self.ask((flow(&users), users, false), |answer| Work::Answered((answered, answer))).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::sql::params;
    use super::super::together::all;
    use super::*;
    use crate::delivery::Hop;
    use crate::delivery::outcome::Limit;
    use crate::delivery::policy::{AppRules, MultiDevice};
    use crate::gateway::store::accept::Accepted;
    use crate::gateway::store::{Bind, Claimed, Key, NewMessage, Reach, Vault};
    use crate::protocol::{Address, Hello};
    use crate::vendors::Vendor;
    use crate::vendors::certificate::Certificate;
    use serde_json::json;
    use std::sync::Arc;
    use tokio::sync::oneshot;

    const APP: &str = "o#a";
    const RULES: Rules = Rules { reconnect_grace_ms: 0, ..Rules::FOR_TESTS };

    struct Stage {
        store: Store,
        _home: tempfile::TempDir,
    }

    impl Stage {
        /// Each of these users has a phone.
        async fn new(users: &[&str]) -> Self {
            let home = tempfile::tempdir().expect("a directory");
            let vault = Vault::open(&home.path().join("key"), true).expect("a key");
            let store = Store::open(&home.path().join("db"), vault).expect("a store");
            let certificate = Certificate::new(APP.into(), "n".into(), Vendor::Honor, json!({}));
            store.put_certificate(certificate, 1).await.expect("stored");
            let stage = Self { store, _home: home };
            for user in users {
                stage.bind(user, "phone").await;
            }
            stage
        }

        async fn bind(&self, user: &str, device: &str) {
            let bind = Bind::Set { notifier: "n".into(), token: token(user, device) };
            let address = Address::new(APP, user, device).expect("an address");
            self.store.bind_by_api(address, bind, RULES, 1).await.expect("bound");
        }

        /// One call; `calls`: how many may be sent at once.
        async fn accept(&self, messages: &[(&str, &str)], calls: usize, rules: Rules) -> Vec<Accepted> {
            let new = messages.iter().map(|(id, to)| {
                let message = json!({"id": id, "from": "bob", "to": to, "sent_at_ms": 1, "body": {"type": "txt"}});
                let message = Arc::new(serde_json::from_value(message).expect("a message"));
                NewMessage::of(APP, message, 1_000_000)
            });
            self.store.accept(new.collect(), rules, Reach { broker: true, calls }, 10).await.expect("accepted")
        }

        async fn claim(&self, now_ms: u64) -> Claimed {
            self.store.claim(RULES, Reach { broker: true, calls: 99 }, now_ms).await.expect("claimed")
        }

        /// What vendors said of several calls, carried out together.
        async fn answered(&self, calls: Vec<Vec<(VendorJob, VendorResult)>>) -> Vec<Result<Vec<Recall>, StoreError>> {
            let carried_out = self.store.run(move |t| {
                let (mut asked, mut answers) = (Vec::new(), Vec::new());
                for results in calls {
                    let (sender, receiver) = oneshot::channel();
                    asked.push((Answered { results, rules: RULES, now_ms: 20 }, sender));
                    answers.push(receiver);
                }
                let mut finishes = Vec::new();
                all(t, &mut asked, &mut finishes);
                finishes.into_iter().for_each(|finish| finish(Ok(())));
                Ok(answers)
            });
            let mut done = Vec::new();
            for answer in carried_out.await.expect("carried out") {
                done.push(answer.await.expect("answered"));
            }
            done
        }

        async fn hops(&self, id: &str) -> Vec<String> {
            let trace = self.store.trace(APP.into(), id.into()).await.expect("a trace");
            trace.into_iter().skip(1).map(|line| line.hop).collect()
        }

        /// Whether the user's token is dead, and when its vendor last accepted a push.
        async fn binding(&self, user: &'static str) -> (Option<i64>, Option<i64>) {
            let binding = self.store.run(move |t| {
                let sql = "SELECT dead_ms, accepted_ms FROM bindings WHERE user = ?1";
                t.query_row(sql, params![user], |r| Ok((r.get(0)?, r.get(1)?)))
            });
            binding.await.expect("read")
        }

        async fn limits(&self) -> i64 {
            let count = |t: &Transaction<'_>| t.query_row("SELECT count(*) FROM limits", params![], |r| r.get(0));
            self.store.run(count).await.expect("counted")
        }
    }

    fn token(user: &str, device: &str) -> String {
        format!("a-token-of-the-device-{user}-{device}")
    }

    fn jobs(accepted: Vec<Accepted>) -> Vec<VendorJob> {
        accepted.into_iter().flat_map(|accepted| accepted.jobs).collect()
    }

    fn badges(jobs: &[VendorJob]) -> Vec<(&str, u32)> {
        jobs.iter().map(|job| (&*job.message.id, job.setting.waiting)).collect()
    }

    fn sent(after: AfterVendor) -> VendorResult {
        let hop = if after == AfterVendor::Pushed { Hop::VendorSent } else { Hop::VendorRefused };
        let (detail, code) = (String::new(), "7".into());
        VendorResult { after, hop, detail, code, limited: None, vendor_id: Some("v".into()), held: false }
    }

    fn with(jobs: Vec<VendorJob>, result: &VendorResult) -> Vec<(VendorJob, VendorResult)> {
        jobs.into_iter().map(|job| (job, result.clone())).collect()
    }

    #[tokio::test]
    async fn messages_to_one_device_in_one_call_have_each_its_badge() {
        let stage = Stage::new(&["ann", "ben"]).await;
        let first = jobs(stage.accept(&[("m1", "ann"), ("m2", "ben"), ("m3", "ann")], 9, RULES).await);
        assert_eq!(badges(&first), [("m1", 1), ("m2", 1), ("m3", 2)]);
        let next = jobs(stage.accept(&[("m4", "ann")], 9, RULES).await);
        assert_eq!(badges(&next), [("m4", 3)]);
        // Without calls they wait, and count all the same; what is claimed later counts all that waits then.
        assert!(jobs(stage.accept(&[("m5", "ann"), ("m6", "ann")], 0, RULES).await).is_empty());
        assert_eq!(badges(&stage.claim(11).await.jobs), [("m5", 5), ("m6", 5)]);
    }

    #[tokio::test]
    async fn what_lies_on_the_device_and_no_app_has_taken_is_in_the_badge() {
        let stage = Stage::new(&["ann"]).await;
        let hello = json!({"nonce": "c", "agent": "t", "channel": "none", "platform": "android", "login": "l"});
        let hello: Hello = serde_json::from_value(hello).expect("a hello");
        let phone = Address::new(APP, "ann", "phone").expect("an address");
        stage.store.hello(phone.clone(), hello, RULES, 2).await.expect("heard");
        assert!(jobs(stage.accept(&[("m1", "ann")], 9, RULES).await).is_empty());
        stage.store.acked(phone.clone(), vec!["m1".into()], Some(true), RULES, 10).await.expect("acked");
        stage.store.went_offline(phone, "c".into(), RULES, 10).await.expect("noted");
        assert_eq!(badges(&jobs(stage.accept(&[("m2", "ann")], 9, RULES).await)), [("m2", 2)]);
        assert_eq!(badges(&stage.claim(10 + RULES.ack_deadline_ms).await.jobs), [("m1", 2)]);
    }

    #[tokio::test]
    async fn what_had_to_make_room_is_in_no_later_badge_of_the_call() {
        let stage = Stage::new(&["ann"]).await;
        let rules = Rules { keep_most: 2, ..RULES };
        for id in ["m1", "m2"] {
            let sent_before = with(jobs(stage.accept(&[(id, "ann")], 9, rules).await), &sent(AfterVendor::Pushed));
            stage.store.vendor_results(sent_before, rules, 20).await.expect("noted");
        }
        let accepted = stage.accept(&[("m3", "ann"), ("m4", "ann")], 9, rules).await;
        let recalled: Vec<_> = accepted.iter().flat_map(|one| &one.recalls).map(|one| one.message.as_ref()).collect();
        assert_eq!(recalled, ["m1", "m2"]);
        assert_eq!(badges(&jobs(accepted)), [("m3", 3), ("m4", 3)]);
    }

    #[tokio::test]
    async fn a_dead_token_and_a_limit_among_what_is_noted_together_touch_their_own_bindings() {
        let stage = Stage::new(&["ann", "ben", "cid"]).await;
        let sends = stage.accept(&[("m1", "ann"), ("m2", "ben"), ("m3", "cid"), ("m4", "ann")], 9, RULES).await;
        let [ann, ben, cid, again]: [VendorJob; 4] = jobs(sends).try_into().expect("four");
        let dead = |since_ms| sent(AfterVendor::GiveUp { dead_since_ms: Some(since_ms) });
        let limited = Some(super::super::Limited { limit: Limit::Device, until_ms: 1_000_000 });
        let later = VendorResult { limited, ..sent(AfterVendor::Again { in_ms: 500 }) };
        let calls = vec![
            vec![(ann, sent(AfterVendor::Pushed)), (ben.clone(), dead(15))],
            vec![(cid, later.clone()), (ben, dead(18))],
            vec![(again, sent(AfterVendor::Pushed))],
        ];
        let done = stage.answered(calls).await;
        assert!(done.iter().all(|done| done.as_ref().is_ok_and(Vec::is_empty)), "{done:?}");
        assert_eq!(stage.binding("ann").await, (None, Some(20)));
        assert_eq!(stage.binding("ben").await, (Some(15), None), "the first report counts");
        assert_eq!((stage.binding("cid").await, stage.limits().await), ((None, None), 1));
        assert_eq!(stage.hops("m1").await, ["vendor_sent"]);
        assert_eq!(stage.hops("m2").await, ["vendor_refused", "vendor_refused"]);
        // Once its vendor takes one, the limit is over.
        let next = stage.claim(520).await.jobs;
        assert_eq!(badges(&next), [("m3", 1)]);
        stage.answered(vec![with(next, &sent(AfterVendor::Pushed))]).await.remove(0).expect("noted");
        assert_eq!((stage.binding("cid").await, stage.limits().await), ((None, Some(20)), 0));
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_noted_refuses_none_of_the_others() {
        let stage = Stage::new(&["ann", "ben"]).await;
        let sends = jobs(stage.accept(&[("m1", "ann"), ("m2", "ben"), ("m3", "ann")], 9, RULES).await);
        let broken = "UPDATE deliveries SET state = 'nonsense' WHERE message = 'm2'";
        stage.store.run(move |t| t.execute(broken, params![])).await.expect("broken");
        let calls = sends.into_iter().map(|job| with(vec![job], &sent(AfterVendor::Pushed))).collect();
        let done: Vec<bool> = stage.answered(calls).await.iter().map(Result::is_ok).collect();
        assert_eq!(done, [true, false, true]);
        assert_eq!(
            (stage.hops("m1").await, stage.hops("m3").await),
            (vec!["vendor_sent".into()], vec!["vendor_sent".into()])
        );
        assert!(stage.hops("m2").await.is_empty());
        assert_eq!((stage.binding("ann").await, stage.binding("ben").await), ((None, Some(20)), (None, None)));
    }

    #[tokio::test]
    async fn the_same_send_answered_twice_in_one_go_counts_once_and_the_late_answer_of_an_earlier_one_too() {
        let stage = Stage::new(&["ann"]).await;
        let first = jobs(stage.accept(&[("m1", "ann")], 9, RULES).await);
        let second = stage.claim(10 + RULES.lease_ms).await.jobs;
        assert_eq!((first[0].attempts, second[0].attempts), (1, 2));
        let gave_up = sent(AfterVendor::GiveUp { dead_since_ms: None });
        let calls = vec![with(second, &sent(AfterVendor::Pushed)), with(first, &gave_up)];
        stage.answered(calls).await.into_iter().for_each(|done| drop(done.expect("noted")));
        let state =
            |t: &Transaction<'_>| t.query_row("SELECT state FROM deliveries", params![], |r| r.get::<String>(0));
        assert_eq!(stage.store.run(state).await.expect("read"), "pushed");
    }

    #[tokio::test]
    async fn each_message_of_a_call_is_decided_on_by_its_own_receivers_and_conversations_wishes() {
        let stage = Stage::new(&["ann", "ben", "cid"]).await;
        let key = Key::SilenceWith("bob".into());
        stage.store.set(APP.into(), "ben".into(), key, &json!({"type": "NONE"})).await.expect("set");
        stage.store.set(APP.into(), "bob".into(), Key::Profile, &json!({"nickname": "Bob"})).await.expect("set");
        stage.store.set(APP.into(), "cid".into(), Key::Profile, &json!({"display_style": 1})).await.expect("set");
        let sends = jobs(stage.accept(&[("m1", "ann"), ("m2", "ben"), ("m3", "cid")], 9, RULES).await);
        let shown = |job: &VendorJob| (job.message.id.to_string(), job.setting.receiver.display_style);
        assert_eq!(sends.iter().map(shown).collect::<Vec<_>>(), [("m1".into(), 0), ("m3".into(), 1)]);
        assert!(sends.iter().all(|job| job.setting.sender_nickname.as_deref() == Some("Bob")));
        assert_eq!(stage.hops("m2").await, ["stopped"]);
    }

    #[tokio::test]
    async fn a_user_who_is_online_elsewhere_is_held_back_for_and_nobody_else_of_the_call() {
        let stage = Stage::new(&["ann", "ben"]).await;
        let rules = AppRules { multi_device: Some(MultiDevice::AllOffline), ..AppRules::default() };
        stage.store.set(APP.into(), String::new(), Key::Rules, &rules).await.expect("set");
        let hello = json!({"nonce": "c", "agent": "t", "channel": "none", "platform": "android", "login": "l"});
        let hello: Hello = serde_json::from_value(hello).expect("a hello");
        let tablet = Address::new(APP, "ann", "tablet").expect("an address");
        stage.store.hello(tablet.clone(), hello, RULES, 2).await.expect("heard");
        let accepted = stage.accept(&[("m1", "ann"), ("m2", "ben")], 9, RULES).await;
        assert_eq!(badges(&jobs(accepted)), [("m2", 1)]);
        assert_eq!(stage.hops("m1").await, ["stopped", "published"]);
        // The tablet has it: its user was told.
        stage.store.acked(tablet, vec!["m1".into()], Some(true), RULES, 20).await.expect("acked");
        assert!(stage.claim(10 + RULES.ack_deadline_ms).await.jobs.is_empty());
        assert!(stage.store.next_due().await.expect("read").is_none_or(|due_ms| due_ms > 10 + RULES.ack_deadline_ms));
    }
}
