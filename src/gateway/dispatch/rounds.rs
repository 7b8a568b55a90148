//! The rounds of what is due: claimed and carried out, swept when its time is over, and a sleep until the next is due.

use super::{Dispatch, report};
use crate::gateway::clock::now_ms;
use crate::gateway::outgoing::Word;
use crate::gateway::push::together;
use crate::gateway::store::{Claimed, StoreError, Swept};
use crate::gateway::timekeeping::Timekeeping;
use crate::service::Service;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often expired messages are removed.
const SWEEP: Duration = Duration::from_secs(60);
/// The longest sleep while every vendor call is in use, in milliseconds.
const ALL_BUSY_MS: u64 = 100;
/// The longest sleep: a clock that jumps is caught up with after this. In milliseconds.
const LONGEST_SLEEP_MS: u64 = 30_000;
/// ... and where others put work into the same store, and may die before they do it.
const SHARED_SLEEP_MS: u64 = 1_000;

impl Dispatch {
    /// Watches deadlines and calls vendors until `stop`, then lets the calls under way finish.
    pub async fn run(self, mut service: Service, time: Timekeeping, stop: CancellationToken) {
        let started = tokio::time::Instant::now();
        let mut swept = started;
        let mut days: Option<tokio::task::JoinHandle<()>> = None;
        loop {
            // It turns at least every LONGEST_SLEEP_MS, which is well below the service's patience.
            service.alive(started.elapsed());
            match self.round().await {
                // More may be due at once; neither the sweep nor the end waits for a quiet moment.
                Ok(busy) if busy && !stop.is_cancelled() && swept.elapsed() < SWEEP => continue,
                Ok(_) => {}
                Err(error) => {
                    error.tell("deliveries cannot be read; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            if swept.elapsed() >= SWEEP {
                swept = tokio::time::Instant::now();
                let may_sweep = report(time.may_sweep().await) == Some(true);
                while may_sweep
                    && let Some(Swept { missed, recalls, more }) =
                        report(self.store.sweep(self.rules(), now_ms()).await)
                {
                    self.push.metrics.expired(missed);
                    self.take_back(recalls);
                    if !more {
                        break;
                    }
                }
                // Files of a day may take long to go.
                if days.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
                    let (store, rules) = (self.store.clone(), self.rules());
                    let keeping = async move {
                        store.keep_days(rules, now_ms(), may_sweep).await?;
                        store.remove_rest().await
                    };
                    days = Some(self.tasks.spawn(async move {
                        if let Err(error) = keeping.await {
                            error
                                .tell("days or removed users could not be looked after; it is tried again in a minute");
                        }
                    }));
                }
            }
            self.alarm.looking();
            let due = report(self.store.next_due().await).flatten();
            let now = now_ms();
            let longest = if self.store.is_shared() { SHARED_SLEEP_MS } else { LONGEST_SLEEP_MS };
            let until = due.unwrap_or(u64::MAX).min(now + longest);
            // With every call in use that it may have, what is due waits for one to end.
            let starved = until <= now && self.calls.for_waiting() == 0;
            let until = if starved { now + ALL_BUSY_MS } else { until };
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.alarm.sleep(until, now, starved) => {}
            }
        }
        self.tasks.close();
        // Calls to vendors have their own limit; what is cut off here has a lease and comes again.
        drop(tokio::time::timeout(Duration::from_secs(10), self.tasks.wait()).await);
    }

    /// Claims what is due. `true` when there may be more at once.
    async fn round(&self) -> Result<bool, StoreError> {
        // No more than can be sent now: a lease runs from the claim.
        let reach = self.reach(self.calls.for_waiting());
        let Claimed { jobs, again, elsewhere, silent } = self.store.claim(self.rules(), reach, now_ms()).await?;
        let any = !jobs.is_empty() || !silent.is_empty();
        if !silent.is_empty() {
            // Apart from the claim: rows of devices come before those of deliveries.
            self.store.silent(silent, now_ms()).await?;
        }
        elsewhere.iter().for_each(|node| self.neighbours.look_at_orders(node));
        for (address, message) in again {
            self.send([address], || Word::from(&*message));
        }
        for group in together(jobs) {
            let Some(first) = group.first() else { continue };
            let Some(call) = self.calls.next(&first.address.app).await else { return Ok(false) };
            self.carry(group, call);
        }
        Ok(any)
    }
}
