//! Honor's receipts: a shape it shares, with codes of its own.

use super::super::receipt::{Event, Incoming, Receipt, statuses};

pub(super) fn read(incoming: &Incoming<'_>) -> Option<Vec<Receipt>> {
    statuses(&incoming.body, event)
}

/// The codes a public client of 2026 lists.
fn event(status: i64) -> Event {
    match status {
        40_000_001 | 40_000_002 => Event::Arrived,
        40_000_007 => Event::Clicked,
        40_000_003 | 40_000_004 => Event::Dead,
        40_000_005 | 40_000_006 => Event::Off,
        40_000_009 => Event::Limited,
        _ => Event::Dropped,
    }
}
