//! Deliveries that lie on devices' disks and are not in the index of what is open yet. SQLite alone has such.
//!
//! An acknowledgement leaves a delivery open until an app has it. Each device's entries stand on a page of their own in
//! that index, so an entry for each would cost a page of the log; most are taken within seconds, and need none. What is
//! not is entered many at a time, and before a statement looks for what is open to its user.

use super::StoreError;
use super::sql::{Transaction, params};
use crate::ids::MessageId;
use rusqlite::Connection;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

/// So many are entered at once.
const MOST: usize = 1024;
/// Of more than so many nothing is remembered: they are entered at once, as if this were not here.
const BOUND: usize = 2 * MOST;
/// Messages that are older than the first one by more are entered at once.
const SPAN_MS: u64 = 60_000;
/// From which id on a database may have such, as long as it has any.
const MARK: &str = "kept_from";
const ENTER: &str =
    "UPDATE deliveries SET open = 2 WHERE message = ?1 AND device = ?2 AND open IS NULL AND acked_by IS NOT NULL
     AND state <> 'done'";

/// App and user.
pub(super) type User = (String, String);
/// Message and device.
type Key = (String, String);

/// Whether the mark is in the database. It is for as long as anything of an earlier transaction is remembered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Marked {
    #[default]
    No,
    /// By this transaction.
    Now,
    Yes,
}

/// Which those are. Some may have gone meanwhile.
#[derive(Debug, Default)]
pub(super) struct Kept {
    users: RefCell<HashMap<User, Vec<Key>>>,
    count: Cell<usize>,
    /// None has a lesser id.
    from: RefCell<String>,
    marked: Cell<Marked>,
    /// What this transaction has entered.
    entered: RefCell<Vec<(User, Key)>>,
}

impl Kept {
    /// This delivery need not be entered yet; `false`: it has to.
    pub fn add(&self, (app, user): &User, message: &str, device: &str) -> bool {
        let mut from = self.from.borrow_mut();
        if self.count.get() == 0 && self.marked.get() == Marked::No {
            *from = first(message);
        }
        if self.count.get() >= BOUND || message < from.as_str() {
            return false;
        }
        self.put((app.clone(), user.clone()), (message.to_owned(), device.to_owned()));
        true
    }

    fn put(&self, user: User, key: Key) {
        self.users.borrow_mut().entry(user).or_default().push(key);
        self.count.set(self.count.get() + 1);
    }

    pub fn is_full(&self) -> bool {
        self.count.get() >= MOST
    }

    /// Enters what is of this user.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn enter(&self, t: &Transaction<'_>, user: &User) -> Result<(), StoreError> {
        if self.count.get() == 0 {
            return Ok(());
        }
        let Some(keys) = self.users.borrow_mut().remove(user) else { return Ok(()) };
        self.count.set(self.count.get() - keys.len());
        // All of them first: what fails to be entered must not be forgotten.
        let mut entered = self.entered.borrow_mut();
        let at = entered.len();
        entered.extend(keys.into_iter().map(|key| (user.clone(), key)));
        entered[at..]
            .iter()
            .try_for_each(|(_, (message, device))| t.execute_now(ENTER, params![message, device]).map(drop))
    }

    /// What the transaction adds is found again by whoever opens the file next.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn mark(&self, t: &Transaction<'_>) -> Result<(), StoreError> {
        if self.count.get() > 0 && self.marked.get() == Marked::No {
            let sql =
                "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
            t.execute_now(sql, params![MARK, *self.from.borrow()])?;
            self.marked.set(Marked::Now);
        }
        Ok(())
    }

    /// What was entered since the last commit is not.
    pub fn undo(&self) {
        for (user, key) in self.entered.take() {
            let mut from = self.from.borrow_mut();
            if key.0 < *from {
                from.clone_from(&key.0);
            }
            drop(from);
            self.put(user, key);
        }
    }

    /// The transaction is over.
    pub fn over(&self, committed: bool) {
        if committed {
            self.entered.borrow_mut().clear();
            if self.marked.get() == Marked::Now {
                self.marked.set(Marked::Yes);
            }
            return;
        }
        self.undo();
        if self.marked.get() != Marked::Yes {
            // All of it is this transaction's. Kept, it would have one that only reads write the mark, which a full disk refuses.
            self.forget();
        }
    }

    /// Enters all in a transaction of its own.
    ///
    /// # Errors
    /// [`rusqlite::Error`].
    pub fn enter_all(&self, connection: &mut Connection) -> Result<(), rusqlite::Error> {
        if self.marked.get() == Marked::No {
            return Ok(());
        }
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut enter = transaction.prepare_cached(ENTER)?;
            let users = self.users.borrow();
            // In the order of the index: a page is come to once.
            let mut sorted: Vec<(&User, &Vec<Key>)> = users.iter().collect();
            sorted.sort_unstable();
            for (message, device) in sorted.into_iter().flat_map(|(_, keys)| keys) {
                enter.execute([message, device])?;
            }
            transaction.prepare_cached("DELETE FROM meta WHERE key = ?1")?.execute([MARK])?;
        }
        transaction.commit()?;
        self.forget();
        Ok(())
    }

    fn forget(&self) {
        self.users.borrow_mut().clear();
        self.count.set(0);
        self.marked.set(Marked::No);
    }
}

/// The least id that may come after this one, as far as that can be said.
fn first(message: &str) -> String {
    let ms = message.get(..12).and_then(|digits| u64::from_str_radix(digits, 16).ok());
    ms.map_or_else(|| message.to_owned(), |ms| MessageId::from_ms(ms.saturating_sub(SPAN_MS)))
}

/// Enters what the last one to use the file has left, as when it was killed.
///
/// # Errors
/// [`rusqlite::Error`].
pub(super) fn recover(connection: &Connection) -> Result<(), rusqlite::Error> {
    // The mark stays: this may be a command beside a gateway that is at this file. The next mark takes its place.
    let sql = "UPDATE deliveries SET open = 2 WHERE message >= (SELECT value FROM meta WHERE key = ?1) AND open IS NULL
         AND acked_by IS NOT NULL AND state <> 'done'";
    connection.execute(sql, [MARK]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::pending::{DeliveryChange, NewDelivery};
    use super::super::usage::Usage;
    use super::*;

    fn opened() -> Connection {
        let connection = Connection::open_in_memory().expect("a database");
        connection.execute_batch(include_str!("schema.sql")).expect("a schema");
        connection.execute_batch(include_str!("schema-sqlite.sql")).expect("arranged");
        connection
    }

    /// A transaction in which devices of the users `ann` and `bob` acknowledge these messages, each with what `also` does.
    fn acknowledged(connection: &mut Connection, kept: &Kept, ids: &[String], also: impl FnOnce(&Transaction<'_>)) {
        let transaction = connection.transaction().expect("begun");
        let t = Transaction::sqlite(&transaction, &Usage::default(), kept);
        for (id, user) in ids.iter().zip(["ann", "bob"].into_iter().cycle()) {
            let [message, device, app, user] = [id, "phone", "o#a", user].map(str::to_owned);
            let (state, nonce) = ("live", "n".to_owned());
            let of = (app.clone(), user.clone());
            let new =
                NewDelivery { message: message.clone(), app, user, device, state, nonce, attempts: 0, due_ms: Some(5) };
            t.unwritten.deliveries.add(new);
            t.unwritten.changes.add(DeliveryChange {
                message,
                device: "phone".to_owned(),
                state: "waiting",
                due_ms: None,
                attempts: 0,
                acked_ms: Some(7),
                taken_ms: None,
                notifier: None,
                vendor_id: None,
                place: Some((String::new(), Some("l".to_owned()))),
                kept: Some(of),
                done: false,
            });
        }
        also(&t);
        t.commit().expect("written");
        transaction.commit().expect("committed");
        kept.over(true);
    }

    fn ids(count: u64) -> Vec<String> {
        (0..count).map(|n| MessageId::made(1_000_000 + n, [0; 4]).to_string()).collect()
    }

    fn entered(connection: &Connection) -> i64 {
        connection.query_row("SELECT count(*) FROM deliveries WHERE open = 2", [], |r| r.get(0)).expect("counted")
    }

    const LOOK: &str = "SELECT count(*) FROM deliveries WHERE app = ?1 AND user = ?2 AND open IN (1, 2)";

    fn look(t: &Transaction<'_>, user: &str) -> i64 {
        t.query_row(LOOK, params!["o#a", user], |r| r.get(0)).expect("counted")
    }

    #[test]
    fn what_looks_for_what_is_open_to_a_user_finds_it_and_nobody_elses_is_entered() {
        let (mut connection, kept) = (opened(), Kept::default());
        acknowledged(&mut connection, &kept, &ids(6), |_| ());
        assert_eq!(entered(&connection), 0);
        acknowledged(&mut connection, &kept, &[], |t| assert_eq!(look(t, "ann"), 3));
        assert_eq!(entered(&connection), 3);
        kept.enter_all(&mut connection).expect("entered");
        assert_eq!(entered(&connection), 6);
    }

    #[test]
    fn what_a_failed_job_had_entered_is_found_by_the_next() {
        let (mut connection, kept) = (opened(), Kept::default());
        acknowledged(&mut connection, &kept, &ids(4), |_| ());
        acknowledged(&mut connection, &kept, &[], |t| {
            let fails = |t: &Transaction<'_>| {
                assert_eq!(look(t, "ann"), 2);
                Err::<(), _>(StoreError::NoRow)
            };
            t.job(fails).expect_err("undone");
            assert_eq!(look(t, "ann"), 2);
        });
        assert_eq!(entered(&connection), 2);
    }

    #[test]
    fn what_only_reads_writes_nothing_after_a_commit_that_failed() {
        let reads = |connection: &mut Connection, kept: &Kept| {
            // As a full disk does.
            connection.pragma_update(None, "query_only", true).expect("set");
            let transaction = connection.transaction().expect("begun");
            let t = Transaction::sqlite(&transaction, &Usage::default(), kept);
            t.query_row("SELECT count(*) FROM deliveries", params![], |r| r.get::<i64>(0)).expect("read");
            t.commit().expect("there is nothing to write");
            transaction.commit().expect("committed");
            kept.over(true);
            connection.pragma_update(None, "query_only", false).expect("set");
        };
        for before in [0, 4] {
            let (mut connection, kept) = (opened(), Kept::default());
            acknowledged(&mut connection, &kept, &ids(before), |_| ());
            let transaction = connection.transaction().expect("begun");
            let t = Transaction::sqlite(&transaction, &Usage::default(), &kept);
            assert!(kept.add(&("o#a".to_owned(), "ann".to_owned()), &ids(9)[8], "phone"));
            assert_eq!(look(&t, "bob"), i64::try_from(before).expect("small") / 2);
            t.commit().expect("written");
            drop(transaction);
            kept.over(false);
            reads(&mut connection, &kept);
            drop(kept);
            recover(&connection).expect("recovered");
            assert_eq!(entered(&connection), i64::try_from(before).expect("small"));
        }
    }

    #[test]
    fn what_a_killed_gateway_leaves_is_entered_at_the_next_start_and_what_was_taken_is_not() {
        let (mut connection, kept) = (opened(), Kept::default());
        acknowledged(&mut connection, &kept, &ids(4), |_| ());
        let taken = "UPDATE deliveries SET state = 'done', open = NULL WHERE message = ?1";
        connection.execute(taken, [&ids(1)[0]]).expect("taken");
        drop(kept);
        recover(&connection).expect("recovered");
        assert_eq!(entered(&connection), 3);
    }

    #[test]
    fn a_command_beside_a_gateway_takes_nothing_from_what_the_next_start_finds() {
        let (mut connection, kept) = (opened(), Kept::default());
        acknowledged(&mut connection, &kept, &ids(4)[..2], |_| ());
        recover(&connection).expect("the command opened the file");
        acknowledged(&mut connection, &kept, &ids(4)[2..], |_| ());
        drop(kept);
        recover(&connection).expect("recovered");
        assert_eq!(entered(&connection), 4);
    }

    #[test]
    fn what_is_much_older_or_too_much_is_entered_at_once() {
        let (mut connection, kept) = (opened(), Kept::default());
        acknowledged(&mut connection, &kept, &ids(1), |_| ());
        let old = [MessageId::made(900_000, [0; 4]).to_string()];
        acknowledged(&mut connection, &kept, &old, |_| ());
        assert_eq!(entered(&connection), 1);
        let many = ids(BOUND as u64 + 5).split_off(1);
        acknowledged(&mut connection, &kept, &many, |_| ());
        assert_eq!(entered(&connection), 1 + 5);
        assert!(kept.is_full());
    }
}
