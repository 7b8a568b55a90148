//! OPPO's receipts: an array of events.

use super::super::certificate::Certificate;
use super::super::receipt::{Event, Incoming, Read, Receipt, each, listed, text};
use serde_json::Value as Json;

pub(super) fn read(_: &Certificate, incoming: &Incoming<'_>) -> Read {
    Ok(receipts(&incoming.body))
}

/// An array of {registrationIds, eventType, param}.
fn receipts(body: &Json) -> Option<Vec<Receipt>> {
    let mut receipts = Vec::new();
    for said in body.as_array()? {
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
