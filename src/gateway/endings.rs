//! Logins that end while devices are connected: who is told, and whose connection is cut.

use super::clock::now_ms;
use super::dispatch::Dispatch;
use super::store::{Kick, StoreError, UserChange};
use crate::ids::DeviceId;
use crate::protocol::{Address, Down, KickCode};
use std::time::Duration;
use tokio::time::timeout;
use tracing::info;

/// How long whoever removes a user waits for the removal of messages that are over.
const REMOVAL: Duration = Duration::from_secs(5);

impl Dispatch {
    /// Ends the logins of one device of a user, or of all, tells the devices and cuts them off. Returns those that
    /// were logged in.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn kick(
        &self,
        app: String,
        user: String,
        device: Option<String>,
        code: KickCode,
    ) -> Result<Vec<DeviceId>, StoreError> {
        let kicked = self.store.kick(app, user, device, code, self.rules(), now_ms()).await?;
        let devices = kicked.iter().filter(|kick| kick.known).map(|kick| kick.address.device.clone()).collect();
        self.tell_kicked(kicked);
        self.wire.logins_ended();
        Ok(devices)
    }

    /// Changes what a user logs in with, and ends every login. `false`: there is no such user.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn change_user(&self, app: String, user: String, change: UserChange) -> Result<bool, StoreError> {
        let goes = (change == UserChange::Deleted).then(|| (app.clone(), user.clone()));
        let Some(kicked) = self.store.change_user(app, user, change, self.rules(), now_ms()).await? else {
            return Ok(false);
        };
        self.tell_kicked(kicked);
        self.wire.logins_ended();
        if let Some((app, user)) = goes {
            // What is not done by then, or fails, is the next sweep's.
            if let Ok(Err(error)) = timeout(REMOVAL, self.store.remove_messages(app, user)).await {
                error.tell("a removed user's messages could not be removed; it is tried again in a minute");
            }
        }
        Ok(true)
    }

    /// Tells devices that their login has ended, and cuts them off. One that is not connected is told when it comes
    /// back.
    pub(super) fn tell_kicked(&self, kicked: Vec<Kick>) {
        if !kicked.is_empty() {
            self.neighbours.all_look_at_orders();
        }
        for Kick { address, code, by, recalls, known } in kicked {
            self.take_back(recalls);
            if known {
                info!(event = "device.kicked", device = %address, code = u16::from(code), by, "a login was ended");
            }
            self.cut(address, code, by, known);
        }
    }

    /// Tells a device that is connected here that its login has ended, if it had one, and cuts it off.
    pub(super) fn cut(&self, address: Address, code: KickCode, by: Option<String>, known: bool) {
        let this = self.clone();
        self.tasks.spawn(async move {
            if known {
                this.tell(address.clone(), &Down::Kick { code, replaced_by: by }).await;
            }
            this.wire.end(&address, code);
        });
    }
}

pub(super) fn refused(address: &Address, Kick { code, by, .. }: Kick) -> Down {
    info!(event = "device.refused", device = %address, code = u16::from(code), "a login that has ended came back");
    Down::Kick { code, replaced_by: by }
}
