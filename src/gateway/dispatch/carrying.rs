//! What waits for vendors: one call for all that go together, what came of it, and who goes on when a vendor serves again.

use super::{Dispatch, report};
use crate::delivery::AfterVendor;
use crate::gateway::calls::Call;
use crate::gateway::clock::now_ms;
use crate::gateway::store::{VendorJob, Waiting};
use crate::vendors::certificate::Certificate;
use tracing::info;

impl Dispatch {
    /// One vendor call, and what comes of it.
    pub(super) fn carry(&self, group: Vec<VendorJob>, call: Call) {
        let this = self.clone();
        self.tasks.spawn(async move {
            let Some(certificate) = group.first().map(|job| job.certificate.clone()) else { return };
            let results = this.push.push(group).await;
            drop(call);
            // A claim for a single call costs the store as much as one for many.
            if this.calls.for_waiting() > 0 {
                this.alarm.calls_free();
            }
            let now = now_ms();
            let again = results.iter().filter_map(|(_, result)| match result.after {
                AfterVendor::Again { in_ms } => Some(now + in_ms),
                AfterVendor::Pushed | AfterVendor::GiveUp { .. } => None,
            });
            let again = again.min();
            let waiting: Vec<Waiting> = results
                .iter()
                .filter(|(_, result)| result.held)
                .map(|(job, _)| Waiting {
                    message: job.message.id.clone(),
                    address: job.address.clone(),
                    attempt: job.attempts,
                })
                .collect();
            let settled = this.store.vendor_results(results, this.rules(), now).await;
            this.take_back(report(settled).unwrap_or_default());
            this.hold(&certificate, waiting).await;
            again.into_iter().for_each(|at_ms| this.alarm.ring(at_ms));
        });
    }

    /// While its circuit is open they wait for the certificate; once it serves again, so do none.
    async fn hold(&self, certificate: &Certificate, waiting: Vec<Waiting>) {
        let (app, name) = (&certificate.app, &certificate.name);
        if self.push.open(certificate).is_some() {
            waiting.into_iter().for_each(|waiting| self.held.wait(app, name, waiting));
        } else {
            self.on_serving(app, name).await;
        }
    }

    /// A certificate serves again, or may: what waits for it is due now, the oldest first.
    pub async fn on_serving(&self, app: &str, name: &str) {
        let waiting = self.held.release(app, name);
        if waiting.is_empty() {
            return;
        }
        let now = now_ms();
        info!(
            event = "certificate.waiting_go_on",
            app,
            certificate = name,
            count = waiting.len(),
            "what waited for this certificate goes on"
        );
        report(self.store.wake(waiting, now).await);
        self.alarm.ring(now);
    }
}
