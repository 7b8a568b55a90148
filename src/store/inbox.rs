//! Messages that are durable on the device and that no app has taken yet.
//!
//! An append-only file of JSON lines, fsynced before anything is acknowledged:
//!
//! ```text
//! {"number":1,"message":{...}}      arrived
//! {"acked":["id"]}                  taken by an app
//! {"next":2}                        the number the next one gets
//! {"seen":["id"]}                   ids remembered so that a redelivery is recognised
//! ```
//!
//! A last line without its end is a power cut in mid-write: it was never acknowledged, so it is cut
//! off and the gateway sends it again. Any other damage sets the file aside after every whole line
//! has been saved.

use super::document::{set_aside, write_atomically};
use crate::protocol::Message;
use crate::secret::hex;
use ring::digest;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use tracing::{error, info};

/// Most messages that wait for an app. Beyond it nothing is acknowledged: they wait at the gateway.
const MAX_PENDING: usize = 5000;
/// Ids remembered after their message was taken. The gateway repeats only what it was not told of.
const MAX_SEEN: usize = 2000;
/// The file is rewritten when it is longer than this and mostly history.
const COMPACT_ABOVE: u64 = 256 * 1024;

/// A message and its number in this inbox, which grows and is never used twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub number: u64,
    pub message: Message,
}

#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    #[error("the inbox holds {MAX_PENDING} messages that no app has taken; attach one (`impush watch`)")]
    Full,
    #[error("cannot write the inbox: {0}")]
    Io(#[from] io::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Arrived(Entry),
    Acked { acked: Vec<String> },
    Seen { seen: Vec<String> },
    Next { next: u64 },
}

/// The inbox file and what it holds.
#[derive(Debug)]
pub struct Inbox {
    path: PathBuf,
    file: File,
    length: u64,
    pending: BTreeMap<u64, Message>,
    seen: VecDeque<String>,
    known: HashSet<String>,
    next_number: u64,
}

impl Inbox {
    /// The inbox of one user of one IM app below the state directory. What an older version kept for this user
    /// in one file for all is taken over; what it kept for others goes with that file.
    ///
    /// # Errors
    /// The disk's error.
    pub fn open_for(state: &Path, app: &str, user: &str) -> io::Result<Self> {
        // With the lengths in front no two pairs are confused.
        let owner = format!("{}:{app}{}:{user}", app.len(), user.len());
        let name = hex(&digest::digest(&digest::SHA256, owner.as_bytes()).as_ref()[..16]);
        let mut inbox = Self::open(&state.join(format!("inbox-{name}.jsonl")))?;
        let former = state.join("inbox.jsonl");
        if former.exists() {
            let old = Self::open(&former)?;
            let (own, others): (Vec<_>, Vec<_>) =
                old.pending_after(0).map(|entry| entry.message).partition(|message| message.to == user);
            let (kept, dropped) = (own.len(), others.len());
            inbox.append(own).map_err(io::Error::other)?;
            std::fs::remove_file(&former)?;
            info!(
                event = "inbox.taken_over",
                kept, dropped, "messages an older version kept were taken over; other users' were dropped"
            );
        }
        inbox.unlink_others(state);
        Ok(inbox)
    }

    /// What ended logins left behind because the disk refused at that time.
    fn unlink_others(&self, state: &Path) {
        for entry in std::fs::read_dir(state).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let inbox = name.to_str().is_some_and(|name| name.starts_with("inbox-") && name.ends_with(".jsonl"));
            if inbox && entry.path() != self.path {
                // Tried again at the next login.
                drop(std::fs::remove_file(entry.path()));
            }
        }
    }

    /// # Errors
    /// The disk's error.
    pub fn open(path: &Path) -> io::Result<Self> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let mut inbox = Self {
            path: path.to_owned(),
            file: open_for_append(path)?,
            length: 0,
            pending: BTreeMap::new(),
            seen: VecDeque::new(),
            known: HashSet::new(),
            next_number: 1,
        };
        let mut damaged = 0;
        for line in bytes[..whole].split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(line) => inbox.apply(line),
                Err(_) => damaged += 1,
            }
        }
        if damaged > 0 {
            let aside = set_aside(path)?;
            error!(
                event = "store.corrupt",
                file = %path.display(), kept_as = %aside.display(), lines = damaged, saved = inbox.pending.len(),
                "the inbox has damaged lines; it is set aside and the whole ones are kept"
            );
        }
        inbox.compact()?;
        Ok(inbox)
    }

    /// Makes messages durable. Returns the new ones; those already known are left out.
    ///
    /// # Errors
    /// [`InboxError`]; nothing may be acknowledged then.
    pub fn append(&mut self, messages: Vec<Message>) -> Result<Vec<Entry>, InboxError> {
        let mut entries: Vec<Entry> = Vec::new();
        for message in messages {
            let twice = entries.iter().any(|e| e.message.id == message.id);
            if self.known.contains(&message.id) || twice {
                continue;
            }
            entries.push(Entry { number: self.next_number + entries.len() as u64, message });
        }
        if self.pending.len() + entries.len() > MAX_PENDING {
            return Err(InboxError::Full);
        }
        if !entries.is_empty() {
            self.write(&entries.iter().cloned().map(Line::Arrived).collect::<Vec<_>>())?;
            entries.iter().cloned().for_each(|entry| self.apply(Line::Arrived(entry)));
        }
        Ok(entries)
    }

    /// An app has taken these. Ids nobody knows are ignored. Returns how many were pending.
    ///
    /// # Errors
    /// The disk's error; they stay pending then.
    pub fn ack(&mut self, ids: &[String]) -> io::Result<Vec<String>> {
        let acked: Vec<String> = self.pending.values().filter(|m| ids.contains(&m.id)).map(|m| m.id.clone()).collect();
        if !acked.is_empty() {
            self.write(&[Line::Acked { acked: acked.clone() }])?;
            self.apply(Line::Acked { acked: acked.clone() });
            if self.length > COMPACT_ABOVE {
                self.compact()?;
            }
        }
        Ok(acked)
    }

    /// Pending messages with a number above `after`, oldest first.
    pub fn pending_after(&self, after: u64) -> impl Iterator<Item = Entry> {
        self.pending
            .range(after.saturating_add(1)..)
            .map(|(number, message)| Entry { number: *number, message: message.clone() })
    }

    /// # Errors
    /// The disk's error.
    pub fn close_and_unlink(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    pub fn depth(&self) -> usize {
        self.pending.len()
    }

    fn apply(&mut self, line: Line) {
        match line {
            Line::Arrived(entry) => {
                self.next_number = self.next_number.max(entry.number + 1);
                self.known.insert(entry.message.id.clone());
                self.pending.insert(entry.number, entry.message);
            }
            Line::Acked { acked } => {
                self.pending.retain(|_, message| !acked.contains(&message.id));
                self.remember(acked);
            }
            Line::Seen { seen } => self.remember(seen),
            Line::Next { next } => self.next_number = self.next_number.max(next),
        }
    }

    fn remember(&mut self, ids: Vec<String>) {
        for id in ids {
            self.known.insert(id.clone());
            self.seen.push_back(id);
        }
        while self.seen.len() > MAX_SEEN {
            if let Some(id) = self.seen.pop_front() {
                self.known.remove(&id);
            }
        }
    }

    fn write(&mut self, lines: &[Line]) -> io::Result<()> {
        let bytes = encode(lines)?;
        // A failed write may have left half a line; without this the next one would join it.
        if let Err(error) = self.file.write_all(&bytes).and_then(|()| self.file.sync_data()) {
            drop(self.file.set_len(self.length));
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn compact(&mut self) -> io::Result<()> {
        let seen = self.seen.iter().cloned().collect();
        let mut lines = vec![Line::Next { next: self.next_number }, Line::Seen { seen }];
        lines.extend(
            self.pending
                .iter()
                .map(|(number, message)| Line::Arrived(Entry { number: *number, message: message.clone() })),
        );
        let bytes = encode(&lines)?;
        write_atomically(&self.path, &bytes)?;
        self.file = open_for_append(&self.path)?;
        self.length = bytes.len() as u64;
        Ok(())
    }
}

fn encode(lines: &[Line]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut bytes, line).map_err(io::Error::other)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

fn open_for_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(id: &str) -> Message {
        Message {
            id: id.into(),
            from: "bob".into(),
            to: "ann".into(),
            chat_type: "chat".into(),
            group: None,
            sent_at_ms: 1,
            offline: false,
            body: json!({"msg": "hello"}),
            ext: json!(null),
        }
    }

    fn ids(inbox: &Inbox) -> Vec<String> {
        inbox.pending_after(0).map(|e| e.message.id).collect()
    }

    #[test]
    fn an_inbox_belongs_to_one_user_and_takes_over_only_what_was_theirs() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut former = Inbox::open(&dir.path().join("inbox.jsonl")).expect("opened");
        former.append(vec![message("a"), Message { to: "bob".into(), ..message("b") }]).expect("kept");
        drop(former);
        let inbox = Inbox::open_for(dir.path(), "o#a", "ann").expect("opened");
        assert_eq!(ids(&inbox), ["a"]);
        assert!(!dir.path().join("inbox.jsonl").exists());
        assert!(ids(&Inbox::open_for(dir.path(), "o#a", "bob").expect("opened")).is_empty());
        assert!(ids(&Inbox::open_for(dir.path(), "o#a", "ann").expect("opened")).is_empty(), "it went with its login");
    }

    #[test]
    fn a_message_is_kept_until_an_app_takes_it_and_recognised_afterwards() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("inbox");
        let mut inbox = Inbox::open(&path).expect("opened");
        assert_eq!(inbox.append(vec![message("a"), message("b"), message("a")]).expect("kept").len(), 2);
        let mut inbox = Inbox::open(&path).expect("reopened");
        assert_eq!(ids(&inbox), ["a", "b"]);
        assert_eq!(inbox.ack(&["a".into(), "nobody".into()]).expect("acked"), ["a"]);
        let mut inbox = Inbox::open(&path).expect("reopened");
        assert_eq!(ids(&inbox), ["b"]);
        assert!(inbox.append(vec![message("a"), message("b")]).expect("kept").is_empty(), "both are known");
        assert_eq!(inbox.append(vec![message("c")]).expect("kept")[0].number, 3, "a number is never used twice");
        inbox.ack(&["b".into(), "c".into()]).expect("acked");
        let mut inbox = Inbox::open(&path).expect("reopened empty");
        assert_eq!(inbox.append(vec![message("d")]).expect("kept")[0].number, 4, "not even after all were taken");
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_nothing_else_is_lost() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("inbox");
        Inbox::open(&path).expect("opened").append(vec![message("a"), message("b")]).expect("kept");
        let whole = std::fs::read(&path).expect("read");
        let a_ends = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(2).map_or(0, |(at, _)| at + 1);
        for cut in a_ends..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("torn");
            let mut inbox = Inbox::open(&path).expect("reopened");
            assert_eq!(ids(&inbox), ["a"], "cut at {cut}");
            assert_eq!(inbox.append(vec![message("b")]).expect("again").len(), 1);
        }
        assert!(!dir.path().join("inbox.corrupt-1").exists());
    }

    #[test]
    fn damage_in_the_middle_sets_the_file_aside_and_keeps_the_whole_lines() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("inbox");
        Inbox::open(&path).expect("opened").append(vec![message("a"), message("b")]).expect("kept");
        let text = std::fs::read_to_string(&path).expect("read");
        std::fs::write(&path, text.replacen("\"id\":\"a\"", "\"id\":\u{1}a", 1)).expect("damaged");
        let inbox = Inbox::open(&path).expect("reopened");
        assert_eq!(ids(&inbox), ["b"]);
        assert!(dir.path().join("inbox.corrupt-1").exists());
    }

    #[test]
    fn a_full_inbox_takes_nothing_so_that_nothing_is_acknowledged() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut inbox = Inbox::open(&dir.path().join("inbox")).expect("opened");
        inbox.append((0..MAX_PENDING).map(|n| message(&n.to_string())).collect()).expect("kept");
        assert!(matches!(inbox.append(vec![message("more")]), Err(InboxError::Full)));
        inbox.ack(&["0".into()]).expect("acked");
        assert_eq!(inbox.append(vec![message("more")]).expect("kept").len(), 1);
    }
}
