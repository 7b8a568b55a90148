//! Users, their passwords, and the gateway's own secrets.

use super::sql::{OptionalExtension as _, Transaction, params};
use super::{Store, StoreError, as_i64};
use crate::secret::{Secret, hex, random_hex};
use ring::pbkdf2;
use std::num::NonZeroU32;

/// OWASP's 2023 figure for PBKDF2-HMAC-SHA256 is 600000; a login happens once a device, but a REST
/// call that makes hundreds of users must end, so the figure is lower and stored with each hash.
const ROUNDS: u32 = 120_000;

impl Store {
    /// A secret of the gateway itself, made on first use.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn own_secret(&self, name: &'static str) -> Result<Secret, StoreError> {
        self.run(move |t| {
            t.execute("INSERT OR IGNORE INTO meta (key, value) VALUES (?1, ?2)", params![name, random_hex::<32>()])?;
            Ok(Secret::new(t.query_row("SELECT value FROM meta WHERE key = ?1", [name], |r| r.get::<String>(0))?))
        })
        .await
    }

    /// Adds users; those that exist keep their password. Returns the new ones.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_users(
        &self,
        app: String,
        users: Vec<(String, Secret)>,
        now_ms: u64,
    ) -> Result<Vec<String>, StoreError> {
        // Hashing is slow on purpose; it has no place on the store's thread or a runtime's.
        let hashed = tokio::task::spawn_blocking(move || {
            users.into_iter().map(|(user, password)| (user, hash(&password))).collect::<Vec<_>>()
        })
        .await
        .map_err(|e| StoreError::Corrupt(e.to_string()))?;
        self.run(move |t| {
            let mut added = Vec::new();
            for (user, hash) in hashed {
                let rows = t.execute(
                    "INSERT OR IGNORE INTO users (app, user, password, created_ms) VALUES (?1, ?2, ?3, ?4)",
                    params![app, user, hash, as_i64(now_ms)],
                )?;
                if rows > 0 {
                    added.push(user);
                }
            }
            Ok(added)
        })
        .await
    }

    /// Whether the password is that user's. An unknown user takes as long as a wrong password.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn check_password(&self, app: String, user: String, password: Secret) -> Result<bool, StoreError> {
        let stored: Option<String> = self
            .run(move |t| {
                t.query_row("SELECT password FROM users WHERE app = ?1 AND user = ?2", params![&app, &user], |r| {
                    r.get(0)
                })
                .optional()
            })
            .await?;
        tokio::task::spawn_blocking(move || match stored {
            Some(stored) => verify(&stored, &password),
            None => {
                hash(&password);
                false
            }
        })
        .await
        .map_err(|e| StoreError::Corrupt(e.to_string()))
    }

    /// # Errors
    /// [`StoreError`].
    pub async fn user_exists(&self, app: String, user: String) -> Result<bool, StoreError> {
        self.run(move |t| {
            let sql = "SELECT 1 FROM users WHERE app = ?1 AND user = ?2";
            Ok(t.query_row(sql, params![&app, &user], |_| Ok(())).optional()?.is_some())
        })
        .await
    }
}

/// Keeps other gateways from letting a device of this user in, or, where `alone`, from accepting a message
/// for a user without one, until this transaction ends.
pub(super) fn hold(t: &Transaction<'_>, app: &str, user: &str, alone: bool) -> Result<bool, StoreError> {
    let sql = if alone {
        "SELECT 1 FROM users WHERE app = ?1 AND user = ?2 /* lock */"
    } else {
        "SELECT 1 FROM users WHERE app = ?1 AND user = ?2 /* share */"
    };
    Ok(t.prepare_cached(sql)?.query_row(params![app, user], |_| Ok(())).optional()?.is_some())
}

/// `rounds$salt$hash`, hexadecimal.
fn hash(password: &Secret) -> String {
    let salt = random_hex::<16>();
    format!("{ROUNDS}${salt}${}", derive(ROUNDS, &salt, password))
}

fn derive(rounds: u32, salt: &str, password: &Secret) -> String {
    let mut out = [0_u8; 32];
    let rounds = NonZeroU32::new(rounds).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt.as_bytes(), password.expose().as_bytes(), &mut out);
    hex(&out)
}

fn verify(stored: &str, password: &Secret) -> bool {
    let mut parts = stored.split('$');
    let (Some(rounds), Some(salt), Some(hash)) =
        (parts.next().and_then(|r| r.parse().ok()), parts.next(), parts.next())
    else {
        return false;
    };
    let found = derive(rounds, salt, password);
    // Lengths are equal and fixed; comparing every byte keeps the time the same.
    found.len() == hash.len() && found.bytes().zip(hash.bytes()).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_verifies_only_against_its_own_hash() {
        let stored = hash(&Secret::new("p"));
        assert!(verify(&stored, &Secret::new("p")));
        assert!(!verify(&stored, &Secret::new("q")));
        assert!(!verify("nonsense", &Secret::new("p")));
    }
}
