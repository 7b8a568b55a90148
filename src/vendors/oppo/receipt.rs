//! OPPO's receipts: an array of events.

use super::super::receipt::{Event, Incoming, Receipt, each, listed, text};

/// An array of {registrationIds, eventType, param}.
pub(super) fn read(incoming: &Incoming<'_>) -> Option<Vec<Receipt>> {
    let mut receipts = Vec::new();
    for said in incoming.body.as_array()? {
        let kind = text(said, "eventType");
        let event = match kind {
            "push_arrive" => Event::Arrived,
            "push_click" => Event::Clicked,
            "regid_invalid" => Event::Dead,
            "user_daily_limit" | "message_night_control" => Event::Limited,
            _ => Event::Dropped,
        };
        receipts.extend(each(listed(text(said, "registrationIds")), event, kind, said));
    }
    Some(receipts)
}
