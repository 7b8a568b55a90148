//! Users and their passwords.

use super::kicks::{Kick, end};
use super::sql::{OptionalExtension as _, Transaction, params};
use super::{Store, StoreError, address, as_i64, logins, orders, removed, turn_of, whose};
use crate::delivery::Rules;
use crate::protocol::KickCode;

/// What changes about a user's right to log in. Each ends every login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserChange {
    /// The hash of another password.
    Password(String),
    /// It may not log in until it is activated.
    Deactivated,
    /// The user and all that is the user's goes; of messages that are over only once [`Store::remove_messages`] was called.
    Deleted,
}

impl Store {
    /// Adds users with the hashes of their passwords; those that exist keep theirs. Returns the new ones.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_users(
        &self,
        app: String,
        users: Vec<(String, String)>,
        now_ms: u64,
    ) -> Result<Vec<String>, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            let mut added = Vec::new();
            for (user, hash) in users {
                // A generation that no token of an earlier user of this name has.
                let rows = t.execute(
                    "INSERT OR IGNORE INTO users (app, user, password, created_ms, generation) VALUES (?1, ?2, ?3, ?4, ?4)",
                    params![app, user, hash, as_i64(now_ms)],
                )?;
                if rows > 0 {
                    added.push(user);
                }
            }
            Ok(added)
        })
        .await
    }

    /// The hash of a user's password, if there is such a user.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn password(&self, app: String, user: String) -> Result<Option<String>, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            t.query_row("SELECT password FROM users WHERE app = ?1 AND user = ?2", params![&app, &user], |r| r.get(0))
                .optional()
        })
        .await
    }

    /// Puts another hash of the same password in the place of `old`, unless the password was changed meanwhile.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rehashed(&self, app: String, user: String, old: String, new: String) -> Result<(), StoreError> {
        self.run_in(turn_of(&app), move |t| {
            t.execute(
                "UPDATE users SET password = ?4 WHERE app = ?1 AND user = ?2 AND password = ?3",
                params![app, user, old, new],
            )
            .map(drop)
        })
        .await
    }

    /// Changes what a user logs in with, and ends every login. `None`: there is no such user.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn change_user(
        &self,
        app: String,
        user: String,
        change: UserChange,
        rules: Rules,
        now_ms: u64,
    ) -> Result<Option<Vec<Kick>>, StoreError> {
        let node = self.node().clone();
        self.run_for(whose(&app, &user), move |t| {
            if !is_known(t, &app, &user)? {
                return Ok(None);
            }
            let code = match &change {
                UserChange::Password(_) => KickCode::PasswordChanged,
                UserChange::Deactivated => KickCode::Banned,
                UserChange::Deleted => KickCode::AccountDeleted,
            };
            logins::end_all(t, &app, &user, code)?;
            if change == UserChange::Deleted {
                // While the tokens are known that the limits are of.
                let sql =
                    "DELETE FROM limits WHERE app = ?1 AND EXISTS (SELECT 1 FROM bindings b WHERE b.app = limits.app
                    AND b.notifier = limits.notifier AND b.token = limits.token AND b.user = ?2)";
                t.execute(sql, params![app, user])?;
            }
            let devices: Vec<(String, bool)> = t
                .prepare_cached("SELECT device, logged_in FROM devices WHERE app = ?1 AND user = ?2 ORDER BY device")?
                .query_map(params![app, user], |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect::<Result<_, _>>()?;
            let mut kicked = Vec::new();
            for (device, logged_in) in devices {
                let address = address(&app, &user, &device)?;
                kicked.push(match logged_in {
                    true => end(t, &address, (code, None), rules, now_ms)?,
                    // It may be connected all the same, with a token that has ended now.
                    false => Kick::new(address, code, None),
                });
            }
            match change {
                UserChange::Password(hash) => {
                    let sql = "UPDATE users SET password = ?3 WHERE app = ?1 AND user = ?2";
                    t.execute(sql, params![app, user, hash])?;
                }
                UserChange::Deactivated => set_active(t, &app, &user, false).map(drop)?,
                UserChange::Deleted => delete(t, &app, &user)?,
            }
            orders::cut_elsewhere(t, &node, &kicked)?;
            Ok(Some(kicked))
        })
        .await
    }

    /// A user that was deactivated may log in again. `false`: there is no such user.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn activate(&self, app: String, user: String) -> Result<bool, StoreError> {
        self.run_for(whose(&app, &user), move |t| set_active(t, &app, &user, true)).await
    }

    /// An app's users after one, in their order: name, whether it may log in, when it was made.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn users(&self, app: String, after: String, most: u32) -> Result<Vec<(String, bool, i64)>, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            t.prepare_cached(
                "SELECT user, active, created_ms FROM users WHERE app = ?1 AND user > ?2 ORDER BY user LIMIT ?3",
            )?
            .query_map(params![app, after, most], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
            .collect()
        })
        .await
    }

    /// # Errors
    /// [`StoreError`].
    pub async fn user_exists(&self, app: String, user: String) -> Result<bool, StoreError> {
        self.run_in(turn_of(&app), move |t| is_known(t, &app, &user)).await
    }
}

/// Whether there is such a user. That it stays so for this transaction is for who holds the user.
pub(super) fn is_known(t: &Transaction<'_>, app: &str, user: &str) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM users WHERE app = ?1 AND user = ?2";
    Ok(t.prepare_cached(sql)?.query_row(params![app, user], |_| Ok(())).optional()?.is_some())
}

fn set_active(t: &Transaction<'_>, app: &str, user: &str, active: bool) -> Result<bool, StoreError> {
    let sql = "UPDATE users SET active = ?3 WHERE app = ?1 AND user = ?2";
    Ok(t.execute(sql, params![app, user, active])? > 0)
}

/// Nothing of the user stays in any table but messages that are over, for now.
fn delete(t: &Transaction<'_>, app: &str, user: &str) -> Result<(), StoreError> {
    removed::begin(t, app, user)?;
    for sql in [
        "DELETE FROM bindings WHERE app = ?1 AND user = ?2",
        "DELETE FROM logins WHERE app = ?1 AND user = ?2",
        "DELETE FROM enrolments WHERE app = ?1 AND user = ?2",
        "DELETE FROM devices WHERE app = ?1 AND user = ?2",
        "DELETE FROM settings WHERE app = ?1 AND user = ?2",
        "DELETE FROM users WHERE app = ?1 AND user = ?2",
    ] {
        t.execute(sql, params![app, user])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::store::trial::Trial;
    use crate::gateway::store::{Bind, Key, LoginClaim, NewMessage, Reach, Vault};
    use crate::protocol::{Address, Hello, Message};
    use crate::vendors::Vendor;
    use crate::vendors::certificate::Certificate;
    use serde_json::json;
    use std::sync::Arc;

    const APP: &str = "o#a";
    const RULES: Rules = Rules::FOR_TESTS;

    /// Every row of every table, as text.
    async fn rows(store: &Store) -> Vec<(String, String)> {
        let job = |t: &Transaction<'_>| {
            let tables: Vec<String> = t
                .prepare_cached("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")?
                .query_map(params![], |r| r.get(0))?
                .collect::<Result<_, StoreError>>()?;
            let mut all = Vec::new();
            for table in tables.into_iter().filter(|table| !table.starts_with("sqlite_")) {
                let rows: Vec<String> = t
                    .prepare_cached(&format!("SELECT * FROM {table}"))?
                    .query_map(params![], |r| Ok(format!("{r:?}")))?
                    .collect::<Result<_, StoreError>>()?;
                all.extend(rows.into_iter().map(|row| (table.clone(), row)));
            }
            Ok(all)
        };
        store.run(job).await.expect("read")
    }

    async fn with_everything(store: &Store, user: &str, device: &str, now_ms: u64) {
        store.add_users(APP.into(), vec![(user.into(), "hash".into())], now_ms).await.expect("stored");
        let address = Address::new(APP, user, device).expect("an address");
        let issue = store.issue(APP.into(), user.into(), None, false).await.expect("read").expect("active");
        let claim = LoginClaim {
            app: APP.into(),
            user: user.into(),
            device: None,
            login: format!("login-of-{user}"),
            generation: issue.generation,
            issued_s: now_ms / 1000,
        };
        assert_eq!(store.login_ended(claim, Some(device.into()), now_ms).await.expect("noted"), None);
        let hello: Hello = serde_json::from_value(json!({
            "nonce": "n", "agent": "t", "channel": "none", "platform": "android", "login": "l",
        }))
        .expect("a hello");
        store.hello(address.clone(), hello, RULES, now_ms).await.expect("stored");
        let bind = Bind::Set { notifier: "n".into(), token: format!("a-token-of-the-device-{device}") };
        store.bind_by_api(address, bind, RULES, now_ms).await.expect("bound");
        store.set(APP.into(), user.into(), Key::Profile, &json!({"nickname": user})).await.expect("set");
        for n in 0..3 {
            let message = json!({"id": format!("{user}{n}"), "from": "bob", "to": user, "sent_at_ms": 1, "body": {}});
            let message: Message = serde_json::from_value(message).expect("a message");
            let new = NewMessage::of(APP, Arc::new(message), now_ms + 1000);
            store.accept(vec![new], RULES, Reach { broker: true, calls: 9 }, now_ms).await.expect("accepted");
        }
        let (app, token) = (APP.to_owned(), format!("a-token-of-the-device-{device}"));
        let limit = move |t: &Transaction<'_>| {
            t.execute(
                "INSERT INTO limits (app, notifier, token, since_ms, until_ms, code) VALUES (?1, 'n', ?2, 1, 2, 'c')",
                params![app, token],
            )
        };
        store.run(limit).await.expect("stored");
    }

    #[tokio::test]
    async fn a_user_who_is_deleted_is_in_no_table_and_nobody_else_is_touched() {
        let home = tempfile::tempdir().expect("a directory");
        let vault = Vault::open(&home.path().join("key"), true).expect("a key");
        let store = Store::open(&home.path().join("db"), vault).expect("a store");
        let certificate = Certificate::new(APP.into(), "n".into(), Vendor::Honor, json!({}));
        store.put_certificate(certificate, 1).await.expect("stored");
        with_everything(&store, "zoe", "tablet", 1_700_000_000_000).await;
        let before = rows(&store).await;
        with_everything(&store, "ann", "phone", 1_700_000_000_000).await;
        let full = rows(&store).await;
        let is_anns = |row: &str| row.contains("ann") || row.contains("phone");
        for table in
            ["users", "devices", "bindings", "logins", "settings", "limits", "messages", "deliveries", "events"]
        {
            assert!(full.iter().any(|(of, row)| of == table && is_anns(row)), "{table} has nothing to lose");
        }
        let deleted = store.change_user(APP.into(), "ann".into(), UserChange::Deleted, RULES, 1_700_000_000_001).await;
        assert_eq!(deleted.expect("stored").expect("known").len(), 1);
        store.remove_messages(APP.into(), "ann".into()).await.expect("removed");
        let after = rows(&store).await;
        let left: Vec<_> = after.iter().filter(|(_, row)| is_anns(row)).collect();
        assert!(left.is_empty(), "{left:#?}");
        let of_zoe = |rows: &[(String, String)]| rows.iter().filter(|(_, row)| row.contains("zoe")).count();
        assert_eq!(of_zoe(&after), of_zoe(&before));
        assert_eq!(
            store.change_user(APP.into(), "ann".into(), UserChange::Deleted, RULES, 3).await.expect("read"),
            None
        );
    }

    #[tokio::test]
    async fn what_is_left_of_a_removed_user_goes_later_and_nothing_of_the_next_one_of_that_name() {
        let home = tempfile::tempdir().expect("a directory");
        let vault = Vault::open(&home.path().join("key"), true).expect("a key");
        let store = Store::open(&home.path().join("db"), vault).expect("a store");
        let fill = |t: &Transaction<'_>| {
            t.execute_batch(
                "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 5000)
                 INSERT INTO messages (id, app, user, message, accepted_ms, expires_ms)
                 SELECT printf('%06d', n), 'o#a', CASE WHEN n % 2 THEN 'ann' ELSE 'zoe' END, '{}', 1, 2 FROM n",
            )
        };
        store.run(fill).await.expect("stored");
        store.add_users(APP.into(), vec![("ann".into(), "hash".into())], 1).await.expect("stored");
        store.change_user(APP.into(), "ann".into(), UserChange::Deleted, RULES, 2).await.expect("stored");
        // It ends before anything was come to.
        with_everything(&store, "ann", "phone", 1_700_000_000_000).await;
        let before = store.used().transactions;
        store.remove_rest().await.expect("removed");
        assert!(store.used().transactions - before > 5, "others wait for all of it");
        let count = |user: &'static str| {
            let sql = "SELECT count(*) FROM messages WHERE user = ?1";
            store.run(move |t| t.query_row(sql, [user], |r| r.get::<i64>(0)))
        };
        assert_eq!((count("zoe").await.expect("read"), count("ann").await.expect("read")), (2500, 3));
        store.remove_rest().await.expect("nothing is left");
    }

    #[tokio::test]
    async fn on_postgresql_too_nothing_of_a_deleted_user_stays() {
        let Some(trial) = Trial::start("on_postgresql_too_nothing_of_a_deleted_user_stays") else { return };
        trial.database("users");
        let store = trial.store("impush", "users").await;
        let certificate = Certificate::new(APP.into(), "n".into(), Vendor::Honor, json!({}));
        store.put_certificate(certificate, 1).await.expect("stored");
        with_everything(&store, "zoe", "tablet", 1_700_000_000_000).await;
        with_everything(&store, "ann", "phone", 1_700_000_000_000).await;
        // Its message's day has gone.
        trial.ask(
            "users",
            "INSERT INTO deliveries (message, app, \"user\", device, state, open) VALUES ('0', 'o#a', 'ann', 'phone', 'done', NULL)",
        );
        let tables =
            ["users", "devices", "bindings", "logins", "settings", "limits", "messages", "deliveries", "events"];
        let of = |who: &str| {
            let count = |table: &&str| {
                trial.ask("users", &format!("SELECT count(*) FROM {table} t WHERE CAST(t AS TEXT) ~ '{who}'"))
            };
            tables.iter().map(count).collect::<Vec<_>>()
        };
        let of_zoe = of("zoe|tablet");
        assert!(of("ann|phone").iter().chain(&of_zoe).all(|count| count != "0"), "{of_zoe:?}");
        let deleted = store.change_user(APP.into(), "ann".into(), UserChange::Deleted, RULES, 1_700_000_000_001).await;
        assert_eq!(deleted.expect("stored").expect("known").len(), 1);
        store.remove_messages(APP.into(), "ann".into()).await.expect("removed");
        assert_eq!(of("ann|phone"), vec!["0"; tables.len()]);
        assert_eq!(of("zoe|tablet"), of_zoe);
    }
}
