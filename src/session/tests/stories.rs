//! What a device goes through, in virtual time, one sentence each.

use super::super::*;
use super::stage::{FIRST_CHECK, MOST_CHECK, Stage, settings};
use crate::keepalive::race::{Outcome, Step};
use crate::keepalive::{Cause, Failure, Tried};
use crate::protocol::{BindResult, BindingState, Down, KickCode, Up};

fn said(stage: &Stage, wanted: impl Fn(&Up) -> bool) -> bool {
    stage.written.iter().any(|write| match write {
        Write::Publish { topic, payload, .. } if topic.ends_with("/up") => {
            crate::protocol::decode_up(payload).is_ok_and(|up| wanted(&up))
        }
        _ => false,
    })
}

/// Time goes on until the next look at the channel.
fn until_check(stage: &mut Stage) -> Duration {
    let from = stage.now.at;
    while stage.pending.sides.is_empty() {
        stage.pass(MOST_CHECK);
        assert!(stage.now.at - from <= MOST_CHECK);
    }
    stage.now.at - from
}

#[test]
fn a_rest_is_looked_after_ten_times_on_the_first_day_and_six_times_on_later_ones() {
    let mut stage = Stage::resting();
    let began = stage.now.at;
    let mut days = [0; 3];
    loop {
        until_check(&mut stage);
        let day = (stage.now.at - began).as_secs() / 86_400;
        if day >= 3 {
            break;
        }
        days[day as usize] += 1;
        stage.side_answers(Some(BindingState::Working));
        stage.check(&|| "after a look".to_owned());
    }
    assert!(days[0] <= 10 && days[1] <= 6 && days[2] <= 6, "{days:?}");
    assert!(days.iter().all(|looks| *looks >= 5), "{days:?}");
}

#[test]
fn a_channel_that_dies_while_it_is_rested_on_is_left_at_the_next_look() {
    for state in [
        Some(BindingState::Dead),
        Some(BindingState::Disabled),
        Some(BindingState::MissingCertificate),
        Some(BindingState::Failing),
        Some(BindingState::Limited),
    ] {
        let mut stage = Stage::resting();
        assert!(until_check(&mut stage) <= FIRST_CHECK);
        stage.side_answers(state);
        stage.accept();
        stage.gateway_answers(state);
        assert_eq!(stage.state(), State::Online, "{state:?}");
        // ... and not rested on again while it stays so.
        for _ in 0..50 {
            stage.pass(Duration::from_secs(300));
            stage.gateway_answers(state);
            assert_eq!(stage.state(), State::Online, "{state:?}");
        }
        if state == Some(BindingState::Dead) {
            assert!(!said(&stage, |up| matches!(up, Up::Bind { .. })), "a dead token is not bound again");
            assert_eq!(stage.session.status(stage.now).channel, "none");
        }
    }
}

#[test]
fn a_channel_that_recovers_is_rested_on_again() {
    let mut stage = Stage::resting();
    until_check(&mut stage);
    stage.side_answers(Some(BindingState::Disabled));
    stage.accept();
    stage.gateway_answers(Some(BindingState::Disabled));
    for _ in 0..200 {
        stage.pass(Duration::from_secs(300));
        stage.gateway_answers(Some(BindingState::Working));
        if stage.state() == State::Resting {
            return;
        }
    }
    panic!("still {:?}", stage.session.phase());
}

#[test]
fn a_binding_the_gateway_does_not_know_is_bound_again() {
    let mut stage = Stage::resting();
    until_check(&mut stage);
    stage.side_answers(None);
    stage.accept();
    assert!(said(&stage, |up| matches!(up, Up::Bind { .. })));
}

#[test]
fn a_kick_while_resting_is_heard_at_the_next_look() {
    let mut stage = Stage::resting();
    until_check(&mut stage);
    stage.pending.sides.clear();
    let outcome = SideOutcome::Kicked { code: KickCode::Kicked, replaced_by: None };
    stage.feed(Event::SideEnded { side: SideKind::Check, outcome });
    assert_eq!(stage.state(), State::LoggedOut);
    assert_eq!(stage.ends, ["kicked"]);
    let ended = stage.session.saved().ended.clone().expect("the reason outlives a restart");
    assert!(ended.detail.contains("217") && ended.detail.contains("kicked"), "{ended:?}");
    let again = Stage::new(stage.session.saved().clone());
    assert_eq!(again.session.status(again.now).cause.map(|cause| cause.word), Some(Cause::Kicked));
}

#[test]
fn a_login_that_worked_is_never_stopped_by_a_brokers_code_alone() {
    for cause in [Cause::BadCredentials, Cause::NotAuthorized, Cause::Banned, Cause::ClientIdRefused, Cause::Kicked] {
        let mut stage = Stage::phone();
        stage.pending.connected = false;
        stage.feed(Event::Lost(crate::keepalive::Failure::new(cause, "code")));
        for _ in 0..20 {
            assert_eq!(stage.state(), State::Waiting, "{cause}");
            let wait = stage.session.timers().get(Timer::Attempt).expect("planned") - stage.now.at;
            assert!((60..=1800).contains(&wait.as_secs()), "{cause}: {wait:?}");
            stage.pass(wait);
            stage.refuse(cause);
        }
    }
}

#[test]
fn a_login_that_never_worked_stops_and_its_caller_hears_why() {
    let mut stage = Stage::new(Saved::default());
    let password = crate::secret::Secret::new("wrong");
    let id = stage.ask(Ask::Login { user: "ann".into(), password, patience: Patience::UntilAccepted });
    stage.refuse(Cause::BadCredentials);
    assert_eq!(stage.state(), State::Stopped);
    let refusal = stage.answers[&id].clone().expect_err("refused");
    assert_eq!((refusal.status, refusal.code.as_str()), (401, "bad_credentials"));
}

#[test]
fn an_owed_logout_of_a_restored_ledger_is_told_again_at_once_above_the_gateways_number() {
    let mut stage = Stage::phone();
    stage.pending.connected = false;
    stage.feed(Event::Lost(crate::keepalive::Failure::new(Cause::Io, "gone")));
    stage.ask(Ask::Logout { keep_binding: false });
    let stale = || SideOutcome::Unbound { result: BindResult::Later, expected: Some(1000) };
    stage.pending.sides.remove(0);
    stage.feed(Event::SideEnded { side: SideKind::Unbind, outcome: stale() });
    let Some(Side::Unbind { sequence, .. }) = stage.pending.sides.first() else { panic!("told again at once") };
    assert_eq!(*sequence, 1001);
    assert_eq!(stage.session.saved().ledger.sequence, 1001, "it is on disk before it is said");
    // A gateway that never has enough is not asked without a pause.
    stage.pending.sides.remove(0);
    stage.feed(Event::SideEnded { side: SideKind::Unbind, outcome: stale() });
    assert!(stage.pending.sides.is_empty());
    stage.pass(Duration::from_secs(60));
    stage.side_answers(None);
    assert!(stage.session.saved().ledger.owed.is_empty());
}

#[test]
fn an_owed_logout_goes_first_where_that_is_quick_and_never_blocks_the_next_login() {
    for quick in [true, false] {
        let mut stage = Stage::phone();
        stage.pending.connected = false;
        stage.feed(Event::Lost(crate::keepalive::Failure::new(Cause::Io, "gone")));
        let logout = stage.ask(Ask::Logout { keep_binding: false });
        assert_eq!(stage.answers[&logout].as_ref().expect("logged out")["owed"], true);
        if !quick {
            stage.side_fails();
        }
        stage.login("bob");
        if quick {
            assert!(stage.pending.dial.is_none() && stage.pending.sides.len() == 1, "the old logout is told first");
            stage.side_answers(None);
        }
        stage.accept();
        assert_eq!(stage.session.saved().login.as_ref().map(|login| login.user.as_str()), Some("bob"));
        for _ in 0..400 {
            stage.pass(Duration::from_secs(30));
            stage.gateway_answers(None);
            while !stage.pending.sides.is_empty() {
                stage.side_answers(None);
            }
        }
        assert!(stage.session.saved().ledger.owed.is_empty(), "told in the end");
    }
}

#[test]
fn what_the_disk_refuses_is_refused_or_owed_and_the_connection_stays() {
    let mut stage = Stage::phone();
    stage.disk_full = true;
    let token = "fedcba9876543210fedcba9876543210";
    let id = stage.ask(Ask::SetToken { vendor: Vendor::Xiaomi, token: crate::secret::Secret::new(token) });
    assert_eq!(stage.answers[&id].clone().expect_err("refused").status, 507);
    stage.pass(Duration::from_secs(600));
    stage.gateway_answers(Some(BindingState::Working));
    assert!(matches!(stage.state(), State::Online | State::Resting));
    // Logout is never refused for want of disk.
    let id = stage.ask(Ask::Logout { keep_binding: true });
    assert!(stage.answers[&id].is_ok());
    stage.disk_full = false;
    stage.pass(Duration::from_secs(60));
    stage.check(&|| "the disk is back".to_owned());
    assert_eq!(stage.session.unsaved().count(), 0);
}

#[test]
fn a_message_that_comes_again_though_an_app_has_it_is_told_as_taken_again() {
    for (kept, again) in [(Kept::Taken, true), (Kept::Duplicate, false)] {
        let mut stage = Stage::new(Saved::default());
        stage.login("ann");
        stage.accept();
        stage.feed(Event::Kept { id: "m1".into(), from: "bob".into(), packet_id: Some(1), kept });
        assert!(said(&stage, |up| matches!(up, Up::Ack { ids, .. } if ids == &["m1"])));
        assert_eq!(said(&stage, |up| matches!(up, Up::Taken { ids, .. } if ids == &["m1"])), again);
    }
}

#[test]
fn a_receipt_told_while_resting_is_told_at_the_next_connection() {
    let mut stage = Stage::resting();
    let id = stage.ask(Ask::Receipt { id: "m1".into(), event: "clicked".into() });
    assert_eq!(stage.answers[&id].as_ref().expect("kept")["told"], false);
    stage.feed(Event::Taken { ids: vec!["m2".into()] });
    stage.ask(Ask::Attach { app: "mail".into() });
    stage.accept();
    assert!(said(&stage, |up| matches!(up, Up::Receipt { id, .. } if id == "m1")));
    assert!(said(&stage, |up| matches!(up, Up::Taken { ids, .. } if ids == &["m2"])));
    assert!(stage.session.saved().reports.is_empty());
}

#[test]
fn a_renewed_token_replaces_the_old_one_only_when_it_has_entered() {
    let mut stage = Stage::phone();
    let renewed = crate::secret::Secret::new("renewed");
    stage.tell(&Down::Settings {
        nonce: None,
        heartbeat_ceiling_s: None,
        bindings: None,
        token: Some(renewed),
        ca: None,
    });
    let password = |stage: &Stage| stage.session.saved().login.as_ref().map(|l| l.password.expose().to_owned());
    assert_eq!(password(&stage).as_deref(), Some("renewed"));
    stage.ask(Ask::Reconnect);
    stage.refuse(Cause::BadCredentials);
    assert_eq!(password(&stage).as_deref(), Some("ann-secret"), "the old one is used again");
    stage.pass(Duration::from_secs(1800));
    stage.accept();
    assert_eq!(stage.state(), State::Online);
}

#[test]
fn a_device_that_was_off_for_three_hundred_days_asks_for_a_new_token() {
    use base64::Engine as _;
    let claims = r#"{"exp":1740000000,"iat":1700000000,"renew_after":1703456000,"life":1705184000}"#;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
    let mut stage = Stage::new(Saved::default());
    let password = crate::secret::Secret::new(format!("e30.{claims}.c2ln"));
    stage.ask(Ask::Login { user: "ann".into(), password, patience: Patience::UntilStored });
    stage.now.wall_ms += 300 * 86_400_000;
    stage.accept();
    stage.gateway_answers(None);
    assert!(said(&stage, |up| matches!(up, Up::Renew)));
    assert_eq!(stage.session.status(stage.now).login_days_left, Some(0));
}

#[test]
fn logging_out_a_resting_phone_tells_the_gateway_now() {
    let mut stage = Stage::resting();
    let id = stage.ask(Ask::Logout { keep_binding: false });
    assert!(matches!(stage.pending.sides[..], [Side::Unbind { .. }]));
    stage.side_answers(None);
    assert_eq!(stage.answers[&id].as_ref().expect("told")["unbound"], true);
    assert_eq!(stage.state(), State::LoggedOut);
}

#[test]
fn what_a_broker_has_not_is_done_without_at_once() {
    let mut stage = Stage::new(Saved::default());
    stage.login("ann");
    stage.refuse(Cause::RetainRefused);
    assert_eq!(
        stage.pending.dial.as_ref().map(|dial| dial.broker),
        Some(Broker { retain: false, at_least_once: true })
    );
    stage.refuse(Cause::QosRefused);
    assert_eq!(
        stage.pending.dial.as_ref().map(|dial| dial.broker),
        Some(Broker { retain: false, at_least_once: false })
    );
    // A broker that refuses what was not asked for is one like any other.
    stage.refuse(Cause::QosRefused);
    assert_eq!(stage.state(), State::Waiting);
}

#[test]
fn a_fleet_comes_back_by_itself_after_twelve_seconds_of_refusals() {
    for cause in [Cause::NotAuthorized, Cause::BadCredentials, Cause::ClientIdRefused] {
        let mut slowest = Duration::ZERO;
        for device in 0..200_u64 {
            let device_id = format!("{:016x}0000000000000000", (device + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut stage = Stage::with(Settings { device_id, ..settings() }, Saved::default());
            stage.login("ann");
            stage.accept();
            stage.pass(Duration::from_secs(40));
            let broken = stage.now.at;
            stage.pending.connected = false;
            stage.feed(Event::Lost(crate::keepalive::Failure::new(Cause::PeerClosed, "the broker restarts")));
            while stage.state() != State::Online {
                match (&stage.pending.dial, stage.now.at - broken < Duration::from_secs(12)) {
                    (None, _) => stage.pass(Duration::from_secs(3600)),
                    (Some(_), true) => stage.refuse(cause),
                    (Some(_), false) => stage.accept(),
                }
            }
            slowest = slowest.max(stage.now.at - broken);
        }
        assert!(slowest <= Duration::from_secs(600), "{cause}: {slowest:?}");
    }
}

#[test]
fn the_same_login_again_at_rest_is_answered_at_once() {
    let mut stage = Stage::resting();
    let password = crate::secret::Secret::new("ann-secret");
    let id = stage.ask(Ask::Login { user: "ann".into(), password, patience: Patience::UntilAccepted });
    assert_eq!(stage.answers[&id].as_ref().expect("accepted")["accepted"], true);
    assert_eq!(stage.state(), State::Resting);
}

#[test]
fn a_phone_without_an_app_says_so_on_each_connection() {
    let mut stage = Stage::phone();
    for _ in 0..2 {
        stage.pending.connected = false;
        stage.feed(Event::Lost(crate::keepalive::Failure::new(Cause::Io, "gone")));
        while stage.state() != State::Connecting {
            stage.pass(Duration::from_secs(600));
        }
        stage.written.clear();
        stage.accept();
        assert!(said(&stage, |up| matches!(up, Up::Presence { presence: crate::protocol::Presence::Detached })));
    }
}

#[test]
fn name_servers_that_appear_end_the_pause_of_a_login_that_waits_for_a_name_and_of_no_other() {
    for (cause, at_once) in [(Cause::DnsFailed, true), (Cause::ConnectTimeout, true), (Cause::ConnectRefused, false)] {
        let mut stage = Stage::new(Saved::default());
        stage.login("ann");
        // The pauses have grown long.
        for _ in 0..6 {
            stage.refuse(cause);
            while stage.state() == State::Waiting {
                stage.pass(Duration::from_secs(3600));
            }
        }
        stage.refuse(cause);
        let before = stage.session.next_wake().expect("a plan") - stage.now.at;
        assert!(before > Duration::from_secs(2), "{cause}: {before:?}");
        stage.feed(Event::NameServersChanged);
        let after = stage.session.next_wake().expect("a plan") - stage.now.at;
        assert_eq!(after < Duration::from_millis(200), at_once, "{cause}: {before:?}, then {after:?}");
    }
}

pub fn stalled(step: Step) -> Tried {
    let address = Some([127, 0, 0, 1].into());
    Tried { server: "mqtts://a:8883".into(), address, step, outcome: Outcome::Stalled, cause: None }
}

/// Online, after an attempt of which a way stalled at this step.
pub fn online_after(step: Step) -> Stage {
    let mut stage = Stage::new(Saved::default());
    stage.login("ann");
    let nonce = stage.pending.dial.as_ref().expect("an attempt").nonce.clone();
    stage.feed(Event::Tried { nonce, network: Some("wifi-1".into()), ways: vec![stalled(step)] });
    stage.accept();
    stage
}

#[test]
fn a_takeover_by_ones_own_given_up_connect_is_no_clone() {
    for (step, after, cause) in
        [(Step::Connect, 5, Cause::Superseded), (Step::Connect, 31, Cause::TakenOver), (Step::Tcp, 5, Cause::TakenOver)]
    {
        let mut stage = online_after(step);
        stage.now.at += Duration::from_secs(after);
        stage.feed(Event::Lost(Failure::new(Cause::TakenOver, "said the server")));
        let status = stage.session.status(stage.now);
        assert_eq!(status.cause.expect("a cause").word, cause, "{step:?} {after}");
        assert_eq!(status.ways[0].step, step);
    }
}

#[test]
fn a_takeover_by_an_attempt_that_a_change_replaced_is_no_clone_once() {
    let mut stage = Stage::new(Saved::default());
    stage.login("ann");
    stage.feed(Event::NameServersChanged);
    stage.accept();
    for cause in [Cause::Superseded, Cause::TakenOver] {
        stage.now.at += Duration::from_secs(5);
        stage.feed(Event::Lost(Failure::new(Cause::TakenOver, "said the server")));
        assert_eq!(stage.session.status(stage.now).cause.expect("a cause").word, cause);
        while stage.pending.dial.is_none() {
            stage.pass(Duration::from_secs(3600));
        }
        stage.accept();
    }
    // The control: nothing was replaced.
    let mut stage = Stage::new(Saved::default());
    stage.login("ann");
    stage.accept();
    stage.feed(Event::Lost(Failure::new(Cause::TakenOver, "said the server")));
    assert_eq!(stage.session.status(stage.now).cause.expect("a cause").word, Cause::TakenOver);
}
