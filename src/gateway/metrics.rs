//! What is counted, for Prometheus: one name for each thing, with the words the traces and logs use.

use super::store::Used;
use crate::untrusted::label;
use crate::vendors::Vendor;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedInput {
    from: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitedRequest {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVendor {
    vendor: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Enrolled {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NotLetIn {
    code: String,
}

/// Codes come from outside: no more different ones are told apart, so that a vendor cannot fill the memory.
const MOST_CODES: usize = 256;

/// The counters; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    answers: Family<Answered, Counter>,
    codes: Arc<Mutex<HashSet<String>>>,
    receipts: Family<Received, Counter>,
    vendor_seconds: Histogram,
    accepted: Counter,
    hops: Family<Passed, Counter>,
    refused: Family<RefusedInput, Counter>,
    limited: Family<LimitedRequest, Counter>,
    enrolments: Family<Enrolled, Counter>,
    clock_ahead: Gauge<f64, AtomicU64>,
    links: Links,
    gateways: Gauge,
    notices_come: Gauge,
    out_of_use: Family<OfVendor, Gauge>,
    rejecting: Family<OfVendor, Gauge>,
    /// Transactions, jobs and statements.
    store: [Counter; 3],
}

/// Devices' connections to the gateway's own endpoint.
#[derive(Debug, Clone)]
struct Links {
    open: Gauge,
    ended: Family<Ended, Counter>,
    not_let_in: Family<NotLetIn, Counter>,
    bytes_in: Counter,
    bytes_out: Counter,
    round_trip_seconds: Histogram,
}

impl Links {
    fn registered(registry: &mut Registry) -> Self {
        let (open, ended) = (Gauge::default(), Family::default());
        let not_let_in = Family::default();
        let (bytes_in, bytes_out) = (Counter::default(), Counter::default());
        // From 1 ms to 65 s: a radio that sleeps is slow to answer.
        let round_trip_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 17));
        registry.register("connections", "Devices' connections to the gateway's own endpoint", open.clone());
        registry.register("connections_ended", "Connections of devices that are over, by the cause", ended.clone());
        registry.register("connects_refused", "CONNECTs that were refused, by the CONNACK's code", not_let_in.clone());
        registry.register("connection_bytes_in", "Bytes from devices, without TLS", bytes_in.clone());
        registry.register("connection_bytes_out", "Bytes to devices, without TLS", bytes_out.clone());
        registry.register(
            "connection_round_trip_seconds",
            "Time from a message for a device to its acknowledgement of the packet, one at a time of each connection",
            round_trip_seconds.clone(),
        );
        Self { open, ended, not_let_in, bytes_in, bytes_out, round_trip_seconds }
    }
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
        let refused = Family::default();
        registry.register("input_refused", "What came in and was not taken, by who said it and why", refused.clone());
        let limited = Family::default();
        registry.register(
            "requests_limited",
            "Requests that were answered 429 because their app has come to a limit (`requests`, `messages`, `bytes`)",
            limited.clone(),
        );
        let enrolments = Family::default();
        registry.register(
            "enrolments",
            "Devices that showed an enrolment code, by what came of it",
            enrolments.clone(),
        );
        let clock_ahead = Gauge::<f64, AtomicU64>::default();
        registry.register(
            "clock_ahead_seconds",
            "By how much this machine's clock is ahead of the shared database's",
            clock_ahead.clone(),
        );
        let (gateways, notices_come) = (Gauge::default(), Gauge::default());
        registry.register(
            "gateways",
            "Gateways with devices of their own that share the database and live, this one counted",
            gateways.clone(),
        );
        registry.register(
            "notices_come",
            "Whether other gateways' notices come at once (1), or the database is looked through instead (0)",
            notices_come.clone(),
        );
        let (out_of_use, rejecting) = (Family::default(), Family::default());
        registry.register(
            "certificates_out_of_use",
            "Certificates whose vendor refuses them or is away, so that it is not called now",
            out_of_use.clone(),
        );
        registry.register(
            "certificates_rejecting",
            "Certificates whose vendor refuses each notification for good and accepts none",
            rejecting.clone(),
        );
        let store: [Counter; 3] = Default::default();
        for (counter, name, help) in [
            (&store[0], "store_transactions", "Transactions of the store"),
            (&store[1], "store_jobs", "Calls, acknowledgements and other pieces of work in the store's transactions"),
            (&store[2], "store_statements", "Statements of the store; on PostgreSQL each is a round trip"),
        ] {
            registry.register(name, help, counter.clone());
        }
        let links = Links::registered(&mut registry);
        let (registry, codes) = (Arc::new(registry), Arc::default());
        Self {
            registry,
            answers,
            codes,
            receipts,
            vendor_seconds,
            accepted,
            hops,
            refused,
            limited,
            enrolments,
            clock_ahead,
            links,
            gateways,
            notices_come,
            out_of_use,
            rejecting,
            store,
        }
    }
}

impl Metrics {
    pub fn answered(&self, vendor: &'static str, outcome: &'static str, code: &str) {
        let code = self.known(label(code)).to_owned();
        self.answers.get_or_create(&Answered { vendor, outcome, code }).inc();
    }

    fn known<'c>(&self, code: &'c str) -> &'c str {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        if !codes.contains(code) {
            if codes.len() >= MOST_CODES {
                return "other";
            }
            codes.insert(code.to_owned());
        }
        code
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

    /// Something came in `from` a device, an app, a vendor or the broker and was not taken. Returns whether it is the
    /// first of its kind.
    pub fn refused(&self, from: &'static str, reason: &'static str) -> bool {
        self.refused.get_or_create(&RefusedInput { from, reason }).inc() == 0
    }

    pub fn limited(&self, limit: &'static str) {
        self.limited.get_or_create(&LimitedRequest { limit }).inc();
    }

    pub fn enrolled(&self, outcome: &'static str) {
        self.enrolments.get_or_create(&Enrolled { outcome }).inc();
    }

    pub fn clock_ahead(&self, ahead_ms: i64) {
        self.clock_ahead.set(ahead_ms as f64 / 1000.0);
    }

    pub fn link_began(&self) {
        self.links.open.inc();
    }

    pub fn link_ended(&self, cause: &'static str) {
        self.links.open.dec();
        self.links.ended.get_or_create(&Ended { cause }).inc();
    }

    /// A CONNECT was refused with one of MQTT's codes.
    pub fn connect_refused(&self, code: &impl std::fmt::Debug) {
        self.links.not_let_in.get_or_create(&NotLetIn { code: format!("{code:?}") }).inc();
    }

    /// Bytes from a device and to it.
    pub fn carried(&self, read: usize, written: usize) {
        self.links.bytes_in.inc_by(read as u64);
        self.links.bytes_out.inc_by(written as u64);
    }

    /// A device acknowledged a message.
    pub fn round_trip(&self, took: Duration) {
        self.links.round_trip_seconds.observe(took.as_secs_f64());
    }

    pub fn neighbours(&self, alive: usize, listens: bool) {
        self.gateways.set(i64::try_from(alive).unwrap_or(i64::MAX));
        self.notices_come.set(i64::from(listens));
    }

    /// Certificates that are in trouble: each one's vendor, whether it is out of use, and whether all it sends is refused.
    pub fn certificates(&self, in_trouble: &[(Vendor, bool, bool)]) {
        for vendor in Vendor::ORDER {
            let count = |is: &dyn Fn(&(Vendor, bool, bool)) -> bool| {
                let count = in_trouble.iter().filter(|one| one.0 == vendor && is(one)).count();
                i64::try_from(count).unwrap_or(i64::MAX)
            };
            let of = OfVendor { vendor: vendor.as_str() };
            self.out_of_use.get_or_create(&of).set(count(&|one| one.1));
            self.rejecting.get_or_create(&of).set(count(&|one| one.2));
        }
    }

    /// The text Prometheus reads.
    pub fn text(&self, used: Used) -> String {
        for (counter, now) in self.store.iter().zip([used.transactions, used.jobs, used.statements]) {
            counter.inner().store(now, Ordering::Relaxed);
        }
        let mut out = String::new();
        // Writing to a text cannot fail.
        let _ = encode(&mut out, &self.registry);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vendor_that_answers_a_new_code_each_time_makes_no_new_line_each_time() {
        let metrics = Metrics::default();
        metrics.answered("xiaomi", "unknown", "22022");
        for at in 0..10_000 {
            metrics.answered("xiaomi", "unknown", &format!("C{at}"));
            metrics.answered("xiaomi", "unknown", &format!("\u{1b}[2J {at}"));
        }
        metrics.answered("xiaomi", "unknown", "22022");
        let text = metrics.text(Used::default());
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("impush_gateway_vendor_answers")).collect();
        assert!((MOST_CODES..=MOST_CODES + 1).contains(&lines.len()), "{}", lines.len());
        assert!(lines.iter().any(|line| line.contains("code=\"22022\"") && line.ends_with(" 2")));
        assert!(!text.contains('\u{1b}'));
    }
}
