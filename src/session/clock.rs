//! What time it is at the earliest, for a device whose clock cannot be trusted.
//!
//! A board without a battery starts in 1970, and stays there where NTP is blocked. It is never earlier than this
//! program was built, nor than the time that a verified connection confirmed last. The latest of the three judges
//! certificates and tokens, with one reserve: a clock later than the build is believed before the confirmed time is,
//! because a clock that was once set years ahead would else lock the device out for as long.

use super::{Kind, Now, Session};
use crate::keepalive::{Cause, Moment};
use tracing::{info, warn};

const DAY_MS: u64 = 86_400_000;

/// What is known of the time beside the clock.
#[derive(Debug)]
pub(super) struct Clock {
    built_ms: u64,
    /// When the confirmed time was read or noted: it goes on from here.
    since: Moment,
    /// A certificate's dates did not fit: the confirmed time is used where it would not be, and the other way round.
    swapped: bool,
    /// When a certificate was last verified against the wall clock.
    checked: Option<Now>,
    told: bool,
}

impl Clock {
    pub fn new(built_ms: u64, now: Moment) -> Self {
        Self { built_ms, since: now, swapped: false, checked: None, told: false }
    }

    /// Somebody set the clock: what was found out about the old one is void.
    pub fn start_over(&mut self) {
        self.swapped = false;
    }
}

impl Session {
    /// Milliseconds since the Unix epoch: certificates are not checked against an earlier time than this.
    pub fn earliest_ms(&self, now: Now) -> u64 {
        self.earliest(now, self.clock.swapped)
    }

    fn earliest(&self, now: Now, swapped: bool) -> u64 {
        let use_confirmed = (now.wall_ms < self.clock.built_ms) != swapped;
        let confirmed = self.saved.confirmed_ms.filter(|_| use_confirmed).unwrap_or(0);
        let passed = now.at.saturating_sub(self.clock.since);
        // A hundredth less: no two clocks run alike, and a right one must not look late.
        let passed = u64::try_from((passed - passed / 100).as_millis()).unwrap_or(0);
        self.clock.built_ms.max(confirmed).saturating_add(passed)
    }

    /// The wall clock, or the earliest possible time where that is later.
    pub(super) fn time_ms(&self, now: Now) -> u64 {
        now.wall_ms.max(self.earliest_ms(now))
    }

    /// What stands in for a clock that is late by a day or more.
    pub(super) fn stand_in_ms(&self, now: Now) -> Option<u64> {
        let earliest = self.earliest_ms(now);
        (now.wall_ms.saturating_add(DAY_MS) < earliest).then_some(earliest)
    }

    /// A server's certificate was verified, and with it the time that it was checked against.
    pub(super) fn confirm_clock(&mut self, now: Now) {
        let Some(against_ms) = self.stand_in_ms(now) else {
            self.clock.told = false;
            self.clock.checked = Some(now);
            return self.note_time(now, now.wall_ms);
        };
        self.clock.checked = None;
        if !std::mem::replace(&mut self.clock.told, true) {
            warn!(
                event = "clock.wrong",
                clock_ms = now.wall_ms,
                against_ms,
                "the clock is late; certificates are checked against a later time. Set it, or let NTP through"
            );
        }
        if self.clock.swapped && now.wall_ms < self.clock.built_ms {
            info!(event = "clock.forgotten", "the time confirmed before was ahead of the server's certificate");
            self.clock.swapped = false;
            self.note_time(now, against_ms);
        }
    }

    /// A connection stands, or was resumed: the clock is as right as when a certificate was last checked, where it ran
    /// on evenly since. What stands in for it has gone on as well.
    pub(super) fn time_goes_on(&mut self, now: Now) {
        let ran_evenly = |checked: Now| {
            let passed = u64::try_from(now.at.saturating_sub(checked.at).as_millis()).unwrap_or(u64::MAX);
            checked.wall_ms.saturating_add(passed).abs_diff(now.wall_ms) < DAY_MS
        };
        match self.stand_in_ms(now) {
            Some(stand_in) => self.note_time(now, stand_in),
            None if self.clock.checked.is_some_and(ran_evenly) => self.note_time(now, now.wall_ms),
            None => {}
        }
    }

    /// The gateway has issued something at this time, in seconds since the Unix epoch: news to a clock that is late.
    pub(super) fn heard_time(&mut self, now: Now, issued_s: u64) {
        let issued_ms = issued_s.saturating_mul(1000);
        if self.stand_in_ms(now).is_some_and(|stand_in| issued_ms > stand_in) {
            self.note_time(now, issued_ms);
        }
    }

    /// Kept to the day: flash wears out.
    fn note_time(&mut self, now: Now, ms: u64) {
        if ms.abs_diff(self.saved.confirmed_ms.unwrap_or(self.clock.built_ms)) >= DAY_MS {
            self.saved.confirmed_ms = Some(ms);
            self.clock.since = now.at;
            self.persist(Kind::Clock);
        }
    }

    /// A certificate was refused for its dates: `true` when it is worth another look at once, against the time that
    /// was left out.
    pub(super) fn doubt_clock(&mut self, now: Now, cause: Cause) -> bool {
        let at = |swapped| now.wall_ms.max(self.earliest(now, swapped));
        let fits = match cause {
            Cause::TlsExpired => at(true) < at(false),
            Cause::TlsNotYetValid => at(true) > at(false),
            _ => return false,
        };
        // Neither time fits the certificate: back to the first, after the pause.
        let swap = fits && !self.clock.swapped;
        self.clock.swapped = swap;
        swap
    }
}
