//! Which bound tokens their vendors call dead. A report marks a binding and never deletes it.

use super::sql::Transaction;
use super::value::Bound;
use super::{StoreError, as_i64};

/// A vendor's report, in its answer to a push or in a receipt.
pub(super) struct Death<'a> {
    pub app: &'a str,
    pub notifier: &'a str,
    pub token: &'a str,
    /// When the token died, in milliseconds since the Unix epoch; the report's own time where it names none.
    pub since_ms: u64,
    /// The vendor's code.
    pub code: &'a str,
}

/// Marks the bindings, unless they were bound after their tokens' death or are marked already.
///
/// # Errors
/// [`StoreError`].
pub(super) fn mark_dead<'a>(t: &Transaction<'_>, deaths: impl Iterator<Item = Death<'a>>) -> Result<(), StoreError> {
    // A report that is overtaken by a fresh binding speaks of the one before.
    const ONE: &str = "UPDATE bindings SET dead_ms = ?4, dead_code = ?5
         WHERE app = ?1 AND notifier = ?2 AND token = ?3 AND bound_ms <= ?4 AND dead_ms IS NULL";
    const ALL: &str = "UPDATE bindings b SET dead_ms = u.since_ms, dead_code = u.code
         FROM unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS text[]), CAST(?4 AS bigint[]), CAST(?5 AS text[]))
         AS u (app, notifier, token, since_ms, code) WHERE b.app = u.app AND b.notifier = u.notifier AND b.token = u.token
         AND b.bound_ms <= u.since_ms AND b.dead_ms IS NULL";
    let mut deaths: Vec<Death<'_>> = deaths.collect();
    // Rows are held in one order, as by everybody; the first of several reports counts.
    deaths.sort_by_key(|death| (death.app, death.notifier, death.token));
    let row = |Death { app, notifier, token, since_ms, code }: &Death<'a>| {
        let mut row = [*app, notifier, token].map(Bound::Text).to_vec();
        row.extend([Bound::Integer(as_i64(*since_ms)), Bound::Text(code)]);
        row
    };
    t.execute_rows((ONE, ALL), deaths.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Rules;
    use crate::gateway::store::bindings::{Newest, newest_binding};
    use crate::gateway::store::{Bind, BindReply, Store, Vault};
    use crate::protocol::Address;
    use crate::vendors::Vendor;
    use crate::vendors::certificate::Certificate;
    use crate::vendors::receipt::{Event, Receipt};

    const APP: &str = "o#a";
    const OLD: &str = "a-token-of-the-phone-0001";
    const NEW: &str = "a-token-of-the-phone-0002";

    fn phone() -> Address {
        Address::new(APP, "ann", "phone").expect("an address")
    }

    async fn store(home: &std::path::Path) -> Store {
        let vault = Vault::open(&home.join("key"), true).expect("a key");
        let store = Store::open(&home.join("db"), vault).expect("a store");
        for name in ["n1", "n2"] {
            let certificate = Certificate::new(APP.into(), name.into(), Vendor::Honor, serde_json::json!({}));
            store.put_certificate(certificate, 1).await.expect("stored");
        }
        store
    }

    async fn bind(store: &Store, notifier: &str, token: &str, now_ms: u64) {
        let bind = Bind::Set { notifier: notifier.into(), token: token.into() };
        assert_eq!(store.bind_by_api(phone(), bind, Rules::FOR_TESTS, now_ms).await.expect("done").0, BindReply::Ok);
    }

    async fn report(store: &Store, notifier: &'static str, token: &'static str, since_ms: u64) {
        let death = Death { app: APP, notifier, token, since_ms, code: "80300007" };
        store.run(move |t| mark_dead(t, std::iter::once(death))).await.expect("done");
    }

    /// When each binding's token died.
    async fn deaths(store: &Store) -> Vec<Option<u64>> {
        let all = store.bindings(APP.into(), "ann".into(), None).await.expect("listed");
        all.into_iter().map(|binding| binding.dead_ms).collect()
    }

    async fn newest(store: &Store) -> Newest {
        store.run(|t| newest_binding(t, &phone())).await.expect("read")
    }

    #[tokio::test]
    async fn a_report_marks_the_binding_and_the_first_one_counts() {
        let home = tempfile::tempdir().expect("a directory");
        let store = store(home.path()).await;
        bind(&store, "n1", OLD, 100).await;
        report(&store, "n1", OLD, 200).await;
        report(&store, "n1", OLD, 300).await;
        let listed = store.bindings(APP.into(), "ann".into(), None).await.expect("listed");
        assert_eq!((listed[0].dead_ms, listed[0].dead_code.as_deref()), (Some(200), Some("80300007")));
        assert!(matches!(newest(&store).await, Newest::Dead));
    }

    #[tokio::test]
    async fn a_token_of_apples_is_one_token_however_it_is_written() {
        let home = tempfile::tempdir().expect("a directory");
        let store = store(home.path()).await;
        let certificate = Certificate::new(APP.into(), "apple".into(), Vendor::Apns, serde_json::json!({}));
        store.put_certificate(certificate, 1).await.expect("stored");
        let (small, capital) = ("ab".repeat(32), "AB".repeat(32));
        bind(&store, "apple", &capital, 100).await;
        let ben = Address::new(APP, "ben", "phone").expect("an address");
        let again = Bind::Set { notifier: "apple".into(), token: small.clone() };
        store.bind_by_api(ben, again, Rules::FOR_TESTS, 200).await.expect("bound");
        assert!(deaths(&store).await.is_empty(), "the newest login has it");
        let of_ben = || async { store.bindings(APP.into(), "ben".into(), None).await.expect("listed") };
        assert_eq!(of_ben().await[0].device_token, small);
        // Honor's are not hexadecimal.
        bind(&store, "n1", OLD, 100).await;
        let listed = store.bindings(APP.into(), "ann".into(), None).await.expect("listed");
        assert_eq!(listed[0].device_token, OLD);
        let sequenced = |token: String| {
            let bind = Bind::Set { notifier: "apple".into(), token };
            store.bind(phone(), 7, bind, Rules::FOR_TESTS, 300)
        };
        assert_eq!(sequenced(capital.clone()).await.expect("bound").0, BindReply::Ok);
        assert_eq!(sequenced(capital).await.expect("the same again").0, BindReply::Ok);
        assert!(of_ben().await.is_empty());
    }

    #[tokio::test]
    async fn a_report_from_before_the_binding_or_of_another_token_marks_nothing() {
        let home = tempfile::tempdir().expect("a directory");
        let store = store(home.path()).await;
        bind(&store, "n1", OLD, 100).await;
        report(&store, "n1", OLD, 99).await;
        report(&store, "n1", NEW, 200).await;
        report(&store, "n2", OLD, 200).await;
        assert_eq!(deaths(&store).await, [None]);
    }

    #[tokio::test]
    async fn the_same_token_bound_again_stays_marked_and_another_one_is_not() {
        let home = tempfile::tempdir().expect("a directory");
        let store = store(home.path()).await;
        bind(&store, "n1", OLD, 100).await;
        report(&store, "n1", OLD, 200).await;
        bind(&store, "n1", OLD, 300).await;
        assert_eq!(deaths(&store).await, [Some(200)]);
        bind(&store, "n1", NEW, 400).await;
        assert_eq!(deaths(&store).await, [None]);
        assert!(matches!(newest(&store).await, Newest::Usable { token, .. } if token == NEW));
    }

    #[tokio::test]
    async fn a_live_binding_is_used_before_a_newer_one_that_is_marked() {
        let home = tempfile::tempdir().expect("a directory");
        let store = store(home.path()).await;
        assert!(matches!(newest(&store).await, Newest::None));
        bind(&store, "n1", OLD, 100).await;
        bind(&store, "n2", NEW, 200).await;
        report(&store, "n2", NEW, 300).await;
        assert!(matches!(newest(&store).await, Newest::Usable { notifier, .. } if notifier == "n1"));
    }

    #[tokio::test]
    async fn a_receipt_marks_by_the_same_rule() {
        let home = tempfile::tempdir().expect("a directory");
        let store = store(home.path()).await;
        bind(&store, "n1", OLD, 100).await;
        for (now_ms, at_ms, expected) in [(99, None, None), (200, Some(99), None), (200, Some(150), Some(150))] {
            let (token, code, param) = (OLD.into(), "40000003".into(), String::new());
            let receipt = Receipt { token, event: Event::Dead, code, param, at_ms };
            let bound = store.receipts(APP.into(), "n1".into(), vec![(receipt, None)], now_ms).await;
            assert_eq!(bound.expect("noted"), (1, vec![true]));
            assert_eq!(deaths(&store).await, [expected]);
        }
    }
}
