//! Logins that end because of others: how many devices a user may have, and who yields.

use super::settings::{self, Key};
use super::sql::{OptionalExtension as _, Transaction, params};
use super::{Store, StoreError, address, as_i64};
use crate::gateway::policy::{AppRules, Login};
use crate::ids::DeviceId;
use crate::protocol::{Address, BindingReport, Hello, KickCode, Message};

/// A device whose login ended, and what it is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kick {
    pub address: Address,
    pub code: KickCode,
    /// The device that replaced it.
    pub by: Option<String>,
}

/// What a hello led to.
#[derive(Debug, Clone, PartialEq)]
pub enum Welcome {
    /// It is in; what it missed, the devices that yield to it, and how its bindings do.
    In {
        missed: Vec<Message>,
        kicked: Vec<Kick>,
        bindings: Vec<BindingReport>,
        /// It has just shown that two machines greet as this device.
        cloned: bool,
    },
    /// Its login has ended.
    Out(Kick),
}

/// What a look at the bindings led to.
#[derive(Debug, Clone, PartialEq)]
pub enum Look {
    /// How they do.
    In(Vec<BindingReport>),
    /// The device's login has ended.
    Out(Kick),
}

/// What the store knows of a device's login.
struct Known {
    logged_in: bool,
    login: String,
    code: Option<u16>,
    by: Option<String>,
}

impl Known {
    fn read(t: &Transaction<'_>, address: &Address) -> Result<Option<Self>, StoreError> {
        let Address { app, user, device } = address;
        t.prepare_cached(
            "SELECT logged_in, login, kicked_code, kicked_by FROM devices WHERE app = ?1 AND user = ?2 AND device = ?3",
        )?
        .query_row(params![app, user, device], |r| {
            Ok(Self { logged_in: r.get(0)?, login: r.get(1)?, code: r.get(2)?, by: r.get(3)? })
        })
        .optional()
    }

    /// The login that speaks was ended by others: it may not have been told.
    fn ended(&self, address: &Address, hello: &Hello) -> Option<Kick> {
        let same = !self.login.is_empty() && hello.login.as_deref() == Some(&self.login);
        let code = self.code.filter(|_| same)?;
        Some(Kick { address: address.clone(), code: KickCode::from(code), by: self.by.clone() })
    }
}

/// Whether the login that speaks was ended by others.
pub(super) fn ended(t: &Transaction<'_>, address: &Address, hello: &Hello) -> Result<Option<Kick>, StoreError> {
    Ok(Known::read(t, address)?.and_then(|known| known.ended(address, hello)))
}

/// Decides whether this login stands.
pub(super) fn admit(
    t: &Transaction<'_>,
    address: &Address,
    hello: &Hello,
    now_ms: u64,
) -> Result<Result<Vec<Kick>, Kick>, StoreError> {
    let Address { app, user, device } = address;
    let login = hello.login.clone().unwrap_or_default();
    let known = Known::read(t, address)?.ok_or(StoreError::NoRow)?;
    if let Some(kick) = known.ended(address, hello) {
        return Ok(Err(kick));
    }
    if known.logged_in && known.login == login {
        return Ok(Ok(Vec::new()));
    }
    let rules: AppRules = settings::get(t, app, "", &Key::Rules)?;
    let others: Vec<DeviceId> = t
        .prepare_cached(
            "SELECT device FROM devices WHERE app = ?1 AND user = ?2 AND device <> ?3 AND platform = ?4 AND logged_in = 1
             ORDER BY login_ms, device",
        )?
        .query_map(params![app, user, device, &hello.platform], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    let too_many = (others.len() + 1).saturating_sub(rules.device_limit.max(1) as usize);
    t.execute(
        "UPDATE devices SET login = ?4, login_ms = ?5, kicked_code = NULL, kicked_by = NULL WHERE app = ?1 AND user = ?2 AND device = ?3",
        params![app, user, device, login, as_i64(now_ms)],
    )?;
    if too_many > 0 && rules.login == Login::FirstWins {
        let code = if rules.device_limit == 1 { KickCode::BoundElsewhere } else { KickCode::TooManyDevices };
        return Ok(Err(end(t, address, code, None)?));
    }
    let mut kicked = Vec::new();
    for other in others.into_iter().take(too_many) {
        let other = Address { device: other, ..address.clone() };
        let name = hello.model.clone().unwrap_or_else(|| device.to_string());
        kicked.push(end(t, &other, KickCode::Replaced, Some(name))?);
    }
    Ok(Ok(kicked))
}

/// Ends a login: the device, its bindings and what was on its way to a vendor, together.
fn end(t: &Transaction<'_>, address: &Address, code: KickCode, by: Option<String>) -> Result<Kick, StoreError> {
    let Address { app, user, device } = address;
    t.execute(
        "UPDATE devices SET logged_in = 0, online = 0, kicked_code = ?4, kicked_by = ?5 WHERE app = ?1 AND user = ?2 AND device = ?3",
        params![app, user, device, u16::from(code), by],
    )?;
    t.execute("DELETE FROM bindings WHERE app = ?1 AND user = ?2 AND device = ?3", params![app, user, device])?;
    t.execute(
        "UPDATE deliveries SET state = 'waiting', nonce = '', due_ms = NULL WHERE app = ?1 AND user = ?2 AND device = ?3 AND state IN ('live', 'vendor') AND open = 1",
        params![app, user, device],
    )?;
    super::replay::inbox_gone(t, address)?;
    Ok(Kick { address: address.clone(), code, by })
}

/// Whether this device's login was ended by others and it has not logged in since.
pub(super) fn is_kicked(t: &Transaction<'_>, address: &Address) -> Result<bool, StoreError> {
    let code: Option<Option<u16>> = t
        .prepare_cached("SELECT kicked_code FROM devices WHERE app = ?1 AND user = ?2 AND device = ?3")?
        .query_row(params![&address.app, &address.user, &address.device], |r| r.get(0))
        .optional()?;
    Ok(code.flatten().is_some())
}

impl Store {
    /// Ends the logins of one device of a user, or of all. Returns them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn kick(
        &self,
        app: String,
        user: String,
        device: Option<String>,
        code: KickCode,
    ) -> Result<Vec<Kick>, StoreError> {
        self.run(move |t| {
            let devices: Vec<String> = t
                .prepare_cached(
                    "SELECT device FROM devices WHERE app = ?1 AND user = ?2 AND (CAST(?3 AS TEXT) IS NULL OR device = ?3) AND logged_in = 1",
                )?
                .query_map(params![app, user, device], |r| r.get(0))?
                .collect::<Result<_, _>>()?;
            let end = |device: String| end(t, &address(&app, &user, &device)?, code, None);
            devices.into_iter().map(end).collect()
        })
        .await
    }
}
