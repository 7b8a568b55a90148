//! What an answer's headers say beside it: how long to wait, and what time it is at the vendor.

use hyper::HeaderMap;
use hyper::header::{DATE, HeaderName, RETRY_AFTER};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest wait that is believed, in milliseconds: a notification seldom lives longer.
const LONGEST_WAIT_MS: u64 = 86_400_000;
/// From this distance on two clocks are far from each other, in milliseconds: vendors allow five to ten minutes, Apple an
/// hour, for what is signed by time.
const FAR_MS: u64 = 60_000;

/// Beside one answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date, which is meant by the vendor's own clock.
    pub wait_ms: Option<u64>,
    /// By how much the vendor's clock is ahead of ours, where it is far from it. In milliseconds.
    pub ahead_ms: Option<i64>,
}

impl Heard {
    /// `now_ms`: our time when the answer came, in milliseconds since the Unix epoch.
    pub fn of(headers: &HeaderMap, now_ms: u64) -> Self {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let date = |text: &str| httpdate::parse_http_date(text).ok().map(in_ms);
        let theirs_ms = text(DATE).and_then(date);
        let wait_ms = text(RETRY_AFTER).and_then(|said| match said.parse::<u64>() {
            Ok(seconds) => Some(seconds.saturating_mul(1000)),
            Err(_) => Some(date(said)?.saturating_sub(theirs_ms.unwrap_or(now_ms))),
        });
        let ahead_ms = theirs_ms.map(|theirs_ms| theirs_ms.cast_signed() - now_ms.cast_signed());
        Self {
            wait_ms: wait_ms.map(|wait_ms| wait_ms.min(LONGEST_WAIT_MS)),
            ahead_ms: ahead_ms.filter(|ahead_ms| ahead_ms.unsigned_abs() >= FAR_MS),
        }
    }

    /// To a vendor's words for refusing a credential: that it may be the clock's fault.
    pub fn explain(self, reason: &mut String) {
        if let Some(ahead_ms) = self.ahead_ms {
            let (seconds, side) = (ahead_ms.unsigned_abs() / 1000, if ahead_ms > 0 { "ahead of" } else { "behind" });
            reason.push_str(&format!("; the vendor's clock is {seconds} s {side} this machine's: set the clock"));
        }
    }
}

fn in_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW_MS: u64 = 784_111_777_000;
    const DATE_NOW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn heard(retry_after: &str, date: &str) -> Heard {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [(RETRY_AFTER, retry_after), (DATE, date)].into_iter().filter(|(_, value)| !value.is_empty())
        {
            headers.insert(name, value.parse().expect("a value"));
        }
        Heard::of(&headers, NOW_MS)
    }

    #[test]
    fn a_wait_is_read_as_seconds_and_as_a_date_by_the_vendors_clock() {
        for (retry_after, date, expected) in [
            ("120", "", Some(120_000)),
            (" 0 ", "", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", "", Some(60_000)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", "", Some(60_000)),
            ("Sun Nov  6 08:50:37 1994", "", Some(60_000)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", "Sun, 06 Nov 1994 08:50:07 GMT", Some(30_000)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", DATE_NOW, Some(0)),
            ("99999999999999999999", "", None),
            ("4000000000", "", Some(LONGEST_WAIT_MS)),
            ("-5", "", None),
            ("soon", DATE_NOW, None),
            ("", DATE_NOW, None),
        ] {
            assert_eq!(heard(retry_after, date).wait_ms, expected, "{retry_after:?} {date:?}");
        }
    }

    #[test]
    fn a_clock_is_named_only_where_it_is_far_from_ours() {
        for (date, expected) in [
            (DATE_NOW, ""),
            ("Sun, 06 Nov 1994 08:50:00 GMT", ""),
            ("not a date", ""),
            ("", ""),
            ("Sun, 06 Nov 1994 09:49:37 GMT", "; the vendor's clock is 3600 s ahead of this machine's: set the clock"),
            ("Sun, 06 Nov 1994 08:39:37 GMT", "; the vendor's clock is 600 s behind this machine's: set the clock"),
        ] {
            let mut reason = String::new();
            heard("", date).explain(&mut reason);
            assert_eq!(reason, expected, "{date:?}");
        }
    }
}
