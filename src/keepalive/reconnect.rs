//! When the next attempt is made, and when none is.
//!
//! Pauses grow by decorrelated jitter: each is drawn between the one before and three times it, so a
//! fleet that lost its server together does not come back together. The generator is seeded by the
//! device, so one device's behaviour can be replayed.

use super::constants::{
    AT_ONCE_SPREAD, EXCUSED_WITHIN, FLAPS_UNTIL_SLOW, NETWORK_SPREAD, PATIENT_BASE, PORTAL_BASE, PORTAL_CAP,
    RECONNECT_BASE, RECONNECT_CAP, SLOW_BASE, SLOW_CAP, STABLE_AFTER,
};
use super::{Cause, Moment, Recovery};
use std::time::Duration;

/// A planned attempt and how its time came about; all of it is logged, because a random pause that
/// is not explained looks like a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    pub at: Moment,
    /// The least pause this time.
    pub base: Duration,
    /// What chance added to it.
    pub jitter: Duration,
    pub cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Retry(Attempt),
    /// No attempt until a login, a new password or an operator's word.
    Stop(Cause),
}

#[derive(Debug)]
pub struct Reconnect {
    random: u64,
    last_pause: Duration,
    up_since: Option<Moment>,
    /// Links in a row that came up and fell before they were stable, for another reason than the network's.
    flaps: u32,
    /// When the last of them fell.
    flapped: Option<Moment>,
}

impl Reconnect {
    /// `seed` should differ from device to device and be the same over restarts.
    pub fn new(seed: u64) -> Self {
        Self { random: seed, last_pause: Duration::ZERO, up_since: None, flaps: 0, flapped: None }
    }

    pub fn on_up(&mut self, now: Moment) {
        self.up_since = Some(now);
    }

    /// A link ended, or an attempt failed.
    pub fn on_down(&mut self, now: Moment, cause: Cause) -> Verdict {
        let stable = match self.up_since.take() {
            Some(since) if now.saturating_sub(since) >= STABLE_AFTER => {
                self.start_over();
                true
            }
            Some(_) if cause.is_the_networks() => false,
            Some(_) => {
                self.flaps += 1;
                self.flapped = Some(now);
                false
            }
            None => false,
        };
        let flapping = self.flaps >= FLAPS_UNTIL_SLOW;
        match cause.recovery() {
            Recovery::Stop => {
                self.start_over();
                Verdict::Stop(cause)
            }
            Recovery::Retry if stable || cause == Cause::Requested || cause.is_the_networks() => {
                Verdict::Retry(self.at_once(now, cause))
            }
            Recovery::Retry if !flapping => Verdict::Retry(self.draw(now, cause, RECONNECT_BASE, RECONNECT_CAP)),
            Recovery::Retry | Recovery::Slow => Verdict::Retry(self.draw(now, cause, SLOW_BASE, SLOW_CAP)),
            Recovery::Patient => Verdict::Retry(self.draw(now, cause, PATIENT_BASE, SLOW_CAP)),
        }
    }

    /// A login that has worked was refused by a code that is not the gateway's own word: whoever refuses may
    /// be wrong, and comes to his senses without this device.
    pub fn on_doubtful(&mut self, now: Moment, cause: Cause) -> Attempt {
        self.up_since = None;
        self.draw(now, cause, PATIENT_BASE, SLOW_CAP)
    }

    /// What refused may be gone in a moment, whatever its cause asks for otherwise.
    pub fn shortly(&mut self, now: Moment, cause: Cause) -> Attempt {
        let base = if cause.recovery() == Recovery::Retry { RECONNECT_BASE } else { PORTAL_BASE };
        self.draw(now, cause, base, PORTAL_CAP)
    }

    /// The network is back, or the operator does not want to wait. Only the pause is cut short: what
    /// was learnt about a server that cannot hold a link stays.
    pub fn at_once(&mut self, now: Moment, cause: Cause) -> Attempt {
        let spread = if cause.is_the_networks() { NETWORK_SPREAD } else { AT_ONCE_SPREAD };
        let jitter = self.uniform(Duration::ZERO, spread);
        self.last_pause = RECONNECT_BASE;
        Attempt { at: now + jitter, base: Duration::ZERO, jitter, cause }
    }

    /// The network is another than the last link or attempt had, or the device has slept: pauses start over,
    /// and a link that has just broken broke with its network.
    pub fn on_new_ground(&mut self, now: Moment) {
        self.last_pause = Duration::ZERO;
        if self.flapped.take().is_some_and(|at| now.saturating_sub(at) <= EXCUSED_WITHIN) {
            self.flaps = self.flaps.saturating_sub(1);
        }
    }

    fn draw(&mut self, now: Moment, cause: Cause, base: Duration, cap: Duration) -> Attempt {
        // A third of the cap at most, so that chance still spreads a fleet that waits the longest.
        let low = self.last_pause.clamp(base, cap / 3);
        let pause = self.uniform(low, low * 3);
        self.last_pause = pause;
        Attempt { at: now + pause, base: low, jitter: pause - low, cause }
    }

    fn start_over(&mut self) {
        self.last_pause = Duration::ZERO;
        self.flaps = 0;
    }

    /// Evenly from `low` to `high`, by splitmix64 (Steele, Lea, Flood 2014): small, and good enough
    /// to spread a fleet.
    fn uniform(&mut self, low: Duration, high: Duration) -> Duration {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let span = u64::try_from(high.saturating_sub(low).as_millis()).unwrap_or(u64::MAX);
        low + Duration::from_millis(if span == 0 { 0 } else { z % (span + 1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_secs(10_000);

    fn pause(verdict: Verdict) -> Duration {
        match verdict {
            Verdict::Retry(attempt) => {
                assert_eq!(attempt.at, NOW + attempt.base + attempt.jitter);
                attempt.base + attempt.jitter
            }
            Verdict::Stop(cause) => panic!("stopped by {cause}"),
        }
    }

    #[test]
    fn after_a_stable_link_the_first_attempt_comes_at_once() {
        for seed in 0..200 {
            let mut reconnect = Reconnect::new(seed);
            reconnect.on_up(NOW - STABLE_AFTER);
            assert!(pause(reconnect.on_down(NOW, Cause::PongLost)) <= AT_ONCE_SPREAD);
        }
    }

    #[test]
    fn a_network_that_is_back_is_used_within_a_moment() {
        let mut reconnect = Reconnect::new(7);
        for _ in 0..200 {
            assert!(reconnect.at_once(NOW, Cause::NetworkChanged).jitter <= NETWORK_SPREAD);
        }
    }

    #[test]
    fn pauses_grow_to_the_cap_and_never_beyond() {
        for seed in 0..200 {
            let mut reconnect = Reconnect::new(seed);
            let pauses: Vec<_> = (0..30).map(|_| pause(reconnect.on_down(NOW, Cause::ConnectRefused))).collect();
            assert!(pauses.iter().all(|p| (RECONNECT_BASE..=RECONNECT_CAP).contains(p)));
            assert!(pauses.windows(2).all(|w| w[1] >= w[0].min(RECONNECT_CAP / 3)));
            assert!(pauses[29] >= RECONNECT_CAP / 3);
        }
    }

    #[test]
    fn a_server_that_accepts_and_closes_gets_at_most_twelve_connections_in_ten_minutes() {
        for seed in 0..2000 {
            let mut reconnect = Reconnect::new(seed);
            let (mut now, mut connections) = (Moment::ZERO, 0);
            while now <= Duration::from_secs(600) {
                connections += 1;
                reconnect.on_up(now);
                match reconnect.on_down(now, Cause::PeerClosed) {
                    Verdict::Retry(attempt) => now = attempt.at,
                    Verdict::Stop(_) => unreachable!("a closed link is retried"),
                }
            }
            assert!(connections <= 12, "seed {seed}: {connections}");
        }
    }

    #[test]
    fn links_that_the_network_ended_are_followed_at_once_however_many_they_are() {
        for cause in [Cause::AddressGone, Cause::NetworkChanged, Cause::Suspended] {
            let mut reconnect = Reconnect::new(3);
            for _ in 0..50 {
                reconnect.on_up(NOW - Duration::from_secs(5));
                assert!(pause(reconnect.on_down(NOW, cause)) <= NETWORK_SPREAD, "{cause}");
            }
            // ... and teach nothing of the server.
            reconnect.on_up(NOW);
            assert!(pause(reconnect.on_down(NOW, Cause::PeerClosed)) <= RECONNECT_BASE * 3, "{cause}");
        }
    }

    #[test]
    fn a_break_is_the_networks_fault_only_if_the_network_is_found_changed_right_after() {
        let flap = |excused_after: Duration| {
            let mut reconnect = Reconnect::new(3);
            let mut last = Duration::ZERO;
            for _ in 0..5 {
                reconnect.on_up(NOW);
                last = pause(reconnect.on_down(NOW, Cause::Io));
                reconnect.on_new_ground(NOW + excused_after);
                reconnect.at_once(NOW, Cause::NetworkChanged);
            }
            last
        };
        assert!(flap(EXCUSED_WITHIN) <= RECONNECT_BASE * 3);
        assert!(flap(EXCUSED_WITHIN + Duration::from_millis(1)) >= SLOW_BASE);
    }

    #[test]
    fn a_server_that_asks_for_quiet_gets_it() {
        let mut reconnect = Reconnect::new(1);
        assert!(pause(reconnect.on_down(NOW, Cause::ServerBusy)) >= SLOW_BASE);
    }

    #[test]
    fn a_cause_only_a_person_can_mend_stops_the_attempts() {
        for cause in [Cause::BadCredentials, Cause::Banned, Cause::Kicked] {
            assert_eq!(Reconnect::new(1).on_down(NOW, cause), Verdict::Stop(cause));
        }
    }

    #[test]
    fn who_took_over_is_left_alone_for_minutes_and_a_login_that_worked_is_not_given_up() {
        for seed in 0..200 {
            let mut reconnect = Reconnect::new(seed);
            let takeover = pause(reconnect.on_down(NOW, Cause::TakenOver));
            assert!((PATIENT_BASE..=SLOW_CAP).contains(&takeover), "{takeover:?}");
            for _ in 0..20 {
                let doubtful = pause(Verdict::Retry(reconnect.on_doubtful(NOW, Cause::BadCredentials)));
                assert!((PATIENT_BASE..=SLOW_CAP).contains(&doubtful), "{doubtful:?}");
            }
        }
    }

    #[test]
    fn what_may_be_gone_in_a_moment_is_tried_again_within_half_a_minute() {
        for seed in 0..200 {
            let mut reconnect = Reconnect::new(seed);
            for _ in 0..30 {
                let shortly = pause(Verdict::Retry(reconnect.shortly(NOW, Cause::TlsUntrusted)));
                assert!((PORTAL_BASE..=PORTAL_CAP).contains(&shortly), "{shortly:?}");
            }
            assert!(pause(reconnect.on_down(NOW, Cause::TlsUntrusted)) >= SLOW_BASE);
        }
    }

    #[test]
    fn two_devices_do_not_come_back_together() {
        let first: Vec<_> = (0..50).map(|seed| pause(Reconnect::new(seed).on_down(NOW, Cause::PeerClosed))).collect();
        let distinct: std::collections::HashSet<_> = first.iter().collect();
        assert!(distinct.len() > 40);
    }
}
