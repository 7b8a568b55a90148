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

/// How a user's logins stand.
struct Of {
    generation: i64,
    active: bool,
    /// Why the generation was raised last.
    code: Option<u16>,
}

fn of(t: &Transaction<'_>, app: &str, user: &str) -> Result<Option<Of>, StoreError> {
    t.prepare_cached("SELECT generation, active, ended_code FROM users WHERE app = ?1 AND user = ?2")?
        .query_row(params![app, user], |r| Ok(Of { generation: r.get(0)?, active: r.get(1)?, code: r.get(2)? }))
        .optional()
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

/// Why a token is not taken for this device, or for REST where it names none.
fn ended(t: &Transaction<'_>, claim: &LoginClaim, device: Option<&str>) -> Result<Option<KickCode>, StoreError> {
    let LoginClaim { app, user, login, generation, issued_s, .. } = claim;
    let Some(standing) = of(t, app, user)? else { return Ok(Some(KickCode::AccountDeleted)) };
    if !standing.active {
        return Ok(Some(KickCode::Banned));
    }
    if as_u64(standing.generation) != *generation {
        return Ok(Some(standing.code.map_or(KickCode::AccountDeleted, KickCode::from)));
    }
    let over = |at: Option<(i64, u16)>| at.map(|(_, code)| KickCode::from(code));
    if let Some(device) = device {
        let until: Option<(i64, u16)> = t
            .prepare_cached(
                "SELECT ended_ms, code FROM logins WHERE app = ?1 AND user = ?2 AND device = ?3 AND login = ''",
            )?
            .query_row(params![app, user, device], |r| Ok((r.get(0)?, r.get(1)?)))
            .optional()?;
        let until = until.filter(|(ended_ms, _)| as_u64(*ended_ms) / 1000 >= *issued_s);
        if until.is_some() {
            return Ok(over(until));
        }
    }
    if login.is_empty() {
        return Ok(None);
    }
    let gone = t
        .prepare_cached(
            "SELECT ended_ms, code FROM logins WHERE app = ?1 AND user = ?2 AND login = ?3 AND ended_ms IS NOT NULL LIMIT 1",
        )?
        .query_row(params![app, user, login], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?;
    Ok(over(gone))
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
    if login.is_empty() {
        return Ok(());
    }
    // Every CONNECT comes by; only the first costs a write.
    if is_noted(t, claim, device)? {
        return Ok(());
    }
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
    let Some(standing) = of(t, app, user)?.filter(|user| user.active) else { return Ok(None) };
    let after: Option<i64> = t
        .prepare_cached(
            "SELECT max(ended_ms) FROM logins
             WHERE app = ?1 AND user = ?2 AND (CAST(?3 AS TEXT) IS NULL OR device = ?3) AND login = ''",
        )?
        .query_row(params![app, user, device], |r| r.get(0))?;
    let kicked: Option<i64> = t
        .prepare_cached("SELECT max(kicked_code) FROM devices WHERE app = ?1 AND user = ?2 AND device = ?3")?
        .query_row(params![app, user, device], |r| r.get(0))?;
    if renewed && kicked.is_some() {
        return Ok(None);
    }
    Ok(Some(Issue { generation: as_u64(standing.generation), after_s: as_u64(after.unwrap_or(0)) / 1000 }))
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
            let code = ended(t, &claim, device)?;
            if let (None, Some(device)) = (code, &enters) {
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
