//! A link that dies in silence: idleness, large packets, and what is learnt of each; and how long a device is kept
//! awake for the answers of one that lives.

use super::super::*;
use super::stage::Stage;
use super::stories::{online_after, stalled};
use crate::keepalive::race::Step;
use crate::keepalive::{Cause, Failure};

#[test]
fn a_loss_with_much_data_under_way_asks_for_small_segments_and_teaches_the_heartbeat_nothing() {
    for (bytes, small) in [(3500, true), (100, false)] {
        let mut stage = online_after(Step::Tcp);
        let before = stage.session.status(stage.now).heartbeat_s;
        stage.now.at += Duration::from_secs(45);
        stage.feed(Event::Written { unanswered: bytes });
        stage.now.at += Duration::from_secs(8);
        stage.feed(Event::Lost(Failure::new(Cause::AckLost, "silence")));
        assert_eq!(stage.session.ways().small_segments(stage.now.at, Some("wifi-1")), small);
        stage.pass(Duration::from_secs(5));
        stage.accept();
        answer_early_ping(&mut stage);
        let learnt = stage.session.status(stage.now).heartbeat_s < before;
        assert_eq!(learnt, !small, "{bytes}");
    }
}

/// Whatever is due within ten seconds is asked and answered.
fn answer_early_ping(stage: &mut Stage) {
    let until = stage.now.at + Duration::from_secs(10);
    while stage.now.at < until {
        stage.pass(until - stage.now.at);
        stage.feed(Event::Heard(Packet::Pong));
    }
}

/// The link is lost without an answer to what was sent after so long.
fn lost_in_silence(stage: &mut Stage, idle: Duration) {
    stage.now.at += idle;
    stage.feed(Event::Written { unanswered: 100 });
    stage.now.at += Duration::from_secs(8);
    stage.pending.connected = false;
    stage.feed(Event::Lost(Failure::new(Cause::AckLost, "silence")));
}

#[test]
fn a_server_whose_large_packets_do_not_get_through_is_asked_for_small_ones_and_the_heartbeat_stays() {
    for idle_s in [45, 1] {
        let mut stage = online_after(Step::Tcp);
        let before = stage.session.status(stage.now).heartbeat_s;
        lost_in_silence(&mut stage, Duration::from_secs(idle_s));
        assert!(!stage.session.ways().small_segments(stage.now.at, Some("wifi-1")));
        stage.pass(Duration::from_secs(5));
        stage.accept();
        // The message comes again, and with it the silence, long before the network could have forgotten anything.
        lost_in_silence(&mut stage, Duration::from_secs(1));
        assert!(stage.session.ways().small_segments(stage.now.at, Some("wifi-1")), "{idle_s}");
        stage.pass(Duration::from_secs(5));
        stage.accept();
        answer_early_ping(&mut stage);
        assert_eq!(stage.session.status(stage.now).heartbeat_s, before, "{idle_s}");
    }
}

#[test]
fn a_servers_first_word_that_is_swallowed_with_what_follows_it_asks_for_small_segments() {
    for (silent, small) in [(true, true), (false, false)] {
        let mut stage = online_after(Step::Tcp);
        if silent {
            lost_in_silence(&mut stage, Duration::from_secs(45));
        } else {
            stage.pending.connected = false;
            stage.feed(Event::Lost(Failure::new(Cause::PeerClosed, "gone")));
        }
        while stage.pending.dial.is_none() {
            stage.pass(Duration::from_secs(60));
        }
        let nonce = stage.pending.dial.as_ref().expect("an attempt").nonce.clone();
        stage.feed(Event::Tried { nonce, network: Some("wifi-1".into()), ways: vec![stalled(Step::Connect)] });
        assert_eq!(stage.session.ways().small_segments(stage.now.at, Some("wifi-1")), small, "{silent}");
    }
}

#[test]
fn after_a_silent_loss_the_next_link_is_asked_early_whether_it_answers() {
    let mut stage = online_after(Step::Tcp);
    let before = stage.session.status(stage.now).heartbeat_s;
    lost_in_silence(&mut stage, Duration::from_secs(45));
    stage.pass(Duration::from_secs(5));
    stage.accept();
    let up = stage.now.at;
    assert_eq!(stage.session.status(stage.now).heartbeat_s, before, "nothing is learnt yet");
    stage.pass(Duration::from_secs(10));
    assert_eq!(stage.now.at - up, Duration::from_secs(3));
    assert!(stage.written.ends_with(&[Write::Ping]), "{:?}", stage.written);
    stage.feed(Event::Heard(Packet::Pong));
    assert!(stage.session.status(stage.now).heartbeat_s < before);
    assert!(!stage.session.ways().small_segments(stage.now.at, Some("wifi-1")));
}

#[test]
fn a_device_is_kept_awake_from_the_alarm_to_the_answer_and_never_while_it_idles() {
    let mut stage = online_after(Step::Tcp);
    stage.gateway_answers(None);
    stage.feed(Event::Heard(Packet::Pong));
    let round_trip = Duration::from_millis(200);
    let (mut alarms, mut held) = (0, Duration::ZERO);
    let until = stage.now.at + Duration::from_secs(4 * 3600);
    while stage.now.at < until {
        assert_eq!(stage.session.awake_until(), None, "nothing is awaited");
        stage.pass(until - stage.now.at);
        if let Some(awake) = stage.session.awake_until() {
            let patience = awake - stage.now.at;
            assert!(patience > round_trip && patience <= Duration::from_secs(9), "{patience:?}");
            stage.now.at += round_trip;
            stage.feed(Event::Heard(Packet::Pong));
            (alarms, held) = (alarms + 1, held + round_trip);
        }
    }
    assert!(alarms > 40, "{alarms}");
    assert!(held / alarms <= Duration::from_millis(500));
}

#[test]
fn an_attempt_keeps_the_device_awake_and_a_pause_does_not() {
    let mut stage = Stage::new(Saved::default());
    stage.login("ann");
    let most = Duration::from_secs(21);
    assert_eq!(stage.session.awake_until(), Some(stage.now.at + most));
    stage.refuse(Cause::ConnectTimeout);
    assert_eq!(stage.session.awake_until(), None);
}
