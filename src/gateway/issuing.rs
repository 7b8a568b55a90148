//! New logins' tokens: signed, and let in at a broker that keeps an account for each.

use super::accounts::{AccountError, Accounts};
use super::clock::now_ms;
use super::store::Issue;
use super::tokens::{TokenError, Tokens};
use crate::secret::Secret;

/// Why no token was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Account(#[from] AccountError),
}

/// Clones share the keys and the way to the broker.
#[derive(Clone)]
pub struct Issuer {
    pub tokens: Tokens,
    pub accounts: Accounts,
    /// Seconds a token lives.
    pub life_s: u64,
}

impl Issuer {
    /// A token with which a device gets in from now on.
    ///
    /// # Errors
    /// [`IssueError`].
    pub async fn issue(&self, app: &str, user: &str, device: Option<&str>, issue: Issue) -> Result<Secret, IssueError> {
        let now_s = now_ms() / 1000;
        let token = self.tokens.issue_user(app, user, device, issue, (now_s, self.life_s))?;
        let claims = self.tokens.check_entry(token.expose(), now_s)?;
        self.accounts.add(&claims, &token).await?;
        Ok(token)
    }
}
