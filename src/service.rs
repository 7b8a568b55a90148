//! What a program tells the service manager that started it (sd_notify(3)); nothing where there is none.

use sd_notify::NotifyState;
use std::time::Duration;

/// Moments are durations since any one start, the same for every call.
#[derive(Debug)]
pub struct Service {
    /// How long the manager waits for a sign of life.
    watchdog: Option<Duration>,
    fed: Duration,
    status: String,
}

impl Service {
    /// As the environment says: `NOTIFY_SOCKET`, `WATCHDOG_USEC`.
    pub fn from_environment() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled(), fed: Duration::ZERO, status: String::new() }
    }

    pub fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// A line for `systemctl status`; the same again is not sent.
    pub fn status(&mut self, text: String) {
        if text != self.status {
            tell(&[NotifyState::Status(&text)]);
            self.status = text;
        }
    }

    /// To be called by the loop that does the work, as often as it turns; a sign of life goes out when a
    /// quarter of the manager's patience is over.
    pub fn alive(&mut self, now: Duration) {
        if self.watchdog.is_some_and(|patience| self.fed.is_zero() || now.saturating_sub(self.fed) >= patience / 4) {
            tell(&[NotifyState::Watchdog]);
            self.fed = now.max(Duration::from_nanos(1));
        }
    }

    /// When the loop must turn again, whether it has work or not: at half of the manager's patience.
    pub fn deadline(&self) -> Option<Duration> {
        self.watchdog.map(|patience| self.fed + patience / 2)
    }
}

fn tell(state: &[NotifyState<'_>]) {
    // Without a manager, or with one that has gone, there is nobody to tell.
    drop(sd_notify::notify(state));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_must_turn_within_half_of_the_managers_patience_and_never_without_one() {
        let hour = Duration::from_secs(3600);
        let mut service = Service { watchdog: Some(hour), fed: Duration::ZERO, status: String::new() };
        service.alive(Duration::from_secs(5));
        assert_eq!(service.deadline(), Some(Duration::from_secs(5) + hour / 2));
        service.alive(Duration::from_secs(100));
        assert_eq!(service.fed, Duration::from_secs(5), "a sign of life every time would be a packet for each turn");
        service.alive(Duration::from_secs(5) + hour / 4);
        assert_eq!(service.fed, Duration::from_secs(5) + hour / 4);
        assert_eq!(Service { watchdog: None, ..service }.deadline(), None);
    }
}
