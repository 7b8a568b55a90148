//! Every state and every event: what follows, or why it cannot be.

use super::FACTS;
use crate::delivery::policy::Facts;
use crate::delivery::{Act, AfterVendor, Device, Event, Hop, Line, Pair, Rules, Shown, Standing, State, Step, step};
use crate::ids::Nonce;

const NOW_MS: u64 = 100_000;

/// A row for each event and a column for each state: the state that follows, `:` and the hops, `!` and what is to
/// be done; or the letter of the reason why nothing does.
const TABLE: &str = "
event     | new                | live              | vendor            | pushed          | held             | waiting         | done
accepted  | live:published!publish | a             | a                 | a               | a                | a               | a
adopted   | waiting            | a                 | a                 | a               | a                | a               | a
due       | b                  | vendor:no_ack     | c                 | d               | c                | d               | e
turn      | b                  | f                 | vendor!push       | f               | vendor!push      | f               | e
silenced  | b                  | f                 | live:stopped      | f               | live:stopped     | f               | e
elsewhere | b                  | f                 | live:stopped      | f               | live:stopped     | f               | e
unsent    | b                  | vendor:went_offline | g               | g               | g                | g               | e
too large | b                  | vendor:too_large  | vendor:too_large  | pushed:too_large | held:too_large  | waiting:too_large | e
lost      | b                  | vendor:went_offline | g               | pushed          | g                | g               | e
sent      | b                  | live:synced       | live:synced       | pushed:synced   | live:synced      | live:synced     | e
ack open  | b                  | live:acked        | live:acked        | pushed:acked    | live:acked       | waiting:acked   | e
ack alone | b                  | vendor:acked      | vendor:acked      | pushed:acked    | held:acked       | waiting:acked   | e
ack old   | b                  | done:acked        | done:acked        | done:acked!recall | done:acked     | done:acked      | e
taken     | b                  | done:taken        | done:taken        | done:taken!recall | done:taken     | done:taken      | e
pushed    | b                  | pushed:vendor_sent | pushed:vendor_sent | pushed:vendor_sent | pushed:vendor_sent | pushed:vendor_sent | done:vendor_sent!recall
again     | b                  | live:vendor_retry | vendor:vendor_retry | pushed:vendor_retry | held:vendor_retry | waiting:vendor_retry | done:vendor_retry
refused   | b                  | live:vendor_refused | waiting:vendor_refused | pushed:vendor_refused | held:vendor_refused | waiting:vendor_refused | done:vendor_refused
out       | b                  | waiting:waiting   | waiting:waiting   | waiting:waiting!recall | waiting:waiting | waiting        | e
evicted   | b                  | h                 | h                 | done:evicted!recall | done:evicted | done:evicted    | e
expired   | b                  | done:expired      | done:expired      | done:expired!recall | done:expired | done:expired    | e
garbage   | b                  | done:stopped      | done:stopped      | done:stopped!recall | done:stopped | done:stopped    | e
";

/// Why an event does nothing.
const REASONS: &[(&str, &str)] = &[
    ("a", "a message is accepted, and comes to a device, once"),
    ("b", "a new pair is decided on before anything can be known of it: the state is never stored"),
    ("c", "the vendor's turn is what is due there"),
    ("d", "nothing is due: only the device, the vendor or the end of its time moves it"),
    ("e", "what is done stays done"),
    ("f", "another word came before the vendor's turn"),
    ("g", "nothing is under way over the connection"),
    ("h", "it is on its way, and what is on its way is not let go"),
];

fn pair(state: State) -> Pair {
    let of = |state| Pair { state, ..Pair::new() };
    match state {
        State::Live => Pair { under_way: Some("n1".into()), due_ms: Some(NOW_MS), ..of(state) },
        State::Vendor => Pair { attempts: 1, due_ms: Some(NOW_MS), ..of(state) },
        State::Held => Pair { due_ms: Some(NOW_MS), ..of(state) },
        State::Pushed => {
            let shown = Shown { notifier: "n".into(), vendor_id: "v1".into() };
            Pair { attempts: 1, shown: Some(shown), under_way: Some("n1".into()), ..of(state) }
        }
        State::New | State::Waiting | State::Done => of(state),
    }
}

/// A phone with an open app, connected, that its vendor reaches too.
fn standing(state: State) -> Standing {
    let nonce: Nonce = "n1".into();
    let (logged_in, online, attached) = (true, true, true);
    let device = Device {
        logged_in,
        online,
        nonce: Some(nonce),
        attached,
        silent: false,
        login: "l".into(),
        seen_ms: NOW_MS,
        node: String::new(),
    };
    let accepted_ms = NOW_MS;
    Standing {
        pair: pair(state),
        device,
        bound: true,
        broker: true,
        accepted_ms,
        expires_ms: 2 * NOW_MS,
        online_only: false,
    }
}

fn event(name: &str) -> Event<'static> {
    let turn = |facts: Facts<'static>| Event::Turn { facts, unanswered: false };
    let answered = |hop, after: AfterVendor| {
        let vendor_id = (after == AfterVendor::Pushed).then(|| "v2".to_owned());
        Event::Answered { attempt: 1, after, vendor_id, notifier: "n".into(), line: Line::new(hop, "") }
    };
    match name {
        "accepted" => Event::Accepted,
        "adopted" => Event::Adopted,
        "due" => Event::Due,
        "turn" => turn(FACTS),
        "silenced" => turn(Facts { silenced: true, ..FACTS }),
        "elsewhere" => turn(Facts { others_online: true, ..FACTS }),
        "unsent" => Event::NotPublished,
        "too large" => Event::TooLarge { why: "large" },
        "lost" => Event::Lost { why: "gone" },
        "sent" => Event::Sent { nonce: "n2".into() },
        "ack open" => Event::Acked { attached: Some(true) },
        "ack alone" => Event::Acked { attached: Some(false) },
        "ack old" => Event::Acked { attached: None },
        "taken" => Event::Taken { woke: false },
        "pushed" => answered(Hop::VendorSent, AfterVendor::Pushed),
        "again" => answered(Hop::VendorRetry, AfterVendor::Again { in_ms: 1000 }),
        "refused" => answered(Hop::VendorRefused, AfterVendor::GiveUp { dead_since_ms: None }),
        "out" => Event::LoggedOut,
        "evicted" => Event::Evicted { keep_most: 10 },
        "expired" => Event::Expired,
        "garbage" => Event::Unreadable,
        other => panic!("no event is named {other}"),
    }
}

fn in_words(step: &Step) -> String {
    let hops: Vec<&str> = step.lines.iter().map(|line| line.hop.as_str()).collect();
    let hops = if hops.is_empty() { String::new() } else { format!(":{}", hops.join(",")) };
    let act = match (step.act, &step.recall) {
        (Act::Publish, _) => "!publish",
        (Act::Push, _) => "!push",
        (Act::Nothing, Some(_)) => "!recall",
        (Act::Nothing, None) => "",
    };
    format!("{}{hops}{act}", step.pair.state.as_str())
}

#[test]
fn every_state_and_event_has_its_consequence_or_the_reason_why_there_is_none() {
    let mut rows = TABLE.lines().filter(|line| !line.is_empty()).map(|line| line.split('|').map(str::trim));
    let states: Vec<State> = rows
        .next()
        .expect("the states")
        .skip(1)
        .map(|name| State::parse(name).unwrap_or_else(|| panic!("no state is named {name}")))
        .collect();
    assert_eq!(states, State::ALL);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for mut row in rows {
        let name = row.next().expect("an event");
        let cells: Vec<&str> = row.collect();
        assert_eq!(cells.len(), states.len(), "{name}");
        for (state, cell) in states.iter().zip(cells) {
            seen += 1;
            let standing = standing(*state);
            let step = step(&standing, event(name), &Rules::FOR_TESTS, NOW_MS);
            let nothing = step.pair == standing.pair
                && step.lines.is_empty()
                && step.act == Act::Nothing
                && step.recall.is_none();
            let reason = REASONS.iter().any(|(letter, _)| *letter == cell);
            if if reason { !nothing } else { in_words(&step) != cell } {
                wrong.push(format!("{name} in {}: {cell} expected, {} seen", state.as_str(), in_words(&step)));
            }
        }
    }
    assert_eq!(seen, 21 * 7);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The same pair in other company.
fn with(state: State, change: impl Fn(&mut Standing)) -> Standing {
    let mut standing = standing(state);
    change(&mut standing);
    standing
}

fn away(standing: &mut Standing) {
    (standing.device.online, standing.device.attached) = (false, false);
}

fn of(standing: &Standing, name: &str) -> String {
    in_words(&step(standing, event(name), &Rules::FOR_TESTS, NOW_MS))
}

#[test]
fn a_message_to_a_phone_that_lingers_goes_both_ways_and_to_one_that_is_away_to_its_vendor() {
    let lingers = with(State::New, |s| s.device.attached = false);
    assert_eq!(of(&lingers, "accepted"), "vendor:published!publish");
    assert_eq!(of(&with(State::New, away), "accepted"), "vendor");
    let only = with(State::New, |s| {
        away(s);
        s.online_only = true;
    });
    assert_eq!(of(&only, "accepted"), "done:stopped");
}

#[test]
fn an_open_app_that_has_just_gone_is_waited_for_before_its_vendors_turn() {
    let gone = |ago_ms: u64| {
        with(State::New, |s| {
            s.device.online = false;
            s.device.seen_ms = NOW_MS - ago_ms;
        })
    };
    let due = |ago_ms| step(&gone(ago_ms), Event::Accepted, &Rules::FOR_TESTS, NOW_MS).pair.due_ms;
    assert_eq!((due(1000), due(2999), due(3000)), (Some(NOW_MS + 2000), Some(NOW_MS + 1), Some(NOW_MS)));
    let mut lost = with(State::Live, |s| s.device.online = false);
    let after = |s: &Standing| step(s, event("lost"), &Rules::FOR_TESTS, NOW_MS).pair.due_ms;
    assert_eq!(after(&lost), Some(NOW_MS + 3000));
    lost.device.attached = false;
    assert_eq!(after(&lost), Some(NOW_MS), "without an app nothing is waited for");
}

#[test]
fn without_a_broker_a_bound_device_is_pushed_to_and_any_other_waits_with_one_line_at_each_end() {
    let bound = with(State::New, |s| s.broker = false);
    assert_eq!(of(&bound, "accepted"), "vendor");
    let mut unbound = with(State::New, |s| (s.broker, s.bound) = (false, false));
    let first = step(&unbound, Event::Accepted, &Rules::FOR_TESTS, NOW_MS);
    assert_eq!(in_words(&first), "live:waiting");
    unbound.pair = first.pair;
    for name in ["due", "unsent", "due"] {
        assert_eq!(of(&unbound, name), "live", "{name}");
    }
    unbound.broker = true;
    assert_eq!(of(&unbound, "due"), "live:published!publish");
    let under_way = with(State::Live, |s| s.bound = false);
    assert_eq!(of(&under_way, "unsent"), "live:waiting");
    assert_eq!(of(&under_way, "too large"), "waiting:too_large", "it is not tried again over this broker");
}

#[test]
fn a_message_that_the_policy_holds_is_looked_at_again_until_another_device_has_it() {
    let phone = with(State::Vendor, away);
    let held = step(&phone, event("elsewhere"), &Rules::FOR_TESTS, NOW_MS);
    assert_eq!((in_words(&held).as_str(), held.pair.due_ms), ("held:stopped", Some(NOW_MS + 5000)));
    let phone = with(State::Held, away);
    assert_eq!(of(&phone, "elsewhere"), "held", "it was said before");
    assert_eq!(of(&phone, "turn"), "vendor!push", "the other one proves it no more");
    let there = Facts { others_online: true, has_it_elsewhere: true, ..FACTS };
    let step = step(&phone, Event::Turn { facts: there, unanswered: false }, &Rules::FOR_TESTS, NOW_MS);
    assert_eq!(in_words(&step), "waiting");
}

#[test]
fn a_connected_device_without_a_binding_is_sent_a_message_again_ever_more_rarely_and_not_for_ever() {
    let unbound = Facts { bound: false, ..FACTS };
    let mut standing = with(State::Vendor, |s| s.bound = false);
    let (mut now_ms, mut sent) = (NOW_MS + 5000, Vec::new());
    loop {
        let event = Event::Turn { facts: unbound, unanswered: true };
        let step = step(&standing, event, &Rules::FOR_TESTS, now_ms);
        if step.act != Act::Publish {
            assert_eq!(in_words(&step), "waiting:waiting");
            assert!(step.lines[0].detail.contains("for the device, kept until 1970-01-01T00:03:20Z; no push binding"));
            break;
        }
        assert_eq!(in_words(&step), "live:published!publish");
        sent.push((now_ms - NOW_MS) / 1000);
        now_ms = step.pair.due_ms.expect("a deadline");
        standing.pair = Pair { state: State::Vendor, ..step.pair };
    }
    assert_eq!(sent, [5, 10, 20, 40, 80, 160, 320]);
}

#[test]
fn a_notification_that_its_vendor_took_after_the_logout_is_taken_back() {
    let out = with(State::Waiting, |s| (s.device.online, s.device.logged_in) = (false, false));
    assert_eq!(of(&out, "pushed"), "waiting:vendor_sent!recall");
}

#[test]
fn a_silent_connection_is_named_only_by_what_it_owes() {
    let live = standing(State::Live);
    assert_eq!(step(&live, Event::Due, &Rules::FOR_TESTS, NOW_MS).silent, Some("n1".into()));
    let acked = with(State::Live, |s| {
        s.pair.acked_by = Some("l".into());
        s.pair.under_way = None;
    });
    let step = step(&acked, Event::Due, &Rules::FOR_TESTS, NOW_MS);
    assert_eq!((step.silent, step.lines[0].detail.as_ref()), (None, "the device has it, and no app took it in time"));
}
