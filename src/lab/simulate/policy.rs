//! When each policy pings, probes and reconnects. `impush` is the shipped code; the others follow
//! their documents.

use crate::keepalive::{Bounds, Cause, Heartbeat, Moment, ProbeOutcome, Reconnect, Verdict};
use std::collections::HashMap;
use std::time::Duration;

/// What a simulated client asks of its policy. Times are the client's own.
pub trait Policy {
    /// How long the link may be idle before the next ping.
    fn interval(&mut self, network: &str, now: Moment) -> Duration;

    fn on_up(&mut self, _now: Moment, _network: &str) {}

    /// The link answered after this idle time.
    fn on_pong(&mut self, _idle: Duration, _network: &str, _now: Moment) {}

    /// The link died, or an attempt failed: when is the next one?
    fn on_down(&mut self, now: Moment, cause: Cause, idle: Duration, network: &str) -> Moment;

    /// The network came back or changed: when is the next attempt?
    fn on_network(&mut self, now: Moment) -> Moment;

    /// Whether the platform's word of network changes is heard.
    fn hears_network(&self) -> bool;

    /// Whether its timers run while the device sleeps.
    fn counts_sleep(&self) -> bool {
        false
    }

    /// The idle time a side connection should test now.
    fn probe(&mut self, _now: Moment) -> Option<Duration> {
        None
    }

    fn on_probe(&mut self, _tested: Duration, _outcome: ProbeOutcome, _now: Moment) {}

    /// Whether the search on this network has ended.
    fn settled(&self) -> bool {
        true
    }

    /// Told the truth about the network; only the oracle listens.
    fn whisper(&mut self, _limit_s: f64) {}
}

/// # Errors
/// A sentence that lists the policies.
pub fn by_name(name: &str, seed: u64) -> Result<Box<dyn Policy>, String> {
    match name {
        "impush" => Ok(Box::new(Impush::new(seed))),
        "mars" => Ok(Box::new(Mars::new(seed))),
        "oracle" => Ok(Box::new(Oracle { limit_s: 300.0 })),
        fixed => match fixed.strip_prefix("fixed:").and_then(|s| s.parse().ok()).filter(|s| (1..=86_400).contains(s)) {
            Some(seconds) => Ok(Box::new(Fixed(Duration::from_secs(seconds)))),
            None => Err(format!("`{name}` is no policy; impush, fixed:SECONDS, mars or oracle")),
        },
    }
}

/// Wall-clock milliseconds of the simulation.
fn ms(now: Moment) -> u64 {
    now.as_millis() as u64
}

/// The code that ships.
struct Impush {
    heartbeat: Heartbeat,
    reconnect: Reconnect,
    suspect: Option<(Duration, Moment, String)>,
}

impl Impush {
    fn new(seed: u64) -> Self {
        Self {
            heartbeat: Heartbeat::new(Bounds::default(), Vec::new(), 0),
            reconnect: Reconnect::new(seed),
            suspect: None,
        }
    }
}

impl Policy for Impush {
    fn interval(&mut self, network: &str, now: Moment) -> Duration {
        self.heartbeat.on_network(network, ms(now));
        self.heartbeat.interval()
    }

    fn on_up(&mut self, now: Moment, network: &str) {
        self.reconnect.on_up(now);
        self.heartbeat.on_network(network, ms(now));
        // As the agent judges it: the same network, and a new connection at once.
        if let Some((idle, at, lost_on)) = self.suspect.take()
            && lost_on == network
            && now.saturating_sub(at) <= Duration::from_secs(15)
        {
            self.heartbeat.on_lost_after(idle, ms(now));
        }
    }

    fn on_pong(&mut self, idle: Duration, network: &str, now: Moment) {
        self.heartbeat.on_network(network, ms(now));
        self.heartbeat.on_answer_after(idle, ms(now));
    }

    fn on_down(&mut self, now: Moment, cause: Cause, idle: Duration, network: &str) -> Moment {
        if cause == Cause::PongLost {
            self.suspect = Some((idle, now, network.to_owned()));
        }
        match self.reconnect.on_down(now, cause) {
            Verdict::Retry(attempt) => attempt.at,
            // None of the simulated causes stops for good.
            Verdict::Stop(_) => now + Duration::from_secs(300),
        }
    }

    fn on_network(&mut self, now: Moment) -> Moment {
        self.suspect = None;
        // The agent looks half a second after the last notice.
        self.reconnect.at_once(now + Duration::from_millis(500), Cause::NetworkChanged).at
    }

    fn hears_network(&self) -> bool {
        true
    }

    fn counts_sleep(&self) -> bool {
        true
    }

    fn probe(&mut self, now: Moment) -> Option<Duration> {
        self.heartbeat.wanted_probe(ms(now))
    }

    fn on_probe(&mut self, tested: Duration, outcome: ProbeOutcome, now: Moment) {
        self.heartbeat.on_probe(tested, outcome, ms(now));
    }

    fn settled(&self) -> bool {
        self.heartbeat.current().is_some_and(|record| record.settled_ms.is_some())
    }
}

/// A fixed interval, and an attempt each second, as mosquitto's clients do.
struct Fixed(Duration);

impl Policy for Fixed {
    fn interval(&mut self, _network: &str, _now: Moment) -> Duration {
        self.0
    }

    fn on_down(&mut self, now: Moment, _cause: Cause, _idle: Duration, _network: &str) -> Moment {
        now + Duration::from_secs(1)
    }

    fn on_network(&mut self, now: Moment) -> Moment {
        now + Duration::from_secs(1)
    }

    fn hears_network(&self) -> bool {
        false
    }
}

/// Knows the limit, pings just inside it and obeys the same floor and ceiling.
struct Oracle {
    limit_s: f64,
}

impl Policy for Oracle {
    fn interval(&mut self, _network: &str, _now: Moment) -> Duration {
        let bounds = Bounds::default();
        Duration::from_secs_f64((self.limit_s - 1.0).max(1.0)).clamp(bounds.floor, bounds.ceiling)
    }

    fn on_down(&mut self, now: Moment, _cause: Cause, _idle: Duration, _network: &str) -> Moment {
        now + Duration::from_millis(100)
    }

    fn on_network(&mut self, now: Moment) -> Moment {
        now
    }

    fn hears_network(&self) -> bool {
        true
    }

    fn counts_sleep(&self) -> bool {
        true
    }

    fn whisper(&mut self, limit_s: f64) {
        self.limit_s = limit_s;
    }
}

/// Mars' constants, in seconds (`mars/stn/config.h`).
const MARS_MIN: u64 = 210;
const MARS_TOP: u64 = 580;
const MARS_STEP: u64 = 60;
const MARS_BACK: u64 = 20;
const MARS_WARM: u32 = 3;
const MARS_PASSES: u32 = 5;
const MARS_FAILURES: u32 = 2;
const MARS_WEEK: u64 = 7 * 86_400;
/// Its pauses between attempts while in use.
const MARS_PAUSES: [u64; 5] = [5, 10, 20, 30, 300];

#[derive(Clone)]
struct MarsRecord {
    current: u64,
    passes: u32,
    failures: u32,
    stable: bool,
    changed: Moment,
}

/// Mars' smart heartbeat with its documented rules: stepwise search on the main link.
struct Mars {
    records: HashMap<String, MarsRecord>,
    /// Pings at the shortest interval that passed on this link.
    warm: u32,
    attempts: usize,
    random: u64,
}

impl Mars {
    fn new(seed: u64) -> Self {
        Self { records: HashMap::new(), warm: 0, attempts: 0, random: seed | 1 }
    }

    fn record(&mut self, network: &str, now: Moment) -> &mut MarsRecord {
        self.records.entry(network.to_owned()).or_insert(MarsRecord {
            current: MARS_MIN,
            passes: 0,
            failures: 0,
            stable: false,
            changed: now,
        })
    }

    /// Evenly from 0 to 20 s.
    fn spread(&mut self) -> Duration {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis((self.random >> 33) % 20_000)
    }
}

impl Policy for Mars {
    fn interval(&mut self, network: &str, now: Moment) -> Duration {
        if self.warm < MARS_WARM {
            return Duration::from_secs(MARS_MIN);
        }
        Duration::from_secs(self.record(network, now).current)
    }

    fn on_up(&mut self, _now: Moment, _network: &str) {
        self.warm = 0;
    }

    fn on_pong(&mut self, _idle: Duration, network: &str, now: Moment) {
        self.attempts = 0;
        if self.warm < MARS_WARM {
            self.warm += 1;
            return;
        }
        let record = self.record(network, now);
        record.failures = 0;
        record.passes += 1;
        let week_over = record.stable && now.saturating_sub(record.changed) >= Duration::from_secs(MARS_WEEK);
        if !record.stable && record.passes >= MARS_PASSES {
            record.passes = 0;
            record.changed = now;
            record.current = (record.current + MARS_STEP).min(MARS_TOP);
            record.stable = record.current == MARS_TOP;
        } else if week_over && record.current < MARS_TOP {
            record.current = (record.current + MARS_BACK).min(MARS_TOP);
            record.changed = now;
        }
    }

    fn on_down(&mut self, now: Moment, cause: Cause, _idle: Duration, network: &str) -> Moment {
        if cause == Cause::PongLost && self.warm >= MARS_WARM {
            let record = self.record(network, now);
            record.passes = 0;
            record.failures += 1;
            if record.failures >= MARS_FAILURES {
                record.failures = 0;
                record.changed = now;
                if record.stable {
                    record.current = MARS_MIN;
                    record.stable = false;
                } else {
                    record.current = record.current.saturating_sub(MARS_STEP + MARS_BACK).max(MARS_MIN);
                    record.stable = true;
                }
            }
        }
        // Half a second after any loss, then its table and up to 20 s of chance.
        let pause = match self.attempts {
            0 => Duration::from_millis(500),
            n => Duration::from_secs(MARS_PAUSES[(n - 1).min(MARS_PAUSES.len() - 1)]) + self.spread(),
        };
        self.attempts += 1;
        now + pause
    }

    fn on_network(&mut self, now: Moment) -> Moment {
        now + Duration::from_millis(500)
    }

    fn hears_network(&self) -> bool {
        true
    }

    fn settled(&self) -> bool {
        !self.records.is_empty() && self.records.values().all(|record| record.stable)
    }
}
