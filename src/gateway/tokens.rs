//! The tokens the gateway issues: JWTs (RFC 7519) signed with HS256, for users and for app servers.
//!
//! A user token is also the device's MQTT password. Its `username`, `clientid` and `acl` claims are what EMQX checks, so
//! that an external broker can enforce the same names and topics the gateway's own endpoint does.

use super::checked::{Checked, Signed};
use super::keyring::{FIRST, Keyring};
use super::store::{Issue, LoginClaim};
use crate::protocol::{Address, Leg, Topics, user_name};
use crate::secret::{Secret, random_hex};
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error as JwtError, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use signature::{Error as SignatureError, Signer, Verifier};
use std::sync::{Arc, PoisonError, RwLock};

/// What a token allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Everything in one app, its clients too, and the gateway's own keys: the operator's.
    Admin,
    /// Everything in one app but that.
    App,
    /// To read what [`Self::App`] may.
    Read,
    /// One user's own devices and settings.
    User,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub scope: Scope,
    pub app: String,
    /// The user; in a program's token its client id, and empty in an operator's.
    #[serde(default)]
    pub sub: String,
    /// The only device this token serves, where it is bound to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The login it was issued for; empty where none was named.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub login: String,
    /// Seconds since the Unix epoch, as the ones below. Nobody takes the token after it.
    pub exp: u64,
    /// When it was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<u64>,
    /// From here on its device asks for a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_after: Option<u64>,
    /// Between here and `exp` it opens the connection, so that a device which was off can renew it, and
    /// nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<u64>,
    /// Generation of the user's logins: what ends them all raises it.
    #[serde(default, rename = "gen")]
    pub generation: u64,
    /// The MQTT user name that its device enters with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The MQTT client id of its device, where it is bound to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clientid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<Json>,
}

impl Claims {
    /// What the store is asked about; `None` for a program's.
    pub fn login(&self) -> Option<LoginClaim> {
        (self.scope == Scope::User).then(|| LoginClaim {
            app: self.app.clone(),
            user: self.sub.clone(),
            device: self.device.clone(),
            login: self.login.clone(),
            generation: self.generation,
            issued_s: self.iat.unwrap_or(0),
        })
    }

    /// It can only be renewed.
    pub fn life_is_over(&self, now_s: u64) -> bool {
        self.life.is_some_and(|life| life <= now_s)
    }
}

/// How long after its life a user token still renews itself, in seconds: 400 days, for devices that lay in a
/// drawer for a year.
pub const GRACE_S: u64 = 400 * 86_400;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token has expired; ask for a new one")]
    Expired,
    #[error("the token was not issued by this gateway: {0}")]
    Invalid(String),
    /// Nothing can be said of it, nor issued to a device, until the sealing key is back.
    #[error("the key that signs tokens cannot be read: put `secrets.key` back and restart the gateway")]
    NoKey,
}

/// The `kid` of app tokens while the signing keys cannot be read: they are good for this run.
const OF_THIS_RUN: &str = "this-run";

/// What signs.
enum Keys {
    Ring(Keyring),
    /// They cannot be read. Operators and app servers go on with a key of this run, so that they can mend it.
    Unreadable(Secret),
}

impl Keys {
    /// The secret of tokens that name this key.
    fn find(&self, id: &str, now_s: u64) -> Result<&Secret, TokenError> {
        match self {
            Self::Ring(keys) => {
                let key = keys.find(id, now_s).map(|key| &key.secret);
                key.ok_or_else(|| TokenError::Invalid("it was signed with a key that is over".to_owned()))
            }
            Self::Unreadable(key) if id == OF_THIS_RUN => Ok(key),
            Self::Unreadable(_) => Err(TokenError::NoKey),
        }
    }
}

/// What signs, and what was found to be signed by it.
struct Signing {
    keys: Keys,
    checked: Checked,
}

impl Signing {
    fn new(keys: Keys) -> Self {
        Self { keys, checked: Checked::default() }
    }
}

/// Issues and checks tokens. Clones share the keys.
#[derive(Clone)]
pub struct Tokens {
    signing: Arc<RwLock<Signing>>,
    validation: Validation,
    topics: Topics,
    /// Each login has a user name of its own.
    by_login: bool,
}

impl Tokens {
    /// `None`: the keys cannot be read.
    pub fn new(keys: Option<Keyring>, topics: Topics) -> Self {
        // A second call in one process finds the same provider in place.
        let _ = PROVIDER.install_default();
        let mut validation = Validation::new(Algorithm::HS256);
        // By the library's clock, which may not be the store's.
        validation.validate_exp = false;
        validation.required_spec_claims = ["exp".to_owned()].into();
        let keys = keys.map_or_else(|| Keys::Unreadable(Secret::new(random_hex::<32>())), Keys::Ring);
        Self { signing: Arc::new(RwLock::new(Signing::new(keys))), validation, topics, by_login: false }
    }

    /// Each login enters under a user name of its own, for a broker that keeps an account for each.
    #[must_use]
    pub fn named_by_login(self, by_login: bool) -> Self {
        Self { by_login, ..self }
    }

    /// Others than before; tokens of keys that are not among them are taken no more.
    pub fn set_keys(&self, keys: Keyring) {
        *self.signing.write().unwrap_or_else(PoisonError::into_inner) = Signing::new(Keys::Ring(keys));
    }

    /// # Errors
    /// [`TokenError::Invalid`] when the claims cannot be written.
    pub fn issue_app(
        &self,
        app: &str,
        (scope, client): (Scope, &str),
        now_s: u64,
        life_s: u64,
    ) -> Result<Secret, TokenError> {
        self.sign(&Claims {
            scope,
            app: app.to_owned(),
            sub: client.to_owned(),
            device: None,
            login: String::new(),
            exp: now_s + life_s,
            iat: Some(now_s),
            renew_after: None,
            life: None,
            generation: 0,
            username: None,
            clientid: None,
            acl: None,
        })
    }

    /// A new login's.
    ///
    /// # Errors
    /// As [`Self::issue_app`].
    pub fn issue_user(
        &self,
        app: &str,
        user: &str,
        device: Option<&str>,
        issue: Issue,
        (now_s, life_s): (u64, u64),
    ) -> Result<Secret, TokenError> {
        let login = random_hex::<8>();
        let name = user_name(app, user);
        let device_of = |device| Address::new(app, user, device).map_err(|e| TokenError::Invalid(e.to_string()));
        self.sign(&Claims {
            username: Some(if self.by_login { format!("{name}/{login}") } else { name }),
            clientid: device.map(device_of).transpose()?.map(|address| address.client_id()),
            scope: Scope::User,
            app: app.to_owned(),
            sub: user.to_owned(),
            device: device.map(str::to_owned),
            login,
            exp: now_s + life_s + GRACE_S,
            // What was ended in this second was issued before.
            iat: Some(now_s.max(issue.after_s + 1)),
            renew_after: Some(now_s + life_s / 3 * 2),
            life: Some(now_s + life_s),
            generation: issue.generation,
            acl: Some(self.acl(app, user, device)?),
        })
    }

    /// Whether a token allows what it names now.
    ///
    /// # Errors
    /// [`TokenError`]; `Expired` also for one that can only renew itself.
    pub fn check(&self, token: &str, now_s: u64) -> Result<Arc<Claims>, TokenError> {
        let claims = self.check_entry(token, now_s)?;
        if claims.life_is_over(now_s) { Err(TokenError::Expired) } else { Ok(claims) }
    }

    /// Whether a token opens a device's connection, over which it can be renewed.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn check_entry(&self, token: &str, now_s: u64) -> Result<Arc<Claims>, TokenError> {
        // Held while a token is checked and remembered: none is remembered by others' keys.
        let signing = self.signing.read().unwrap_or_else(PoisonError::into_inner);
        let known = signing.checked.find(token);
        let is_new = known.is_none();
        let signed = known.map_or_else(|| self.verify(token, &signing.keys, now_s), Ok)?;
        signing.keys.find(&signed.key, now_s)?;
        let claims = signed.claims.clone();
        if claims.exp <= now_s {
            return Err(TokenError::Expired);
        }
        // A user's is shown once for a connection.
        if is_new && claims.scope != Scope::User {
            signing.checked.add(token, signed);
        }
        Ok(claims)
    }

    fn verify(&self, token: &str, keys: &Keys, now_s: u64) -> Result<Signed, TokenError> {
        let invalid = |error: JwtError| TokenError::Invalid(error.to_string());
        let id = jsonwebtoken::decode_header(token).map_err(invalid)?.kid.unwrap_or_else(|| FIRST.to_owned());
        let key = DecodingKey::from_secret(keys.find(&id, now_s)?.expose().as_bytes());
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &self.validation).map_err(invalid)?.claims;
        Ok(Signed { key: id.into(), claims: Arc::new(claims) })
    }

    fn sign(&self, claims: &Claims) -> Result<Secret, TokenError> {
        let mut header = Header::new(Algorithm::HS256);
        let key = match &self.signing.read().unwrap_or_else(PoisonError::into_inner).keys {
            Keys::Ring(keys) => {
                let key = keys.signing(claims.iat.unwrap_or(0));
                header.kid = (key.id != FIRST).then(|| key.id.clone());
                EncodingKey::from_secret(key.secret.expose().as_bytes())
            }
            Keys::Unreadable(key) if claims.scope != Scope::User => {
                header.kid = Some(OF_THIS_RUN.to_owned());
                EncodingKey::from_secret(key.expose().as_bytes())
            }
            Keys::Unreadable(_) => return Err(TokenError::NoKey),
        };
        let token = jsonwebtoken::encode(&header, claims, &key);
        token.map(Secret::new).map_err(|e| TokenError::Invalid(e.to_string()))
    }

    fn acl(&self, app: &str, user: &str, device: Option<&str>) -> Result<Json, TokenError> {
        let topic = |leg| {
            let address =
                Address::new(app, user, device.unwrap_or("any")).map_err(|e| TokenError::Invalid(e.to_string()))?;
            let topic = self.topics.topic(&address, leg);
            if device.is_some() {
                return Ok(topic);
            }
            // Any device of the user, until the token is bound to one: its level is the last but one.
            let mut levels: Vec<&str> = topic.split('/').collect();
            let at = levels.len() - 2;
            levels[at] = "+";
            Ok(levels.join("/"))
        };
        Ok(json!({ "pub": [topic(Leg::Up)?, topic(Leg::State)?], "sub": [topic(Leg::Down)?] }))
    }
}

/// HS256 over ring, which is linked for TLS already; the library's own providers would add a second
/// cryptography stack.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| match algorithm {
        Algorithm::HS256 => Ok(Box::new(Hs256(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())))),
        _ => Err(JwtError::from(ErrorKind::InvalidAlgorithm)),
    },
    verifier_factory: |algorithm, key| match algorithm {
        Algorithm::HS256 => Ok(Box::new(Hs256(hmac::Key::new(hmac::HMAC_SHA256, key.try_get_as_bytes()?)))),
        _ => Err(JwtError::from(ErrorKind::InvalidAlgorithm)),
    },
    key_utils: KeyUtils::new_unimplemented(),
};

struct Hs256(hmac::Key);

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        hmac::verify(&self.0, message, signature).map_err(|_| SignatureError::new())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUE: Issue = Issue { generation: 3, after_s: 0 };

    fn tokens(key: &str) -> Tokens {
        Tokens::new(Keyring::parse(&Secret::new(key)), Topics::new("im/v1").expect("a prefix"))
    }

    fn now() -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
    }

    #[test]
    fn a_user_token_says_who_and_which_topics() {
        let token = tokens("k").issue_user("o#a", "ann", Some("d"), ISSUE, (now(), 60)).expect("issued");
        let claims = tokens("k").check(token.expose(), now()).expect("valid");
        assert_eq!((claims.sub.as_str(), claims.app.as_str(), claims.device.as_deref()), ("ann", "o#a", Some("d")));
        assert_eq!((claims.generation, claims.login.len()), (3, 16));
        assert_eq!(claims.acl.as_ref().expect("an acl")["sub"][0], "im/v1/o%23a/ann/d/down");
        let any = tokens("k").issue_user("o#a", "ann", None, ISSUE, (now(), 60)).expect("issued");
        let claims = tokens("k").check(any.expose(), now()).expect("valid");
        assert_eq!(claims.acl.as_ref().expect("an acl")["pub"][0], "im/v1/o%23a/ann/+/up");
        let named = tokens("k").issue_user("o#a", "device", None, ISSUE, (now(), 60)).expect("issued");
        let claims = tokens("k").check(named.expose(), now()).expect("valid");
        assert_eq!(claims.acl.as_ref().expect("an acl")["sub"][0], "im/v1/o%23a/device/+/down");
        assert!(tokens("k").issue_user("o#a", "ann", Some(""), ISSUE, (now(), 60)).is_err());
    }

    #[test]
    fn a_token_of_the_second_in_which_others_were_ended_is_issued_after_them() {
        let ended = Issue { generation: 0, after_s: now() + 1 };
        let token = tokens("k").issue_user("o#a", "ann", None, ended, (now(), 60)).expect("issued");
        let claims = tokens("k").check(token.expose(), now()).expect("valid");
        assert_eq!(claims.iat, Some(ended.after_s + 1));
    }

    #[test]
    fn a_foreign_or_expired_or_unsigned_token_is_refused() {
        let foreign = tokens("other").issue_app("a", (Scope::App, "c"), now(), 60).expect("issued");
        assert!(matches!(tokens("k").check(foreign.expose(), now()), Err(TokenError::Invalid(_))));
        let old = tokens("k").issue_app("a", (Scope::App, "c"), now() - 100, 60).expect("issued");
        assert_eq!(tokens("k").check(old.expose(), now()), Err(TokenError::Expired));
        let lying = tokens("k").issue_user("o#a", "ann", Some("d"), ISSUE, (now() - 100, 60)).expect("issued");
        assert_eq!(tokens("k").check(lying.expose(), now()), Err(TokenError::Expired), "its life is over");
        assert!(tokens("k").check_entry(lying.expose(), now()).is_ok(), "it can still renew itself");
        let gone = tokens("k").issue_user("o#a", "ann", Some("d"), ISSUE, (now() - GRACE_S - 100, 60)).expect("issued");
        assert_eq!(tokens("k").check_entry(gone.expose(), now()), Err(TokenError::Expired));
        let unsigned = "eyJhbGciOiJub25lIn0.eyJzY29wZSI6ImFwcCIsImFwcCI6ImEiLCJleHAiOjk5OTk5OTk5OTl9.";
        assert!(tokens("k").check(unsigned, now()).is_err());
    }

    #[test]
    fn a_rotated_key_takes_over_and_what_the_old_one_signed_stays_good() {
        let one = tokens("k");
        let now = now();
        let old = one.issue_user("o#a", "ann", Some("d"), ISSUE, (now, 60)).expect("issued");
        let mut keys = Keyring::parse(&Secret::new("k")).expect("a key");
        keys.rotate(now, 60 + GRACE_S).expect("made");
        one.set_keys(keys.clone());
        let later = now + crate::gateway::keyring::ANNOUNCED_S;
        let new = one.issue_user("o#a", "ann", Some("d"), ISSUE, (later, 60)).expect("issued");
        assert!(one.check_entry(old.expose(), later).is_ok() && one.check(new.expose(), later).is_ok());
        assert!(tokens("k").check(new.expose(), later).is_err(), "another key signed it");
        keys.remove(FIRST, later).expect("out");
        one.set_keys(keys);
        assert!(matches!(one.check_entry(old.expose(), later), Err(TokenError::Invalid(_))));
        assert!(one.check(new.expose(), later).is_ok());
    }

    #[test]
    fn a_programs_token_that_was_good_before_is_refused_once_it_is_over_or_its_key_is_not_there_any_more() {
        let (one, now) = (tokens("k"), now());
        let token = one.issue_app("o#a", (Scope::App, "c"), now, 60).expect("issued");
        assert!((0..2).all(|_| one.check(token.expose(), now).is_ok_and(|claims| claims.sub == "c")));
        assert_eq!(one.check(token.expose(), now + 60), Err(TokenError::Expired));
        one.set_keys(Keyring::parse(&Secret::new("another")).expect("a key"));
        assert!(matches!(one.check(token.expose(), now), Err(TokenError::Invalid(_))));
    }

    #[test]
    fn while_the_keys_cannot_be_read_apps_are_served_and_devices_wait() {
        let none = Tokens::new(None, Topics::new("im/v1").expect("a prefix"));
        let device = tokens("k").issue_user("o#a", "ann", Some("d"), ISSUE, (now(), 60)).expect("issued");
        assert_eq!(none.check_entry(device.expose(), now()), Err(TokenError::NoKey), "not refused for good");
        assert_eq!(none.issue_user("o#a", "ann", None, ISSUE, (now(), 60)), Err(TokenError::NoKey));
        let app = none.issue_app("a", (Scope::App, "c"), now(), 60).expect("issued");
        assert!(none.check(app.expose(), now()).is_ok());
        assert!(tokens("k").check(app.expose(), now()).is_err());
    }
}
