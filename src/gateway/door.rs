//! Who gets in, and to which topics: the same rule for the gateway's own endpoint and for a broker that
//! asks over HTTP.

use super::clock::now_ms;
use super::overdue::Overdue;
use super::tokens::{Scope, Tokens};
use crate::protocol::{Address, ClientId, Leg, PROBE_SUFFIX, Topics, client_part, user_name};

/// Clones share the key.
#[derive(Clone)]
pub struct Door {
    pub tokens: Tokens,
    pub topics: Topics,
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
}

impl Door {
    /// The token is the password; client id and user name must be its own. Who comes with one whose life is
    /// over is marked, and has nothing but a new one until then.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn enter(&self, client_id: &str, user: Option<&str>, password: &str) -> Result<(), Refused> {
        self.admit(client_id, user, password).map(drop)
    }

    /// As [`Self::enter`]; returns whose connection it is. `None`: a device id that stands in the client id by its digest,
    /// and the token does not name it.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn admit(&self, client_id: &str, user: Option<&str>, password: &str) -> Result<Option<Address>, Refused> {
        let id = client_id.strip_suffix(PROBE_SUFFIX).unwrap_or(client_id);
        let client = ClientId::parse(id).map_err(|e| Refused::ClientId(e.to_string()))?;
        let now_s = now_ms() / 1000;
        let claims = self.tokens.check_entry(password, now_s).map_err(|e| Refused::Token(e.to_string()))?;
        let own = claims.scope == Scope::User
            && client.app == client_part(&claims.app)
            && client.user == client_part(&claims.sub)
            && claims.device.as_ref().is_none_or(|device| client.device == client_part(device))
            && user == Some(user_name(&claims.app, &claims.sub).as_str());
        match (own, claims.life_is_over(now_s)) {
            (false, _) => return Err(Refused::NotItsOwn),
            (true, true) if !self.overdue.mark(id) => return Err(Refused::Crowded),
            (true, true) => {}
            (true, false) => self.overdue.clear(id),
        }
        let named = claims.device.and_then(|device| Address::new(claims.app, claims.sub, device).ok());
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
    use crate::protocol::DEFAULT_PREFIX;
    use crate::secret::Secret;

    #[test]
    fn a_token_opens_the_door_for_its_own_user_and_device_and_their_topics_only() {
        let topics = Topics::new(DEFAULT_PREFIX).expect("a prefix");
        let tokens = Tokens::new(&Secret::new("k".repeat(32)), topics.clone());
        let now = crate::gateway::clock::now_ms() / 1000;
        let token = tokens.issue_user("o#a", "ann", Some("phone"), now, 60).expect("a token");
        let door = Door { tokens, topics: topics.clone(), overdue: Overdue::default() };
        let address = |user: &str, device: &str| Address::new("o#a", user, device).expect("an address");
        let own = address("ann", "phone");
        let enter = |address: &Address| door.enter(&address.client_id(), Some(&own.user_name()), token.expose());
        assert_eq!(enter(&own), Ok(()));
        assert_eq!(enter(&address("ann", "tablet")), Err(Refused::NotItsOwn));
        assert_eq!(enter(&address("bob", "phone")), Err(Refused::NotItsOwn));
        assert!(matches!(door.enter(&own.client_id(), Some(&own.user_name()), "x"), Err(Refused::Token(_))));
        let id = own.client_id();
        assert!(door.may_publish(&id, &topics.topic(&own, Leg::Up)));
        assert!(door.may_subscribe(&id, &topics.topic(&own, Leg::Down)));
        assert!(!door.may_publish(&id, &topics.topic(&own, Leg::Down)));
        assert!(!door.may_publish(&id, &topics.topic(&address("bob", "phone"), Leg::State)));
        assert!(!door.may_subscribe(&id, &topics.everyone(Leg::Down)));
    }

    #[test]
    fn an_expired_token_enters_to_be_renewed_and_is_marked_until_a_good_one_comes() {
        let topics = Topics::new(DEFAULT_PREFIX).expect("a prefix");
        let tokens = Tokens::new(&Secret::new("k".repeat(32)), topics.clone());
        let now = now_ms() / 1000;
        let door = Door { tokens: tokens.clone(), topics, overdue: Overdue::default() };
        let own = Address::new("o#a", "ann", "phone").expect("an address");
        let enter = |issued: u64| {
            let token = tokens.issue_user("o#a", "ann", Some("phone"), issued, 60).expect("a token");
            door.enter(&own.client_id(), Some(&own.user_name()), token.expose())
        };
        assert_eq!(enter(now - 120), Ok(()));
        assert!(door.overdue.contains(&own));
        assert_eq!(enter(now), Ok(()));
        assert!(!door.overdue.contains(&own));
    }
}
