//! Local apps: which are attached, and what follows when one comes or goes.

use super::{Now, Session, Timer};
use crate::protocol::{Presence, Up};

impl Session {
    pub(super) fn on_attach(&mut self, now: Now, app: String) {
        self.app_came(now, &app);
        *self.apps.entry(app).or_default() += 1;
        self.timers.clear(Timer::Linger);
        self.say_attached();
        self.want_connection(now);
    }

    pub(super) fn on_detach(&mut self, now: Now, app: &str) {
        if let Some(open) = self.apps.get_mut(app) {
            *open -= 1;
            if *open == 0 {
                self.apps.remove(app);
            }
        }
        self.say_attached();
        self.linger(now);
    }

    /// A phone whose app is closed is offline to its user, though the agent lingers on the connection.
    pub(super) fn say_attached(&mut self) {
        let presence = if self.attached() > 0 { Presence::Attached } else { Presence::Detached };
        // Only where a vendor could deliver instead does it matter to the gateway.
        let matters = self.binding.wanted().is_some();
        let Some(online) = self.online_mut().filter(|online| matters && online.told != presence) else { return };
        online.told = presence;
        self.send(&Up::Presence { presence });
    }
}
