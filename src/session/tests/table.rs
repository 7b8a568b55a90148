//! Every phase and event: what follows, or why it cannot be.

use super::super::*;
use super::stage::{Stage, TOKEN};
use crate::keepalive::{Cause, Failure, ProbeOutcome};
use crate::protocol::{BindResult, Down, KickCode};
use crate::secret::Secret;

const PHASES: [State; 6] =
    [State::LoggedOut, State::Waiting, State::Connecting, State::Online, State::Resting, State::Stopped];

/// A device in each phase. All but the last have a login that worked; a stopped one never did.
fn in_phase(phase: State) -> Stage {
    let mut stage = match phase {
        State::Online => Stage::phone(),
        State::Resting => Stage::resting(),
        State::LoggedOut => Stage::new(Saved::default()),
        State::Stopped => {
            let mut stage = Stage::new(Saved::default());
            stage.login("ann");
            stage.refuse(Cause::BadCredentials);
            stage
        }
        State::Waiting | State::Connecting => {
            let mut stage = Stage::phone();
            stage.pending.connected = false;
            stage.feed(Event::Lost(Failure::new(Cause::Io, "gone")));
            stage
        }
    };
    if phase == State::Connecting {
        while stage.state() == State::Waiting {
            stage.pass(Duration::from_secs(600));
        }
    }
    assert_eq!(stage.state(), phase);
    stage
}

/// What happens, and the phase it leads to from each of [`PHASES`]; `None`: it cannot be there.
struct Row {
    name: &'static str,
    happens: fn(&mut Stage),
    leads_to: [Option<State>; 6],
}

const OUT: Option<State> = Some(State::LoggedOut);
const WAITS: Option<State> = Some(State::Waiting);
const DIALS: Option<State> = Some(State::Connecting);
const ONLINE: Option<State> = Some(State::Online);
const RESTS: Option<State> = Some(State::Resting);
const STOPS: Option<State> = Some(State::Stopped);
/// Everything stays as it is.
const STAYS: [Option<State>; 6] = [OUT, WAITS, DIALS, ONLINE, RESTS, STOPS];

fn sight(stage: &mut Stage, network: &str, address_gone: bool) {
    let ground = Some((network.to_owned(), None));
    let sight = Sight { ground, carrier: true, address_gone };
    stage.feed(Event::NetworkSeen(sight));
}

/// The order of the columns is that of [`PHASES`].
const TABLE: &[Row] = &[
    Row {
        name: "a login of the same user with another password",
        happens: |s| _ = s.ask_again("ann", "another"),
        leads_to: [DIALS, DIALS, DIALS, DIALS, DIALS, DIALS],
    },
    Row {
        name: "a login of somebody else: refused where somebody is logged in",
        happens: |s| _ = s.ask_again("bob", "b"),
        leads_to: [DIALS, WAITS, DIALS, ONLINE, RESTS, STOPS],
    },
    Row {
        name: "a logout that keeps the binding",
        happens: |s| _ = s.asks(Ask::Logout { keep_binding: true }),
        leads_to: [OUT, OUT, OUT, OUT, OUT, OUT],
    },
    Row {
        name: "a logout: online and at rest the gateway is told first",
        happens: |s| _ = s.asks(Ask::Logout { keep_binding: false }),
        leads_to: [OUT, OUT, OUT, ONLINE, RESTS, OUT],
    },
    Row {
        name: "the operator wants a new connection",
        happens: |s| _ = s.asks(Ask::Reconnect),
        leads_to: [OUT, DIALS, DIALS, DIALS, DIALS, DIALS],
    },
    Row {
        name: "an app attaches: what waits or rests is cut short",
        happens: |s| _ = s.asks(Ask::Attach { app: "mail".into() }),
        leads_to: [OUT, DIALS, DIALS, ONLINE, DIALS, STOPS],
    },
    Row {
        name: "a new token: at rest it has to be bound first",
        happens: |s| {
            let token = Secret::new(TOKEN.replace('0', "f"));
            _ = s.asks(Ask::SetToken { vendor: Vendor::Xiaomi, token });
        },
        leads_to: [OUT, WAITS, DIALS, ONLINE, DIALS, STOPS],
    },
    Row {
        name: "the token goes: without a channel the connection is what delivers",
        happens: |s| _ = s.asks(Ask::RemoveToken { vendor: Vendor::Xiaomi }),
        leads_to: [OUT, WAITS, DIALS, ONLINE, DIALS, STOPS],
    },
    Row {
        name: "an app unbinds the token",
        happens: |s| _ = s.asks(Ask::UnbindPushToken),
        leads_to: [OUT, WAITS, DIALS, ONLINE, DIALS, STOPS],
    },
    Row { name: "an attempt succeeds", happens: Stage::accept, leads_to: [None, None, ONLINE, None, None, None] },
    Row {
        name: "an attempt fails",
        happens: |s| s.refuse(Cause::ConnectRefused),
        leads_to: [None, None, WAITS, None, None, None],
    },
    Row {
        name: "the outcome of an attempt that was given up: it counts no more",
        happens: |s| s.feed(Event::DialFailed { nonce: "old".into(), failure: Failure::new(Cause::Io, "late") }),
        leads_to: STAYS,
    },
    Row {
        name: "the connection breaks; without one a late word of it counts no more",
        happens: |s| {
            s.pending.connected = false;
            s.feed(Event::Lost(Failure::new(Cause::PeerClosed, "gone")));
        },
        leads_to: [OUT, WAITS, DIALS, WAITS, RESTS, STOPS],
    },
    Row {
        name: "the gateway ends the login over the connection",
        happens: |s| s.tell(&Down::Kick { code: KickCode::Kicked, replaced_by: None }),
        leads_to: [None, None, None, OUT, None, None],
    },
    Row {
        name: "the subscription is refused",
        happens: |s| {
            s.feed(Event::Heard(Packet::Subscribed { refused: Some(Failure::new(Cause::QuotaExceeded, "quota")) }))
        },
        leads_to: [None, None, None, WAITS, None, None],
    },
    Row {
        name: "bytes that nobody understands: counted, and nothing else",
        happens: |s| s.feed(Event::Heard(Packet::Publish { payload: vec![0xff], packet_id: Some(1) })),
        leads_to: STAYS,
    },
    Row {
        name: "the network changed, and the address with it",
        happens: |s| sight(s, "cell-1", true),
        leads_to: [OUT, WAITS, DIALS, WAITS, RESTS, STOPS],
    },
    Row {
        name: "the network changed: what stands is asked whether it still works",
        happens: |s| sight(s, "cell-1", false),
        leads_to: STAYS,
    },
    Row { name: "a notice of the network", happens: |s| s.feed(Event::NetworkNotice), leads_to: STAYS },
    Row { name: "other name servers", happens: |s| s.feed(Event::NameServersChanged), leads_to: STAYS },
    Row { name: "the device slept", happens: |s| s.feed(Event::Woke { gap: Duration::from_secs(9) }), leads_to: STAYS },
    Row { name: "the clock was set", happens: |s| s.feed(Event::ClockStepped), leads_to: STAYS },
    Row {
        name: "other servers are configured: what is tried or stands goes there, and at rest they are asked",
        happens: |s| {
            let changeable = Box::new(super::ways::changeable(&["mqtts://c:8883"]));
            s.feed(Event::Reconfigured { changeable, way_changed: true });
        },
        leads_to: [OUT, WAITS, DIALS, DIALS, RESTS, DIALS],
    },
    Row {
        name: "the configuration is read again and is the same",
        happens: |s| {
            let changeable = Box::new(super::ways::changeable(&["mqtts://a:8883", "mqtts://b:8883"]));
            s.feed(Event::Reconfigured { changeable, way_changed: false });
        },
        leads_to: STAYS,
    },
    Row { name: "the battery is full", happens: |s| s.feed(Event::BatterySeen(None)), leads_to: STAYS },
    Row { name: "a write is done", happens: |s| s.feed(Event::Written { unanswered: 0 }), leads_to: STAYS },
    Row { name: "an app took a message", happens: |s| s.feed(Event::Taken { ids: vec!["m".into()] }), leads_to: STAYS },
    Row { name: "the disk lost messages", happens: |s| s.feed(Event::InboxLost), leads_to: STAYS },
    Row { name: "a timer that is not due", happens: |s| s.feed(Event::Tick), leads_to: STAYS },
    Row {
        name: "the disk refused something that was owed to it",
        happens: |s| s.feed(Event::PersistFailed { kind: Kind::Heartbeat, version: 0, why: "full".into() }),
        leads_to: STAYS,
    },
    Row {
        name: "a look at the bindings that nobody asked for fails: only at rest does it count",
        happens: |s| {
            let outcome = SideOutcome::Failed(Failure::new(Cause::Io, "no way"));
            s.feed(Event::SideEnded { side: SideKind::Check, outcome });
        },
        leads_to: [OUT, WAITS, DIALS, ONLINE, DIALS, STOPS],
    },
    Row {
        name: "a probe ends that was cancelled",
        happens: |s| {
            let outcome = SideOutcome::Probed { idle: Duration::from_secs(60), outcome: ProbeOutcome::Lost };
            s.feed(Event::SideEnded { side: SideKind::Probe, outcome });
        },
        leads_to: STAYS,
    },
    Row {
        name: "an old logout is answered that nobody owes",
        happens: |s| {
            let outcome = SideOutcome::Unbound { result: BindResult::Ok, expected: None };
            s.feed(Event::SideEnded { side: SideKind::Unbind, outcome });
        },
        leads_to: STAYS,
    },
    Row {
        name: "the agent is to end",
        happens: |s| s.feed(Event::Shutdown),
        leads_to: [STOPS, STOPS, STOPS, STOPS, STOPS, STOPS],
    },
];

impl Stage {
    fn ask_again(&mut self, user: &str, password: &str) -> RequestId {
        let password = Secret::new(password);
        self.ask(Ask::Login { user: user.into(), password, patience: Patience::UntilStored })
    }

    fn asks(&mut self, ask: Ask) -> RequestId {
        self.ask(ask)
    }
}

#[test]
fn what_follows_each_event_in_each_phase() {
    let mut wrong = Vec::new();
    for row in TABLE {
        for (phase, wanted) in PHASES.into_iter().zip(row.leads_to) {
            let Some(wanted) = wanted else { continue };
            let mut stage = in_phase(phase);
            (row.happens)(&mut stage);
            if stage.state() != wanted {
                wrong.push(format!("{} while {phase:?}: {:?}, not {wanted:?}", row.name, stage.state()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
