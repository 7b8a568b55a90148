//! The name of one agent among several on a device: what its unit, configuration, state and socket are called after.

use std::path::PathBuf;
use std::str::FromStr;

/// Longest name, in bytes: the socket's path must stay below 108 (`unix(7)`).
const LONGEST: usize = 32;

/// Empty for the plain agent, which is called `impush`; an agent named `work` is called `impush@work`, as its unit is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentName(String);

/// It would not be one word in a unit's name, a path and an init script.
#[derive(Debug, thiserror::Error)]
#[error("a name is 1 to {LONGEST} of the characters a-z 0-9 . _ - and begins with a letter or a digit")]
pub struct AgentNameError;

impl FromStr for AgentName {
    type Err = AgentNameError;

    fn from_str(name: &str) -> Result<Self, AgentNameError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = name.bytes().all(|b| plain(b) || b"._-".contains(&b)) && name.bytes().next().is_none_or(plain);
        (good && name.len() <= LONGEST).then(|| Self(name.to_owned())).ok_or(AgentNameError)
    }
}

impl AgentName {
    pub const fn is_plain(&self) -> bool {
        self.0.is_empty()
    }

    /// `impush` or `impush@NAME`: the unit, and the last part of the directories for state and socket.
    pub fn unit(&self) -> String {
        if self.is_plain() { "impush".to_owned() } else { format!("impush@{}", self.0) }
    }

    /// Where the packages put its configuration.
    pub fn file(&self) -> PathBuf {
        PathBuf::from(format!("/etc/impush/{}.toml", self.unit()))
    }

    /// Where the packages put its control socket.
    pub fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/run/{}/control.sock", self.unit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_word_in_paths_and_units_and_an_empty_one_is_the_plain_agent() {
        for name in ["", "work", "im-2", "0", "a.b_c"] {
            assert!(name.parse::<AgentName>().is_ok(), "{name}");
        }
        for name in ["..", ".a", "-a", "a/b", "Work", "a b", "a@b", "ä", &"a".repeat(33)] {
            assert!(name.parse::<AgentName>().is_err(), "{name}");
        }
        let (plain, work) = (AgentName::default(), "work".parse::<AgentName>().expect("a name"));
        assert_eq!(plain.file(), PathBuf::from("/etc/impush/impush.toml"));
        assert_eq!(work.file(), PathBuf::from("/etc/impush/impush@work.toml"));
        assert_eq!(work.socket(), PathBuf::from("/run/impush@work/control.sock"));
    }
}
