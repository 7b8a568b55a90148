//! What local apps say of messages and notifications: told to the gateway now, or kept for the next connection.

use super::{Kind, Now, RequestId, Session};
use crate::ids::MessageId;
use crate::protocol::Up;
use serde_json::json;

/// Receipts and taken messages kept for the gateway; more drop the oldest.
const MAX_REPORTS: usize = 512;

impl Session {
    pub(super) fn ask_receipt(&mut self, id: RequestId, message: MessageId, event: String) {
        if !["arrived", "clicked"].contains(&event.as_str()) {
            let why = "`event` is arrived or clicked";
            return self.refuse(id, 400, "bad_receipt", why);
        }
        if self.saved.login.is_none() {
            return self.refuse(id, 409, "logged_out", "nobody is logged in; a receipt belongs to a login");
        }
        let told = self.online().is_some();
        if told {
            self.send(&Up::Receipt { id: message, event });
        } else {
            let receipts = &mut self.saved.reports.receipts;
            receipts.push((message, event));
            let excess = receipts.len().saturating_sub(MAX_REPORTS);
            receipts.drain(..excess);
            self.persist(Kind::Reports);
        }
        // One that is not told now is kept, and told with the next connection.
        self.answer(id, Ok(json!({ "told": told })));
    }

    /// Something a local app took for the first time: the gateway is told with the next traffic.
    pub(super) fn on_taken(&mut self, now: Now, ids: Vec<MessageId>) {
        if ids.is_empty() || self.saved.login.is_none() {
            return;
        }
        if self.online().is_some() {
            let woke = self.wakes.credit(&ids);
            self.send(&Up::Taken { ids, woke });
            if std::mem::take(&mut self.starved) {
                self.greet(now);
            }
            return;
        }
        let taken = &mut self.saved.reports.taken;
        taken.extend(ids);
        let excess = taken.len().saturating_sub(MAX_REPORTS);
        taken.drain(..excess);
        self.persist(Kind::Reports);
    }

    /// What was kept while there was no connection.
    pub(super) fn tell_reports(&mut self) {
        if self.saved.reports.is_empty() {
            return;
        }
        let reports = std::mem::take(&mut self.saved.reports);
        if !reports.taken.is_empty() {
            self.send(&Up::Taken { ids: reports.taken, woke: Vec::new() });
        }
        for (id, event) in reports.receipts {
            self.send(&Up::Receipt { id, event });
        }
        self.persist(Kind::Reports);
    }
}
