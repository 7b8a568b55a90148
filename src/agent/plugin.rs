//! The uni-app push plugin's three verbs, for apps that were written for it: `initPushModule`, `usePlugin`
//! and `unbindPushToken`.
//!
//! Certificate names an app gives stand over those of the configuration and are kept. A token an app unbinds
//! stays unbound over restarts, until the next login.

use super::config::Certificates;
use super::control::{Refusal, Reply};
use super::state::{Daemon, RunError};
use crate::binding::Event;
use crate::vendor::Vendor;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use tracing::info;

impl Daemon {
    /// Certificate names by vendor, as they are in force.
    pub fn certificates(&self) -> BTreeMap<Vendor, String> {
        let mut names = self.config.certificates.names();
        names.extend(self.disk.store.plugin().clone());
        names
    }

    /// What the device can do: answers `initPushModule`.
    pub fn plugin_init(&self) -> Json {
        json!({
            "candidate": self.profile.channel, "channel": self.choice.active.map_or("none", |vendor| vendor.as_str()),
            "why_not": self.choice.why_not.iter().copied().collect::<BTreeMap<_, _>>(),
            "certificates": self.certificates().keys().collect::<Vec<_>>(),
        })
    }

    pub async fn use_plugin(&mut self, config: Certificates) -> Result<Result<Reply, Refusal>, RunError> {
        let names = config.names();
        for (vendor, name) in &names {
            if let Err(error) = vendor.check_certificate_name(name) {
                let message = format!("{}: {error}", vendor.certificate_key());
                return Ok(Err(Refusal::new(422, "bad_certificate_name", message)));
            }
        }
        if *self.disk.store.plugin() != names {
            self.disk.run(move |disk| disk.store.set_plugin(names)).await?;
            info!(event = "plugin.configured", "an app gave the certificates' names");
            self.choose_channel();
            self.bind_wanted().await?;
            self.linger();
            self.want_connection();
        }
        Ok(Ok(Reply::Json(self.plugin_init())))
    }

    pub async fn unbind_push_token(&mut self) -> Result<Result<Reply, Refusal>, RunError> {
        let Some(mut login) = self.disk.store.login().cloned() else {
            return Ok(Err(Refusal::new(409, "logged_out", "nobody is logged in; a logout has unbound the token")));
        };
        login.unbound = true;
        self.disk.run(move |disk| disk.store.set_login(Some(login))).await?;
        self.bind_wanted().await?;
        // Without a channel the connection is what delivers.
        self.want_connection();
        Ok(Ok(Reply::Json(json!({ "unbound": true }))))
    }

    pub async fn bind_wanted(&mut self) -> Result<(), RunError> {
        let wanted = self.wanted();
        self.bind_event(Event::Want(wanted)).await
    }
}
