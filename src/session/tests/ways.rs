//! The way to the servers: portals, clocks that are wrong, and a configuration that changes, in virtual time.

use super::super::*;
use super::stage::{BUILT_MS, Stage, TOKEN, ground, settings};
use crate::keepalive::{Cause, Failure};
use crate::protocol::{BindingState, Down, Up};
use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const MINUTE: Duration = Duration::from_secs(60);
const DAY_MS: u64 = 86_400_000;

fn pause(stage: &Stage) -> Duration {
    let Phase::Waiting(attempt) = stage.session.phase() else { panic!("{:?}", stage.session.phase()) };
    attempt.at - stage.now.at
}

/// Time goes on until the next attempt.
fn until_dial(stage: &mut Stage) {
    while stage.pending.dial.is_none() {
        stage.pass(Duration::from_secs(3600));
    }
}

/// A board that has just come online for the first time, with this wall clock.
fn logged_in(wall_ms: u64, saved: Saved) -> Stage {
    let mut stage = Stage::new(saved);
    stage.now.wall_ms = wall_ms;
    stage.feed(Event::ClockStepped);
    stage.login("ann");
    stage
}

fn move_to(stage: &mut Stage, network: &str) {
    stage.ground = ground(network);
    let sight = Sight { address_gone: stage.pending.connected, ..stage.sight() };
    stage.pending.connected = false;
    stage.feed(Event::NetworkSeen(sight));
}

#[test]
fn a_portal_that_is_opened_after_four_minutes_costs_half_a_minute_at_most() {
    for cause in [Cause::TlsUntrusted, Cause::TlsWrongName, Cause::TlsFailed, Cause::TlsExpired] {
        let mut stage = Stage::phone();
        stage.pass(Duration::from_secs(3600));
        move_to(&mut stage, "hotel");
        until_dial(&mut stage);
        let opened = stage.now.at + 4 * MINUTE;
        while stage.now.at < opened {
            stage.refuse(cause);
            assert!(pause(&stage) <= Duration::from_secs(30), "{cause}: {:?}", pause(&stage));
            assert_eq!(stage.session.status(stage.now).sign_in, cause != Cause::TlsExpired);
            until_dial(&mut stage);
        }
        assert!(stage.now.at - opened <= Duration::from_secs(30), "{cause}: {:?}", stage.now.at - opened);
        stage.accept();
        assert!(!stage.session.status(stage.now).sign_in);
    }
}

#[test]
fn a_portal_that_lets_nothing_through_but_the_web_costs_half_a_minute_at_most() {
    for cause in [Cause::ConnectTimeout, Cause::ConnectRefused, Cause::Unreachable] {
        let mut stage = Stage::phone();
        stage.pass(Duration::from_secs(3600));
        move_to(&mut stage, "hotel");
        until_dial(&mut stage);
        let opened = stage.now.at + 9 * MINUTE;
        while stage.now.at < opened {
            stage.refuse(cause);
            assert!(pause(&stage) <= Duration::from_secs(30), "{cause}: {:?}", pause(&stage));
            until_dial(&mut stage);
        }
        stage.accept();
        // A server that was reached through this network and is away now is the server's matter.
        stage.pending.connected = false;
        stage.feed(Event::Lost(Failure::new(Cause::PeerClosed, "gone")));
        let longest = (0..20)
            .map(|_| {
                until_dial(&mut stage);
                stage.refuse(cause);
                pause(&stage)
            })
            .max();
        assert!(longest > Some(MINUTE), "{cause}: {longest:?}");
    }
}

#[test]
fn a_portal_that_nobody_opens_is_asked_ever_less_and_so_is_a_server_on_a_network_of_old() {
    let mut stage = Stage::phone();
    move_to(&mut stage, "hotel");
    until_dial(&mut stage);
    let came = stage.now.at;
    let mut last = Duration::ZERO;
    while stage.now.at - came < 120 * MINUTE {
        stage.refuse(Cause::TlsUntrusted);
        last = pause(&stage);
        until_dial(&mut stage);
    }
    assert!(last >= 10 * MINUTE, "{last:?}");
    // A server whose certificate goes bad is not beset by the devices that have been there for long.
    let mut stage = Stage::phone();
    stage.now.at += 30 * MINUTE;
    stage.pending.connected = false;
    stage.feed(Event::Lost(Failure::new(Cause::PeerClosed, "gone")));
    until_dial(&mut stage);
    stage.refuse(Cause::TlsUntrusted);
    assert!(pause(&stage) >= Duration::from_secs(30));
    assert!(!stage.session.status(stage.now).sign_in, "the server was reached through this network");
}

#[test]
fn a_clock_of_1970_is_judged_by_the_build_and_by_what_was_confirmed_before() {
    let mut stage = logged_in(5_000, Saved::default());
    let earliest = stage.session.earliest_ms(stage.now);
    assert!((BUILT_MS..BUILT_MS + DAY_MS).contains(&earliest), "{earliest}");
    stage.accept();
    let status = stage.session.status(stage.now);
    assert_eq!((status.clock_ms, status.judged_by_ms), (5_000, Some(earliest)));
    assert_eq!(stage.session.saved().confirmed_ms, None, "a wrong clock confirms nothing");
    // A right clock confirms itself, and the next boot without one begins there.
    let right = BUILT_MS + 300 * DAY_MS;
    let mut stage = logged_in(right, Saved::default());
    stage.accept();
    assert_eq!(stage.session.status(stage.now).judged_by_ms, None);
    let saved = stage.session.saved().clone();
    assert_eq!(saved.confirmed_ms, Some(right));
    let stage = Stage::new(saved);
    let boot = Now { wall_ms: 9, ..stage.now };
    assert!(stage.session.earliest_ms(boot) >= right);
}

#[test]
fn the_confirmed_time_is_written_once_a_day_and_goes_on_by_itself() {
    let right = BUILT_MS + 300 * DAY_MS;
    let mut stage = logged_in(right, Saved::default());
    stage.accept();
    let mut writes = 0;
    let mut last = stage.session.saved().confirmed_ms;
    for _ in 0..48 {
        stage.now.at += Duration::from_secs(3600);
        stage.now.wall_ms += 3_600_000;
        stage.feed(Event::Lost(Failure::new(Cause::PeerClosed, "gone")));
        stage.pending.connected = false;
        until_dial(&mut stage);
        stage.accept();
        writes += u32::from(stage.session.saved().confirmed_ms != last);
        last = stage.session.saved().confirmed_ms;
    }
    assert!((1..=2).contains(&writes), "{writes}");
    // A link that stands for weeks, or is resumed without a look at the certificate, confirms it as well: only where
    // nobody has set the clock since.
    let stand_for = |stage: &mut Stage, days: u64| {
        let until = stage.now.at + Duration::from_secs(days * 86_400);
        while stage.now.at < until {
            assert_eq!(stage.state(), State::Online);
            stage.gateway_answers(None);
            stage.feed(Event::Heard(Packet::Pong));
            stage.pass(Duration::from_secs(3600));
        }
    };
    stand_for(&mut stage, 30);
    let confirmed = stage.session.saved().confirmed_ms.expect("a time");
    assert!(confirmed.abs_diff(stage.now.wall_ms) <= DAY_MS, "{confirmed} of {}", stage.now.wall_ms);
    stage.now.wall_ms += 4000 * DAY_MS;
    stand_for(&mut stage, 3);
    assert_eq!(stage.session.saved().confirmed_ms, Some(confirmed), "nobody looked at a certificate since");
    let mut stage = Stage::new(Saved { confirmed_ms: Some(right), ..Saved::default() });
    stage.now.at += Duration::from_secs(100 * 86_400);
    let boot = Now { wall_ms: 9, ..stage.now };
    assert!(stage.session.earliest_ms(boot) >= right + 98 * DAY_MS);
}

#[test]
fn a_confirmed_time_years_ahead_locks_nobody_out() {
    let right = BUILT_MS + 300 * DAY_MS;
    let ahead = Saved { confirmed_ms: Some(right + 4000 * DAY_MS), ..Saved::default() };
    // A clock later than the build is believed, and confirmed anew.
    let mut stage = logged_in(right, ahead.clone());
    assert!(stage.session.time_ms(stage.now) < right + DAY_MS);
    stage.accept();
    assert_eq!(stage.session.saved().confirmed_ms, Some(right));
    // Without a clock the certificate has expired by that time: at once again, by the build's.
    let mut stage = logged_in(9, ahead);
    stage.refuse(Cause::TlsExpired);
    assert_eq!(stage.state(), State::Connecting);
    assert!(stage.session.earliest_ms(stage.now) < BUILT_MS + DAY_MS);
    stage.accept();
    let confirmed = stage.session.saved().confirmed_ms.expect("noted");
    assert!(confirmed < BUILT_MS + DAY_MS, "{confirmed}");
}

#[test]
fn a_clock_that_is_late_and_later_than_the_build_is_helped_by_what_was_confirmed() {
    let right = BUILT_MS + 300 * DAY_MS;
    let mut stage = logged_in(BUILT_MS + DAY_MS, Saved { confirmed_ms: Some(right), ..Saved::default() });
    stage.refuse(Cause::TlsNotYetValid);
    assert_eq!(stage.state(), State::Connecting, "at once again");
    assert!(stage.session.earliest_ms(stage.now) >= right);
    stage.accept();
    assert!(stage.session.status(stage.now).judged_by_ms.is_some_and(|by| by >= right));
    assert_eq!(stage.session.saved().confirmed_ms, Some(right));
}

#[test]
fn a_certificate_that_fits_neither_time_is_tried_ever_more_slowly() {
    let right = BUILT_MS + 300 * DAY_MS;
    for cause in [Cause::TlsExpired, Cause::TlsNotYetValid] {
        for wall_ms in [9, BUILT_MS + DAY_MS, right + DAY_MS] {
            let mut stage = logged_in(wall_ms, Saved { confirmed_ms: Some(right), ..Saved::default() });
            let (began, mut attempts) = (stage.now.at, 0);
            while stage.now.at - began < 240 * MINUTE {
                stage.refuse(cause);
                attempts += 1;
                until_dial(&mut stage);
            }
            // Two at a time, half a minute apart for ten minutes, then from 30 s to half an hour.
            assert!(attempts <= 160, "{cause} {wall_ms}: {attempts}");
            stage.refuse(cause);
            if stage.state() == State::Connecting {
                stage.refuse(cause);
            }
            assert!(pause(&stage) >= 10 * MINUTE, "{cause} {wall_ms}: {:?}", pause(&stage));
        }
    }
}

fn token(issued_s: u64) -> Secret {
    let claims = format!(r#"{{"iat":{issued_s},"renew_after":{},"exp":{}}}"#, issued_s + 864_000, issued_s + 8_640_000);
    Secret::new(format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims)))
}

fn renewals(stage: &Stage) -> usize {
    let renew = |write: &&Write| match write {
        Write::Publish { payload, .. } => matches!(crate::protocol::decode_up(payload), Ok(Up::Renew)),
        _ => false,
    };
    stage.written.iter().filter(renew).count()
}

#[test]
fn a_login_on_a_board_without_a_clock_is_renewed_each_day_and_tells_it_the_time() {
    let issued_s = BUILT_MS / 1000 + 200 * 86_400;
    let mut stage = Stage::new(Saved::default());
    stage.now.wall_ms = 9;
    let ask = Ask::Login { user: "ann".into(), password: token(issued_s), patience: Patience::UntilStored };
    stage.ask(ask);
    stage.accept();
    let welcome = |token| Down::Settings { nonce: None, heartbeat_ceiling_s: None, bindings: None, token, ca: None };
    stage.tell(&welcome(None));
    assert_eq!(renewals(&stage), 1);
    stage.tell(&welcome(Some(token(issued_s + 60))));
    let told = stage.session.earliest_ms(stage.now);
    assert!(told >= (issued_s + 60) * 1000, "the gateway's clock is right: {told}");
    stage.tell(&welcome(None));
    assert_eq!(renewals(&stage), 1, "and not again at once");
    stage.now.at += Duration::from_secs(86_400);
    stage.tell(&welcome(None));
    assert_eq!(renewals(&stage), 2);
    // A clock that is right waits for its day.
    let mut stage = Stage::new(Saved::default());
    stage.now.wall_ms = (issued_s + 60) * 1000;
    stage.ask(Ask::Login { user: "ann".into(), password: token(issued_s), patience: Patience::UntilStored });
    stage.accept();
    stage.tell(&welcome(None));
    assert_eq!(renewals(&stage), 0);
}

#[test]
fn a_token_whose_end_is_past_is_named_so_by_a_board_without_a_clock_too() {
    let mut stage = Stage::new(Saved::default());
    stage.now.wall_ms = 9;
    let long_ago = token(BUILT_MS / 1000 - 200 * 86_400);
    stage.ask(Ask::Login { user: "ann".into(), password: long_ago, patience: Patience::UntilStored });
    stage.refuse(Cause::NotAuthorized);
    assert_eq!(stage.session.status(stage.now).cause.map(|cause| cause.word), Some(Cause::LoginExpired));
}

pub fn changeable(endpoints: &[&str]) -> Changeable {
    let settings = settings();
    Changeable {
        endpoints: endpoints.iter().map(|url| (*url).to_owned()).collect(),
        proxy: settings.proxy,
        order: settings.order,
        forced: settings.forced,
        certificates: settings.certificates,
        linger: settings.linger,
        check_first: settings.check_first,
        check_most: settings.check_most,
    }
}

fn reconfigure(stage: &mut Stage, changeable: Changeable, way_changed: bool) {
    stage.feed(Event::Reconfigured { changeable: Box::new(changeable), way_changed });
}

const A: &str = "mqtts://a:8883";

#[test]
fn a_link_is_moved_from_a_server_that_is_no_longer_configured_and_from_no_other() {
    for (endpoints, moved) in [(&[A, "mqtts://b:8883"][..], false), (&["mqtts://c", A], false), (&["mqtts://c"], true)]
    {
        let mut stage = Stage::phone();
        reconfigure(&mut stage, changeable(endpoints), true);
        assert_eq!(stage.state() == State::Connecting, moved, "{endpoints:?}");
        assert_eq!(stage.session.status(stage.now).servers, endpoints);
        stage.check(&|| format!("{endpoints:?}"));
    }
    let mut stage = Stage::phone();
    let proxied = Changeable { proxy: Some("http://p:1".into()), ..changeable(&[A, "mqtts://b:8883"]) };
    reconfigure(&mut stage, proxied, true);
    assert_eq!(stage.state(), State::Connecting, "another way is another connection");
}

#[test]
fn a_pause_ends_where_the_way_has_changed_and_goes_on_where_it_has_not() {
    for way_changed in [true, false] {
        let mut stage = Stage::phone();
        stage.now.at += 30 * MINUTE;
        stage.pending.connected = false;
        stage.feed(Event::Lost(Failure::new(Cause::PeerClosed, "gone")));
        until_dial(&mut stage);
        stage.refuse(Cause::TlsUntrusted);
        assert!(pause(&stage) >= Duration::from_secs(30));
        reconfigure(&mut stage, changeable(&[A, "mqtts://b:8883"]), way_changed);
        assert_eq!(pause(&stage) <= Duration::from_secs(2), way_changed);
    }
}

#[test]
fn another_certificate_name_is_bound_without_a_new_connection() {
    let mut stage = Stage::phone();
    let named =
        Changeable { certificates: [(Vendor::Xiaomi, "999".to_owned())].into(), ..changeable(&[A, "mqtts://b:8883"]) };
    reconfigure(&mut stage, named, false);
    assert_eq!(stage.state(), State::Online);
    let bound = |write: &Write| match write {
        Write::Publish { payload, .. } => {
            matches!(crate::protocol::decode_up(payload), Ok(Up::Bind { notifier, token, .. }) if notifier == "999" && token.expose() == TOKEN)
        }
        _ => false,
    };
    assert!(stage.written.iter().any(bound), "{:?}", stage.written);
    stage.gateway_answers(Some(BindingState::Working));
}
