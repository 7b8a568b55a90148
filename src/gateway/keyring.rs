//! The keys that sign tokens: one signs, older ones are good until all they have signed is over.

use crate::secret::{Secret, random_hex};
use serde::{Deserialize, Serialize};

/// A new key signs only so long after it was made, in seconds: by then every gateway knows it.
pub const ANNOUNCED_S: u64 = 60;
/// How often a gateway that shares its store looks for new keys, in seconds.
pub const LOOK_S: u64 = 20;

/// The key of before there were several: its tokens name none.
pub const FIRST: &str = "first";

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The `kid` of its tokens (RFC 7515, section 4.1.4).
    pub id: String,
    pub secret: Secret,
    /// From when on it signs, in seconds since the Unix epoch.
    pub from_s: u64,
    /// When the last token that it signed is over, once another one signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_s: Option<u64>,
}

/// What can be told of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub id: String,
    pub from_s: u64,
    pub until_s: Option<u64>,
    pub signs: bool,
}

/// Why a key stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("there is no such key")]
    Unknown,
    #[error("this key signs; make another one first, and wait until that one does")]
    Signs,
    #[error("a key was made a moment ago and does not sign yet; wait until it does")]
    JustMade,
}

/// All keys, the oldest first; there is always one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyring(Vec<Key>);

impl Keyring {
    /// Reads what [`Self::text`] wrote, or the one key of before there were several. `None`: neither.
    pub fn parse(text: &Secret) -> Option<Self> {
        let text = text.expose();
        if !text.starts_with('[') {
            let secret = (!text.is_empty()).then(|| Secret::new(text))?;
            return Some(Self(vec![Key { id: FIRST.to_owned(), secret, from_s: 0, until_s: None }]));
        }
        serde_json::from_str::<Vec<Key>>(text).ok().filter(|keys| !keys.is_empty()).map(Self)
    }

    /// For the store, which seals it.
    pub fn text(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// The key that signs now.
    pub fn signing(&self, now_s: u64) -> &Key {
        let signs = self.0.iter().rposition(|key| key.from_s <= now_s).unwrap_or(0);
        &self.0[signs]
    }

    /// The key of tokens that name this id.
    pub fn find(&self, id: &str, now_s: u64) -> Option<&Key> {
        self.0.iter().find(|key| key.id == id && key.until_s.is_none_or(|until| until > now_s))
    }

    /// Makes a key, which signs once every gateway has it. What older ones have signed is taken until it is over, `most_s`
    /// after they cease; those that are over already go.
    ///
    /// # Errors
    /// [`KeyError::JustMade`].
    pub fn rotate(&mut self, now_s: u64, most_s: u64) -> Result<(), KeyError> {
        if self.0.iter().any(|key| key.from_s > now_s) {
            return Err(KeyError::JustMade);
        }
        self.0.retain(|key| key.until_s.is_none_or(|until| until > now_s));
        let from_s = now_s + ANNOUNCED_S;
        for key in &mut self.0 {
            key.until_s.get_or_insert(from_s + most_s);
        }
        self.0.push(Key { id: random_hex::<4>(), secret: Secret::new(random_hex::<32>()), from_s, until_s: None });
        Ok(())
    }

    /// Takes a key out: whatever it signed is taken by nobody from now on.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn remove(&mut self, id: &str, now_s: u64) -> Result<(), KeyError> {
        let at = self.0.iter().position(|key| key.id == id).ok_or(KeyError::Unknown)?;
        if self.signing(now_s).id == id {
            return Err(KeyError::Signs);
        }
        self.0.remove(at);
        Ok(())
    }

    pub fn reports(&self, now_s: u64) -> Vec<Report> {
        let signs = &self.signing(now_s).id;
        let report = |key: &Key| Report {
            id: key.id.clone(),
            from_s: key.from_s,
            until_s: key.until_s,
            signs: key.id == *signs,
        };
        self.0.iter().map(report).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE_S: u64 = 1000;

    fn ids(keys: &Keyring) -> Vec<String> {
        keys.0.iter().map(|key| key.id.clone()).collect()
    }

    #[test]
    fn a_new_key_signs_once_all_know_it_and_the_old_one_is_good_until_its_tokens_are_over() {
        let mut keys = Keyring::parse(&Secret::new("the one of before")).expect("a key");
        keys.rotate(100, LIFE_S).expect("made");
        let new = ids(&keys)[1].clone();
        let signs = |keys: &Keyring, now_s| keys.signing(now_s).id.clone();
        assert_eq!((signs(&keys, 100), signs(&keys, 99 + ANNOUNCED_S)), (FIRST.to_owned(), FIRST.to_owned()));
        assert_eq!(signs(&keys, 100 + ANNOUNCED_S), new);
        let end = 100 + ANNOUNCED_S + LIFE_S;
        assert_eq!(keys.reports(500)[0].until_s, Some(end), "a date that can be read");
        assert!(
            keys.find(FIRST, end - 1).is_some() && keys.find(FIRST, end).is_none() && keys.find(&new, end).is_some()
        );
        assert_eq!(Keyring::parse(&Secret::new(keys.text())), Some(keys));
    }

    #[test]
    fn keys_are_not_made_faster_than_gateways_learn_of_them_and_old_ones_go_at_last() {
        let mut keys = Keyring::parse(&Secret::new("k")).expect("a key");
        keys.rotate(100, LIFE_S).expect("made");
        assert_eq!(keys.rotate(100 + ANNOUNCED_S - 1, LIFE_S), Err(KeyError::JustMade));
        keys.rotate(100 + ANNOUNCED_S, LIFE_S).expect("made");
        assert_eq!(keys.0.len(), 3);
        keys.rotate(100 + ANNOUNCED_S + LIFE_S, LIFE_S).expect("made");
        assert_eq!(keys.0.len(), 3, "the first one is over");
    }

    #[test]
    fn a_key_that_got_into_wrong_hands_is_taken_out_once_another_signs() {
        let mut keys = Keyring::parse(&Secret::new("k")).expect("a key");
        assert_eq!(keys.remove(FIRST, 0), Err(KeyError::Signs));
        keys.rotate(100, LIFE_S).expect("made");
        assert_eq!(keys.remove(FIRST, 100), Err(KeyError::Signs));
        assert_eq!(keys.remove("other", 100 + ANNOUNCED_S), Err(KeyError::Unknown));
        keys.remove(FIRST, 100 + ANNOUNCED_S).expect("out");
        assert_eq!(keys.find(FIRST, 200), None);
    }

    #[test]
    fn a_text_without_a_key_is_none() {
        for text in ["", "[]", "[{}]", "[{\"id\":1}]"] {
            assert_eq!(Keyring::parse(&Secret::new(text)), None, "{text}");
        }
    }
}
