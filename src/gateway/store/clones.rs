//! Two machines that greet as one device, because one of them was copied from the other.

/// A machine that was heard this long ago, in milliseconds, has not been replaced by another.
const RECENT_MS: u64 = 600_000;
/// One turn is a state directory that was moved; so many are two machines.
const TURNS: i64 = 2;
/// Two machines have each greeted within this time, in milliseconds: one that was pushed aside is back
/// after half an hour at most.
const ALONE_MS: u64 = 3_600_000;

/// What the devices table knows of the machine that greets as a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Machine {
    pub instance: String,
    /// How often another one has taken its place.
    pub turns: i64,
    pub turned_ms: u64,
}

impl Machine {
    /// A machine greets as the device, which was online or not and last seen at that time. Returns what is known from now on, and
    /// whether it has just shown that there are two.
    pub fn greeted(&self, instance: Option<&str>, (online, seen_ms): (bool, u64), now_ms: u64) -> (Self, bool) {
        let Some(instance) = instance.filter(|instance| !instance.is_empty()) else { return (self.clone(), false) };
        let (turns, turned_ms) = if self.instance == instance {
            let alone = self.turned_ms + ALONE_MS <= now_ms;
            (if alone { 0 } else { self.turns }, self.turned_ms)
        } else {
            let recent = !self.instance.is_empty() && (online || seen_ms + RECENT_MS >= now_ms);
            (if recent { TURNS.min(self.turns + 1) } else { 0 }, now_ms)
        };
        (Self { instance: instance.to_owned(), turns, turned_ms }, turns == TURNS && self.turns < TURNS)
    }
}

/// Whether a row of the devices table is one of two machines.
pub(super) const fn is_cloned(turns: i64) -> bool {
    turns >= TURNS
}

#[cfg(test)]
mod tests {
    use crate::delivery::Rules;
    use crate::gateway::store::{Store, Vault, Welcome};
    use crate::protocol::{Address, Hello};

    const MINUTE_MS: u64 = 60_000;
    const RULES: Rules = Rules::FOR_TESTS;

    struct Stage {
        store: Store,
        _home: tempfile::TempDir,
    }

    impl Stage {
        fn new() -> Self {
            let home = tempfile::tempdir().expect("a directory");
            let vault = Vault::open(&home.path().join("key"), true).expect("a key");
            Self { store: Store::open(&home.path().join("db"), vault).expect("a store"), _home: home }
        }

        fn phone() -> Address {
            Address::new("o#a", "ann", "phone").expect("an address")
        }

        /// A connection of that machine. Whether it shows two; and whether the listing says so then.
        async fn greets(&self, instance: Option<&str>, minute: u64) -> (bool, bool) {
            let hello = serde_json::json!({
                "nonce": format!("{minute}"), "agent": "t", "channel": "none", "platform": "android", "login": "l",
                "instance": instance,
            });
            let hello: Hello = serde_json::from_value(hello).expect("a hello");
            let welcome = self.store.hello(Self::phone(), hello, RULES, minute * MINUTE_MS).await.expect("heard");
            let Welcome::In { cloned, .. } = welcome else { panic!("kicked") };
            let listed = self.store.devices("o#a".into(), "ann".into()).await.expect("listed");
            (cloned, listed[0].cloned)
        }

        async fn leaves(&self, connected: u64, minute: u64) {
            let left = self
                .store
                .went_offline(Self::phone(), connected.to_string().as_str().into(), RULES, minute * MINUTE_MS)
                .await;
            assert!(left.expect("noted"));
        }
    }

    #[tokio::test]
    async fn two_machines_that_take_each_others_place_are_named_once() {
        let stage = Stage::new();
        assert_eq!(stage.greets(Some("a"), 1).await, (false, false));
        // However long the first one was connected.
        assert_eq!(stage.greets(Some("b"), 300).await, (false, false));
        assert_eq!(stage.greets(Some("a"), 302).await, (true, true));
        assert_eq!(stage.greets(Some("b"), 304).await, (false, true));
        assert_eq!(stage.greets(Some("b"), 320).await, (false, true));
        assert_eq!(stage.greets(Some("b"), 365).await, (false, false), "it was alone for an hour");
    }

    #[tokio::test]
    async fn a_state_directory_that_was_moved_to_another_machine_is_no_clone() {
        let stage = Stage::new();
        stage.greets(Some("a"), 1).await;
        stage.leaves(1, 2).await;
        assert_eq!(stage.greets(Some("b"), 3).await, (false, false));
        stage.leaves(3, 4).await;
        // Back again, when the other was not heard for long.
        assert_eq!(stage.greets(Some("a"), 15).await, (false, false));
        assert_eq!(stage.greets(Some("a"), 16).await, (false, false));
    }

    #[tokio::test]
    async fn an_agent_that_does_not_name_its_machine_is_no_clone() {
        let stage = Stage::new();
        for minute in 1..5 {
            assert_eq!(stage.greets(None, minute).await, (false, false));
        }
        assert_eq!(stage.greets(Some("a"), 5).await, (false, false));
        assert_eq!(stage.greets(None, 6).await, (false, false));
    }
}
