//! The gateway's own authority: its key lies sealed in the store, so that gateways which share one have the same.

use crate::gateway::store::{Store, StoreError};
use crate::secret::Secret;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde::{Deserialize, Serialize};
use std::path::Path;
use tracing::{error, info};

/// Its certificate and its key.
#[derive(Clone, Serialize, Deserialize)]
pub(in crate::gateway) struct Authority {
    pub certificate: String,
    key: String,
    /// Of one that is to follow: since when devices are told of it, in milliseconds since the Unix epoch.
    #[serde(default)]
    told_since_ms: Option<u64>,
}

/// Its name in the store.
const NAME: &str = "authority";
/// The name of the one that is to follow.
const NEXT: &str = "authority_next";

impl Authority {
    /// The store's, made on first use, or the one whose key earlier versions kept in `directory`, which goes into the
    /// store. `None`: there is a certificate whose authority's key was thrown away, as the first versions did, or nothing
    /// opens it; what there is stays in use.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn of(store: &Store, directory: &Path) -> Result<Option<Self>, StoreError> {
        let (key_file, certificate_file) = (directory.join("ca.key"), directory.join("ca.pem"));
        let in_file = std::fs::read_to_string(&certificate_file).ok().zip(std::fs::read_to_string(&key_file).ok());
        if in_file.is_none() && certificate_file.exists() && !store.has_own(NAME).await? {
            return Ok(None);
        }
        let offered = in_file.map(|(certificate, key)| Self { certificate, key, told_since_ms: None });
        let had_file = offered.is_some();
        let made = match offered.map_or_else(Self::made, Ok) {
            Ok(made) => made,
            Err(why) => return Err(StoreError::Corrupt(format!("no authority can be made: {why}"))),
        };
        let text = serde_json::to_string(&made).map_err(|e| StoreError::Corrupt(e.to_string()))?;
        match store.own_text(NAME, move || text).await {
            Ok(stored) => {
                let stored: Self = serde_json::from_str(stored.expose())
                    .map_err(|e| StoreError::Corrupt(format!("the stored authority: {e}")))?;
                if had_file && std::fs::remove_file(&key_file).is_ok() {
                    info!(event = "endpoint.authority_sealed", "the authority's key is in the store now, sealed");
                }
                Ok(Some(stored))
            }
            Err(StoreError::Sealed(why)) => {
                error!(
                    event = "secret.unreadable",
                    name = NAME,
                    why,
                    meanwhile = "the endpoint's certificate is not renewed",
                    "a secret of the gateway cannot be read"
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes one that is to follow, unless there is one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn renew(store: &Store) -> Result<(), StoreError> {
        let made = Self::made().map_err(|why| StoreError::Corrupt(format!("no authority can be made: {why}")))?;
        let text = serde_json::to_string(&made).map_err(|e| StoreError::Corrupt(e.to_string()))?;
        store.own_text(NEXT, move || text).await.map(drop)
    }

    /// The certificate of the one that is to follow, and since when devices are told of it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn coming(store: &Store) -> Result<Option<(String, Option<u64>)>, StoreError> {
        if !store.has_own(NEXT).await? {
            return Ok(None);
        }
        let text = store.own_text(NEXT, String::new).await?;
        let next: Self = serde_json::from_str(text.expose())
            .map_err(|e| StoreError::Corrupt(format!("the authority that is to follow: {e}")))?;
        Ok(Some((next.certificate, next.told_since_ms)))
    }

    /// The same, for a gateway that tells devices of it from now on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn told(store: &Store, now_ms: u64) -> Result<Option<String>, StoreError> {
        let Some((certificate, since_ms)) = Self::coming(store).await? else { return Ok(None) };
        if since_ms.is_none() {
            let told = move |text: Secret| {
                let next = serde_json::from_str::<Self>(text.expose()).ok();
                let next = next.map(|next| Self { told_since_ms: next.told_since_ms.or(Some(now_ms)), ..next });
                (next.and_then(|next| serde_json::to_string(&next).ok()), ())
            };
            store.change_own(NEXT, told).await?;
            info!(event = "endpoint.authority_told", "devices are told of the authority that is to follow");
        }
        Ok(Some(certificate))
    }

    /// The one that is to follow takes its place, with the gateway's next start. `false`: there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn switch(store: &Store) -> Result<bool, StoreError> {
        store.promote_own(NEXT, NAME).await
    }

    pub(super) fn made() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = params()?.self_signed(&key)?.pem();
        Ok(Self { certificate, key: key.serialize_pem(), told_since_ms: None })
    }

    /// # Errors
    /// The key is none.
    pub(super) fn issuer(&self) -> Result<Issuer<'static, KeyPair>, rcgen::Error> {
        Ok(Issuer::new(params()?, KeyPair::from_pem(&self.key)?))
    }
}

fn params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, "impush gateway authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::store::Vault;

    fn store(home: &Path) -> Store {
        let vault = Vault::open(&home.join("key"), true).expect("a key");
        Store::open(&home.join("db"), vault).expect("a store")
    }

    async fn of(home: &Path) -> Option<Authority> {
        Authority::of(&store(home), &home.join("tls")).await.expect("looked")
    }

    #[tokio::test]
    async fn an_authority_is_made_once_and_its_key_is_nowhere_in_clear_text() {
        let home = tempfile::tempdir().expect("a directory");
        let first = of(home.path()).await.expect("made");
        assert_eq!(of(home.path()).await.expect("stored").key, first.key);
        let line = first.key.lines().nth(1).expect("a line of the key");
        for file in std::fs::read_dir(home.path()).expect("listed") {
            // A store that has just been closed takes its journal along.
            let Ok(bytes) = std::fs::read(file.expect("a file").path()) else { continue };
            assert!(!bytes.windows(line.len()).any(|part| part == line.as_bytes()));
        }
    }

    #[tokio::test]
    async fn a_key_that_lay_in_a_file_goes_into_the_store_and_one_thrown_away_is_not_replaced() {
        let home = tempfile::tempdir().expect("a directory");
        let (old, tls) = (Authority::made().expect("made"), home.path().join("tls"));
        std::fs::create_dir(&tls).expect("made");
        std::fs::write(tls.join("ca.pem"), &old.certificate).expect("written");
        assert!(of(home.path()).await.is_none(), "devices trust the one whose key is gone");
        std::fs::write(tls.join("ca.key"), &old.key).expect("written");
        assert_eq!(of(home.path()).await.expect("taken over").key, old.key);
        assert!(!tls.join("ca.key").exists());
        assert_eq!(of(home.path()).await.expect("stored").key, old.key);
    }
}
