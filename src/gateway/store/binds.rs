//! What a device, or an app's server for it, asks of its bindings: to bind a token or to remove one.

use super::known::Known;
use super::pairs::Recall;
use super::presence::whole;
use super::remembered::{MOST_DEVICES, ensure};
use super::sql::{OptionalExtension as _, Row, Transaction, params};
use super::{Store, StoreError, as_i64, as_u64, whose};
use crate::delivery::Rules;
use crate::protocol::Address;
use crate::vendors::Vendor;

/// What a device asks of its bindings.
#[derive(Debug, Clone)]
pub enum Bind {
    Set {
        notifier: String,
        token: String,
    },
    /// One notifier's binding, or all of the device's.
    Remove {
        notifier: Option<String>,
        logout: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindReply {
    Ok,
    /// A newer request of this device was seen already; this one changes nothing.
    Stale {
        /// The newest request's number: the device goes on from it.
        newest: u64,
    },
    Refused(String),
}

fn too_many_devices() -> BindReply {
    BindReply::Refused(format!("this user is logged in on {MOST_DEVICES} devices already"))
}

impl Store {
    /// Carries out a device's bind or unbind, unless a newer one came first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn bind(
        &self,
        address: Address,
        sequence: u64,
        bind: Bind,
        rules: Rules,
        now_ms: u64,
    ) -> Result<(BindReply, Vec<Recall>), StoreError> {
        let known = self.known.clone();
        self.run_for(whose(&address.app, &address.user), move |t| {
            let bind = in_one_form(t, &known, &address.app, bind)?;
            let Some(Before { newest, kicked }) = Before::look(t, &address)? else {
                return Ok((too_many_devices(), Vec::new()));
            };
            if kicked {
                let why = "this device's login was ended; log in again".to_owned();
                return Ok((BindReply::Refused(why), Vec::new()));
            }
            if as_i64(sequence) <= newest {
                let repeated = as_i64(sequence) == newest && holds(t, &address, sequence, &bind.bind)?;
                let reply = if repeated { BindReply::Ok } else { BindReply::Stale { newest: as_u64(newest) } };
                return Ok((reply, Vec::new()));
            }
            let [app, user, device] = whole(&address);
            // With what a binding says of the device: on PostgreSQL each statement is a round trip.
            t.prepare_cached(
                "UPDATE devices SET sequence = ?4, seen_ms = ?5, logged_in = CASE WHEN ?6 = 1 THEN 1 ELSE logged_in END
                 WHERE app = ?1 AND user = ?2 AND device = ?3",
            )?
            .execute(params![app, user, device, as_i64(sequence), as_i64(now_ms), bind.logs_in()])?;
            set(t, &address, sequence, &bind, rules, now_ms)
        })
        .await
    }

    /// The same on behalf of an app server, which has no sequence: the newest word counts.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn bind_by_api(
        &self,
        address: Address,
        bind: Bind,
        rules: Rules,
        now_ms: u64,
    ) -> Result<(BindReply, Vec<Recall>), StoreError> {
        let known = self.known.clone();
        self.run_for(whose(&address.app, &address.user), move |t| {
            let bind = in_one_form(t, &known, &address.app, bind)?;
            if !ensure(t, &address)? {
                return Ok((too_many_devices(), Vec::new()));
            }
            if bind.logs_in() {
                let sql = "UPDATE devices SET logged_in = 1 WHERE app = ?1 AND user = ?2 AND device = ?3";
                t.prepare_cached(sql)?.execute(whole(&address))?;
            }
            set(t, &address, 0, &bind, rules, now_ms)
        })
        .await
    }
}

/// Whose certificate it is; also of one whose secrets cannot be opened.
fn vendor_of(t: &Transaction<'_>, known: &Known, app: &str, notifier: &str) -> Result<Option<Vendor>, StoreError> {
    if let Ok(found) = known.certificate(t, app, notifier)? {
        return Ok(found.map(|certificate| certificate.vendor));
    }
    let vendor: Option<String> = t
        .prepare_cached("SELECT vendor FROM certificates WHERE app = ?1 AND name = ?2")?
        .query_row(params![app, notifier], |r| r.get(0))
        .optional()?;
    Ok(vendor.and_then(|vendor| vendor.parse().ok()))
}

/// What is asked, and whether it can be had.
struct Asked {
    bind: Bind,
    /// Why not.
    refused: Option<String>,
}

impl Asked {
    /// It makes the device one that its user is logged in on.
    const fn logs_in(&self) -> bool {
        matches!(self.bind, Bind::Set { .. }) && self.refused.is_none()
    }
}

/// A token is one token however it is written, so that it never serves two users.
fn in_one_form(t: &Transaction<'_>, known: &Known, app: &str, mut bind: Bind) -> Result<Asked, StoreError> {
    let mut refused = None;
    if let Bind::Set { notifier, token } = &mut bind {
        match vendor_of(t, known, app, notifier)? {
            Some(vendor) => {
                *token = vendor.one_form(token);
                refused = vendor.check_token(token).err().map(|error| error.to_string());
            }
            None => refused = Some(format!("no certificate is named `{notifier}` at this gateway")),
        }
    }
    Ok(Asked { bind, refused })
}

/// What a device's request to bind is held against.
struct Before {
    /// The newest request's number.
    newest: i64,
    /// Its login was ended by others, and it has not logged in since.
    kicked: bool,
}

impl Before {
    /// Makes sure that the device is known, and holds its row. `None`: the user has too many that are logged in.
    fn look(t: &Transaction<'_>, address: &Address) -> Result<Option<Self>, StoreError> {
        const SELECT: &str =
            "SELECT sequence, kicked_code FROM devices WHERE app = ?1 AND user = ?2 AND device = ?3 /* lock */";
        let read = |r: &mut Row| Ok(Self { newest: r.get(0)?, kicked: r.get::<Option<u16>>(1)?.is_some() });
        if let Some(before) = t.prepare_cached(SELECT)?.query_row(whole(address), read).optional()? {
            return Ok(Some(before));
        }
        Ok(ensure(t, address)?.then_some(Self { newest: 0, kicked: false }))
    }
}

/// Whether what is asked is so already: the answer to the newest request was lost, and it is said again.
fn holds(t: &Transaction<'_>, address: &Address, sequence: u64, bind: &Bind) -> Result<bool, StoreError> {
    let Address { app, user, device } = address;
    match bind {
        Bind::Set { notifier, token } => {
            t.prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM bindings WHERE app = ?1 AND user = ?2 AND device = ?3 AND notifier = ?4 AND token = ?5 AND sequence = ?6)",
            )?
            .query_row(params![app, user, device, notifier, token, as_i64(sequence)], |r| r.get(0))
        }
        Bind::Remove { notifier, logout } => {
            let left: bool = t
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM bindings WHERE app = ?1 AND user = ?2 AND device = ?3 AND (CAST(?4 AS TEXT) IS NULL OR notifier = ?4))",
                )?
                .query_row(params![app, user, device, notifier], |r| r.get(0))?;
            let logged_in: bool = t
                .prepare_cached("SELECT logged_in FROM devices WHERE app = ?1 AND user = ?2 AND device = ?3")?
                .query_row(params![app, user, device], |r| r.get(0))?;
            Ok(!(left || *logout && logged_in))
        }
    }
}

fn set(
    t: &Transaction<'_>,
    address: &Address,
    sequence: u64,
    asked: &Asked,
    rules: Rules,
    now_ms: u64,
) -> Result<(BindReply, Vec<Recall>), StoreError> {
    let Address { app, user, device } = address;
    let mut recalls = Vec::new();
    if let Some(why) = &asked.refused {
        return Ok((BindReply::Refused(why.clone()), Vec::new()));
    }
    match &asked.bind {
        Bind::Set { notifier, token } => {
            // A token belongs to one user on one device: the newest login takes it.
            t.prepare_cached(
                "DELETE FROM bindings WHERE app = ?1 AND notifier = ?2 AND token = ?3 AND NOT (user = ?4 AND device = ?5)",
            )?
            .execute(params![app, notifier, token, user, device])?;
            t.prepare_cached(
                "INSERT INTO bindings (app, user, device, notifier, token, sequence, bound_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (app, user, device, notifier) DO UPDATE SET token = excluded.token, sequence = excluded.sequence, bound_ms = excluded.bound_ms, off_until_ms = 0,
                 accepted_ms = CASE WHEN bindings.token = excluded.token THEN bindings.accepted_ms END,
                 dead_ms = CASE WHEN bindings.token = excluded.token THEN bindings.dead_ms END,
                 dead_code = CASE WHEN bindings.token = excluded.token THEN bindings.dead_code END",
            )?
            .execute(params![app, user, device, notifier, token, as_i64(sequence), as_i64(now_ms)])?;
        }
        Bind::Remove { notifier, logout } => {
            // While the tokens are known that take the notifications back.
            if *logout {
                recalls = super::kicks::log_out(t, address, rules, now_ms)?;
            }
            t.execute(
                "DELETE FROM bindings WHERE app = ?1 AND user = ?2 AND device = ?3 AND (CAST(?4 AS TEXT) IS NULL OR notifier = ?4)",
                params![app, user, device, notifier],
            )?;
        }
    }
    Ok((BindReply::Ok, recalls))
}

/// The token bound for one certificate; empty where there is none.
pub(super) fn token(t: &Transaction<'_>, address: &Address, notifier: &str) -> Result<String, StoreError> {
    let Address { app, user, device } = address;
    let token: Option<String> = t
        .prepare_cached("SELECT token FROM bindings WHERE app = ?1 AND user = ?2 AND device = ?3 AND notifier = ?4")?
        .query_row([app.as_str(), user, device, notifier], |r| r.get(0))
        .optional()?;
    Ok(token.unwrap_or_default())
}
