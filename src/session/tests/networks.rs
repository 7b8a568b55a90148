//! What a device goes through when its networks come and go, in virtual time, one sentence each.

use super::super::*;
use super::stage::{Stage, ground};
use crate::keepalive::{Cause, Failure};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A board without a vendor channel, online on `wifi-1`.
fn board() -> Stage {
    let mut stage = Stage::new(Saved::default());
    stage.login("ann");
    stage.accept();
    stage.gateway_answers(None);
    stage
}

fn pings(stage: &Stage) -> usize {
    stage.written.iter().filter(|write| matches!(write, Write::Ping)).count()
}

/// Time goes on for so long; pings are answered if the way is good.
fn live(stage: &mut Stage, span: Duration, answered: bool) {
    let until = stage.now.at + span;
    while stage.now.at < until {
        let before = pings(stage);
        stage.pass(until - stage.now.at);
        if pings(stage) > before && answered {
            stage.feed(Event::Heard(Packet::Pong));
        }
    }
}

/// Time goes on until the next attempt, which succeeds; how long that took.
fn until_online(stage: &mut Stage, most: Duration) -> Duration {
    let from = stage.now.at;
    while stage.pending.dial.is_none() && stage.now.at - from < most {
        stage.pass(most - (stage.now.at - from));
    }
    assert!(stage.pending.dial.is_some(), "no attempt within {most:?}: {:?}", stage.session.phase());
    stage.accept();
    stage.gateway_answers(None);
    stage.now.at - from
}

fn lost(stage: &mut Stage, cause: Cause) {
    stage.pending.connected = false;
    stage.feed(Event::Lost(Failure::new(cause, "it broke")));
}

#[test]
fn twenty_handovers_between_good_networks_cost_no_pause() {
    // Each way in which a connection learns that its network is gone.
    let ways: [fn(&mut Stage); 5] = [
        // The address goes with the network.
        |stage| stage.feed(Event::NetworkSeen(Sight { address_gone: true, ..stage.sight() })),
        // The address stays, and nothing comes back on it.
        |stage| {
            stage.feed(Event::NetworkNotice);
            live(stage, MS(2100), false);
        },
        // The system ends the sockets of the old network before it tells of the new one ...
        |stage| lost(stage, Cause::Io),
        // ... or tells a moment later.
        |stage| {
            let old = stage.session.tried.clone();
            let new = std::mem::replace(&mut stage.ground, old);
            lost(stage, Cause::Io);
            live(stage, MS(300), false);
            stage.ground = new;
            stage.feed(Event::NetworkNotice);
        },
        // The device sleeps, and finds the connection ended when it wakes.
        |stage| {
            stage.ground = ground("wifi-1");
            lost(stage, Cause::Io);
            stage.feed(Event::Woke { gap: Duration::from_secs(60) });
        },
    ];
    for (at, gone) in ways.into_iter().enumerate() {
        let mut stage = board();
        for n in 0..20 {
            live(&mut stage, Duration::from_secs(20), true);
            assert_eq!(stage.state(), State::Online, "way {at}, handover {n}");
            let from = stage.now.at;
            stage.ground = ground(if n % 2 == 0 { "cell-1" } else { "wifi-1" });
            gone(&mut stage);
            // Every other time the first packets on the new network are lost: the next attempt comes soon.
            let stumbles = n % 4 > 1;
            if stumbles {
                while stage.pending.dial.is_none() {
                    stage.pass(Duration::from_secs(600));
                }
                stage.refuse(Cause::Unreachable);
            }
            until_online(&mut stage, Duration::from_secs(600));
            let took = stage.now.at - from;
            let most = Duration::from_secs(if stumbles { 6 } else { 3 });
            assert!(took <= most, "way {at}, handover {n}: {took:?}");
        }
    }
}

#[test]
fn a_server_that_drops_fresh_links_is_left_alone_whatever_else_happens_on_the_network() {
    let mut stage = board();
    let from = stage.now.at;
    let mut links = 0;
    while stage.now.at - from < Duration::from_secs(600) {
        stage.feed(Event::NetworkNotice);
        if stage.pending.dial.is_some() {
            links += 1;
            stage.accept();
            lost(&mut stage, Cause::PeerClosed);
        }
        stage.pass(MS(400));
    }
    assert!((3..=12).contains(&links), "{links}");
}

#[test]
fn a_burst_without_an_end_delays_no_look_and_costs_two_a_second() {
    let mut stage = board();
    live(&mut stage, Duration::from_secs(5), true);
    let (from, looked) = (stage.now.at, stage.looks.len());
    for n in 0..150_u32 {
        if n == 75 {
            stage.ground = ground("cell-1");
        }
        stage.feed(Event::NetworkNotice);
        let changed_at = from + MS(400) * 75;
        live(&mut stage, MS(400), true);
        if stage.now.at >= changed_at + MS(1000) {
            assert_eq!(stage.session.network.as_deref(), Some("cell-1"), "{:?}", stage.now.at - changed_at);
        }
    }
    let looks = &stage.looks[looked..];
    assert!(looks[0] - from <= MS(500));
    assert!(looks.windows(2).all(|w| w[1] - w[0] <= MS(1000)), "{looks:?}");
    assert!(looks.len() <= 130, "{}", looks.len());
}

#[test]
fn without_a_connection_the_first_notice_is_followed_at_once_and_a_flood_by_twenty_looks_a_second() {
    let mut stage = board();
    stage.ground = None;
    lost(&mut stage, Cause::Io);
    while stage.state() != State::Waiting || stage.now.at < Moment::from_secs(1100) {
        stage.pass(Duration::from_secs(10));
        if stage.pending.dial.is_some() {
            stage.refuse(Cause::Unreachable);
        }
    }
    let (from, looked) = (stage.now.at, stage.looks.len());
    stage.feed(Event::NetworkNotice);
    assert_eq!(stage.looks[looked..], [from]);
    for _ in 0..1000 {
        stage.feed(Event::NetworkNotice);
        stage.pass(MS(1));
        if stage.pending.dial.is_some() {
            stage.refuse(Cause::Unreachable);
        }
    }
    assert!((15..=30).contains(&stage.looks[looked..].len()), "{:?}", &stage.looks[looked..]);
    // The last word of the flood is not lost.
    stage.ground = ground("wifi-1");
    stage.feed(Event::NetworkNotice);
    let took = until_online(&mut stage, Duration::from_secs(10));
    assert!(took <= MS(250), "{took:?}");
}

#[test]
fn a_way_that_was_found_good_is_not_asked_about_again() {
    let mut stage = board();
    let (old, new) = ("2001:db8::1".parse().ok(), "2001:db8::2".parse().ok());
    stage.ground = Some(("wifi-1".into(), old));
    lost(&mut stage, Cause::Io);
    until_online(&mut stage, Duration::from_secs(600));
    live(&mut stage, Duration::from_secs(10), true);
    stage.feed(Event::NetworkNotice);
    live(&mut stage, MS(600), true);
    assert_eq!(pings(&stage), 0, "nothing has changed yet");
    // A temporary address takes the old one's place (RFC 8981): one ping, however many notices follow.
    stage.ground = Some(("wifi-1".into(), new));
    for _ in 0..10 {
        stage.feed(Event::NetworkNotice);
        live(&mut stage, Duration::from_secs(1), true);
    }
    assert_eq!((pings(&stage), stage.state()), (1, State::Online));
    // The next change is one again.
    stage.ground = Some(("cell-1".into(), new));
    stage.feed(Event::NetworkNotice);
    live(&mut stage, Duration::from_secs(1), true);
    assert_eq!(pings(&stage), 2);
    assert_eq!(stage.session.status(stage.now).network.as_deref(), Some("cell-1"));
    assert_eq!(stage.session.heartbeat.current().map(|record| record.network.as_str()), Some("cell-1"));
}

#[test]
fn a_driver_that_knows_no_carrier_costs_one_ping_and_the_network_keeps_its_name() {
    let mut stage = board();
    stage.carrier = false;
    for _ in 0..10 {
        stage.feed(Event::NetworkNotice);
        live(&mut stage, Duration::from_secs(1), true);
    }
    assert_eq!((pings(&stage), stage.state()), (1, State::Online));
    assert_eq!(stage.session.status(stage.now).network.as_deref(), Some("wifi-1"));
}

#[test]
fn a_way_that_is_not_answered_on_is_asked_about_once_however_many_notices_come() {
    let mut stage = board();
    live(&mut stage, Duration::from_secs(5), true);
    let from = stage.now.at;
    stage.ground = ground("cell-1");
    while stage.state() == State::Online {
        stage.feed(Event::NetworkNotice);
        live(&mut stage, MS(300), false);
        assert!(stage.now.at - from <= MS(2600), "the probe's end is put off");
    }
    assert_eq!(stage.session.cause.as_ref().map(|failure| failure.cause), Some(Cause::NetworkChanged));
}

#[test]
fn after_hours_without_a_network_its_return_is_used_at_once() {
    // It returns between two attempts, or while one hangs; its routes go, or its carrier alone.
    for (hanging, routed) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut stage = board();
        live(&mut stage, Duration::from_secs(5), true);
        let until = stage.now.at + Duration::from_secs(7200);
        stage.ground = stage.ground.filter(|_| routed);
        stage.carrier = false;
        lost(&mut stage, Cause::PongLost);
        while stage.now.at < until {
            stage.pass(Duration::from_secs(600));
            if stage.pending.dial.is_some() && !(hanging && stage.now.at >= until) {
                stage.refuse(Cause::Unreachable);
            }
        }
        assert_eq!(stage.pending.dial.is_some(), hanging);
        (stage.ground, stage.carrier) = (ground("wifi-1"), true);
        stage.feed(Event::NetworkNotice);
        // The first packets of a network may be lost: the next attempts come soon, too.
        let back = stage.now.at;
        for _ in 0..2 {
            while stage.pending.dial.is_none() {
                stage.pass(Duration::from_secs(600));
            }
            stage.refuse(Cause::ConnectTimeout);
        }
        until_online(&mut stage, Duration::from_secs(600));
        assert!(stage.now.at - back <= Duration::from_secs(13), "{hanging} {routed}: {:?}", stage.now.at - back);
    }
}
