//! What an app may still send: messages and their bytes, each in a bucket that fills second by second.
//!
//! A call is taken whole as long as nothing is owed, and what it takes beyond the bucket is owed until that has filled
//! again: so a call to very many fits a small limit, and the mean over time is the limit.

use std::time::Duration;

/// What an app may send a second; 0 is no limit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rates {
    pub messages: u32,
    pub bytes: u32,
}

/// What a call sends: a receiver is a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub messages: usize,
    pub bytes: usize,
}

/// Which limit an app has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Requests,
    Messages,
    Bytes,
}

impl Limit {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Messages => "messages",
            Self::Bytes => "bytes",
        }
    }
}

/// Too much was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    pub limit: Limit,
    /// Whole seconds until the same may be asked again.
    pub wait_s: u64,
}

impl Over {
    pub fn new(limit: Limit, wait: Duration) -> Self {
        Self { limit, wait_s: (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1) }
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Below zero: owed.
    level: f64,
    at: Duration,
}

impl Bucket {
    fn fill(&mut self, rate: f64, now: Duration) {
        self.level = (self.level + now.saturating_sub(self.at).as_secs_f64() * rate).min(rate);
        self.at = now;
    }

    /// How long something is owed.
    fn owes(self, rate: f64) -> Option<Duration> {
        (self.level < 0.0).then(|| Duration::try_from_secs_f64(-self.level / rate).unwrap_or(Duration::MAX))
    }
}

/// One app's buckets.
#[derive(Debug)]
pub(super) struct Allowance {
    messages: Bucket,
    bytes: Bucket,
}

impl Allowance {
    /// Full buckets. Moments are counted from whenever the caller began to.
    pub fn new(rates: Rates, now: Duration) -> Self {
        let full = |rate: u32| Bucket { level: f64::from(rate), at: now };
        Self { messages: full(rates.messages), bytes: full(rates.bytes) }
    }

    /// # Errors
    /// Something is still owed, and nothing was taken.
    pub fn take(&mut self, rates: Rates, size: Size, now: Duration) -> Result<(), Over> {
        let parts = [
            (Limit::Messages, &mut self.messages, rates.messages, size.messages),
            (Limit::Bytes, &mut self.bytes, rates.bytes, size.bytes),
        ];
        let mut limited: Vec<_> = parts.into_iter().filter(|(_, _, rate, _)| *rate > 0).collect();
        for (_, bucket, rate, _) in &mut limited {
            bucket.fill(f64::from(*rate), now);
        }
        let owed = limited.iter().filter_map(|(limit, bucket, rate, _)| Some((*limit, bucket.owes(f64::from(*rate))?)));
        if let Some((limit, wait)) = owed.max_by_key(|(_, wait)| *wait) {
            return Err(Over::new(limit, wait));
        }
        for (_, bucket, _, size) in limited {
            bucket.level -= size as f64;
        }
        Ok(())
    }

    /// Whether it is as good as new.
    pub fn is_full(&self, rates: Rates, now: Duration) -> bool {
        [(self.messages, rates.messages), (self.bytes, rates.bytes)].into_iter().all(|(mut bucket, rate)| {
            bucket.fill(f64::from(rate), now);
            bucket.level >= f64::from(rate)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates { messages: 100, bytes: 1000 };

    fn size(messages: usize, bytes: usize) -> Size {
        Size { messages, bytes }
    }

    #[test]
    fn a_call_to_many_is_taken_whole_and_what_it_overdrew_is_waited_for() {
        let (mut app, s) = (Allowance::new(RATES, Duration::ZERO), Duration::from_secs_f64);
        assert_eq!(app.take(RATES, size(600, 10), s(0.0)), Ok(()));
        assert_eq!(app.take(RATES, size(1, 1), s(0.0)), Err(Over { limit: Limit::Messages, wait_s: 5 }));
        assert_eq!(app.take(RATES, size(1, 1), s(4.2)), Err(Over { limit: Limit::Messages, wait_s: 1 }));
        assert_eq!(app.take(RATES, size(1, 1), s(5.1)), Ok(()), "what was refused cost nothing");
    }

    #[test]
    fn the_mean_over_time_is_the_limit_whatever_the_calls_are() {
        for messages in [1, 7, 600] {
            let mut app = Allowance::new(RATES, Duration::ZERO);
            let tries = (0..60_000).map(Duration::from_millis);
            let sent = tries.filter(|now| app.take(RATES, size(messages, 0), *now).is_ok()).count() * messages;
            // A minute's worth, the full bucket of the beginning, and the last call's own.
            assert!((6000..=6100 + 2 * messages).contains(&sent), "{sent} by {messages}");
        }
    }

    #[test]
    fn bytes_are_limited_apart_and_the_longer_wait_is_told() {
        let mut app = Allowance::new(RATES, Duration::ZERO);
        assert_eq!(app.take(RATES, size(200, 11_000), Duration::ZERO), Ok(()));
        assert_eq!(app.take(RATES, size(1, 1), Duration::ZERO), Err(Over { limit: Limit::Bytes, wait_s: 10 }));
    }

    #[test]
    fn without_a_limit_nothing_is_ever_owed() {
        let rates = Rates { messages: 0, bytes: 1000 };
        let mut app = Allowance::new(rates, Duration::ZERO);
        assert!((0..1000).all(|_| app.take(rates, size(600, 0), Duration::ZERO).is_ok()));
    }

    #[test]
    fn an_idle_app_saves_a_seconds_worth_and_no_more() {
        let mut app = Allowance::new(RATES, Duration::ZERO);
        assert_eq!(app.take(RATES, size(50, 0), Duration::ZERO), Ok(()));
        assert!(!app.is_full(RATES, Duration::ZERO) && app.is_full(RATES, Duration::from_secs(3600)));
        let hour = Duration::from_secs(3600);
        let sent = (0..1000).filter(|_| app.take(RATES, size(1, 0), hour).is_ok()).count();
        assert_eq!(sent, 101);
    }
}
