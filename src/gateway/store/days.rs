//! Which partitions there should be on PostgreSQL, and which may go whole: messages, their deliveries and their events lie by
//! the days that the messages came on, as their ids say.
//!
//! Deliveries lie eight days together, messages and events one: what waits for a device is looked for in every partition of
//! deliveries at each acknowledgement, while a message and its events are found by the id, in one.

use crate::delivery::Rules;
use crate::ids::MessageId;
use std::collections::BTreeMap;

pub(super) const DAY_MS: u64 = 86_400_000;
/// Days for which there are partitions, today's among them: so long others may hold up that more are made.
const AHEAD: u64 = 3;
/// Into about so many partitions what is kept is divided: each costs every statement that looks through all of them.
const MESSAGES_IN: u64 = 8;
const DELIVERIES_IN: u64 = 1;

/// A table that is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Table {
    Messages,
    Deliveries,
    Events,
}

impl Table {
    pub const ALL: [Self; 3] = [Self::Messages, Self::Deliveries, Self::Events];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Deliveries => "deliveries",
            Self::Events => "events",
        }
    }

    /// Where a row's message stands.
    pub const fn column(self) -> &'static str {
        match self {
            Self::Messages => "id",
            Self::Deliveries | Self::Events => "message",
        }
    }

    /// What holds that no partition is there for.
    pub fn rest(self) -> String {
        format!("{}_rest", self.name())
    }

    /// What a database held before it was divided.
    pub fn before(self) -> String {
        format!("{}_before", self.name())
    }

    /// Makes what holds this span.
    pub fn make(self, span: Span) -> String {
        let name = format!("{}_{}", self.name(), span.day());
        let [from, to] = [span.from_ms, span.to_ms].map(MessageId::from_ms);
        self.made(&name, &format!("FOR VALUES FROM ('{from}') TO ('{to}')"))
    }

    /// Makes what holds that no partition is there for.
    pub fn make_rest(self) -> String {
        self.made(&self.rest(), "DEFAULT")
    }

    fn made(self, name: &str, what: &str) -> String {
        let table = self.name();
        let own = match self {
            // Over all partitions the user's lock sees to it that no key is taken twice: an index that is unique over all of them
            // would have to hold the id.
            Self::Messages => {
                format!(
                    "CREATE UNIQUE INDEX {name}_by_key ON {name} (app, user, idempotency) WHERE idempotency IS NOT NULL;"
                )
            }
            Self::Deliveries => String::new(),
            Self::Events => format!("ALTER TABLE {name} ADD PRIMARY KEY (number);"),
        };
        format!("CREATE TABLE {name} PARTITION OF {table} {what}; {own}")
    }
}

/// From one moment to another, in milliseconds since the Unix epoch, without the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub from_ms: u64,
    pub to_ms: u64,
}

impl Span {
    /// As PostgreSQL says a partition's bounds; `None`: it is for what no other is for.
    pub fn read(bounds: &str) -> Option<Self> {
        let mut ids = bounds.split('\'').skip(1).step_by(2).map(|id| u64::from_str_radix(id, 16));
        let (first, second) = (ids.next()?.ok()?, ids.next());
        match second {
            Some(to_ms) => Some(Self { from_ms: first, to_ms: to_ms.ok()? }),
            // From before everything.
            None => Some(Self { from_ms: 0, to_ms: first }),
        }
    }

    /// Its first day, as `20261128`.
    pub fn day(self) -> String {
        let moment = i64::try_from(self.from_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        moment.unwrap_or_default().strftime("%Y%m%d").to_string()
    }
}

/// The day's first moment.
pub(super) const fn day_of(ms: u64) -> u64 {
    ms - ms % DAY_MS
}

/// How long a message is kept, and then its trace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub keep_ms: u64,
    pub trace_ms: u64,
}

impl Kept {
    /// Unless it is set.
    pub const UNSET: Self = Self { keep_ms: 7 * DAY_MS, trace_ms: DAY_MS };

    /// Messages of before this moment are over.
    pub const fn until(self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.keep_ms)
    }

    /// How much of a table lies together, in milliseconds.
    pub fn width_ms(self, table: Table) -> u64 {
        let days = (self.keep_ms + self.trace_ms).div_ceil(DAY_MS);
        let into = if table == Table::Deliveries { DELIVERIES_IN } else { MESSAGES_IN };
        days.div_ceil(into).max(1) * DAY_MS
    }
}

impl From<&Rules> for Kept {
    fn from(rules: &Rules) -> Self {
        Self { keep_ms: rules.keep_s * 1000, trace_ms: rules.trace_s * 1000 }
    }
}

/// What is to be made so that today and the days ahead have their place, from this day on. It need not be in line with what is
/// there: a clock may have been wrong, and a gateway away for days.
pub(super) fn wanted(there: &[Span], width_ms: u64, from_ms: u64, now_ms: u64) -> Vec<Span> {
    let until = day_of(now_ms) + AHEAD * DAY_MS;
    let mut at = day_of(now_ms).max(from_ms);
    let mut wanted = Vec::new();
    while at < until {
        if let Some(span) = there.iter().find(|span| (span.from_ms..span.to_ms).contains(&at)) {
            at = span.to_ms;
            continue;
        }
        let next = there.iter().map(|span| span.from_ms).filter(|from_ms| *from_ms > at).min();
        let to_ms = (at + width_ms).min(next.unwrap_or(u64::MAX));
        wanted.push(Span { from_ms: at, to_ms });
        at = to_ms;
    }
    wanted
}

/// The first end of partitions whose messages' traces were kept for as long as they are. `swept`: since when every message
/// before an end was come by, which means that none lives any longer.
pub(super) fn over(ends: &[u64], swept: &BTreeMap<u64, u64>, kept: Kept, now_ms: u64) -> Option<u64> {
    let traced_ms = now_ms.saturating_sub(kept.trace_ms);
    let is_over = |end: &u64| *end <= kept.until(traced_ms) && swept.get(end).is_some_and(|since| *since <= traced_ms);
    ends.iter().copied().filter(is_over).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 100 * DAY_MS + DAY_MS / 2;

    fn days(from: u64, to: u64) -> Span {
        Span { from_ms: from * DAY_MS, to_ms: to * DAY_MS }
    }

    #[test]
    fn today_and_two_days_ahead_have_their_place_whatever_is_there() {
        let one = |there: &[Span]| wanted(there, DAY_MS, 0, NOON);
        assert_eq!(one(&[]), [days(100, 101), days(101, 102), days(102, 103)]);
        assert_eq!(one(&[days(99, 100), days(100, 101), days(101, 102)]), [days(102, 103)]);
        assert_eq!(one(&[days(0, 102)]), [days(102, 103)], "what was there before it was divided");
        assert_eq!(one(&[days(100, 103)]), []);
        assert_eq!(
            one(&[days(90, 94)]),
            [days(100, 101), days(101, 102), days(102, 103)],
            "after days without a gateway"
        );
        assert_eq!(one(&[days(101, 102), days(9000, 9001)]), [days(100, 101), days(102, 103)], "a clock was wrong");
    }

    #[test]
    fn wider_ones_fill_what_is_between_others_and_begin_after_what_lies_elsewhere() {
        let four = |there: &[Span], from| wanted(there, 4 * DAY_MS, from * DAY_MS, NOON);
        assert_eq!(four(&[], 0), [days(100, 104)]);
        assert_eq!(four(&[days(98, 102)], 0), [days(102, 106)]);
        assert_eq!(four(&[days(102, 106)], 0), [days(100, 102)]);
        assert_eq!(four(&[], 101), [days(101, 105)], "today's lie in the rest already");
        assert_eq!(four(&[], 103), []);
    }

    #[test]
    fn what_is_kept_lies_in_a_dozen_partitions_of_messages_and_four_of_deliveries_however_long_it_is() {
        let width = |table, days: u64| Kept { keep_ms: (days - 1) * DAY_MS, ..Kept::UNSET }.width_ms(table) / DAY_MS;
        assert_eq!([1, 8, 9, 60].map(|days| width(Table::Messages, days)), [1, 1, 2, 8]);
        assert_eq!([1, 8, 9, 60].map(|days| width(Table::Deliveries, days)), [1, 8, 9, 60]);
    }

    #[test]
    fn a_day_goes_once_its_last_message_was_come_by_and_its_trace_was_kept() {
        let ends = [90 * DAY_MS, 91 * DAY_MS, 92 * DAY_MS];
        let at = |now: u64, swept: &[(u64, u64)]| {
            let swept = swept.iter().map(|(end, since)| (end * DAY_MS, since * DAY_MS)).collect();
            over(&ends, &swept, Kept::UNSET, now * DAY_MS).map(|end| end / DAY_MS)
        };
        assert_eq!(at(98, &[(90, 97)]), Some(90));
        assert_eq!(at(97, &[(90, 96)]), None, "it is kept for eight days");
        assert_eq!(at(98, &[]), None, "not all of it was come by");
        assert_eq!(at(98, &[(90, 98)]), None, "a message of it lived longer");
        assert_eq!(at(120, &[(92, 99), (91, 98), (90, 97)]), Some(90), "the oldest first");
    }

    #[test]
    fn bounds_are_read_as_they_are_made() {
        let span = days(100, 101);
        assert!(Table::Events.make(span).starts_with(
            "CREATE TABLE events_19700411 PARTITION OF events FOR VALUES FROM ('000202fbf000') TO ('000208224c00');"
        ));
        assert_eq!(Span::read("FOR VALUES FROM ('000202fbf000') TO ('000208224c00')"), Some(span));
        assert_eq!(Span::read("FOR VALUES FROM (MINVALUE) TO ('000208224c00')"), Some(days(0, 101)));
        assert_eq!(Span::read("DEFAULT"), None);
    }
}
