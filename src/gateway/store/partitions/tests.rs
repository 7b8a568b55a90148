//! Days on a real PostgreSQL, at moments of the tests' own.

use super::*;
use crate::gateway::store::accept::Accepted;
use crate::gateway::store::trial::Trial;
use crate::gateway::store::{Bind, NewMessage, Reach, Recall, VendorResult, Welcome};
use crate::protocol::{Address, Hello};
use crate::vendors::Vendor;
use crate::vendors::certificate::Certificate;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

const APP: &str = "o#a";
/// Kept for two hours, and its trace for ten minutes.
const RULES: Rules = Rules { reconnect_grace_ms: 0, ..Rules::FOR_TESTS };
const KEPT_MS: u64 = RULES.keep_s * 1000;
const TRACE_MS: u64 = RULES.trace_s * 1000;

fn at(device: &str) -> Address {
    Address::new(APP, "ann", device).expect("an address")
}

/// The database's, which partitions are made by at the start.
fn today(trial: &Trial) -> u64 {
    let now = trial.ask("postgres", "SELECT CAST(extract(epoch FROM now()) * 1000 AS BIGINT)");
    day_of(now.parse().expect("a number"))
}

fn id(ms: u64) -> MessageId {
    MessageId::made(ms, [0; 4])
}

async fn send(store: &Store, id: &MessageId, key: Option<&str>, now_ms: u64) -> Accepted {
    let message = serde_json::json!({"id": id, "from": "bob", "to": "ann", "sent_at_ms": 1, "body": {"type": "txt"}});
    let message = Arc::new(serde_json::from_value(message).expect("a message"));
    let new = NewMessage { idempotency: key.map(str::to_owned), ..NewMessage::of(APP, message, now_ms + KEPT_MS) };
    let reach = Reach { broker: true, calls: 9 };
    store.accept(vec![new], RULES, reach, now_ms).await.expect("accepted").remove(0)
}

/// The partitions' names without their tables'.
fn parts(trial: &Trial, database: &str, table: Table) -> Vec<String> {
    let said = trial.ask(
        database,
        &format!("SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = '{}'::regclass ORDER BY CAST(inhrelid::regclass AS TEXT)", table.name()),
    );
    let prefix = format!("{}_", table.name());
    said.lines().map(|name| name.trim_start_matches(&prefix).to_owned()).collect()
}

fn days(from_ms: u64, more: &[u64]) -> Vec<String> {
    let span = |n: &u64| Span { from_ms: from_ms + n * DAY_MS, to_ms: 0 };
    more.iter().map(|n| span(n).day()).collect()
}

async fn sweep(store: &Store, now_ms: u64) -> (usize, usize) {
    let (mut missed, mut recalls) = (0, 0);
    loop {
        let swept = store.sweep(RULES, now_ms).await.expect("swept");
        missed += swept.missed;
        recalls += swept.recalls.len();
        if !swept.more {
            return (missed, recalls);
        }
    }
}

async fn keep(store: &Store, now_ms: u64) {
    store.keep_days(RULES, now_ms, true).await.expect("kept");
}

#[tokio::test]
async fn a_day_is_made_ahead_and_goes_whole_after_its_messages_were_counted_and_recalled() {
    let Some(trial) = Trial::start("a_day_is_made_ahead") else { return };
    trial.database("days");
    let (store, today) = (trial.store("impush", "days").await, today(&trial));
    for table in [Table::Messages, Table::Events] {
        assert_eq!(parts(&trial, "days", table), [days(today, &[0, 1, 2]), vec!["rest".to_owned()]].concat());
    }
    assert_eq!(parts(&trial, "days", Table::Deliveries), [days(today, &[0]), vec!["rest".to_owned()]].concat());

    // Its vendor has it, and nobody takes it.
    let certificate = Certificate::new(APP.into(), "n".into(), Vendor::Honor, serde_json::json!({}));
    store.put_certificate(certificate, 1).await.expect("stored");
    let bind = Bind::Set { notifier: "n".into(), token: "a-token-of-the-device".into() };
    store.bind_by_api(at("phone"), bind, RULES, 1).await.expect("bound");
    let first = id(today + 10);
    let sent = VendorResult::pushed("v1");
    let jobs = send(&store, &first, Some("key"), today + 10).await.jobs;
    let results = jobs.into_iter().map(|job| (job, sent.clone())).collect();
    store.vendor_results(results, RULES, today + 20).await.expect("noted");
    for (table, width) in [("messages", 0), ("deliveries", 0), ("events", 0)] {
        let place = format!("SELECT DISTINCT tableoid::regclass FROM {table}");
        assert_eq!(trial.ask("days", &place), format!("{table}_{}", days(today, &[width])[0]));
    }
    let again = send(&store, &id(today + DAY_MS + 5), Some("key"), today + DAY_MS + 5).await;
    assert_eq!(again.id, first, "a key counts on the next day, too");

    let over = today + DAY_MS + KEPT_MS;
    keep(&store, over + TRACE_MS).await;
    assert_eq!(parts(&trial, "days", Table::Messages)[..2], days(today, &[0, 1]), "nobody has come by it");
    assert_eq!(sweep(&store, over).await, (1, 1));
    keep(&store, over).await;
    assert!(!store.trace(APP.into(), first.to_string()).await.expect("a trace").is_empty(), "that is kept a while");

    // Somebody reads for hours, as a backup does.
    let mut backup = trial.psql("days").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
    let mut say = backup.stdin.take().expect("a pipe");
    writeln!(say, "BEGIN; SELECT count(*) FROM messages;").expect("said");
    let mut heard = String::new();
    BufReader::new(backup.stdout.take().expect("a pipe")).read_line(&mut heard).expect("heard");
    let sends = async {
        for n in 0..20 {
            let began = Instant::now();
            send(&store, &id(over + n), None, over + n).await;
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        }
    };
    tokio::join!(keep(&store, over + TRACE_MS), sends);
    assert_eq!(parts(&trial, "days", Table::Messages)[0], days(today, &[0])[0]);
    drop(say);
    backup.wait().expect("ended");

    keep(&store, over + TRACE_MS).await;
    for table in [Table::Messages, Table::Events] {
        assert_eq!(parts(&trial, "days", table)[0], days(today, &[1])[0]);
    }
    assert!(store.trace(APP.into(), first.to_string()).await.expect("a trace").is_empty());
    let over = today + 8 * DAY_MS + KEPT_MS;
    sweep(&store, over).await;
    keep(&store, over).await;
    keep(&store, over + TRACE_MS).await;
    let [messages, deliveries] = [Table::Messages, Table::Deliveries].map(|table| parts(&trial, "days", table));
    assert_eq!(messages[..3], days(today, &[8, 9, 10]), "and nothing older");
    assert_eq!(deliveries[0], days(today, &[8])[0]);
    let removed = "SELECT sum(n_tup_del) FROM pg_stat_user_tables WHERE relname ~ '^(messages|deliveries|events)'";
    assert_eq!(trial.ask("days", removed), "0", "nothing is left to vacuum");
    let noted = "SELECT count(*) FROM meta WHERE key LIKE 'swept/%'";
    assert_eq!(trial.ask("days", noted), "0");
}

#[tokio::test]
async fn what_has_no_day_lies_in_the_rest_and_goes_row_by_row_also_where_no_table_may_be_made() {
    let Some(trial) = Trial::start("what_has_no_day") else { return };
    trial.database("rest");
    let (store, today) = (trial.store("impush", "rest").await, today(&trial));
    for n in 0..3 {
        let day = &days(today, &[n])[0];
        trial.ask("rest", &format!("DROP TABLE messages_{day}, events_{day}"));
    }
    send(&store, &id(today), Some("key"), today).await;
    let place = "SELECT tableoid::regclass FROM messages";
    assert_eq!(trial.ask("rest", place), "messages_rest");
    keep(&store, today + 20).await;
    assert_eq!(parts(&trial, "rest", Table::Messages)[..2], days(today, &[1, 2]), "its day comes too late");
    let key = send(&store, &id(today + DAY_MS), Some("key"), today + DAY_MS).await;
    assert_eq!(key.id, id(today), "a key counts there, too");

    let over = today + DAY_MS + KEPT_MS;
    assert_eq!(sweep(&store, over).await, (1, 0));
    sweep(&store, over + TRACE_MS).await;
    for table in ["messages", "deliveries", "events"] {
        assert_eq!(trial.ask("rest", &format!("SELECT count(*) FROM {table}")), "0", "{table}");
    }
    assert_eq!(*store.days.0.lock().expect("held"), None);

    for statement in [
        "CREATE ROLE plain LOGIN",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO plain",
    ] {
        trial.ask("rest", statement);
    }
    let plain = trial.store("plain", "rest").await;
    assert!(plain.days.0.lock().expect("held").is_some_and(|why| why.contains("may not make tables")));
    let late = today + 10 * DAY_MS;
    keep(&plain, late).await;
    send(&plain, &id(late), None, late).await;
    assert_eq!(trial.ask("rest", place), "messages_rest");
    assert_eq!(sweep(&plain, late + DAY_MS).await, (1, 0));
    sweep(&plain, late + DAY_MS + TRACE_MS).await;
    assert_eq!(trial.ask("rest", "SELECT count(*) FROM messages"), "0");
}

#[tokio::test]
async fn beside_a_large_rest_days_are_made_again_and_nothing_is_refused_meanwhile() {
    let Some(trial) = Trial::start("beside_a_large_rest") else { return };
    trial.database("large");
    let (store, today) = (trial.store("impush", "large").await, today(&trial));
    // As after weeks with a role that may make no tables.
    for n in 0..3 {
        let day = &days(today, &[n])[0];
        trial.ask("large", &format!("DROP TABLE messages_{day}, events_{day}"));
    }
    trial.ask("large", &format!("DROP TABLE deliveries_{}", days(today, &[0])[0]));
    send(&store, &id(today), None, today).await;
    trial.ask(
        "large",
        &format!(
            "INSERT INTO messages (id, app, \"user\", message, accepted_ms, expires_ms)
             SELECT '{}' || n, 'o#a', 'ann', repeat('x', 1000), 1, 2 FROM generate_series(10000, 29999) AS n",
            &id(today + 1)[..12]
        ),
    );
    let refuses = "SELECT count(*) FROM pg_constraint WHERE conname LIKE '%\\_rest\\_until'";
    // One that somebody has left, as a gateway that was killed.
    trial.ask("large", "ALTER TABLE messages_rest ADD CONSTRAINT messages_rest_until CHECK (id < 'x') NOT VALID");
    for n in 0..4 {
        let now_ms = today + n * DAY_MS + 5;
        keep(&store, now_ms).await;
        send(&store, &id(now_ms), None, now_ms).await;
        assert_eq!(trial.ask("large", refuses), "0");
        for table in Table::ALL {
            let there = parts(&trial, "large", table);
            let made = days(today, &(2..=n + 2).collect::<Vec<_>>());
            assert_eq!(there, [made, vec!["rest".to_owned()]].concat(), "{table:?} on day {n}");
        }
        assert_eq!(*store.days.0.lock().expect("held"), None);
    }
    let place = format!("SELECT tableoid::regclass FROM messages WHERE id = '{}'", id(today + 3 * DAY_MS + 5));
    assert_eq!(trial.ask("large", &place), format!("messages_{}", days(today, &[3])[0]));
}

#[tokio::test]
async fn what_is_noted_of_a_message_that_has_gone_goes_too() {
    let Some(trial) = Trial::start("what_is_noted_of_a_message_that_has_gone") else { return };
    trial.database("late");
    let (store, today) = (trial.store("impush", "late").await, today(&trial));
    let (old, new) = (id(today - 30 * DAY_MS), id(today));
    send(&store, &new, None, today).await;
    for gone in [&old, &id(today - 20 * DAY_MS)] {
        let (message, address, notifier) = (gone.clone(), at("phone"), "n".to_owned());
        let recall = Recall { address, message, notifier, token: String::new(), vendor_id: "v".into() };
        store.recalled(recall, "late".into(), today).await.expect("noted");
    }
    // One that lives longer than others.
    trial.ask(
        "late",
        &format!("INSERT INTO messages (id, app, \"user\", message, accepted_ms, expires_ms) VALUES ('{old}', 'o#a', 'ann', '{{}}', 1, {})", today + 30 * DAY_MS),
    );
    assert_eq!(trial.ask("late", "SELECT count(*) FROM events_rest"), "2");
    keep(&store, today + 5).await;
    assert_eq!(trial.ask("late", "SELECT message FROM events_rest"), *old);
    assert!(!store.trace(APP.into(), new.to_string()).await.expect("a trace").is_empty());
}

/// A database of the version before, as an operator may have got it ready.
fn version_11(trial: &Trial, name: &str, ready: &str) {
    trial.database(name);
    let fixture = File::open("tests/fixtures/store/version-11-postgres.sql").expect("a file");
    let made = trial.psql(name).stdin(fixture).stdout(Stdio::null()).status().expect("ran");
    assert!(made.success());
    trial.ask(name, ready);
}

#[tokio::test]
async fn the_version_before_is_divided_with_all_that_it_holds() {
    let Some(trial) = Trial::start("the_version_before") else { return };
    let today = today(&trial);
    trial.ask("postgres", "CREATE ROLE plain LOGIN");
    let rights = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain";
    version_11(&trial, "old", rights);
    let store = trial.store("impush", "old").await;
    drop(trial.store("impush", "old").await);
    assert_eq!(
        parts(&trial, "old", Table::Messages),
        [days(today, &[2]), vec!["before".into(), "rest".into()]].concat()
    );
    let place = "SELECT string_agg(tableoid::regclass::text, ' ' ORDER BY id) FROM messages";
    assert_eq!(trial.ask("old", place), "messages_before messages_before messages_rest");

    let trace = store.trace(APP.into(), "00000000000a00000001".into()).await.expect("a trace");
    let said: Vec<_> = trace.iter().map(|line| (line.at_ms, line.hop.as_str())).collect();
    assert_eq!(said, [(10, "accepted"), (10, "published"), (20, "acked")]);
    let known = send(&store, &id(today), Some("k"), today).await;
    assert_eq!(*known.id, *"019a00000000000000aa");
    let plain = trial.store("plain", "old").await;
    send(&plain, &id(today + 1), None, today + 1).await;
    let hello = serde_json::json!({
        "nonce": "n", "agent": "t", "channel": "none", "platform": "linux", "login": "l",
    });
    let hello: Hello = serde_json::from_value(hello).expect("a hello");
    let Welcome::In { missed, .. } = store.hello(at("phone"), hello, RULES, today + 2).await.expect("heard") else {
        panic!("it is not let in")
    };
    let missed: BTreeSet<String> = missed.iter().map(|message| message.id.to_string()).collect();
    assert_eq!(missed, BTreeSet::from(["019a00000000000000aa".to_owned(), id(today + 1).to_string(), "m".to_owned()]));
    let all: Vec<MessageId> = missed.iter().map(|id| MessageId::try_from(id.clone()).expect("an id")).collect();
    store.taken(at("phone"), (all, Vec::new()), RULES, today + 3).await.expect("taken");
    assert_eq!(trial.ask("old", "SELECT min(number) > 4 FROM events WHERE message = 'm' AND hop = 'taken'"), "t");

    // What lived longer is over, and the piece of before goes like a day.
    trial.ask("old", "UPDATE messages SET expires_ms = 20 WHERE id <> 'm'");
    let over = today + 2 * DAY_MS + KEPT_MS;
    sweep(&store, over).await;
    keep(&store, over).await;
    sweep(&store, over + TRACE_MS).await;
    keep(&store, over + TRACE_MS).await;
    for table in Table::ALL {
        assert!(!parts(&trial, "old", table).contains(&"before".to_owned()), "{table:?}");
        let left = format!("SELECT count(*) FROM {} WHERE {} <> 'm'", table.name(), table.column());
        assert_eq!(trial.ask("old", &left), "0", "{table:?}");
    }
}

#[tokio::test]
async fn what_an_operator_has_got_ready_is_used_and_leaves_nothing_that_refuses_messages() {
    let Some(trial) = Trial::start("what_an_operator_has_got_ready") else { return };
    let document = std::fs::read_to_string("docs/upgrading.md").expect("read");
    let ready = document.split("```sql").nth(1).and_then(|text| text.split("```").next()).expect("a block");
    version_11(
        &trial,
        "ready",
        &format!(
            "DELETE FROM messages WHERE id = 'm'; DELETE FROM deliveries WHERE message = 'm'; DELETE FROM events WHERE message = 'm'; {ready}"
        ),
    );
    let checks = "SELECT count(*) FROM pg_constraint WHERE conname LIKE '%\\_before' AND convalidated";
    assert_eq!(trial.ask("ready", checks), "3");
    let (store, today) = (trial.store("impush", "ready").await, today(&trial));
    assert_eq!(trial.ask("ready", checks), "0");
    for day in 0..4 {
        send(&store, &id(today + day * DAY_MS), None, today + day * DAY_MS).await;
    }
    let place = "SELECT count(DISTINCT tableoid) FROM messages";
    assert_eq!(trial.ask("ready", place), "3", "before, the day after tomorrow, the rest");
}
