//! A device's row as a greeting finds it, with what else the welcome depends on: read by one statement and written by one, since
//! on PostgreSQL each is a round trip, and after an outage every device greets.

use super::bindings::whose;
use super::clones::Machine;
use super::kicks::Known;
use super::presence::{self, device_columns, is_its, whole, writes, written};
use super::remembered::{self, MOST_DEVICES};
use super::sql::{OptionalExtension as _, Row, Transaction, params};
use super::{StoreError, as_i64, as_u64};
use crate::delivery::Device;
use crate::delivery::presence::{Event, Step, step};
use crate::protocol::{Address, Hello};

/// What is found.
#[derive(Debug)]
pub(super) struct Greeting {
    /// The device was not known before.
    pub new: bool,
    pub login: Known,
    /// Something may wait for it: on a new one, also what waits for the user's other devices.
    pub waiting: bool,
    /// It has a binding.
    pub bound: bool,
    device: Device,
    login_ms: u64,
    machine: Machine,
}

/// What [`Greeting::read`] reads; `$of` are the devices for which something may wait, and `$known` is how many the user has.
macro_rules! question {
    ($of:literal, $known:literal) => {
        concat!(
            "SELECT ",
            device_columns!(),
            ", v.kicked_code, v.kicked_by, v.login_ms, v.instance, v.turns, v.turned_ms,
             EXISTS (SELECT 1 FROM deliveries d WHERE d.app = ?1 AND d.user = ?2 AND ",
            $of,
            " d.open IN (1, 2)),
             (SELECT 1",
            whose!("?1", "?2", "?3"),
            " LIMIT 1) IS NOT NULL, ",
            $known,
            " FROM devices v WHERE v.app = ?1 AND v.user = ?2 AND v.device = ?3 /* lock */"
        )
    };
}

const FOUND: &str = question!("d.device IN (?3, '') AND", "0");
const NEW: &str = question!("", "(SELECT count(*) FROM devices o WHERE o.app = ?1 AND o.user = ?2)");

impl Greeting {
    /// Makes sure that the device is known, and holds its row to the transaction's end, which holds its user too. `None`: the user
    /// has too many that are logged in.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn look(t: &Transaction<'_>, address: &Address) -> Result<Option<Self>, StoreError> {
        let found = t.prepare_cached(FOUND)?.query_row(whole(address), |r| Self::read(r, false)).optional()?;
        if let Some((greeting, _)) = found {
            return Ok(Some(greeting));
        }
        remembered::insert(t, address)?;
        let (greeting, known) = t.prepare_cached(NEW)?.query_row(whole(address), |r| Self::read(r, true))?;
        let has_room = known <= MOST_DEVICES || remembered::make_room(t, address)?;
        Ok(has_room.then_some(greeting))
    }

    fn read(r: &mut Row, new: bool) -> Result<(Self, i64), StoreError> {
        let device = presence::read(r, 0)?;
        let (logged_in, login) = (device.logged_in, device.login.clone());
        let greeting = Self {
            new,
            login: Known { logged_in, login, code: r.get(8)?, by: r.get(9)? },
            login_ms: as_u64(r.get(10)?),
            machine: Machine { instance: r.get(11)?, turns: r.get(12)?, turned_ms: as_u64(r.get(13)?) },
            waiting: r.get(14)?,
            bound: r.get(15)?,
            device,
        };
        Ok((greeting, r.get(16)?))
    }

    /// The device is let in: notes its connection to this gateway, its login, its machine and how it describes itself. Returns
    /// what follows for its presence, and whether it has just shown that two machines greet as this device.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn note(
        &self,
        t: &Transaction<'_>,
        address: &Address,
        hello: &Hello,
        node: &str,
        now_ms: u64,
    ) -> Result<(Step, bool), StoreError> {
        let Hello { channel, platform, model, agent, .. } = hello;
        let before = (self.device.online, self.device.seen_ms);
        let (machine, cloned) = self.machine.greeted(hello.instance.as_deref(), before, now_ms);
        let mut step = step(&self.device, Event::Hello { nonce: hello.nonce.clone(), node: node.to_owned() }, now_ms);
        let (login_ms, login) = match self.login.is_of(hello) {
            true => (self.login_ms, self.login.clone()),
            false => (now_ms, Known { login: hello.login.clone().unwrap_or_default(), ..Known::default() }),
        };
        step.device.login.clone_from(&login.login);
        let mut row = written(address, &step.device);
        let [login_ms, turned_ms] = [login_ms, machine.turned_ms].map(as_i64);
        let Machine { instance, turns, .. } = &machine;
        row.extend(params![login.login, login_ms, login.code, login.by, instance, turns, turned_ms]);
        row.extend(params![channel, platform, model, agent]);
        t.prepare_cached(concat!(
            writes!(),
            ", login = ?11, login_ms = ?12, kicked_code = ?13, kicked_by = ?14, instance = ?15, turns = ?16, turned_ms = ?17,
             channel = ?18, platform = ?19, model = ?20, agent = ?21",
            is_its!()
        ))?
        .execute(row)?;
        Ok((step, cloned))
    }
}

#[cfg(test)]
mod tests {
    use crate::delivery::Rules;
    use crate::gateway::store::trial::Trial;
    use crate::gateway::store::{LoginClaim, Store, Welcome};
    use crate::protocol::{Address, Hello};

    const APP: &str = "o#a";
    const RULES: Rules = Rules::FOR_TESTS;

    async fn enters(store: &Store, generation: u64, now_ms: u64) {
        let (app, user, login) = (APP.into(), "ann".into(), "l".into());
        let claim = LoginClaim { app, user, device: None, login, generation, issued_s: 1 };
        assert_eq!(store.login_ended(claim, Some("phone".into()), now_ms).await.expect("asked"), None);
    }

    async fn greets(store: &Store, now_ms: u64) {
        let address = Address::new(APP, "ann", "phone").expect("an address");
        let hello: Hello = serde_json::from_value(serde_json::json!({
            "nonce": now_ms.to_string(), "agent": "t", "channel": "none", "platform": "android", "login": "l", "instance": "i",
        }))
        .expect("a hello");
        let welcome = store.hello(address, hello, RULES, now_ms).await.expect("heard");
        assert!(matches!(welcome, Welcome::In { .. }), "{welcome:?}");
    }

    async fn leaves(store: &Store, nonce: u64) {
        let address = Address::new(APP, "ann", "phone").expect("an address");
        let nonce = nonce.to_string().as_str().into();
        assert!(store.went_offline(address, nonce, RULES, 50).await.expect("noted"));
    }

    /// How many statements something takes.
    async fn statements(store: &Store, what: impl Future<Output = ()>) -> u64 {
        let before = store.used().statements;
        what.await;
        store.used().statements - before
    }

    #[tokio::test]
    async fn a_device_that_comes_back_costs_few_round_trips() {
        let Some(trial) = Trial::start("a_device_that_comes_back_costs_few_round_trips") else { return };
        trial.database("greetings");
        let store = trial.store("impush", "greetings").await;
        store.add_users(APP.into(), vec![("ann".into(), "hash".into())], 1).await.expect("stored");
        let generation = store.issue(APP.into(), "ann".into(), None, false).await.expect("read").expect("active");
        enters(&store, generation.generation, 10).await;
        greets(&store, 10).await;
        // Each with the user's lock and a savepoint.
        assert_eq!(statements(&store, enters(&store, generation.generation, 20)).await, 3);
        assert_eq!(statements(&store, greets(&store, 20)).await, 4);
        assert_eq!(statements(&store, leaves(&store, 20)).await, 4);
    }
}
