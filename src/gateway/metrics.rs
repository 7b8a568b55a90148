//! What is counted, for Prometheus: one name for each thing, with the words the traces and logs use.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    vendor: &'static str,
    outcome: &'static str,
    /// The vendor's own.
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Passed {
    hop: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Received {
    vendor: &'static str,
    event: String,
}

/// Codes come from outside: a longer one is cut, so that a vendor cannot fill the memory.
const LONGEST_CODE: usize = 40;

/// The counters; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    answers: Family<Answered, Counter>,
    receipts: Family<Received, Counter>,
    vendor_seconds: Histogram,
    accepted: Counter,
    hops: Family<Passed, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let answers = Family::default();
        let receipts = Family::default();
        // From 1 ms to 16 s.
        let vendor_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let mut registry = Registry::with_prefix("impush_gateway");
        registry.register("vendor_answers", "Vendors' answers for single tokens", answers.clone());
        registry.register("receipts", "Receipts from vendors", receipts.clone());
        registry.register(
            "vendor_call_seconds",
            "Time of one vendor call, its credential included",
            vendor_seconds.clone(),
        );
        let (accepted, hops) = (Counter::default(), Family::default());
        registry.register("messages_accepted", "Messages stored for delivery", accepted.clone());
        registry.register("hops", "Steps of messages on their way, by the trace's word", hops.clone());
        Self { registry: Arc::new(registry), answers, receipts, vendor_seconds, accepted, hops }
    }
}

impl Metrics {
    pub fn answered(&self, vendor: &'static str, outcome: &'static str, code: &str) {
        let code = code.chars().take(LONGEST_CODE).collect();
        self.answers.get_or_create(&Answered { vendor, outcome, code }).inc();
    }

    pub fn accepted(&self) {
        self.accepted.inc();
    }

    pub fn hop(&self, hop: &'static str) {
        self.hops.get_or_create(&Passed { hop }).inc();
    }

    /// Messages that were kept as long as any is, and that some device never took.
    pub fn expired(&self, count: usize) {
        self.hops.get_or_create(&Passed { hop: "expired" }).inc_by(count as u64);
    }

    pub fn called(&self, took: Duration) {
        self.vendor_seconds.observe(took.as_secs_f64());
    }

    pub fn received(&self, vendor: &'static str, event: &str) {
        self.receipts.get_or_create(&Received { vendor, event: event.to_owned() }).inc();
    }

    /// The text Prometheus reads.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a text cannot fail.
        let _ = encode(&mut out, &self.registry);
        out
    }
}
