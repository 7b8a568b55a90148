//! vivo's receipts: acknowledgements by task.

use super::super::receipt::{Event, Incoming, Receipt, each, listed, number, text};

/// Task id to {targets, param, ackType, subAckType}.
pub(super) fn read(incoming: &Incoming<'_>) -> Option<Vec<Receipt>> {
    let mut receipts = Vec::new();
    for said in incoming.body.as_object()?.values() {
        let (kind, sub) = (number(&said["ackType"]).unwrap_or(0), number(&said["subAckType"]).unwrap_or(0));
        let event = match (kind, sub) {
            (0, _) => Event::Arrived,
            (102, 20_002) | (104, 2183) => Event::Dead,
            (102, 20_001 | 20_006) => Event::Off,
            (100, 11_001 | 12_000) => Event::Limited,
            _ => Event::Dropped,
        };
        receipts.extend(each(listed(text(said, "targets")), event, &format!("{kind}/{sub}"), said));
    }
    Some(receipts)
}
