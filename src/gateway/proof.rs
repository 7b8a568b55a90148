//! What makes a receipt believable: a path and a text that nobody else could have made.

use crate::secret::hex;
use ring::hmac;

/// Makes and checks what cannot be guessed: the path of a certificate's receipts and the text that
/// comes back in each.
#[derive(Debug, Clone)]
pub struct Proof {
    key: hmac::Key,
}

impl Proof {
    pub fn new(secret: &crate::secret::Secret) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes()) }
    }

    /// The last part of the path to which a certificate's receipts are sent: 24 characters.
    pub fn path(&self, app: &str, name: &str) -> String {
        self.mac(&format!("path\n{app}\n{name}"), 12)
    }

    /// Comes back with each receipt of a message: at most 50 bytes, the least of the vendors' limits.
    pub fn param(&self, message: &str) -> String {
        format!("{message}.{}", self.mac(&format!("message\n{message}"), 5))
    }

    /// The message a text names, if it is one of ours.
    pub fn message<'a>(&self, param: &'a str) -> Option<&'a str> {
        let (message, _) = param.rsplit_once('.')?;
        (self.param(message) == param).then_some(message)
    }

    fn mac(&self, text: &str, bytes: usize) -> String {
        hex(&hmac::sign(&self.key, text.as_bytes()).as_ref()[..bytes])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn a_param_is_short_and_cannot_be_made_by_others() {
        let proof = Proof::new(&Secret::new("k"));
        let param = proof.param("0123456789abcdef0123");
        assert!(param.len() <= 50);
        assert_eq!(proof.message(&param), Some("0123456789abcdef0123"));
        assert_eq!(proof.message(&param.replace('3', "4")), None);
        assert_eq!(Proof::new(&Secret::new("other")).message(&param), None);
        assert_ne!(proof.path("a", "b"), proof.path("a", "c"));
    }
}
