//! Programs of an IM app: who may call the REST API for it, and what they may.

use super::sql::{OptionalExtension as _, params};
use super::value::{Column, Value};
use super::{Store, StoreError, as_i64, as_u64, turn_of};
use crate::secret::{Secret, digest_hex};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Programs of one app.
const MOST: u64 = 100;

/// One of them; its secret is shown once and kept as a digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Client {
    pub client_id: String,
    pub name: String,
    pub scope: ClientScope,
    pub created_ms: u64,
}

/// What a program may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ClientScope {
    /// Everything in the app but its programs
    #[default]
    App,
    /// To read that
    Read,
}

impl ClientScope {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Read => "read",
        }
    }
}

impl Column for ClientScope {
    fn read(value: &mut Value) -> Option<Self> {
        let text = String::read(value)?;
        [Self::App, Self::Read].into_iter().find(|scope| scope.as_str() == text)
    }
}

impl Store {
    /// `false`: the app has as many as it may.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_client(&self, app: String, client: Client, secret: Secret) -> Result<bool, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            let count = "SELECT count(*) FROM clients WHERE app = ?1";
            if as_u64(t.query_row(count, params![app], |r| r.get(0))?) >= MOST {
                return Ok(false);
            }
            let Client { client_id, name, scope, created_ms } = client;
            t.execute(
                "INSERT INTO clients (id, app, name, secret, scope, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![client_id, app, name, digest_hex(secret.expose()), scope.as_str(), as_i64(created_ms)],
            )?;
            Ok(true)
        })
        .await
    }

    /// An app's, the oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn clients(&self, app: String) -> Result<Vec<Client>, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            t.prepare_cached("SELECT id, name, scope, created_ms FROM clients WHERE app = ?1 ORDER BY created_ms, id")?
                .query_map(params![app], |r| {
                    let (client_id, name, scope) = (r.get(0)?, r.get(1)?, r.get(2)?);
                    Ok(Client { client_id, name, scope, created_ms: as_u64(r.get(3)?) })
                })?
                .collect()
        })
        .await
    }

    /// Gives a client another secret; the one before is good no longer. `false`: the app has no such client.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn renew_client(&self, app: String, id: String, secret: Secret) -> Result<bool, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            let sql = "UPDATE clients SET secret = ?3 WHERE app = ?1 AND id = ?2";
            Ok(t.execute(sql, params![app, id, digest_hex(secret.expose())])? > 0)
        })
        .await
    }

    /// `false`: the app has no such client.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_client(&self, app: String, id: String) -> Result<bool, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            Ok(t.execute("DELETE FROM clients WHERE app = ?1 AND id = ?2", params![app, id])? > 0)
        })
        .await
    }

    /// What a client with this secret may; `None` where there is none, or the secret is another's.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn client_scope(
        &self,
        app: String,
        id: String,
        secret: Secret,
    ) -> Result<Option<ClientScope>, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            // Of 128 random bits there is nothing to guess, so that a fast digest serves, and its comparison tells nothing.
            let sql = "SELECT scope FROM clients WHERE app = ?1 AND id = ?2 AND secret = ?3";
            t.query_row(sql, params![app, id, digest_hex(secret.expose())], |r| r.get(0)).optional()
        })
        .await
    }

    /// Whether the client is there still.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_client(&self, app: String, id: String) -> Result<bool, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            let sql = "SELECT EXISTS (SELECT 1 FROM clients WHERE app = ?1 AND id = ?2)";
            t.prepare_cached(sql)?.query_row(params![app, id], |r| r.get(0))
        })
        .await
    }
}
