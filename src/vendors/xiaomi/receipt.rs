//! Xiaomi's receipts (dev.mi.com/xiaomihyperos/documentation, page 1558).

use super::super::receipt::{Event, Incoming, Receipt, each, listed, number, text};
use serde_json::{Map, Value as Json};

/// Form field `data`: message id to {param, type, targets, barStatus, ...} (page 1558).
pub(super) fn read(incoming: &Incoming<'_>) -> Option<Vec<Receipt>> {
    let data: Map<String, Json> = serde_json::from_str(incoming.form.get("data")?).ok()?;
    let mut receipts = Vec::new();
    for said in data.values() {
        let kind = number(&said["type"])?;
        let event = match kind {
            1 => Event::Arrived,
            2 => Event::Clicked,
            16 => Event::Dead,
            32 => Event::Off,
            128 => Event::Limited,
            _ => Event::Dropped,
        };
        receipts.extend(each(listed(text(said, "targets")), event, &kind.to_string(), said));
    }
    Some(receipts)
}
