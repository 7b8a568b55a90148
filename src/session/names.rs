//! Name servers that change: an attempt that failed for want of them is worth another at once.

use super::{Now, Session, State};
use crate::keepalive::Cause;
use tracing::debug;

impl Session {
    /// Only what a name could have been the fault of is tried again; a server that refuses is left alone.
    pub(super) fn on_name_servers(&mut self, now: Now) {
        let name_was_why = self
            .cause
            .as_ref()
            .is_some_and(|failure| matches!(failure.cause, Cause::DnsFailed | Cause::ConnectTimeout));
        match State::from(&self.phase) {
            State::Connecting => {
                debug!(event = "link.attempt_renamed", "the attempt was made with name servers of before");
                self.dial_instead(now);
            }
            // They came with this device's own network: no fleet shares the moment.
            State::Waiting if name_was_why => self.try_again_at_once(now, Cause::NetworkChanged),
            State::Resting => self.retry_owed(now),
            _ => {}
        }
    }
}
