//! Who gets in, and to which topics: the same rule for the gateway's own endpoint and for a broker that
//! asks over HTTP.

use super::clock::now_ms;
use super::overdue::Overdue;
use super::store::Store;
use super::tokens::{TokenError, Tokens};
use crate::protocol::{Address, ClientId, KickCode, Leg, PROBE_SUFFIX, Topics, client_part, user_name};

/// Clones share the key.
#[derive(Clone)]
pub struct Door {
    pub tokens: Tokens,
    pub topics: Topics,
    pub store: Store,
    pub overdue: Overdue,
}

/// Why a connection is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    ClientId(String),
    #[error("{0}")]
    Token(String),
    #[error("the token is for another user or device")]
    NotItsOwn,
    #[error("too many devices with expired tokens wait for new ones; try again later")]
    Crowded,
    #[error("this login was ended ({}); log in again", .0.as_str())]
    Ended(KickCode),
    /// Nothing is known against it; later there may be an answer.
    #[error("nothing can be said of this login now: {0}")]
    Unknown(String),
}

impl Door {
    /// The token is the password; client id and user name must be its own. Who comes with one whose life is
    /// over is marked, and has nothing but a new one until then.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn enter(&self, client_id: &str, user: Option<&str>, password: &str) -> Result<(), Refused> {
        self.admit(client_id, user, password).await.map(drop)
    }

    /// As [`Self::enter`]; returns whose connection it is. `None`: a device id that stands in the client id by its digest,
    /// and the token does not name it.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn admit(&self, client_id: &str, user: Option<&str>, password: &str) -> Result<Option<Address>, Refused> {
        let id = client_id.strip_suffix(PROBE_SUFFIX).unwrap_or(client_id);
        let client = ClientId::parse(id).map_err(|e| Refused::ClientId(e.to_string()))?;
        let now_ms = now_ms();
        let claims = self.tokens.check_entry(password, now_ms / 1000).map_err(|error| match error {
            TokenError::NoKey => Refused::Unknown(error.to_string()),
            TokenError::Expired | TokenError::Invalid(_) => Refused::Token(error.to_string()),
        })?;
        let Some(login) = claims.login() else { return Err(Refused::NotItsOwn) };
        let own = client.app == client_part(&claims.app)
            && client.user == client_part(&claims.sub)
            && claims.device.as_ref().is_none_or(|device| client.device == client_part(device))
            && user.is_some_and(|user| {
                user == user_name(&claims.app, &claims.sub) || claims.username.as_deref() == Some(user)
            });
        if !own {
            return Err(Refused::NotItsOwn);
        }
        let device = claims.device.clone().unwrap_or_else(|| client.device.to_owned());
        let ended = self.store.login_ended(login, Some(device), now_ms).await;
        if let Some(code) = ended.map_err(|e| Refused::Unknown(e.to_string()))? {
            return Err(Refused::Ended(code));
        }
        if !claims.life_is_over(now_ms / 1000) {
            self.overdue.clear(id);
        } else if !self.overdue.mark(id) {
            return Err(Refused::Crowded);
        }
        let named = claims
            .device
            .as_deref()
            .and_then(|device| Address::new(claims.app.as_str(), claims.sub.as_str(), device).ok());
        Ok(named.or_else(|| Address::from_client_id(id)))
    }

    /// Whose `topic` it is, if it is this client's.
    pub fn owner(&self, client_id: &str, topic: &str) -> Option<Address> {
        let (address, _) = self.topics.parse(topic).ok()?;
        (address.client_id() == client_id).then_some(address)
    }

    pub fn may_publish(&self, client_id: &str, topic: &str) -> bool {
        self.is_own(client_id, topic, |leg| leg != Leg::Down)
    }

    /// A filter with a wildcard is no topic, so it never passes.
    pub fn may_subscribe(&self, client_id: &str, filter: &str) -> bool {
        self.is_own(client_id, filter, |leg| leg == Leg::Down)
    }

    fn is_own(&self, client_id: &str, topic: &str, fits: impl Fn(Leg) -> bool) -> bool {
        let own = |(address, leg): (Address, Leg)| fits(leg) && address.client_id() == client_id;
        self.topics.parse(topic).is_ok_and(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Rules;
    use crate::gateway::keyring::Keyring;
    use crate::gateway::store::{Issue, UserChange, Vault};
    use crate::protocol::DEFAULT_PREFIX;
    use crate::secret::Secret;

    const ISSUE: Issue = Issue { generation: 0, after_s: 0 };

    struct Stage {
        door: Door,
        generation: u64,
        _home: tempfile::TempDir,
    }

    impl Stage {
        async fn new() -> Self {
            let topics = Topics::new(DEFAULT_PREFIX).expect("a prefix");
            let home = tempfile::tempdir().expect("a directory");
            let vault = Vault::open(&home.path().join("key"), true).expect("a key");
            let store = Store::open(&home.path().join("db"), vault).expect("a store");
            let tokens = Tokens::new(Keyring::parse(&Secret::new("k".repeat(32))), topics.clone());
            let door = Door { tokens, topics, store, overdue: Overdue::default() };
            let mut stage = Self { door, generation: 0, _home: home };
            stage.add().await;
            stage
        }

        async fn add(&mut self) {
            let users = vec![("ann".to_owned(), "hash".to_owned())];
            self.door.store.add_users("o#a".to_owned(), users, now_ms()).await.expect("stored");
            self.generation = self.issue(None).await.generation;
        }

        async fn issue(&self, device: Option<&str>) -> Issue {
            let device = device.map(str::to_owned);
            self.door
                .store
                .issue("o#a".to_owned(), "ann".to_owned(), device, false)
                .await
                .expect("read")
                .expect("active")
        }

        fn token(&self, device: Option<&str>, issued_s: u64) -> Secret {
            let issue = Issue { generation: self.generation, ..ISSUE };
            self.door.tokens.issue_user("o#a", "ann", device, issue, (issued_s, 60)).expect("a token")
        }

        async fn enter(&self, address: &Address, token: &Secret) -> Result<(), Refused> {
            let user = address_of("ann", "phone").user_name();
            self.door.enter(&address.client_id(), Some(&user), token.expose()).await
        }

        async fn change(&self, change: UserChange) {
            let changed =
                self.door.store.change_user("o#a".into(), "ann".into(), change, Rules::FOR_TESTS, now_ms()).await;
            changed.expect("stored").expect("known");
        }
    }

    fn address_of(user: &str, device: &str) -> Address {
        Address::new("o#a", user, device).expect("an address")
    }

    #[tokio::test]
    async fn a_token_opens_the_door_for_its_own_user_and_device_and_their_topics_only() {
        let stage = Stage::new().await;
        let (door, own) = (&stage.door, address_of("ann", "phone"));
        let token = stage.token(Some("phone"), now_ms() / 1000);
        assert_eq!(stage.enter(&own, &token).await, Ok(()));
        assert_eq!(stage.enter(&address_of("ann", "tablet"), &token).await, Err(Refused::NotItsOwn));
        assert_eq!(stage.enter(&address_of("bob", "phone"), &token).await, Err(Refused::NotItsOwn));
        assert!(matches!(stage.enter(&own, &Secret::new("x")).await, Err(Refused::Token(_))));
        let (id, topics) = (own.client_id(), &door.topics);
        assert!(door.may_publish(&id, &topics.topic(&own, Leg::Up)));
        assert!(door.may_subscribe(&id, &topics.topic(&own, Leg::Down)));
        assert!(!door.may_publish(&id, &topics.topic(&own, Leg::Down)));
        assert!(!door.may_publish(&id, &topics.topic(&address_of("bob", "phone"), Leg::State)));
        assert!(!door.may_subscribe(&id, &topics.everyone(Leg::Down)));
    }

    #[tokio::test]
    async fn an_expired_token_enters_to_be_renewed_and_is_marked_until_a_good_one_comes() {
        let stage = Stage::new().await;
        let (own, now) = (address_of("ann", "phone"), now_ms() / 1000);
        assert_eq!(stage.enter(&own, &stage.token(Some("phone"), now - 120)).await, Ok(()));
        assert!(stage.door.overdue.contains(&own));
        assert_eq!(stage.enter(&own, &stage.token(Some("phone"), now)).await, Ok(()));
        assert!(!stage.door.overdue.contains(&own));
    }

    #[tokio::test]
    async fn what_ends_all_logins_of_a_user_ends_every_token_and_says_why() {
        for (change, code) in [
            (UserChange::Password("other".into()), KickCode::PasswordChanged),
            (UserChange::Deactivated, KickCode::Banned),
            (UserChange::Deleted, KickCode::AccountDeleted),
        ] {
            let mut stage = Stage::new().await;
            let (own, now) = (address_of("ann", "phone"), now_ms() / 1000);
            let (bound, free) = (stage.token(Some("phone"), now), stage.token(None, now));
            stage.change(change.clone()).await;
            assert_eq!(stage.enter(&own, &bound).await, Err(Refused::Ended(code)), "{change:?}");
            assert_eq!(stage.enter(&own, &free).await, Err(Refused::Ended(code)), "{change:?}");
            match change {
                UserChange::Deactivated => {
                    assert!(stage.door.store.activate("o#a".into(), "ann".into()).await.expect("stored"));
                }
                UserChange::Deleted => stage.add().await,
                UserChange::Password(_) => {}
            }
            assert!(matches!(stage.enter(&own, &bound).await, Err(Refused::Ended(_))), "never again: {change:?}");
            let issue = stage.issue(Some("phone")).await;
            let new = stage.door.tokens.issue_user("o#a", "ann", Some("phone"), issue, (now, 60)).expect("a token");
            assert_eq!(stage.enter(&own, &new).await, Ok(()), "{change:?}");
        }
    }

    #[tokio::test]
    async fn a_device_that_is_kicked_is_out_with_the_tokens_it_had_and_no_other_device_is() {
        let stage = Stage::new().await;
        let (phone, tablet, now) = (address_of("ann", "phone"), address_of("ann", "tablet"), now_ms() / 1000);
        let (bound, free, other) =
            (stage.token(Some("phone"), now), stage.token(None, now), stage.token(Some("tablet"), now));
        for (address, token) in [(&phone, &bound), (&phone, &free), (&tablet, &other)] {
            assert_eq!(stage.enter(address, token).await, Ok(()));
        }
        let logins = stage.door.store.logins("o#a".into(), "ann".into()).await.expect("read");
        assert_eq!(logins.len(), 3, "{logins:?}");
        let device = Some("phone".to_owned());
        let store = &stage.door.store;
        store
            .kick("o#a".into(), "ann".into(), device, KickCode::Kicked, Rules::FOR_TESTS, now_ms())
            .await
            .expect("done");
        let out = Err(Refused::Ended(KickCode::Kicked));
        assert_eq!(stage.enter(&phone, &bound).await, out);
        assert_eq!(stage.enter(&phone, &free).await, out);
        assert_eq!(stage.enter(&tablet, &free).await, out, "a token that the phone had is nobody's");
        assert_eq!(stage.enter(&tablet, &other).await, Ok(()));
        let issue = stage.issue(Some("phone")).await;
        let new = stage.door.tokens.issue_user("o#a", "ann", Some("phone"), issue, (now, 60)).expect("a token");
        assert_eq!(stage.enter(&phone, &new).await, Ok(()), "in the very second");
    }

    #[tokio::test]
    async fn a_token_of_before_there_were_generations_is_taken_until_its_users_logins_are_ended() {
        let stage = Stage::new().await;
        let of_before = |generation| crate::gateway::store::LoginClaim {
            app: "o#a".into(),
            user: "old".into(),
            device: None,
            login: String::new(),
            generation,
            issued_s: 0,
        };
        let users = vec![("old".to_owned(), "hash".to_owned())];
        stage.door.store.add_users("o#a".into(), users, 0).await.expect("stored");
        let ended = async |generation| stage.door.store.login_ended(of_before(generation), Some("d".into()), 1).await;
        assert_eq!(ended(0).await.expect("read"), None);
        stage
            .door
            .store
            .kick("o#a".into(), "old".into(), None, KickCode::Kicked, Rules::FOR_TESTS, 1)
            .await
            .expect("done");
        assert_eq!(ended(0).await.expect("read"), Some(KickCode::Kicked));
    }
}
