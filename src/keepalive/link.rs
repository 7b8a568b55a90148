//! One connection's pulse: when the next ping is due, and when silence means death.
//!
//! ```text
//! quiet --interval over--> ping sent --pong--> quiet
//!                              +--deadline over--> dead
//! ```
//!
//! Any write the server must answer (PUBLISH QoS 1, SUBSCRIBE) does a ping's work, so it both moves
//! the next ping and starts the deadline.

use super::constants::{LOW_POWER_GRID, PONG_MAX, PONG_MIN, PONG_ROUND_TRIPS, PROBE_MAX, PROBE_MIN};
use super::{Cause, Moment};
use std::time::Duration;

/// What the shell must do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkAction {
    Nothing,
    /// Write a PINGREQ, then call [`Link::on_ping_sent`].
    Ping,
    Dead(Cause),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Awaiting {
    since: Moment,
    /// How long the link had been idle when this was written.
    idle: Duration,
    deadline: Moment,
    cause: Cause,
}

#[derive(Debug)]
pub struct Link {
    interval: Duration,
    /// Pings fall on the moments when other sleepers on this device wake too.
    saving: bool,
    /// The last moment the server is known to have answered.
    confirmed: Moment,
    awaiting: Option<Awaiting>,
    smoothed_round_trip: Option<Duration>,
    /// A ping must go out now, with a short deadline: the network changed.
    probe: bool,
    /// A ping must go out now, with the normal deadline.
    ping: bool,
    /// A ping goes out then, if none does before.
    early: Option<Moment>,
}

impl Link {
    /// A link that has just been confirmed: CONNACK came at `now`, `round_trip` after CONNECT.
    pub fn new(now: Moment, interval: Duration, round_trip: Duration) -> Self {
        Self {
            interval,
            saving: false,
            confirmed: now,
            awaiting: None,
            smoothed_round_trip: Some(round_trip),
            probe: false,
            ping: false,
            early: None,
        }
    }

    pub fn interval(&self) -> Duration {
        self.interval
    }

    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// Whether power is to be saved from now on.
    pub fn set_saving(&mut self, saving: bool) {
        self.saving = saving;
    }

    pub fn round_trip(&self) -> Option<Duration> {
        self.smoothed_round_trip
    }

    /// Until when an answer is waited for; nothing where none is owed.
    pub fn awaited_until(&self) -> Option<Moment> {
        self.awaiting.map(|awaiting| awaiting.deadline)
    }

    /// How long the link was idle before the packet that is unanswered, or is now: what a loss proves
    /// about the network's idle limit.
    pub fn idle(&self, now: Moment) -> Duration {
        self.awaiting.map_or(now.saturating_sub(self.confirmed), |awaiting| awaiting.idle)
    }

    /// A packet that the server must answer was written.
    pub fn on_written(&mut self, now: Moment) {
        self.expect(now, self.patience(PONG_MIN, PONG_MAX), Cause::AckLost);
    }

    pub fn on_ping_sent(&mut self, now: Moment) {
        let (least, most) = if self.probe { (PROBE_MIN, PROBE_MAX) } else { (PONG_MIN, PONG_MAX) };
        let patience = self.patience(least, most);
        let cause = if self.probe { Cause::NetworkChanged } else { Cause::PongLost };
        self.probe = false;
        self.ping = false;
        self.early = None;
        self.expect(now, patience, cause);
    }

    /// The server answered something: every packet it owes an answer for may still be on its way,
    /// but the path works.
    ///
    /// Returns the idle time that was survived, when this answers the first packet after one.
    pub fn on_answer(&mut self, now: Moment) -> Option<Duration> {
        let awaiting = self.awaiting.take();
        if let Some(awaiting) = awaiting {
            let sample = now.saturating_sub(awaiting.since);
            // RFC 6298: an eighth of each new sample.
            self.smoothed_round_trip = Some(match self.smoothed_round_trip {
                Some(smoothed) => (smoothed * 7 + sample) / 8,
                None => sample,
            });
        }
        self.confirmed = now;
        awaiting.map(|awaiting| awaiting.idle)
    }

    /// Asks for a ping without waiting for the interval.
    pub fn ping_now(&mut self) {
        self.ping = self.awaiting.is_none();
    }

    /// Asks for a ping at `moment`, even if the server was heard before it.
    pub fn ping_at(&mut self, moment: Moment) {
        self.early = Some(moment);
    }

    /// The network changed: ask at once whether this link still works on it.
    pub fn probe_now(&mut self) {
        if !self.is_probed() {
            self.probe = true;
            self.awaiting = None;
        }
    }

    /// A ping that was sent because the network changed is unanswered.
    pub fn is_probed(&self) -> bool {
        self.awaiting.is_some_and(|awaiting| awaiting.cause == Cause::NetworkChanged)
    }

    /// When [`Self::on_tick`] has something to do.
    pub fn next_deadline(&self) -> Moment {
        match self.awaiting {
            _ if self.probe || self.ping => Moment::ZERO,
            Some(awaiting) => awaiting.deadline,
            None => self.due(),
        }
    }

    pub fn on_tick(&mut self, now: Moment) -> LinkAction {
        match self.awaiting {
            _ if self.probe || self.ping => LinkAction::Ping,
            Some(awaiting) if now >= awaiting.deadline => LinkAction::Dead(awaiting.cause),
            None if now >= self.due() => LinkAction::Ping,
            _ => LinkAction::Nothing,
        }
    }

    /// When a quiet link is pinged: never later than the interval says, and while power is saved at a
    /// moment that others on the device are likely to share.
    fn due(&self) -> Moment {
        let latest = self.confirmed + self.interval;
        let shared = Moment::from_secs(latest.as_secs() / LOW_POWER_GRID.as_secs() * LOW_POWER_GRID.as_secs());
        let due = if self.saving && shared > self.confirmed + self.interval / 2 { shared } else { latest };
        self.early.map_or(due, |early| early.min(due))
    }

    fn expect(&mut self, now: Moment, patience: Duration, cause: Cause) {
        // The oldest unanswered write decides; a later one must not push its deadline away.
        if self.awaiting.is_none() {
            self.awaiting = Some(Awaiting {
                since: now,
                idle: now.saturating_sub(self.confirmed),
                deadline: now + patience,
                cause,
            });
        }
    }

    fn patience(&self, least: Duration, most: Duration) -> Duration {
        self.smoothed_round_trip.unwrap_or_default().saturating_mul(PONG_ROUND_TRIPS).clamp(least, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(45);

    fn at(seconds: u64) -> Moment {
        Moment::from_secs(seconds)
    }

    fn link() -> Link {
        Link::new(at(0), INTERVAL, Duration::from_millis(50))
    }

    #[test]
    fn a_quiet_link_is_pinged_after_its_interval_and_not_before() {
        let mut link = link();
        assert_eq!(link.next_deadline(), at(45));
        assert_eq!(link.on_tick(at(44)), LinkAction::Nothing);
        assert_eq!(link.on_tick(at(45)), LinkAction::Ping);
    }

    #[test]
    fn while_power_is_saved_pings_fall_on_whole_minutes_and_never_late() {
        let mut link = Link::new(at(7), Duration::from_secs(230), Duration::from_millis(50));
        assert_eq!(link.next_deadline(), at(237));
        link.set_saving(true);
        assert_eq!(link.next_deadline(), at(180));
        assert_eq!(link.on_tick(at(179)), LinkAction::Nothing);
        assert_eq!(link.on_tick(at(180)), LinkAction::Ping);
        let mut short = Link::new(at(7), Duration::from_secs(45), Duration::from_millis(50));
        short.set_saving(true);
        assert_eq!(short.next_deadline(), at(52), "an interval below the grid is kept");
    }

    #[test]
    fn a_lost_pong_is_noticed_within_eight_seconds() {
        let mut link = link();
        link.on_ping_sent(at(45));
        assert_eq!(link.next_deadline(), at(53));
        assert_eq!(link.on_tick(at(53)), LinkAction::Dead(Cause::PongLost));
    }

    #[test]
    fn a_slow_path_gets_more_time_but_never_more_than_twenty_seconds() {
        let mut link = Link::new(at(0), INTERVAL, Duration::from_secs(3));
        link.on_ping_sent(at(45));
        assert_eq!(link.next_deadline(), at(57));
        let mut link = Link::new(at(0), INTERVAL, Duration::from_secs(60));
        link.on_ping_sent(at(45));
        assert_eq!(link.next_deadline(), at(65));
    }

    #[test]
    fn an_answered_write_replaces_the_ping() {
        let mut link = link();
        link.on_written(at(40));
        link.on_answer(at(41));
        assert_eq!(link.next_deadline(), at(86));
    }

    #[test]
    fn an_unanswered_write_is_a_death_of_its_own_name() {
        let mut link = link();
        link.on_written(at(10));
        link.on_written(at(17));
        assert_eq!(link.on_tick(at(18)), LinkAction::Dead(Cause::AckLost), "the oldest write decides");
    }

    #[test]
    fn a_network_change_is_probed_at_once_with_a_short_deadline() {
        let mut link = link();
        link.probe_now();
        assert_eq!(link.on_tick(at(5)), LinkAction::Ping);
        link.on_ping_sent(at(5));
        assert!(link.is_probed());
        assert_eq!(link.on_tick(at(5) + PROBE_MIN), LinkAction::Dead(Cause::NetworkChanged));
        let mut slow = Link::new(at(0), INTERVAL, Duration::from_secs(1));
        slow.probe_now();
        slow.on_ping_sent(at(5));
        assert_eq!(slow.next_deadline(), at(5) + PROBE_MAX);
    }
}
