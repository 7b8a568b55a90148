//! What a login's own token says of its life: the claims of a JWT (RFC 7519), read and not verified.

use crate::ids::AppId;
use crate::protocol::Address;
use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A user name that a token may ask for, in bytes: two percent-encoded ids and a login's take 1,554.
const LONGEST_NAME: usize = 2048;

/// The claims of a JWT; `None` for any other password.
pub(super) fn claims<T: DeserializeOwned>(password: &Secret) -> Option<T> {
    let payload = password.expose().split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// The IM app a token was issued for, where it says.
pub(super) fn app(password: &Secret) -> Option<AppId> {
    #[derive(Deserialize)]
    struct Issued {
        app: AppId,
    }
    claims::<Issued>(password).map(|issued| issued.app)
}

/// The MQTT user name that a login enters with: the one that its token names, as for a broker that keeps an account for
/// each login, or else the user's.
pub fn user_name(address: &Address, password: &Secret) -> String {
    #[derive(Deserialize)]
    struct Issued {
        username: String,
    }
    let named = claims::<Issued>(password).map(|issued| issued.username);
    named.filter(|name| (1..=LONGEST_NAME).contains(&name.len())).unwrap_or_else(|| address.user_name())
}

/// The ends of a token's life, in seconds since the Unix epoch. Passwords that are no JWT have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Life {
    exp: u64,
    #[serde(default)]
    iat: Option<u64>,
    #[serde(default)]
    renew_after: Option<u64>,
    /// Between here and `exp` the token may only renew.
    #[serde(default)]
    life: Option<u64>,
}

impl Life {
    pub fn of(password: &Secret) -> Option<Self> {
        claims(password)
    }

    /// When it was issued, by the gateway's clock.
    pub fn issued_s(&self) -> Option<u64> {
        self.iat
    }

    /// No server can take it any more.
    pub fn ended(&self, wall_ms: u64) -> bool {
        wall_ms / 1000 >= self.exp
    }

    /// Seconds until two thirds of its life are over; 0 when they are. `None`: it does not say.
    pub fn renewal_in(&self, wall_ms: u64) -> Option<u64> {
        let two_thirds = self.iat.map(|iat| iat + self.exp.saturating_sub(iat) / 3 * 2);
        self.renew_after.or(two_thirds).map(|at| at.saturating_sub(wall_ms / 1000))
    }

    /// Whole days until it is good for nothing but its renewal.
    pub fn days_left(&self, wall_ms: u64) -> u64 {
        self.life.unwrap_or(self.exp).saturating_sub(wall_ms / 1000) / 86_400
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> Secret {
        Secret::new(format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims)))
    }

    #[test]
    fn a_login_enters_under_the_name_that_its_token_says_or_its_users() {
        let address = Address::new("o#a", "ann", "phone").expect("an address");
        let entered = |password: Secret| user_name(&address, &password);
        assert_eq!(entered(token(r#"{"username":"o%23a/ann/01"}"#)), "o%23a/ann/01");
        let long = format!(r#"{{"username":"{}"}}"#, "a".repeat(LONGEST_NAME + 1));
        for none in
            [token("{}"), token(r#"{"username":""}"#), token(r#"{"username":7}"#), token(&long), Secret::new("p")]
        {
            assert_eq!(entered(none), "o%23a/ann");
        }
    }

    #[test]
    fn a_token_says_when_it_wants_to_be_renewed_and_when_it_ends() {
        let life = Life::of(&token(r#"{"exp":1000000,"iat":0,"renew_after":400,"life":600}"#)).expect("claims");
        assert_eq!((life.renewal_in(399_000), life.renewal_in(400_000)), (Some(1), Some(0)));
        assert!(!life.ended(999_999_000) && life.ended(1_000_000_000));
        let old = Life::of(&token(r#"{"exp":900,"iat":0}"#)).expect("claims");
        assert_eq!((old.renewal_in(599_000), old.renewal_in(700_000)), (Some(1), Some(0)));
        for none in ["secret", "a.b.c", "e30.e30.x"] {
            assert_eq!(Life::of(&Secret::new(none)), None, "{none}");
        }
    }
}
