//! Hellos that a gateway answers late, for another connection, or never.

use super::super::*;
use super::stage::Stage;
use crate::ids::Nonce;
use crate::keepalive::{Cause, Failure};
use crate::protocol::Down;

/// A device that has just been let in, and has greeted.
fn online() -> Stage {
    let mut stage = Stage::new(Saved::default());
    stage.login("ann");
    stage.accept();
    stage
}

#[test]
fn a_hello_that_no_gateway_answers_is_seen() {
    let mut stage = online();
    for _ in 0..4 {
        stage.feed(Event::Heard(Packet::Published { refused: None }));
        stage.pass(Duration::from_secs(40));
    }
    assert_eq!(stage.session.status(stage.now).gateway_answers, Some(false));
    assert!(stage.session.headline().contains("no gateway answers"));
}

/// Until the connection that no gateway answers on is given up; how long that took.
fn given_up_after(stage: &mut Stage) -> Duration {
    let began = stage.now.at;
    while stage.state() == State::Online {
        stage.feed(Event::Heard(Packet::Published { refused: None }));
        stage.pass(Duration::from_secs(40));
        if stage.state() == State::Online {
            stage.feed(Event::Heard(Packet::Pong));
        }
    }
    stage.now.at - began
}

fn dialled(stage: &mut Stage) -> (Server, bool) {
    while stage.pending.dial.is_none() {
        stage.pass(Duration::from_secs(3600));
    }
    let dial = stage.pending.dial.as_ref().expect("an attempt");
    (dial.servers[0].clone(), dial.clean_start)
}

#[test]
fn a_connection_that_no_gateway_answers_on_is_given_up_for_one_to_the_next_server() {
    let mut stage = online();
    assert_eq!(given_up_after(&mut stage), Duration::from_secs(105));
    assert_eq!(stage.session.status(stage.now).cause.map(|cause| cause.word), Some(Cause::GatewaySilent));
    // What the broker has kept of the old one is not wanted: its subscription may be what is lost.
    assert_eq!(dialled(&mut stage), (Server::Configured(1), true));
    stage.accept();
    assert_eq!(given_up_after(&mut stage), Duration::from_secs(210));
    assert_eq!(dialled(&mut stage), (Server::Configured(0), true));
    stage.written.clear();
    stage.accept();
    stage.gateway_answers(None);
    assert_eq!(stage.session.status(stage.now).gateway_answers, Some(true));
    stage.feed(Event::Lost(Failure::new(Cause::PeerClosed, "the broker restarts")));
    dialled(&mut stage);
    stage.accept();
    assert_eq!(given_up_after(&mut stage), Duration::from_secs(105), "the gateway has answered since");
}

#[test]
fn while_the_gateway_is_away_for_a_day_a_device_makes_few_connections() {
    let mut stage = Stage::new(Saved::default());
    stage.login("ann");
    let (began, mut connections) = (stage.now.at, 0);
    while stage.now.at - began < Duration::from_secs(86_400) {
        dialled(&mut stage);
        stage.accept();
        connections += 1;
        let lasted = given_up_after(&mut stage);
        assert!(lasted <= Duration::from_secs(1800), "{lasted:?}");
    }
    assert!(connections <= 55, "{connections}");
}

#[test]
fn an_answer_to_an_earlier_connection_is_a_gateways_too() {
    let mut stage = online();
    for _ in 0..20 {
        stage.feed(Event::Heard(Packet::Published { refused: None }));
        stage.tell(&Down::Settings {
            nonce: Some(Nonce::from_number(7)),
            heartbeat_ceiling_s: None,
            bindings: None,
            token: None,
            ca: None,
        });
        stage.pass(Duration::from_secs(1));
    }
    assert_eq!(stage.state(), State::Online);
    assert_ne!(stage.session.status(stage.now).gateway_answers, Some(true));
    assert!(!stage.session.headline().contains("no gateway answers"), "{}", stage.session.headline());
}
