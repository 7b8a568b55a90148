//! Vendor work: what is overdue, what is claimed under a lease, and what came of it.

use super::deliveries::set_state;
use super::limits::{self, Limited};
use super::marks::{Death, mark_dead};
use super::ready::{Due, VendorJob, ready};
use super::sql::{OptionalExtension as _, Transaction, params};
use super::standing::note_accepted;
use super::traces::note;
use super::{Store, StoreError, as_i64, as_u64};
use crate::gateway::delivery::{AfterVendor, Hop, Rules, State, over_the_connection};
use crate::gateway::policy::Stop;
use crate::ids::MessageId;
use crate::protocol::{Address, Message};
use std::collections::HashSet;
use std::sync::Arc;

/// Vendor sends claimed at once.
const CLAIM: u32 = 256;

/// What is to be done now.
#[derive(Debug, Default)]
pub struct Claimed {
    pub jobs: Vec<VendorJob>,
    /// To be published to their devices again.
    pub again: Vec<(Address, Arc<Message>)>,
}

/// What came of a vendor send.
#[derive(Debug, Clone)]
pub struct VendorResult {
    pub after: AfterVendor,
    pub hop: Hop,
    pub detail: String,
    /// The vendor's code; `0` for success.
    pub code: String,
    /// The quota it said is used up.
    pub limited: Option<Limited>,
    /// The vendor's id, where the push was for this device alone.
    pub vendor_id: Option<String>,
}

/// A push whose message the device has over its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recall {
    pub address: Address,
    pub message: MessageId,
    pub notifier: String,
    /// Empty where the device's binding is gone.
    pub token: String,
    pub vendor_id: String,
}

/// A vendor send that is due, as stored.
struct Row {
    id: MessageId,
    address: Address,
    attempts: u32,
    body: String,
    accepted_ms: u64,
    expires_ms: u64,
    /// It lies on the device's disk.
    acked: bool,
}

impl Store {
    /// Moves what is overdue, then claims the vendor sends that are due. A claim is a lease: if this
    /// gateway dies the work comes due again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn claim(&self, rules: Rules, most: usize, now_ms: u64) -> Result<Claimed, StoreError> {
        let known = self.known.clone();
        self.run(move |t| {
            let late: Vec<(MessageId, String, bool)> = t
                .prepare_cached("SELECT message, device, CASE WHEN acked_by IS NULL THEN 0 ELSE 1 END FROM deliveries d WHERE state = 'live' AND due_ms <= ?1 LIMIT (?2 + 0) /* claim */")?
                .query_map(params![as_i64(now_ms), CLAIM], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
                .collect::<Result<_, _>>()?;
            for (id, device, acked) in &late {
                let what = if *acked { "no app took it" } else { "no acknowledgement" };
                let detail = format!("{what} within {} ms", rules.ack_deadline_ms);
                note(t, id, device, now_ms, Hop::NoAck, &detail)?;
                set_state(t, id, device, State::Vendor, "", Some(now_ms))?;
            }
            let late: HashSet<(MessageId, String)> = late.into_iter().map(|(id, device, _)| (id, device)).collect();
            let due: Vec<Row> = t
                .prepare_cached(
                    "SELECT d.app, d.user, d.device, d.attempts, m.message, m.accepted_ms, m.expires_ms, m.id,
                     CASE WHEN d.acked_by IS NULL THEN 0 ELSE 1 END
                     FROM deliveries d JOIN messages m ON m.id = d.message
                     WHERE d.state = 'vendor' AND d.due_ms <= ?1 ORDER BY d.due_ms, m.accepted_ms LIMIT (?2 + 0) /* claim */",
                )?
                .query_map(params![as_i64(now_ms), u32::try_from(most).unwrap_or(CLAIM).min(CLAIM)], |r| {
                    Ok(Row {
                        address: Address { app: r.get(0)?, user: r.get(1)?, device: r.get(2)? },
                        attempts: r.get(3)?,
                        body: r.get(4)?,
                        accepted_ms: as_u64(r.get(5)?),
                        expires_ms: as_u64(r.get(6)?),
                        id: r.get(7)?,
                        acked: r.get(8)?,
                    })
                })?
                .collect::<Result<_, _>>()?;
            let mut claimed = Claimed::default();
            for Row { id, address, attempts, body, accepted_ms, expires_ms, acked } in due {
                // One row that cannot be read must not stop all others.
                let Ok(message) = serde_json::from_str::<Message>(&body) else {
                    set_state(t, &id, &address.device, State::Waiting, "", None)?;
                    note(t, &id, &address.device, now_ms, Hop::Stopped, Stop::InvalidMessage.text())?;
                    continue;
                };
                let message = Arc::new(message);
                let due =
                    Due { address: address.clone(), message: message.clone(), attempts, accepted_ms, expires_ms };
                match ready(t, &known, due, rules, now_ms)? {
                    Ok(job) => {
                        t.prepare_cached(
                            "UPDATE deliveries SET attempts = attempts + 1, due_ms = ?3 WHERE message = ?1 AND device = ?2",
                        )?
                        .execute(params![id, address.device, as_i64(now_ms + rules.lease_ms)])?;
                        claimed.jobs.push(job);
                    }
                    Err(stop) => {
                        note(t, &id, &address.device, now_ms, Hop::Stopped, stop.text())?;
                        if acked {
                            set_state(t, &id, &address.device, State::Waiting, "", None)?;
                            continue;
                        }
                        let unanswered = late.contains(&(id, address.device.to_string()));
                        if stopped(t, &message, &address, accepted_ms, unanswered, now_ms)? {
                            claimed.again.push((address, message));
                        }
                    }
                }
            }
            Ok(claimed)
        })
        .await
    }

    /// Notes what the vendor said. A message acknowledged meanwhile stays done, and its push is returned.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn vendor_results(
        &self,
        results: Vec<(VendorJob, VendorResult)>,
        now_ms: u64,
    ) -> Result<Vec<Recall>, StoreError> {
        self.run(move |t| {
            let settled = results.iter().map(|(job, result)| settle(t, job, result, now_ms));
            Ok(settled.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        })
        .await
    }

    /// When [`Self::claim`] has work next.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn next_due(&self) -> Result<Option<u64>, StoreError> {
        self.run(|t| {
            let due: Option<i64> = t
                .prepare_cached(
                    "SELECT min(due_ms) FROM (
                     SELECT min(due_ms) AS due_ms FROM deliveries WHERE state = 'live' AND due_ms IS NOT NULL
                     UNION ALL SELECT min(due_ms) FROM deliveries WHERE state = 'vendor' AND due_ms IS NOT NULL) AS d",
                )?
                .query_row(params![], |r| r.get(0))?;
            Ok(due.map(as_u64))
        })
        .await
    }
}

/// No notification goes out. Whether the message goes over the device's connection again, if it has one.
fn stopped(
    t: &Transaction<'_>,
    message: &Message,
    address: &Address,
    accepted_ms: u64,
    unanswered: bool,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let Address { app, user, device } = address;
    let connection: Option<(String, i64)> = t
        .prepare_cached(
            "SELECT nonce, seen_ms FROM devices WHERE app = ?1 AND user = ?2 AND device = ?3 AND online = 1",
        )?
        .query_row(params![app, user, device], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?;
    let repeat = connection.and_then(|(nonce, seen_ms)| {
        let waited_ms = now_ms.saturating_sub(accepted_ms.max(as_u64(seen_ms)));
        Some((nonce, over_the_connection(waited_ms, unanswered)?))
    });
    let Some((nonce, repeat)) = repeat else {
        set_state(t, &message.id, device, State::Waiting, "", None)?;
        return Ok(false);
    };
    set_state(t, &message.id, device, State::Live, &nonce, Some(now_ms + repeat.due_in_ms))?;
    if repeat.now {
        note(t, &message.id, device, now_ms, Hop::Published, "to the connection again")?;
    }
    Ok(repeat.now)
}

fn settle(
    t: &Transaction<'_>,
    job: &VendorJob,
    result: &VendorResult,
    now_ms: u64,
) -> Result<Option<Recall>, StoreError> {
    let (id, device) = (&job.message.id, &job.address.device);
    note(t, id, device, now_ms, result.hop, &result.detail)?;
    if matches!(result.after, AfterVendor::Pushed) {
        note_accepted(t, &job.address, &job.certificate.name, &job.token, now_ms)?;
    }
    if let Some(limited) = result.limited {
        let (app, notifier) = (&job.certificate.app, &job.certificate.name);
        limits::note(t, app, notifier, &job.token, limited, &result.code, now_ms)?;
    }
    let (state, due) = match result.after {
        AfterVendor::Pushed => (State::Pushed, None),
        AfterVendor::Again { in_ms } => (State::Vendor, Some(now_ms + in_ms)),
        AfterVendor::GiveUp { .. } => (State::Waiting, None),
    };
    // A hello may have come in between: what the vendor has, it has. Anything else counts only for the
    // claim it belongs to.
    let notifier = result.vendor_id.as_ref().map(|_| job.certificate.name.clone());
    let counted = t
        .prepare_cached(
            "UPDATE deliveries SET state = ?3, due_ms = ?4, vendor_id = ?6, notifier = ?7 WHERE message = ?1 AND device = ?2
             AND ((?3 = 'pushed' AND (state = 'live' OR (state = 'waiting' AND acked_by IS NOT NULL)))
                  OR (state = 'vendor' AND attempts = ?5))",
        )?
        .execute(params![id, device, state.as_str(), due.map(as_i64), job.attempts, result.vendor_id, notifier])?;
    if let (0, State::Pushed, Some(vendor_id)) = (counted, state, &result.vendor_id) {
        let done: bool = t
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM deliveries WHERE message = ?1 AND device = ?2 AND state = 'done')",
            )?
            .query_row(params![id, device], |r| r.get(0))?;
        let (address, notifier, token) = (job.address.clone(), job.certificate.name.clone(), job.token.clone());
        let recall = Recall { address, message: id.clone(), notifier, token, vendor_id: vendor_id.clone() };
        return Ok(done.then_some(recall));
    }
    if let AfterVendor::GiveUp { dead_since_ms: Some(since_ms) } = result.after {
        let (app, notifier, token) = (&job.certificate.app, &job.certificate.name, &job.token);
        mark_dead(t, &Death { app, notifier, token, since_ms, code: &result.code })?;
    }
    Ok(None)
}
