//! What is known of a device's connection: since when it stands, what went over it, how fast, and how it ended.

use crate::gateway::clock::now_ms;
use rumqttc::v5::mqttbytes::v5::DisconnectReasonCode;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Connections that are over and still spoken of: each costs some 200 bytes, and a device that flaps takes as many.
const MOST_ENDS: usize = 10_000;

/// A connection that stands. Its own task writes it, whoever asks reads it.
#[derive(Debug)]
pub(super) struct Link {
    since_ms: u64,
    started: Instant,
    heard_after_ms: AtomicU64,
    /// Zero: nothing was acknowledged yet.
    round_trip_us: AtomicU32,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// What a connection was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Carried {
    pub since_ms: u64,
    pub heard_ms: u64,
    /// From the last message that was measured to its acknowledgement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trip_ms: Option<f64>,
    /// MQTT's, without TLS around it.
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// A connection that is over.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct End {
    pub at_ms: u64,
    pub cause: &'static str,
    #[serde(flatten)]
    pub carried: Carried,
}

/// Who holds a connected device's connection.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "held_by")]
pub enum Holder {
    Here(Carried),
    /// The broker, which alone knows more of it.
    Broker,
    /// Not this gateway: another one, or nobody any more and the end is not stored yet.
    Elsewhere {
        /// The other one's name, as far as it is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        gateway: Option<String>,
    },
}

impl Link {
    pub fn new(now: Instant) -> Self {
        Self {
            since_ms: now_ms(),
            started: now,
            heard_after_ms: AtomicU64::new(0),
            round_trip_us: AtomicU32::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        }
    }

    fn after(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    pub fn heard(&self, now: Instant) {
        self.heard_after_ms.store(self.after(now), Relaxed);
    }

    /// How long it has said nothing.
    pub fn silent(&self, now: Instant) -> Duration {
        Duration::from_millis(self.after(now).saturating_sub(self.heard_after_ms.load(Relaxed)))
    }

    pub fn answered(&self, took: Duration) {
        self.round_trip_us.store(u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1), Relaxed);
    }

    /// So many bytes since its beginning.
    pub fn carried(&self, bytes_in: u64, bytes_out: u64) {
        self.bytes_in.store(bytes_in, Relaxed);
        self.bytes_out.store(bytes_out, Relaxed);
    }

    pub fn seen(&self) -> Carried {
        let round_trip_us = self.round_trip_us.load(Relaxed);
        Carried {
            since_ms: self.since_ms,
            heard_ms: self.since_ms.saturating_add(self.heard_after_ms.load(Relaxed)),
            round_trip_ms: (round_trip_us > 0).then(|| f64::from(round_trip_us) / 1000.0),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
        }
    }

    pub fn end(&self, cause: &'static str) -> End {
        End { at_ms: now_ms(), cause, carried: self.seen() }
    }
}

/// Why the gateway itself ends a connection.
pub(super) const fn cause(code: DisconnectReasonCode) -> &'static str {
    match code {
        DisconnectReasonCode::SessionTakenOver => "another connection took its place",
        DisconnectReasonCode::ServerShuttingDown => "the gateway ended",
        DisconnectReasonCode::NotAuthorized => "its login ended",
        _ => "ended by the gateway",
    }
}

/// How the last connection of each client ended; of the oldest nothing is known any more.
#[derive(Debug, Default)]
pub(super) struct Ends {
    by_client: HashMap<String, (u64, End)>,
    order: VecDeque<(String, u64)>,
    last: u64,
}

impl Ends {
    pub fn note(&mut self, client_id: &str, end: End) {
        self.last += 1;
        self.by_client.insert(client_id.to_owned(), (self.last, end));
        self.order.push_back((client_id.to_owned(), self.last));
        if self.order.len() > MOST_ENDS
            && let Some((oldest, number)) = self.order.pop_front()
            && self.by_client.get(&oldest).is_some_and(|(newest, _)| *newest == number)
        {
            self.by_client.remove(&oldest);
        }
    }

    pub fn of(&self, client_id: &str) -> Option<End> {
        self.by_client.get(client_id).map(|(_, end)| *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_tells_when_it_was_heard_what_it_carried_and_its_last_round_trip() {
        let start = Instant::now();
        let link = Link::new(start);
        assert_eq!((link.seen().round_trip_ms, link.seen().heard_ms), (None, link.seen().since_ms));
        link.heard(start + Duration::from_secs(5));
        link.answered(Duration::from_micros(2500));
        link.carried(100, 300);
        assert_eq!(link.silent(start + Duration::from_secs(9)), Duration::from_secs(4));
        let Carried { since_ms, heard_ms, round_trip_ms, bytes_in, bytes_out } = link.seen();
        assert_eq!((heard_ms - since_ms, round_trip_ms, bytes_in, bytes_out), (5000, Some(2.5), 100, 300));
        assert!(size_of::<Link>() <= 64, "each idle device has one");
    }

    #[test]
    fn of_so_many_ends_the_oldest_are_forgotten_and_a_devices_newest_is_known() {
        let (mut ends, link) = (Ends::default(), Link::new(Instant::now()));
        ends.note("first", link.end("one"));
        ends.note("second", link.end("one"));
        ends.note("first", link.end("another"));
        for n in 0..MOST_ENDS - 1 {
            ends.note(&n.to_string(), link.end("one"));
        }
        assert_eq!(ends.of("first").map(|end| end.cause), Some("another"));
        assert!(ends.of("second").is_none() && ends.by_client.len() == MOST_ENDS && ends.order.len() == MOST_ENDS);
    }
}
