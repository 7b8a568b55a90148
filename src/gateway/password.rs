//! Passwords as they are kept: argon2id, made and compared on as many threads as do not starve the rest.

use crate::secret::{Secret, hex};
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use ring::pbkdf2;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// Fewest characters of a new password: NIST SP 800-63B section 3.1.1.2 asks for 8 at least.
pub const LEAST: usize = 8;
/// Most bytes of a password, so that no request is slow by its size.
const MOST: usize = 1024;
/// Callers that wait for a thread; more are told to come again.
const WAITING: usize = 64;

/// OWASP's "Password Storage Cheat Sheet": 19 MiB, two passes, one lane. In KiB, passes and lanes.
const COST: (u32, u32, u32) = (19 * 1024, 2, 1);

/// Why no answer was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Come again in a second.
    #[error("too many passwords are being checked; try again")]
    Busy,
    #[error("a password has {LEAST} characters at least and {MOST} bytes at most")]
    Length,
    #[error("a password could not be hashed: {0}")]
    Failed(String),
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    Wrong,
    Right,
    /// It is right, and kept in an older way: this is the newer.
    Renew(String),
}

/// Clones share the threads.
#[derive(Debug, Clone)]
pub struct Passwords {
    threads: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

impl Passwords {
    /// Half of the processors hash at once, and one at least.
    pub fn new() -> Self {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads: Arc::new(Semaphore::new((all / 2).max(1))), waiting: Arc::default() }
    }

    /// Hashes new passwords, in their order.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub async fn hash(&self, passwords: Vec<Secret>) -> Result<Vec<String>, PasswordError> {
        if passwords.iter().any(|p| p.expose().chars().count() < LEAST || p.expose().len() > MOST) {
            return Err(PasswordError::Length);
        }
        // One thread for all of them, but not for all of the time.
        let mut hashes = Vec::with_capacity(passwords.len());
        for password in passwords {
            hashes.push(self.work(move || hash(&password)).await??);
        }
        Ok(hashes)
    }

    /// Whether the password is the one that was kept as `stored`. Without one it takes as long and is wrong.
    ///
    /// # Errors
    /// [`PasswordError::Busy`] and [`PasswordError::Failed`].
    pub async fn compare(&self, stored: Option<String>, password: Secret) -> Result<Compared, PasswordError> {
        if password.expose().len() > MOST {
            return Ok(Compared::Wrong);
        }
        // A user who enrolled has none.
        let stored = stored.filter(|stored| !stored.is_empty());
        self.work(move || match stored {
            None => hash(&password).map(|_| Compared::Wrong),
            Some(stored) if stored.starts_with('$') => {
                let parsed = PasswordHash::new(&stored).map_err(|e| PasswordError::Failed(e.to_string()))?;
                let right = argon2()?.verify_password(password.expose().as_bytes(), &parsed).is_ok();
                Ok(if right { Compared::Right } else { Compared::Wrong })
            }
            Some(stored) if is_old(&stored, &password) => hash(&password).map(Compared::Renew),
            Some(_) => Ok(Compared::Wrong),
        })
        .await?
    }

    async fn work<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, PasswordError> {
        let failed = |why: &str| PasswordError::Failed(why.to_owned());
        let _place = Place::take(&self.waiting)?;
        let permit = self.threads.clone().acquire_owned().await.map_err(|_| failed("the gateway ends"))?;
        let work = tokio::task::spawn_blocking(move || {
            let result = job();
            drop(permit);
            result
        });
        work.await.map_err(|e| failed(&e.to_string()))
    }
}

/// A caller's place, given back however the call ends.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Result<Self, PasswordError> {
        let place = Self(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) < WAITING { Ok(place) } else { Err(PasswordError::Busy) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn argon2() -> Result<Argon2<'static>, PasswordError> {
    let (memory, passes, lanes) = COST;
    let params = Params::new(memory, passes, lanes, None).map_err(|e| PasswordError::Failed(e.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// In the PHC string format.
fn hash(password: &Secret) -> Result<String, PasswordError> {
    let hash = argon2()?.hash_password(password.expose().as_bytes());
    hash.map(|hash| hash.to_string()).map_err(|e| PasswordError::Failed(e.to_string()))
}

/// `rounds$salt$hash` in hexadecimal, PBKDF2-HMAC-SHA256: how passwords were kept before.
fn is_old(stored: &str, password: &Secret) -> bool {
    let mut parts = stored.split('$');
    let (Some(rounds), Some(salt), Some(hash)) =
        (parts.next().and_then(|r| r.parse().ok()).and_then(NonZeroU32::new), parts.next(), parts.next())
    else {
        return false;
    };
    let mut out = [0_u8; 32];
    let (salt, password) = (salt.as_bytes(), password.expose().as_bytes());
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, password, &mut out);
    let found = hex(&out);
    // Lengths are equal and fixed; comparing every byte keeps the time the same.
    found.len() == hash.len() && found.bytes().zip(hash.bytes()).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text)
    }

    #[tokio::test]
    async fn a_password_is_right_only_against_its_own_hash() {
        let passwords = Passwords::new();
        let stored = passwords.hash(vec![secret("long enough")]).await.expect("hashed").remove(0);
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        let compare = async |stored: &str, password| passwords.compare(Some(stored.to_owned()), secret(password)).await;
        assert_eq!(compare(&stored, "long enough").await, Ok(Compared::Right));
        assert_eq!(compare(&stored, "long enougH").await, Ok(Compared::Wrong));
        assert_eq!(compare("nonsense", "long enough").await, Ok(Compared::Wrong));
        assert_eq!(passwords.compare(None, secret("long enough")).await, Ok(Compared::Wrong));
        assert_eq!(compare("", "").await, Ok(Compared::Wrong), "who has no password");
    }

    #[tokio::test]
    async fn a_password_that_was_kept_in_the_old_way_is_right_and_is_kept_in_the_new_one() {
        let mut out = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, NonZeroU32::MIN, b"ab", b"p", &mut out);
        let old = format!("1$ab${}", hex(&out));
        let passwords = Passwords::new();
        let Ok(Compared::Renew(new)) = passwords.compare(Some(old.clone()), secret("p")).await else {
            panic!("not renewed")
        };
        assert_eq!(passwords.compare(Some(new), secret("p")).await, Ok(Compared::Right));
        assert_eq!(passwords.compare(Some(old), secret("q")).await, Ok(Compared::Wrong));
    }

    #[tokio::test]
    async fn a_short_password_is_refused_and_so_is_one_that_would_take_long() {
        for bad in ["1234567", &"a".repeat(MOST + 1)] {
            assert_eq!(Passwords::new().hash(vec![secret(bad)]).await, Err(PasswordError::Length));
        }
        assert!(Passwords::new().hash(vec![secret("ünïcödé!")]).await.is_ok());
    }
}
