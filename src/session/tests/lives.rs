//! Long random lives: whatever happens in whatever order, the device stays reachable.

use super::super::random::Random;
use super::super::*;
use super::stage::{Stage, TOKEN, kind_of};
use crate::keepalive::{Cause, Failure};
use crate::protocol::{BindResult, BindingState, Down, KickCode, Message};
use crate::secret::Secret;

const SEEDS: u64 = 500;
/// Most of a life is spent where little happens; this many events of rest are enough to believe in it.
const LEAST_SEEN: u64 = 5000;
const STEPS: u64 = 2000;

/// What servers and ways come to. The gateway's own word is another matter.
const CAUSES: &[Cause] = &[
    Cause::PongLost,
    Cause::AckLost,
    Cause::WriteStalled,
    Cause::PeerClosed,
    Cause::Io,
    Cause::DnsFailed,
    Cause::ConnectRefused,
    Cause::ConnectTimeout,
    Cause::Unreachable,
    Cause::ProxyRefused,
    Cause::TlsUntrusted,
    Cause::TlsExpired,
    Cause::TlsNotYetValid,
    Cause::ServerBusy,
    Cause::QuotaExceeded,
    Cause::ServerUnavailable,
    Cause::UseAnotherServer,
    Cause::ServerMoved,
    Cause::ServerShutdown,
    Cause::ProtocolError,
    Cause::Refused,
    Cause::NotMqtt5,
    Cause::BadCredentials,
    Cause::NotAuthorized,
    Cause::Banned,
    Cause::TakenOver,
    Cause::Kicked,
    Cause::ClientIdRefused,
    Cause::RetainRefused,
    Cause::QosRefused,
    Cause::PacketTooLarge,
];

const STATES: &[Option<BindingState>] = &[
    Some(BindingState::Working),
    Some(BindingState::Unproven),
    Some(BindingState::Dead),
    Some(BindingState::Disabled),
    Some(BindingState::MissingCertificate),
    Some(BindingState::Failing),
    Some(BindingState::Limited),
    Some(BindingState::Unknown),
    None,
];

fn pick<'a, T>(random: &mut Random, from: &'a [T]) -> &'a T {
    &from[(random.next() % from.len() as u64) as usize]
}

fn one_in(random: &mut Random, n: u64) -> bool {
    random.next().is_multiple_of(n)
}

fn message(id: u64) -> Message {
    let json = format!(r#"{{"id":"m{id}","from":"bob","to":"ann","sent_at_ms":1,"body":{{"msg":"hi"}}}}"#);
    serde_json::from_str(&json).expect("a message")
}

fn step(stage: &mut Stage, random: &mut Random) -> String {
    let user = *pick(random, &["ann", "bob"]);
    let choice = random.next() % 36;
    match choice {
        0..=5 => {
            let most = *pick(random, &[1, 5, 60, 600, 14_400]);
            stage.pass(Duration::from_secs(most));
            return format!("pass {most}");
        }
        6..=10 if stage.pending.dial.is_some() => stage.accept(),
        11 | 12 if stage.pending.dial.is_some() => {
            let cause = *pick(random, CAUSES);
            stage.refuse(cause);
            return format!("refuse {cause}");
        }
        13 | 14 if stage.pending.connected => {
            let cause = *pick(random, CAUSES);
            stage.pending.connected = false;
            let mut failure = Failure::new(cause, "it broke");
            failure.server_reference = (one_in(random, 2)).then(|| "other:8883".to_owned());
            stage.feed(Event::Lost(failure));
            return format!("lost {cause}");
        }
        15..=18 if stage.pending.connected => {
            let state = *pick(random, STATES);
            stage.gateway_answers(state);
            return format!("the gateway answers {state:?}");
        }
        19..=21 if !stage.pending.sides.is_empty() => {
            let state = *pick(random, STATES);
            let kind = kind_of(&stage.pending.sides[0]);
            stage.side_answers(state);
            return format!("{kind:?} answers {state:?}");
        }
        22 if !stage.pending.sides.is_empty() => stage.side_fails(),
        23 => _ = stage.login(user),
        24 => {
            let patience = *pick(random, &[Patience::UntilAccepted, Patience::UntilStored]);
            let password = Secret::new(format!("p{}", random.next() % 3));
            _ = stage.ask(Ask::Login { user: user.into(), password, patience });
        }
        25 if one_in(random, 4) => _ = stage.ask(Ask::Logout { keep_binding: one_in(random, 4) }),
        26 => {
            let app = (*pick(random, &["mail", "chat"])).to_owned();
            let attached = stage.session.apps.contains_key(&app);
            _ = stage.ask(if attached { Ask::Detach { app } } else { Ask::Attach { app } });
        }
        27 => {
            let token = format!("{}{}", &TOKEN[1..], random.next() % 3);
            let set = Ask::SetToken { vendor: Vendor::Xiaomi, token: Secret::new(token) };
            _ = stage.ask(if one_in(random, 5) { Ask::RemoveToken { vendor: Vendor::Xiaomi } } else { set });
        }
        28 => stage.disk_full = one_in(random, 3),
        29 => match random.next() % 5 {
            0 => _ = stage.ask(Ask::Reconnect),
            1 => _ = stage.ask(Ask::UnbindPushToken),
            2 => _ = stage.ask(Ask::Receipt { id: "m1".into(), event: "clicked".into() }),
            3 => _ = stage.ask(Ask::Power { mode: PowerMode::Low }),
            _ => _ = stage.ask(Ask::Init),
        },
        30 => {
            let mut sight = stage.sight();
            let network = *pick(random, &["wifi-1", "cell-1"]);
            sight.ground = (!one_in(random, 4)).then(|| (network.to_owned(), None));
            sight.carrier = !one_in(random, 8);
            sight.address_gone = one_in(random, 4) && stage.pending.connected;
            stage.feed(Event::NetworkNotice);
            stage.feed(Event::NetworkSeen(sight));
        }
        31 => match random.next() % 6 {
            3 => {
                let servers = *pick::<&[&str]>(
                    random,
                    &[&["mqtts://a:8883"], &["mqtts://c:8883", "mqtts://a:8883"], &["mqtts://d:8883"]],
                );
                let changeable = Box::new(super::ways::changeable(servers));
                stage.feed(Event::Reconfigured { changeable, way_changed: one_in(random, 2) });
            }
            4 => {
                stage.now.wall_ms =
                    *pick(random, &[9, super::stage::BUILT_MS + 1, 4_000_000_000_000, 1_700_000_000_000]);
                stage.feed(Event::ClockStepped);
            }
            5 => stage.feed(Event::NameServersChanged),
            0 => stage.feed(Event::Woke { gap: Duration::from_secs(60) }),
            1 => {
                stage.now.wall_ms += random.next() % 1_000_000_000;
                stage.feed(Event::ClockStepped);
            }
            _ => stage.feed(Event::NetworkNotice),
        },
        32 if stage.pending.connected => match random.next() % 6 {
            0 => stage.tell(&Down::Kick { code: KickCode::Kicked, replaced_by: None }),
            1 => stage.tell(&Down::Message(message(random.next() % 50))),
            2 => stage.feed(Event::Heard(Packet::Subscribed {
                refused: Some(Failure::new(Cause::QuotaExceeded, "NotAuthorized")),
            })),
            3 => stage.feed(Event::Heard(Packet::Publish { payload: b"\xff".to_vec(), packet_id: Some(2) })),
            4 => stage.feed(Event::Heard(Packet::Pong)),
            _ => stage.feed(Event::SideAboutToPing),
        },
        34 | 35 => {
            // A while without trouble: no app, a network, a gateway that answers.
            for app in stage.session.apps.keys().cloned().collect::<Vec<_>>() {
                while stage.session.apps.contains_key(&app) {
                    stage.ask(Ask::Detach { app: app.clone() });
                }
            }
            for _ in 0..4 {
                if stage.pending.dial.is_some() {
                    stage.accept();
                }
                if stage.pending.connected {
                    stage.gateway_answers(Some(BindingState::Working));
                }
                stage.pass(Duration::from_secs(60));
            }
        }
        33 if stage.pending.connected => {
            let token = Some(Secret::new(format!("renewed-{}", random.next() % 9)));
            stage.tell(&Down::Settings { nonce: None, heartbeat_ceiling_s: Some(30), bindings: None, token, ca: None });
        }
        _ => {
            let ids = vec![format!("m{}", random.next() % 50).as_str().into()];
            stage.feed(Event::Taken { ids });
            if !stage.pending.sides.is_empty() && one_in(random, 8) {
                let kind = kind_of(&stage.pending.sides.remove(0));
                let outcome = match random.next() % 2 {
                    0 => SideOutcome::Kicked { code: KickCode::Replaced, replaced_by: Some("d2".into()) },
                    _ => SideOutcome::Unbound { result: BindResult::Later, expected: None },
                };
                stage.feed(Event::SideEnded { side: kind, outcome });
            }
        }
    }
    format!("choice {choice}")
}

/// The lives of these seeds; how often each state was seen.
fn live(seeds: impl Iterator<Item = u64>) -> BTreeMap<String, u64> {
    let mut seen = BTreeMap::new();
    for seed in seeds {
        let mut random = Random::new(seed);
        // Every other device begins as a phone that is online and bound.
        let mut stage = if seed.is_multiple_of(2) { Stage::new(Saved::default()) } else { Stage::phone() };
        let mut last = VecDeque::new();
        for n in 0..STEPS {
            last.push_back(step(&mut stage, &mut random));
            if last.len() > 12 {
                last.pop_front();
            }
            stage.check(&|| format!("seed {seed}, step {n}: {last:?}"));
            *seen.entry(format!("{:?}", stage.state())).or_insert(0) += 1;
        }
    }
    seen
}

#[test]
fn whatever_happens_the_device_stays_reachable_and_every_request_is_answered_once() {
    let all = std::thread::scope(|scope| {
        let halves: Vec<_> =
            (0..2).map(|half| scope.spawn(move || live((0..SEEDS).filter(|seed| seed / 2 % 2 == half)))).collect();
        let mut all = BTreeMap::new();
        for seen in halves.into_iter().map(|half| half.join().expect("a half's lives hold")) {
            for (state, times) in seen {
                *all.entry(state).or_insert(0) += times;
            }
        }
        all
    });
    // A driver that stays in a corner would prove nothing.
    for state in ["LoggedOut", "Connecting", "Online", "Waiting", "Resting", "Stopped"] {
        assert!(all.get(state).is_some_and(|times: &u64| *times > LEAST_SEEN), "{all:?}");
    }
}
