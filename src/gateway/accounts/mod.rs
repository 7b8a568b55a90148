//! Accounts of logins at a mosquitto, which asks nobody: its dynamic security plugin holds one for each login, and the
//! gateway adds and removes them over its own connection.
//!
//! An account is named by its token (the claim `username`), its password is the token, and it is taken from one client id
//! alone. Its description says whose login it is, and of which installation, so that the broker's own list is enough to find
//! those that have ended, also after a gateway was away, and nobody's but its own are touched.
//!
//! Source of the commands: <https://mosquitto.org/documentation/dynamic-security/>. An account that is deleted is
//! disconnected by the plugin at once.

mod desk;
mod noted;

use self::desk::Asked;
pub(super) use self::desk::{ANSWERS, Desk};
use self::noted::{Listed, MOST, Noted, added, superseded};
use super::clock::now_ms;
use super::store::{LoginClaim, Store, StoreError};
use super::tokens::Claims;
use crate::protocol::Topics;
use crate::secret::Secret;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

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

struct Shared {
    desk: mpsc::Sender<Asked>,
    /// A login has ended, or the broker is back.
    look: Arc<Notify>,
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

impl Accounts {
    pub(super) fn kept(topics: Topics, store: Store, installation: String) -> (Self, Desk) {
        let (desk, queue) = mpsc::channel(QUEUE);
        let (look, made, seen, last_ms) =
            (Arc::new(Notify::new()), Mutex::default(), Mutex::default(), AtomicU64::default());
        let shared = Arc::new(Shared { desk, look, made, seen, last_ms, topics, store, installation });
        let desk = Desk::new(queue, shared.look.clone());
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
        let left: Vec<&Listed> = all.iter().filter(|account| !out.contains(&account.name)).collect();
        self.mark(&left).await?;
        Ok(out.len())
    }

    /// Accounts of builds before there was an id bear it from now on: once their users are removed nobody else could say whose they are,
    /// and this gateway may end before it has removed them.
    async fn mark(&self, own: &[&Listed]) -> Result<(), AccountError> {
        let unmarked: Vec<Json> = own.iter().filter_map(|account| account.marked(&self.installation)).collect();
        for commands in unmarked.chunks(REMOVED) {
            match self.ask(commands.to_vec(), SWEEP).await {
                // One of them has gone, or the broker takes no changes: they are known until this gateway ends.
                Ok(_) | Err(AccountError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::noted::tests::{ID, account};
    use super::*;
    use crate::gateway::store::UserChange;

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
