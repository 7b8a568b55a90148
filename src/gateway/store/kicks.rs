//! Logins that end because of others: how many devices a user may have, and who yields.

use super::decided::Of;
use super::pairs::Recall;
use super::sql::{OptionalExtension as _, Transaction, params};
use super::{Store, StoreError, address, as_i64, known, logins, orders, presence, whose};
use crate::delivery::policy::Login;
use crate::delivery::presence::Event as Presence;
use crate::delivery::{Event, Rules};
use crate::ids::DeviceId;
use crate::protocol::{Address, BindingReport, Hello, KickCode, Message};

/// A device whose login ended, and what it is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kick {
    pub address: Address,
    pub code: KickCode,
    /// The device that replaced it.
    pub by: Option<String>,
    /// What its notifications showed is not for who uses it next.
    pub recalls: Vec<Recall>,
    /// It was logged in.
    pub known: bool,
}

impl Kick {
    /// Of a login that has ended before.
    pub const fn new(address: Address, code: KickCode, by: Option<String>) -> Self {
        Self { address, code, by, recalls: Vec::new(), known: false }
    }
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
        /// The gateway it was connected to until now, which closes that.
        left: Option<String>,
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
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub logged_in: bool,
    pub login: String,
    pub code: Option<u16>,
    pub by: Option<String>,
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
        Some(Kick::new(address.clone(), KickCode::from(code), self.by.clone()))
    }

    /// The device is logged in with the login that speaks.
    pub fn is_of(&self, hello: &Hello) -> bool {
        self.logged_in && self.login == hello.login.as_deref().unwrap_or_default()
    }
}

/// Whether the login that speaks was ended by others.
pub(super) fn ended(t: &Transaction<'_>, address: &Address, hello: &Hello) -> Result<Option<Kick>, StoreError> {
    Ok(Known::read(t, address)?.and_then(|known| known.ended(address, hello)))
}

/// Decides whether this login stands. What is known of it from now on is the caller's to note.
pub(super) fn admit(
    t: &Transaction<'_>,
    set: &known::Known,
    (address, hello): (&Address, &Hello),
    known: &Known,
    rules: Rules,
    now_ms: u64,
) -> Result<Result<Vec<Kick>, Kick>, StoreError> {
    let Address { app, user, device } = address;
    if let Some(kick) = known.ended(address, hello) {
        return Ok(Err(kick));
    }
    if known.is_of(hello) {
        return Ok(Ok(Vec::new()));
    }
    let app_rules = &set.rules(t, app)?.rules;
    let others: Vec<DeviceId> = t
        .prepare_cached(
            "SELECT device FROM devices WHERE app = ?1 AND user = ?2 AND device <> ?3 AND platform = ?4 AND logged_in = 1
             ORDER BY login_ms, device",
        )?
        .query_map(params![app, user, device, &hello.platform], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    let too_many = (others.len() + 1).saturating_sub(app_rules.device_limit.max(1) as usize);
    if too_many > 0 && app_rules.login == Login::FirstWins {
        let login = hello.login.as_deref().unwrap_or_default();
        t.execute(
            "UPDATE devices SET login = ?4, login_ms = ?5 WHERE app = ?1 AND user = ?2 AND device = ?3",
            params![app, user, device, login, as_i64(now_ms)],
        )?;
        let code = if app_rules.device_limit == 1 { KickCode::BoundElsewhere } else { KickCode::TooManyDevices };
        return Ok(Err(end(t, address, (code, None), rules, now_ms)?));
    }
    let mut kicked = Vec::new();
    for other in others.into_iter().take(too_many) {
        let other = Address { device: other, ..address.clone() };
        let name = hello.model.clone().unwrap_or_else(|| device.to_string());
        kicked.push(end(t, &other, (KickCode::Replaced, Some(name)), rules, now_ms)?);
    }
    Ok(Ok(kicked))
}

/// Ends a login: the device, what was on its way to it, and its bindings, together.
pub(super) fn end(
    t: &Transaction<'_>,
    address: &Address,
    (code, by): (KickCode, Option<String>),
    rules: Rules,
    now_ms: u64,
) -> Result<Kick, StoreError> {
    let Address { app, user, device } = address;
    let recalls = log_out(t, address, rules, now_ms)?;
    t.execute(
        "UPDATE devices SET kicked_code = ?4, kicked_by = ?5 WHERE app = ?1 AND user = ?2 AND device = ?3",
        params![app, user, device, u16::from(code), by],
    )?;
    t.execute("DELETE FROM bindings WHERE app = ?1 AND user = ?2 AND device = ?3", params![app, user, device])?;
    Ok(Kick { address: address.clone(), code, by, recalls, known: true })
}

/// The device is logged out, and what lies on it or is shown there is not for its user any more.
pub(super) fn log_out(
    t: &Transaction<'_>,
    address: &Address,
    rules: Rules,
    now_ms: u64,
) -> Result<Vec<Recall>, StoreError> {
    let device = presence::apply(t, address, Presence::LoggedOut, now_ms)?.device;
    let of = Of { t, place: address.into(), device, bound: false, rules, now_ms };
    of.all(|| Event::LoggedOut)
}

impl Store {
    /// Ends the logins of one device of a user, or of all, with every token they came with. Returns them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn kick(
        &self,
        app: String,
        user: String,
        device: Option<String>,
        code: KickCode,
        rules: Rules,
        now_ms: u64,
    ) -> Result<Vec<Kick>, StoreError> {
        let node = self.node().clone();
        self.run_for(whose(&app, &user), move |t| {
            match &device {
                // A token for it may be out before it was heard of.
                Some(device) => drop(super::remembered::ensure(t, &address(&app, &user, device)?)?),
                None => logins::end_all(t, &app, &user, code)?,
            }
            let devices: Vec<(String, bool)> = t
                .prepare_cached(
                    "SELECT device, logged_in FROM devices WHERE app = ?1 AND user = ?2 AND (CAST(?3 AS TEXT) IS NULL OR device = ?3)",
                )?
                .query_map(params![app, user, device], |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect::<Result<_, _>>()?;
            let mut kicked = Vec::new();
            for (device, logged_in) in devices {
                let address = address(&app, &user, &device)?;
                logins::end_of(t, &address, code, now_ms)?;
                kicked.push(match logged_in {
                    true => end(t, &address, (code, None), rules, now_ms)?,
                    // It may be connected all the same, with a token that has ended now.
                    false => Kick::new(address, code, None),
                });
            }
            orders::cut_elsewhere(t, &node, &kicked)?;
            Ok(kicked)
        })
        .await
    }
}
