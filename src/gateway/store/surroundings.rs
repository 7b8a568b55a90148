//! What decides on notifications beside their messages and devices, asked for all of them at once.

use super::StoreError;
use super::bindings::{self, COUNTED, Newest, is_usable};
use super::known::Known;
use super::presence::{self, OfUser, Which};
use super::settings::{AllWishes, Wishes};
use super::sql::Transaction;
use crate::delivery::policy::{MultiDevice, WEB};
use crate::ids::DeviceId;
use crate::protocol::{Address, Message};
use std::cell::Cell;
use std::collections::{HashMap, HashSet};

/// A message of which its device may have to be told by its vendor.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub address: &'a Address,
    pub message: &'a Message,
    /// Where its app says nothing else.
    pub policy: MultiDevice,
    /// It has just come, and no device has it.
    pub new: bool,
}

/// As of the moment they were asked for. What this transaction adds to a device's messages it is told.
#[derive(Default)]
pub(super) struct Surroundings<'a> {
    bindings: HashMap<&'a Address, (Newest, Cell<Option<Waiting>>)>,
    wishes: AllWishes<'a>,
    /// Devices that prove that they are online, by app and user.
    online: HashMap<Whose<'a>, Vec<DeviceId>>,
    /// What another device has, by message and device.
    elsewhere: HashSet<(&'a str, &'a str)>,
}

type Whose<'a> = (&'a str, &'a str);

/// Messages that wait for a device.
#[derive(Clone, Copy)]
struct Waiting {
    /// When they were counted; up to [`COUNTED`].
    stored: u32,
    /// That came since.
    more: u32,
}

impl Waiting {
    const fn new(stored: u32) -> Self {
        Self { stored, more: 0 }
    }
}

impl<'a> Surroundings<'a> {
    /// # Errors
    /// [`StoreError`].
    pub fn look(t: &Transaction<'_>, known: &Known, wanted: &[Wanted<'a>]) -> Result<Self, StoreError> {
        if wanted.is_empty() {
            return Ok(Self::default());
        }
        let bindings = bindings::with_waiting(t, wanted.iter().map(|wanted| wanted.address))?;
        let counted = |(newest, waiting)| (newest, Cell::new(Some(Waiting::new(waiting))));
        let bindings = bindings.into_iter().map(|(address, found)| (address, counted(found))).collect();
        let wishes = AllWishes::load(t, wanted.iter().map(|wanted| (wanted.address, wanted.message)))?;
        let mut around = Self { bindings, wishes, ..Self::default() };
        let mut users = Vec::new();
        for Wanted { address, policy, .. } in wanted {
            let of_app = known.rules(t, &address.app)?.rules.multi_device;
            if of_app.unwrap_or(*policy) == MultiDevice::AllOffline {
                users.push((address.app.as_str(), address.user.as_str()));
            }
        }
        around.online = online(t, known, users)?;
        let may_be_elsewhere = wanted.iter().filter(|wanted| !wanted.new && around.others_online(wanted.address));
        let may_be_elsewhere = may_be_elsewhere.map(|wanted| (&*wanted.message.id, &*wanted.address.device)).collect();
        around.elsewhere = elsewhere(t, may_be_elsewhere)?;
        Ok(around)
    }

    /// The binding a push to this device would use.
    pub fn newest(&self, address: &Address) -> &Newest {
        self.bindings.get(address).map_or(&Newest::None, |(newest, _)| newest)
    }

    /// What single users have set, if they have.
    pub fn wishes<'s>(&'s self, address: &'s Address, message: &'s Message) -> Option<&'s Wishes> {
        self.wishes.of(address, message)
    }

    /// Whether another device of the user proves that it is online; where that decides anything.
    pub fn others_online(&self, address: &Address) -> bool {
        let online = self.online.get(&(address.app.as_str(), address.user.as_str()));
        online.is_some_and(|online| online.iter().any(|device| *device != address.device))
    }

    /// Whether another of the devices has the message, where one is online.
    pub fn has_it_elsewhere(&self, address: &Address, message: &Message) -> bool {
        self.elsewhere.contains(&(&*message.id, &*address.device))
    }

    /// How many messages wait for a device, up to [`COUNTED`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn waiting(&self, t: &Transaction<'_>, address: &Address) -> Result<u32, StoreError> {
        let Some((_, counted)) = self.bindings.get(address) else { return bindings::waiting(t, address) };
        let Waiting { stored, more } = match counted.get() {
            Some(waiting) => waiting,
            None => Waiting::new(bindings::waiting(t, address)?),
        };
        counted.set(Some(Waiting { stored, more }));
        Ok((stored + more).min(COUNTED))
    }

    /// One more waits for the device. Returns how many do, if that is known.
    pub fn one_more(&self, address: &Address) -> Option<u32> {
        let (_, counted) = self.bindings.get(address)?;
        let Waiting { stored, more } = counted.get()?;
        let more = more + 1;
        counted.set(Some(Waiting { stored, more }));
        (stored < COUNTED).then_some(stored + more)
    }

    /// Fewer may wait for the device.
    pub fn count_again(&self, address: &Address) {
        if let Some((_, counted)) = self.bindings.get(address) {
            counted.set(None);
        }
    }
}

/// Which devices of these users prove that they are online.
fn online<'a>(
    t: &Transaction<'_>,
    known: &Known,
    mut users: Vec<Whose<'a>>,
) -> Result<HashMap<Whose<'a>, Vec<DeviceId>>, StoreError> {
    users.sort_unstable();
    users.dedup();
    let address = |one: &OfUser| super::address(users[one.place].0, users[one.place].1, &one.device);
    let found = presence::of_users(t, Which::Online, &users)?.into_iter();
    let found: Vec<(Address, OfUser)> =
        found.map(|one| Ok((address(&one)?, one))).collect::<Result<_, StoreError>>()?;
    // It is looked up only where it decides.
    let lingering = found.iter().filter(|(_, one)| !one.is.attached).map(|(address, _)| address);
    let bindings = bindings::of_all(t, lingering)?;
    let mut online: HashMap<Whose<'a>, Vec<DeviceId>> = HashMap::new();
    for (address, OfUser { place, platform, is, .. }) in &found {
        let bound = bindings.get(address).map_or(Ok(false), |newest| is_usable(t, known, address, newest))?;
        let count_web = known.rules(t, &address.app)?.rules.count_web;
        if is.counts_as_online(bound) && (count_web || !WEB.contains(&platform.as_str())) {
            online.entry(users[*place]).or_default().push(address.device.clone());
        }
    }
    Ok(online)
}

/// Which of these messages another device than this has.
fn elsewhere<'a>(
    t: &Transaction<'_>,
    pairs: Vec<(&'a str, &'a str)>,
) -> Result<HashSet<(&'a str, &'a str)>, StoreError> {
    macro_rules! has {
        ($message:literal, $device:literal) => {
            concat!(
                " WHERE EXISTS (SELECT 1 FROM deliveries d WHERE d.message = ",
                $message,
                " AND d.device <> ",
                $device,
                " AND (d.acked_ms IS NOT NULL OR d.taken_ms IS NOT NULL))"
            )
        };
    }
    const ONE: &str = concat!("SELECT ?3", has!("?1", "?2"));
    const ALL: &str = concat!(
        "SELECT u.place FROM unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS bigint[])) AS u (message, device, place)",
        has!("u.message", "u.device")
    );
    let rows = pairs.iter().map(|(message, device)| [*message, device]);
    let found = t.for_rows((ONE, ALL), rows, |_| Ok(()))?;
    Ok(found.into_iter().map(|(at, ())| pairs[at]).collect())
}
