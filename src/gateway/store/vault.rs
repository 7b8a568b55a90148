//! Certificates' secrets at rest: sealed with AES-256-GCM under a key that is not in the store.

use super::StoreError;
use crate::secret::{Secret, random_hex};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What a sealed text begins with.
pub(super) const SEALED: &str = "v1:";

/// Seals and opens texts.
pub struct Vault {
    key: OnceLock<LessSafeKey>,
    path: PathBuf,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault")
    }
}

impl Vault {
    /// Reads the key, 64 hexadecimal digits. Where `path` does not exist and the key may be made, that is left
    /// to [`Vault::make`]: only the store knows whether there was one.
    ///
    /// # Errors
    /// The file cannot be read, or holds no key.
    pub fn open(path: &Path, may_make: bool) -> io::Result<Self> {
        let vault = Self { key: OnceLock::new(), path: path.to_owned() };
        match read(path) {
            Ok(key) => drop(vault.key.set(key)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_make => {}
            Err(error) => return Err(error),
        }
        Ok(vault)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn has_key(&self) -> bool {
        self.key.get().is_some()
    }

    /// Takes the key if it was put back meanwhile.
    ///
    /// # Errors
    /// As [`Vault::open`]; `NotFound` while there is none.
    pub(super) fn look_again(&self) -> io::Result<()> {
        if !self.has_key() {
            // Another thread may have been quicker, with the same.
            drop(self.key.set(read(&self.path)?));
        }
        Ok(())
    }

    /// Makes a key, once it is sure that nothing was sealed with another: what was can never be read again.
    ///
    /// # Errors
    /// The file cannot be written, or is there already.
    pub fn make(&self) -> io::Result<()> {
        if std::fs::exists(&self.path)? {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a key already"));
        }
        crate::store::write_atomically(&self.path, random_hex::<32>().as_bytes())?;
        // Made by root, it is still for who serves: the owner of the directory.
        if rustix::process::geteuid().is_root()
            && let Some(directory) = self.path.parent().filter(|directory| !directory.as_os_str().is_empty())
        {
            let owner = std::fs::metadata(directory)?;
            std::os::unix::fs::chown(&self.path, Some(owner.uid()), Some(owner.gid()))?;
        }
        self.look_again()
    }

    /// `place` is where the text belongs: moved elsewhere it does not open.
    ///
    /// # Errors
    /// [`StoreError::Sealed`] without a key, [`StoreError::Corrupt`] when the system has no randomness.
    pub(super) fn seal(&self, text: &str, place: &str) -> Result<String, StoreError> {
        let failed = |_| StoreError::Corrupt("a secret could not be sealed".to_owned());
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(failed)?;
        let mut bytes = text.as_bytes().to_vec();
        self.key
            .get()
            .ok_or_else(|| self.lost())?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut bytes)
            .map_err(failed)?;
        Ok(format!("{SEALED}{}", STANDARD.encode([nonce.as_slice(), &bytes].concat())))
    }

    /// A text from before sealing is returned as it is; it is sealed when it is next written.
    ///
    /// # Errors
    /// [`StoreError::Sealed`]: no key or another, another place, or damage.
    pub(super) fn open_text(&self, text: &str, place: &str) -> Result<String, StoreError> {
        let Some(sealed) = text.strip_prefix(SEALED) else { return Ok(text.to_owned()) };
        let key = self.key.get().ok_or_else(|| self.lost())?;
        let failed = || {
            let path = self.path.display();
            StoreError::Sealed(format!("its secrets were sealed with another key than the one in {path}"))
        };
        let mut bytes = STANDARD.decode(sealed).map_err(|_| failed())?;
        if bytes.len() < NONCE_LEN {
            return Err(failed());
        }
        let mut rest = bytes.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&bytes).map_err(|_| failed())?;
        let opened = key.open_in_place(nonce, Aad::from(place), &mut rest).map_err(|_| failed())?;
        String::from_utf8(opened.to_vec()).map_err(|_| failed())
    }

    pub(super) fn lost(&self) -> StoreError {
        let path = self.path.display();
        StoreError::Sealed(format!(
            "{path}, the key of sealed secrets, is gone: put it back, or make a new one with `impush-gateway new-secrets-key` and put the certificates in again"
        ))
    }
}

fn read(path: &Path) -> io::Result<LessSafeKey> {
    let text = Secret::new(std::fs::read_to_string(path)?.trim());
    from_hex(&text).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the key is 64 hexadecimal digits (`openssl rand -hex 32`)")
    })
}

fn from_hex(text: &Secret) -> Option<LessSafeKey> {
    let text = text.expose().as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes: Option<Vec<u8>> =
        text.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect();
    UnboundKey::new(&AES_256_GCM, &bytes?).ok().map(LessSafeKey::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_text_opens_with_its_key_in_its_place_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let vault = Vault::open(&dir.path().join("key"), true).expect("opened");
        assert!(vault.seal("{}", "a/b").is_err() && vault.open_text("v1:AAAA", "a/b").is_err(), "without a key");
        vault.make().expect("made");
        assert!(vault.make().is_err(), "never over another");
        let sealed = vault.seal("{\"app_secret\":\"s\"}", "a/b").expect("sealed");
        assert!(!sealed.contains("app_secret"));
        let again = Vault::open(&dir.path().join("key"), false).expect("read");
        assert_eq!(again.open_text(&sealed, "a/b").expect("opened"), "{\"app_secret\":\"s\"}");
        assert!(again.open_text(&sealed, "a/c").is_err());
        let other = Vault::open(&dir.path().join("other"), true).expect("opened");
        other.make().expect("made");
        assert!(other.open_text(&sealed, "a/b").is_err());
        assert!(vault.open_text("v1:AAAA", "a/b").is_err() && vault.open_text("v1:?", "a/b").is_err());
    }

    #[test]
    fn a_key_that_root_makes_is_the_directory_owners() {
        let dir = tempfile::tempdir().expect("a directory");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(4711), Some(4712)).expect("changed");
        }
        let path = dir.path().join("key");
        Vault::open(&path, true).and_then(|vault| vault.make()).expect("made");
        let (of, key) = (dir.path().metadata().expect("there"), path.metadata().expect("there"));
        assert_eq!((key.uid(), key.gid(), key.mode() & 0o777), (of.uid(), of.gid(), 0o600));
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
