//! vivo's receipts: acknowledgements by task.

use super::super::certificate::Certificate;
use super::super::receipt::{Event, Incoming, Read, Receipt, each, listed, number, text};
use serde_json::Value as Json;

pub(super) fn read(_: &Certificate, incoming: &Incoming<'_>) -> Read {
    Ok(receipts(&incoming.body))
}

/// Task id to {targets, param, ackType, subAckType}.
fn receipts(body: &Json) -> Option<Vec<Receipt>> {
    let mut receipts = Vec::new();
    for said in body.as_object()?.values() {
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
