//! Random orders of everything that can happen to one user's two devices: words that come late, twice or never,
//! notices of old connections, vendors that answer after the device did.

use super::FACTS;
use crate::delivery::policy::{Facts, MultiDevice};
use crate::delivery::presence::{self, Event as Word};
use crate::delivery::{Act, AfterVendor, Device, Event, Hop, Line, Pair, Rules, Shown, Standing, State, step};
use std::collections::{BTreeMap, BTreeSet, HashSet};

const RULES: Rules = Rules { policy: MultiDevice::AllOffline, keep_most: 3, ..Rules::FOR_TESTS };
/// The phone has a vendor, the other one has none.
const DEVICES: usize = 2;
const MESSAGES: usize = 5;
const MOVES: usize = 60;

/// A sequence of chances that a number begins (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % most as u64).expect("small")
    }
}

/// What a device said, or what was said of it, on its way to the gateway.
#[derive(Debug, Clone)]
enum Said {
    Ack { message: usize, attached: bool },
    Taken { message: usize },
    Ended { nonce: String },
    Attached(bool),
}

/// One device as it really is.
#[derive(Default)]
struct Truth {
    nonce: Option<String>,
    has: BTreeSet<usize>,
    took: BTreeSet<usize>,
    open: bool,
}

struct World {
    now_ms: u64,
    chance: Chance,
    accepted: usize,
    pairs: BTreeMap<(usize, usize), (u64, Pair)>,
    devices: [Device; DEVICES],
    truth: [Truth; DEVICES],
    words: Vec<(usize, Said)>,
    /// Sends under way: the pair, and the number of the try.
    calls: Vec<((usize, usize), u32)>,
    /// What vendors took, and what they were told to take back.
    took: HashSet<String>,
    recalled: HashSet<String>,
    heard: HashSet<(usize, usize, &'static str)>,
    trace: Vec<((usize, usize), Hop)>,
    published: BTreeMap<(usize, usize), usize>,
    connections: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let devices = std::array::from_fn(|_| Device { logged_in: true, attached: true, ..Device::default() });
        Self {
            now_ms: 1_000_000,
            chance: Chance(seed),
            accepted: 0,
            pairs: BTreeMap::new(),
            devices,
            truth: Default::default(),
            words: Vec::new(),
            calls: Vec::new(),
            took: HashSet::new(),
            recalled: HashSet::new(),
            heard: HashSet::new(),
            trace: Vec::new(),
            published: BTreeMap::new(),
            connections: 0,
        }
    }

    fn facts(&self, (message, device): (usize, usize)) -> Facts<'static> {
        let others = (0..DEVICES).filter(|other| *other != device);
        let others_online = others.clone().any(|other| self.devices[other].counts_as_online(other == 0));
        let has_it_elsewhere = others_online
            && others.clone().any(|other| {
                self.pairs.get(&(message, other)).is_some_and(|(_, pair)| pair.acked_ms.or(pair.taken_ms).is_some())
            });
        let age_s = self.pairs.get(&(message, device)).map_or(0, |(at, _)| (self.now_ms - at) / 1000);
        let (policy, bound) = (RULES.policy, device == 0);
        Facts { policy, others_online, has_it_elsewhere, bound, age_s, ..FACTS }
    }

    fn happens(&mut self, at: (usize, usize), event: Event<'_>) -> Act {
        let Some((accepted_ms, pair)) = self.pairs.get(&at).cloned() else { return Act::Nothing };
        let (message, device) = at;
        let turn = match &event {
            Event::Turn { facts, .. } => Some(facts.others_online),
            _ => None,
        };
        let standing = Standing {
            pair: pair.clone(),
            device: self.devices[device].clone(),
            bound: device == 0,
            broker: true,
            accepted_ms,
            expires_ms: accepted_ms + RULES.keep_s * 1000,
            online_only: false,
        };
        let step = step(&standing, event, &RULES, self.now_ms);
        for Line { hop, .. } in &step.lines {
            self.trace.push((at, *hop));
        }
        if pair.state == State::Done {
            assert_eq!(step.pair, pair, "what is done stays done");
        }
        if step.act == Act::Push {
            assert_eq!(turn, Some(false), "a notification while another device proves that it is there");
            self.calls.push((at, step.pair.attempts));
        }
        if step.act == Act::Publish {
            *self.published.entry(at).or_default() += 1;
        }
        if let Some(Shown { vendor_id, .. }) = step.recall {
            assert!(self.took.contains(&vendor_id), "{vendor_id} is taken back and was never taken");
            self.recalled.insert(vendor_id);
        }
        if let Some(nonce) = step.silent {
            self.said(device, Word::Silent { nonce });
        }
        if matches!(step.act, Act::Publish) || matches!(step.lines.last(), Some(Line { hop: Hop::Synced, .. })) {
            self.arrives(message, device);
        }
        self.pairs.insert(at, (accepted_ms, step.pair));
        step.act
    }

    /// What is published reaches the device if its connection is what the gateway thinks it is, mostly.
    fn arrives(&mut self, message: usize, device: usize) {
        let truth = &mut self.truth[device];
        let known = self.devices[device].nonce.as_ref().map(ToString::to_string);
        if truth.nonce.is_none() || truth.nonce != known || self.chance.below(10) == 0 {
            return;
        }
        truth.has.insert(message);
        let (attached, twice) = (truth.open, self.chance.below(5) == 0);
        for _ in 0..=usize::from(twice) {
            self.words.push((device, Said::Ack { message, attached }));
        }
        if attached && self.chance.below(3) > 0 {
            self.truth[device].took.insert(message);
            self.words.push((device, Said::Taken { message }));
        }
    }

    fn said(&mut self, device: usize, word: Word) {
        let step = presence::step(&self.devices[device], word, self.now_ms);
        self.devices[device] = step.device;
        if let Some(nonce) = step.lost {
            let under_way: Vec<_> = self
                .pairs
                .iter()
                .filter(|((_, of), (_, pair))| *of == device && pair.under_way.as_ref() == Some(&nonce))
                .map(|(at, _)| *at)
                .collect();
            for at in under_way {
                self.happens(at, Event::Lost { why: "gone" });
            }
        }
        if step.reconsider {
            for ((_, of), (_, pair)) in &mut self.pairs {
                if *of != device && pair.state == State::Held {
                    pair.due_ms = Some(self.now_ms);
                }
            }
        }
    }

    fn accept(&mut self) {
        if self.accepted == MESSAGES {
            return;
        }
        let message = self.accepted;
        self.accepted += 1;
        for device in 0..DEVICES {
            let at = (message, device);
            self.pairs.insert(at, (self.now_ms, Pair::new()));
            self.happens(at, Event::Accepted);
            self.evict(device);
        }
        self.claim();
    }

    fn evict(&mut self, device: usize) {
        let open = self.pairs.iter().filter(|((_, of), (_, pair))| *of == device && pair.state != State::Done);
        let open: Vec<_> = open.map(|(at, _)| *at).collect();
        for at in open.iter().take(open.len().saturating_sub(RULES.keep_most as usize)) {
            self.happens(*at, Event::Evicted { keep_most: RULES.keep_most });
        }
    }

    fn claim(&mut self) {
        let due: Vec<_> = self
            .pairs
            .iter()
            .filter(|(_, (_, pair))| pair.due_ms.is_some_and(|at| at <= self.now_ms))
            .map(|(at, (_, pair))| (*at, pair.state))
            .collect();
        let mut late = HashSet::new();
        for (at, state) in due {
            if state == State::Live {
                self.happens(at, Event::Due);
                late.insert(at);
            }
        }
        for state in [State::Held, State::Vendor] {
            let turns: Vec<_> = self
                .pairs
                .iter()
                .filter(|(_, (_, pair))| pair.state == state && pair.due_ms.is_some_and(|at| at <= self.now_ms))
                .map(|(at, _)| *at)
                .collect();
            for at in turns {
                let (facts, unanswered) = (self.facts(at), late.contains(&at));
                self.happens(at, Event::Turn { facts, unanswered });
            }
        }
    }

    fn connect(&mut self, device: usize) {
        if let Some(old) = self.truth[device].nonce.take() {
            self.words.push((device, Said::Ended { nonce: old }));
        }
        self.connections += 1;
        let nonce = format!("c{}", self.connections);
        self.truth[device].nonce = Some(nonce.clone());
        self.said(device, Word::Hello { nonce: nonce.as_str().into(), node: String::new() });
        let waiting: Vec<_> = self
            .pairs
            .iter()
            .filter(|((_, of), (_, pair))| *of == device && pair.state != State::Done && pair.acked_by.is_none())
            .map(|(at, _)| *at)
            .collect();
        for at in waiting {
            self.happens(at, Event::Sent { nonce: nonce.as_str().into() });
        }
    }

    fn leave(&mut self, device: usize) {
        if let Some(nonce) = self.truth[device].nonce.take()
            && self.chance.below(4) > 0
        {
            self.words.push((device, Said::Ended { nonce }));
        }
    }

    fn hear(&mut self) {
        if self.words.is_empty() {
            return;
        }
        let at = self.chance.below(self.words.len());
        let (device, said) = self.words.swap_remove(at);
        match self.chance.below(8) {
            0 => return,
            1 => self.words.push((device, said.clone())),
            _ => {}
        }
        match said {
            Said::Ack { message, attached } => {
                self.heard.insert((message, device, "ack"));
                self.said(device, Word::Attached(attached));
                self.happens((message, device), Event::Acked { attached: Some(attached) });
            }
            Said::Taken { message } => {
                self.heard.insert((message, device, "taken"));
                self.said(device, Word::Heard);
                self.happens((message, device), Event::Taken { woke: false });
            }
            Said::Ended { nonce } => self.said(device, Word::Ended { nonce: nonce.as_str().into() }),
            Said::Attached(attached) => self.said(device, Word::Attached(attached)),
        }
    }

    fn answer(&mut self) {
        if self.calls.is_empty() {
            return;
        }
        let at = self.chance.below(self.calls.len());
        let (of, attempt) = self.calls.swap_remove(at);
        let (after, hop) = match self.chance.below(6) {
            0 => (AfterVendor::Again { in_ms: 1000 }, Hop::VendorRetry),
            1 => (AfterVendor::GiveUp { dead_since_ms: None }, Hop::VendorRefused),
            _ => (AfterVendor::Pushed, Hop::VendorSent),
        };
        let vendor_id = (after == AfterVendor::Pushed).then(|| format!("{of:?}-{attempt}"));
        self.took.extend(vendor_id.clone());
        let line = Line::new(hop, "");
        self.happens(of, Event::Answered { attempt, after, vendor_id, notifier: "n".into(), line });
    }

    fn log_out(&mut self, device: usize) {
        self.said(device, Word::LoggedOut);
        let open: Vec<_> = self.pairs.keys().filter(|(_, of)| *of == device).copied().collect();
        for at in open {
            self.happens(at, Event::LoggedOut);
        }
        self.truth[device] = Truth::default();
        self.words.retain(|(of, _)| *of != device);
    }

    fn moves(&mut self) {
        let device = self.chance.below(DEVICES);
        match self.chance.below(20) {
            0..=2 => self.accept(),
            3..=4 => self.connect(device),
            5 => self.leave(device),
            6..=11 => self.hear(),
            12..=14 => self.answer(),
            15 => {
                self.truth[device].open = !self.truth[device].open;
                let open = self.truth[device].open;
                self.words.push((device, Said::Attached(open)));
            }
            16 if self.chance.below(4) == 0 => self.log_out(device),
            _ => {
                self.now_ms += [1, 500, 4999, 5000, 31_000, 600_001][self.chance.below(6)];
                self.claim();
            }
        }
        self.holds();
    }

    /// What is true at every moment.
    fn holds(&self) {
        for (at, (_, pair)) in &self.pairs {
            let has = |hop: Hop| self.trace.iter().any(|(of, said)| of == at && *said == hop);
            let proven = pair.acked_ms.or(pair.taken_ms).is_some();
            let ended = has(Hop::Evicted) || has(Hop::Expired) || has(Hop::Stopped);
            assert!(pair.state != State::Done || proven || ended, "{at:?} is done without an ack or an end: {pair:?}");
            let (message, device) = *at;
            for (hop, word) in [(Hop::Acked, "ack"), (Hop::Taken, "taken")] {
                assert!(!has(hop) || self.heard.contains(&(message, device, word)), "{at:?}: nobody said {word}");
            }
            assert!(!has(Hop::VendorSent) || self.took.iter().any(|id| id.starts_with(&format!("{at:?}"))));
            let said = self.trace.iter().filter(|(of, hop)| of == at && *hop == Hop::Published).count();
            assert_eq!(
                said,
                self.published.get(at).copied().unwrap_or(0),
                "{at:?}: published as often as the trace says"
            );
            let moves_by_itself = matches!(pair.state, State::Live | State::Vendor | State::Held);
            assert_eq!(pair.due_ms.is_some(), moves_by_itself, "{at:?} is forgotten, or due for nothing: {pair:?}");
            assert!(pair.state == State::Live || pair.state == State::Pushed || pair.under_way.is_none(), "{pair:?}");
        }
    }

    /// Nobody is heard any more, vendors take everything, and time passes.
    fn rests(&mut self) {
        self.words.clear();
        for device in 0..DEVICES {
            if let Some(nonce) = self.devices[device].connection().cloned() {
                self.said(device, Word::Ended { nonce });
            }
        }
        for _ in 0..20 {
            self.now_ms += 5000;
            self.claim();
            for (of, attempt) in std::mem::take(&mut self.calls) {
                let id = format!("{of:?}-{attempt}");
                self.took.insert(id.clone());
                let line = Line::new(Hop::VendorSent, "");
                let (after, vendor_id) = (AfterVendor::Pushed, Some(id));
                self.happens(of, Event::Answered { attempt, after, vendor_id, notifier: "n".into(), line });
            }
            self.holds();
        }
        for ((message, device), (accepted_ms, pair)) in &self.pairs {
            let fresh = self.now_ms - accepted_ms <= RULES.push_life_s * 1000;
            let unsettled = matches!(pair.state, State::Live | State::Vendor | State::Held);
            assert!(!(unsettled && fresh), "({message}, {device}) never comes to rest: {pair:?}");
        }
    }
}

/// `IMPUSH_ORDERS` says how many.
#[test]
fn no_order_of_words_ends_a_message_without_proof_or_tells_what_did_not_happen() {
    let orders = std::env::var("IMPUSH_ORDERS").ok().and_then(|n| n.parse().ok()).unwrap_or(3000_u64);
    let (mut recalls, mut pushes) = (0, 0);
    for seed in 0..orders {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..MOVES {
                world.moves();
            }
            world.rests();
            (world.recalled.len(), world.took.len())
        });
        let (recalled, took) = run.unwrap_or_else(|_| panic!("order {seed}"));
        recalls += recalled;
        pushes += took;
    }
    println!("{orders} orders: {pushes} notifications, {recalls} of them taken back");
    assert!(recalls > 0 && pushes > recalls, "the orders go everywhere");
}
