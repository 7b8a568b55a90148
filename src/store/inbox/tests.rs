//! The inbox through power losses, full disks and several apps.

use super::*;
use crate::ids::MessageId;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Instant;

fn message_with(id: &str, body: serde_json::Value) -> Message {
    Message {
        id: id.into(),
        from: "bob".into(),
        to: "ann".into(),
        chat_type: "chat".into(),
        group: None,
        sent_at_ms: 1,
        offline: false,
        body: Arc::new(body),
        ext: Arc::default(),
    }
}

fn message(id: &str) -> Message {
    message_with(id, json!({"msg": "hello"}))
}

fn messages(ids: &[&str]) -> Vec<Message> {
    ids.iter().map(|id| message(id)).collect()
}

fn of_ann_within(state: &Path, bytes: u64) -> Inbox {
    Inbox::open(state, "org#app", "ann", Limits { bytes }).expect("opened")
}

fn of_ann(state: &Path) -> Inbox {
    of_ann_within(state, Limits::default().bytes)
}

fn ids(inbox: &mut Inbox, app: &str) -> Vec<String> {
    inbox
        .messages(app, 0, 10_000)
        .expect("read")
        .entries
        .into_iter()
        .map(|entry| entry.message.id.to_string())
        .collect()
}

fn take(inbox: &mut Inbox, app: &str, ids: &[&str]) -> Vec<MessageId> {
    inbox.take(app, &ids.iter().map(|id| (*id).into()).collect::<Vec<_>>())
}

fn directory(state: &Path) -> PathBuf {
    place::directory(state, "org#app", "ann")
}

fn set_aside_files(state: &Path) -> usize {
    let files = std::fs::read_dir(directory(state)).expect("listed");
    files.filter(|file| file.as_ref().is_ok_and(|f| f.file_name().to_string_lossy().contains(".corrupt-"))).count()
}

/// In memory where there is such a place: thousands of fsyncs say nothing more on a disk.
fn state() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory")
}

#[test]
fn a_message_is_kept_until_an_app_takes_it_and_recognised_afterwards() {
    let state = state();
    let mut inbox = of_ann(state.path());
    let appended = inbox.append(&messages(&["a", "b", "a"])).expect("kept");
    assert_eq!((appended.new, appended.duplicates), (vec![1, 2], 1));
    let mut inbox = of_ann(state.path());
    assert_eq!(ids(&mut inbox, "mail"), ["a", "b"]);
    assert_eq!(take(&mut inbox, "mail", &["a", "nobody"]), ["a"]);
    assert!(take(&mut inbox, "mail", &["a"]).is_empty(), "taken once");
    let mut inbox = of_ann(state.path());
    assert_eq!(ids(&mut inbox, "mail"), ["b"]);
    assert_eq!(inbox.depth(), 1);
    assert_eq!(inbox.append(&messages(&["a", "b"])).expect("known"), Appended { new: vec![], duplicates: 2 });
    assert_eq!(inbox.append(&messages(&["c"])).expect("kept").new, [3], "a number is never used twice");
    take(&mut inbox, "mail", &["b", "c"]);
    assert_eq!(inbox.clear().expect("cleared"), 0);
    let mut inbox = of_ann(state.path());
    assert_eq!(inbox.bytes(), 0);
    let appended = inbox.append(&messages(&["c", "d"])).expect("kept");
    assert_eq!((appended.new, appended.duplicates), (vec![4], 1), "not even after all are gone");
}

#[test]
fn what_one_app_acknowledges_another_still_gets_also_after_reopening() {
    let state = state();
    let mut inbox = of_ann(state.path());
    inbox.append(&messages(&["old"])).expect("kept");
    inbox.attach("mail");
    inbox.attach("uid:1000");
    inbox.append(&messages(&["a", "b"])).expect("kept");
    assert_eq!(ids(&mut inbox, "mail"), ["old", "a", "b"], "the first app begins at the oldest");
    assert_eq!(ids(&mut inbox, "uid:1000"), ["a", "b"], "a later one at now");
    assert_eq!(take(&mut inbox, "mail", &["old", "a", "b"]), ["old", "a", "b"]);
    let mut inbox = of_ann(state.path());
    assert!(ids(&mut inbox, "mail").is_empty());
    assert_eq!(ids(&mut inbox, "uid:1000"), ["a", "b"]);
    assert!(take(&mut inbox, "uid:1000", &["b"]).is_empty(), "the gateway has heard of it already");
    let mut inbox = of_ann(state.path());
    assert_eq!(ids(&mut inbox, "uid:1000"), ["a"], "taken out of order");
    assert!(inbox.is_taken(&"a".into()) && !inbox.is_taken(&"c".into()), "one app has it");
    inbox.forget("uid:1000");
    inbox.make_room(u64::MAX / 2);
    assert_eq!(inbox.bytes(), 0, "nobody is left who wants them");
    assert!(inbox.is_taken(&"a".into()), "what is gone was taken too");
}

#[test]
fn looking_begins_nothing_and_shows_what_no_app_has() {
    let state = state();
    let mut inbox = of_ann(state.path());
    inbox.append(&messages(&["a", "b"])).expect("kept");
    assert_eq!(inbox.peek(0, 10).expect("read").len(), 2);
    assert_eq!(inbox.peek(1, 10).expect("read").len(), 1);
    take(&mut inbox, "mail", &["a"]);
    assert_eq!(inbox.peek(0, 10).expect("read")[0].message.id, "b");
}

#[test]
fn a_torn_last_line_is_cut_off_silently_and_nothing_else_is_lost() {
    let state = state();
    of_ann(state.path()).append(&messages(&["a", "b"])).expect("kept");
    let path = segment::path(&directory(state.path()), 1);
    let whole = std::fs::read(&path).expect("read");
    let a_ends = whole.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    for cut in a_ends..whole.len() {
        std::fs::write(&path, &whole[..cut]).expect("torn");
        let mut inbox = of_ann(state.path());
        assert_eq!(ids(&mut inbox, "mail"), ["a"], "cut at {cut}");
        assert_eq!(inbox.append(&messages(&["b"])).expect("again").new, [2]);
        assert_eq!(ids(&mut of_ann(state.path()), "mail"), ["a", "b"]);
    }
    assert_eq!(set_aside_files(state.path()), 0);
}

#[test]
fn nuls_and_garbage_are_set_aside_and_the_whole_records_around_them_kept() {
    let state = state();
    let mut inbox = of_ann(state.path());
    inbox.append(&messages(&["a", "b", "c"])).expect("kept");
    let epoch = inbox.epoch().to_owned();
    let path = segment::path(&directory(state.path()), 1);
    let text = std::fs::read_to_string(&path).expect("read");
    let lines: Vec<&str> = text.lines().collect();
    let nuls = "\0".repeat(100_000);
    let long = "x".repeat(2 * segment::RECORD_LIMIT);
    for (damaged, kept) in [
        (format!("{nuls}{}\n{}\n", lines[1], lines[2]), vec!["b", "c"]),
        (format!("{}\n{}{nuls}{}\n", lines[0], &lines[1][..20], lines[2]), vec!["a", "c"]),
        (format!("{}\nrubbish\n\n{}\n", lines[0], lines[2]), vec!["a", "c"]),
        (format!("{}\n{long}\n{}\n", lines[0], lines[2]), vec!["a", "c"]),
        (format!("{}\n{}\n{}\n", lines[1], lines[0], lines[2]), vec!["b", "c"]),
        (format!("{}\n{}\n{nuls}", lines[0], lines[1]), vec!["a", "b"]),
        (nuls.clone(), vec![]),
    ] {
        let before = set_aside_files(state.path());
        std::fs::write(&path, &damaged).expect("damaged");
        let mut inbox = of_ann(state.path());
        assert_eq!(ids(&mut inbox, "mail"), kept);
        assert_eq!(set_aside_files(state.path()), before + 1);
        assert_ne!(inbox.epoch(), epoch, "lost numbers may come again");
        let again = inbox.epoch().to_owned();
        assert_eq!(ids(&mut of_ann(state.path()), "mail"), kept, "mended for good");
        assert_eq!(of_ann(state.path()).epoch(), again);
        assert_eq!(set_aside_files(state.path()), before + 1);
    }
    assert_eq!(of_ann(state.path()).append(&messages(&["d"])).expect("goes on").new.len(), 1);
}

#[test]
fn a_message_nested_as_deep_as_the_wire_allows_is_read_again_and_hides_nothing() {
    let state = state();
    let deep = |depth: usize| {
        let body = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let line = json!({"v": 1, "type": "message", "id": depth.to_string(), "from": "bob", "to": "ann", "sent_at_ms": 1, "body": null});
        line.to_string().replace("null", &body)
    };
    let found = (1..200).rev().find_map(|depth| crate::protocol::decode_down(deep(depth).as_bytes()).ok());
    let Some(crate::protocol::Down::Message(deepest)) = found else { panic!("no depth is read") };
    let mut inbox = of_ann(state.path());
    inbox.append(&[deepest.clone(), message("next")]).expect("kept");
    assert_eq!(ids(&mut of_ann(state.path()), "mail"), [deepest.id.as_str(), "next"]);
    let path = segment::path(&directory(state.path()), 1);
    let text = std::fs::read_to_string(&path).expect("read");
    let too_deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
    std::fs::write(&path, text.replacen("\"from\":\"bob\"", &format!("\"x\":{too_deep},\"from\":1"), 1))
        .expect("written");
    let mut inbox = of_ann(state.path());
    assert_eq!(ids(&mut inbox, "mail"), ["next"]);
    assert_eq!(ids(&mut inbox, "mail"), ["next"]);
}

#[test]
fn seven_hundred_messages_of_60_kb_stay_within_the_bound_and_open_fast() {
    let state = state();
    let text = "x".repeat(60_000);
    let mut inbox = of_ann(state.path());
    let mut kept = 0;
    for number in 0..700 {
        match inbox.append(&[message_with(&number.to_string(), json!({ "msg": text }))]) {
            Ok(appended) => kept += appended.new.len(),
            Err(InboxError::Full) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!((100..140).contains(&kept), "{kept}");
    let on_disk: u64 = std::fs::read_dir(directory(state.path()))
        .expect("listed")
        .map(|file| file.expect("a file").metadata().expect("its size").len())
        .sum();
    assert!(on_disk <= 8 * 1024 * 1024 + 4096, "{on_disk}");
    let begun = Instant::now();
    let mut inbox = of_ann(state.path());
    let took = begun.elapsed();
    // Unoptimised it is some ten times slower; the time itself is a release build's.
    assert!(took.as_millis() < if cfg!(debug_assertions) { 2000 } else { 100 }, "{took:?}");
    assert_eq!(inbox.depth(), kept);
    let batch = inbox.messages("mail", 0, 1000).expect("read");
    assert!((1..=5).contains(&batch.entries.len()), "a batch is bounded by bytes");
}

#[test]
fn without_room_the_apps_that_are_away_lose_first_and_hear_how_much() {
    let state = state();
    let mut inbox = of_ann_within(state.path(), 8192);
    inbox.attach("here");
    inbox.attach("away");
    inbox.detach("away");
    for number in 0..400 {
        let id = number.to_string();
        inbox.append(&messages(&[&id])).expect("the app that is here has taken all");
        assert_eq!(take(&mut inbox, "here", &[&id]), [id.as_str()]);
        assert!(inbox.bytes() <= 8192);
    }
    let mut inbox = of_ann_within(state.path(), 8192);
    let batch = inbox.messages("away", 0, 1000).expect("read");
    assert_eq!(batch.missed + batch.entries.len() as u64, 400);
    assert!(batch.missed > 0 && !batch.entries.is_empty());
    inbox.gap_told("away");
    assert_eq!(of_ann_within(state.path(), 8192).messages("away", 0, 1).expect("read").missed, 0);
    assert_eq!(inbox.messages("here", 0, 1).expect("read").missed, 0);
}

#[test]
fn a_full_inbox_refuses_the_newest_while_an_attached_app_waits_or_none_was_ever_there() {
    for attached in [true, false] {
        let state = state();
        let mut inbox = of_ann_within(state.path(), 8192);
        if attached {
            inbox.attach("here");
        }
        let mut count = 0;
        let error = loop {
            match inbox.append(&messages(&[&count.to_string()])) {
                Ok(_) => count += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, InboxError::Full), "{error}");
        assert_eq!(ids(&mut inbox, "here").len(), count, "nothing was given up");
        let most: Vec<MessageId> = (1..count).map(|number| number.to_string().as_str().into()).collect();
        inbox.take("here", &most);
        inbox.append(&messages(&["more"])).expect("there is room");
        assert_eq!(ids(&mut inbox, "here"), ["0", "more"], "one left behind does not hold a whole inbox");
        assert_eq!(ids(&mut of_ann_within(state.path(), 8192), "here"), ["0", "more"]);
        let huge = message_with("huge", json!("x".repeat(9000)));
        assert!(matches!(inbox.append(&[huge]), Err(InboxError::TooLarge { .. })));
    }
}

#[test]
fn a_login_that_ends_leaves_nothing_and_nobody_elses_inbox_is_touched() {
    let state = state();
    let mut inbox = of_ann(state.path());
    inbox.append(&messages(&["a"])).expect("kept");
    let open = |app, user| Inbox::open(state.path(), app, user, Limits::default()).expect("opened");
    open("a#b", "c").append(&messages(&["theirs"])).expect("kept");
    assert_eq!(open("a", "b#c").depth(), 0, "another app and another user");
    assert_eq!(open("a/b", "c").depth(), 1, "the same app in its other spelling");
    assert_eq!(of_ann(state.path()).depth(), 1);
    let epoch = inbox.epoch().to_owned();
    inbox.close_and_unlink().expect("gone");
    assert!(!directory(state.path()).exists());
    let mut inbox = of_ann(state.path());
    assert_eq!(inbox.depth(), 0);
    assert_ne!(inbox.epoch(), epoch, "numbers begin anew");
    inbox.append(&messages(&["a"])).expect("what she had not taken comes again");
    std::fs::create_dir(state.path().join("inbox/f00.dead")).expect("what a power loss left");
    assert_eq!(Inbox::sweep_others(state.path(), Some(("org/app", "ann"))), 3);
    assert_eq!(std::fs::read_dir(state.path().join("inbox")).expect("listed").count(), 1);
    assert_eq!(Inbox::stored(state.path()).expect("listed").len(), 1);
    assert_eq!(Inbox::sweep_others(state.path(), None), 1);
    assert!(Inbox::stored(state.path()).expect("listed").is_empty());
}

#[test]
fn lost_files_begin_another_epoch_and_no_number_is_used_twice_in_one() {
    let state = state();
    let mut inbox = of_ann(state.path());
    inbox.append(&messages(&["a", "b"])).expect("kept");
    take(&mut inbox, "mail", &["a"]);
    let epoch = inbox.epoch().to_owned();
    assert_eq!(of_ann(state.path()).epoch(), epoch);
    std::fs::remove_file(segment::path(&directory(state.path()), 1)).expect("lost");
    let mut inbox = of_ann(state.path());
    assert_ne!(inbox.epoch(), epoch);
    assert!(inbox.append(&messages(&["c"])).expect("kept").new[0] >= 3);
    assert_eq!(ids(&mut inbox, "mail"), ["c"]);
    let epoch = inbox.epoch().to_owned();
    std::fs::write(directory(state.path()).join("cursors.json"), b"\0\0\0").expect("damaged");
    assert_eq!(of_ann(state.path()).epoch(), epoch, "its copy is whole");
    for name in ["cursors.json", "cursors.json.copy"] {
        std::fs::write(directory(state.path()).join(name), b"\0\0\0").expect("damaged");
    }
    let mut inbox = of_ann(state.path());
    assert_ne!(inbox.epoch(), epoch);
    assert_eq!(ids(&mut inbox, "mail"), ["c"]);
    assert_eq!(set_aside_files(state.path()), 2);
    let epoch = inbox.epoch().to_owned();
    assert!(take(&mut inbox, "mail", &["c"]) == ["c"] && of_ann(state.path()).epoch() == epoch);
    for name in ["cursors.json", "cursors.json.copy"] {
        std::fs::remove_file(directory(state.path()).join(name)).expect("lost");
    }
    assert_ne!(of_ann(state.path()).epoch(), epoch);
}

#[test]
fn where_nothing_can_be_written_there_is_still_an_inbox_to_read() {
    let state = state();
    // A file in the directory's place: as on a full disk, nothing can be made below it.
    std::fs::write(state.path().join("inbox"), b"").expect("written");
    assert!(matches!(Inbox::open(state.path(), "org#app", "ann", Limits::default()), Err(InboxError::Io { .. })));
    std::fs::remove_file(state.path().join("inbox")).expect("removed");
    of_ann(state.path()).append(&messages(&["a"])).expect("kept");
    let read_only = |mode| {
        std::fs::set_permissions(directory(state.path()), std::fs::Permissions::from_mode(mode)).expect("changed");
    };
    read_only(0o500);
    let mut inbox = of_ann(state.path());
    assert_eq!(ids(&mut inbox, "mail"), ["a"]);
    assert_eq!(take(&mut inbox, "mail", &["a"]), ["a"], "what is taken is taken");
    // A privileged user writes where it may not.
    if !rustix::process::geteuid().is_root() {
        assert!(inbox.flush().is_err());
    }
    read_only(0o700);
    inbox.flush().expect("saved now");
    assert!(ids(&mut of_ann(state.path()), "mail").is_empty());
}

#[test]
fn the_file_of_an_earlier_version_moves_to_its_user_and_nobody_elses_message_does() {
    let state = state();
    let old = state.path().join("inbox.jsonl");
    let arrived = |number: u64, id: &str, to: &str| {
        json!({"number": number, "message": Message { to: to.into(), ..message(id) }}).to_string()
    };
    let deep = format!("{{\"number\":7,\"message\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let lines = [
        json!({"next": 5}).to_string(),
        json!({"seen": ["s"]}).to_string(),
        arrived(5, "a", "ann"),
        deep,
        "\0\0\0".to_owned(),
        arrived(6, "b", "bob"),
        arrived(8, "t", "ann"),
        json!({"acked": ["t"]}).to_string(),
        arrived(9, "c", "ann"),
        "{\"number\":10,\"mess".to_owned(),
    ];
    std::fs::write(&old, lines.join("\n")).expect("written");
    let mut inbox = of_ann(state.path());
    assert!(!old.exists());
    assert_eq!(ids(&mut inbox, "mail"), ["a", "c"]);
    assert_eq!(inbox.append(&messages(&["s", "t", "a"])).expect("known").duplicates, 3);
    assert_eq!(ids(&mut of_ann(state.path()), "mail"), ["a", "c"]);
    assert_eq!(Inbox::open(state.path(), "org#app", "bob", Limits::default()).expect("opened").depth(), 0);
}

/// A small linear congruential generator: the same numbers in every run.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// What the inbox must hold, kept the simple way.
#[derive(Default)]
struct Model {
    /// Number, epoch and id of each message, in order.
    kept: Vec<(u64, MessageId)>,
    taken: BTreeSet<MessageId>,
    apps: BTreeMap<&'static str, BTreeSet<MessageId>>,
}

#[test]
fn whatever_the_order_of_events_each_app_gets_each_message_until_it_takes_it() {
    for seed in 0..40 {
        let mut random = Lcg(seed);
        let state = state();
        // Small segments, so that many are begun and dropped.
        let bytes = 256 * 1024;
        let mut inbox = of_ann_within(state.path(), bytes);
        let (mut model, mut fresh, mut highest) = (Model::default(), 0, 0);
        let epoch = inbox.epoch().to_owned();
        for step in 0..250 {
            match random.below(10) {
                0..=3 => {
                    let batch: Vec<Message> = (0..=random.below(4))
                        .map(|_| {
                            let repeats = fresh > 0 && random.below(4) == 0;
                            fresh += u64::from(!repeats);
                            let id = if repeats { random.below(fresh) } else { fresh - 1 };
                            message_with(&id.to_string(), json!("x".repeat(random.below(600) as usize)))
                        })
                        .collect();
                    let appended = inbox.append(&batch).expect("there is room");
                    assert_eq!(appended.new.len() + appended.duplicates, batch.len());
                    let mut expected = Vec::new();
                    for message in &batch {
                        let known =
                            model.kept.iter().any(|(_, id)| *id == message.id) || expected.contains(&message.id);
                        if !known {
                            expected.push(message.id.clone());
                        }
                    }
                    assert_eq!(appended.new.len(), expected.len(), "seed {seed} step {step}");
                    for (number, id) in appended.new.into_iter().zip(expected) {
                        assert!(number > highest, "numbers grow");
                        highest = number;
                        model.kept.push((number, id));
                    }
                }
                4..=7 => {
                    let app = ["mail", "uid:1000", "chat"][random.below(3) as usize];
                    if !model.apps.contains_key(app) {
                        let begin = match model.apps.is_empty() {
                            true => BTreeSet::new(),
                            false => model.kept.iter().map(|(_, id)| id.clone()).collect(),
                        };
                        model.apps.insert(app, begin);
                    }
                    let waiting: Vec<MessageId> = ids(&mut inbox, app).iter().map(|id| id.as_str().into()).collect();
                    let mine = model.apps.get_mut(app).expect("known");
                    let expected: Vec<&MessageId> =
                        model.kept.iter().map(|(_, id)| id).filter(|id| !mine.contains(*id)).collect();
                    assert!(waiting.iter().eq(expected), "seed {seed} step {step} {app}");
                    let some: Vec<MessageId> = waiting.into_iter().filter(|_| random.below(3) > 0).collect();
                    let first: BTreeSet<MessageId> = inbox.take(app, &some).into_iter().collect();
                    assert_eq!(first, some.iter().filter(|id| !model.taken.contains(*id)).cloned().collect());
                    mine.extend(some.iter().cloned());
                    model.taken.extend(some);
                }
                8 => {
                    drop(inbox);
                    inbox = of_ann_within(state.path(), bytes);
                }
                _ => {
                    drop(inbox);
                    if let Some(last) = segment::list(&directory(state.path())).expect("listed").last() {
                        let path = segment::path(&directory(state.path()), *last);
                        let mut file = std::fs::read(&path).expect("read");
                        // Whoever was writing had cut off an earlier torn record.
                        file.truncate(file.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
                        let record = segment::encode(highest + 1, &message("torn")).expect("encoded");
                        file.extend(&record[..random.below(record.len() as u64) as usize]);
                        std::fs::write(&path, file).expect("torn");
                    }
                    inbox = of_ann_within(state.path(), bytes);
                }
            }
            assert_eq!(inbox.epoch(), epoch, "nothing was lost");
            assert_eq!(inbox.depth(), model.kept.iter().filter(|(_, id)| !model.taken.contains(id)).count());
        }
        assert_eq!(set_aside_files(state.path()), 0);
    }
}
