//! PostgreSQL as operators run it: connections are cut, and servers change places behind open ones.

mod support;

use impush::protocol::EnrolCode;
use serde_json::json;
use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::stage::{Stage, send};
use support::{Postgres, Process, Rest};

/// The answer's status.
fn sent(rest: &Rest) -> u16 {
    let message = json!({"to": ["ann"], "body": {"type": "txt", "msg": "hello"}});
    rest.ask("POST", &format!("{}/messages/users", rest.base), Some(&message)).0
}

#[test]
fn connections_that_are_cut_between_messages_cost_no_message() {
    let Some(stage) = Stage::new("connections_that_are_cut_between_messages_cost_no_message") else { return };
    let gateway = stage.gateway("a");
    let rest = stage.rest(&gateway);
    stage.phone(&rest);
    for _ in 0..20 {
        send(&rest, "ann", 1);
        stage.postgres.ask(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
        );
        assert_eq!(sent(&rest), 200);
    }
}

#[test]
fn a_database_that_turns_read_only_behind_open_connections_is_reached_anew() {
    let test = "a_database_that_turns_read_only_behind_open_connections_is_reached_anew";
    let Some(stage) = Stage::new(test) else { return };
    let gateway = stage.gateway("a");
    let rest = stage.rest(&gateway);
    stage.phone(&rest);
    send(&rest, "ann", 1);
    // Connections that are open take no writes any more, and new ones do: as behind a name or a proxy that moved.
    stage.postgres.ask("ALTER DATABASE postgres SET default_transaction_read_only = off");
    stage.postgres.ask("ALTER SYSTEM SET default_transaction_read_only = on");
    stage.postgres.ask("SELECT pg_reload_conf()");
    let turned = Instant::now();
    let mut in_a_row = 0;
    while in_a_row < 50 {
        in_a_row = if sent(&rest) == 200 { in_a_row + 1 } else { 0 };
        assert!(turned.elapsed() < Duration::from_secs(10), "it still answers 503");
    }
    assert_eq!(rest.text("/readyz"), "ready\n");
}

#[test]
fn a_statement_that_hangs_is_ended_and_answered_503_and_what_is_sent_after_it_is_taken() {
    let test = "a_statement_that_hangs_is_ended_and_answered_503_and_what_is_sent_after_it_is_taken";
    let Some(mut stage) = Stage::new(test) else { return };
    let plain = stage.gateway("plain");
    stage.phone(&stage.rest(&plain));
    send(&stage.rest(&plain), "ann", 1);
    stage.common = stage.common.replace("/postgres?", "/postgres?options=-c%20statement_timeout%3D500&");
    let gateway = stage.gateway("short");
    let rest = stage.rest(&gateway);
    send(&rest, "ann", 2);
    let (mut psql, mut say) = Process::start_told(Command::new("psql").args(["-AtX", &stage.postgres.url]));
    writeln!(say, "BEGIN; LOCK TABLE messages IN ACCESS EXCLUSIVE MODE; SELECT 'locked';").expect("said");
    psql.wait_for("the lock", |line| (line == "locked").then_some(()));
    let began = Instant::now();
    assert_eq!(sent(&rest), 503);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    drop(say);
    psql.child.wait().expect("ended");
    assert_eq!(sent(&rest), 200);
}

#[test]
fn of_sends_whose_transactions_are_cut_again_and_again_each_is_answered_and_shown_once() {
    let test = "of_sends_whose_transactions_are_cut_again_and_again_each_is_answered_and_shown_once";
    let Some(stage) = Stage::new(test) else { return };
    let gateway = stage.gateway("a");
    let rest = stage.rest(&gateway);
    let token = stage.phone(&rest);
    let rests: Vec<Rest> = (0..4).map(|_| stage.rest(&gateway)).collect();
    let (mut psql, mut say) = Process::start_told(Command::new("psql").args(["-AtX", &stage.postgres.url]));
    let cut = "SELECT 'cut ' || count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend' \
         AND xact_start IS NOT NULL AND pid <> pg_backend_pid() \\watch 0.02";
    writeln!(say, "{cut}").expect("said");
    let began = Instant::now();
    let senders: Vec<_> = (0..)
        .zip(rests)
        .map(|(sender, rest): (u32, Rest)| {
            std::thread::spawn(move || {
                let (mut ids, mut refused) = (Vec::new(), 0);
                for n in 0..25 {
                    let key = format!("{sender}-{n}");
                    let message = json!({"to": ["ann"], "body": {"type": "txt", "msg": key}});
                    let url = format!("{}/messages/users", rest.base);
                    loop {
                        match rest.ask_with("POST", &url, &[("idempotency-key", &key)], Some(&message)) {
                            (200, answer) => break ids.push(answer["data"]["ann"].as_str().expect("an id").to_owned()),
                            (503, _) => refused += 1,
                            other => panic!("{other:?}"),
                        }
                        assert!(began.elapsed() < Duration::from_secs(60), "{refused} times 503");
                    }
                }
                (ids, refused)
            })
        })
        .collect();
    let (mut ids, mut refused) = (Vec::new(), 0);
    for sender in senders {
        let (accepted, not) = sender.join().expect("every call is answered");
        ids.extend(accepted);
        refused += not;
    }
    psql.kill();
    let cuts: u32 = psql.rest().iter().filter_map(|line| line.strip_prefix("cut ")?.parse::<u32>().ok()).sum();
    println!("{} accepted, {refused} times 503, {cuts} transactions cut in {:?}", ids.len(), began.elapsed());
    assert!(cuts > 20, "{cuts}");
    support::eventually("all are shown", || stage.shown(&rest, &token).len() >= ids.len());
    let shown = stage.shown(&rest, &token);
    assert_eq!(shown.len(), 100, "a repeat with the same key is the same message");
    for id in ids {
        assert_eq!(shown.get(&id), Some(&1), "{id}");
    }
}

#[test]
fn a_commit_that_waits_for_a_standby_that_is_away_is_answered_503_and_holds_nobody_up_for_ever() {
    let test = "a_commit_that_waits_for_a_standby_that_is_away_is_answered_503_and_holds_nobody_up_for_ever";
    let Some(stage) = Stage::new(test) else { return };
    let gateway = stage.gateway("a");
    let rest = stage.rest(&gateway);
    stage.phone(&rest);
    stage.postgres.ask("ALTER SYSTEM SET synchronous_standby_names = 'away'");
    stage.postgres.ask("SELECT pg_reload_conf()");
    let began = Instant::now();
    // The first may have been committed before the server knew of it.
    while sent(&rest) != 503 {
        assert!(began.elapsed() < Duration::from_secs(3), "commits do not wait");
    }
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    stage.postgres.ask("ALTER SYSTEM RESET synchronous_standby_names");
    stage.postgres.ask("SELECT pg_reload_conf()");
    support::eventually("it takes messages again", || sent(&rest) == 200);
}

/// A standby takes over from the first server under load; `end` is what becomes of that one, and `fence` of what still waits there for
/// the standby.
fn taken_over(test: &str, end: impl Fn(&mut Postgres), fence: impl Fn(&Postgres)) {
    let Some(mut stage) = Stage::new(test) else { return };
    let second = stage.postgres.standby(stage.dir.path());
    for statement in [
        "ALTER SYSTEM SET synchronous_standby_names = '*'",
        "ALTER SYSTEM SET synchronous_commit = remote_apply",
        "SELECT pg_reload_conf()",
    ] {
        stage.postgres.ask(statement);
    }
    let follows = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    support::eventually("the standby is synchronous", || stage.postgres.ask(follows) == "1");
    let both = format!(
        "{}/postgres?target_session_attrs=read-write&",
        format_args!("127.0.0.1:{},127.0.0.1:{}", second.port, stage.postgres.port)
    );
    stage.common = stage.common.replace(&format!("127.0.0.1:{}/postgres?", stage.postgres.port), &both);
    let gateway = stage.gateway("a");
    let rest = stage.rest(&gateway);
    let token = stage.phone(&rest);
    let mut ids: Vec<String> = (0..20).map(|n| send(&rest, "ann", n)).collect();
    let (over, at) = (Arc::new(AtomicBool::new(false)), Instant::now());
    let sender = std::thread::spawn({
        let (rest, over) = (stage.rest(&gateway), over.clone());
        move || {
            let (mut accepted, mut refused) = (Vec::new(), 0);
            while !over.load(Ordering::Relaxed) {
                let message = json!({"to": ["ann"], "body": {"type": "txt", "msg": "under way"}});
                match rest.ask("POST", &format!("{}/messages/users", rest.base), Some(&message)) {
                    (200, answer) => {
                        accepted.push((at.elapsed(), answer["data"]["ann"].as_str().expect("an id").to_owned()))
                    }
                    (503, _) => refused += 1,
                    other => panic!("{other:?}"),
                }
            }
            (accepted, refused)
        }
    });
    end(&mut stage.postgres);
    second.ask("SELECT pg_promote()");
    let promoted = at.elapsed();
    let asking = std::thread::spawn({
        let rest = stage.rest(&gateway);
        move || {
            let mut in_a_row = 0;
            while in_a_row < 20 {
                in_a_row = if sent(&rest) == 200 { in_a_row + 1 } else { 0 };
                assert!(at.elapsed() < promoted + Duration::from_secs(10), "it still answers 503");
            }
        }
    });
    support::eventually("the answer", || {
        fence(&stage.postgres);
        asking.is_finished()
    });
    asking.join().expect("it is back");
    let back = at.elapsed() - promoted;
    over.store(true, Ordering::Relaxed);
    let (accepted, refused) = sender.join().expect("every call is answered");
    println!("back {back:?} after the promotion; {} accepted meanwhile, {refused} times 503", accepted.len());
    ids.extend(accepted.into_iter().map(|(_, id)| id));
    support::eventually("all are shown", || {
        let shown = stage.shown(&rest, &token);
        ids.iter().all(|id| shown.contains_key(id))
    });
    let shown = stage.shown(&rest, &token);
    assert!(shown.values().all(|times| *times == 1), "{shown:?}");
}

#[test]
fn a_standby_that_is_promoted_when_the_first_server_ends_is_used_and_nothing_accepted_is_lost() {
    let test = "a_standby_that_is_promoted_when_the_first_server_ends_is_used_and_nothing_accepted_is_lost";
    taken_over(test, Postgres::stop, |_| {});
}

#[test]
fn a_standby_that_is_promoted_when_the_first_server_turns_read_only_is_used_and_nothing_accepted_is_lost() {
    let test = "a_standby_that_is_promoted_when_the_first_server_turns_read_only_is_used_and_nothing_accepted_is_lost";
    let read_only = |first: &mut Postgres| {
        first.ask("ALTER SYSTEM SET default_transaction_read_only = on");
        first.ask("SELECT pg_reload_conf()");
    };
    // A commit that waits for a standby which follows no more waits for ever: no deadline of PostgreSQL's ends that.
    let waits = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    taken_over(test, read_only, |first| drop(first.ask(waits)));
}

#[test]
fn gateways_with_devices_of_their_own_and_ones_beside_a_broker_do_not_start_on_one_database() {
    let test = "gateways_with_devices_of_their_own_and_ones_beside_a_broker_do_not_start_on_one_database";
    let Some(mut stage) = Stage::new(test) else { return };
    let beside = stage.gateway("beside");
    stage.phone(&stage.rest(&beside));
    let with_broker = stage.common.clone();
    let (before, rest) = with_broker.split_once("[broker]").expect("a section");
    let (_, store) = rest.split_once("[store]").expect("the next");
    stage.common = format!("{before}[broker]\nlisten = '127.0.0.1:0'\n[store]{store}");
    let reason = |process: &mut Process, says: &str| process.wait_for(says, |line| line.contains(says).then_some(()));
    reason(&mut stage.started("own"), "gateways with broker.url serve it");
    let others =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let nobody = |stage: &Stage| support::eventually("what it had begun ends", || stage.postgres.ask(others) == "0");
    drop(beside);
    nobody(&stage);
    // As ten seconds later.
    stage.postgres.ask("UPDATE meta SET value = '0' WHERE key = 'broker_lease_ms'");
    let mut own = stage.gateway("own");
    stage.postgres.ask("UPDATE devices SET online = 1, nonce = 'n', node = (SELECT node FROM nodes)");
    stage.common = with_broker.clone();
    reason(&mut stage.started("again"), "gateways with devices of their own serve it (");
    own.process.kill();
    nobody(&stage);
    stage.postgres.ask("UPDATE nodes SET lease_ms = 0");
    let _again = stage.gateway("again");
    assert_eq!(stage.postgres.ask("SELECT count(*) FROM devices WHERE online = 1"), "0");
    assert_eq!(stage.postgres.ask("SELECT count(*) FROM nodes"), "0");
}

#[test]
fn transactions_are_read_committed_whatever_the_databases_default_is() {
    let test = "transactions_are_read_committed_whatever_the_databases_default_is";
    let Some(stage) = Stage::new(test) else { return };
    stage.postgres.ask("ALTER DATABASE postgres SET default_transaction_isolation = 'serializable'");
    let gateway = stage.gateway("a");
    let rest = stage.rest(&gateway);
    stage.phone(&rest);
    stage.postgres.ask(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF current_setting('transaction_isolation') <> 'read committed' THEN RAISE 'another level'; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER level BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    assert_eq!(sent(&rest), 200);
}

#[test]
fn a_database_is_trusted_as_its_address_says_and_what_is_wrong_with_its_certificate_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let test = "a_database_is_trusted_as_its_address_says_and_what_is_wrong_with_its_certificate_is_named";
    let Some(mut stage) = Stage::new(test) else { return };
    let made = &stage.certificates;
    let own = stage.dir.path().join("postgres/server.key");
    std::fs::copy(&made.key, &own).expect("copied");
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o600)).expect("permitted");
    let owned = std::process::Command::new("chown").arg("nobody").arg(&own).status().expect("ran");
    if !owned.success() {
        return support::skipped(test, "it takes root to give a file to the database's user");
    }
    stage.postgres.ask(&format!("ALTER SYSTEM SET ssl_cert_file = '{}'", made.chain.display()));
    stage.postgres.ask("ALTER SYSTEM SET ssl_key_file = 'server.key'");
    stage.postgres.ask("ALTER SYSTEM SET ssl = on");
    stage.postgres.ask("SELECT pg_reload_conf()");
    let (port, ca) = (stage.postgres.port, made.ca.display().to_string());
    let plain = stage.postgres.url.clone();
    let mut start = |host: &str, more: &str| {
        let url = format!("postgres://impush@{host}:{port}/postgres?{more}");
        stage.common = stage.common.replace(&plain, &url).replace("level = 'warn'", "format = 'json'");
        let config = stage.config(&format!("{host}-{}", more.len()));
        stage.common = stage.common.replace(&url, &plain);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
        support::Process::start(command.arg("--config").arg(config).arg("serve"), true)
    };
    let mut good = start("localhost", &format!("sslmode=verify-full&sslrootcert={ca}"));
    good.event("gateway.started");
    for (host, more, says) in [
        ("localhost", "sslmode=require".to_owned(), "UnknownIssuer"),
        ("db.example", format!("hostaddr=127.0.0.1&sslmode=verify-ca&sslrootcert={ca}"), "not valid for name"),
    ] {
        let mut bad = start(host, &more);
        bad.wait_for(says, |line| line.contains(says).then_some(()));
    }
}

#[test]
fn a_role_that_may_create_nothing_serves_and_a_database_that_does_not_hold_every_text_is_refused() {
    let test = "a_role_that_may_create_nothing_serves_and_a_database_that_does_not_hold_every_text_is_refused";
    let Some(mut stage) = Stage::new(test) else { return };
    let gateway = stage.gateway("owner");
    stage.phone(&stage.rest(&gateway));
    for statement in [
        "CREATE ROLE plain LOGIN",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO plain",
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    ] {
        stage.postgres.ask(statement);
    }
    stage.common = stage.common.replace("impush@", "plain@");
    let plain = stage.gateway("plain");
    assert_eq!(sent(&stage.rest(&plain)), 200);
    stage.common = stage.common.replace("plain@", "impush@").replace("/postgres?", "/latin?");
    let config = stage.config("latin");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
    let mut latin = support::Process::start(command.arg("--config").arg(config).arg("serve"), true);
    latin.wait_for("the reason", |line| line.contains("its encoding is LATIN1").then_some(()));
}

#[test]
fn many_devices_of_one_user_greet_at_once_without_a_deadlock() {
    let test = "many_devices_of_one_user_greet_at_once_without_a_deadlock";
    let Some(stage) = Stage::new(test) else { return };
    let (a, b) = (stage.gateway("a"), stage.gateway("b"));
    let rests = [stage.rest(&a), stage.rest(&b)];
    rests[0].ok("POST", "users", Some(&json!({"username": "bob", "password": "a password"})));
    let hello = |device: u32, n: u32| {
        let words = json!({"v": 1, "type": "hello", "nonce": format!("d{device}-{n}"), "agent": "test",
            "channel": "none", "platform": "linux", "login": "l"});
        format!("{words}\n")
    };
    let began = Instant::now();
    let mut speakers: Vec<_> = (0..50)
        .map(|device| {
            let lines: String = (0..20).map(|n| hello(device, n)).collect();
            stage.broker.publish_lines(&format!("im/v1/org%23app/bob/d{device}/up"), &lines)
        })
        .collect();
    for (n, speaker) in (0..).zip(&mut speakers) {
        // To all devices that are known by then.
        send(&rests[n as usize % 2], "bob", n);
        assert!(speaker.wait().expect("ended").success());
    }
    let greeted = "SELECT count(*) FROM devices WHERE \"user\" = 'bob' AND nonce <> ''";
    support::eventually("all have greeted", || stage.postgres.ask(greeted) == "50");
    let deadlocks = stage.postgres.ask("SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'");
    println!("1,000 greetings of 50 devices in {:?}, {deadlocks} deadlocks", began.elapsed());
    assert_eq!(deadlocks, "0");
}

#[test]
fn of_devices_that_enrol_at_two_gateways_at_once_as_many_get_in_as_the_code_has_uses() {
    let test = "of_devices_that_enrol_at_two_gateways_at_once_as_many_get_in_as_the_code_has_uses";
    let Some(stage) = Stage::new(test) else { return };
    let (a, b) = (stage.gateway("a"), stage.gateway("b"));
    let rests = [stage.rest(&a), stage.rest(&b)];
    let body = json!({"user": "kiosk-{device}", "uses": 3, "rest": "https://gateway.example"});
    let made = rests[0].ok("POST", "enrol-codes", Some(&body));
    let code = EnrolCode::read(made["data"]["code"].as_str().expect("a code")).expect("a code");
    let show = |base: &str, device: &str| {
        let body = json!({"secret": code.secret.expose(), "device_id": device}).to_string();
        let mut curl = std::process::Command::new("curl");
        curl.args(["-s", "-w", "\n%{http_code}", "-H", "content-type: application/json", "-d", &body]);
        curl.arg(format!("{base}/enrol")).stdout(std::process::Stdio::piped()).spawn().expect("curl runs")
    };
    let heard = |child: std::process::Child| {
        let text = String::from_utf8(child.wait_with_output().expect("ended").stdout).expect("text");
        let (answer, status) = text.rsplit_once('\n').expect("a status");
        (status.to_owned(), serde_json::from_str::<serde_json::Value>(answer).expect("JSON"))
    };
    let all: Vec<_> = (0..24).map(|n| show(&rests[n % 2].base, &format!("d{n}"))).collect();
    let answers: Vec<_> = all.into_iter().map(heard).collect();
    let entered: Vec<&str> = answers.iter().filter_map(|(_, answer)| answer["user"].as_str()).collect();
    assert_eq!(entered.len(), 3, "{answers:?}");
    assert!(answers.iter().all(|(status, answer)| status == "200" || answer["error"] == "used_up"), "{answers:?}");
    let device = entered[0].trim_start_matches("kiosk-");
    let again = heard(show(&rests[1].base, device)).1;
    assert_eq!(again["user"], entered[0], "at the other gateway too");
    let taken = rests[1].ok("POST", "enrol-codes", Some(&json!({"user": entered[0], "rest": "https://a"})));
    let taking = EnrolCode::read(taken["data"]["code"].as_str().expect("a code")).expect("a code");
    let body = json!({"secret": taking.secret.expose(), "device_id": "other"});
    let url = format!("{}/enrol", rests[0].base);
    assert_eq!(rests[0].ask("POST", &url, Some(&body)).1["error"], "user_exists");
    let id = made["data"]["id"].as_str().expect("an id");
    rests[0].ok("DELETE", &format!("enrol-codes/{id}"), None);
    assert_eq!(heard(show(&rests[1].base, device)).1["error"], "revoked");
    rests[0].ok("DELETE", &format!("users/{}", entered[0]), None);
    let listed = rests[1].ok("GET", "enrol-codes", None);
    assert_eq!(listed["entities"][0]["devices"].as_array().expect("a list").len(), 2, "{listed}");
}
