//! What an event makes of a message on its way to one device.

use super::policy::{self, Facts, Stop};
use super::{AfterVendor, Event, Hop, Line, Pair, Rules, Shown, Standing, State};
use crate::ids::Nonce;

/// First pause between two tries over one connection, in milliseconds.
const REPEAT_BASE_MS: u64 = 1000;
/// How long a connected device is sent a message it does not acknowledge, in milliseconds since the message
/// or the device came. Long enough for a broker that loses a node; after it the device is hardly there.
const REPEAT_FOR_MS: u64 = 600_000;
/// Pause until a message that the broker could not be given is looked at again, should nobody say before that
/// the broker is back. In milliseconds.
const BROKER_MS: u64 = 60_000;

/// What is to be done now, after the pair is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Act {
    #[default]
    Nothing,
    /// Over the device's connection.
    Publish,
    /// Through its vendor.
    Push,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub pair: Pair,
    /// What the trace says of it.
    pub lines: Vec<Line>,
    pub act: Act,
    /// A notification that nobody has to see any more.
    pub recall: Option<Shown>,
    /// The connection owes an acknowledgement: see [`super::presence`].
    pub silent: Option<Nonce>,
}

impl Step {
    fn to(pair: Pair) -> Self {
        Self { pair, lines: Vec::new(), act: Act::Nothing, recall: None, silent: None }
    }

    fn says(mut self, hop: Hop, detail: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        self.lines.push(Line::new(hop, detail));
        self
    }

    fn and(mut self, act: Act) -> Self {
        self.act = act;
        self
    }
}

/// Decides what becomes of a pair. An event that changes nothing says nothing in the trace but what happened.
pub fn step(standing: &Standing, event: Event<'_>, rules: &Rules, now_ms: u64) -> Step {
    let pair = &standing.pair;
    if pair.state == State::Done {
        return after_the_end(pair, event);
    }
    // A message comes once, and nothing is known of it before.
    if matches!(event, Event::Accepted | Event::Adopted) != (pair.state == State::New) {
        return Step::to(pair.clone());
    }
    match event {
        Event::Accepted | Event::Adopted => begin(standing, matches!(event, Event::Adopted), rules, now_ms),
        Event::Due => due(standing, rules, now_ms),
        Event::Turn { facts, unanswered } => turn(standing, &facts, unanswered, rules, now_ms),
        Event::NotPublished => not_published(standing, now_ms),
        Event::TooLarge { why } => too_large(standing, why, now_ms),
        Event::Lost { why } => lost(standing, why, rules, now_ms),
        Event::Sent { nonce } => {
            // What the vendor has is not pushed again, whatever becomes of this connection.
            let next = match pair.state {
                State::Pushed => moved(pair, State::Pushed, None),
                _ => moved(pair, State::Live, Some(now_ms + rules.ack_deadline_ms)),
            };
            Step::to(Pair { under_way: Some(nonce), acked_by: None, ..next })
                .says(Hop::Synced, "sent again after the device connected")
        }
        Event::Acked { attached } => acked(standing, attached, rules, now_ms),
        Event::Taken { woke } => {
            let detail = match pair.state {
                _ if woke => "by an app that it woke",
                State::Pushed => "after the vendor had it",
                _ => "by an app",
            };
            ended(Pair { taken_ms: Some(now_ms), ..pair.clone() }).says(Hop::Taken, detail)
        }
        Event::Answered { attempt, after, vendor_id, notifier, line } => {
            let shown = vendor_id.map(|vendor_id| Shown { notifier, vendor_id });
            let mut step = answered(standing, attempt, &after, shown, now_ms);
            step.lines.insert(0, line);
            step
        }
        Event::LoggedOut => logged_out(pair),
        Event::Evicted { keep_most } => match pair.state {
            State::Pushed | State::Held | State::Waiting => {
                ended(pair.clone()).says(Hop::Evicted, format!("more than {keep_most} messages waited for this device"))
            }
            // It is on its way.
            _ => Step::to(pair.clone()),
        },
        Event::Expired => {
            let detail = match pair.state {
                State::Pushed => "its notification was shown, and no app took it",
                _ if pair.acked_ms.is_some() => "it lay on the device, and no app took it",
                _ => "the device did not come for it",
            };
            ended(pair.clone()).says(Hop::Expired, detail)
        }
        Event::Unreadable => ended(pair.clone()).says(Hop::Stopped, Stop::InvalidMessage.text()),
    }
}

fn moved(pair: &Pair, state: State, due_ms: Option<u64>) -> Pair {
    Pair { state, due_ms, ..pair.clone() }
}

/// Nothing is to be done any more, and its notification goes.
fn ended(pair: Pair) -> Step {
    let recall = pair.shown.clone().filter(|_| pair.state == State::Pushed);
    let mut step = Step::to(Pair { state: State::Done, under_way: None, due_ms: None, ..pair });
    step.recall = recall;
    step
}

/// What is done stays done; a push that was under way meanwhile need not be seen.
fn after_the_end(pair: &Pair, event: Event<'_>) -> Step {
    let mut step = Step::to(pair.clone());
    if let Event::Answered { after, vendor_id, notifier, line, .. } = event {
        let shown = vendor_id.filter(|_| after == AfterVendor::Pushed);
        step.recall = shown.map(|vendor_id| Shown { notifier, vendor_id });
        step.lines.push(line);
    }
    step
}

/// For a trace: until when a message is there.
pub fn kept_until(expires_ms: u64) -> String {
    let at = i64::try_from(expires_ms / 1000).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    at.map_or_else(String::new, |at| format!(", kept until {at}"))
}

fn begin(standing: &Standing, adopted: bool, rules: &Rules, now_ms: u64) -> Step {
    let Standing { pair, device, bound, broker, .. } = standing;
    if adopted {
        // The greeting that brought it here sends it.
        return Step::to(moved(pair, State::Waiting, None));
    }
    if let (Some(nonce), true) = (device.connection(), *broker) {
        if device.lingers(*bound) && !standing.online_only {
            return Step::to(moved(pair, State::Vendor, Some(now_ms)))
                .says(Hop::Published, "to the connection; no app is attached, and its vendor's turn is now")
                .and(Act::Publish);
        }
        let live = moved(pair, State::Live, Some(now_ms + rules.ack_deadline_ms));
        return Step::to(Pair { under_way: Some(nonce.clone()), ..live })
            .says(Hop::Published, "to the connection")
            .and(Act::Publish);
    }
    if standing.online_only {
        return ended(pair.clone()).says(Hop::Stopped, Stop::OnlineOnly.text());
    }
    if device.online && !bound {
        return for_the_broker(pair, now_ms);
    }
    let due_ms = if *bound && device.may_be_back(rules.reconnect_grace_ms, now_ms) {
        device.seen_ms + rules.reconnect_grace_ms
    } else {
        now_ms
    };
    Step::to(moved(pair, State::Vendor, Some(due_ms)))
}

/// It has no way but the broker, which is not there.
fn for_the_broker(pair: &Pair, now_ms: u64) -> Step {
    let known = pair.state == State::Live && pair.under_way.is_none();
    let step = Step::to(Pair { under_way: None, ..moved(pair, State::Live, Some(now_ms + BROKER_MS)) });
    if known { step } else { step.says(Hop::Waiting, "for the broker, to which there is no connection") }
}

fn due(standing: &Standing, rules: &Rules, now_ms: u64) -> Step {
    let Standing { pair, device, .. } = standing;
    match pair.state {
        State::Live if pair.acked_by.is_some() => Step::to(moved(pair, State::Vendor, Some(now_ms)))
            .says(Hop::NoAck, "the device has it, and no app took it in time"),
        State::Live if pair.under_way.is_some() => {
            let mut step = Step::to(Pair { under_way: None, ..moved(pair, State::Vendor, Some(now_ms)) })
                .says(Hop::NoAck, "no acknowledgement in time");
            step.silent.clone_from(&pair.under_way);
            step
        }
        // It was never published: there was no broker.
        State::Live => match device.connection() {
            Some(_) if !standing.broker && !standing.bound => for_the_broker(pair, now_ms),
            Some(nonce) if standing.broker => {
                let live = moved(pair, State::Live, Some(now_ms + rules.ack_deadline_ms));
                Step::to(Pair { under_way: Some(nonce.clone()), ..live })
                    .says(Hop::Published, "to the connection, now that the broker is there")
                    .and(Act::Publish)
            }
            _ => Step::to(moved(pair, State::Vendor, Some(now_ms))),
        },
        // Another word came first.
        _ => Step::to(pair.clone()),
    }
}

/// The vendor's turn: a notification, or the reason why there is none and what the message waits for.
fn turn(standing: &Standing, facts: &Facts<'_>, unanswered: bool, rules: &Rules, now_ms: u64) -> Step {
    let pair = &standing.pair;
    if !matches!(pair.state, State::Vendor | State::Held) {
        return Step::to(pair.clone());
    }
    let Some(stop) = policy::stop(facts) else {
        let sent = moved(pair, State::Vendor, Some(now_ms + rules.lease_ms));
        return Step::to(Pair { attempts: pair.attempts + 1, ..sent }).and(Act::Push);
    };
    if pair.acked_by.is_none()
        && let Some(step) = over_the_connection(standing, stop, unanswered, now_ms)
    {
        return step;
    }
    if stop == Stop::AnotherDeviceOnline && !facts.has_it_elsewhere {
        let waited_ms = now_ms.saturating_sub(standing.accepted_ms);
        let due_ms = now_ms + waited_ms.clamp(rules.ack_deadline_ms, REPEAT_FOR_MS);
        let step = Step::to(Pair { under_way: None, ..moved(pair, State::Held, Some(due_ms)) });
        return if pair.state == State::Held { step } else { step.says(Hop::Stopped, stop.text()) };
    }
    let step = Step::to(Pair { under_way: None, ..moved(pair, State::Waiting, None) });
    match stop {
        // It was said when it came to be held.
        Stop::AnotherDeviceOnline if pair.state == State::Held => step,
        Stop::NoBinding => {
            step.says(Hop::Waiting, format!("for the device{}; {}", kept_until(standing.expires_ms), stop.text()))
        }
        _ => step.says(Hop::Stopped, stop.text()),
    }
}

/// No notification goes out to a device that is connected: again over its connection, ever more rarely. `None`: it
/// waits for the device to come back.
fn over_the_connection(standing: &Standing, stop: Stop, unanswered: bool, now_ms: u64) -> Option<Step> {
    let Standing { pair, device, broker, accepted_ms, .. } = standing;
    let nonce = device.connection()?;
    let waited_ms = now_ms.saturating_sub(device.seen_ms.max(*accepted_ms));
    if waited_ms > REPEAT_FOR_MS {
        return None;
    }
    if !broker {
        return Some(for_the_broker(pair, now_ms));
    }
    // A broker that lost it answers for it all the same; each repeat waits as long as all before.
    let due_ms = now_ms + if unanswered { waited_ms.max(REPEAT_BASE_MS) } else { REPEAT_BASE_MS };
    let step = Step::to(Pair { under_way: Some(nonce.clone()), ..moved(pair, State::Live, Some(due_ms)) });
    // That there is no binding is nothing to say of a message that goes another way.
    let step = if stop == Stop::NoBinding { step } else { step.says(Hop::Stopped, stop.text()) };
    Some(match unanswered {
        true => step.says(Hop::Published, "to the connection again").and(Act::Publish),
        false => step,
    })
}

fn not_published(standing: &Standing, now_ms: u64) -> Step {
    let pair = &standing.pair;
    match pair.state {
        State::Live if !standing.bound => for_the_broker(pair, now_ms),
        State::Live => Step::to(Pair { under_way: None, ..moved(pair, State::Vendor, Some(now_ms)) })
            .says(Hop::WentOffline, "no connection to the broker"),
        _ => Step::to(pair.clone()),
    }
}

/// The connection stands, and carries whatever is smaller.
fn too_large(standing: &Standing, why: &str, now_ms: u64) -> Step {
    let pair = &standing.pair;
    let next = match pair.state {
        State::Live if standing.bound => moved(pair, State::Vendor, Some(now_ms)),
        State::Live => moved(pair, State::Waiting, None),
        _ => pair.clone(),
    };
    Step::to(Pair { under_way: None, ..next }).says(Hop::TooLarge, why.to_owned())
}

fn lost(standing: &Standing, why: &'static str, rules: &Rules, now_ms: u64) -> Step {
    let Standing { pair, device, .. } = standing;
    match pair.state {
        State::Live if pair.under_way.is_some() => {
            let grace_ms = if device.may_be_back(rules.reconnect_grace_ms, now_ms) && standing.bound {
                rules.reconnect_grace_ms
            } else {
                0
            };
            Step::to(Pair { under_way: None, ..moved(pair, State::Vendor, Some(now_ms + grace_ms)) })
                .says(Hop::WentOffline, why)
        }
        _ => Step::to(Pair { under_way: None, ..pair.clone() }),
    }
}

fn acked(standing: &Standing, attached: Option<bool>, rules: &Rules, now_ms: u64) -> Step {
    let Standing { pair, device, bound, .. } = standing;
    let acked = Pair { under_way: None, acked_ms: pair.acked_ms.or(Some(now_ms)), ..pair.clone() };
    let (state, due_ms) = match (attached, *bound, pair.state) {
        // An agent that does not know `taken`: this is all the proof there will be.
        (None, ..) => {
            let after = pair.state == State::Pushed;
            let detail = if after { "after the vendor had it" } else { "over the connection" };
            return ended(acked).says(Hop::Acked, detail);
        }
        // A notification stands until the message is taken, whatever else is acknowledged.
        (_, _, State::Pushed) => (State::Pushed, None),
        (Some(true), true, State::Live | State::Vendor | State::Held) => {
            (State::Live, Some(now_ms + rules.ack_deadline_ms))
        }
        (Some(false), true, State::Live) => (State::Vendor, Some(now_ms)),
        // It has its own time: a try under way, a vendor's pause, or another device's proof.
        (Some(false), true, State::Vendor | State::Held) => (pair.state, pair.due_ms),
        _ => (State::Waiting, None),
    };
    let detail = match (attached, *bound, pair.state) {
        (_, _, State::Pushed) => "after the vendor had it",
        (Some(false), true, State::Live) => "over the connection; no app is attached",
        _ => "over the connection",
    };
    let login = Some(device.login.clone());
    Step::to(Pair { acked_by: login, ..moved(&acked, state, due_ms) }).says(Hop::Acked, detail)
}

fn answered(standing: &Standing, attempt: u32, after: &AfterVendor, shown: Option<Shown>, now_ms: u64) -> Step {
    let pair = &standing.pair;
    let its_turn = pair.state == State::Vendor && pair.attempts == attempt;
    match after {
        // Its user has left meanwhile, and is not to see it.
        AfterVendor::Pushed if !standing.device.logged_in && pair.state != State::Vendor => {
            let mut step = Step::to(pair.clone());
            step.recall = shown;
            step
        }
        // A hello may have come in between, or another claim: what the vendor has, it has.
        AfterVendor::Pushed => Step::to(Pair { shown, ..moved(pair, State::Pushed, None) }),
        // Anything else counts only for the claim it belongs to.
        AfterVendor::Again { in_ms } if its_turn => Step::to(moved(pair, State::Vendor, Some(now_ms + in_ms))),
        AfterVendor::GiveUp { .. } if its_turn => Step::to(moved(pair, State::Waiting, None)),
        AfterVendor::Again { .. } | AfterVendor::GiveUp { .. } => Step::to(pair.clone()),
    }
}

/// The inbox on the device goes with the login, and so does what its notifications showed.
fn logged_out(pair: &Pair) -> Step {
    let next = Pair { under_way: None, acked_by: None, shown: None, ..moved(pair, State::Waiting, None) };
    let mut step = Step::to(next);
    step.recall = pair.shown.clone().filter(|_| pair.state == State::Pushed);
    match pair.state {
        State::Waiting => step,
        _ => step.says(Hop::Waiting, "for the user's next login on this device; its login ended"),
    }
}
