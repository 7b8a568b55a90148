//! Which way of a dial is opened next, which one gets CONNECT, and when that one is given up.
//!
//! ```text
//! server's turn -> lookup -> address waits -> tcp -> tls -> ready --CONNECT--> asked -> subscribing -> won
//! ```
//!
//! Up to TLS as many run beside each other as have had their head start: nothing there costs another way
//! anything. CONNECT goes out on one at a time: two of one client id would take each other over.

use super::{Cause, Failure, Moment};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long one address may stay silent before the next is tried beside it (RFC 8305, section 5).
pub const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// How long one server may take before the next is tried beside it: longer than a handshake on a slow mobile
/// network, so that a healthy server is seldom joined by a second.
pub const NEXT_SERVER_AFTER: Duration = Duration::from_secs(2);
/// CONNECT and SUBSCRIBE may stay unanswered this long at least while another way is ready ...
const PATIENCE: Duration = Duration::from_secs(1);
/// ... and this many of the way's own round trips.
const PATIENCE_ROUND_TRIPS: u32 = 4;
/// Most CONNECTs of one dial: a fleet whose servers are all busy must not ask each of them many times over.
const MAX_CONNECTS: u32 = 4;

/// How far a way was gone, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Lookup,
    Tcp,
    /// A proxy's, TLS's and a WebSocket's handshake.
    Tls,
    /// CONNECT, until CONNACK.
    Connect,
    /// SUBSCRIBE, until SUBACK.
    Subscribe,
}

impl Step {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Connect => "connect",
            Self::Subscribe => "subscribe",
        }
    }
}

/// What became of a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Worked,
    /// It said no, or broke, soon.
    Failed,
    /// It was silent at its step for longer than another took for all of them, or than it is waited for.
    Stalled,
}

/// What the dial is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaceAction {
    /// Look this server's name up.
    Lookup(usize),
    /// Connect to this way's address, then do its TLS.
    Open(usize),
    /// Send CONNECT on it.
    Connect(usize),
    /// Drop it.
    GiveUp(usize),
}

/// What happened in the dial. A way is named by its place in the order in which ways became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaceEvent<'a> {
    /// The name has so many addresses; `true`: it stalled lately.
    Resolved {
        server: usize,
        behind: &'a [bool],
    },
    LookupFailed {
        server: usize,
    },
    /// TCP stands.
    Opened {
        way: usize,
    },
    /// TLS stands.
    Ready {
        way: usize,
    },
    /// CONNACK came, and SUBSCRIBE goes out.
    Subscribing {
        way: usize,
    },
    Won {
        way: usize,
    },
    Failed {
        way: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    At(Step),
    /// TLS stands; CONNECT has not gone out.
    Ready,
    Over(Step, Outcome),
}

#[derive(Debug)]
struct Way {
    server: usize,
    behind: bool,
    state: State,
    opened: Moment,
    /// Since when it is in this state.
    since: Moment,
    /// The longest of the steps that were answered.
    slowest: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lookup {
    Waiting,
    UnderWay,
    Known,
    Failed,
}

#[derive(Debug)]
struct Server {
    lookup: Lookup,
    began: Moment,
    /// Its name stalled lately.
    behind: bool,
    /// It said no to a CONNECT: its other addresses wait for other servers.
    refused: bool,
}

/// A dial's decisions.
#[derive(Debug)]
pub struct Race {
    servers: Vec<Server>,
    ways: Vec<Way>,
    /// When the last server's turn began.
    last_turn: Moment,
    /// Before this no further address is opened beside one that is under way.
    next_open: Moment,
    connects: u32,
}

impl Race {
    /// One value for each server, in their order: its name's lookup stalled lately.
    pub fn new(behind: impl IntoIterator<Item = bool>) -> Self {
        let server = |behind| Server { lookup: Lookup::Waiting, began: Moment::ZERO, behind, refused: false };
        Self {
            servers: behind.into_iter().map(server).collect(),
            ways: Vec::new(),
            last_turn: Moment::ZERO,
            next_open: Moment::ZERO,
            connects: 0,
        }
    }

    /// What follows an event. `now` counts from any moment, but always the same.
    pub fn on_event(&mut self, now: Moment, event: RaceEvent<'_>) -> Vec<RaceAction> {
        match event {
            RaceEvent::Resolved { server, behind } => {
                self.servers[server].lookup = Lookup::Known;
                let way = |&behind| Way {
                    server,
                    behind,
                    state: State::Waiting,
                    opened: now,
                    since: now,
                    slowest: Duration::ZERO,
                };
                self.ways.extend(behind.iter().map(way));
            }
            RaceEvent::LookupFailed { server } => self.servers[server].lookup = Lookup::Failed,
            RaceEvent::Opened { way } => self.ways[way].goes_on(now, State::At(Step::Tls)),
            RaceEvent::Ready { way } => self.ways[way].goes_on(now, State::Ready),
            RaceEvent::Subscribing { way } => self.ways[way].goes_on(now, State::At(Step::Subscribe)),
            RaceEvent::Won { way } => {
                let step = self.step(way);
                self.ways[way].state = State::Over(step, Outcome::Worked);
            }
            RaceEvent::Failed { way } => {
                let step = self.step(way);
                let long = now.saturating_sub(self.ways[way].since) >= PATIENCE;
                let outcome = if long { Outcome::Stalled } else { Outcome::Failed };
                self.ways[way].state = State::Over(step, outcome);
                self.servers[self.ways[way].server].refused |= step >= Step::Connect;
                self.next_open = now;
            }
        }
        self.on_tick(now)
    }

    /// What is due.
    pub fn on_tick(&mut self, now: Moment) -> Vec<RaceAction> {
        let mut actions = Vec::new();
        let due = |at: Option<Moment>| at.is_some_and(|at| at <= now);
        loop {
            if due(self.give_up_at())
                && let Some(way) = self.asked()
            {
                let step = self.step(way);
                self.ways[way].state = State::Over(step, Outcome::Stalled);
                actions.push(RaceAction::GiveUp(way));
            } else if let (None, Some(way)) = (self.asked(), self.ready()) {
                self.ways[way].begins(now, State::At(Step::Connect));
                self.connects += 1;
                actions.push(RaceAction::Connect(way));
            } else if due(self.turn_at())
                && let Some(server) = self.next_server()
            {
                self.servers[server].lookup = Lookup::UnderWay;
                self.servers[server].began = now;
                self.last_turn = now;
                actions.push(RaceAction::Lookup(server));
            } else if due(self.open_at())
                && let Some(way) = self.next_way()
            {
                self.ways[way].opened = now;
                self.ways[way].begins(now, State::At(Step::Tcp));
                self.next_open = now + NEXT_ADDRESS_AFTER;
                actions.push(RaceAction::Open(way));
            } else {
                return actions;
            }
        }
    }

    /// When [`Self::on_tick`] has something to do; `None`: not before an event.
    pub fn next_deadline(&self) -> Option<Moment> {
        [self.give_up_at(), self.turn_at(), self.open_at()].into_iter().flatten().min()
    }

    /// Nothing is under way, and nothing is left.
    pub fn is_lost(&self) -> bool {
        let looking = self.servers.iter().any(|s| matches!(s.lookup, Lookup::Waiting | Lookup::UnderWay));
        let left = looking || self.ways.iter().any(|way| !matches!(way.state, State::Over(..)));
        !left || (self.connects >= MAX_CONNECTS && self.asked().is_none())
    }

    /// The step a way is at, or ended at.
    pub fn step(&self, way: usize) -> Step {
        match self.ways[way].state {
            State::Waiting => Step::Lookup,
            State::Ready => Step::Tls,
            State::At(step) | State::Over(step, _) => step,
        }
    }

    pub fn server(&self, way: usize) -> usize {
        self.ways[way].server
    }

    /// What each way did, as far as it can be told when the dial ends at `now`: those that are still under
    /// way have stalled if they had more time than the winner, or, without one, than is waited for.
    pub fn ways(&self, now: Moment) -> impl Iterator<Item = (usize, Step, Outcome)> {
        let winner = self.ways.iter().find(|way| matches!(way.state, State::Over(_, Outcome::Worked)));
        let latest = winner.map_or(now.saturating_sub(PATIENCE), |w| w.opened.saturating_sub(NEXT_ADDRESS_AFTER));
        self.ways.iter().enumerate().filter_map(move |(at, way)| match way.state {
            State::Over(step, outcome) => Some((at, step, outcome)),
            State::At(step) if way.opened <= latest => Some((at, step, Outcome::Stalled)),
            State::At(_) | State::Ready | State::Waiting => None,
        })
    }

    /// The servers whose names were not resolved, and how.
    pub fn lookups(&self, now: Moment) -> impl Iterator<Item = (usize, Outcome)> {
        self.servers.iter().enumerate().filter_map(move |(at, server)| match server.lookup {
            Lookup::Failed => Some((at, Outcome::Failed)),
            Lookup::UnderWay if now.saturating_sub(server.began) >= PATIENCE => Some((at, Outcome::Stalled)),
            _ => None,
        })
    }

    /// The way that CONNECT went out on.
    fn asked(&self) -> Option<usize> {
        self.ways.iter().position(|way| matches!(way.state, State::At(Step::Connect | Step::Subscribe)))
    }

    fn ready(&self) -> Option<usize> {
        (self.connects < MAX_CONNECTS).then(|| self.first(State::Ready)).flatten()
    }

    /// The best of the ways in a state: what did not stall before what did, then the servers' order.
    fn first(&self, state: State) -> Option<usize> {
        let of_state = (0..self.ways.len()).filter(|at| self.ways[*at].state == state);
        of_state.min_by_key(|at| {
            let way = &self.ways[*at];
            (self.servers[way.server].refused, way.behind, way.server, *at)
        })
    }

    fn give_up_at(&self) -> Option<Moment> {
        let asked = self.asked()?;
        // Alone it has the whole time: a server under a storm must not be asked twice.
        self.ready().map(|_| self.ways[asked].since + self.ways[asked].patience())
    }

    fn next_server(&self) -> Option<usize> {
        let waiting = (0..self.servers.len()).filter(|at| self.servers[*at].lookup == Lookup::Waiting);
        waiting.min_by_key(|at| (self.servers[*at].behind, *at))
    }

    fn turn_at(&self) -> Option<Moment> {
        self.next_server()?;
        let hopes = self.servers.iter().any(|server| server.lookup == Lookup::UnderWay)
            || self.ways.iter().any(|way| self.hopes(way));
        Some(if hopes { self.last_turn + NEXT_SERVER_AFTER } else { Moment::ZERO })
    }

    /// It may yet win, and nothing speaks against it.
    fn hopes(&self, way: &Way) -> bool {
        !way.behind && !self.servers[way.server].refused && !matches!(way.state, State::Over(..))
    }

    fn next_way(&self) -> Option<usize> {
        self.first(State::Waiting)
    }

    fn open_at(&self) -> Option<Moment> {
        let next = &self.ways[self.next_way()?];
        let doubtful = next.behind || self.servers[next.server].refused;
        if doubtful && self.next_server().is_some() {
            return None;
        }
        let looking = self.servers.iter().any(|server| server.lookup == Lookup::UnderWay);
        let earliest = if doubtful && looking { self.last_turn + NEXT_ADDRESS_AFTER } else { Moment::ZERO };
        if let Some(asked) = self.asked() {
            let half = self.ways[asked].since + self.ways[asked].patience() / 2;
            return Some(half.max(self.next_open).max(earliest));
        }
        let alone = !self.ways.iter().any(|way| matches!(way.state, State::At(_) | State::Ready));
        Some(if alone { earliest } else { self.next_open.max(earliest) })
    }
}

impl Way {
    fn begins(&mut self, now: Moment, state: State) {
        self.state = state;
        self.since = now;
    }

    fn goes_on(&mut self, now: Moment, state: State) {
        self.slowest = self.slowest.max(now.saturating_sub(self.since));
        self.begins(now, state);
    }

    fn patience(&self) -> Duration {
        (self.slowest * PATIENCE_ROUND_TRIPS).max(PATIENCE)
    }
}

/// This way's failure leaves the others their chance: it says nothing of the login, nor of where else to go.
pub fn others_may_do_better(step: Step, failure: &Failure) -> bool {
    use Cause as C;
    let of_this_server = matches!(
        failure.cause,
        C::ServerBusy
            | C::ServerUnavailable
            | C::ServerShutdown
            | C::QuotaExceeded
            | C::Refused
            | C::NotMqtt5
            | C::ProtocolError
            | C::PeerClosed
            | C::Io
            | C::ConnectTimeout
            | C::AckLost
            | C::WriteStalled
    );
    failure.end.is_none() && (step < Step::Connect || of_this_server)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Moment {
        Moment::from_millis(ms)
    }

    /// Whether it stalled lately, and the step at which it is silent; else it answers each after 20 ms.
    type Address = (bool, Option<Step>);
    type Done = Vec<(Moment, RaceAction)>;

    fn run(servers: &[&[Address]]) -> (Option<(usize, Moment)>, Race, Done) {
        let mut race = Race::new(servers.iter().map(|_| false));
        let mut known: Vec<Option<Step>> = Vec::new();
        let mut events: Vec<(Moment, usize, Step)> = Vec::new();
        let mut done = Vec::new();
        let mut now = Moment::ZERO;
        let mut actions = race.on_tick(now);
        while now < ms(20_000) {
            for action in std::mem::take(&mut actions) {
                done.push((now, action));
                match action {
                    RaceAction::Lookup(server) => events.push((now + ms(5), server, Step::Lookup)),
                    RaceAction::Open(way) => events.push((now + ms(20), way, Step::Tcp)),
                    RaceAction::Connect(way) => events.push((now + ms(20), way, Step::Connect)),
                    RaceAction::GiveUp(way) => events.retain(|(_, of, step)| *of != way || *step == Step::Lookup),
                }
            }
            events.retain(|(_, way, step)| *step == Step::Lookup || known[*way] != Some(*step));
            events.sort();
            let next = events.first().map(|(at, ..)| *at);
            let Some(at) = next.into_iter().chain(race.next_deadline()).min() else { break };
            now = at.max(now);
            if next != Some(at) {
                actions = race.on_tick(now);
                continue;
            }
            let (_, way, step) = events.remove(0);
            let event = match step {
                Step::Lookup => {
                    known.extend(servers[way].iter().map(|(_, silent)| *silent));
                    let behind: Vec<bool> = servers[way].iter().map(|(behind, _)| *behind).collect();
                    actions = race.on_event(now, RaceEvent::Resolved { server: way, behind: &behind });
                    continue;
                }
                Step::Tcp => {
                    events.push((now + ms(20), way, Step::Tls));
                    RaceEvent::Opened { way }
                }
                Step::Tls => RaceEvent::Ready { way },
                Step::Connect => {
                    events.push((now + ms(20), way, Step::Subscribe));
                    RaceEvent::Subscribing { way }
                }
                Step::Subscribe => {
                    drop(race.on_event(now, RaceEvent::Won { way }));
                    return (Some((way, now)), race, done);
                }
            };
            actions = race.on_event(now, event);
        }
        (None, race, done)
    }

    #[test]
    fn a_first_address_that_is_silent_at_any_step_costs_less_than_two_seconds_and_then_goes_behind() {
        for silent in [Step::Tcp, Step::Tls, Step::Connect, Step::Subscribe] {
            let (won, race, _) = run(&[&[(false, Some(silent)), (false, None)]]);
            let (way, at) = won.expect("a connection");
            assert!(way == 1 && at < ms(2000), "{silent:?}: {at:?}");
            assert!(race.ways(at).any(|way| way == (0, silent, Outcome::Stalled)), "{silent:?}");
            let (won, _, done) = run(&[&[(true, Some(silent)), (false, None)]]);
            assert!(won.is_some_and(|(way, at)| way == 1 && at < ms(200)), "{silent:?} again");
            assert!(!done.iter().any(|(_, action)| *action == RaceAction::Open(0)), "what stalled is left alone");
        }
    }

    #[test]
    fn a_first_server_that_is_silent_costs_less_than_three_seconds() {
        for silent in [Step::Tcp, Step::Tls, Step::Connect, Step::Subscribe] {
            let (won, ..) = run(&[&[(false, Some(silent))], &[(false, None)]]);
            assert!(won.is_some_and(|(way, at)| way == 1 && at < ms(3000)), "{silent:?}: {won:?}");
            let (won, ..) = run(&[&[(true, Some(silent))], &[(false, None)]]);
            assert!(won.is_some_and(|(way, at)| way == 1 && at < ms(200)), "{silent:?} again: {won:?}");
        }
    }

    #[test]
    fn a_healthy_first_way_has_no_company() {
        let (won, _, done) = run(&[&[(false, None), (false, None)], &[(false, None)]]);
        assert_eq!(won.map(|(way, _)| way), Some(0));
        assert_eq!(done.len(), 3, "a lookup, an address, a CONNECT: {done:?}");
    }

    #[test]
    fn a_connect_without_another_way_has_the_whole_time() {
        let (won, race, done) = run(&[&[(false, Some(Step::Connect))]]);
        assert!(won.is_none() && !race.is_lost());
        assert!(!done.iter().any(|(_, action)| matches!(action, RaceAction::GiveUp(_))), "{done:?}");
    }

    #[test]
    fn connect_is_out_on_one_way_at_a_time_and_on_few_in_all() {
        let silent = (false, Some(Step::Connect));
        let (_, _, done) = run(&[&[silent; 8]]);
        let mut out = 0_i32;
        for (_, action) in &done {
            match action {
                RaceAction::Connect(_) => out += 1,
                RaceAction::GiveUp(_) => out -= 1,
                _ => {}
            }
            assert!(out <= 1, "{done:?}");
        }
        assert_eq!(done.iter().filter(|(_, a)| matches!(a, RaceAction::Connect(_))).count() as u32, MAX_CONNECTS);
    }

    #[test]
    fn a_slow_way_is_given_its_own_round_trips() {
        let mut race = Race::new([false]);
        drop(race.on_tick(ms(0)));
        drop(race.on_event(ms(0), RaceEvent::Resolved { server: 0, behind: &[false, false] }));
        drop(race.on_event(ms(600), RaceEvent::Opened { way: 0 }));
        assert_eq!(race.on_event(ms(1300), RaceEvent::Ready { way: 0 }), [RaceAction::Connect(0)]);
        drop(race.on_event(ms(1350), RaceEvent::Opened { way: 1 }));
        drop(race.on_event(ms(1400), RaceEvent::Ready { way: 1 }));
        assert_eq!(race.next_deadline(), Some(ms(1300 + 4 * 700)));
    }

    #[test]
    fn a_busy_server_does_not_delay_the_next() {
        let mut race = Race::new([false, false]);
        drop(race.on_tick(ms(0)));
        drop(race.on_event(ms(0), RaceEvent::Resolved { server: 0, behind: &[false, false] }));
        drop(race.on_event(ms(10), RaceEvent::Opened { way: 0 }));
        drop(race.on_event(ms(20), RaceEvent::Ready { way: 0 }));
        assert_eq!(race.on_event(ms(30), RaceEvent::Failed { way: 0 }), [RaceAction::Lookup(1)]);
        assert_eq!(
            race.on_event(ms(40), RaceEvent::Resolved { server: 1, behind: &[false] }),
            [RaceAction::Open(2)],
            "its other address waits for the other server"
        );
        assert!(!others_may_do_better(Step::Connect, &Failure::new(Cause::BadCredentials, "")));
        assert!(others_may_do_better(Step::Connect, &Failure::new(Cause::ServerBusy, "")));
    }
}
