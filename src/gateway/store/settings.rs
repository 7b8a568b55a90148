//! What apps and users have set: one JSON value under each key.

use super::edition;
use super::sql::{OptionalExtension as _, Transaction, params};
use super::{Store, StoreError, turn_of};
use crate::delivery::content::Profile;
use crate::delivery::policy::AppRules;
use crate::delivery::silence::Silence;
use crate::protocol::{Address, Message};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;

/// What a value is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The app's rules; of no user.
    Rules,
    /// An app's template, by name; of no user.
    Template(String),
    /// A user's nickname, style, language and template.
    Profile,
    /// A user's silence for everything.
    Silence,
    /// A user's silence for one conversation: with a user, or in a group.
    SilenceWith(String),
    SilenceIn(String),
}

impl Key {
    fn text(&self) -> String {
        match self {
            Self::Rules => "rules".to_owned(),
            Self::Template(name) => format!("template:{name}"),
            Self::Profile => "profile".to_owned(),
            Self::Silence => "silence".to_owned(),
            Self::SilenceWith(user) => format!("silence:user:{user}"),
            Self::SilenceIn(group) => format!("silence:group:{group}"),
        }
    }
}

/// A value nobody set is the default; one that cannot be read is too, and is said.
pub(super) fn get<T: DeserializeOwned + Default>(
    t: &Transaction<'_>,
    app: &str,
    user: &str,
    key: &Key,
) -> Result<T, StoreError> {
    let text: Option<String> = t
        .prepare_cached("SELECT value FROM settings WHERE app = ?1 AND user = ?2 AND key = ?3")?
        .query_row([app, user, &key.text()], |r| r.get(0))
        .optional()?;
    Ok(text.map(|text| parsed(app, user, &key.text(), &text)).unwrap_or_default())
}

fn parsed<T: DeserializeOwned + Default>(app: &str, user: &str, key: &str, text: &str) -> T {
    serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::error!(event = "setting.unreadable", app, user, key, %error, "a setting cannot be read; its default is used");
        T::default()
    })
}

/// What single users have set that one message needs.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub receiver: Profile,
    pub sender: Profile,
    /// The receiver's, for everything, and for the conversation the message is of.
    pub app_wide: Silence,
    pub conversation: Silence,
}

impl Wishes {
    fn add(&mut self, of: (&Address, &Message), (whose, key, value): (String, String, &str)) {
        let (Address { app, user, .. }, Message { from, .. }) = of;
        match key.as_str() {
            "profile" => {
                let profile: Profile = parsed(app, &whose, &key, value);
                if whose.as_str() == from.as_str() {
                    self.sender = profile.clone();
                }
                if whose.as_str() == user.as_str() {
                    self.receiver = profile;
                }
            }
            "silence" => self.app_wide = parsed(app, user, &key, value),
            _ => self.conversation = parsed(app, user, &key, value),
        }
    }
}

/// Whose wishes a message needs: its app and receiver, its sender, and the conversation it is of.
type Concerned<'a> = (&'a str, &'a str, &'a str, Option<&'a str>);

fn concerned<'a>((address, message): (&'a Address, &'a Message)) -> Concerned<'a> {
    (&address.app, &address.user, &message.from, message.group.as_deref())
}

/// The wishes that these messages need; where nobody has any there are none.
#[derive(Debug, Default)]
pub(super) struct AllWishes<'a>(HashMap<Concerned<'a>, Wishes>);

impl<'a> AllWishes<'a> {
    /// # Errors
    /// [`StoreError`].
    pub fn load(
        t: &Transaction<'_>,
        messages: impl Iterator<Item = (&'a Address, &'a Message)>,
    ) -> Result<Self, StoreError> {
        const ONE: &str = "SELECT user, key, value, ?5 FROM settings WHERE app = ?1 AND user = ?2 AND key IN ('profile', 'silence', ?4)
             UNION ALL SELECT user, key, value, ?5 FROM settings WHERE app = ?1 AND user = ?3 AND key = 'profile'";
        macro_rules! users {
            () => {
                "unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS text[]), CAST(?4 AS text[]),
                 CAST(?5 AS bigint[])) AS u (app, user, sender, conversation, place)"
            };
        }
        const ALL: &str = concat!(
            "SELECT s.user, s.key, s.value, u.place FROM ",
            users!(),
            " JOIN settings s ON s.app = u.app AND s.user = u.user AND s.key = ANY (ARRAY['profile', 'silence', u.conversation])
             UNION ALL SELECT s.user, s.key, s.value, u.place FROM ",
            users!(),
            // Joined otherwise, by a plan made on an empty table everybody's would be walked through.
            " CROSS JOIN LATERAL (SELECT * FROM settings s WHERE s.app = u.app AND s.user = u.sender AND s.key = 'profile' LIMIT 1) AS s"
        );
        let of: HashMap<Concerned<'a>, _> = messages.map(|of| (concerned(of), of)).collect();
        let of: Vec<_> = of.into_iter().collect();
        let conversation = |message: &Message| match &message.group {
            Some(group) => Key::SilenceIn(group.clone()).text(),
            None => Key::SilenceWith(message.from.clone()).text(),
        };
        let conversations: Vec<String> = of.iter().map(|(_, (_, message))| conversation(message)).collect();
        let rows = of
            .iter()
            .zip(&conversations)
            .map(|(((app, user, sender, _), _), conversation)| [*app, user, sender, conversation.as_str()]);
        let found: Vec<(usize, (String, String, String))> =
            t.for_rows((ONE, ALL), rows, |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
        let mut wishes: HashMap<Concerned<'a>, Wishes> = HashMap::new();
        for (place, (whose, key, value)) in found {
            let (concerned, of) = of[place];
            wishes.entry(concerned).or_default().add(of, (whose, key, &value));
        }
        Ok(Self(wishes))
    }

    pub fn of<'s>(&'s self, address: &'s Address, message: &'s Message) -> Option<&'s Wishes> {
        self.0.get(&concerned((address, message)))
    }
}

/// What single users set is not remembered.
fn forget_if_app_wide(t: &Transaction<'_>, user: &str) -> Result<(), StoreError> {
    if user.is_empty() { edition::next(t) } else { Ok(()) }
}

impl Store {
    /// # Errors
    /// [`StoreError`].
    pub async fn setting<T: DeserializeOwned + Default + Send + 'static>(
        &self,
        app: String,
        user: String,
        key: Key,
    ) -> Result<T, StoreError> {
        self.run_in(turn_of(&app), move |t| get(t, &app, &user, &key)).await
    }

    /// # Errors
    /// [`StoreError`].
    pub async fn rules(&self, app: String) -> Result<AppRules, StoreError> {
        self.setting(app, String::new(), Key::Rules).await
    }

    /// # Errors
    /// [`StoreError`].
    pub async fn set<T: Serialize>(&self, app: String, user: String, key: Key, value: &T) -> Result<(), StoreError> {
        let value = serde_json::to_string(value).map_err(|e| StoreError::Corrupt(e.to_string()))?;
        self.run_in(turn_of(&app), move |t| {
            t.execute(
                "INSERT INTO settings (app, user, key, value) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (app, user, key) DO UPDATE SET value = excluded.value",
                params![app, user, key.text(), value],
            )?;
            forget_if_app_wide(t, &user)
        })
        .await
    }

    /// Returns whether there was one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn unset(&self, app: String, user: String, key: Key) -> Result<bool, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            let sql = "DELETE FROM settings WHERE app = ?1 AND user = ?2 AND key = ?3";
            let gone = t.execute(sql, [&app, &user, &key.text()])?;
            forget_if_app_wide(t, &user)?;
            Ok(gone > 0)
        })
        .await
    }
}
