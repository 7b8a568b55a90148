//! What a disk does to a session: it loses, refuses and takes again.

use super::super::*;
use super::stage::{Stage, settings};
use crate::protocol::Up;

/// The login's name in each hello that was said and not answered yet.
fn greeted_as(stage: &Stage) -> Vec<Option<String>> {
    let payloads = stage.written.iter().filter_map(|write| match write {
        Write::Publish { topic, payload, .. } if topic.ends_with("/up") => crate::protocol::decode_up(payload).ok(),
        _ => None,
    });
    payloads.filter_map(|up| if let Up::Hello(hello) = up { Some(hello.login) } else { None }).collect()
}

fn saved() -> Saved {
    let login = r#"{"user":"ann","password":"p","app":"org#app","id":"l1"}"#;
    Saved { login: Some(serde_json::from_str(login).expect("a login")), ..Saved::default() }
}

#[test]
fn a_disk_that_lost_messages_asks_for_them_under_another_name_once_the_old_one_was_welcomed() {
    let mut stage = Stage::new(saved());
    stage.feed(Event::InboxLost);
    stage.accept();
    assert_eq!(greeted_as(&stage), [Some("l1".to_owned())], "a kick must reach the login that it ended");
    stage.gateway_answers(None);
    let name = stage.session.saved().login.as_ref().and_then(|login| login.id.clone()).expect("a name");
    assert_ne!(name, "l1");
    assert!(
        stage.disk.get(&Kind::Login) == Some(&stage.session.saved().change(Kind::Login)),
        "on disk before it is used"
    );
    let until = stage.now.at + Duration::from_secs(60);
    while greeted_as(&stage).is_empty() && stage.now.at < until {
        stage.pass(Duration::from_secs(60));
    }
    assert_eq!(greeted_as(&stage), [Some(name.clone())]);
    stage.gateway_answers(None);
    assert_eq!(stage.session.saved().login.as_ref().and_then(|login| login.id.clone()), Some(name), "once");
}

#[test]
fn a_device_id_that_could_not_be_stored_is_owed_until_the_disk_takes_something_again() {
    let mut stage = Stage::with(Settings { device_id_is_stored: false, ..settings() }, Saved::default());
    assert_eq!(stage.disk.get(&Kind::Identity), Some(&Change::Identity), "tried at once");
    stage.disk_full = true;
    stage.session.persist(Kind::Identity);
    stage.pass(Duration::ZERO);
    stage.feed(Event::PersistFailed { kind: Kind::Identity, version: 0, why: "no space left".into() });
    stage.disk.remove(&Kind::Identity);
    stage.disk_full = false;
    stage.ask(Ask::Power { mode: PowerMode::Low });
    stage.login("ann");
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.disk.get(&Kind::Identity), Some(&Change::Identity), "not only 30 s later");
    assert_eq!(stage.session.unsaved().count(), 0);
}

#[test]
fn how_long_a_phase_has_lasted_is_not_the_wall_clocks_to_say() {
    let mut stage = Stage::new(saved());
    stage.now.wall_ms = 0;
    stage.accept();
    let year_ms = 365 * 86_400_000;
    stage.now.at += Duration::from_secs(7);
    stage.now.wall_ms = 50 * year_ms;
    stage.feed(Event::ClockStepped);
    let status = stage.session.status(stage.now);
    assert_eq!((status.state, stage.now.wall_ms - status.since_ms), (State::Online, 7000));
}
