//! How a device's bindings do, and that the gateway holds the one the device wants and no other.

use super::bindings::whose;
use super::known::Known;
use super::limits;
use super::sql::{Transaction, params};
use super::value::Bound;
use super::{StoreError, as_i64, as_u64};
use crate::protocol::{Address, BindingReport, BindingState, Held};
use crate::secret::fingerprint;

/// A binding whose last accepted push is older than this is not proven any more, in milliseconds.
const PROVEN_MS: u64 = 7 * 24 * 3600 * 1000;
/// An acceptance is noted once in this time, in milliseconds: not every push costs a write.
const NOTED_MS: u64 = 3600 * 1000;

/// A vendor accepted a push.
pub(super) struct Accepted<'a> {
    pub address: &'a Address,
    pub notifier: &'a str,
    pub token: &'a str,
    /// When that was last noted of the token, as of when the push was claimed.
    pub noted_ms: Option<u64>,
    pub now_ms: u64,
}

/// Vendors accepted pushes for these tokens.
///
/// # Errors
/// [`StoreError`].
pub(super) fn note_accepted<'a>(
    t: &Transaction<'_>,
    accepted: impl Iterator<Item = Accepted<'a>>,
) -> Result<(), StoreError> {
    const ONE: &str = "UPDATE bindings SET accepted_ms = ?6 WHERE app = ?1 AND user = ?2 AND device = ?3 AND notifier = ?4
         AND token = ?5 AND bound_ms <= ?6 AND (accepted_ms IS NULL OR accepted_ms < ?7) RETURNING app, notifier, token";
    const ALL: &str = "UPDATE bindings b SET accepted_ms = u.now_ms
         FROM unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS text[]), CAST(?4 AS text[]), CAST(?5 AS text[]),
         CAST(?6 AS bigint[]), CAST(?7 AS bigint[])) AS u (app, user, device, notifier, token, now_ms, before_ms)
         WHERE b.app = u.app AND b.user = u.user AND b.device = u.device AND b.notifier = u.notifier AND b.token = u.token
         AND b.bound_ms <= u.now_ms AND (b.accepted_ms IS NULL OR b.accepted_ms < u.before_ms)
         RETURNING b.app, b.notifier, b.token";
    let before_ms = |now_ms: u64| now_ms.saturating_sub(NOTED_MS);
    let mut accepted: Vec<Accepted<'_>> =
        accepted.filter(|one| one.noted_ms.is_none_or(|noted_ms| noted_ms < before_ms(one.now_ms))).collect();
    // Rows are held in one order, as by everybody.
    accepted.sort_by_key(|one| (&one.address.app, one.notifier, one.token, one.address));
    let row = |Accepted { address: Address { app, user, device }, notifier, token, now_ms, .. }: &Accepted<'a>| {
        let mut row = [&**app, user, device, notifier, token].map(Bound::Text).to_vec();
        row.extend([*now_ms, before_ms(*now_ms)].map(|ms| Bound::Integer(as_i64(ms))));
        row
    };
    let noted: Vec<(String, String, String)> =
        t.with_rows((ONE, ALL), accepted.iter().map(row), |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
    limits::over(t, noted.iter().map(|(app, notifier, token)| (app.as_str(), notifier.as_str(), token.as_str())))
}

/// Each binding of the device, by its certificate's name; what it does not want is removed. A device that does not say keeps
/// everything.
///
/// # Errors
/// [`StoreError`].
pub(super) fn reports(
    t: &Transaction<'_>,
    known: &Known,
    (address, wanted): (&Address, Option<&Held>),
    now_ms: u64,
) -> Result<Vec<BindingReport>, StoreError> {
    type Row = (String, String, Option<i64>, Option<i64>, Option<String>);
    let Address { app, user, device } = address;
    let rows: Vec<Row> = t
        .prepare_cached(concat!(
            "SELECT b.notifier, b.token, b.accepted_ms, b.dead_ms, b.dead_code",
            whose!("?1", "?2", "?3")
        ))?
        .query_map(params![app, user, device], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?)))?
        .collect::<Result<_, _>>()?;
    let is_wanted = |(notifier, token, ..): &Row| {
        let is = || Held::Bound { notifier: notifier.clone(), token: fingerprint(token) };
        wanted.is_none_or(|wanted| is() == *wanted)
    };
    let (mut rows, unwanted): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(is_wanted);
    for (notifier, token, ..) in &unwanted {
        // Only if it is this token still: another may be bound at once by another gateway.
        t.prepare_cached(
            "DELETE FROM bindings WHERE app = ?1 AND user = ?2 AND device = ?3 AND notifier = ?4 AND token = ?5",
        )?
        .execute(params![app, user, device, notifier, token])?;
    }
    rows.sort_unstable();
    let mut reports = Vec::with_capacity(rows.len());
    for (notifier, token, accepted_ms, dead_ms, dead_code) in rows {
        let mut until_ms = None;
        let (state, since_ms, code) = if let Some(since_ms) = dead_ms {
            (BindingState::Dead, Some(as_u64(since_ms)), dead_code)
        } else {
            match known.certificate(t, app, &notifier)? {
                Ok(None) => (BindingState::MissingCertificate, None, None),
                Ok(Some(certificate)) if !certificate.enabled => (BindingState::Disabled, None, None),
                Ok(Some(_)) => {
                    if let Some(limit) = limits::of(t, app, &notifier, &token, now_ms)? {
                        until_ms = Some(limit.until_ms);
                        (BindingState::Limited, Some(limit.since_ms), Some(limit.code))
                    } else {
                        let accepted_ms = accepted_ms.map(as_u64).filter(|at| at + PROVEN_MS > now_ms);
                        let state = accepted_ms.map_or(BindingState::Unproven, |_| BindingState::Working);
                        (state, accepted_ms, None)
                    }
                }
                // Every push through it stops before the vendor.
                Err(stop) => (BindingState::Failing, None, Some(stop.text().to_owned())),
            }
        };
        reports.push(BindingReport { notifier, token: fingerprint(&token), state, since_ms, until_ms, code });
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Rules;
    use crate::delivery::outcome::Limit;
    use crate::gateway::store::marks::{Death, mark_dead};
    use crate::gateway::store::{Bind, BindReply, Limited, Look, Store, Vault, Welcome};
    use crate::protocol::{Hello, KickCode};
    use crate::vendors::Vendor;
    use crate::vendors::certificate::Certificate;

    const APP: &str = "o#a";
    const OLD: &str = "a-token-of-the-phone-0001";
    const NEW: &str = "a-token-of-the-phone-0002";
    const DAY_MS: u64 = 24 * 3600 * 1000;
    const RULES: Rules = Rules::FOR_TESTS;

    fn phone() -> Address {
        Address::new(APP, "ann", "phone").expect("an address")
    }

    fn hello(check: bool, binding: Option<Held>) -> Hello {
        Hello {
            nonce: if check { "look" } else { "connection" }.into(),
            agent: "impush/0".into(),
            channel: "honor".into(),
            platform: "android".into(),
            model: None,
            login: Some("login".into()),
            check,
            instance: None,
            binding,
        }
    }

    fn held(notifier: &str, token: &str) -> Option<Held> {
        Some(Held::Bound { notifier: notifier.into(), token: fingerprint(token) })
    }

    /// A store with the certificates `n1` and `n2`.
    async fn store(home: &std::path::Path) -> Store {
        let vault = Vault::open(&home.join("key"), true).expect("a key");
        let store = Store::open(&home.join("db"), vault).expect("a store");
        for name in ["n1", "n2"] {
            let certificate = Certificate::new(APP.into(), name.into(), Vendor::Honor, serde_json::json!({}));
            store.put_certificate(certificate, 1).await.expect("stored");
        }
        store
    }

    async fn bind(store: &Store, sequence: u64, notifier: &str, token: &str) -> BindReply {
        let bind = Bind::Set { notifier: notifier.into(), token: token.into() };
        store.bind(phone(), sequence, bind, RULES, 100).await.expect("done").0
    }

    async fn greet(store: &Store, hello: Hello, now_ms: u64) -> Welcome {
        store.hello(phone(), hello, RULES, now_ms).await.expect("answered")
    }

    /// What the welcome says of each binding.
    async fn said(store: &Store, hello: Hello, now_ms: u64) -> Vec<(String, String, BindingState)> {
        let bindings = match greet(store, hello, now_ms).await {
            Welcome::In { bindings, .. } => bindings,
            Welcome::Out(kick) => panic!("kicked: {kick:?}"),
        };
        bindings.into_iter().map(|report| (report.notifier, report.token, report.state)).collect()
    }

    async fn states(store: &Store, now_ms: u64) -> Vec<BindingState> {
        said(store, hello(false, None), now_ms).await.into_iter().map(|(.., state)| state).collect()
    }

    async fn accepted(store: &Store, token: &'static str, now_ms: u64) {
        let noted = store.run(move |t| {
            let accepted = Accepted { address: &phone(), notifier: "n1", token, noted_ms: None, now_ms };
            note_accepted(t, std::iter::once(accepted))
        });
        noted.await.expect("noted");
    }

    #[tokio::test]
    async fn a_binding_works_for_seven_days_after_its_token_was_accepted() {
        let home = tempfile::tempdir().expect("a directory");
        let store = store(home.path()).await;
        bind(&store, 1, "n1", OLD).await;
        assert_eq!(states(&store, 200).await, [BindingState::Unproven]);
        accepted(&store, NEW, 200).await;
        assert_eq!(states(&store, 200).await, [BindingState::Unproven]);
        accepted(&store, OLD, 200).await;
        assert_eq!(states(&store, 200 + 7 * DAY_MS - 1).await, [BindingState::Working]);
        assert_eq!(states(&store, 200 + 7 * DAY_MS).await, [BindingState::Unproven]);
        accepted(&store, OLD, DAY_MS).await;
        assert_eq!(states(&store, 200 + 7 * DAY_MS).await, [BindingState::Working]);
        bind(&store, 2, "n1", OLD).await;
        assert_eq!(states(&store, 300).await, [BindingState::Working]);
        bind(&store, 3, "n1", NEW).await;
        assert_eq!(states(&store, 300).await, [BindingState::Unproven]);
    }

    #[tokio::test]
    async fn what_keeps_a_binding_from_serving_is_said() {
        let home = tempfile::tempdir().expect("a directory");
        let store = store(home.path()).await;
        bind(&store, 1, "n1", OLD).await;
        store.enable_certificate(APP.into(), "n1".into(), false).await.expect("done");
        assert_eq!(states(&store, 200).await, [BindingState::Disabled]);
        store.remove_certificate(APP.into(), "n1".into()).await.expect("done");
        assert_eq!(states(&store, 200).await, [BindingState::MissingCertificate]);
        let death = Death { app: APP, notifier: "n1", token: OLD, since_ms: 150, code: "80300007" };
        store.run(move |t| mark_dead(t, std::iter::once(death))).await.expect("done");
        let Welcome::In { bindings, .. } = greet(&store, hello(false, None), 200).await else { panic!("kicked") };
        let report = BindingReport {
            notifier: "n1".into(),
            token: fingerprint(OLD),
            state: BindingState::Dead,
            since_ms: Some(150),
            until_ms: None,
            code: Some("80300007".into()),
        };
        assert_eq!(bindings, [report]);
    }

    async fn limited(store: &Store, token: &'static str, limit: Limit, until_ms: u64, now_ms: u64) {
        let limited = Limited { limit, until_ms };
        let said = limits::Said { app: APP, notifier: "n1", token, limited, code: "200001", now_ms };
        store.run(move |t| limits::note(t, std::iter::once(said))).await.expect("noted");
    }

    #[tokio::test]
    async fn a_used_up_quota_is_said_with_its_end_and_is_over_then() {
        let home = tempfile::tempdir().expect("a directory");
        let store = store(home.path()).await;
        bind(&store, 1, "n1", OLD).await;
        limited(&store, OLD, Limit::Device, 200 + DAY_MS, 200).await;
        let Welcome::In { bindings, .. } = greet(&store, hello(false, None), 300).await else { panic!("kicked") };
        let report = BindingReport {
            notifier: "n1".into(),
            token: fingerprint(OLD),
            state: BindingState::Limited,
            since_ms: Some(200),
            until_ms: Some(200 + DAY_MS),
            code: Some("200001".into()),
        };
        assert_eq!(bindings, std::slice::from_ref(&report));
        let look = store.look(phone(), hello(true, None), 300).await.expect("answered");
        assert_eq!(look, Look::In(vec![report]));
        assert_eq!(states(&store, 200 + DAY_MS).await, [BindingState::Unproven]);
    }

    #[tokio::test]
    async fn a_devices_quota_is_its_own_and_a_certificates_everybodys_until_a_push_goes_through() {
        let home = tempfile::tempdir().expect("a directory");
        let store = store(home.path()).await;
        bind(&store, 1, "n1", OLD).await;
        limited(&store, NEW, Limit::Device, 200 + DAY_MS, 200).await;
        assert_eq!(states(&store, 300).await, [BindingState::Unproven]);
        limited(&store, NEW, Limit::Certificate, 200 + DAY_MS, 200).await;
        assert_eq!(states(&store, 300).await, [BindingState::Limited]);
        accepted(&store, OLD, 400).await;
        assert_eq!(states(&store, 400).await, [BindingState::Working]);
        limited(&store, OLD, Limit::Certificate, 200 + DAY_MS, 500).await;
        let another = Certificate::new(APP.into(), "n1".into(), Vendor::Honor, serde_json::json!({"k": "another"}));
        store.put_certificate(another, 600).await.expect("stored");
        assert_eq!(states(&store, 600).await, [BindingState::Working]);
    }

    #[tokio::test]
    async fn a_short_limit_or_the_gateways_own_pause_keeps_no_device_from_resting() {
        let home = tempfile::tempdir().expect("a directory");
        let store = store(home.path()).await;
        bind(&store, 1, "n1", OLD).await;
        limited(&store, OLD, Limit::Certificate, 5_200, 200).await;
        limited(&store, OLD, Limit::Circuit, 300_200, 200).await;
        assert_eq!(states(&store, 300).await, [BindingState::Unproven]);
    }

    #[tokio::test]
    async fn a_greeting_leaves_the_binding_the_device_wants_and_no_other() {
        let home = tempfile::tempdir().expect("a directory");
        let store = store(home.path()).await;
        bind(&store, 1, "n1", OLD).await;
        bind(&store, 2, "n2", NEW).await;
        assert_eq!(said(&store, hello(false, None), 200).await.len(), 2);
        let wanted = [("n2".to_owned(), fingerprint(NEW), BindingState::Unproven)];
        assert_eq!(said(&store, hello(false, held("n2", NEW)), 200).await, wanted);
        assert_eq!(said(&store, hello(false, held("n2", OLD)), 200).await, []);
        bind(&store, 3, "n1", OLD).await;
        assert_eq!(said(&store, hello(false, Some(Held::None)), 200).await, []);
        assert_eq!(store.bindings(APP.into(), "ann".into(), None).await.expect("listed"), []);
    }

    #[tokio::test]
    async fn a_look_mends_the_bindings_and_changes_nothing_of_the_connection() {
        let home = tempfile::tempdir().expect("a directory");
        let store = store(home.path()).await;
        let unknown = store.look(phone(), hello(true, None), 50).await.expect("answered");
        assert_eq!(unknown, Look::In(Vec::new()));
        assert_eq!(store.devices(APP.into(), "ann".into()).await.expect("listed"), []);
        greet(&store, hello(false, None), 60).await;
        assert!(store.went_offline(phone(), "connection".into(), RULES, 70).await.expect("noted"));
        bind(&store, 1, "n1", OLD).await;
        bind(&store, 2, "n2", NEW).await;
        let before = store.devices(APP.into(), "ann".into()).await.expect("listed");
        let look = store.look(phone(), hello(true, held("n1", OLD)), 200).await.expect("answered");
        assert!(matches!(look, Look::In(all) if all.len() == 1 && all[0].notifier == "n1"));
        assert_eq!(store.devices(APP.into(), "ann".into()).await.expect("listed"), before);
        assert!(!before[0].online);
        // Beside a connection, it is that connection's end that counts.
        greet(&store, hello(false, None), 300).await;
        store.look(phone(), hello(true, None), 310).await.expect("answered");
        assert!(!store.went_offline(phone(), "look".into(), RULES, 320).await.expect("noted"));
        assert!(store.went_offline(phone(), "connection".into(), RULES, 330).await.expect("noted"));
    }

    #[tokio::test]
    async fn a_look_of_a_login_that_was_ended_is_told_so() {
        let home = tempfile::tempdir().expect("a directory");
        let store = store(home.path()).await;
        greet(&store, hello(false, None), 60).await;
        store.kick(APP.into(), "ann".into(), None, KickCode::Kicked, RULES, 100).await.expect("kicked");
        let look = store.look(phone(), hello(true, None), 200).await.expect("answered");
        assert!(matches!(look, Look::Out(kick) if kick.code == KickCode::Kicked));
        let another = Hello { login: Some("another".into()), ..hello(true, None) };
        assert_eq!(store.look(phone(), another, 200).await.expect("answered"), Look::In(Vec::new()));
    }

    #[tokio::test]
    async fn a_request_behind_the_newest_is_told_its_number_and_a_repeat_of_the_newest_is_fine() {
        let home = tempfile::tempdir().expect("a directory");
        let store = store(home.path()).await;
        assert_eq!(bind(&store, 7, "n1", OLD).await, BindReply::Ok);
        assert_eq!(bind(&store, 7, "n1", OLD).await, BindReply::Ok);
        assert_eq!(bind(&store, 7, "n1", NEW).await, BindReply::Stale { newest: 7 });
        assert_eq!(bind(&store, 3, "n1", OLD).await, BindReply::Stale { newest: 7 });
        let leave = Bind::Remove { notifier: None, logout: true };
        for (sequence, expected) in [(8, BindReply::Ok), (8, BindReply::Ok), (7, BindReply::Stale { newest: 8 })] {
            assert_eq!(store.bind(phone(), sequence, leave.clone(), RULES, 200).await.expect("done").0, expected);
        }
    }
}
