//! Login, logout, kick and tokens: what each changes on disk, at the gateway and in the choice.

use super::clock;
use super::control::{Refusal, Reply};
use super::state::{Daemon, PendingLogout, Purpose, RunError};
use super::status::State;
use crate::binding::{Event, Tombstone, Wanted};
use crate::keepalive::Cause;
use crate::mqtt::MqttError;
use crate::protocol::{Address, KickCode};
use crate::secret::{Secret, random_hex};
use crate::store::{Inbox, Login};
use crate::vendor::Vendor;
use serde_json::json;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::{info, warn};

/// How long a logout waits for the gateway before it is owed instead.
const LOGOUT_WAIT: Duration = Duration::from_secs(5);

impl Daemon {
    pub async fn login(&mut self, user: String, password: Secret) -> Result<Result<Reply, Refusal>, RunError> {
        if self.logout.is_some() {
            return Ok(Err(Refusal::new(409, "logging_out", "a logout is under way; log in when it has ended")));
        }
        if let Err(error) = Address::new(&self.ready.app, &user, self.disk.store.device_id()) {
            return Ok(Err(Refusal::new(400, "bad_user", error.to_string())));
        }
        if password.is_empty() || password.expose().len() > 8192 {
            return Ok(Err(Refusal::new(400, "bad_password", "the password is empty or longer than 8192 bytes")));
        }
        if let Some(current) = self.disk.store.login()
            && current.user != user
        {
            let message = format!("{} is logged in; log out first", current.user);
            return Ok(Err(Refusal::new(409, "logged_in", message)));
        }
        // Logging in again is the opposite of the logout still owed in this name.
        self.binding.settle(&user);
        self.save_ledger().await?;
        let known = self.disk.store.login().filter(|login| login.password == password && self.state != State::Stopped);
        let renewed = known.is_none();
        let id = known.map_or_else(random_hex::<8>, |login| login.id.clone());
        let login = Login { user, password, id, unbound: false };
        if self.disk.store.login() != Some(&login) {
            let stored = login.clone();
            let app = self.ready.app.clone();
            self.disk
                .run(move |disk| -> Result<(), RunError> {
                    disk.store.set_login(Some(stored))?;
                    Ok(disk.open_inbox(&app)?)
                })
                .await?;
        }
        if renewed {
            info!(event = "login.stored", "login stored");
            self.part(Cause::Requested, false).await;
            self.connecting = None;
            self.set_state(State::Connecting);
        }
        self.bind_wanted().await?;
        self.want_connection();
        Ok(Ok(Reply::Json(json!({ "user": login.user, "device_id": self.disk.store.device_id() }))))
    }

    pub async fn start_logout(
        &mut self,
        keep_binding: bool,
        reply: oneshot::Sender<Result<Reply, Refusal>>,
    ) -> Result<(), RunError> {
        let refuse =
            |reply: oneshot::Sender<_>, code, message: &str| drop(reply.send(Err(Refusal::new(409, code, message))));
        if self.disk.store.login().is_none() {
            refuse(reply, "logged_out", "nobody is logged in");
            return Ok(());
        }
        if self.logout.is_some() {
            refuse(reply, "logging_out", "a logout is under way");
            return Ok(());
        }
        if keep_binding {
            self.end_login(Cause::LoggedOut).await?;
            drop(reply.send(Ok(Reply::Json(json!({ "unbound": false, "kept": true })))));
            self.want_connection();
            return Ok(());
        }
        self.logout = Some(PendingLogout { deadline: clock::now() + LOGOUT_WAIT, reply });
        let connected = self.online.as_ref().is_some_and(|online| online.purpose == Purpose::Login);
        if connected { self.bind_event(Event::Unbind { logout: true }).await } else { self.finish_logout(false).await }
    }

    /// The gateway confirmed the unbinding, or the time for it is up.
    pub async fn finish_logout(&mut self, told: bool) -> Result<(), RunError> {
        let Some(pending) = self.logout.take() else { return Ok(()) };
        if !told && let Some(login) = self.disk.store.login().cloned() {
            warn!(
                event = "logout.owed",
                "the gateway could not be told of this logout; it will be, before any other login"
            );
            self.binding.owe(Tombstone { user: login.user, password: login.password });
            self.save_ledger().await?;
        }
        self.end_login(Cause::LoggedOut).await?;
        drop(pending.reply.send(Ok(Reply::Json(json!({ "unbound": told, "owed": !told })))));
        // What is owed is paid as soon as there is a network.
        self.want_connection();
        Ok(())
    }

    pub async fn on_unbound(&mut self) -> Result<(), RunError> {
        info!(event = "binding.removed", "the gateway has forgotten this device's token");
        self.finish_logout(true).await
    }

    pub async fn on_kick(&mut self, code: KickCode, replaced_by: Option<String>) -> Result<(), RunError> {
        let number = u16::from(code);
        warn!(event = "login.kicked", code = number, replaced_by, "the gateway ended this login");
        self.bind_event(Event::Kicked).await?;
        self.end_login(Cause::Kicked).await?;
        self.cause = Some(MqttError::new(
            Cause::Kicked,
            match replaced_by {
                Some(device) => format!("code {number}, replaced by {device}"),
                None => format!("code {number}"),
            },
        ));
        // A logout of somebody else may still be owed.
        self.want_connection();
        Ok(())
    }

    async fn end_login(&mut self, cause: Cause) -> Result<(), RunError> {
        self.disk
            .run(|disk| -> Result<(), RunError> {
                let closed = disk.inbox.take().map_or(Ok(()), Inbox::close_and_unlink);
                disk.store.set_login(None)?;
                Ok(closed?)
            })
            .await?;
        self.part(cause, true).await;
        self.connecting = None;
        self.next_attempt = None;
        drop(self.binding.on_event(clock::now(), Event::Want(None)));
        self.set_state(State::LoggedOut);
        info!(event = "login.ended", cause = cause.as_str(), "logged out");
        Ok(())
    }

    pub async fn set_token(
        &mut self,
        vendor: Vendor,
        token: Option<Secret>,
    ) -> Result<Result<Reply, Refusal>, RunError> {
        if let Some(token) = &token
            && let Err(error) = vendor.check_token(token.expose())
        {
            self.count_refused("bad_token", &error);
            return Ok(Err(Refusal::new(422, "bad_token", error.to_string())));
        }
        if self.disk.store.tokens().get(&vendor) != token.as_ref() {
            let stored = token.clone();
            // On disk before it is used: a token that is bound and then forgotten cannot be unbound.
            self.disk.run(move |disk| disk.store.set_token(vendor, stored)).await?;
            let fingerprint = token.as_ref().map(Secret::fingerprint);
            info!(event = "token.stored", vendor = vendor.as_str(), token = fingerprint, "token stored");
            self.choose_channel();
            self.bind_wanted().await?;
            self.linger();
            if self.state == State::Resting {
                self.want_connection();
            }
        }
        let active = self.choice.active == Some(vendor);
        let why = self.choice.why_not.iter().find(|(v, _)| *v == vendor).map(|(_, why)| why.to_string());
        Ok(Ok(Reply::Json(json!({ "stored": token.is_some(), "active": active, "why_not": why }))))
    }

    /// The binding that should exist: only with a login.
    pub fn wanted(&self) -> Option<Wanted> {
        if self.disk.store.login()?.unbound {
            return None;
        }
        let vendor = self.choice.active?;
        Some(Wanted {
            vendor,
            notifier: self.certificates().remove(&vendor)?,
            token: self.disk.store.tokens().get(&vendor)?.clone(),
        })
    }
}
