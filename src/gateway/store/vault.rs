//! Certificates' secrets at rest: sealed with AES-256-GCM under a key that is not in the store.

use super::StoreError;
use crate::secret::{Secret, random_hex};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use std::fmt;
use std::io;
use std::path::Path;

/// What a sealed text begins with.
const SEALED: &str = "v1:";

/// Seals and opens texts.
pub struct Vault {
    key: LessSafeKey,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault")
    }
}

impl Vault {
    /// Reads the key, 64 hexadecimal digits. Where `path` does not exist and may be made, a new key is.
    ///
    /// # Errors
    /// The file cannot be read or written, or holds no key.
    pub fn open(path: &Path, may_make: bool) -> io::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => Secret::new(text.trim()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_make => {
                let fresh = Secret::new(random_hex::<32>());
                crate::store::write_atomically(path, fresh.expose().as_bytes())?;
                fresh
            }
            Err(error) => return Err(error),
        };
        Self::from_hex(&text).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "the key is 64 hexadecimal digits (`openssl rand -hex 32`)")
        })
    }

    fn from_hex(text: &Secret) -> Option<Self> {
        let text = text.expose().as_bytes();
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let bytes: Option<Vec<u8>> =
            text.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect();
        let key = UnboundKey::new(&AES_256_GCM, &bytes?).ok()?;
        Some(Self { key: LessSafeKey::new(key) })
    }

    /// `place` is where the text belongs: moved elsewhere it does not open.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the system has no randomness.
    pub(super) fn seal(&self, text: &str, place: &str) -> Result<String, StoreError> {
        let failed = |_| StoreError::Corrupt("a secret could not be sealed".to_owned());
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(failed)?;
        let mut bytes = text.as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut bytes)
            .map_err(failed)?;
        Ok(format!("{SEALED}{}", STANDARD.encode([nonce.as_slice(), &bytes].concat())))
    }

    /// A text from before sealing is returned as it is; it is sealed when it is next written.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`]: another key, another place, or damage.
    pub(super) fn open_text(&self, text: &str, place: &str) -> Result<String, StoreError> {
        let Some(sealed) = text.strip_prefix(SEALED) else { return Ok(text.to_owned()) };
        let failed = || StoreError::Corrupt(format!("the secrets of {place} were sealed with another key"));
        let mut bytes = STANDARD.decode(sealed).map_err(|_| failed())?;
        if bytes.len() < NONCE_LEN {
            return Err(failed());
        }
        let mut rest = bytes.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&bytes).map_err(|_| failed())?;
        let opened = self.key.open_in_place(nonce, Aad::from(place), &mut rest).map_err(|_| failed())?;
        String::from_utf8(opened.to_vec()).map_err(|_| failed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_text_opens_with_its_key_in_its_place_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let vault = Vault::open(&dir.path().join("key"), true).expect("made");
        let sealed = vault.seal("{\"app_secret\":\"s\"}", "a/b").expect("sealed");
        assert!(!sealed.contains("app_secret"));
        let again = Vault::open(&dir.path().join("key"), false).expect("read");
        assert_eq!(again.open_text(&sealed, "a/b").expect("opened"), "{\"app_secret\":\"s\"}");
        assert!(again.open_text(&sealed, "a/c").is_err());
        let other = Vault::open(&dir.path().join("other"), true).expect("made");
        assert!(other.open_text(&sealed, "a/b").is_err());
        assert!(vault.open_text("v1:AAAA", "a/b").is_err() && vault.open_text("v1:?", "a/b").is_err());
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_with_what_it_should_be() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        for bad in ["", "zz", &"a".repeat(63), &"é".repeat(32)] {
            std::fs::write(&path, bad).expect("written");
            assert!(Vault::open(&path, true).expect_err(bad).to_string().contains("64 hexadecimal"));
        }
    }
}
