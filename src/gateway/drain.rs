//! The end as load balancers see it: `/readyz` says first that it comes, and everything is served until they have heard that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// HAProxy leaves a server out after three bad answers 2 s apart (its manual, "fall" and "inter"); the nodes of a Kubernetes
/// cluster hear of a pod's end within a few seconds.
const USUAL: Duration = Duration::from_secs(10);
/// Whoever asks twice in so short a time asks for ever: a balancer.
const WATCHED: Duration = Duration::from_mins(1);

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    begun: Arc<AtomicBool>,
    asked: Arc<Mutex<Asked>>,
}

/// When `/readyz` was asked last, and the time before.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    last: Option<Instant>,
    before: Option<Instant>,
}

impl Asked {
    fn again(&mut self, now: Instant) {
        *self = Self { last: Some(now), before: self.last };
    }

    /// How long to go on, with what the operator has set, and without (-1).
    fn lasts(self, set_s: i64, now: Instant) -> Duration {
        match u64::try_from(set_s) {
            Ok(set_s) => Duration::from_secs(set_s),
            Err(_) if self.before.is_some_and(|at| now.duration_since(at) <= WATCHED) => USUAL,
            Err(_) => Duration::ZERO,
        }
    }
}

impl Drain {
    /// `/readyz` is asked. Returns whether the end has begun.
    pub fn on_asked(&self) -> bool {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).again(Instant::now());
        self.is_on()
    }

    pub fn is_on(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// From now on the answers tell of the end. Returns for how long to go on serving.
    pub(super) fn begin(&self, set_s: i64) -> Duration {
        self.begun.store(true, Ordering::Relaxed);
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).lasts(set_s, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_a_balancer_asks_goes_on_for_a_while_and_whom_nobody_asks_ends_at_once() {
        let began = Instant::now();
        let at = |s: u64| began + Duration::from_secs(s);
        let mut asked = Asked::default();
        assert_eq!(asked.lasts(-1, at(0)), Duration::ZERO);
        asked.again(at(0));
        assert_eq!(asked.lasts(-1, at(1)), Duration::ZERO, "a person looked");
        asked.again(at(30));
        assert_eq!(asked.lasts(-1, at(59)), USUAL);
        assert_eq!(asked.lasts(-1, at(61)), Duration::ZERO, "it has gone");
        assert_eq!(asked.lasts(0, at(31)), Duration::ZERO);
        assert_eq!(Asked::default().lasts(3, at(0)), Duration::from_secs(3));
    }
}
