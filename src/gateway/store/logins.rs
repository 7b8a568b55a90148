//! Which logins stand: a token says which login, of which user, it was issued for, and what ends logins is written
//! here.

use super::sql::{OptionalExtension as _, Transaction, params};
use super::{Store, StoreError, as_i64, as_u64, turn_of, whose};
use crate::protocol::{Address, KickCode, client_part};
use serde::Serialize;

/// Logins remembered for one user: four times the devices.
const MOST: i64 = 400;

/// What a token says of its login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginClaim {
    pub app: String,
    pub user: String,
    /// The only device it is for.
    pub device: Option<String>,
    /// Empty in tokens of before there were ids.
    pub login: String,
    pub generation: u64,
    /// When it was issued, in seconds since the Unix epoch; 0 in tokens that do not say.
    pub issued_s: u64,
}

/// What a new token has to say so that it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Issue {
    pub generation: u64,
    /// It is issued later than this, in seconds since the Unix epoch.
    pub after_s: u64,
}

/// A login as the REST API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoginRow {
    pub login_id: String,
    pub device_id: String,
    /// When a device first entered with it, in milliseconds since the Unix epoch.
    pub entered_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
}

/// How a token stands: all of it by one question, since every CONNECT asks it.
struct Standing {
    generation: u64,
    active: bool,
    /// Why the generation was raised last.
    code: Option<u16>,
    /// Until when every token for this device has ended, and why.
    device_ended: Option<(u64, u16)>,
    /// Why this login has ended.
    login_ended: Option<u16>,
    /// The device has entered with this login.
    noted: bool,
}

impl Standing {
    /// `None`: there is no such user.
    fn look(t: &Transaction<'_>, claim: &LoginClaim, device: Option<&str>) -> Result<Option<Self>, StoreError> {
        let LoginClaim { app, user, login, .. } = claim;
        t.prepare_cached(
            "SELECT u.generation, u.active, u.ended_code, l.ended_ms, l.code,
             (SELECT e.code FROM logins e WHERE e.app = ?1 AND e.user = ?2 AND e.login = ?4 AND ?4 <> '' AND e.ended_ms IS NOT NULL LIMIT 1),
             EXISTS (SELECT 1 FROM logins n WHERE n.app = ?1 AND n.user = ?2 AND n.device = ?3 AND n.login = ?4)
             FROM users u LEFT JOIN logins l ON l.app = ?1 AND l.user = ?2 AND l.device = ?3 AND l.login = ''
             WHERE u.app = ?1 AND u.user = ?2",
        )?
        .query_row(params![app, user, device, login], |r| {
            let (ended_ms, code): (Option<i64>, Option<u16>) = (r.get(3)?, r.get(4)?);
            Ok(Self {
                generation: as_u64(r.get(0)?),
                active: r.get(1)?,
                code: r.get(2)?,
                device_ended: ended_ms.map(as_u64).zip(code),
                login_ended: r.get(5)?,
                noted: r.get(6)?,
            })
        })
        .optional()
    }

    /// Why the token is not taken.
    fn ended(&self, claim: &LoginClaim) -> Option<KickCode> {
        if !self.active {
            return Some(KickCode::Banned);
        }
        if self.generation != claim.generation {
            return Some(self.code.map_or(KickCode::AccountDeleted, KickCode::from));
        }
        let of_device = self.device_ended.filter(|(ended_ms, _)| ended_ms / 1000 >= claim.issued_s);
        of_device.map(|(_, code)| code).or(self.login_ended).map(KickCode::from)
    }
}

/// Ends every token of the user that was issued until now.
///
/// # Errors
/// [`StoreError`].
pub(super) fn end_all(t: &Transaction<'_>, app: &str, user: &str, code: KickCode) -> Result<(), StoreError> {
    t.execute(
        "UPDATE users SET generation = generation + 1, ended_code = ?3 WHERE app = ?1 AND user = ?2",
        params![app, user, u16::from(code)],
    )?;
    Ok(())
}

/// Ends every token of the user that was issued for this device, or that it has entered with, until now.
///
/// # Errors
/// [`StoreError`].
pub(super) fn end_of(t: &Transaction<'_>, address: &Address, code: KickCode, now_ms: u64) -> Result<(), StoreError> {
    let Address { app, user, device } = address;
    // Who enters with a token for any device says its id as it stands in the client id.
    let spelt = client_part(device);
    t.execute(
        "UPDATE logins SET ended_ms = ?5, code = ?6 WHERE app = ?1 AND user = ?2 AND device IN (?3, ?4) AND ended_ms IS NULL",
        params![app, user, device, spelt, as_i64(now_ms), u16::from(code)],
    )?;
    for device in [device.as_str(), spelt.as_str()] {
        t.execute(
            "INSERT INTO logins (app, user, device, login, entered_ms, ended_ms, code) VALUES (?1, ?2, ?3, '', ?4, ?4, ?5)
             ON CONFLICT (app, user, device, login) DO UPDATE SET ended_ms = excluded.ended_ms, code = excluded.code",
            params![app, user, device, as_i64(now_ms), u16::from(code)],
        )?;
    }
    Ok(())
}

fn is_noted(t: &Transaction<'_>, claim: &LoginClaim, device: &str) -> Result<bool, StoreError> {
    let LoginClaim { app, user, login, .. } = claim;
    t.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM logins WHERE app = ?1 AND user = ?2 AND device = ?3 AND login = ?4)",
    )?
    .query_row(params![app, user, device, login], |r| r.get(0))
}

/// A login is noted when a device first enters with it.
fn note(t: &Transaction<'_>, claim: &LoginClaim, device: &str, now_ms: u64) -> Result<(), StoreError> {
    let LoginClaim { app, user, login, .. } = claim;
    t.execute(
        "INSERT OR IGNORE INTO logins (app, user, device, login, entered_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![app, user, device, login, as_i64(now_ms)],
    )?;
    t.execute(
        "DELETE FROM logins WHERE app = ?1 AND user = ?2 AND login <> '' AND entered_ms < (SELECT min(entered_ms) FROM
         (SELECT entered_ms FROM logins WHERE app = ?1 AND user = ?2 ORDER BY entered_ms DESC LIMIT ?3) AS newest)",
        params![app, user, MOST],
    )?;
    Ok(())
}

/// What a new token must say; see [`Store::issue`].
pub(super) fn issue(
    t: &Transaction<'_>,
    app: &str,
    user: &str,
    device: Option<&str>,
    renewed: bool,
) -> Result<Option<Issue>, StoreError> {
    type Row = (i64, bool, Option<i64>, Option<u16>);
    let found: Option<Row> = t
        .prepare_cached(
            "SELECT u.generation, u.active,
             (SELECT max(l.ended_ms) FROM logins l WHERE l.app = ?1 AND l.user = ?2 AND (CAST(?3 AS TEXT) IS NULL OR l.device = ?3) AND l.login = ''),
             (SELECT v.kicked_code FROM devices v WHERE v.app = ?1 AND v.user = ?2 AND v.device = ?3)
             FROM users u WHERE u.app = ?1 AND u.user = ?2",
        )?
        .query_row(params![app, user, device], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))
        .optional()?;
    let standing = found.filter(|(_, active, _, kicked)| *active && !(renewed && kicked.is_some()));
    Ok(standing.map(|(generation, _, after, _)| Issue {
        generation: as_u64(generation),
        after_s: as_u64(after.unwrap_or(0)) / 1000,
    }))
}

impl Store {
    /// What a new token must say; `None`: there is no such user, it may not log in, or the device's login has ended
    /// and, being asked for over that login's connection, is `renewed` no more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn issue(
        &self,
        app: String,
        user: String,
        device: Option<String>,
        renewed: bool,
    ) -> Result<Option<Issue>, StoreError> {
        self.run_in(turn_of(&app), move |t| issue(t, &app, &user, device.as_deref(), renewed)).await
    }

    /// Why the token's login is over; `None` while it stands. With a device that enters with it, the login is noted.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn login_ended(
        &self,
        claim: LoginClaim,
        enters: Option<String>,
        now_ms: u64,
    ) -> Result<Option<KickCode>, StoreError> {
        self.run_for(whose(&claim.app, &claim.user), move |t| {
            let device = enters.as_deref().or(claim.device.as_deref());
            let Some(standing) = Standing::look(t, &claim, device)? else { return Ok(Some(KickCode::AccountDeleted)) };
            let code = standing.ended(&claim);
            // Every CONNECT comes by; only the first costs a write.
            if let (None, Some(device), false) = (code, &enters, standing.noted || claim.login.is_empty()) {
                note(t, &claim, device, now_ms)?;
            }
            Ok(code)
        })
        .await
    }

    /// Whether a login is among those that devices have entered with.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn knows_login(&self, claim: LoginClaim) -> Result<bool, StoreError> {
        self.run_in(turn_of(&claim.app), move |t| match &claim.device {
            Some(device) if !claim.login.is_empty() => is_noted(t, &claim, device),
            _ => Ok(false),
        })
        .await
    }

    /// The logins of a user that devices have entered with, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn logins(&self, app: String, user: String) -> Result<Vec<LoginRow>, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            t.prepare_cached(
                "SELECT login, device, entered_ms, ended_ms FROM logins WHERE app = ?1 AND user = ?2 AND login <> '' ORDER BY entered_ms DESC, login",
            )?
            .query_map(params![&app, &user], |r| {
                Ok(LoginRow {
                    login_id: r.get(0)?,
                    device_id: r.get(1)?,
                    entered_ms: as_u64(r.get(2)?),
                    ended_ms: r.get::<Option<i64>>(3)?.map(as_u64),
                })
            })?
            .collect()
        })
        .await
    }

    /// Which devices have entered with a login.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn devices_of_login(&self, app: String, user: String, login: String) -> Result<Vec<String>, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            t.prepare_cached("SELECT device FROM logins WHERE app = ?1 AND user = ?2 AND login = ?3 ORDER BY device")?
                .query_map(params![app, user, login], |r| r.get(0))?
                .collect()
        })
        .await
    }
}
