//! Meizu's receipts: a form that holds JSON, with an agreed token (github.com/MEIZUPUSH/PushAPI, README).

use super::super::certificate::Certificate;
use super::super::receipt::{Event, Incoming, Receipt, Refused, each, number};
use serde_json::{Map, Value as Json};

pub(super) fn prove(certificate: &Certificate, incoming: &Incoming<'_>) -> Result<Option<String>, Refused> {
    let wanted = certificate.field("callback_token");
    if wanted.is_some() && incoming.form.get("access_token") != wanted.as_ref() {
        return Err(Refused::AccessToken);
    }
    Ok(None)
}

/// Form field `cb`: `msgId-type` to {param, type, targets[]} (PushAPI README).
pub(super) fn read(incoming: &Incoming<'_>) -> Option<Vec<Receipt>> {
    let data: Map<String, Json> = serde_json::from_str(incoming.form.get("cb")?).ok()?;
    let mut receipts = Vec::new();
    for said in data.values() {
        let kind = number(&said["type"])?;
        let event = match kind {
            1 => Event::Arrived,
            2 => Event::Clicked,
            _ => Event::Dropped,
        };
        let targets = said["targets"].as_array().into_iter().flatten().filter_map(Json::as_str);
        receipts.extend(each(targets, event, &kind.to_string(), said));
    }
    Some(receipts)
}
