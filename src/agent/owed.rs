//! Logouts made without a network: told to the gateway on a connection of their own, before the next login's.

use super::clock;
use super::state::{Daemon, Purpose, RunError};
use crate::keepalive::{Cause, Recovery};
use crate::mqtt::MqttError;
use crate::protocol::BindResult;
use std::time::Duration;
use tracing::{info, warn};

/// How long an old logout waits for the gateway's answer before its connection is given up.
const OWED_WAIT: Duration = Duration::from_secs(15);

impl Daemon {
    /// The user whose old logout this connection is for.
    pub fn owed_user(&self) -> Option<String> {
        match self.online.as_ref().map(|online| &online.purpose) {
            Some(Purpose::Owed { user }) => Some(user.clone()),
            _ => None,
        }
    }

    /// The connection stands: says the old logout.
    pub async fn pay_owed(&mut self) -> Result<(), RunError> {
        self.owed_until = Some(clock::now() + OWED_WAIT);
        if let Some(unbind) = self.binding.pay() {
            self.save_ledger().await?;
            self.send(&unbind).await;
        }
        Ok(())
    }

    /// The gateway answered a request on this connection. Only the answer to this very one pays it.
    pub async fn owed_answered(&mut self, user: &str, sequence: u64, result: BindResult) -> Result<(), RunError> {
        if sequence != self.binding.ledger().sequence || result == BindResult::Later {
            return Ok(());
        }
        info!(event = "logout.paid", "a logout made without a network has reached the gateway");
        self.owed_settled(user).await
    }

    /// The old login is over; on with what comes next.
    pub async fn owed_settled(&mut self, user: &str) -> Result<(), RunError> {
        self.settle(user).await?;
        self.part(Cause::LoggedOut, true).await;
        self.want_connection();
        Ok(())
    }

    /// An attempt failed. A logout that is owed cannot be paid with credentials the server refuses:
    /// the gateway has ended that login itself.
    pub async fn on_refused(&mut self, error: MqttError) -> Result<(), RunError> {
        let hopeless = error.cause.recovery() == Recovery::Stop;
        if hopeless && let Some(owed) = self.binding.owed() {
            let user = owed.user.clone();
            warn!(
                event = "logout.unpayable",
                cause = error.cause.as_str(),
                "the gateway refuses an old login; its logout needs no telling"
            );
            self.settle(&user).await?;
            self.want_connection();
            return Ok(());
        }
        self.on_down(error);
        Ok(())
    }

    async fn settle(&mut self, user: &str) -> Result<(), RunError> {
        self.binding.settle(user);
        self.save_ledger().await
    }
}
