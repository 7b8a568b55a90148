//! A simulated device: one connection, perhaps a probe beside it, and a world that forgets, drops,
//! restarts and sleeps. The pulse of every policy's link is the shipped `Link`.

use super::policy::{self, Policy};
use super::scenario::{Event, Scenario};
use crate::keepalive::{Cause, Link, LinkAction, Moment, ProbeOutcome};
use serde::Serialize;
use std::time::Duration;

/// One round trip.
const ROUND_TRIP: f64 = 0.05;
/// TCP, TLS and CONNECT take six of them.
const CONNECT: f64 = 6.0 * ROUND_TRIP;
/// Bytes on the wire, measured over TLS 1.3 with EC certificates: a ping with its answer and the TCP
/// acknowledgement; a connection with its subscription.
const PING_BYTES: u64 = 246;
const CONNECT_BYTES: u64 = 3200;
/// The agent's pause before a probe, after a connection came up.
const PROBE_PAUSE: f64 = 30.0;

/// What a run came to. `pings_per_day` counts from when the search first ended.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub policy: String,
    pub scenario: String,
    pub nat: f64,
    pub days: f64,
    pub pings_per_day: f64,
    pub unreachable_s_per_day: f64,
    pub probes_to_settle: u32,
    pub settled_interval_s: f64,
    pub connections_per_day: f64,
    pub bytes_per_day: f64,
    pub settled_after_s: Option<f64>,
}

struct World {
    limit: f64,
    up: bool,
    network: String,
    server_up_at: f64,
    /// Counts what silently or loudly ended every connection made before.
    era: u32,
    asleep_since: Option<f64>,
    slept: f64,
}

struct Connection {
    link: Link,
    /// The last packet that passed the NAT.
    last: f64,
    era: u32,
}

struct Probe {
    tested: f64,
    ends: f64,
    era: u32,
    slept: f64,
    /// The smallest limit seen while it idled.
    limit: f64,
}

struct Device {
    policy: Box<dyn Policy>,
    connection: Option<Connection>,
    /// When the next attempt is made, and, once it is under way, when it is done.
    attempt: f64,
    probe: Option<Probe>,
    probe_after: f64,
}

#[derive(Default)]
struct Count {
    pings: u64,
    settled_pings: u64,
    settled_at: Option<f64>,
    connections: u64,
    unreachable: f64,
    probes: u32,
    probes_to_settle: u32,
}

fn moment(seconds: f64) -> Moment {
    Duration::from_secs_f64(seconds.max(0.0))
}

/// Runs one policy through one scenario.
///
/// # Errors
/// A sentence when there is no such policy.
pub fn run(policy: &str, scenario: &Scenario, days: u32, seed: u64) -> Result<Report, String> {
    let end = f64::from(days) * 86_400.0;
    let mut world = World {
        limit: scenario.nat_s,
        up: true,
        network: "first".into(),
        server_up_at: 0.0,
        era: 0,
        asleep_since: None,
        slept: 0.0,
    };
    let mut device = Device {
        policy: policy::by_name(policy, seed)?,
        connection: None,
        attempt: 0.0,
        probe: None,
        probe_after: 0.0,
    };
    device.policy.whisper(world.limit);
    let mut count = Count::default();
    let mut lines = scenario.lines.iter().peekable();
    let mut now = 0.0_f64;
    while now < end {
        let event_at = lines.peek().map_or(f64::INFINITY, |line| line.at_s);
        let next = device.next(&world).min(event_at).min(end).max(now);
        count.unreachable += unreachable(&device, &world, now, next);
        now = next;
        if event_at <= now {
            if let Some(line) = lines.next() {
                device.on_event(&line.event, now, &mut world);
            }
        } else if now < end {
            device.act(now, &world, &mut count);
        }
        if count.settled_at.is_none() && device.connection.is_some() && device.policy.settled() {
            count.settled_at = Some(now);
            count.probes_to_settle = count.probes;
        }
    }
    let days = end / 86_400.0;
    let settled_days = count.settled_at.map(|at| (end - at) / 86_400.0).filter(|d| *d > 0.0);
    let pings_per_day = settled_days.map_or(count.pings as f64 / days, |d| count.settled_pings as f64 / d);
    let own = device.own(now, &world);
    Ok(Report {
        policy: policy.to_owned(),
        scenario: scenario.name.clone(),
        nat: scenario.nat_s,
        days,
        pings_per_day,
        unreachable_s_per_day: count.unreachable / days,
        probes_to_settle: if count.settled_at.is_some() { count.probes_to_settle } else { count.probes },
        settled_interval_s: device.policy.interval(&world.network, own).as_secs_f64(),
        connections_per_day: count.connections as f64 / days,
        bytes_per_day: (count.pings * PING_BYTES + count.connections * CONNECT_BYTES) as f64 / days,
        settled_after_s: count.settled_at,
    })
}

/// The part of the stretch in which network and server were up and the device awake, and yet nothing
/// could be delivered.
fn unreachable(device: &Device, world: &World, from: f64, to: f64) -> f64 {
    let from = from.max(world.server_up_at);
    if !world.up || world.asleep_since.is_some() || from >= to {
        return 0.0;
    }
    match &device.connection {
        Some(connection) if connection.era == world.era => {
            let forgotten = connection.last + world.limit;
            (to - from.max(forgotten)).max(0.0)
        }
        _ => to - from,
    }
}

impl Device {
    /// The client's own time: some clocks stand still while the device sleeps.
    fn own(&self, now: f64, world: &World) -> Moment {
        moment(if self.policy.counts_sleep() { now } else { now - world.slept })
    }

    fn shown(&self, own: Moment, world: &World) -> f64 {
        own.as_secs_f64() + if self.policy.counts_sleep() { 0.0 } else { world.slept }
    }

    fn next(&self, world: &World) -> f64 {
        if world.asleep_since.is_some() {
            return f64::INFINITY;
        }
        let Some(connection) = &self.connection else { return self.attempt };
        let ping = self.shown(connection.link.next_deadline(), world);
        match &self.probe {
            Some(probe) => ping.min(probe.ends),
            None => ping.min(self.probe_after),
        }
    }

    fn act(&mut self, now: f64, world: &World, count: &mut Count) {
        if self.connection.is_none() {
            return self.try_to_connect(now, world, count);
        }
        match &self.probe {
            Some(probe) if probe.ends <= now => self.probe_ended(now, world, count),
            None if self.probe_after <= now => self.start_probe(now, world, count),
            _ => {}
        }
        let own = self.own(now, world);
        let Some(connection) = self.connection.as_mut() else { return };
        match connection.link.on_tick(own) {
            LinkAction::Nothing => {}
            LinkAction::Ping => {
                count.pings += 1;
                if count.settled_at.is_some() {
                    count.settled_pings += 1;
                }
                let idle = connection.link.idle(own);
                connection.link.on_ping_sent(own);
                let passes = connection.era == world.era
                    && world.up
                    && now - connection.last <= world.limit
                    && world.server_up_at <= now;
                if passes {
                    // The answer comes a round trip later; within it nothing else happens.
                    connection.last = now;
                    connection.link.on_answer(own);
                    self.policy.on_pong(idle, &world.network, own);
                    let interval = self.policy.interval(&world.network, own);
                    if let Some(connection) = self.connection.as_mut() {
                        connection.link.set_interval(interval);
                    }
                }
            }
            LinkAction::Dead(cause) => self.lose(now, cause, world),
        }
    }

    fn try_to_connect(&mut self, now: f64, world: &World, count: &mut Count) {
        count.connections += 1;
        let own = self.own(now, world);
        if !world.up || now < world.server_up_at {
            let cause = if world.up { Cause::ConnectRefused } else { Cause::Unreachable };
            let at = self.policy.on_down(own, cause, Duration::ZERO, &world.network);
            self.attempt = self.shown(at, world).max(now + 0.01);
            return;
        }
        // The handshake's own time is spent unreachable: the link stands CONNECT later.
        let stands = now + CONNECT;
        count.unreachable += CONNECT;
        let own = own + moment(CONNECT);
        self.policy.on_up(own, &world.network);
        let interval = self.policy.interval(&world.network, own);
        let link = Link::new(own, interval, moment(ROUND_TRIP));
        self.connection = Some(Connection { link, last: stands, era: world.era });
        self.probe_after = stands + PROBE_PAUSE;
    }

    fn lose(&mut self, now: f64, cause: Cause, world: &World) {
        let own = self.own(now, world);
        let Some(connection) = self.connection.take() else { return };
        self.probe = None;
        let at = self.policy.on_down(own, cause, connection.link.idle(own), &world.network);
        self.attempt = self.shown(at, world).max(now);
    }

    fn start_probe(&mut self, now: f64, world: &World, count: &mut Count) {
        let own = self.own(now, world);
        match self.policy.probe(own) {
            Some(tested) => {
                let tested = tested.as_secs_f64();
                count.connections += 1;
                self.probe =
                    Some(Probe { tested, ends: now + tested, era: world.era, slept: world.slept, limit: world.limit });
            }
            None => self.probe_after = now + if self.policy.settled() { 3600.0 } else { PROBE_PAUSE },
        }
    }

    fn probe_ended(&mut self, now: f64, world: &World, count: &mut Count) {
        let own = self.own(now, world);
        let Some(probe) = self.probe.take() else { return };
        count.pings += 1;
        if count.settled_at.is_some() {
            count.settled_pings += 1;
        }
        let undisturbed = probe.era == world.era && probe.slept == world.slept && world.up;
        let outcome = match undisturbed {
            false => ProbeOutcome::Inconclusive,
            true if probe.tested <= probe.limit.min(world.limit) => ProbeOutcome::Survived,
            true => ProbeOutcome::Lost,
        };
        if outcome != ProbeOutcome::Inconclusive {
            count.probes += 1;
        }
        self.policy.on_probe(moment(probe.tested), outcome, own);
        self.probe_after = now + if outcome == ProbeOutcome::Inconclusive { PROBE_PAUSE } else { 0.0 };
        let interval = self.policy.interval(&world.network, own);
        if let Some(connection) = self.connection.as_mut() {
            connection.link.set_interval(interval);
            // Both pings go out together.
            connection.link.ping_now();
        }
    }

    fn on_event(&mut self, event: &Event, now: f64, world: &mut World) {
        match event {
            Event::Nat { limit_s } => world.limit = *limit_s,
            Event::Down => {
                world.up = false;
                self.network_changed(now, world, false);
            }
            Event::Up => {
                world.up = true;
                self.network_changed(now, world, true);
            }
            Event::Switch { network, limit_s } => {
                world.era += 1;
                world.network = network.clone().unwrap_or_else(|| format!("network {}", world.era));
                world.limit = limit_s.unwrap_or(world.limit);
                self.network_changed(now, world, true);
            }
            Event::ServerRestart { down_s } => {
                world.era += 1;
                world.server_up_at = now + down_s;
                // The closing packet only arrives where the path still knows the connection.
                let told = self.connection.as_ref().is_some_and(|c| world.up && now - c.last <= world.limit);
                if told {
                    self.lose(now, Cause::PeerClosed, world);
                }
            }
            Event::Suspend => world.asleep_since = world.asleep_since.or(Some(now)),
            Event::Resume => {
                if let Some(since) = world.asleep_since.take() {
                    world.slept += now - since;
                    self.probe = None;
                    if self.policy.counts_sleep() {
                        match self.connection.as_mut() {
                            Some(connection) => connection.link.probe_now(),
                            None => self.attempt = self.attempt.min(now + 1.0),
                        }
                    }
                }
            }
        }
        self.policy.whisper(world.limit);
    }

    fn network_changed(&mut self, now: f64, world: &World, usable: bool) {
        if !self.policy.hears_network() {
            return;
        }
        let stands = self.connection.as_ref().is_some_and(|connection| connection.era == world.era);
        if stands && usable {
            if let Some(connection) = self.connection.as_mut() {
                connection.link.probe_now();
            }
            return;
        }
        let own = self.own(now, world);
        if self.connection.is_some() {
            self.lose(now, Cause::AddressGone, world);
        }
        if usable {
            let at = self.policy.on_network(own);
            self.attempt = self.shown(at, world);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{built_in, stationary};
    use super::*;

    #[test]
    fn on_every_stationary_network_the_search_is_cheap_close_and_costs_the_main_link_nothing() {
        for limit in [52.0, 60.0, 75.0, 100.0, 150.0, 240.0, 300.0, 500.0, 600.0, 890.0, 1000.0, 3600.0, 7200.0] {
            let scenario = stationary(limit);
            let ours = run("impush", &scenario, 3, 1).expect("ran");
            let oracle = run("oracle", &scenario, 3, 1).expect("ran");
            assert!(ours.pings_per_day <= 1.15 * oracle.pings_per_day, "{limit}: {ours:?} {oracle:?}");
            assert!(ours.unreachable_s_per_day <= 1.0, "{limit}: {ours:?}");
            assert!(ours.probes_to_settle <= 6 && ours.settled_after_s.is_some(), "{limit}: {ours:?}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        for scenario in built_in(2) {
            let json = |seed| serde_json::to_string(&run("impush", &scenario, 2, seed).expect("ran")).expect("JSON");
            assert_eq!(json(7), json(7));
        }
    }

    #[test]
    fn a_fixed_interval_above_the_limit_is_unreachable_most_of_the_time() {
        let report = run("fixed:270", &stationary(120.0), 1, 1).expect("ran");
        assert!(report.unreachable_s_per_day > 40_000.0, "{report:?}");
        assert!(run("impush", &stationary(120.0), 1, 1).expect("ran").unreachable_s_per_day < 1.0);
    }

    #[test]
    fn mars_never_finds_a_limit_below_its_shortest_interval() {
        let report = run("mars", &stationary(100.0), 2, 1).expect("ran");
        assert!(report.unreachable_s_per_day > 30_000.0, "{report:?}");
    }

    #[test]
    fn an_unknown_policy_is_named() {
        assert!(run("fixed:x", &stationary(100.0), 1, 1).expect_err("refused").contains("fixed:x"));
    }
}
