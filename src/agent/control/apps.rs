//! Local apps that are added, listed and removed over the control socket.

use super::peer::{Peer, Who, app_name};
use super::{Ask, Refusal, Reply};
use crate::secret::{hex, random_hex};
use crate::session::{self, LocalApp, Wake};
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// Origins of one app.
const MOST_ORIGINS: usize = 16;
/// Longest origin, in bytes: a host name has at most 253.
const LONGEST_ORIGIN: usize = 300;

#[derive(Deserialize)]
pub(super) struct NewApp {
    name: String,
    #[serde(default)]
    origins: Vec<String>,
    #[serde(default)]
    wake: Option<String>,
}

impl Peer {
    /// Answers the app's secret, which is never told again. One that is there is replaced.
    pub(super) async fn add_app(&self, new: NewApp, uid: u32) -> Result<Json, Refusal> {
        let name = app_name(Some(&new.name), &Who::User(uid))?;
        self.may_change(&name, uid).await?;
        if new.origins.len() > MOST_ORIGINS {
            return Err(Refusal::new(422, "bad_origin", format!("at most {MOST_ORIGINS} origins")));
        }
        let origins = new.origins.iter().map(|text| origin(text)).collect::<Result<_, _>>()?;
        let wake = new.wake.map(|text| text.parse::<Wake>()).transpose();
        let wake = wake.map_err(|error| Refusal::new(422, "bad_wake", error.to_string()))?;
        let secret = random_hex::<32>();
        let app = LocalApp { secret_sha256: Some(hashed(&secret)), origins, wake, uid };
        self.ask(Ask::Session(session::Ask::AddApp { name: name.clone(), app })).await?;
        Ok(json!({ "name": name, "secret": secret }))
    }

    pub(super) async fn remove_app(&self, path: &str, uid: u32) -> Result<Reply, Refusal> {
        let name = path.trim_start_matches("/v1/apps/").to_owned();
        self.may_change(&name, uid).await?;
        self.ask(Ask::Session(session::Ask::RemoveApp { name })).await
    }

    /// Root, the agent's own user, and whoever added it.
    async fn may_change(&self, name: &str, uid: u32) -> Result<(), Refusal> {
        let Reply::Json(apps) = self.ask(Ask::Apps).await? else { return Ok(()) };
        let added_by =
            apps.as_array().into_iter().flatten().find(|app| app["name"] == name).map(|app| app["uid"].clone());
        let own = rustix::process::geteuid().as_raw();
        if added_by.is_none_or(|by| by == uid) || uid == 0 || uid == own {
            return Ok(());
        }
        Err(Refusal::new(403, "not_permitted", format!("another user added the app `{name}`")))
    }
}

/// As it is compared with what a browser sends (RFC 6454, section 6.2).
fn origin(text: &str) -> Result<String, Refusal> {
    let text = text.to_ascii_lowercase();
    let web = ["http://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme)).is_some_and(|host| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
    });
    if (web || text == "null") && text.len() <= LONGEST_ORIGIN {
        return Ok(text);
    }
    let why = format!(
        "`{text}` is no origin; write https://HOST or https://HOST:PORT without a path, or null for a web view's own page"
    );
    Err(Refusal::new(422, "bad_origin", why))
}

/// A secret of 256 random bits needs no slow digest.
pub(super) fn hashed(secret: &str) -> String {
    hex(digest(&SHA256, secret.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_no_path_and_null_is_a_web_views() {
        for (good, kept) in [
            ("https://App.example:8443", "https://app.example:8443"),
            ("null", "null"),
            ("http://[::1]:80", "http://[::1]:80"),
        ] {
            assert_eq!(origin(good).expect("taken"), kept);
        }
        for bad in ["*", "https://a/", "app.example", "https://", "file://", "https://a b"] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
