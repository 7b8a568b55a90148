//! Accounts of logins at a mosquitto, which asks nobody: its dynamic security plugin holds one for each login, and the
//! gateway adds and removes them over its own connection.
//!
//! An account is named by its token (the claim `username`), its password is the token, and it is taken from one client id
//! alone. Its description says whose login it is, and of which installation, so that the broker's own list is enough to find
//! those that have ended, also after a gateway was away, and nobody's but its own are touched.
//!
//! Source of the commands: <https://mosquitto.org/documentation/dynamic-security/>. An account that is deleted is
//! disconnected by the plugin at once.

use super::clock::now_ms;
use super::store::{LoginClaim, Store, StoreError};
use super::tokens::Claims;
use crate::protocol::{Address, Leg, Topics};
use crate::secret::{Secret, random_hex};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

const CONTROL: &str = "$CONTROL/dynamic-security/v1";
/// Where the plugin answers whoever asked.
pub(super) const ANSWERS: &str = "$CONTROL/dynamic-security/v1/response";
/// Commands that wait for the connection; a caller beyond that waits itself.
const QUEUE: usize = 256;
/// How long the broker may take to answer who waits for a login.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it may take over what nobody waits for.
const SWEEP: Duration = Duration::from_secs(60);
/// How often all accounts are looked through, for those whose tokens are over.
const EVERY: Duration = Duration::from_secs(3600);
/// When it is tried again after it went wrong.
const AGAIN: Duration = Duration::from_secs(30);
/// Accounts in one answer, which the broker keeps to itself, without a word, where it is larger than the gateway takes.
const PAGE: usize = 10;
/// Accounts removed by one packet: the broker writes all of them anew for each, and serves nobody meanwhile.
const REMOVED: usize = 10;
/// Of one device these many accounts stay besides those whose tokens live: a device that was away renews with an old one,
/// and may miss the answer.
const NEWEST: usize = 4;
/// And no more than these in all: whoever has a right password gets tokens as often as they like.
const MOST: usize = 8;
/// Other installations that are told of.
const TOLD: usize = 100;
/// Devices whose new accounts are counted until all are looked through.
const COUNTED: usize = 10_000;

/// Why there is no account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    #[error("the broker that keeps the logins is away; try again")]
    Away,
    #[error("the broker that keeps the logins is there and does not answer; try again")]
    Silent,
    #[error("the broker takes no logins from the gateway: {0}")]
    Refused(String),
    #[error("the broker takes a login of a named device only: give `device_id`")]
    NoDevice,
    #[error("the store does not work now; try again")]
    Store,
}

/// Commands on their way to the broker, and the way back.
#[derive(Debug)]
pub(super) struct Asked {
    commands: Vec<Json>,
    answered: oneshot::Sender<Vec<Json>>,
}

struct Shared {
    desk: mpsc::Sender<Asked>,
    /// A login has ended, or the broker is back.
    look: Notify,
    /// Accounts made for each device since all were looked through.
    made: Mutex<HashMap<(String, String, String), usize>>,
    seen: Mutex<Seen>,
    /// When the last one was made: no two are of the same moment.
    last_ms: AtomicU64,
    topics: Topics,
    store: Store,
    /// This store's.
    installation: String,
}

/// What is remembered of accounts that do not bear this installation's id.
#[derive(Default)]
struct Seen {
    /// Accounts of builds before there was an id whose logins were found in the store.
    adopted: HashSet<String>,
    /// Installations that were told of.
    told: HashSet<Option<String>>,
}

/// Clones share the queue. Empty where the broker keeps no accounts.
#[derive(Clone, Default)]
pub struct Accounts(Option<Arc<Shared>>);

/// The connection's end of the queue.
pub(super) struct Desk {
    queue: mpsc::Receiver<Asked>,
    waiting: HashMap<String, oneshot::Sender<Vec<Json>>>,
    /// The broker tells every gateway what it answers any of them.
    name: String,
    asked: u64,
    shared: Arc<Shared>,
}

impl Accounts {
    pub(super) fn kept(topics: Topics, store: Store, installation: String) -> (Self, Desk) {
        let (desk, queue) = mpsc::channel(QUEUE);
        let (look, made, seen, last_ms) = (Notify::new(), Mutex::default(), Mutex::default(), AtomicU64::default());
        let shared = Arc::new(Shared { desk, look, made, seen, last_ms, topics, store, installation });
        let desk = Desk { queue, waiting: HashMap::new(), name: random_hex::<8>(), asked: 0, shared: shared.clone() };
        (Self(Some(shared)), desk)
    }

    /// Lets a login in, before its device has the token.
    ///
    /// # Errors
    /// [`AccountError`].
    pub async fn add(&self, claims: &Claims, token: &Secret) -> Result<(), AccountError> {
        let Some(shared) = &self.0 else { return Ok(()) };
        let noted = Noted::of(claims, &shared.installation, shared.moment());
        let (Some(noted), Some(login), Some(name)) = (noted, claims.login(), &claims.username) else {
            return Err(AccountError::NoDevice);
        };
        // It stands in the list of logins from now on, since nobody says when it enters.
        shared.stands(login.clone(), &noted).await?;
        let commands = added(&noted, name, token, &shared.topics).ok_or(AccountError::NoDevice)?;
        let made = shared.ask(commands, ANSWER).await;
        // Whoever looked for its account when it ended may have been too early.
        shared.stands(login, &noted).await.inspect_err(|_| shared.look.notify_one())?;
        if shared.count(&noted) {
            shared.look.notify_one();
        }
        made.map(drop)
    }

    /// The broker keeps an account for each token.
    pub fn are_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Those of logins that have ended go.
    pub fn ended(&self) {
        if let Some(shared) = &self.0 {
            shared.look.notify_one();
        }
    }

    /// Looks after them until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let Some(shared) = self.0 else { return };
        let mut pause = EVERY;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = shared.look.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
            let swept = shared.sweep().await;
            pause = if swept.is_ok() { EVERY } else { AGAIN };
            match swept {
                // That the broker is away is said where its connection is.
                Ok(0) | Err(AccountError::Away) => {}
                Ok(removed) => {
                    info!(event = "accounts.removed", removed, "logins that have ended are out of the broker")
                }
                Err(error) => {
                    warn!(event = "accounts.failed", %error, "accounts of logins that have ended could not be removed from the broker");
                }
            }
        }
    }
}

impl Shared {
    async fn ask(&self, commands: Vec<Json>, limit: Duration) -> Result<Vec<Json>, AccountError> {
        let end = Instant::now() + limit;
        let (answered, answer) = oneshot::channel();
        let taken = timeout_at(end, self.desk.send(Asked { commands, answered })).await;
        taken.ok().and_then(Result::ok).ok_or(AccountError::Away)?;
        let answers = timeout_at(end, answer).await.map_err(|_| AccountError::Silent)?;
        let answers = answers.map_err(|_| AccountError::Away)?;
        match answers.iter().find_map(|answer| answer["error"].as_str()) {
            Some(why) => Err(AccountError::Refused(why.to_owned())),
            None => Ok(answers),
        }
    }

    async fn stands(&self, login: LoginClaim, noted: &Noted) -> Result<(), AccountError> {
        match self.store.login_ended(login, Some(noted.device.clone()), now_ms()).await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(AccountError::Refused("the login has ended meanwhile".to_owned())),
            Err(_) => Err(AccountError::Store),
        }
    }

    /// One more account is made; `true`: it is time to look whether its device has too many.
    fn count(&self, noted: &Noted) -> bool {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let device = made.entry((noted.app.clone(), noted.user.clone(), noted.device.clone())).or_default();
        *device += 1;
        *device > MOST || made.len() > COUNTED
    }

    /// Now, and later than when it was asked last.
    fn moment(&self) -> u64 {
        let now = now_ms();
        let before = self.last_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
        now.max(before.unwrap_or_default() + 1)
    }

    /// Every account of a login, whichever installation made it.
    async fn list(&self) -> Result<Vec<Listed>, AccountError> {
        let mut all = Vec::new();
        let mut offset = 0;
        loop {
            let list = json!({"command": "listClients", "verbose": true, "count": PAGE, "offset": offset});
            let answers = self.ask(vec![list], SWEEP).await?;
            let clients = answers.first().and_then(|answer| answer["data"]["clients"].as_array());
            let clients = clients.ok_or_else(|| AccountError::Refused("its list has no accounts".to_owned()))?;
            all.extend(clients.iter().filter_map(Listed::read));
            offset += PAGE;
            if clients.len() < PAGE {
                return Ok(all);
            }
        }
    }

    /// Those of this installation. Others are told of once.
    async fn own(&self, all: Vec<Listed>) -> Result<Vec<Listed>, AccountError> {
        let (mut own, mut others) = (Vec::new(), BTreeMap::new());
        let adopted = self.seen().adopted.clone();
        let mut still = HashSet::new();
        for account in all {
            let is_own = match &account.noted.installation {
                Some(id) => *id == self.installation,
                // Its user may have been removed since.
                None if adopted.contains(&account.name) => true,
                None => self.store.knows_login(account.noted.claim()).await.map_err(|_| AccountError::Store)?,
            };
            if !is_own {
                *others.entry(account.noted.installation).or_insert(0_usize) += 1;
                continue;
            }
            if account.noted.installation.is_none() {
                still.insert(account.name.clone());
            }
            own.push(account);
        }
        let mut seen = self.seen();
        seen.adopted = still;
        for (installation, accounts) in others {
            if seen.told.len() < TOLD && seen.told.insert(installation.clone()) {
                let installation = installation.as_deref().unwrap_or("unknown");
                warn!(event = "accounts.foreign", installation, accounts, own = %self.installation, "the broker holds logins that another installation made, and they are left alone: a broker is for one installation");
            }
        }
        drop(seen);
        Ok(own)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the accounts of logins that have ended, and returns how many.
    async fn sweep(&self) -> Result<usize, AccountError> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let all = self.own(self.list().await?).await?;
        let now_s = now_ms() / 1000;
        let mut out = superseded(&all, now_s);
        for account in &all {
            match self.store.login_ended(account.noted.claim(), Some(account.noted.device.clone()), now_ms()).await {
                Ok(None) => {}
                Ok(Some(_)) => out.push(account.name.clone()),
                Err(StoreError::NoRow) => {}
                Err(_) => return Err(AccountError::Store),
            }
        }
        out.sort();
        out.dedup();
        for names in out.chunks(REMOVED) {
            let removed = names.iter().flat_map(|name| {
                [
                    json!({"command": "deleteClient", "username": name}),
                    json!({"command": "deleteRole", "rolename": name}),
                ]
            });
            match self.ask(removed.collect(), SWEEP).await {
                // Another gateway was faster.
                Ok(_) | Err(AccountError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(out.len())
    }
}

impl Desk {
    /// The next commands; for ever where nobody has any.
    pub async fn next(desk: &mut Option<Self>) -> Asked {
        match desk {
            Some(desk) => {
                while let Some(asked) = desk.queue.recv().await {
                    // Nobody would have the token of an account that is made too late.
                    if !asked.answered.is_closed() {
                        return asked;
                    }
                }
                std::future::pending().await
            }
            None => std::future::pending().await,
        }
    }

    /// What is published for them, and where.
    pub fn ask(&mut self, Asked { commands, answered }: Asked) -> (&'static str, Bytes) {
        // Who has given up waiting goes here at last.
        self.waiting.retain(|_, waits| !waits.is_closed());
        self.asked += 1;
        let id = format!("{}-{}", self.name, self.asked);
        let named = commands.into_iter().map(|mut command| {
            command["correlationData"] = json!(id);
            command
        });
        let payload = json!({ "commands": named.collect::<Vec<_>>() }).to_string();
        self.waiting.insert(id, answered);
        (CONTROL, payload.into())
    }

    pub fn on_answer(&mut self, payload: &[u8]) {
        let Ok(answer) = serde_json::from_slice::<Json>(payload) else { return };
        let answers = answer["responses"].as_array().cloned().unwrap_or_default();
        let id = answers.first().and_then(|answer| answer["correlationData"].as_str());
        if let Some(waits) = id.and_then(|id| self.waiting.remove(id)) {
            // It may have given up.
            drop(waits.send(answers));
        }
    }

    /// No other connection answers what this one was asked.
    pub fn on_disconnected(&mut self) {
        self.waiting.clear();
    }

    pub fn on_connected(&mut self) {
        self.shared.look.notify_one();
    }
}

/// Whose login an account is: its description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    app: String,
    user: String,
    device: String,
    login: String,
    generation: u64,
    issued_s: u64,
    /// Until then its token lives.
    life_s: u64,
    /// Nobody takes the token after it.
    end_s: u64,
    /// When the account was made, which tells those apart that were issued within a second. 0 of builds that did not say it.
    #[serde(default)]
    made_ms: u64,
    /// Which installation made it. `None` of builds before they had an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    installation: Option<String>,
}

impl Noted {
    fn of(claims: &Claims, installation: &str, made_ms: u64) -> Option<Self> {
        Some(Self {
            app: claims.app.clone(),
            user: claims.sub.clone(),
            device: claims.device.clone()?,
            login: claims.login.clone(),
            generation: claims.generation,
            issued_s: claims.iat.unwrap_or(0),
            life_s: claims.life.unwrap_or(claims.exp),
            end_s: claims.exp,
            made_ms,
            installation: Some(installation.to_owned()),
        })
    }

    fn claim(&self) -> LoginClaim {
        LoginClaim {
            app: self.app.clone(),
            user: self.user.clone(),
            device: Some(self.device.clone()),
            login: self.login.clone(),
            generation: self.generation,
            issued_s: self.issued_s,
        }
    }
}

/// An account as the broker lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    name: String,
    noted: Noted,
}

impl Listed {
    /// `None`: it is somebody else's.
    fn read(client: &Json) -> Option<Self> {
        let noted = serde_json::from_str(client["textdescription"].as_str()?).ok()?;
        Some(Self { name: client["username"].as_str()?.to_owned(), noted })
    }
}

/// The commands that make an account, with its topics; `None`: its ids are none.
fn added(noted: &Noted, name: &str, token: &Secret, topics: &Topics) -> Option<Vec<Json>> {
    let address = Address::new(&noted.app, &noted.user, &noted.device).ok()?;
    let rule = |kind, leg| json!({"acltype": kind, "topic": topics.topic(&address, leg), "allow": true});
    let rules = [
        rule("publishClientSend", Leg::Up),
        rule("publishClientSend", Leg::State),
        rule("subscribeLiteral", Leg::Down),
        rule("publishClientReceive", Leg::Down),
    ];
    Some(vec![
        json!({"command": "createRole", "rolename": name, "acls": rules}),
        json!({
            "command": "createClient", "username": name, "password": token.expose(), "clientid": address.client_id(),
            "textdescription": serde_json::to_string(noted).ok()?, "roles": [{"rolename": name}],
        }),
    ])
}

/// Those that newer ones of their device have taken the place of, and those whose tokens nobody takes.
fn superseded(all: &[Listed], now_s: u64) -> Vec<String> {
    let mut devices: HashMap<(&str, &str, &str), Vec<&Listed>> = HashMap::new();
    for account in all {
        let Noted { app, user, device, .. } = &account.noted;
        devices.entry((app, user, device)).or_default().push(account);
    }
    let mut out = Vec::new();
    for mut accounts in devices.into_values() {
        accounts.sort_by_key(|account| std::cmp::Reverse((account.noted.issued_s, account.noted.made_ms)));
        let over = accounts.into_iter().enumerate().filter(|(newer, account)| {
            account.noted.end_s <= now_s || *newer >= MOST || (*newer >= NEWEST && account.noted.life_s <= now_s)
        });
        out.extend(over.map(|(_, account)| account.name.clone()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::store::UserChange;

    const ID: &str = "0123456789abcdef";

    fn account(device: &str, issued_s: u64) -> Listed {
        let noted = Noted {
            app: "o#a".to_owned(),
            user: "ann".to_owned(),
            device: device.to_owned(),
            login: "0123".to_owned(),
            generation: 0,
            issued_s,
            life_s: issued_s + 60,
            end_s: issued_s + 1000,
            made_ms: issued_s * 1000,
            installation: Some(ID.to_owned()),
        };
        Listed { name: format!("{device}/{issued_s}"), noted }
    }

    #[test]
    fn an_account_is_read_back_as_it_was_written_and_is_its_own_devices_alone() {
        let Listed { name, noted } = account("phone", 1);
        let topics = Topics::new("im/v1").expect("a prefix");
        let made = added(&noted, &name, &Secret::new("token"), &topics).expect("made");
        assert_eq!(
            made[0]["acls"][2],
            json!({"acltype": "subscribeLiteral", "topic": "im/v1/o%23a/ann/phone/down", "allow": true})
        );
        assert_eq!((&made[1]["clientid"], &made[1]["password"]), (&json!("ann:phone@o%23a"), &json!("token")));
        assert_eq!(Listed::read(&made[1]), Some(Listed { name, noted }));
        assert_eq!(Listed::read(&json!({"username": "gateway", "textdescription": "the operator's"})), None);
    }

    #[test]
    fn a_device_keeps_the_accounts_that_it_may_still_come_with() {
        let many: Vec<Listed> = (0..6).map(|n| account("phone", n * 100)).collect();
        let all = [many.clone(), vec![account("tablet", 0)]].concat();
        assert_eq!(superseded(&all, 50), Vec::<String>::new(), "all live");
        assert_eq!(superseded(&all, 200), ["phone/100", "phone/0"], "not the tablet's only one");
        assert_eq!(superseded(&many[..1], 1000), ["phone/0"], "nobody takes its token");
        let many: Vec<Listed> = (0..10).map(|n| account("phone", n)).collect();
        assert_eq!(superseded(&many, 20), ["phone/1", "phone/0"], "all live, and are too many");
    }

    #[test]
    fn of_accounts_that_were_issued_within_a_second_the_ones_that_were_made_last_stay() {
        let made = |name: &str, made_ms| {
            let mut account = account("phone", 7);
            (account.name, account.noted.made_ms) = (name.to_owned(), made_ms);
            account
        };
        // In the broker's order, which is none of time.
        let mut all: Vec<Listed> = (0..9).map(|n| made(&format!("{n}"), 7000 + n)).collect();
        all.push(made("of a build before", 0));
        assert_eq!(superseded(&all, 20), ["0", "of a build before"]);
    }

    #[tokio::test]
    async fn no_two_accounts_are_made_at_the_same_moment() {
        let (_home, shared, _desk) = kept().await;
        let moments: Vec<u64> = (0..1000).map(|_| shared.moment()).collect();
        assert!(moments.is_sorted_by(|a, b| a < b) && moments[0] + 60_000 > now_ms());
    }

    #[tokio::test]
    async fn accounts_of_another_installation_are_nobodys_and_those_without_an_id_are_of_who_has_the_login() {
        let (_home, shared, _desk) = kept().await;
        let named = |name: &str, user: &str, installation: Option<&str>| {
            let mut account = account("phone", 7);
            account.noted.user = user.to_owned();
            account.noted.installation = installation.map(str::to_owned);
            Listed { name: name.to_owned(), ..account }
        };
        let all = vec![
            named("own", "nobody here", Some(ID)),
            named("foreign", "ann", Some("fedcba9876543210")),
            named("adopted", "ann", None),
            named("unknown", "bob", None),
        ];
        let names = async || {
            let own = shared.own(all.clone()).await.expect("looked up");
            own.into_iter().map(|account| account.name).collect::<Vec<_>>()
        };
        let (store, app, ann) = (&shared.store, || "o#a".to_owned(), || "ann".to_owned());
        store.add_users(app(), vec![(ann(), String::new())], 0).await.expect("stored");
        let entered = shared.stands(all[2].noted.claim(), &all[2].noted).await;
        assert_eq!((entered, names().await), (Ok(()), vec!["own".to_owned(), "adopted".to_owned()]));
        let change = UserChange::Deleted;
        store.change_user(app(), ann(), change, crate::delivery::Rules::FOR_TESTS, 1).await.expect("removed");
        assert_eq!(names().await, ["own", "adopted"], "it goes when its user has gone");
    }

    #[test]
    fn a_page_of_the_longest_accounts_is_one_that_the_gateway_takes() {
        let id = "\"".repeat(256);
        let Listed { mut noted, .. } = account(&id, 1_800_000_000);
        (noted.app, noted.user) = (id.clone(), id.clone());
        let encoded = "%22".repeat(256);
        let name = format!("{encoded}/{encoded}/0123456789abcdef");
        let made = added(&noted, &name, &Secret::new("token"), &Topics::new("im/v1").expect("a prefix"));
        let mut client = made.expect("made").remove(1);
        client["groups"] = json!([]);
        client["roles"] = json!([{"rolename": name, "priority": -1}]);
        let page = json!({"responses": [{"command": "listClients", "data": {"clients": vec![client; PAGE]}}]});
        let bytes = page.to_string().len();
        assert!(bytes + 1024 < crate::protocol::MAX_PACKET as usize, "{bytes}");
    }

    async fn kept() -> (tempfile::TempDir, Arc<Shared>, Desk) {
        let home = tempfile::tempdir().expect("a directory");
        let vault = super::super::store::Vault::open(&home.path().join("key"), true).expect("a key");
        let store = Store::open(&home.path().join("db"), vault).expect("a store");
        let (accounts, desk) = Accounts::kept(Topics::new("im/v1").expect("a prefix"), store, ID.to_owned());
        (home, accounts.0.expect("kept"), desk)
    }

    #[tokio::test]
    async fn a_device_with_too_many_new_accounts_has_them_looked_through() {
        let (_home, shared, _desk) = kept().await;
        let (phone, tablet) = (account("phone", 0).noted, account("tablet", 0).noted);
        assert!((0..MOST).all(|_| !shared.count(&phone) && !shared.count(&tablet)));
        assert!(shared.count(&phone));
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_is_there_and_silent_is_not_one_that_is_away() {
        let (_home, shared, desk) = kept().await;
        let mut desk = Some(desk);
        let ask = |command: &str| shared.ask(vec![json!({"command": command})], ANSWER);
        assert_eq!(ask("given up").await, Err(AccountError::Silent));
        let (silent, asked) = tokio::join!(ask("next"), async {
            let asked = Desk::next(&mut desk).await;
            desk.as_mut().map(|desk| desk.ask(asked).1)
        });
        assert_eq!(silent, Err(AccountError::Silent));
        let asked = String::from_utf8(asked.expect("asked").to_vec()).expect("text");
        assert!(asked.contains("next"), "whoever has given up is passed over: {asked}");
    }

    #[tokio::test]
    async fn a_list_without_accounts_is_no_empty_one() {
        let (_home, shared, mut desk) = kept().await;
        let (swept, ()) = tokio::join!(shared.sweep(), async {
            let asked = desk.queue.recv().await.expect("asked");
            let said: Json = serde_json::from_slice(&desk.ask(asked).1).expect("JSON");
            let id = &said["commands"][0]["correlationData"];
            // Another gateway at the same broker has counted as far.
            desk.on_answer(br#"{"responses": [{"correlationData": "1", "data": {"clients": []}}]}"#);
            desk.on_answer(json!({"responses": [{"correlationData": id}]}).to_string().as_bytes());
        });
        assert!(matches!(swept, Err(AccountError::Refused(_))), "{swept:?}");
    }

    #[tokio::test]
    async fn an_answer_finds_who_asked_and_a_new_connection_leaves_nobody_waiting() {
        let (_home, shared, mut desk) = kept().await;
        let asked = async |desk: &mut Desk| {
            let asked = desk.queue.recv().await.expect("asked");
            serde_json::from_slice::<Json>(&desk.ask(asked).1).expect("JSON")
        };
        let (one, said) = tokio::join!(shared.ask(vec![json!({"command": "a"})], ANSWER), async {
            let said = asked(&mut desk).await;
            let id = &said["commands"][0]["correlationData"];
            desk.on_answer(json!({"responses": [{"command": "a", "correlationData": "7"}]}).to_string().as_bytes());
            desk.on_answer(json!({"responses": [{"command": "a", "correlationData": id}]}).to_string().as_bytes());
            said
        });
        assert_eq!((one.expect("answered").len(), &said["commands"][0]["command"]), (1, &json!("a")));
        let (two, ()) = tokio::join!(shared.ask(vec![json!({"command": "b"})], ANSWER), async {
            asked(&mut desk).await;
            desk.on_disconnected();
        });
        assert_eq!(two, Err(AccountError::Away));
    }
}
