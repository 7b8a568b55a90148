//! PostgreSQL as operators run it: connections are cut, and servers change places behind open ones.

mod support;

use serde_json::json;
use std::time::{Duration, Instant};
use support::Rest;
use support::stage::{Stage, send};

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
