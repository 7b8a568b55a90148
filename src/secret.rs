//! Values that must never be printed, and the short fingerprint that may stand for them in a log.

use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroize as _;

/// A password, token or key. `Debug` and `Display` show its [`fingerprint`], never the value.
///
/// It serializes as the plain text, because a secret that cannot be stored cannot be used again
/// after a restart; the files that hold it are the caller's duty (mode 0600).
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself. Every call site is a place to look at when hunting a leak.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn fingerprint(&self) -> String {
        fingerprint(&self.0)
    }
}

impl Drop for Secret {
    /// A core dump or a swapped page holds it no longer than it is needed.
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.fingerprint())
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint())
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

/// The first eight hexadecimal digits of the SHA-256 of `value`: enough to compare two log lines,
/// too little to find the value.
pub fn fingerprint(value: &str) -> String {
    hex(&digest::digest(&digest::SHA256, value.as_bytes()).as_ref()[..4])
}

/// SHA-256 in lower-case hexadecimal: what is stored of a secret that is random enough not to be guessed.
pub fn digest_hex(value: &str) -> String {
    hex(digest::digest(&digest::SHA256, value.as_bytes()).as_ref())
}

/// `N` random bytes.
///
/// # Panics
/// When the operating system has no random numbers to give; nothing secure can go on then.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0_u8; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system gives random numbers");
    bytes
}

/// [`random`] as lower-case hexadecimal.
pub fn random_hex<const N: usize>() -> String {
    hex(&random::<N>())
}

/// Lower-case hexadecimal of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_only_its_fingerprint() {
        let secret = Secret::new("correct horse battery staple");
        let shown = format!("{secret:?} {secret}");
        assert!(!shown.contains("horse"));
        assert!(shown.contains(&fingerprint("correct horse battery staple")));
    }

    #[test]
    fn two_random_values_differ() {
        assert_ne!(random_hex::<16>(), random_hex::<16>());
        assert_eq!(random_hex::<16>().len(), 32);
    }
}
