//! Users and messages that a database has before anything is measured, written into it while its gateway is down.

use super::rig::{Database, Rig};
use crate::ids::MessageId;
use indicatif::ProgressBar;
use std::time::{SystemTime, UNIX_EPOCH};

/// Rows of one statement.
const TOGETHER: u32 = 25_000;
/// A week, in milliseconds.
const LIFE_MS: u64 = 7 * 86_400_000;
/// Every SQL of the filling: rows `from` to `to` of each kind. `waiting` is a share of the users that have a message.
const USERS: [&str; 4] = [
    "INSERT INTO users (app, \"user\", password, created_ms) SELECT 'o#a', 'filled-' || i, '-', {now} FROM n",
    "INSERT INTO devices (app, \"user\", device, logged_in, agent, seen_ms, login, login_ms)
     SELECT 'o#a', 'filled-' || i, 'd', 1, 'lab', {now}, 'login-' || i, {now} FROM n",
    "INSERT INTO logins (app, \"user\", device, login, entered_ms) SELECT 'o#a', 'filled-' || i, 'd', 'login-' || i, {now} FROM n",
    // In no order, as vendors give tokens out.
    "INSERT INTO bindings (app, \"user\", device, notifier, token, sequence, bound_ms)
     SELECT 'o#a', 'filled-' || i, 'd', 'filled', 'a-token-as-long-as-many-are-' || ((i * 2654435761) % 4294967296), 1, {now} FROM n",
];
const WAITING: [&str; 3] = [
    "INSERT INTO messages (id, app, \"user\", message, accepted_ms, expires_ms)
     SELECT '{id}' || (10000000 + i), 'o#a', 'filled-' || (i % {users}),
     '{\"id\":\"{id}' || (10000000 + i) || '\",\"from\":\"admin\",\"to\":\"filled-' || (i % {users}) ||
     '\",\"chat_type\":\"chat\",\"sent_at_ms\":{now},\"offline\":false,\"body\":{\"type\":\"txt\",\"msg\":\"waits\"}}', {now}, {until} FROM n",
    "INSERT INTO deliveries (message, app, \"user\", device, state)
     SELECT '{id}' || (10000000 + i), 'o#a', 'filled-' || (i % {users}), 'd', 'waiting' FROM n",
    "INSERT INTO events (message, device, at_ms, hop, detail)
     SELECT '{id}' || (10000000 + i), 'd', {now}, 'waiting', 'the user has no binding' FROM n",
];

/// How much.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Filling {
    /// Users with one bound device each, which is not connected.
    pub users: u32,
    /// Messages that wait, of those users by turns.
    pub waiting: u32,
}

/// Fills a gateway's database; its bytes then, in a file.
///
/// # Errors
/// A sentence with what the database says.
pub(super) async fn fill(rig: &mut Rig, filling: Filling) -> Result<Option<f64>, String> {
    if filling.users == 0 {
        return Ok(None);
    }
    rig.while_down(move |database| {
        let bar = ProgressBar::new(u64::from(filling.users) + u64::from(filling.waiting)).with_message("filling");
        let filled = match database {
            Database::File(path) => {
                let fail = |e: rusqlite::Error| e.to_string();
                let file = rusqlite::Connection::open(&path).map_err(fail)?;
                file.execute_batch("PRAGMA synchronous=OFF; PRAGMA cache_size=-1000000; BEGIN").map_err(fail)?;
                write(filling, &bar, |sql| file.execute_batch(sql).map_err(fail))?;
                file.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)").map_err(fail)?;
                Some(std::fs::metadata(&path).map_err(|e| e.to_string())?.len() as f64)
            }
            Database::Server(url) => {
                let mut client = postgres::Client::connect(&url, postgres::NoTls).map_err(|e| e.to_string())?;
                write(filling, &bar, |sql| client.batch_execute(sql).map_err(|e| e.to_string()))?;
                client.batch_execute("VACUUM ANALYZE").map_err(|e| e.to_string())?;
                None
            }
        };
        bar.finish_and_clear();
        Ok(filled)
    })
    .await
}

fn write(
    Filling { users, waiting }: Filling,
    bar: &ProgressBar,
    mut run: impl FnMut(&str) -> Result<(), String>,
) -> Result<(), String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    // Messages of an hour ago, so that those of the measurement come after them.
    let id = MessageId::from_ms(now.saturating_sub(3_600_000));
    for (all, statements) in [(users, &USERS[..]), (waiting, &WAITING[..])] {
        for from in (0..all).step_by(TOGETHER as usize) {
            let to = all.min(from + TOGETHER) - 1;
            let rows = format!(
                "WITH RECURSIVE n(i) AS (SELECT CAST({from} AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < {to}) "
            );
            for statement in statements {
                // SQLite has its WITH before INSERT, PostgreSQL in either place.
                let values = [("{now}", now), ("{until}", now + LIFE_MS), ("{users}", users.into())];
                let sql = values
                    .iter()
                    .fold(statement.replace("{id}", &id), |sql, (name, value)| sql.replace(name, &value.to_string()));
                run(&format!("{rows}{sql}"))?;
            }
            bar.inc(u64::from(to + 1 - from));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_fits_the_schema_and_each_message_is_one_that_waits_for_its_users_device() {
        let file = rusqlite::Connection::open_in_memory().expect("a database");
        file.execute_batch(include_str!("../gateway/store/schema.sql")).expect("a schema");
        let filling = Filling { users: 30, waiting: 70 };
        write(filling, &ProgressBar::hidden(), |sql| file.execute_batch(sql).map_err(|e| e.to_string()))
            .expect("written");
        let bodies = "SELECT m.message FROM messages m JOIN deliveries d ON d.message = m.id AND d.user = m.user
             JOIN devices v ON v.user = d.user AND v.device = d.device JOIN bindings b ON b.user = v.user
             JOIN logins l ON l.user = v.user AND l.login = v.login WHERE d.state = 'waiting' AND d.open = 1";
        let mut bodies = file.prepare(bodies).expect("read");
        let bodies: Vec<String> = bodies.query_map([], |r| r.get(0)).expect("read").map(|b| b.expect("text")).collect();
        assert_eq!(bodies.len(), 70);
        for body in bodies {
            serde_json::from_str::<crate::protocol::Message>(&body).unwrap_or_else(|e| panic!("{body}: {e}"));
        }
    }
}
