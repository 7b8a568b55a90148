//! Whether a certificate's vendor is called at all: after trouble that more calls cannot mend, not for a while.
//!
//! ```text
//! closed --the vendor refuses the certificate, or five calls in a row fail--> open
//!    ^                                                                          | its time is over
//!    +--- one call succeeds --- half open: one call is let through <------------+
//! ```

use crate::untrusted::{LONGEST, bounded};
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Calls in a row without an answer that open a circuit.
const FAILURES_TO_OPEN: u32 = 5;
/// How long a vendor that does not answer is left alone at first; doubles with each failed try.
const UNREACHABLE_MS: u64 = 5_000;
const UNREACHABLE_MOST_MS: u64 = 300_000;
/// How long a certificate the vendor refuses is not tried again: a person must mend it.
const REFUSED_MS: u64 = 300_000;
/// A circuit that is open for so long is more than a hiccup of its vendor.
const FAILING_MS: u64 = 600_000;
/// An open circuit that nobody has tried for so long says nothing of today.
const UNTRIED_MS: u64 = 3_600_000;
/// Lost connections that are remembered, so that their other calls are not counted again: several times what
/// one vendor has open at once.
const COUNTED: usize = 64;
/// When those who wait for the trial look again: they go on this soon after it went well.
const LOOK_AGAIN_MS: u64 = 1000;
/// How long the one call that tries a half-open circuit may take.
const TRIAL_MS: u64 = 30_000;

/// So many notifications in a row that are refused for good, and none accepted, are not one app's slip.
const REFUSALS_TO_TELL: u64 = 10;

/// What a call said about the certificate and the way to its vendor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sign {
    /// The vendor answered, and not about the certificate.
    Good { delivered: bool },
    /// The vendor answered that this very notification is wrong for good.
    Rejected(String),
    /// The vendor refuses the certificate.
    Refused(String),
    /// No usable answer. `lost` numbers the connection that was lost with it: all the calls it took with it
    /// are one event.
    Unreachable { reason: String, lost: Option<u64> },
}

#[derive(Debug, Clone, Default)]
struct Circuit {
    failures: u32,
    /// Lost connections that were counted, newest last.
    counted: VecDeque<u64>,
    open: Option<Open>,
    rejections: Option<Rejections>,
    /// It has carried a notification since this process started.
    proven: bool,
}

impl Circuit {
    /// Counts a lost connection, unless it was.
    fn has_counted(&mut self, number: u64) -> bool {
        if self.counted.contains(&number) {
            return true;
        }
        if self.counted.len() == COUNTED {
            self.counted.pop_front();
        }
        self.counted.push_back(number);
        false
    }
}

/// Notifications in a row that a certificate's vendor refused for good, and none that it accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejections {
    pub count: u64,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The vendor's words for the last one.
    pub reason: String,
}

/// Why a circuit is open, and until when (milliseconds since the Unix epoch).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// When the trouble began, however often it was tried since.
    pub since_ms: u64,
    pub until_ms: u64,
    pub reason: String,
    pause_ms: u64,
    /// One call is finding out whether it is over.
    trial: bool,
}

impl Open {
    /// Whether a device should not wait for this to end.
    fn fails(&self, now_ms: u64) -> bool {
        self.since_ms + FAILING_MS <= now_ms && now_ms < self.until_ms + UNTRIED_MS
    }
}

/// A change somebody should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Opened(Open),
    Closed,
    /// It accepts nothing, though it refuses nobody's certificate.
    Rejecting(Rejections),
}

#[derive(Debug, Default)]
pub(super) struct Circuits {
    all: Mutex<HashMap<String, Circuit>>,
}

impl Circuits {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Circuit>> {
        // Plain data; a panic elsewhere cannot have left it half changed.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call may be made now.
    ///
    /// # Errors
    /// [`Open`] with the moment to come back.
    pub fn admit(&self, key: &str, now_ms: u64) -> Result<(), Open> {
        let mut all = self.all();
        let circuit = all.entry(key.to_owned()).or_default();
        match &mut circuit.open {
            Some(open) if open.trial && open.until_ms > now_ms => {
                Err(Open { until_ms: open.until_ms.min(now_ms + LOOK_AGAIN_MS), ..open.clone() })
            }
            Some(open) if open.until_ms > now_ms => Err(open.clone()),
            // Half open: this call is the trial, the others wait for what it finds.
            Some(open) => {
                open.until_ms = now_ms + TRIAL_MS;
                open.trial = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A person put the certificate in anew or switched it on: what it was like before says nothing of now.
    pub fn anew(&self, key: &str) {
        if let Some(circuit) = self.all().get_mut(key) {
            *circuit = Circuit { proven: circuit.proven, ..Circuit::default() };
        }
    }

    pub fn proven(&self, key: &str) -> bool {
        self.all().get(key).is_some_and(|circuit| circuit.proven)
    }

    /// Why this certificate is not used now.
    pub fn open(&self, key: &str) -> Option<Open> {
        self.all().get(key).and_then(|circuit| circuit.open.clone())
    }

    /// What this certificate's vendor refuses for good, again and again.
    pub fn rejecting(&self, key: &str) -> Option<Rejections> {
        let all = self.all();
        all.get(key)?.rejections.clone().filter(|rejections| rejections.count >= REFUSALS_TO_TELL)
    }

    /// Why this certificate has not been usable for ten minutes or more.
    pub fn failing(&self, key: &str, now_ms: u64) -> Option<Open> {
        self.open(key).filter(|open| open.fails(now_ms))
    }

    pub fn any_failing(&self, now_ms: u64) -> bool {
        self.all().values().filter_map(|circuit| circuit.open.as_ref()).any(|open| open.fails(now_ms))
    }

    /// Notes what a call said.
    pub fn note(&self, key: &str, sign: Sign, now_ms: u64) -> Option<Change> {
        let mut all = self.all();
        let circuit = all.entry(key.to_owned()).or_default();
        let was_open = circuit.open.clone();
        let (reason, pause_ms) = match sign {
            Sign::Good { delivered } => {
                circuit.proven |= delivered;
                if delivered {
                    circuit.rejections = None;
                }
                circuit.failures = 0;
                circuit.open = None;
                return was_open.map(|_| Change::Closed);
            }
            Sign::Rejected(reason) => {
                circuit.failures = 0;
                circuit.open = None;
                let new = Rejections { count: 0, since_ms: now_ms, reason: String::new() };
                let rejections = circuit.rejections.get_or_insert(new);
                rejections.count += 1;
                rejections.reason = bounded(&reason, LONGEST);
                if rejections.count == REFUSALS_TO_TELL {
                    return Some(Change::Rejecting(rejections.clone()));
                }
                return was_open.map(|_| Change::Closed);
            }
            Sign::Refused(reason) => (reason, REFUSED_MS),
            Sign::Unreachable { reason, lost } => {
                if lost.is_some_and(|number| circuit.has_counted(number)) {
                    return None;
                }
                circuit.failures += 1;
                let doubled = was_open.as_ref().map_or(UNREACHABLE_MS, |open| open.pause_ms.saturating_mul(2));
                if circuit.failures < FAILURES_TO_OPEN {
                    return None;
                }
                (reason, doubled.min(UNREACHABLE_MOST_MS))
            }
        };
        // Calls that were under way when it opened say nothing new.
        if was_open.as_ref().is_some_and(|open| open.until_ms > now_ms + TRIAL_MS) {
            return None;
        }
        let since_ms = was_open.as_ref().map_or(now_ms, |open| open.since_ms);
        let reason = bounded(&reason, LONGEST);
        let open = Open { since_ms, until_ms: now_ms + pause_ms, reason, pause_ms, trial: false };
        circuit.open = Some(open.clone());
        was_open.is_none().then_some(Change::Opened(open))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable() -> Sign {
        Sign::Unreachable { reason: "timeout".into(), lost: None }
    }

    #[test]
    fn a_lost_connection_is_one_failure_however_many_calls_it_took_with_it() {
        let circuits = Circuits::default();
        let lost = |number| Sign::Unreachable { reason: "cut".into(), lost: Some(number) };
        for _ in 0..60 {
            assert_eq!(circuits.note("c", lost(7), 0), None);
        }
        assert!(circuits.admit("c", 0).is_ok());
        for number in 8..=10 {
            assert_eq!(circuits.note("c", lost(number), 0), None);
        }
        assert!(circuits.note("c", lost(11), 0).is_some(), "five connections in a row are the cloud's fault");
    }

    #[test]
    fn a_refused_certificate_is_not_used_again_until_one_call_has_tried_it() {
        let circuits = Circuits::default();
        assert!(circuits.admit("c", 0).is_ok());
        assert!(matches!(circuits.note("c", Sign::Refused("no".into()), 0), Some(Change::Opened(_))));
        assert_eq!(circuits.admit("c", 1000).expect_err("open").until_ms, REFUSED_MS);
        assert!(circuits.admit("c", REFUSED_MS).is_ok(), "the trial");
        let waits = circuits.admit("c", REFUSED_MS).expect_err("only one");
        assert_eq!(waits.until_ms, REFUSED_MS + LOOK_AGAIN_MS, "the others look soon what it found");
        assert_eq!(circuits.note("c", Sign::Good { delivered: true }, REFUSED_MS), Some(Change::Closed));
        assert!(circuits.admit("c", REFUSED_MS).is_ok() && circuits.proven("c"));
        assert!(circuits.admit("other", 0).is_ok());
    }

    #[test]
    fn a_certificate_that_was_put_in_anew_is_tried_at_once() {
        let circuits = Circuits::default();
        circuits.note("c", Sign::Good { delivered: true }, 0);
        circuits.note("c", Sign::Refused("no".into()), 0);
        circuits.note("d", Sign::Refused("no".into()), 0);
        circuits.anew("c");
        assert!(circuits.admit("c", 1).is_ok() && circuits.open("c").is_none() && circuits.proven("c"));
        assert!(circuits.admit("d", 1).is_err(), "another is not");
        for _ in 1..FAILURES_TO_OPEN {
            assert_eq!(circuits.note("c", unreachable(), 1), None, "and its failures count anew");
        }
    }

    #[test]
    fn what_is_refused_for_good_again_and_again_is_told_once_and_ends_with_a_success() {
        let circuits = Circuits::default();
        let rejected = || Sign::Rejected("DeviceTokenNotForTopic 400".into());
        for at_ms in 1..REFUSALS_TO_TELL {
            assert_eq!(circuits.note("c", rejected(), at_ms), None);
        }
        assert!(circuits.rejecting("c").is_none());
        let told = circuits.note("c", rejected(), 50);
        assert!(matches!(told, Some(Change::Rejecting(Rejections { count: REFUSALS_TO_TELL, since_ms: 1, .. }))));
        assert_eq!(circuits.note("c", rejected(), 51), None, "once");
        assert!(circuits.admit("c", 51).is_ok(), "and others are sent");
        circuits.note("c", Sign::Good { delivered: false }, 52);
        assert!(circuits.rejecting("c").is_some_and(|all| all.count == REFUSALS_TO_TELL + 1));
        circuits.note("c", Sign::Good { delivered: true }, 53);
        assert!(circuits.rejecting("c").is_none());
    }

    #[test]
    fn a_vendor_that_does_not_answer_is_left_alone_ever_longer() {
        let circuits = Circuits::default();
        for _ in 1..FAILURES_TO_OPEN {
            assert_eq!(circuits.note("c", unreachable(), 0), None);
        }
        assert!(circuits.admit("c", 0).is_ok());
        assert!(circuits.note("c", unreachable(), 0).is_some());
        let first = circuits.admit("c", 0).expect_err("open").until_ms;
        assert!(circuits.admit("c", first).is_ok());
        assert_eq!(circuits.note("c", unreachable(), first), None, "said once");
        assert_eq!(circuits.admit("c", first).expect_err("open").until_ms, first + 2 * UNREACHABLE_MS);
    }

    #[test]
    fn a_certificate_fails_once_it_was_out_of_use_for_ten_minutes_and_while_it_is_tried() {
        let circuits = Circuits::default();
        for at_ms in [0, REFUSED_MS] {
            assert!(circuits.admit("c", at_ms).is_ok());
            circuits.note("c", Sign::Refused("no".into()), at_ms);
        }
        assert!(circuits.failing("c", FAILING_MS - 1).is_none() && !circuits.any_failing(FAILING_MS - 1));
        assert_eq!(circuits.failing("c", FAILING_MS).map(|open| open.since_ms), Some(0));
        assert!(circuits.failing("other", FAILING_MS).is_none() && circuits.any_failing(FAILING_MS));
        assert!(circuits.failing("c", 2 * REFUSED_MS + UNTRIED_MS).is_none(), "nobody knows");
        circuits.note("c", Sign::Good { delivered: true }, FAILING_MS);
        assert!(circuits.failing("c", FAILING_MS).is_none());
    }
}
