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

/// # Errors
/// [`StoreError`].
pub(super) fn wishes(t: &Transaction<'_>, address: &Address, message: &Message) -> Result<Wishes, StoreError> {
    let key = match &message.group {
        Some(group) => Key::SilenceIn(group.clone()),
        None => Key::SilenceWith(message.from.clone()),
    };
    let Address { app, user, .. } = address;
    let (conversation, sender) = (key.text(), &message.from);
    let found: Vec<(String, String, String)> = t
        .prepare_cached(
            "SELECT user, key, value FROM settings
             WHERE app = ?1 AND user = ?2 AND key IN ('profile', 'silence', ?3)
             UNION ALL SELECT user, key, value FROM settings WHERE app = ?1 AND user = ?4 AND key = 'profile'",
        )?
        .query_map(params![app, user, &conversation, sender], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let mut wishes = Wishes::default();
    for (of, key, value) in found {
        match key.as_str() {
            "profile" => {
                let profile: Profile = parsed(app, &of, &key, &value);
                if of.as_str() == sender.as_str() {
                    wishes.sender = profile.clone();
                }
                if of.as_str() == user.as_str() {
                    wishes.receiver = profile;
                }
            }
            "silence" => wishes.app_wide = parsed(app, user, &key, &value),
            _ => wishes.conversation = parsed(app, user, &key, &value),
        }
    }
    Ok(wishes)
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
