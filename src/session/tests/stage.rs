//! A world around a session: what the shell, the disk, the servers and the gateway would do, in virtual time.

use super::super::*;
use crate::keepalive::{Bounds, Cause, Failure};
use crate::protocol::{BindResult, BindingReport, BindingState, Down, Held, Up};
use crate::secret::Secret;
use std::collections::{BTreeMap, BTreeSet};

pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// When the program was built; the stage begins after it.
pub const BUILT_MS: u64 = 1_690_000_000_000;
pub const FIRST_CHECK: Duration = Duration::from_secs(600);
pub const MOST_CHECK: Duration = Duration::from_secs(14_400);

pub fn settings() -> Settings {
    Settings {
        app: "org#app".to_owned().try_into().expect("an app"),
        topics: Topics::new("im/v1").expect("a prefix"),
        device_id: "00112233445566778899aabbccddeeff".into(),
        device_id_is_stored: true,
        instance: None,
        endpoints: vec!["mqtts://a:8883".into(), "mqtts://b:8883".into()],
        proxy: None,
        order: Vendor::ORDER.to_vec(),
        certificates: [(Vendor::Xiaomi, "2882303".to_owned())].into(),
        candidate: Some((Vendor::Xiaomi, crate::vendors::rom::Confidence::Rom)),
        forced: None,
        platform: "android".into(),
        model: None,
        linger: Duration::from_secs(60),
        check_first: FIRST_CHECK,
        check_most: MOST_CHECK,
        bounds: Bounds::default(),
        low_power: PowerMode::Auto,
        low_power_ceiling: Duration::from_secs(1680),
        built_ms: BUILT_MS,
        entropy: 7,
    }
}

/// What the shell has been told to do and has not yet told the outcome of.
#[derive(Debug, Default)]
pub struct Pending {
    pub dial: Option<Dial>,
    pub connected: bool,
    pub sides: Vec<Side>,
}

/// A session and what is around it.
pub struct Stage {
    pub session: Session,
    pub now: Now,
    pub disk: BTreeMap<Kind, Change>,
    /// The disk takes nothing.
    pub disk_full: bool,
    pub pending: Pending,
    pub written: Vec<Write>,
    pub answers: BTreeMap<RequestId, Answer>,
    pub asked: BTreeSet<RequestId>,
    pub ends: Vec<String>,
    pub inbox: Option<String>,
    /// How the kernel would go to the server.
    pub ground: Option<Ground>,
    pub carrier: bool,
    /// When the network was looked at.
    pub looks: Vec<Moment>,
    /// Apps that were woken, and for which message.
    pub woken: Vec<(String, crate::ids::MessageId)>,
    next_id: u64,
}

impl Stage {
    pub fn new(saved: Saved) -> Self {
        Self::with(settings(), saved)
    }

    pub fn with(settings: Settings, saved: Saved) -> Self {
        let now = Now { at: Moment::from_secs(1000), wall_ms: 1_700_000_000_000 };
        let mut disk = BTreeMap::new();
        for kind in [
            Kind::Login,
            Kind::Tokens,
            Kind::Plugin,
            Kind::Ledger,
            Kind::Heartbeat,
            Kind::Reports,
            Kind::Ended,
            Kind::Clock,
            Kind::LocalApps,
        ] {
            disk.insert(kind, saved.change(kind));
        }
        let mut stage = Self {
            session: Session::new(settings, saved, now),
            now,
            disk,
            disk_full: false,
            pending: Pending::default(),
            written: Vec::new(),
            answers: BTreeMap::new(),
            asked: BTreeSet::new(),
            ends: Vec::new(),
            inbox: None,
            ground: ground("wifi-1"),
            carrier: true,
            looks: Vec::new(),
            woken: Vec::new(),
            next_id: 0,
        };
        stage.feed(Event::Started);
        stage
    }

    pub fn feed(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.session.on_event(self.now, event) {
                events.extend(self.carry_out(action));
            }
        }
    }

    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Dial(dial) => {
                self.pending.dial = Some(*dial);
                let ground = self.ground.clone().filter(|_| self.carrier);
                return Some(Event::DialStarted { ground });
            }
            Action::CancelDial => self.pending.dial = None,
            Action::Write(write) => {
                if !self.pending.connected {
                    return None;
                }
                let unanswered = if matches!(write, Write::Publish { .. }) { 100 } else { 0 };
                self.written.push(write);
                return Some(Event::Written { unanswered });
            }
            Action::Close(_) | Action::Abandon => self.pending.connected = false,
            Action::Persist { change, version } => {
                let kind = change.kind();
                if self.disk_full {
                    return Some(Event::PersistFailed { kind, version, why: "no space left".into() });
                }
                self.disk.insert(kind, change);
                return Some(Event::Persisted { kind, version });
            }
            Action::Keep { message, packet_id } => {
                let kept = match (&self.inbox, self.disk_full) {
                    (None, _) => Kept::Nobody,
                    (_, true) => Kept::Failed("no space left".into()),
                    _ => Kept::New,
                };
                return Some(Event::Kept { id: message.id, from: message.from, packet_id, kept });
            }
            Action::LookAtNetwork => {
                self.looks.push(self.now.at);
                return Some(Event::NetworkSeen(self.sight()));
            }
            Action::LookAtBattery => return Some(Event::BatterySeen(None)),
            Action::StartSide(side) => self.pending.sides.push(*side),
            Action::CancelSide(kind) => self.pending.sides.retain(|side| kind_of(side) != kind),
            Action::Answer { id, answer } => {
                assert!(self.asked.contains(&id), "an answer to nobody");
                assert!(self.answers.insert(id, answer).is_none(), "{id:?} was answered twice");
            }
            Action::OpenInbox { user } => self.inbox = Some(user),
            Action::UnlinkInbox => self.inbox = None,
            Action::EndStreams { word, .. } => self.ends.push(word),
            Action::WakeApp { app, id, .. } => self.woken.push((app, id)),
            Action::LocalAppsChanged | Action::KeepAuthority { .. } => {}
        }
        None
    }

    pub fn sight(&self) -> Sight {
        Sight { ground: self.ground.clone(), carrier: self.carrier, address_gone: false }
    }

    pub fn ask(&mut self, ask: Ask) -> RequestId {
        self.next_id += 1;
        let id = RequestId(self.next_id);
        self.asked.insert(id);
        self.feed(Event::Request { id, ask });
        id
    }

    pub fn login(&mut self, user: &str) -> RequestId {
        let password = Secret::new(format!("{user}-secret"));
        self.ask(Ask::Login { user: user.into(), password, patience: Patience::UntilStored })
    }

    pub fn accept(&mut self) {
        let dial = self.pending.dial.take().expect("an attempt");
        self.pending.connected = true;
        let standing = Box::new(LinkStanding {
            nonce: dial.nonce.clone(),
            server: dial.servers[0].clone(),
            server_name: "mqtts://a:8883".into(),
            session_present: false,
            verified: true,
            server_keep_alive_s: None,
            broker: dial.broker,
            round_trip: Duration::from_millis(50),
            ground: self.ground.clone(),
        });
        self.feed(Event::Dialled { nonce: dial.nonce, standing });
        self.feed(Event::Heard(Packet::Subscribed { refused: None }));
    }

    pub fn refuse(&mut self, cause: Cause) {
        let dial = self.pending.dial.take().expect("an attempt");
        self.feed(Event::DialFailed { nonce: dial.nonce, failure: Failure::new(cause, "said the server") });
    }

    pub fn tell(&mut self, down: &Down) {
        self.feed(Event::Heard(Packet::Publish { payload: down.encode(), packet_id: Some(1) }));
    }

    /// The gateway answers everything that was said since the last time.
    pub fn gateway_answers(&mut self, state: Option<BindingState>) {
        self.feed(Event::Heard(Packet::Published { refused: None }));
        for write in std::mem::take(&mut self.written) {
            let Write::Publish { topic, payload, .. } = write else { continue };
            if !topic.ends_with("/up") {
                continue;
            }
            match crate::protocol::decode_up(&payload).expect("the protocol's words") {
                Up::Hello(hello) => {
                    let bindings = Some(reports(hello.binding.as_ref(), state));
                    self.tell(&Down::Settings {
                        nonce: Some(hello.nonce),
                        heartbeat_ceiling_s: None,
                        bindings,
                        token: None,
                        ca: None,
                    });
                }
                Up::Bind { sequence, .. } | Up::Unbind { sequence, .. } => {
                    self.feed(Event::Heard(Packet::Publish {
                        payload: format!(r#"{{"v":1,"type":"bound","sequence":{sequence},"result":"ok"}}"#)
                            .into_bytes(),
                        packet_id: None,
                    }));
                }
                _ => {}
            }
        }
    }

    /// A side connection ends well.
    pub fn side_answers(&mut self, state: Option<BindingState>) {
        let side = self.pending.sides.remove(0);
        let kind = kind_of(&side);
        let outcome = match side {
            Side::Probe { idle, .. } => SideOutcome::Probed { idle, outcome: crate::keepalive::ProbeOutcome::Survived },
            Side::Check { hello, .. } => {
                let Up::Hello(hello) = hello else { panic!("a check says hello") };
                SideOutcome::Checked { bindings: Some(reports(hello.binding.as_ref(), state)), token: None }
            }
            Side::Unbind { .. } => SideOutcome::Unbound { result: BindResult::Ok, expected: None },
        };
        self.feed(Event::SideEnded { side: kind, outcome });
    }

    pub fn side_fails(&mut self) {
        let side = self.pending.sides.remove(0);
        let failure = Failure::new(Cause::Unreachable, "no route");
        let outcome = match &side {
            Side::Probe { idle, .. } => {
                SideOutcome::Probed { idle: *idle, outcome: crate::keepalive::ProbeOutcome::Inconclusive }
            }
            _ => SideOutcome::Failed(failure),
        };
        self.feed(Event::SideEnded { side: kind_of(&side), outcome });
    }

    /// Time goes on to the next timer, or by so much where none comes sooner.
    pub fn pass(&mut self, most: Duration) {
        let until = self.now.at + most;
        let next = self.session.next_wake().map_or(until, |at| at.max(self.now.at)).min(until);
        let passed = next.saturating_sub(self.now.at);
        self.now.at = next;
        self.now.wall_ms += passed.as_millis() as u64;
        self.feed(Event::Tick);
    }

    pub fn state(&self) -> State {
        State::from(self.session.phase())
    }

    /// A phone of Xiaomi's with a token, logged in as ann, online and bound.
    pub fn phone() -> Self {
        let mut stage = Self::new(Saved::default());
        stage.ask(Ask::SetToken { vendor: Vendor::Xiaomi, token: Secret::new(TOKEN) });
        stage.login("ann");
        stage.accept();
        stage.gateway_answers(Some(BindingState::Unproven));
        stage
    }

    pub fn resting() -> Self {
        let mut stage = Self::phone();
        for _ in 0..20 {
            if stage.state() == State::Resting {
                break;
            }
            stage.pass(Duration::from_secs(60));
            stage.gateway_answers(Some(BindingState::Unproven));
        }
        assert_eq!(stage.state(), State::Resting);
        stage
    }

    /// What must hold after each event.
    pub fn check(&self, what: &dyn Fn() -> String) {
        let session = &self.session;
        let timer = |timer| session.timers().get(timer);
        let logged_in = session.saved().login.is_some();
        match session.phase() {
            Phase::LoggedOut => assert!(
                !logged_in || session.unsaved().next().is_some() || self.asked.len() > self.answers.len(),
                "{}: logged out with a login",
                what()
            ),
            Phase::Waiting(attempt) => assert_eq!(timer(Timer::Attempt), Some(attempt.at), "{}", what()),
            Phase::Connecting { nonce } => {
                assert_eq!(
                    self.pending.dial.as_ref().map(|dial| &dial.nonce),
                    Some(nonce),
                    "{}: no attempt runs",
                    what()
                );
            }
            Phase::Online(_) => assert!(self.pending.connected, "{}: online without a connection", what()),
            Phase::Resting => {
                let at = timer(Timer::Check).unwrap_or_else(|| panic!("{}: a rest that nobody looks after", what()));
                assert!(at <= self.now.at + MOST_CHECK, "{}: the next look is too far", what());
                assert!(
                    session.may_rest() || timer(Timer::Logout).is_some(),
                    "{}: rests on what does not serve",
                    what()
                );
                assert_eq!(session.attached(), 0, "{}: rests with an app attached", what());
            }
            Phase::Stopped(_) => {
                let worked = session.saved().login.as_ref().is_some_and(|login| login.welcomed);
                assert!(!worked, "{}: a login that worked is stopped", what());
            }
        }
        if !matches!(session.phase(), Phase::Waiting(_)) {
            assert_eq!(timer(Timer::Attempt), None, "{}: an attempt is planned in {:?}", what(), session.phase());
        }
        if !matches!(session.phase(), Phase::Connecting { .. }) {
            assert!(self.pending.dial.is_none(), "{}: an attempt runs in {:?}", what(), session.phase());
        }
        if !matches!(session.phase(), Phase::Online(_)) {
            assert!(!self.pending.connected, "{}: a connection is left over in {:?}", what(), session.phase());
        }
        let unsaved: BTreeSet<Kind> = session.unsaved().collect();
        for (kind, stored) in &self.disk {
            let held = session.saved().change(*kind);
            assert!(held == *stored || unsaved.contains(kind), "{}: {kind:?} is neither on disk nor owed", what());
        }
        if !unsaved.is_empty() {
            assert!(timer(Timer::Persist).is_some(), "{}: what the disk refused is not tried again", what());
        }
        for id in self.asked.difference(&self.answers.keys().copied().collect()) {
            let waits = [Timer::Login, Timer::Logout].iter().any(|t| timer(*t).is_some());
            assert!(waits, "{}: {id:?} waits for nothing", what());
        }
        assert_eq!(
            self.inbox.as_ref(),
            session.saved().login.as_ref().map(|login| &login.user),
            "{}: whose inbox is open",
            what()
        );
    }
}

pub fn ground(network: &str) -> Option<Ground> {
    Some((network.into(), None))
}

pub fn kind_of(side: &Side) -> SideKind {
    match side {
        Side::Probe { .. } => SideKind::Probe,
        Side::Check { .. } => SideKind::Check,
        Side::Unbind { .. } => SideKind::Unbind,
    }
}

fn reports(held: Option<&Held>, state: Option<BindingState>) -> Vec<BindingReport> {
    match (held, state) {
        (Some(Held::Bound { notifier, token }), Some(state)) => vec![BindingReport {
            notifier: notifier.clone(),
            token: token.clone(),
            state,
            since_ms: None,
            until_ms: None,
            code: None,
        }],
        _ => Vec::new(),
    }
}
