//! An enrolment beside the loop: the exchange under way, and the login that follows it.

use super::config::{Config, Server};
use super::control::{Refusal, Reply};
use super::disk::blocking;
use super::enrol::{Answer, Device, Enrolling, Granted, Run, exchange, target};
use super::reload::Reload;
use super::shell::Shell;
use crate::secret::Secret;
use crate::session::{self, Event, Patience, RequestId};
use crate::settings::SettingsError;
use serde_json::json;
use std::path::Path;
use tokio::sync::oneshot;
use tracing::info;

/// The login that a code was exchanged for, and who waits for it.
pub(super) struct FirstLogin {
    user: String,
    token: Secret,
    server: String,
    notes: Vec<String>,
    patience: Patience,
    reply: Answer,
}

impl FirstLogin {
    /// What the enrolment says is on the disk, and `server` is what is in force.
    pub fn new(granted: Granted, (reply, patience): (Answer, Patience), server: &Server, directory: &Path) -> Self {
        let Granted { user, token, enrolled } = granted;
        let notes = enrolled.differences(server, directory);
        info!(event = "enrolment.done", server = enrolled.url, app = enrolled.app, "a code was exchanged for a login");
        for note in &notes {
            info!(
                event = "enrolment.differs",
                note, "the configuration says otherwise than the enrolment code, and counts"
            );
        }
        Self { user, token, server: enrolled.url, notes, patience, reply }
    }
}

/// Puts what a code brought on the disk.
///
/// # Errors
/// [`Refusal`]: the disk takes nothing. The same code brings it again.
pub(super) async fn save(granted: Granted, directory: &Path) -> Result<Granted, Refusal> {
    let directory = directory.to_owned();
    let (saved, granted) = blocking(move || (granted.enrolled.save(&directory), granted)).await;
    let why = |error| {
        let message =
            format!("the state directory cannot be written ({error}); try again, the code stays good for this device");
        Refusal::new(507, "not_stored", message)
    };
    saved.map(|()| granted).map_err(why)
}

/// Answers whoever asked.
pub(super) fn told(reply: Answer, outcome: Result<Reply, Refusal>) {
    if let Err(refusal) = &outcome {
        info!(event = "enrolment.refused", code = refusal.code, why = refusal.message, "a code brought no login");
    }
    // A peer that went away no longer wants its answer.
    drop(reply.send(outcome));
}

impl Shell {
    pub async fn enrol(&mut self, code: &Secret, patience: Patience, reply: Answer) {
        match self.exchange(code) {
            Ok(run) => self.enrolling = Some(Enrolling { run, reply, patience }),
            Err(refusal) => told(reply, Err(refusal)),
        }
    }

    fn exchange(&mut self, code: &Secret) -> Result<Run, Refusal> {
        if self.enrolling.is_some() {
            return Err(Refusal::new(409, "busy", "another enrolment is under way"));
        }
        self.nobody_is_logged_in()?;
        let (code, ready) = target(code, &self.config)?;
        self.trust.floor.set(self.session.earliest_ms(super::shell::now()));
        let device = Device {
            id: self.disk.in_memory().store.device_id().to_owned(),
            config: self.config.clone(),
            names: self.names.clone(),
            floor: self.trust.floor.clone(),
        };
        Ok(Box::pin(exchange(code, ready, device)))
    }

    fn nobody_is_logged_in(&self) -> Result<(), Refusal> {
        match &self.session.saved().login {
            Some(login) => {
                let message = format!("{} is logged in on this device; log out first: impush logout", login.user);
                Err(Refusal::new(409, "logged_in", message))
            }
            None => Ok(()),
        }
    }

    pub async fn on_exchanged(
        &mut self,
        id: RequestId,
        outcome: Result<Granted, Refusal>,
        reload: &Reload<impl Fn() -> Result<Config, SettingsError>, impl AsyncFnMut()>,
    ) {
        let Some(Enrolling { reply, patience, .. }) = self.enrolling.take() else { return };
        let directory = self.config.state_directory();
        let saved = async {
            let granted = outcome?;
            // Somebody may have come first.
            self.nobody_is_logged_in()?;
            save(granted, &directory).await
        };
        let granted = match saved.await {
            Ok(granted) => granted,
            Err(refusal) => return told(reply, Err(refusal)),
        };
        let Some(reloaded) = reload.read(&self.config, self.trust.floor.clone()).await else {
            let message = "what the code brought is stored, but the configuration is not good (see the log); mend it, \
                           and enrol again with the same code";
            return told(reply, Err(Refusal::new(500, "config_refused", message)));
        };
        self.on_reloaded(reloaded).await;
        let login = FirstLogin::new(granted, (reply, patience), &self.config.server, &directory);
        self.log_in_first(id, login).await;
    }

    /// As any login; the answer says more.
    pub async fn log_in_first(&mut self, id: RequestId, login: FirstLogin) {
        let FirstLogin { user, token, server, notes, patience, reply } = login;
        let (inner, answer) = oneshot::channel();
        tokio::spawn(async move {
            let stopping = |_| Err(Refusal::new(503, "stopping", "the agent is stopping"));
            let answer = match answer.await.unwrap_or_else(stopping) {
                Ok(Reply::Json(mut json)) => {
                    (json["server"], json["notes"]) = (json!(server), json!(notes));
                    Ok(Reply::Json(json))
                }
                other => other,
            };
            told(reply, answer);
        });
        self.replies.insert(id, inner);
        let ask = session::Ask::Login { user, password: token, patience };
        self.feed(Event::Request { id, ask }).await;
    }
}
